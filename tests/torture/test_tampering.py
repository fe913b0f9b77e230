"""
Every way to change a small trail behind fapilog's back: each is reported, at the record where the change begins.

What a bare chain can't see is named here one by one: it looks as if the rest had never been written, or as if it were
the last record that was.
"""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapilog.core.audit import AuditChainVerificationResult, AuditEvent, AuditEventType, AuditTrail, ChainStatus
from fapilog.record import chain
from fapilog.record.errors import AuditStorageError
from tests.doubles.trail_files import TrailFiles

FIRST_DAY = "audit_2026-01-30.jsonl"
SECOND_DAY = "audit_2026-01-31.jsonl"
RECORDS = 5
PLACE = re.compile(r"(audit_2026-01-3[01]\.jsonl), line (\d): ")

# The names of the files, each with what is in it.
Trail = dict[str, bytes]


def make_trail(directory: Path, message: str) -> Trail:
    """Store three events on one day and two on the next."""
    for day, count in ((30, 3), (31, 2)):
        noon = datetime(2026, 1, day, 12, tzinfo=UTC)
        files = TrailFiles(directory, durable=False, now=lambda: noon)  # noqa: B023
        event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message=message, timestamp=noon)
        files.append([chain.body(msgspec.structs.replace(event, component=str(number))) for number in range(count)])
        files.close()
    return contents(directory)


def contents(directory: Path) -> Trail:
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*.jsonl"))}


def lines(trail: Trail) -> list[bytes]:
    """Return the records in the order of the files, each with its newline if it has one."""
    return [line for _, data in sorted(trail.items()) for line in data.splitlines(keepends=True)]


def with_lines(lines: Sequence[bytes]) -> Trail:
    """Return a trail of *lines*, as evenly spread over the days as in the original."""
    return {FIRST_DAY: b"".join(lines[:3]), SECOND_DAY: b"".join(lines[3:])}


def events(trail: Trail) -> list[AuditEvent] | None:
    """Return the events of *trail*; None if it was changed in a way that no events in memory can be."""
    try:
        found = [msgspec.json.decode(line, type=AuditEvent) for line in lines(trail)]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    stored = [chain.seal(chain.body(event), event.sequence_number or 0, event.previous_hash)[0] for event in found]
    return found if stored == lines(trail) else None


def rehashed(line: bytes) -> bytes:
    """Return *line* with the checksum that it should have."""
    sealed = line.rpartition(b',"checksum":"')[0]
    return b'%b,"checksum":"%b"}\n' % (sealed, sha256(sealed + b"}").hexdigest().encode())


