"""
The parts of retention and of an archive: a day that is over is compressed, archived, removed, and read there.

- `day` takes the steps with its file, and writes the anchor of the days that were removed. `latest` is the time up to
  which a compressed day, and those before it, have records.
- `reader` reads an archive, and verifies it; `together` verifies it with the trail that it is of.
- `addresses` makes the archive that an option names.
"""
