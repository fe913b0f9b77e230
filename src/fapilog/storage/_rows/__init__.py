"""The parts of the storages in a database: their table, and how it is read."""