class Bench:
    """Where one tampered trail after the other is laid down, for a verifier and a writer to look at."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def lay(self, trail: Trail) -> TrailFiles:
        for path in self.directory.iterdir():
            if path.name not in trail:
                path.unlink()
        for name, data in trail.items():
            # Not emptied first: ext4 would flush a file that replaces its contents, each time.
            fd = os.open(self.directory / name, os.O_WRONLY | os.O_CREAT, 0o600)
            os.pwrite(fd, data, 0)
            os.ftruncate(fd, len(data))
            os.close(fd)
        return TrailFiles(self.directory, durable=False, now=lambda: datetime(2026, 1, 31, 13, tzinfo=UTC))

    def reports(self, trail: Trail, *, at: int) -> AuditChainVerificationResult:
        """Expect that record *at* is reported, here and in memory, and that no writer appends."""
        files = self.lay(trail)
        result = files.verify()
        assert not result.valid
        assert result.error_message is not None
        with pytest.raises(AuditStorageError) as refusal:
            files.append([b'{"v":2,"message":"new"'])
        files.close()
        if result.status is ChainStatus.CONVERTED:
            # A line end or a space that came in between: the records of that file, named by its first, are whole
            # without it, and all are looked at.
            assert result.first_invalid_sequence in {1, 4}
            assert result.events_checked == RECORDS
        else:
            assert (result.first_invalid_sequence, result.events_checked) == (at, at)
            assert result.status in {
                ChainStatus.ALTERED,
                ChainStatus.BROKEN_LINK,
                ChainStatus.GAP,
                ChainStatus.UNREADABLE,
            }
            assert PLACE.match(result.error_message)
            assert result.error_message.partition("; ")[0] in str(refusal.value)
        assert contents(self.directory) == trail
        if (in_memory := events(trail)) is not None:
            verdict = AuditTrail.verify_chain(in_memory)
            assert (verdict.valid, verdict.status) == (False, result.status)
            assert (verdict.first_invalid_sequence, verdict.events_checked) == (at, at)
        return result

    def cannot_see(self, trail: Trail, *, left: int, status: ChainStatus = ChainStatus.OK) -> None:
        """Expect that *trail* is taken for one of *left* records, and that a writer goes on after these."""
        files = self.lay(trail)
        result = files.verify()
        assert (result.valid, result.events_checked, result.status) == (True, left, status)
        (seal,) = files.append([b'{"v":2,"message":"new"'])
        files.close()
        assert seal.sequence_number == left + 1
        assert files.verify().valid


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Trail:
    """An intact trail: three records on the first day, two on the second."""
    return make_trail(tmp_path_factory.mktemp("intact") / "trail", "m")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def places(trail: Trail) -> Iterator[tuple[str, int, int]]:
    """Yield the place of each byte: the file, the offset, and the number of the record that it is part of."""
    for name, before in ((FIRST_DAY, 0), (SECOND_DAY, 3)):
        data = trail[name]
        for offset in range(len(data)):
            yield name, offset, before + data.count(b"\n", 0, offset) + 1


# -- each byte


def test_the_trail_is_intact(bench: Bench, trail: Trail) -> None:
    """Untouched, the trail verifies, in files and in memory, and a writer goes on."""
    in_memory = events(trail)
    assert in_memory is not None
    assert AuditTrail.verify_chain(in_memory) == AuditChainVerificationResult(valid=True, events_checked=RECORDS)
    bench.cannot_see(trail, left=RECORDS)


@pytest.mark.parametrize("bit", range(8))
def test_each_flipped_bit_is_reported(bench: Bench, trail: Trail, bit: int) -> None:
    """Each bit of each byte, flipped, is reported at its record and line, and stops every writer."""
    for name, offset, record in places(trail):
        data = bytearray(trail[name])
        data[offset] ^= 1 << bit
        result = bench.reports({**trail, name: bytes(data)}, at=record)
        assert result.error_message is not None
        line = record if name == FIRST_DAY else record - 3
        assert result.error_message.startswith((f"{name}, line {line}: ", f"{name} was converted: "))


def test_each_removed_byte_is_reported(bench: Bench, trail: Trail) -> None:
    """Each byte, removed, is reported at its record; only without its very last newline a trail is as good as whole."""
    *places_before, (last_name, last_offset, last_record) = places(trail)
    for name, offset, record in places_before:
        data = trail[name]
        bench.reports({**trail, name: data[:offset] + data[offset + 1 :]}, at=record)
    bench.cannot_see({**trail, last_name: trail[last_name][:last_offset]}, left=last_record)


@pytest.mark.parametrize("inserted", [b"\n", b"\r", b" ", b"\0"], ids=["newline", "return", "space", "zero"])
def test_each_inserted_byte_is_reported(bench: Bench, trail: Trail, inserted: bytes) -> None:
    """A byte that is inserted anywhere is reported at the record that it is in, or that it stands before."""
    for name, offset, record in places(trail):
        data = trail[name]
        ended = inserted == data[offset : offset + 1] == b"\n"
        bench.reports({**trail, name: data[:offset] + inserted + data[offset:]}, at=record + ended)


def test_other_line_ends_are_reported(bench: Bench, trail: Trail) -> None:
    """Line ends of another system are reported, in one line, in one file or everywhere."""
    for chosen in range(1, 1 << RECORDS):
        changed = [
            line.replace(b"\n", b"\r\n") if chosen & 1 << number else line for number, line in enumerate(lines(trail))
        ]
        first = (chosen & -chosen).bit_length()
        bench.reports(with_lines(changed), at=first)


@pytest.mark.parametrize("name", [FIRST_DAY, SECOND_DAY])
@pytest.mark.parametrize("garbage", [b"\n", b"x\n", b"{}\n", b'{"v":2}\n', b"\0\n", b"\xff\n"], ids=repr)
def test_garbage_lines_are_reported(bench: Bench, trail: Trail, name: str, garbage: bytes) -> None:
    """A line that is no record is reported at the end of a file as everywhere."""
    bench.reports({**trail, name: trail[name] + garbage}, at=4 if name == FIRST_DAY else 6)


def test_half_a_line_at_the_very_end_is_what_a_crash_leaves(bench: Bench, trail: Trail) -> None:
    """Bytes that no newline ends are reported behind a finished day; at the very end a crash may have left them."""
    for garbage in (b"x", b"\0", b'{"v":2,', lines(trail)[1][:-1] + b" "):
        bench.reports({**trail, FIRST_DAY: trail[FIRST_DAY] + garbage}, at=4)
    for garbage in (b"x", b"\0", b'{"v":2,'):
        bench.cannot_see({**trail, SECOND_DAY: trail[SECOND_DAY] + garbage}, left=RECORDS, status=ChainStatus.TORN_TAIL)
    # No crash leaves a whole record and something behind it, nor a whole record that belongs elsewhere.
    whole = [line.removesuffix(b"\n") for line in lines(trail)]
    for garbage in (*whole, whole[-1] + b" ", whole[0] + b"x"):
        bench.reports({**trail, SECOND_DAY: trail[SECOND_DAY] + garbage}, at=RECORDS + 1)


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"], ids=["no newline", "newline", "newlines"])
def test_more_than_a_record_can_be_is_reported(bench: Bench, trail: Trail, end: bytes) -> None:
    """What is longer than any record was not left by a crash, newline or not; a reader does not take all of it in."""
    result = bench.reports({**trail, SECOND_DAY: trail[SECOND_DAY] + b"x" * (3 << 20) + end}, at=RECORDS + 1)
    assert result.status is ChainStatus.UNREADABLE


# -- each record


def orders() -> Iterator[tuple[int, ...]]:
    """Yield what can be left of the records 0 to 4, and in which order."""
    everything = range(RECORDS)
    yield from itertools.permutations(everything)
    for count in range(RECORDS):
        yield from itertools.combinations(everything, count)
    for doubled, position in itertools.product(everything, range(RECORDS + 1)):
        yield (*everything[:position], doubled, *everything[position:])


def test_records_out_of_place_are_reported(bench: Bench, trail: Trail) -> None:
    """Records that are removed, in another order, or there twice are reported, unless the first ones alone are left."""
    original = lines(trail)
    for order in set(orders()):
        tampered = with_lines([original[index] for index in order])
        wrong = [place for place, index in enumerate(order) if place != index]
        if wrong:
            result = bench.reports(tampered, at=wrong[0] + 1)
            assert result.status is ChainStatus.GAP
        else:
            # As if the others had never been written.
            bench.cannot_see(tampered, left=len(order))


EDITS = {
    "message": (b'"message":"m"', b'"message":"n"'),
    "user": (b',"compliance_level":', b',"user_id":"eve","compliance_level":'),
    "member": (b'{"v":2,', b'{"v":2,"more":1,'),
    "metadata": (b',"compliance_level":', b',"metadata":{"a":[1,2]},"compliance_level":'),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_record_edited_and_hashed_again_is_reported(bench: Bench, trail: Trail, edit: tuple[bytes, bytes]) -> None:
    """An edited record is reported; with a checksum of its own, by the next one, so of the very last it is not."""
    for number, line in enumerate(lines(trail), 1):
        edited = line.replace(*edit)
        assert edited != line
        tampered = [*lines(trail)[: number - 1], edited, *lines(trail)[number:]]
        assert bench.reports(with_lines(tampered), at=number).status is ChainStatus.ALTERED
        tampered[number - 1] = rehashed(edited)
        if number < RECORDS:
            assert bench.reports(with_lines(tampered), at=number + 1).status is ChainStatus.BROKEN_LINK
        else:
            # As if the last had been cut off, and this one appended.
            bench.cannot_see(with_lines(tampered), left=RECORDS)


def test_a_place_edited_and_hashed_again_is_reported(bench: Bench, trail: Trail) -> None:
    """A record with another format, sequence number or previous hash is reported, though its checksum is right."""
    for number, line in enumerate(lines(trail), 1):
        for pattern, other, status in (
            (rb'"sequence_number":\d', b'"sequence_number":7', ChainStatus.GAP),
            (rb'"sequence_number":\d', b'"sequence_number":0', ChainStatus.UNREADABLE),
            (rb'"sequence_number":\d', b'"sequence_number":0%d' % number, ChainStatus.UNREADABLE),
            (rb'"previous_hash":("[^"]*"|null)', b'"previous_hash":"%b"' % (b"0" * 64), ChainStatus.BROKEN_LINK),
            (rb'^{"v":2,', b'{"v":0,', ChainStatus.UNREADABLE),
            (rb'^{"v":2,', b'{ "v":2,', ChainStatus.UNREADABLE),
        ):
            edited = rehashed(re.sub(pattern, other, line))
            tampered = [*lines(trail)[: number - 1], edited, *lines(trail)[number:]]
            assert bench.reports(with_lines(tampered), at=number).status is status
    for number, line in enumerate(lines(trail)[1:], 2):
        edited = rehashed(re.sub(rb'"previous_hash":"[^"]*"', b'"previous_hash":null', line))
        tampered = [*lines(trail)[: number - 1], edited, *lines(trail)[number:]]
        assert bench.reports(with_lines(tampered), at=number).status is ChainStatus.BROKEN_LINK


def test_records_of_another_trail_are_reported(
    bench: Bench, trail: Trail, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A record of another trail with the same number is reported: by itself, or by the one behind it."""
    other = lines(make_trail(tmp_path_factory.mktemp("other") / "trail", "other"))
    for number in range(1, RECORDS + 1):
        tampered = [*lines(trail)[: number - 1], other[number - 1], *lines(trail)[number:]]
        at = 2 if number == 1 else number
        assert bench.reports(with_lines(tampered), at=at).status is ChainStatus.BROKEN_LINK
        spliced = [*lines(trail)[:number], *other[number:]]
        if number < RECORDS:
            assert bench.reports(with_lines(spliced), at=number + 1).status is ChainStatus.BROKEN_LINK


