"""
Applies retention to a trail, as a job of the night does.

    python retaining_trail.py DIRECTORY ARCHIVE

ARCHIVE is a directory, or an address in S3. Prints "done" at the end, or "refused" with the reason.
"""

import sys
from pathlib import Path

from fapilog import AuditStorageError, AuditTrail, CompliancePolicy


def main(directory: Path, archive: str) -> None:
    """Apply it, and say what became of it."""
    trail = AuditTrail(CompliancePolicy(retention_days=30, archive_after_days=10), directory)
    try:
        trail.sync.apply_retention(archive=archive)
    except AuditStorageError as error:
        print("refused", error, flush=True)  # noqa: T201
    else:
        print("done", flush=True)  # noqa: T201
    trail.sync.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
