"""The names of segments, which determine their order and successors."""

import re
from collections.abc import Iterable
from typing import NamedTuple

STREAM = "[0-9a-f]{8}"
FILE = re.compile(rf"(.+)\.({STREAM})\.([0-9]{{16}})")
NAME = re.compile(rf"({STREAM})-(0|[1-9][0-9]{{0,15}})")


class SegmentName(NamedTuple):
    """The stream of a segment and the offset of its first byte in the stream."""

    stream: str
    base: int

    def __str__(self) -> str:
        return f"{self.stream}-{self.base}"

    def file_name(self, link: str) -> str:
        """Return the name of the segment's file; `link` is the name of the symlink next to it."""
        return f"{link}.{self.stream}.{self.base:016}"


def parse_file_name(text: str) -> tuple[str, SegmentName] | None:
    """Return the names of the symlink and the segment, or None if the file is not a segment."""
    match = FILE.fullmatch(text)
    return (match[1], SegmentName(match[2], int(match[3]))) if match else None


def parse(text: str) -> SegmentName | None:
    """Return the name that a URL or header writes as STREAM-BASE, or None."""
    match = NAME.fullmatch(text)
    return SegmentName(match[1], int(match[2])) if match else None


def successor(name: SegmentName, names: Iterable[SegmentName], current: SegmentName) -> SegmentName:
    """Return the segment after `name`: the next one of its stream, or else the first one of the current stream."""
    later = [other for other in names if other.stream == name.stream and other.base > name.base]
    if not later and name.stream != current.stream:
        later = [other for other in names if other.stream == current.stream]
    return min(later, default=current)
