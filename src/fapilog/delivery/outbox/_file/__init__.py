"""The place of an outbox in a file of SQLite."""
