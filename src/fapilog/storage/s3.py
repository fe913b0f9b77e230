"""
An archive in S3, whose objects can't be changed or deleted before their time: Object Lock in compliance mode.

    from fapilog.storage.s3 import S3Archive

    await trail.apply_retention(archive=S3Archive("clinic-audit", prefix="eu", lock_days=2190))

It needs boto3, which comes with the extra ``s3``.
"""

from __future__ import annotations

import base64
import contextlib
import random
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from time import monotonic, sleep
from typing import IO, Any, Final, TypeVar

from .._extras import needs

with needs("s3"):
    import boto3.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

from ..record.errors import AuditStorageError
from ..record.options import require, require_text
from ..record.privacy import Uncopied
from ..tasks.fork import call_in_child
from ._regular import regular_file
from ._s3errors import RefusedError, failure, is_passing
from .archive import PackedFile, is_archived_name, not_what_the_trail_has

__all__ = ["S3Archive"]

T = TypeVar("T")

# A hundred years: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock-managing.html
_LONGEST_LOCK: Final = 36_500
# S3 takes only a date to come. So a day whose lock would have ended is locked for this long.
_SHORTEST_LOCK: Final = timedelta(days=1)
_BLOCK_BYTES: Final = 1 << 20

_ATTEMPTS: Final = 6
# Seconds; a pause is at most twice the one before, and all together are 16 s at most.
_PAUSE: Final = 0.5

_THERE: Final = 412


