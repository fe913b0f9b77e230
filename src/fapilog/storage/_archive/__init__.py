"""The parts of retention and of an archive: a day that is over is compressed, archived, removed, and read there."""
