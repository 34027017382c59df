"""Counters: requests, and the growth of the data. Pure."""

import bisect
from collections import deque
from collections.abc import Callable

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # seconds
WINDOW = 60.0  # seconds


class Latency:
    """A histogram of response times."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)  # the last one: above all bounds
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect.bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds


class Stats:
    """Requests since the start by route and status, with the time until the response's head."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], Latency] = {}
        self.bytes_sent: Callable[[], int] = lambda: 0  # of bodies

    def answered(self, route: str, status: int, seconds: float) -> None:
        latency = self.requests.get((route, status)) or self.requests.setdefault((route, status), Latency())
        latency.add(seconds)


class Rate:
    """The growth of a total over the last minute."""

    def __init__(self) -> None:
        self.samples: deque[tuple[float, int]] = deque()

    def sample(self, now: float, total: int) -> None:
        """Record a total. `now` is in seconds and never decreases."""
        if len(self.samples) > 1 and now - self.samples[-2][0] < 1:
            self.samples.pop()  # one a second is enough
        self.samples.append((now, total))
        while len(self.samples) > 1 and self.samples[1][0] <= now - WINDOW:
            self.samples.popleft()

    def growth(self) -> tuple[float, int]:
        """Return the seconds between first and last sample, and the growth."""
        (began, before), (ended, after) = self.samples[0], self.samples[-1]
        return ended - began, after - before
