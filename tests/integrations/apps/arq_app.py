"""
An arq worker with its trail in ``$TRAIL``, and its queue in the Redis at ``$REDIS``.

Run as a program, it enqueues the jobs, each in a context of its own, as a view would.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from arq import Retry, create_pool, cron, func
from arq.connections import RedisSettings

from fapilog import AuditEventType, AuditTrail
from fapilog.context import audit_context
from fapilog.integrations.arq import AuditMiddleware, carried
from tests.programs.served import KIND, Slow

Context = dict[Any, Any]
trail = AuditTrail(storage_path=os.environ["TRAIL"], alert_dispatcher=Slow())
audit = AuditMiddleware(trail)
redis_settings = RedisSettings.from_dsn(os.environ["REDIS"])


@audit.job
async def export(ctx: Context, number: int) -> None:
    """Record an event that alerts."""
    await trail.log_security_event(KIND, f"export {number}")


@audit.job
async def fail(ctx: Context, number: int) -> None:
    """Fail."""
    raise LookupError(f"fail {number}")


@audit.job
async def again(ctx: Context, number: int) -> None:
    """Be run again once, and fail."""
    if ctx["job_try"] == 1:
        raise Retry
    raise LookupError(f"again {number}")


@audit.job
async def hang(ctx: Context, number: int) -> None:
    """Record an event, and wait until the time is over, the job is aborted, or the worker ends."""
    await trail.log_event(AuditEventType.DATA_EXPORT, f"hang {number}")
    await asyncio.Event().wait()


@audit.job
async def nested(ctx: Context, number: int) -> None:
    """Record an event, and enqueue another job."""
    await trail.log_event(AuditEventType.DATA_EXPORT, f"nested {number}")
    await ctx["redis"].enqueue_job("export", number, _job_id=f"{ctx['job_id']}-export", **carried())


@audit.job
async def clean(ctx: Context) -> None:
    """Record an event for nobody."""
    await trail.log_event(AuditEventType.DATA_DELETION, "clean")


async def after_job_end(ctx: Context) -> None:
    """Keep arq busy after one of the jobs, until the worker ends."""
    if ctx["job_id"] == "export-99":
        await trail.log_security_event(KIND, "behind the job")
        await asyncio.Event().wait()


class WorkerSettings:
    """The settings of the worker."""

    functions = (export, fail, again, hang, nested, func(hang, name="limited", timeout=0.2))
    cron_jobs = (cron(clean, run_at_startup=True, month=1, day=1, hour=0, minute=0),)
    on_startup = audit.on_startup
    on_shutdown = audit.on_shutdown
    after_job_end = after_job_end
    redis_settings = redis_settings
    allow_abort_jobs = True
    poll_delay = 0.02


async def enqueue() -> None:
    """Enqueue as many jobs of each name as the arguments say."""
    async with await create_pool(redis_settings) as redis:
        for argument in sys.argv[1:]:
            name, _, count = argument.partition(":")
            for number in range(int(count)):
                with audit_context(user_id=f"{name} user {number}", request_id=f"{name} request {number}", tenant="no"):
                    await redis.enqueue_job(name, number, _job_id=f"{name}-{number}", **carried())


if __name__ == "__main__":
    asyncio.run(enqueue())
