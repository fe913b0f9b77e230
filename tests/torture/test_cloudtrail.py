"""A large trail of records as AWS CloudTrail writes them: deep, odd, and all different."""

import json
import random
import tracemalloc
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fapilog import AuditEventType, AuditOutcome, AuditTrail, ChainStatus, FileStorage

pytestmark = [pytest.mark.real_time, pytest.mark.one_backend]

COUNT = 200_000
NAMES = ("GetObject", "PutObject", "AssumeRole", "ConsoleLogin", "DeleteTrail", "RunInstances", "Decrypt")
ODD = ("", "\x00", "\u202e", "\x9b31m", "é", "🜁", '"}', "\\u0000", "0" * 300, "../../etc/passwd")


def cloud_record(number: int, chance: random.Random) -> dict[str, Any]:
    """
    Return a record with the members of CloudTrail, of random content.

    https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html
    """
    name = chance.choice(NAMES)
    odd = chance.choice(ODD)
    return {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": chance.choice(("IAMUser", "AssumedRole", "AWSService")),
            "arn": f"arn:aws:sts::111122223333:assumed-role/role-{number % 97}/session-{number}",
            "sessionContext": {"attributes": {"mfaAuthenticated": "false"}, "sessionIssuer": {"userName": odd}},
        },
        "eventSource": "s3.amazonaws.com",
        "eventName": name,
        "awsRegion": "eu-central-1",
        "sourceIPAddress": f"198.51.100.{number % 256}",
        "userAgent": "[aws-cli/2.15 Python/3.11 " + odd + "]",
        "requestParameters": chance.choice(
            (
                None,
                {"bucketName": "b", "key": odd, "tags": [{"k": odd, "v": number}] * 3},
                {odd: {"n": [1, [2, [odd]]]}},
            )
        ),
        "responseElements": None if name == "GetObject" else {"x": [1.5, True, None, number], odd: odd},
        "additionalEventData": {"bytesTransferredOut": number, "SSEApplied": bool(number % 2)},
        "readOnly": name == "GetObject",
        "resources": [{"ARN": f"arn:aws:s3:::b/{number}", "type": "AWS::S3::Object"}] * (number % 3),
    }


async def test_what_is_recorded_is_read(tmp_path: Path) -> None:
    """Of 200,000 records all are stored, verified, found and read as they came, in memory that does not grow."""
    chance = random.Random(10)  # noqa: S311
    began = datetime(2026, 3, 1, tzinfo=UTC)
    names: Counter[str] = Counter()
    trail = AuditTrail(storage=FileStorage(tmp_path, durability="write"))
    for number in range(COUNT):
        record = cloud_record(number, chance)
        names[record["eventName"]] += 1
        await trail.log_event(
            AuditEventType.DATA_ACCESS,
            record["eventName"],
            user_id=record["userIdentity"]["arn"],
            client_ip=record["sourceIPAddress"],
            user_agent=record["userAgent"],
            occurred=began + timedelta(seconds=number),
            outcome=AuditOutcome.DENIED if number % 1000 == 0 else AuditOutcome.SUCCESS,
            metadata=record,
        )
    assert (await trail.verify_chain_from_storage()).status is ChainStatus.OK

    chance.seed(10)
    number = 0
    tracemalloc.start()
    async for event in trail.events(oldest_first=True):
        record = cloud_record(number, chance)
        assert json.loads(json.dumps(event.metadata, default=dict)) == record
        number += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number == COUNT
    assert peak < 32 << 20
    assert await trail.count_by("metadata.eventName") == names
    assert len(await trail.get_events(outcome=AuditOutcome.DENIED, limit=COUNT)) == COUNT // 1000
    arn = f"arn:aws:sts::111122223333:assumed-role/role-{777 % 97}/session-777"
    [found] = await trail.get_events(metadata={"userIdentity.arn": arn})
    assert found.sequence_number == 778
