"""Names of segments, and where a generator continues its stream. Pure: no I/O."""

import enum
import re
from typing import NamedTuple

TAIL_BYTES = 64  # the end of a segment, compared to notice changes by others

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


def beyond(segments: list[Segment], current: Segment, keep: int) -> list[Segment]:
    """Return the finished segments to remove: other streams first, then the oldest."""
    finished = [segment for segment in segments if segment != current]
    return sorted(finished, key=lambda found: (found.stream == current.stream, found.base), reverse=True)[keep:]


def whole(data: bytes) -> int:
    """Return the length of the whole lines at the start of `data`."""
    return data.rfind(b"\n") + 1


class State(NamedTuple):
    """What the lock file keeps for the next start."""

    stream: str
    base: int  # of the current segment
    end: int  # the offset after the last number written
    tail: str  # the bytes before it, as Latin-1
    boot: str  # the machine's boot id
    stopped: bool  # cleanly: nothing was written after `end`


class Found(NamedTuple):
    """The newest segment of the state's stream, as a start finds it."""

    segment: Segment
    size: int
    tail: str  # the bytes before the state's `end`; less if the file is shorter


class Past(enum.Enum):
    """What happened to the folder before this start."""

    UNKNOWN = "new or copied folder"
    INTACT = "segment is as it was left"
    DAMAGED = "segment was changed by another program"
    CRASHED = "machine crashed"


def judge(state: State | None, boot: str, newest: Found | None) -> Past:
    """Compare the state with what is in the folder."""
    if not state or not newest:
        return Past.UNKNOWN
    current, written = newest.segment.base == state.base, state.end - state.base
    if current and newest.size >= written and newest.tail != state.tail:
        return Past.DAMAGED
    if not state.stopped and (state.boot != boot or not boot):
        return Past.CRASHED
    if state.stopped:
        return Past.INTACT if current and newest.size == written else Past.DAMAGED
    return Past.INTACT if newest.segment.base > state.base or (current and newest.size >= written) else Past.DAMAGED


def next_base(state: State, newest: Found) -> int:
    """Return an offset of the stream that nobody can have received."""
    end = max(state.end, newest.segment.base + newest.size)
    return end if state.stopped else end + SKIP_BYTES
