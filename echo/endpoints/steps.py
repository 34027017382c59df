"""Long work in steps, so that it holds up nobody else."""

import asyncio
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

MAX_STEPS_PER_PASS = 8  # of all that work in steps, in one pass of the event loop

limiter = asyncio.Semaphore(MAX_STEPS_PER_PASS)


async def run_steps(steps: Generator[None, None, T]) -> T:
    """Return the result of a generator, with a pass of the event loop between two of its steps."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
        async with limiter:
            await asyncio.sleep(0)
