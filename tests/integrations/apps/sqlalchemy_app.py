"""A script with a database, whose changes are recorded when they are committed."""

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from fapilog import AuditTrail
from fapilog.context import audit_context
from fapilog.integrations.sqlalchemy import audit_changes

trail = AuditTrail(storage_path="audit")
Session = sessionmaker(create_engine("sqlite:///clinic.db"))
audit_changes(Session, trail)


class Base(DeclarativeBase):
    """The base of the mapped classes."""


class Patient(Base):
    """A patient."""

    __tablename__ = "patient"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    ward: Mapped[str | None]
    portal_password: Mapped[str | None]


def main() -> None:
    """Admit a patient, and move the patient to another ward."""
    Base.metadata.create_all(Session.kw["bind"])
    with audit_context(user_id="dr-who"), Session.begin() as session:
        session.add(Patient(name="Jo", ward="Surgery", portal_password="s3cret"))
    with audit_context(user_id="dr-no"), Session.begin() as session:
        session.query(Patient).one().ward = "Oncology"


if __name__ == "__main__":
    main()
