"""A file system that is mounted over a running trail, or over a directory above it, gets nothing of the trail."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fapilog import AuditEvent, AuditEventType, AuditStorageError, ChainStatus, FileStorage
from fapilog.record import chain
from tests.doubles.file_systems import mounted, read_only
from tests.doubles.trail_files import TrailFiles

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
BODY = chain.body(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m"))


def append(trail: TrailFiles) -> chain.Seal:
    """Append as a `FileStorage` does."""
    return trail.append_at_once(BODY) or trail.append([BODY])[0]


@pytest.mark.parametrize("durable", [True, False], ids=["fsync", "write"])
@pytest.mark.parametrize("over", [lambda path: path, lambda path: path.parent], ids=["it", "the one above"])
def test_nothing_is_written_to_what_is_mounted_over(
    tmp_path: Path, over: Callable[[Path], Path], *, durable: bool
) -> None:
    """Appends are refused, leave nothing there, and keep nothing busy; below, the trail goes on after an unmount."""
    trail = TrailFiles(tmp_path / "above" / "audit", durable=durable, now=lambda: NOON)
    append(trail)
    for _ in range(2):
        # Unmounting succeeds at once, or the test fails.
        with mounted(over(trail.directory), "1m"):
            for _ in range(3):
                with pytest.raises(AuditStorageError, match=r"replaced by another|is gone|No such file"):
                    append(trail)
            assert list(over(trail.directory).iterdir()) == []
        append(trail)
        append(trail)
    assert (trail.verify().status, trail.verify().events_checked) == (ChainStatus.OK, 5)
    trail.close()


def test_a_volume_can_be_unmounted_when_the_trail_is_closed(tmp_path: Path) -> None:
    """A trail on a volume keeps it busy while it is open, and not when it is closed."""
    with mounted(tmp_path, "1m"):
        trail = TrailFiles(tmp_path / "audit", durable=True, now=lambda: NOON)
        append(trail)
        trail.close()


async def test_a_read_only_file_system_is_called_so(tmp_path: Path) -> None:
    """Where nothing can be written since the file system is read-only, no user and no mode is blamed for it."""
    with mounted(tmp_path, "1m"):
        (tmp_path / "audit").mkdir()
        with read_only(tmp_path):
            for name in ("audit", "to be made"):
                found = await FileStorage(tmp_path / name).trouble()
                assert found is not None
                assert found.endswith(": its file system is read-only")
