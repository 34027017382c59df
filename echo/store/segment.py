"""A segment of the data folder: immutable whole lines, read by position."""

import errno
import os
import time
from collections.abc import Callable, Generator
from enum import Enum
from pathlib import Path

from echo.store.names import SegmentName

MAX_LINE_BYTES = 4096  # including the line end
CACHE_BYTES = 2**20  # a smaller current segment is kept in memory, which is ten times as fast
BLOCK_BYTES = 2**16  # per read when searching lines from the end
COMPARED_BYTES = 64  # before `size`, to detect that the file was changed
SETTLE_SECONDS = 3.0  # FUSE and network file systems show the last bytes up to this much later


class NotReady(Exception):
    """The folder has no segment to serve; the message says why."""


class Damaged(NotReady):
    """The file no longer holds the bytes that were served."""


class State(Enum):
    """The states of a segment, in order. DAMAGED and CLOSED segments can become CURRENT again."""

    CURRENT = "the symlink points to it"
    DAMAGED = "its file holds other bytes than before; it is not read until they are restored"
    SETTLING = "it is finished, but the file system does not show all its bytes yet"
    FINISHED = "its last byte has been received"
    REMOVED = "its file was removed; the open descriptor still reads it"
    CLOSED = "it can no longer be read"


class Segment:
    """A file of the data folder. Its bytes up to `size` never change."""

    def __init__(self, path: Path, name: SegmentName) -> None:
        self.path = path
        self.id = name
        self.stream, self.base = name
        self.state = State.CURRENT
        self.size = 0  # bytes of whole lines received so far
        self.modified = 0.0  # Unix time when whole lines were last appended
        self.next: Segment | None = None  # the successor, set when this segment is complete
        self.counted = self.numbers = 0  # bytes counted, and the numbers in them
        self._fd = -1
        self._file: os.stat_result | None = None  # the status of the open file
        self._last = b""  # the last bytes before `size`
        self._cache: bytes | None = b""  # the first bytes, while the segment is current and small
        self._malformed = False  # a line within `size` is too long
        self._deadline = 0.0  # of SETTLING, in seconds of the monotonic clock

    def __repr__(self) -> str:
        return f"<Segment {self.name} {self.state.name} {self.size} bytes>"

    def __del__(self) -> None:
        self._close_file()

    @property
    def name(self) -> str:
        """The name as in URLs: STREAM-BASE."""
        return str(self.id)

    @property
    def end(self) -> int:
        """The offset in the stream after the last whole line."""
        return self.base + self.size

    @property
    def gap(self) -> bool:
        """Whether numbers were lost between the end of this segment and the beginning of the next."""
        return self.next is not None and (self.next.stream, self.next.base) != (self.stream, self.end)

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    @property
    def is_readable(self) -> bool:
        return self.state not in (State.DAMAGED, State.CLOSED)

    def etag_at(self, size: int) -> str:
        """Return the ETag of the first `size` bytes, without quotes."""
        return f"{self.name}-{size}"

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`, fewer if the file is shorter. Raises OSError."""
        if self._cache is not None and stop <= len(self._cache) and self.state is State.CURRENT:
            return self._cache[start:stop]
        if not self.is_readable:
            raise OSError(errno.ESTALE, f"segment {self.name} can no longer be read")
        return self._pread(start, stop)

    def view(self, start: int, stop: int) -> bytes | memoryview:
        """Return the same as `read`, without a copy if the bytes are in memory."""
        if self._cache is not None and stop <= len(self._cache) and self.state is State.CURRENT:
            return memoryview(self._cache)[start:stop]
        return self.read(start, stop)

    def lines(self, start: int, most: int) -> bytes:
        """Return whole lines from the position `start` on, at most `most` bytes.

        Raises ValueError if no line begins there or the first one is longer than `most`; OSError as `read` does.
        """
        before = min(start, 1)
        stop = min(start + most, self.size)
        data = self.read(start - before, stop)
        if before and data[:1] not in (b"", b"\n"):
            raise ValueError(f"no line begins at {start}")
        if len(data) < before + stop - start:
            raise OSError(errno.ESTALE, f"segment {self.name} was truncated")
        lines = data[before : data.rfind(b"\n") + 1]
        if not lines and start < stop < self.size:
            self._malformed = self._malformed or most >= MAX_LINE_BYTES
            raise ValueError(f"no line ends in {most} bytes from {start} on")
        return lines

    def count(self) -> Generator[None, None, tuple[int, int]]:
        """Return the bytes and numbers counted, in steps; read only bytes that were not counted before.

        Raises NotReady if a line is too long, OSError as `read` does.
        """
        while self.counted < self.size:
            block = self.read(self.counted, min(self.counted + CACHE_BYTES, self.size))
            try:
                length = whole_lines(block)
            except NotReady:
                self._malformed = True
                raise
            if not length:  # the file was truncated
                break
            self.numbers += block.count(b"\n", 0, length)
            self.counted += length
            yield
        return self.counted, self.numbers

    def tail(self, lines: int) -> Generator[None, None, int]:
        """Return the position of the first of the last `lines` lines, in steps."""
        return tail_position(self.read, self.size, lines)

    # Only DataFolder calls the methods below.

    def open(self) -> None:
        """Open the file if it is closed. Raises OSError."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would block
            self._file = os.fstat(self._fd)

    def is_file(self, there: os.stat_result) -> bool:
        """Whether `there` is the status of the open file."""
        return self._file is not None and self.is_open and os.path.samestat(self._file, there)

    def refresh(self, there: os.stat_result) -> int:
        """Take in lines appended to the current segment, whose file has the status `there`. Return their bytes.

        Raises Damaged, NotReady and OSError.
        """
        if self.state is not State.CURRENT or not self.is_file(there):
            self._reopen()  # a copy of the file continues the segment
            there = os.fstat(self._fd)
        try:
            grown = self._append(there)
        except Damaged:
            self.state = State.DAMAGED
            raise
        self.state, self.next = State.CURRENT, None
        if self._malformed:
            raise too_long()
        if not self.size:
            raise NotReady(f"{self.path} has no number yet")
        return grown

    def finish(self, successor: "Segment") -> int:
        """Take in the last lines, up to the successor's first byte. Return their bytes.

        A file system that caches sizes may not show all of them. The segment then is SETTLING; call this again.
        """
        stop = successor.base - self.base if successor.stream == self.stream else None
        if not self.is_readable:
            self.close()
            self.next = successor
            return 0
        if self.state is State.CURRENT:
            self.state, self._cache = State.SETTLING, None
            self._deadline = time.monotonic() + SETTLE_SECONDS
        before = self.size
        try:
            self._append_rest(stop)
        except Damaged:
            self.close()
        except FileNotFoundError:
            if not self.is_open:  # the file was removed before it was opened
                self.close()
        except (NotReady, OSError):
            pass  # the bytes received before stay valid
        if self.state is State.CLOSED or stop is None or self.size >= stop or time.monotonic() > self._deadline:
            self.state = State.FINISHED if self.state is State.SETTLING else self.state
            self.next = successor
        return self.size - before

    def remove(self) -> None:
        """Mark the file as removed from the folder. Readers can still read it if it is open."""
        self.state = State.REMOVED if self.is_open else State.CLOSED

    def close(self) -> None:
        """Close the file, which frees the disk space of a removed one."""
        self._close_file()
        self.state = State.CLOSED

    def _append_rest(self, stop: int | None) -> None:
        """Take in the last lines. Raises Damaged, NotReady and OSError."""
        if not self.is_open and stop is not None:
            # The segment was finished when it was found, so the successor's name gives its size.
            seen = os.stat(self.path)
            if seen.st_size >= stop:
                self.size, self.modified = stop, seen.st_mtime
                return
        self.open()
        self._append(os.fstat(self._fd), stop)
        if stop is not None and self.size < stop:
            self._reopen()
            self._append(os.fstat(self._fd), stop)

    def _append(self, seen: os.stat_result, stop: int | None = None) -> int:
        """Take in whole lines up to `stop`. Return their bytes. Raises Damaged, NotReady and OSError.

        The file may end in half a line, because the kernel shows a write(2) across pages in parts. After a large
        write, only its end is checked for lines that are too long; `count` checks all lines.
        """
        there = seen.st_size if stop is None else min(seen.st_size, stop)
        start = max(self.size, there - (BLOCK_BYTES if self._cache is None else CACHE_BYTES))
        known = len(self._last)
        if start == self.size:
            block = self._pread(start - known, max(start, there))
            before, block = block[:known], block[known:]
        else:
            block, before = self._pread(start, there), self._pread(self.size - known, self.size)
        if there < self.size or before != self._last:
            raise Damaged(f"{self.path} was truncated or overwritten: waiting for the next segment (SIGHUP serves it)")
        size = start + whole_lines(block, inside=start > self.size)
        grown = size - self.size
        self.modified = min(seen.st_mtime, time.time() if grown else self.modified)
        if grown and self._cache is not None:
            self._cache = self._cache + block[:grown] if start == self.size and size <= CACHE_BYTES else None
        self._last = (self._last + block[: size - start])[-COMPARED_BYTES:]
        self.size = size
        return grown

    def _pread(self, start: int, stop: int) -> bytes:
        self.open()
        return os.pread(self._fd, stop - start, start)

    def _reopen(self) -> None:
        before, self._fd = self._fd, -1
        try:
            self.open()
        except OSError:
            self._fd = before
            raise
        if before >= 0:
            os.close(before)

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def too_long() -> NotReady:
    """Return the error for a line that is too long."""
    return NotReady(f"a line has more than {MAX_LINE_BYTES} bytes: this is not a file of numbers")


def whole_lines(block: bytes, inside: bool = False) -> int:
    """Return the length of the whole lines in a block. With `inside`, the block begins inside a line.

    Raises NotReady if a line is longer than MAX_LINE_BYTES.
    """
    end = block.find(b"\n", 0, MAX_LINE_BYTES) + 1 if inside else 0
    while found := block.rfind(b"\n", end, end + MAX_LINE_BYTES) + 1:
        end = found
    if len(block) - end >= MAX_LINE_BYTES:
        raise too_long()
    return end


def tail_position(read: Callable[[int, int], bytes], size: int, lines: int) -> Generator[None, None, int]:
    """Return the position of the last `lines` of `size` bytes of whole lines, in steps; read only the end."""
    if lines == 0:
        return size
    end = size - 1  # before the last line end
    while end > 0:
        start = max(0, end - BLOCK_BYTES)
        block = read(start, end)
        found = block.count(b"\n")
        if found >= lines:
            position = len(block)
            for _ in range(lines):
                position = block.rfind(b"\n", 0, position)
            return start + position + 1
        lines -= found
        end = start
        yield
    return 0
