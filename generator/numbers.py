"""Random numbers as lines."""

import random
from array import array


class Numbers:
    """Random integers from `least` to `greatest`. A seed determines the lines, whatever the sizes of the batches."""

    def __init__(self, least: int, greatest: int, seed: int | None = None) -> None:
        self.range = range(least, greatest + 1)
        self.random = random.Random(seed)
        self.table: list[bytes] = []

    def lines(self, count: int) -> bytes:
        """Return `count` numbers, one per line."""
        share, rest = divmod(2**16, len(self.range))  # share: the number of 16-bit values that map to one number
        if rest:
            return b"%d\n" * count % tuple(self.random.choices(self.range, k=count))
        draws = array("H", self.random.randbytes(4 * count))[1::2]  # 32 bits per number in any batch
        if count == 1:
            return b"%d\n" % self.range[draws[0] // share]
        self.table = self.table or [line for number in self.range for line in [b"%d\n" % number] * share]
        return b"".join(map(self.table.__getitem__, draws))
