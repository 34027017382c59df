"""Random numbers as lines."""

import random

TABLE_LENGTH = 2**16  # ranges up to this length are formatted once


class Numbers:
    """Random integers from `least` to `greatest`; the same seed gives the same lines, in batches of any size."""

    def __init__(self, least: int, greatest: int, seed: int | None = None) -> None:
        self.range = range(least, greatest + 1)
        self.random = random.Random(seed)
        self.table: list[bytes] = []

    def lines(self, count: int) -> bytes:
        """Return so many numbers, one a line."""
        if count == 1 or self.range[-1] - self.range[0] >= TABLE_LENGTH:
            return b"%d\n" * count % tuple(self.random.choices(self.range, k=count))
        self.table = self.table or [b"%d\n" % number for number in self.range]
        return b"".join(self.random.choices(self.table, k=count))