class S3Archive(Uncopied):
    """
    An archive in a bucket of S3 that has Object Lock.

    A day is one object, uploaded once (``If-None-Match: *``) with its SHA-256, and locked in COMPLIANCE mode: until the
    lock ends, not even the owner of the account can delete or change the object. The lock ends *lock_days* after the
    day; a shorter lock is extended, and a longer one is left. Retention removes a day from the trail only after S3,
    asked anew, has named the mode and the end of the lock, the length, and the SHA-256.

    A request that meets a conflict, throttling, an error of S3 or of the network is sent six times, with pauses of 16
    seconds in all, as long as *timeout* allows. A caller of a trail that is cancelled does not wait for S3. Credentials
    come from where boto3 finds them, and are never shown or logged.

    Args:
        bucket: The name of the bucket.
        prefix: The beginning of the names of the objects, for example the name of the trail; a ``/`` follows.
        lock_days: Days from the end of a day until its lock ends; None for the `retention_days` of the policy.
        region: The region of the bucket; None for the one that boto3 finds.
        endpoint: The address of another service with the same protocol; None for the one that boto3 finds.
        timeout: Seconds after which a request that S3 does not answer fails, with all its retries. A transfer may take
            longer, as long as bytes come.
        client: A client for S3 that boto3 has made, in place of *region* and *endpoint*. The archive does not close it.
            Its own time-outs and retries count for each of the six tries.

    Attributes:
        bucket: The name of the bucket.
        prefix: The prefix, without a ``/`` at its ends.

    Raises:
        TypeError: *bucket*, *prefix* or *endpoint* is no text, *lock_days* no whole number, or *timeout* no number.
        ValueError: *bucket* is no name of a bucket, *endpoint* no address, *lock_days* or *timeout* out of range, or
            both a *client* and a *region* or an *endpoint* are given.
    """

    #: Whether a caller that is cancelled may leave a call, which changes nothing that a next call relies on.
    may_be_left = True

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        lock_days: int | None = None,
        region: str | None = None,
        endpoint: str | None = None,
        timeout: float = 120.0,
        client: Any = None,
    ) -> None:
        self.bucket: str = require_text("bucket", bucket)
        if not re.fullmatch(r"[A-Za-z0-9._-]+", bucket):
            # Not the text, which may be an address with a password.
            raise ValueError("bucket: expected the name of a bucket; got something else")
        if endpoint is not None and not re.match(r"https?://.", require_text("endpoint", endpoint)):
            raise ValueError("endpoint: expected an address that begins with https://; got something else")
        self.prefix: str = require_text("prefix", prefix).strip("/")
        if client is not None and (region is not None or endpoint is not None):
            raise ValueError("client: expected it without region and endpoint, which it has already; got both")
        if lock_days is not None:
            require("lock_days", lock_days, at_least=1, at_most=_LONGEST_LOCK, whole=True)
        self._lock_days = lock_days
        self._timeout = float(require("timeout", timeout, above=0, finite=True))
        if region is not None:
            require_text("region", region)
        self._place: dict[str, Any] = {"region_name": region, "endpoint_url": endpoint}
        self._given = client
        self._made: Any = None
        self._making = threading.Lock()
        call_in_child(self, S3Archive._forget)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def __repr__(self) -> str:
        return f"<S3Archive {str(self)!r}>"

    def sizes(self) -> Mapping[str, int]:
        """Do as `Archive.sizes`; one request for every thousand objects."""
        found: dict[str, int] = {}
        more: dict[str, str] = {}
        prefix = self._key("")
        while True:
            page = self._asked(
                lambda client: client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, Delimiter="/", **more)
            )
            for each in page.get("Contents", ()):
                if is_archived_name(name := each["Key"][len(prefix) :]):
                    found[name] = each["Size"]
            if not page.get("IsTruncated"):
                return found
            # Some services that speak the same protocol know of more than they can tell.
            token = page.get("NextContinuationToken")
            if token in (None, more.get("ContinuationToken")):
                raise AuditStorageError(f"{self}: there are more than {len(found)} objects, and S3 does not list them")
            more["ContinuationToken"] = token

    def put(self, file: PackedFile) -> None:
        """
        Do as `Archive.put`: upload *file*, locked, unless there is an object of that name.

        Raises:
            AuditStorageError: S3 is away, or refuses it: the bucket has no Object Lock, say.
        """
        until = self._until(file)

        def upload(client: Any) -> None:
            with regular_file(file.path) as body:
                client.put_object(
                    Bucket=self.bucket,
                    Key=self._key(file.path.name),
                    Body=body,
                    ContentLength=file.size,
                    ContentType="application/gzip" if file.content else "application/octet-stream",
                    IfNoneMatch="*",
                    ChecksumAlgorithm="SHA256",
                    ChecksumSHA256=_in_base64(file.sha256),
                    ObjectLockMode="COMPLIANCE",
                    ObjectLockRetainUntilDate=max(until, datetime.now(UTC) + _SHORTEST_LOCK),
                )

        try:
            self._asked(upload, file.path.name)
        except RefusedError as refused:
            # Perhaps this process uploaded it, and the answer was lost. `prove` compares the object.
            if refused.status != _THERE:
                raise

    def prove(self, file: PackedFile) -> None:
        """
        Do as `Archive.prove`: ask S3 for the lock, the length and the SHA-256 of the object.

        If S3 has no SHA-256 of the object, or another one, the object is read back. A lock that is too short is
        extended first.

        Raises:
            AuditStorageError: The object is missing, has other bytes, or is not locked for so long.
        """
        name, until = file.path.name, self._until(file)
        head = self._head(name)
        if not _is_locked(head, until):
            lock = {"Mode": "COMPLIANCE", "RetainUntilDate": max(until, datetime.now(UTC) + _SHORTEST_LOCK)}
            # The lock of this version: else one of another version that has the name by now might be extended.
            version = {"VersionId": head["VersionId"]} if "VersionId" in head else {}
            self._asked(
                lambda client: client.put_object_retention(
                    Bucket=self.bucket, Key=self._key(name), Retention=lock, **version
                ),
                name,
            )
            head = self._head(name)
        if not _is_locked(head, until):
            found = f"{head.get('ObjectLockMode', 'no lock')} until {head.get('ObjectLockRetainUntilDate', 'now')}"
            raise AuditStorageError(
                f"{self}/{name}: expected a lock in mode COMPLIANCE until {until:%Y-%m-%d}; got {found}: see whether "
                "the bucket has Object Lock, and the credentials may call s3:GetObjectRetention"
            )
        is_same = head["ContentLength"] == file.size and head.get("ChecksumSHA256") == _in_base64(file.sha256)
        if not is_same and not file.matches(lambda: self.open(name)):
            raise not_what_the_trail_has(f"{self}/{name}")

    def open(self, name: str, size: int | None = None) -> IO[bytes]:
        """
        Do as `Archive.open`: download an object into a file without a name, which is gone when it is closed.

        Memory does not grow with it. Without *size* the file is whole, and has been compared with the checksum of S3,
        before this returns.

        Raises:
            AuditStorageError: Every attempt failed, or returned a part of the object.
            OSError: There is no room for it.
        """
        # S3 has the checksum of the whole object only.
        part = {"ChecksumMode": "ENABLED"} if size is None else {"Range": f"bytes=0-{size - 1}"}

        def download(client: Any) -> IO[bytes]:
            answer = client.get_object(Bucket=self.bucket, Key=self._key(name), **part)
            with contextlib.closing(answer["Body"]) as body, contextlib.ExitStack() as unless_whole:
                # Closed by the caller.
                file = unless_whole.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(body, file, _BLOCK_BYTES)
                unless_whole.pop_all()
            file.seek(0)
            return file

        return self._asked(download, name)

    def _until(self, file: PackedFile) -> datetime:
        """Return when the lock of *file* may end."""
        days = file.retention_days if self._lock_days is None else self._lock_days
        if days is None:
            raise AuditStorageError(
                f"{self}: expected lock_days, or a policy with retention_days; got neither, and a lock needs an end"
            )
        return file.until(min(days, _LONGEST_LOCK))

    def _head(self, name: str) -> Any:
        return self._asked(
            lambda client: client.head_object(Bucket=self.bucket, Key=self._key(name), ChecksumMode="ENABLED"), name
        )

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _asked(self, call: Callable[[Any], T], name: str = "") -> T:
        """
        Return the result of *call*, which gets the client; retry if that may help.

        Raises:
            RefusedError: S3 answered the last attempt with an error.
            AuditStorageError: S3 did not answer.
        """
        attempt, give_up_at = 1, monotonic() + self._timeout
        while True:
            try:
                return call(self._client())
            except (BotoCoreError, ClientError) as error:
                pause = _PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1)  # noqa: S311  no secret
                is_late = monotonic() + pause + self._connecting + self._answering > give_up_at
                if attempt == _ATTEMPTS or is_late or not is_passing(error):
                    raise failure(f"{self}/{name}".rstrip("/"), error) from None
            except (RecursionError, ValueError) as error:
                # Boto3 follows redirections without an end, and takes any text for a number or a date.
                raise failure(f"{self}/{name}".rstrip("/"), error) from None
            sleep(pause)
            attempt += 1

    @property
    def _answering(self) -> float:
        """Seconds that one try waits for an answer, and for the next bytes of one: there is time for another try."""
        return self._timeout / 4

    @property
    def _connecting(self) -> float:
        """Seconds that one try waits for a connection."""
        return min(10.0, self._timeout / 8)

    def _client(self) -> Any:
        if self._given is not None:
            return self._given
        with self._making:
            if self._made is None:
                # A session of its own: the one that boto3 shares is not for several threads. `_asked` tries again.
                options = Config(
                    connect_timeout=self._connecting,
                    read_timeout=self._answering,
                    retries={"mode": "standard", "total_max_attempts": 1},
                )
                try:
                    self._made = boto3.session.Session().client("s3", config=options, **self._place)
                except BotoCoreError:  # of which one is a ValueError: about the region
                    raise
                except ValueError:
                    # Its text has the address, and so perhaps a password.
                    raise AuditStorageError(f"{self}: the endpoint is no address") from None
            return self._made

    def _forget(self) -> None:
        # Its connections are the parent's.
        self._made = None
        self._making = threading.Lock()


def _in_base64(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest)).decode()


def _is_locked(head: Any, until: datetime) -> bool:
    end = head.get("ObjectLockRetainUntilDate")
    return head.get("ObjectLockMode") == "COMPLIANCE" and end is not None and end >= until
