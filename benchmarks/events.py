"""What every trail is given to record: the same events in the same order."""

import random
from typing import Any, Final

__all__ = ["SEED", "accesses"]

SEED: Final = 2


def accesses(count: int) -> list[dict[str, Any]]:
    """Return the keywords of *count* calls of `log_event`."""
    chance = random.Random(SEED)  # noqa: S311 - the same for everyone is the point
    return [
        {
            "message": f"record {number} read",
            "user_id": f"user-{chance.randrange(500)}",
            "session_id": f"{chance.getrandbits(64):016x}",
            "component": "patients",
            "operation": "read",
            "patient": chance.randrange(1_000_000),
            "fields": ["name", "allergies"],
        }
        for number in range(count)
    ]
