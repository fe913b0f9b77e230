"""Files that a well-meaning tool has rewritten: the verdict says so, and whether the records are whole once undone."""

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which

import pytest

from fapilog import AuditEventType, AuditTrail, ChainStatus, FileStorage
from fapilog.storage._files import conversions

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def written(directory: Path) -> list[Path]:
    """Write three records on each of three days."""
    for day in range(3):
        trail = AuditTrail(
            storage=FileStorage(directory, durability="write", now=lambda: NOON + timedelta(days=day))  # noqa: B023
        )
        for number in range(3):
            trail.sync.log_event(AuditEventType.DATA_ACCESS, f"{number} \u00e9\u2028", metadata={"count": number + 0.5})
    return sorted(directory.glob("audit_*.jsonl"))


def spaced(data: bytes, **options: int) -> bytes:
    """Return *data* as Python writes it."""
    return b"".join(json.dumps(json.loads(line), **options).encode() + b"\n" for line in data.splitlines())  # type: ignore[arg-type]


CONVERSIONS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "CR LF": (lambda data: data.replace(b"\n", b"\r\n"), "its lines end in CR LF"),
    "mark": (lambda data: b"\xef\xbb\xbf" + data, "it begins with a byte order mark"),
    "UTF-16": (lambda data: data.decode().encode("utf-16"), "it is in UTF-16"),
    "UTF-16 without a mark": (lambda data: data.decode().encode("utf-16-be"), "it is in UTF-16"),
    "UTF-16 and CR LF": (
        lambda data: data.decode().replace("\n", "\r\n").encode("utf-16"),
        "it is in UTF-16, its lines end in CR LF",
    ),
    "blank lines": (lambda data: data.replace(b"\n", b"\n\n"), "it has blank lines"),
    "a blank first line": (lambda data: b"\n" + data, "it has blank lines"),
    "no last newline": (lambda data: data[:-1], "its last newline is missing"),
    "spaces": (spaced, "its records were written anew by another program"),
    "objects over many lines": (
        lambda data: spaced(data, indent=2),
        "its records were written anew by another program",
    ),
}


@pytest.mark.parametrize("day", [0, 1])
@pytest.mark.parametrize(("convert", "words"), CONVERSIONS.values(), ids=list(CONVERSIONS))
def test_a_converted_file_is_told_from_a_damaged_one(
    tmp_path: Path, convert: Callable[[bytes], bytes], words: str, day: int
) -> None:
    """The verdict names what happened, and that the records are whole once it is undone; it is not valid."""
    file = written(tmp_path)[day]
    data = file.read_bytes()
    file.write_bytes(convert(data))
    trail = AuditTrail(storage_path=tmp_path)
    verdict = trail.sync.verify_chain_from_storage()
    assert (verdict.valid, verdict.status) == (False, ChainStatus.CONVERTED)
    assert (verdict.events_checked, verdict.first_invalid_sequence) == (9, 3 * day + 1)
    assert verdict.error_message == f"{file.name} was converted: {words}; undone, its records are intact"
    file.write_bytes(convert(data.replace(b'"count":1.5', b'"count":2.5')))
    verdict = trail.sync.verify_chain_from_storage()
    assert verdict.status not in (ChainStatus.CONVERTED, ChainStatus.OK)
    if "another program" not in words and "newline" not in words:
        assert str(verdict.error_message).endswith(f"; {file.name} was converted: {words}; its records are not intact")
    file.write_bytes(data)
    assert trail.sync.verify_chain_from_storage().status is ChainStatus.OK


def test_several_converted_files_are_all_named(tmp_path: Path) -> None:
    """A verdict names every file that was converted, and the damage that comes after them."""
    files = written(tmp_path)
    for file in files[:2]:
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    trail = AuditTrail(storage_path=tmp_path)
    verdict = trail.sync.verify_chain_from_storage()
    assert verdict.status is ChainStatus.CONVERTED
    assert all(file.name in str(verdict.error_message) for file in files[:2])
    files[2].write_bytes(files[2].read_bytes().replace(b'"count":0', b'"count":9'))
    verdict = trail.sync.verify_chain_from_storage()
    assert (verdict.status, verdict.first_invalid_sequence) == (ChainStatus.ALTERED, 1)
    assert str(verdict.error_message).startswith(f"{files[2].name}, line 1: record 7 was altered")


@pytest.mark.skipif(which("jq") is None, reason="needs jq")
@pytest.mark.parametrize("options", [["-c"], [], ["-S", "-c"]])
def test_what_jq_has_written(tmp_path: Path, options: list[str]) -> None:
    """A file that went through jq has its records whole once that is undone."""
    file = written(tmp_path)[0]
    jq = which("jq") or "jq"
    done = subprocess.run([jq, *options, ".", file], capture_output=True, check=True)
    if done.stdout != file.read_bytes():
        file.write_bytes(done.stdout)
        assert AuditTrail(storage_path=tmp_path).sync.verify_chain_from_storage().status is ChainStatus.CONVERTED


def test_a_record_is_not_spread_over_any_number_of_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that is longer than one can be, for the blank lines in it, is damage, and is not put together."""
    file = written(tmp_path)[0]
    first, *others = file.read_bytes().splitlines(keepends=True)
    spread = json.dumps(json.loads(first), indent=1).encode()
    monkeypatch.setattr(conversions, "MAX_RECORD_BYTES", len(spread))
    for blank, status in ((1, ChainStatus.CONVERTED), (2 * len(spread), ChainStatus.UNREADABLE)):
        file.write_bytes(spread.replace(b"\n", b"\n" + b"\n" * blank, 1) + b"\n" + b"".join(others))
        assert AuditTrail(storage_path=tmp_path).sync.verify_chain_from_storage().status is status
