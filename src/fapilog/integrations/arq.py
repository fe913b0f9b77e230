"""
Record the workers and jobs of arq, and the users that jobs run for.

    from fapilog.integrations.arq import AuditMiddleware, carried

    audit = AuditMiddleware(trail)

    class WorkerSettings:
        functions = [audit.job(export)]
        on_startup = audit.on_startup
        on_shutdown = audit.on_shutdown

    await redis.enqueue_job("export", 42, **carried())
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final

import anyio
import anyio.to_thread
from arq import Retry
from arq.worker import RetryJob

from ..core.audit import AuditTrail
from ..record.options import is_async, require_kind
from ..record.values import kind_of, text
from ..tasks.green import refuse_green_threads
from ..tasks.portal import flush_at_exit
from . import _tasks
from ._failures import logged
from ._tasks import process_ends, worker_started, worker_stopped

__all__ = ["AuditMiddleware", "carried"]

# Seconds that the event about a job that was cancelled may take: a worker that ends waits for its jobs.
_AT_MOST: Final = 5.0


def carried() -> dict[str, Any]:
    """
    Return the keyword for ``enqueue_job`` that carries the user and the request of the `audit_context` to the job.

    arq's messages have no headers, so it is an argument of the job, ``fapilog=...``, which `AuditMiddleware.job` takes
    away again. Without a user and a request there is none.
    """
    values = _tasks.carried()
    return {_tasks.HEADER: values} if values else {}


class AuditMiddleware:
    """
    Gives the events of jobs their context, and records failures.

    Args:
        trail: Stores the events.

    Raises:
        RuntimeError: gevent or eventlet has replaced the threads of this process.
        TypeError: *trail* is no trail.
    """

    def __init__(self, trail: AuditTrail) -> None:
        refuse_green_threads()
        require_kind("trail", trail, AuditTrail)
        self._trail = trail
        self._jobs: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()
        # The process of a worker that has not stopped.
        self._working: int | None = None

    def job(self, coroutine: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
        """
        Return the job *coroutine* for ``functions`` or ``arq.func``, under its name.

        Events of the job have its name as their component, its id as their request id, and as their user the user that
        `carried` has found where it was enqueued; the acting party is the job, on behalf of that user. The request
        there is ``enqueued_in`` in the metadata.

        A job that raises, or that is cancelled by its limit in time or by the end of the worker, is an event
        (ERROR_OCCURRED) with the exception and the number of the try, but not with the arguments; ``Retry`` is none.
        The exception, and the cancellation, are raised again. An event that can't be stored is logged. A job that this
        method has returned is returned as it is.

        Raises:
            TypeError: *coroutine* is no asynchronous function, or has no name.
        """
        if coroutine in self._jobs:
            return coroutine
        if not is_async(coroutine) or not hasattr(coroutine, "__qualname__"):
            # arq would say so with the first job that it runs.
            raise TypeError(f"coroutine: expected an asynchronous function; got {kind_of(coroutine)}")
        name = coroutine.__qualname__

        @functools.wraps(coroutine)
        async def run(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> Any:
            with _tasks.task_context(name, text(ctx.get("job_id")), kwargs.pop(_tasks.HEADER, None)):
                try:
                    return await coroutine(ctx, *args, **kwargs)
                except (Retry, RetryJob):
                    raise
                except (Exception, anyio.get_cancelled_exc_class()) as error:
                    await self._failed(error, ctx)
                    raise

        self._jobs.add(run)
        return run

    async def on_startup(self, ctx: dict[Any, Any]) -> None:  # noqa: ARG002  as arq calls it
        """
        Start the trail, in the background thread, and record that the worker takes jobs from now on.

        Raises:
            Exception: The dispatcher can't be entered: its own exception.
        """
        await anyio.to_thread.run_sync(self._start)

    async def on_shutdown(self, ctx: dict[Any, Any]) -> None:  # noqa: ARG002  as arq calls it
        """Record that the worker takes no more jobs, and stop the trail, which sends the alerts that wait."""
        await anyio.to_thread.run_sync(self._stop)

    def _start(self) -> None:
        # Not in the loop of the worker: where a signal cancels a job while arq itself writes to Redis, arq ends by the
        # cancellation, without on_shutdown. Then the exit of the interpreter stops the trail.
        self._trail.sync.start()
        self._working = os.getpid()
        flush_at_exit(self, AuditMiddleware._stopped)
        worker_started(self._trail, "arq", self._working)

    def _stopped(self) -> None:
        """Record that the worker has stopped, once."""
        working, self._working = self._working, None
        if working == os.getpid():
            worker_stopped(self._trail, "arq", working)

    def _stop(self) -> None:
        self._stopped()
        process_ends(self._trail)

    async def _failed(self, error: BaseException, ctx: dict[Any, Any]) -> None:
        metadata = {"attempt": ctx.get("job_try")}
        with anyio.move_on_after(_AT_MOST, shield=True), logged("an event about a job was not recorded"):
            await self._trail.log_error(error, operation="task", outcome="failure", metadata=metadata)
