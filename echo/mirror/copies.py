"""The mirror's data folder: copies of the source's segments under the same names, and the symlink."""

import contextlib
import errno
import fcntl
import os
import tempfile
from pathlib import Path

from echo.mirror.numbers import are_numbers
from echo.store import MAX_LINE_BYTES, NotReady, SegmentName
from echo.store.names import parse_file_name
from echo.store.segment import whole_lines

FINISHED_SEGMENTS = 2  # to keep: the same as the generator's default
LINK = "data"
BLOCK_BYTES = 2**22  # per read: large blocks save switches between the two threads


class NotNumbers(Exception):
    """The source sent data that is not numbers."""


class Copy:
    """The copy of a segment: whole lines of numbers. Opening and reading it raise OSError."""

    def __init__(self, path: Path, name: SegmentName) -> None:
        self.path, self.name = path, name
        self.size = 0  # bytes of whole lines
        self._torn = b""  # the part of a line received after them
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
        self._resume()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    __del__ = close

    @property
    def received(self) -> int:
        """The position of the next byte to receive."""
        return self.size + len(self._torn)

    def read(self, start: int, stop: int) -> bytes:
        return os.pread(self._fd, stop - start, start)

    def last_line(self) -> int:
        """Return the position of the last line, or 0 if there is none."""
        start = max(0, self.size - MAX_LINE_BYTES - 1)
        return start + self.read(start, self.size - 1).rfind(b"\n") + 1 if self.size else 0

    def append(self, block: bytes) -> None:
        """Write the whole lines received; keep a torn line for the next call. Raises NotNumbers and OSError."""
        if not are_numbers(block):
            raise NotNumbers("the data is not one number per line")
        received = self._torn + block
        try:
            end = whole_lines(received)
        except NotReady:
            raise NotNumbers(f"a line has more than {MAX_LINE_BYTES} bytes") from None
        if end:
            self._write(memoryview(received)[:end])
        self._torn = received[end:]

    def forget_torn(self) -> None:
        """Discard the torn line that a broken connection left."""
        self._torn = b""

    def stamp(self, modified: float) -> None:
        """Set the file's modification time to that of the newest number at the source, in Unix time."""
        with contextlib.suppress(OSError):  # the file belongs to another user
            os.utime(self._fd, (modified, modified))

    def _write(self, lines: memoryview) -> None:
        """Write all lines or leave the file unchanged. Raises OSError."""
        seen = os.fstat(self._fd)
        if not seen.st_nlink or seen.st_size != self.size:
            raise OSError(errno.ESTALE, f"{self.path.name} was removed or changed by another program")
        try:
            if os.pwrite(self._fd, lines, self.size) < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.size)
            raise
        self.size += len(lines)

    def _resume(self) -> None:
        """Take in the numbers that an earlier run left; discard anything else."""
        size = 0
        while block := self.read(size, size + BLOCK_BYTES):
            if not are_numbers(block):
                os.ftruncate(self._fd, 0)
                return
            end = block.rfind(b"\n") + 1
            self.size = size + end if end else self.size
            size += len(block)
        if size > self.size:
            os.ftruncate(self._fd, self.size)


class Copies:
    """The mirror's data folder. Raises OSError if it is not usable or another echo uses it."""

    def __init__(self, folder: Path | None) -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="echo-")
        self.folder = folder or Path(self._temporary.name if self._temporary else "")
        self.link = self.folder / LINK
        self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise OSError(f"--spool (ECHO_SPOOL): {folder} is in use by another echo") from None

    def close(self) -> None:
        os.close(self._lock)
        if self._temporary:
            with contextlib.suppress(OSError):
                self._temporary.cleanup()

    def current(self) -> SegmentName | None:
        """Return the segment that the symlink points to, or None."""
        try:
            found = parse_file_name(os.readlink(self.link))
        except OSError:
            return None
        return found[1] if found else None

    def open(self, name: SegmentName) -> Copy:
        """Open the copy of a segment; create it if it is missing."""
        return Copy(self.folder / name.file_name(LINK), name)

    def drop(self, copy: Copy) -> None:
        """Remove a copy that differs from the source."""
        copy.close()
        copy.path.unlink(missing_ok=True)

    def show(self, copy: Copy) -> None:
        """Point the symlink to a copy that has numbers; remove the oldest finished segments."""
        if self.current() == copy.name:
            return
        new = self.folder / f"{LINK}.link"
        new.unlink(missing_ok=True)
        new.symlink_to(copy.path.name)
        new.replace(self.link)
        found = (parse_file_name(entry) for entry in os.listdir(self.folder))
        names = {name for link, name in filter(None, found) if link == LINK} - {copy.name}
        oldest_first = sorted(names, key=lambda name: (name.stream == copy.name.stream, name.base))
        for name in oldest_first[:-FINISHED_SEGMENTS]:
            (self.folder / name.file_name(LINK)).unlink(missing_ok=True)
