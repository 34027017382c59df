"""Names of segments."""

import re
from typing import NamedTuple


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
