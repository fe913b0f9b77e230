"""An archive in S3: what is uploaded, what is proved before anything is deleted, and what each fault leads to."""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import hashlib
import itertools
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("boto3")
pytest.importorskip("moto")

import anyio
import anyio.to_thread
import boto3

from fapilog import (
    ArchiveStorage,
    AuditEventType,
    AuditStorageError,
    AuditTrail,
    ChainStatus,
    CompliancePolicy,
    Outbox,
    S3Archive,
)
from fapilog.storage._archive.addresses import require_archive
from fapilog.storage.archive import PackedFile
from fapilog.storage.holds import add_hold, remove_hold
from fapilog.storage.protocol import EventFilter
from fapilog.testing import RecordingDispatcher
from tests.doubles.aged_trails import aged_trail, day_file, today
from tests.doubles.s3 import ACCESS_KEY, S3, SECRET_KEY, Fault, Hanging, bucket_of, s3_server
from tests.doubles.trail_files import TrailFiles

pytestmark = pytest.mark.real_time

CONTENT = b'{"v":2,"message":"Mrs Roe was seen"}\n' * 99
_buckets = map("bucket-{}".format, itertools.count())


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """S3, of which nothing is known yet, and pauses that take no time."""
    monkeypatch.setattr("fapilog.storage.s3.sleep", lambda _: None)
    server.requests.clear()
    server.faults.clear()
    return server


@pytest.fixture
def bucket(s3: S3) -> str:
    return bucket_of(s3, next(_buckets))


@pytest.fixture
def archive(s3: S3, bucket: str) -> S3Archive:
    return S3Archive(bucket, prefix="clinic", client=s3.client)


def packed(
    directory: Path, content: bytes = CONTENT, *, age: int = 100, retention_days: int | None = 400
) -> PackedFile:
    path = directory / f"{day_file(age)}.gz"
    path.write_bytes(gzip.compress(CONTENT, mtime=0))
    data = path.read_bytes()
    return PackedFile(
        path=path,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        content=hashlib.sha256(CONTENT).hexdigest(),
        day=today() - timedelta(age),
        retention_days=retention_days,
    )


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def b64(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest)).decode()


def lock_of(s3: S3, bucket: str, file: PackedFile) -> tuple[str, datetime]:
    found = s3.client.head_object(Bucket=bucket, Key=f"clinic/{file.path.name}")
    return found["ObjectLockMode"], found["ObjectLockRetainUntilDate"]


def test_a_day_is_uploaded_once_and_proved(s3: S3, bucket: str, archive: S3Archive, tmp_path: Path) -> None:
    """A day goes in one request that carries condition, checksum and lock; S3 is asked anew for the proof."""
    file = packed(tmp_path)
    archive.put(file)
    archive.prove(file)
    put, head = s3.requests[:2]
    assert (put.method, put.path) == ("PUT", f"/{bucket}/clinic/{file.path.name}")
    assert put.body == file.path.read_bytes()
    # https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html
    assert put.headers["if-none-match"] == "*"
    assert put.headers["x-amz-checksum-sha256"] == b64(file.sha256)
    assert put.headers["x-amz-object-lock-mode"] == "COMPLIANCE"
    until = midnight(file.day) + timedelta(401)
    assert put.headers["x-amz-object-lock-retain-until-date"] == f"{until:%Y-%m-%dT%H:%M:%SZ}"
    assert (head.method, head.headers["x-amz-checksum-mode"]) == ("HEAD", "ENABLED")
    assert lock_of(s3, bucket, file) == ("COMPLIANCE", until)
    assert archive.sizes() == {file.path.name: file.size}
    with archive.open(file.path.name) as found:
        assert gzip.decompress(found.read()) == CONTENT


def test_a_day_that_is_there(s3: S3, bucket: str, archive: S3Archive, tmp_path: Path) -> None:
    """A day that was uploaded before, or whose answer was lost, is there (412), and proves to be the same."""
    file = packed(tmp_path)
    s3.faults.append(Fault("PUT", lost=True))
    archive.put(file)
    assert len(s3.sent("PUT")) == 2
    archive.prove(file)
    archive.put(file)
    archive.prove(file)
    assert len(s3.client.list_object_versions(Bucket=bucket)["Versions"]) == 1


