"""The state of the data, for /status and /metrics."""

import time
from typing import NamedTuple

from echo.endpoints.stats import Rate
from echo.endpoints.steps import run_steps
from echo.store import DataFolder, NotReady, Segment

NEWEST_BYTES = 65536  # read from the end to find the mean length of a line


class DataState(NamedTuple):
    """The state of the data. Unknown values are None, and `problem` says why."""

    problem: str | None = None
    segment: Segment | None = None
    size: int | None = None  # bytes of the segment
    numbers: int | None = None  # in the segment
    age: float | None = None  # seconds since the newest number
    rate: float | None = None  # numbers per second over the last minute


class DataWatcher:
    """Observes the data: their state, and how fast they grow."""

    def __init__(self, folder: DataFolder) -> None:
        self.folder = folder
        self.rate = Rate()
        self.sample()

    def sample(self) -> None:
        """Record the size. To be called about once a second."""
        self.rate.sample(time.monotonic(), self.folder.grown)

    async def state(self) -> DataState:
        """Return the current state."""
        try:
            segment = self.folder.refresh()
            size, numbers = await run_steps(segment.count())
        except (NotReady, OSError) as error:
            return DataState(str(error))
        age = round(max(0.0, time.time() - segment.modified), 3)
        return DataState(None, segment, size, numbers, age, self.numbers_per_second(segment))

    def numbers_per_second(self, segment: Segment) -> float | None:
        """Return the rate, from the growth in bytes and the length of the newest lines."""
        self.sample()
        seconds, grown = self.rate.growth()
        try:
            newest = segment.read(max(0, segment.size - max(1, min(grown, NEWEST_BYTES))), segment.size)
        except OSError:
            return None
        if seconds < 1 or not newest:
            return None
        return round(newest.count(b"\n") / len(newest) * grown / seconds, 3)
