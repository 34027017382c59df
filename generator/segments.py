"""The names of segments."""

import re
from typing import NamedTuple

# Before a crash of the machine, readers may have received bytes that never reached the disk. The next segment
# begins this many bytes later, so that no offset is used twice. Linux writes dirty pages back after 30 s and limits
# them to a part of the memory, so far less than 1 TiB is lost. Offsets up to 2**53 allow 8,000 such crashes.
SKIP_BYTES = 2**40


class Segment(NamedTuple):
    """A part of a stream, identified by the stream and the offset of its first byte."""

    stream: str  # 8 hex digits
    base: int

    def file_name(self, data: str) -> str:
        """Return the name of the segment's file; `data` is the name of the symlink."""
        return f"{data}.{self.stream}.{self.base:016d}"


def parse(data: str, file_name: str) -> Segment | None:
    """Return the segment that a file name denotes, or None for any other file."""
    match = re.fullmatch(re.escape(data) + r"\.([0-9a-f]{8})\.([0-9]{16})", file_name, re.ASCII)
    return Segment(match[1], int(match[2])) if match else None


def whole(data: bytes) -> int:
    """Return the length of the whole lines at the start of `data`."""
    return data.rfind(b"\n") + 1