def test_the_same_day_compressed_otherwise(s3: S3, archive: S3Archive, tmp_path: Path) -> None:
    """A day that another version of zlib has compressed is read back, and proves to be the same."""
    file = packed(tmp_path)
    archive.put(file)
    file.path.write_bytes(gzip.compress(CONTENT, 1, mtime=7))
    data = file.path.read_bytes()
    other = PackedFile(
        path=file.path,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        content=file.content,
        day=file.day,
        retention_days=400,
    )
    archive.put(other)
    archive.prove(other)
    assert s3.sent("GET")


@pytest.mark.parametrize(
    "there",
    [b"", b"x", gzip.compress(b"{}"), gzip.compress(CONTENT)[:-9]],
    ids=["empty", "garbage", "something else", "cut"],
)
def test_something_else_of_that_name(s3: S3, bucket: str, archive: S3Archive, tmp_path: Path, there: bytes) -> None:
    """What has the name of the day, and is something else, is no proof, and is left as it is."""
    file = packed(tmp_path)
    s3.client.put_object(Bucket=bucket, Key=f"clinic/{file.path.name}", Body=there)
    archive.put(file)
    with pytest.raises(AuditStorageError, match="read back, it differs from the trail"):
        archive.prove(file)
    with archive.open(file.path.name) as found:
        assert found.read() == there


def test_an_object_without_a_checksum(s3: S3, bucket: str, archive: S3Archive, tmp_path: Path) -> None:
    """A day that somebody else has uploaded, without a SHA-256, is read back, and is locked then."""
    file = packed(tmp_path)
    s3.client.put_object(Bucket=bucket, Key=f"clinic/{file.path.name}", Body=file.path.read_bytes())
    archive.put(file)
    archive.prove(file)
    assert lock_of(s3, bucket, file) == ("COMPLIANCE", midnight(file.day) + timedelta(401))


def test_nothing_there(archive: S3Archive, tmp_path: Path) -> None:
    """A day that is not there is no proof, and can't be opened."""
    file = packed(tmp_path)
    with pytest.raises(AuditStorageError, match=r"there is no such object \(404, HTTP 404\)"):
        archive.prove(file)
    with pytest.raises(AuditStorageError, match="there is no such object"):
        archive.open(file.path.name)


# -- the lock


def test_a_lock_is_extended(s3: S3, bucket: str, archive: S3Archive, tmp_path: Path) -> None:
    """A lock that is shorter than the policy asks now is extended, and one that is longer is left."""
    file = packed(tmp_path)
    archive.put(file)
    longer = packed(tmp_path, retention_days=800)
    archive.prove(longer)
    assert lock_of(s3, bucket, file)[1] == midnight(file.day) + timedelta(801)
    archive.prove(file)
    assert lock_of(s3, bucket, file)[1] == midnight(file.day) + timedelta(801)


def test_a_lock_of_its_own(s3: S3, bucket: str, tmp_path: Path) -> None:
    """With *lock_days* the policy does not say how long a day is locked, also if it says nothing."""
    file = packed(tmp_path, retention_days=None)
    archive = S3Archive(bucket, prefix="clinic/", lock_days=2190, endpoint=s3.url)
    archive.put(file)
    archive.prove(file)
    assert lock_of(s3, bucket, file)[1] == midnight(file.day) + timedelta(2191)


def test_a_day_that_is_older_than_its_lock(s3: S3, bucket: str, archive: S3Archive, tmp_path: Path) -> None:
    """A day whose lock would have ended is locked for another day, since S3 takes only a date to come."""
    file = packed(tmp_path, retention_days=30)
    archive.put(file)
    archive.prove(file)
    mode, until = lock_of(s3, bucket, file)
    assert mode == "COMPLIANCE"
    assert timedelta(hours=23) < until - datetime.now(UTC) <= timedelta(days=1)


def test_until_when_nobody_says(s3: S3, archive: S3Archive, tmp_path: Path) -> None:
    """Where neither the archive nor the policy says until when, nothing is uploaded."""
    with pytest.raises(AuditStorageError, match="expected lock_days, or a policy with retention_days"):
        archive.put(packed(tmp_path, retention_days=None))
    assert not s3.requests


