"""
The chain in PostgreSQL, for services on many machines.

    from fapilog.storage.postgres import PostgresStorage, install_schema

    install_schema("postgresql://admin@db.example/audit")  # once, or `fapilog storage init`
    trail = AuditTrail(storage=PostgresStorage("postgresql://service@db.example/audit", trail="clinic"))

It needs psycopg, which comes with the extra ``postgres``.
"""

from ..._extras import needs

with needs("postgres"):
    from ._schema import install_schema, schema_sql
    from ._storage import PostgresStorage

__all__ = ["PostgresStorage", "install_schema", "schema_sql"]
