"""
Logs failed logins of a few users until it is killed, and prints the id of each when it is stored.

    python guessing_on.py DIRECTORY SEED
"""

import itertools
import os
import random
import sys

import anyio

from fapilog import AuditTrail, CompliancePolicy, Threshold

RULE = Threshold("authentication_failed", count=3, within=0.2, by="user_id", name="guessing")


async def main(directory: str, seed: int) -> None:
    """Log one after the other."""
    chance = random.Random(seed)  # noqa: S311
    policy = CompliancePolicy(rules=[RULE], alert_on_security_events=False)
    async with AuditTrail(policy, directory, durability="write") as trail:
        for number in itertools.count():
            event_id = await trail.log_authentication(success=False, user_id=f"user {chance.randrange(4)}")
            os.write(1, f"{event_id}\n".encode())
            await anyio.sleep(0.002 if number % 10 else 0.02)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