def test_for_ever_is_a_hundred_years(s3: S3, bucket: str, archive: S3Archive, tmp_path: Path) -> None:
    """A policy that keeps records for longer than S3 can lock them is locked for as long as S3 can."""
    file = packed(tmp_path, retention_days=10**9)
    archive.put(file)
    archive.prove(file)
    assert lock_of(s3, bucket, file)[1] == midnight(file.day) + timedelta(36_501)


def test_a_bucket_without_object_lock(s3: S3, tmp_path: Path) -> None:
    """To a bucket that can't lock, nothing is uploaded."""
    bucket = bucket_of(s3, next(_buckets), locked=False)
    with pytest.raises(AuditStorageError, match="the bucket has no Object Lock: turn it on"):
        S3Archive(bucket, endpoint=s3.url).put(packed(tmp_path))
    assert "Contents" not in s3.client.list_objects_v2(Bucket=bucket)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-object-lock-mode": None, "x-amz-object-lock-retain-until-date": None},
        {"x-amz-object-lock-mode": "GOVERNANCE"},
        {"x-amz-object-lock-retain-until-date": "2026-01-01T00:00:00Z"},
    ],
)
def test_a_lock_that_is_none(s3: S3, archive: S3Archive, tmp_path: Path, headers: dict[str, str | None]) -> None:
    """A service that takes the lock and does not have it, or hides it, proves nothing."""
    file = packed(tmp_path)
    archive.put(file)
    s3.faults += [Fault("HEAD", headers=headers)] * 2
    with pytest.raises(AuditStorageError, match=r"expected a lock in mode COMPLIANCE until .*"):
        archive.prove(file)


# -- faults


@pytest.mark.parametrize(
    ("status", "code"),
    [(409, "ConditionalRequestConflict"), (503, "SlowDown"), (500, "InternalError"), (400, "BadDigest"), (429, "x")],
)
def test_what_passes(s3: S3, archive: S3Archive, tmp_path: Path, status: int, code: str) -> None:
    """A conflict, throttling and an error of S3 are tried again."""
    file = packed(tmp_path)
    s3.faults += [Fault("PUT", status, code)] * 3
    archive.put(file)
    # An answer to HEAD has no body, and so no code.
    s3.faults += [Fault("HEAD", status)] * 2 * (status != 400)
    archive.prove(file)
    assert (len(s3.sent("PUT")), len(s3.sent("HEAD"))) == (4, 1 if status == 400 else 3)


