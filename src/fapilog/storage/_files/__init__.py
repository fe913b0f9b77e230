"""
The files of a trail: written, read, searched, verified and mended.

- The directory: `names` are those of its files, `directory` opens files, `compressed` days too; `locking` has its lock,
  and `access` says who may read and write there.
- Written: `writer` appends. It knows the `end` of the trail and the ids of its newest records (`recent`), sets an
  incomplete record aside (`torn`), writes again what was not synced (`unsynced`), and takes room first (`reserving`).
- Read: `lines` of one file, their `places` and numbers, all files as `days`; the `reader` is asked. `needles` and
  `times` skip what is not wanted. A long `search` goes to another process (`searchers`, `searchprogram`); `effort`
  ends it.
- Verified: `verifying` undoes `conversions`. `recovering` seals damage, and `care` looks for what is missing.
"""
