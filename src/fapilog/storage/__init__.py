"""
Where records are kept.

`protocol` says what a storage is, and how it is asked. All storages share `_anchor` (the front that retention has
removed), `_holes` (events, and what can't be read between them), `_verdicts`, `_room`, `closing` and `copying`; and for
files of any kind `_regular`, which opens them, and `_whole`, which makes them.

- In files: `files` is the storage, `_files` has its parts; `_copier` takes the records of another storage.
- In the rows of a database: `sqlite`, with its file in `_sqlitetrail`, and `postgres`; `_rows` has what these share.
  `sqlitefile` is for any file of SQLite, also that of an outbox.
- In memory: `memory`. Of the earlier fapilog, to be read: `earlier`.
- Old days of files: `retention` compresses, archives and removes them, but for `holds`. `archive` keeps them, in a
  directory or in `s3`; `archived` reads them there. `_archive` has the parts.
- `replication` copies a trail in files as it grows; `_replica` is how far it is.
"""