def test_what_does_not_pass(s3: S3, archive: S3Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried six times, with pauses that have a floor, grow, and differ; then it is an error that says why."""
    pauses: list[float] = []
    monkeypatch.setattr("fapilog.storage.s3.sleep", pauses.append)
    s3.faults += [Fault("PUT", 503, "SlowDown")] * 9
    with pytest.raises(AuditStorageError, match=r"S3 refuses it \(SlowDown, HTTP 503\)"):
        archive.put(packed(tmp_path))
    assert len(s3.sent("PUT")) == 6
    assert all(base / 2 <= pause <= base for base, pause in zip((0.5, 1, 2, 4, 8), pauses, strict=True))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("PUT", 403, "RequestTimeTooSkewed"), "the clock of this machine is wrong"),
        (Fault("PUT", 403, "AccessDenied"), "access is denied"),
        (Fault("PUT", 403, "SignatureDoesNotMatch"), "the credentials are wrong"),
        (Fault("PUT", 404, "NoSuchBucket"), "there is no such bucket"),
        (Fault("PUT", 403, "InvalidObjectState"), "Glacier: restore it first"),
        (Fault("PUT", 400, "InvalidRequest"), "S3 refuses it|no Object Lock"),
    ],
)
def test_what_is_refused(s3: S3, archive: S3Archive, tmp_path: Path, fault: Fault, words: str) -> None:
    """What another try can't mend is an error at once, which says what is wrong."""
    s3.faults.append(fault)
    with pytest.raises(AuditStorageError, match=words):
        archive.put(packed(tmp_path))
    assert len(s3.sent("PUT")) == 1


def test_a_body_that_is_cut_on_its_way_there(s3: S3, bucket: str, archive: S3Archive, tmp_path: Path) -> None:
    """An object that was stored cut is no proof, whatever checksum it claims to have."""
    file = packed(tmp_path)
    # S3 would refuse it (BadDigest); moto believes the checksum that came with it.
    s3.faults.append(Fault("PUT", cut_request=True))
    archive.put(file)
    with pytest.raises(AuditStorageError, match=r"differs from the (trail|object)"):
        archive.prove(file)


def test_a_body_that_is_cut_on_its_way_back(s3: S3, archive: S3Archive, tmp_path: Path) -> None:
    """A download that ends early is made again, and is an error if it always does."""
    file = packed(tmp_path)
    archive.put(file)
    s3.faults.append(Fault("GET", cut_answer=True))
    with archive.open(file.path.name) as found:
        assert found.read() == file.path.read_bytes()
    s3.faults += [Fault("GET", cut_answer=True)] * 9
    with pytest.raises(AuditStorageError, match=r"S3 could not be asked|it was cut or changed on its way"):
        archive.open(file.path.name)


def test_a_body_that_is_changed(s3: S3, archive: S3Archive, tmp_path: Path) -> None:
    """A download that has not the checksum which S3 says is refused."""
    file = packed(tmp_path)
    archive.put(file)
    s3.faults += [Fault("GET", headers={"x-amz-checksum-sha256": b64("00" * 32)})] * 6
    with pytest.raises(AuditStorageError, match="it was cut or changed on its way"):
        archive.open(file.path.name)


@pytest.mark.slow
def test_an_endpoint_that_redirects_without_an_end(
    s3: S3, archive: S3Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint that redirects every request is an error like another, wherever boto3 has enough of it."""
    monkeypatch.setattr(s3, "next_fault", lambda method: Fault(method, 301))
    with pytest.raises(AuditStorageError, match=r"^s3://.*: S3 could not be asked") as caught:
        archive.prove(packed(tmp_path))
    assert caught.value.__cause__ is None


def test_an_answer_that_is_none_of_s3(s3: S3, archive: S3Archive, tmp_path: Path) -> None:
    """An answer that boto3 can't read is an error like another."""
    file = packed(tmp_path)
    archive.put(file)
    s3.faults.append(Fault("HEAD", headers={"x-amz-object-lock-retain-until-date": "tomorrow"}))
    words = r"S3 could not be asked: the answer is none of S3: see the endpoint \(ValueError\)$"
    with pytest.raises(AuditStorageError, match=rf"^s3://.*: {words}") as caught:
        archive.prove(file)
    assert caught.value.__cause__ is None


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: S3) -> None:
    """Where nobody listens, the error says so, and has nothing of the address."""
    monkeypatch.setattr("fapilog.storage.s3.sleep", lambda _: None)
    away = S3Archive("b", prefix="clinic", endpoint="http://user:s3cr3t@127.0.0.1:9")
    with pytest.raises(
        AuditStorageError, match=r"^s3://b/clinic: S3 could not be asked: it can't be reached"
    ) as caught:
        away.sizes()
    assert "s3cr3t" not in "".join(map(str, (caught.value, caught.value.__cause__, repr(away))))


@pytest.fixture
def hanging(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """A server that takes requests, and answers none."""
    with Hanging() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.port}")
        yield server


@pytest.mark.slow
def test_a_server_that_never_answers(hanging: Hanging) -> None:
    """A request that is not answered in time is tried again while there is time for another try, and then fails."""
    with pytest.raises(AuditStorageError, match=r"^s3://b/clinic: S3 could not be asked \(ReadTimeoutError\)"):
        S3Archive("b", prefix="clinic", timeout=1).sizes()
    assert hanging.asked.wait(60)
    assert hanging.count < 6
    hanging.asked.clear()
    with pytest.raises(AuditStorageError, match=r"S3 could not be asked \(ReadTimeoutError\)"):
        require_archive("s3://b/clinic?timeout=0.1").sizes()
    assert hanging.asked.wait(60)


@pytest.mark.slow_on_trio
@pytest.mark.parametrize("call", ["retain", "search", "read", "verify"])
async def test_a_caller_that_is_cancelled_does_not_wait(hanging: Hanging, directory: Path, call: str) -> None:
    """While S3 does not answer, a cancelled caller goes on at once, and the trail with it."""
    archive = S3Archive("b", prefix="clinic", timeout=600, lock_days=1)
    trail = trail_in(directory)
    alone = ArchiveStorage(archive)
    calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "retain": functools.partial(trail.apply_retention, archive=archive),
        "search": functools.partial(alone.find, EventFilter(), 1),
        "read": functools.partial(alone.read, 0, 1),
        "verify": alone.verify,
    }
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(calls[call])
        await anyio.to_thread.run_sync(hanging.asked.wait)
        tasks.cancel_scope.cancel()
    # The request is still under way.
    assert hanging.count == 1
    assert hanging.is_held()
    await trail.log_event(AuditEventType.DATA_ACCESS, "read")
    # The lock of retention is free.
    assert (await trail.apply_retention(dry_run=True)).days
    assert (await trail.apply_retention()).days
    await trail.stop()


