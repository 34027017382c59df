"""Names of segments."""

import re
from typing import NamedTuple

# After a crash of the machine, readers may have received bytes that never reached the disk. The next segment
# begins this far on. Linux writes back after 30 s, and throttles writers at a part of the memory, so far less than
# 1 TiB can be lost. Offsets up to 2**53 leave room for 8,000 such crashes.
SKIP_BYTES = 2**40


class Segment(NamedTuple):
    """A piece of a stream. Its identity is its name: the stream, and the offset at which it begins."""

    stream: str  # 8 hex digits
    base: int

    def file_name(self, data: str) -> str:
        """Return the name of its file; `data` is the name of the symlink."""
        return f"{data}.{self.stream}.{self.base:016d}"


def parse(data: str, file_name: str) -> Segment | None:
    """Return the segment of a file name, or None for any other file."""
    match = re.fullmatch(re.escape(data) + r"\.([0-9a-f]{8})\.([0-9]{16})", file_name, re.ASCII)
    return Segment(match[1], int(match[2])) if match else None


def whole(data: bytes) -> int:
    """Return the length of the whole lines at the start of `data`."""
    return data.rfind(b"\n") + 1