# -- each file


def test_files_out_of_place_are_reported(bench: Bench, trail: Trail) -> None:
    """A file that is removed, emptied or swapped with another is reported, unless nothing is left behind it."""
    first, second = trail[FIRST_DAY], trail[SECOND_DAY]
    for tampered in (
        {SECOND_DAY: second},
        {FIRST_DAY: b"", SECOND_DAY: second},
        {FIRST_DAY: second, SECOND_DAY: first},
        {FIRST_DAY: second, SECOND_DAY: second},
    ):
        assert bench.reports(tampered, at=1).status is ChainStatus.GAP
    assert bench.reports({FIRST_DAY: first, SECOND_DAY: first}, at=4).status is ChainStatus.GAP
    # As if nothing had been written on the second day.
    bench.cannot_see({FIRST_DAY: first}, left=3)
    bench.cannot_see({FIRST_DAY: first, SECOND_DAY: b""}, left=3)


def test_each_line_moved_to_the_other_file_is_reported(bench: Bench, trail: Trail) -> None:
    """A line that is moved to the other file is reported, wherever it is put, if that changes the order."""
    first, second = trail[FIRST_DAY].splitlines(keepends=True), trail[SECOND_DAY].splitlines(keepends=True)
    original = lines(trail)
    for source, target, names in ((first, second, (FIRST_DAY, SECOND_DAY)), (second, first, (SECOND_DAY, FIRST_DAY))):
        for taken, put in itertools.product(range(len(source)), range(len(target) + 1)):
            tampered = {
                names[0]: b"".join(source[:taken] + source[taken + 1 :]),
                names[1]: b"".join([*target[:put], source[taken], *target[put:]]),
            }
            wrong = [number for number, line in enumerate(lines(tampered), 1) if line != original[number - 1]]
            if wrong:
                assert bench.reports(tampered, at=wrong[0]).status is ChainStatus.GAP
            else:
                # The records are all there, as they were and in order; a file's name is no part of them.
                bench.cannot_see(tampered, left=RECORDS)