def test_without_credentials(s3: S3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials it is an error at once."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    with pytest.raises(AuditStorageError, match=r"there are no credentials: see where .* \(NoCredentialsError\)$"):
        S3Archive(bucket, endpoint=s3.url).put(packed(tmp_path))
    assert not s3.requests


def test_nothing_private_is_logged(s3: S3, bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a record nor the secret key is in any log, however talkative boto3 is."""
    caplog.set_level(logging.DEBUG)
    archive = S3Archive(bucket, endpoint=s3.url)
    file = packed(tmp_path)
    archive.put(file)
    archive.prove(file)
    archive.open(file.path.name).close()
    assert caplog.records
    assert not re.search(f"Mrs Roe|{re.escape(SECRET_KEY)}", caplog.text)
    assert ACCESS_KEY not in repr(archive) + str(archive)


# -- its options


def test_a_client_of_your_own(s3: S3, bucket: str, tmp_path: Path) -> None:
    """A client that is given is used as it is."""
    client = boto3.client("s3", endpoint_url=s3.url)
    file = packed(tmp_path)
    archive = S3Archive(bucket, client=client)
    archive.put(file)
    archive.prove(file)
    assert list(archive.sizes()) == [file.path.name]
    assert str(archive) == f"s3://{bucket}"
    client.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bucket": ""}, "bucket: expected the name of a bucket"),
        ({"bucket": "a/b"}, "bucket: expected the name of a bucket"),
        ({"bucket": "user:s3cr3t@b"}, "bucket: expected the name of a bucket; got something else"),
        ({"bucket": 1}, "bucket: expected text"),
        ({"bucket": "b", "endpoint": "localhost"}, "endpoint: expected an address that begins with https://"),
        ({"bucket": "b", "prefix": 1}, "prefix: expected text"),
        ({"bucket": "b", "lock_days": 0}, "lock_days"),
        ({"bucket": "b", "lock_days": 1.5}, "lock_days"),
        ({"bucket": "b", "timeout": 0}, "timeout: expected a finite number above 0"),
        ({"bucket": "b", "client": object(), "region": "x"}, "client: expected it without region"),
    ],
)
def test_options_that_are_wrong(options: dict[str, Any], words: str) -> None:
    """Options that can't be are refused where it is made."""
    with pytest.raises((TypeError, ValueError), match=words):
        S3Archive(**options)


def test_many_days(s3: S3, bucket: str) -> None:
    """All pages of a long list are asked for, and other objects are left out."""
    client = boto3.client("s3", endpoint_url=s3.url)
    # Of a thousand by default.
    client.meta.events.register("provide-client-params.s3.ListObjectsV2", lambda params, **_: {**params, "MaxKeys": 2})
    days = [f"audit_2026-01-0{number}.jsonl.gz" for number in range(1, 6)]
    others = ["clinic/other.gz", days[0], f"clinic/more/{days[0]}", "clinic/audit_anchor.json"]
    for key in [*(f"clinic/{day}" for day in days), *others]:
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    assert S3Archive(bucket, prefix="clinic", client=client).sizes() == dict.fromkeys([*days, "audit_anchor.json"], 1)
    assert len(s3.sent("GET")) == 4
    client.close()


@pytest.mark.parametrize("endpoint", ["https://u:hunter2@[", "https://u:hunter2@x y", "http://u:hunter2@:80"])
def test_an_endpoint_that_is_no_address(endpoint: str) -> None:
    """What boto3 takes for no address is an error of the archive, without the password in it."""
    with pytest.raises(AuditStorageError, match=r"^s3://bucket: the endpoint is no address$"):
        S3Archive("bucket", endpoint=endpoint, region="eu-west-1").sizes()


def test_a_region_that_is_none(s3: S3) -> None:
    """It is the region that is wrong, and not the endpoint, whose words would lead astray."""
    with pytest.raises(
        AuditStorageError, match=r"^s3://bucket: .* the region is no name of one \(InvalidRegionError\)$"
    ):
        S3Archive("bucket", region="eu west", endpoint=s3.url).sizes()


@pytest.mark.parametrize("answer", [{}, {"NextContinuationToken": "x"}], ids=["no token", "one token for ever"])
def test_a_list_without_an_end(answer: dict[str, str]) -> None:
    """A service that knows of more objects, and does not list them, is refused: a part is not taken for all."""

    class Client:
        def list_objects_v2(self, **_: object) -> object:
            return {"IsTruncated": True, "Contents": [{"Key": "audit_2026-01-01.jsonl.gz", "Size": 1}], **answer}

    with pytest.raises(AuditStorageError, match=r"^s3://bucket: there are more than 1 objects, and S3 does not list"):
        S3Archive("bucket", client=Client()).sizes()


# -- the trail


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A trail of six days, 40 to 1 days ago, with three records each."""
    return aged_trail(tmp_path / "trail", (40, 39, 38, 10, 2, 1))


def trail_in(directory: Path, days: int | None = 30, **policy: Any) -> AuditTrail:
    return AuditTrail(CompliancePolicy(retention_days=days, **policy), directory)


@pytest.mark.slow
@pytest.mark.parametrize("given", ["archive", "address"])
@pytest.mark.one_backend
async def test_a_trail(s3: S3, archive: S3Archive, directory: Path, given: str) -> None:
    """Days are archived and removed, by an archive or by its address; each is proved before it is removed."""
    before = {age: (directory / day_file(age)).read_bytes() for age in (40, 39, 38, 10)}
    trail = trail_in(directory, archive_after_days=9)
    place = archive if given == "archive" else str(archive)
    asked = await trail.apply_retention(archive=place, dry_run=True)
    assert not s3.sent("PUT")
    report = await trail.apply_retention(archive=place)
    assert asked.days == report.days
    assert [(day.archived, day.removed) for day in report.days] == [(True, True)] * 3 + [(True, False)]
    for age, content in before.items():
        with archive.open(f"{day_file(age)}.gz") as found:
            assert gzip.decompress(found.read()) == content
    assert TrailFiles(directory, durable=False).verify().status is ChainStatus.FRONT_PRUNED
    (event,) = await trail.get_events(event_type="retention_policy_applied")
    assert event.metadata["fapilog.retention"]["archive"] == str(archive)
    s3.requests.clear()
    assert (await trail.apply_retention(archive=place)).days == ()
    assert [request.method for request in s3.requests] == ["GET"]


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("PUT", 403, "AccessDenied")],
        [Fault("PUT", 503, "SlowDown")] * 6,
        [Fault("PUT", cut_request=True)],
        [Fault("HEAD", 403)],
        [Fault("HEAD", headers={"x-amz-object-lock-mode": None})] * 2,
        [Fault("HEAD", headers={"content-length": "9"}), *[Fault("GET", cut_answer=True)] * 9],
        [Fault("GET", 403, "RequestTimeTooSkewed")],
    ],
)
@pytest.mark.one_backend
async def test_nothing_is_removed_without_the_proof(s3: S3, archive: S3Archive, directory: Path, faults: Any) -> None:
    """Whatever keeps S3 from proving that it has a day, nothing is removed; the next run completes it or refuses."""
    s3.faults += faults
    with pytest.raises(AuditStorageError, match="s3://"):
        await trail_in(directory).apply_retention(archive=archive)
    result = TrailFiles(directory, durable=False).verify()
    assert (result.status, result.events_checked) == (ChainStatus.OK, 18)


@pytest.mark.one_backend
async def test_an_archive_that_begins_later(s3: S3, archive: S3Archive, directory: Path) -> None:
    """An archive that is begun after a first removal has the anchor of that, from before its first day."""
    await trail_in(directory, 39).apply_retention()
    await trail_in(directory, 9).apply_retention(archive=archive)
    puts = [request.path.rpartition("/")[2] for request in s3.sent("PUT")]
    assert puts == ["audit_anchor.json", *(f"{day_file(age)}.gz" for age in (39, 38, 10))]


@pytest.mark.one_backend
async def test_an_address_of_something_else(directory: Path) -> None:
    """An address of another kind, and what is no archive, are refused in words."""
    with pytest.raises(ValueError, match="archive: expected a directory or s3://bucket/prefix; got gs://"):
        await trail_in(directory).apply_retention(archive="gs://bucket/x")
    with pytest.raises(TypeError, match="archive: expected a directory, s3://bucket/prefix, or an Archive; got an int"):
        await trail_in(directory).apply_retention(archive=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bucket"):
        await trail_in(directory).apply_retention(archive="s3:///prefix")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://bucket?lock=1", "there is no option 'lock'; there are endpoint, lock_days, region, timeout"),
        ("s3://bucket?lock_days=x", "expected a whole number as lock_days"),
        ("s3://bucket?lock_days=0", "lock_days: expected a number of at least 1"),
        ("s3://bucket?timeout=soon", "expected a number as timeout"),
        ("s3://", "bucket: expected the name of a bucket"),
        ("s3://bucket/x#y", "expected s3://bucket/prefix; got an address with a #"),
    ],
)
def test_addresses_that_are_wrong(address: str, words: str) -> None:
    """An address with an option that is none, or without a bucket, is refused in words that begin with its name."""
    with pytest.raises(ValueError, match=f"^archive: {words}"):
        AuditTrail(archive=address)


def test_an_address(s3: S3, bucket: str, tmp_path: Path) -> None:
    """An address has the options of an archive."""
    file = packed(tmp_path, retention_days=None)
    archive = require_archive(f"S3://{bucket}/clinic/?lock_days=500&region=eu-west-1&endpoint={s3.url}")
    archive.put(file)
    archive.prove(file)
    assert lock_of(s3, bucket, file)[1] == midnight(file.day) + timedelta(501)
    assert "/eu-west-1/s3/" in s3.sent("PUT")[0].headers["authorization"]


@pytest.mark.one_backend
async def test_what_must_stay(s3: S3, archive: S3Archive, directory: Path, tmp_path: Path) -> None:
    """A day with a record about which an alert is pending, or that a hold names, is not removed; it may be archived."""
    outbox = Outbox(RecordingDispatcher(), tmp_path / "outbox.db")
    policy = CompliancePolicy(retention_days=30, archive_after_days=9)
    async with AuditTrail(policy, directory, outbox, archive=archive) as trail:
        await trail.drain()
        with contextlib.closing(sqlite3.connect(tmp_path / "outbox.db")) as connection, connection:
            connection.execute(
                "INSERT INTO alerts (outbox, event_id, sequence_number, event_type, severity, status, came_at, due_at,"
                " noted_at) VALUES ('alerts', 'x', 8, 'data_access', 'info', 'pending', 0, 1e12, 0)"
            )
        hold = add_hold(directory, "case 7", since=today() - timedelta(39))
        kept = [day.kept for day in (await trail.apply_retention()).days]
        assert kept == [None, f"legal hold {hold.id}", "an older day is kept", None]
        remove_hold(directory, hold.id)
        kept = [day.kept for day in (await trail.apply_retention()).days]
        assert kept == [None, "an alert about record 8 may be pending"]
        await outbox.discard("x", reason="known")
        assert [day.kept for day in (await trail.apply_retention()).days] == [None]
    assert sorted(archive.sizes()) == [f"{day_file(age)}.gz" for age in (40, 39, 38, 10)]


@pytest.mark.slow
def test_the_example_of_the_docs(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of the how-to runs as it is written."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "archive-in-s3.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    bucket_of(s3, "clinic-audit")
    aged_trail(tmp_path / "audit", (400, 10, 1))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "archive-in-s3.md", "exec"), {"__name__": "__main__"})  # noqa: S102  ours
    found = s3.client.list_objects_v2(Bucket="clinic-audit", Prefix="eu/")["Contents"]
    assert [each["Key"] for each in found] == [f"eu/{day_file(age)}.gz" for age in (400, 10)]
    assert not (tmp_path / "audit" / day_file(400)).exists()
