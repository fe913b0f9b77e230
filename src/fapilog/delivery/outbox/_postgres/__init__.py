"""The place of an outbox in PostgreSQL."""