# -- all at once


@pytest.mark.real_time
async def test_the_trail_says_so_too(bench: Bench, trail: Trail) -> None:
    """What is reported of the files, the trail reports as well, and it stores nothing behind it."""
    tampered = {**trail, FIRST_DAY: trail[FIRST_DAY].replace(b'"message":"m"', b'"message":"n"', 1)}
    expected = bench.reports(tampered, at=1)
    async with AuditTrail(storage_path=bench.directory) as audit:
        assert await audit.verify_chain_from_storage() == expected
        with pytest.raises(AuditStorageError, match=PLACE):
            await audit.log_event(AuditEventType.DATA_ACCESS, "new")
    # Beside the records it keeps the incident, which is still open.
    records = {name: data for name, data in contents(bench.directory).items() if name.endswith(".jsonl")}
    assert records == tampered


@st.composite
def splices(draw: st.DrawFn) -> tuple[float, int, bytes | float]:
    """Draw where to cut something out, how much, and what to put there: bytes, or a copy from elsewhere."""
    place = st.floats(0, 1, exclude_max=True)
    put = st.one_of(st.just(b""), st.sampled_from([b"\n", b"\0", b"}", b'"']), st.binary(max_size=8), place)
    return draw(place), draw(st.integers(0, 700)), draw(put)


@given(changes=st.lists(splices(), min_size=1, max_size=4))
def test_nothing_but_a_cut_is_valid(trail: Trail, changes: list[tuple[float, int, bytes | float]]) -> None:
    """However a trail was changed, it is valid only if its lines are the first of the original; else writers stop."""
    data = original = b"".join(lines(trail))
    for place, length, put in changes:
        at = int(place * len(data))
        new = put if isinstance(put, bytes) else original[int(put * len(original)) :][:length]
        data = data[:at] + new + data[at + length :]
    with TemporaryDirectory() as directory:
        files = Bench(Path(directory)).lay({FIRST_DAY: data})
        result = files.verify()
        if result.valid:
            whole = data[: data.rfind(b"\n") + 1]
            assert original.startswith(whole)
            assert result.events_checked - whole.count(b"\n") in (0, 1)
            (seal,) = files.append([b'{"v":2,"message":"new"'])
            assert seal.sequence_number == result.events_checked + 1
        else:
            with pytest.raises(AuditStorageError, match=PLACE):
                files.append([b'{"v":2,"message":"new"'])
        files.close()
