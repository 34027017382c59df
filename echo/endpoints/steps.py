"""Long work in steps, so that other requests are served in between."""

import asyncio
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

MAX_STEPS_PER_PASS = 8  # of all such work, in one pass of the event loop

limiter = asyncio.Semaphore(MAX_STEPS_PER_PASS)


async def run_steps(steps: Generator[None, None, T]) -> T:
    """Run a generator to its end, one step per pass of the event loop; return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
        async with limiter:
            await asyncio.sleep(0)
