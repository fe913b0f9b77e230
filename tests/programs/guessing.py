"""
Logs failed logins of one user, as soon as its standard input ends, and exits when their rules are applied.

    python guessing.py DIRECTORY TIMES
"""

import sys

import anyio

from fapilog import AuditTrail, CompliancePolicy, Threshold

RULE = Threshold("authentication_failed", count=5, within=600, by="user_id", name="guessing")


async def main(directory: str, times: int) -> None:
    """Log the events side by side."""
    async with AuditTrail(CompliancePolicy(rules=[RULE]), directory) as trail, anyio.create_task_group() as tasks:
        sys.stdin.read()
        for _ in range(times):
            tasks.start_soon(fail, trail)


async def fail(trail: AuditTrail) -> None:
    """Log one of them."""
    await trail.log_authentication(success=False, user_id="alice")


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
