"""Random numbers as lines."""

import random
from array import array


class Numbers:
    """Random integers from `least` to `greatest`; the same seed gives the same lines, in batches of any size."""

    def __init__(self, least: int, greatest: int, seed: int | None = None) -> None:
        self.range = range(least, greatest + 1)
        self.random = random.Random(seed)
        self.table: list[bytes] = []

    def lines(self, count: int) -> bytes:
        """Return so many numbers, one a line."""
        share, rest = divmod(2**16, len(self.range))  # share: how many 16-bit draws stand for a number
        if rest:
            return b"%d\n" * count % tuple(self.random.choices(self.range, k=count))
        draws = array("H", self.random.randbytes(4 * count))[1::2]  # one 32-bit step a number, whatever the batch
        if count == 1:
            return b"%d\n" % self.range[draws[0] // share]
        self.table = self.table or [line for number in self.range for line in [b"%d\n" % number] * share]
        return b"".join(map(self.table.__getitem__, draws))
