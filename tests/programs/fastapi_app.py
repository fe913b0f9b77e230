"""A FastAPI service: ``/async/N`` and ``/def/N`` log an event that alerts, and answer with its id."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from tests.programs.served import KIND, trail


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Start the trail with the service."""
    async with trail:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/{number}", response_class=PlainTextResponse)
async def awaits(number: int) -> str:
    """Log in the event loop of the service, or in one of five cases in a thread."""
    if number % 5 == 0:
        return await asyncio.to_thread(with_a_loop, number)
    if number % 5 == 1:
        return await asyncio.to_thread(without_a_loop, number)
    return await trail.log_security_event(KIND, f"{number}")


@app.get("/def/{number}", response_class=PlainTextResponse)
def without_a_loop(number: int) -> str:
    """Log in a thread of the framework, without an event loop."""
    return trail.sync.log_security_event(KIND, f"{number}")


def with_a_loop(number: int) -> str:
    """Log in a thread, in an event loop of its own."""
    return asyncio.run(trail.log_security_event(KIND, f"{number}"))
