"""The generator's side of the data folder: it writes segments and the symlink to the current one.

A start cannot detect a roll-back of the whole file system, or a change before the last 64 bytes of a segment.
"""

import contextlib
import errno
import os
import secrets
from pathlib import Path

from generator.lock import Lock, Locked, State, Unusable, open_regular, regular
from generator.segments import SKIP_BYTES, Segment, parse, whole

TAIL_BYTES = 64  # at the end of a segment, compared to detect changes by other programs
TRUNCATED = "was truncated"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TEMPORARY = {errno.ENOSPC, errno.EDQUOT, errno.EIO}  # disk faults that may pass
NO_SYMLINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def boot_id() -> str:
    """Return the kernel's boot id, or an empty string if it cannot be read."""
    with contextlib.suppress(OSError):
        return BOOT_ID.read_text().strip()
    return ""


def tail(fd: int, end: int) -> bytes:
    """Return up to 64 bytes that end at the position `end`."""
    start = max(0, end - TAIL_BYTES)
    return os.pread(fd, end - start, start)


def cut_torn_line(fd: int) -> int:
    """Remove a torn last line. Return its length in bytes."""
    end = size = os.fstat(fd).st_size
    while (block := tail(fd, end)) and not whole(block):
        end -= len(block)
    end -= len(block) - whole(block)
    if end < size:
        os.ftruncate(fd, end)
    return size - end


def remove(path: Path) -> None:
    """Remove a regular file or a symlink if it exists. Raises Unusable for anything else."""
    if regular(path, symlink=True):
        os.unlink(path)


class DataFolder:
    """The current segment and the lock that makes this process the only writer.

    All methods except `open` raise OSError and can be retried.
    """

    def __init__(self, path: Path, segment_size: int = 0, keep: int = 2, fsync: bool = False) -> None:
        self.path, self.segment_size, self.keep, self.fsync = path, segment_size, keep, fsync
        self.lock = Lock(path.with_name(path.name + ".lock"))
        self.boot = boot_id()
        self.started = False  # the fields below are valid
        self.segment = Segment("", 0)
        self.fd = -1  # of the segment; -1 while it is not open, or not created yet
        self.size = 0
        self.tail = b""
        self.shown = ""  # the target of the symlink

    @property
    def end(self) -> int:
        """The offset in the stream after the last number."""
        return self.segment.base + self.size

    def file(self, segment: Segment) -> Path:
        """Return the path of a segment."""
        return self.path.with_name(segment.file_name(self.path.name))

    def open(self) -> str:
        """Lock the folder and find where to continue. Return a text to log, or an empty string.

        Raises Locked, or Unusable if a retry cannot help.
        """
        if os.path.isdir(self.path):
            raise Unusable(f"{self.path} is a directory: give a file in it, such as {self.path / 'data'}")
        if not os.path.isdir(self.path.parent):
            raise Unusable(f"directory {self.path.parent} does not exist: create it or give a file elsewhere")
        try:
            regular(self.path, symlink=True)
            return self.check()
        except (Locked, Unusable):
            raise
        except PermissionError as error:
            denied = f"permission denied for user {os.geteuid()}, group {os.getegid()}"
            raise Unusable(f"cannot write {error.filename}: {denied}: change its mode or run as its owner") from None
        except OSError as error:
            if error.errno in TEMPORARY:
                return ""  # a retry may help
            raise Unusable(f"{error.filename or self.path}: {error.strerror}") from None

    def check(self) -> str:
        """Repair what other programs changed since the last call. Return a text to log, or an empty string."""
        if self.lock.acquire():
            self.started = False
        if not self.started:
            return self._start()
        if damage := self._damage():
            return self._replace_segment(damage)
        if self.shown and not (self.path.is_symlink() and os.readlink(self.path) == self.shown):
            self.shown = ""
            return f"{self.path} was removed or replaced: restoring the symlink"
        return ""

    def append(self, lines: bytes) -> int:
        """Append whole lines with one write(2). Return the number of bytes written.

        If the disk fills up, the segment receives fewer lines, all of them whole. Raises OSError if it receives none.
        """
        if self.size:
            self._show()
        if self.segment_size and self.size and self.size + len(lines) > self.segment_size:
            self._begin(Segment(self.segment.stream, self.end))
        if self.fd < 0:
            path = self.file(self.segment)
            remove(path)  # no reader has received a byte of this segment
            self.fd = open_regular(path, os.O_APPEND | os.O_CREAT | os.O_EXCL)
        written = os.write(self.fd, lines)
        kept = whole(lines[:written])
        if kept < written:
            os.ftruncate(self.fd, self.size + kept)
        if not kept:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.file(self.segment)))
        self.size += kept
        self.tail = (self.tail + lines[max(0, kept - TAIL_BYTES) : kept])[-TAIL_BYTES:]
        if self.fsync:
            os.fsync(self.fd)
        with contextlib.suppress(OSError):  # the lines are written; the next call raises the error
            self._show()
        with contextlib.suppress(OSError):  # an old state is safe: the next start accepts later lines
            self._record()
        return kept

    def close(self) -> None:
        """Close the segment; the next check opens it again. Keep the lock."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def stop(self) -> None:
        """Record a clean stop, so that the next start continues the same segment."""
        if self.started:
            with contextlib.suppress(OSError):
                self._record(stopped=True)
        self.close()
        self.lock.release()

    def _start(self) -> str:
        remove(self._symlink("probe"))
        notes = [self._resume()]
        if cut := self._continue():
            notes.append(f"removed a torn last line of {cut} bytes from {self.file(self.segment)}")
        self._record(sync=True)  # a start after a crash in `_take_over` needs the stream
        notes.append(self._take_over())
        self.started = True
        return "; ".join(filter(None, notes))

    def _resume(self) -> str:
        """Find where the last writer ended. Return a text to log, or an empty string.

        Offsets that a reader may have received are never used for other bytes.
        """
        state = self.lock.read()
        left = [found for found in self._segments() if state and found.stream == state.stream]
        if not state or not left:
            self._begin(Segment(secrets.token_hex(4), 0))
            return ""
        written = Segment(state.stream, state.base)
        self._begin(max(*left, written))
        if self.segment == written:
            self.size, self.tail = state.end - state.base, state.tail.encode("latin-1")
        damage = self._damage(killed=not state.stopped)
        crashed = not state.stopped and (state.boot != self.boot or not self.boot)
        if crashed and (not damage or damage.startswith(TRUNCATED)):  # the rest is intact
            return self._replace_segment("may have lost its end in a crash of the machine", SKIP_BYTES, keep=True)
        return self._replace_segment(damage, 0 if state.stopped else SKIP_BYTES) if damage else ""

    def _replace_segment(self, damage: str, skip: int = 0, keep: bool = False) -> str:
        """Begin a segment after the current one and any bytes that others appended to it. Return a text to log."""
        path = self.file(self.segment)
        found = regular(path, symlink=True)
        if not keep:
            remove(path)
        size = max(self.size, found.st_size if found else 0)
        self._begin(Segment(self.segment.stream, self.segment.base + size + skip))
        return f"{path} {damage}: continuing in {self.file(self.segment).name}"

    def _take_over(self) -> str:
        """Rename version one's files to segments: FILE.1, then FILE. A start after a crash continues this."""
        old = self.path.with_name(self.path.name + ".1")
        files = [] if self.path.is_symlink() else [path for path in (old, self.path) if regular(path)]
        if not files:
            return ""
        if len(files) == 2 and os.path.samefile(*files):
            remove(files.pop(0))  # version one was killed in a rotation: one file has two names
        for path in files:
            self._begin(Segment(self.segment.stream, self.end))
            os.rename(path, self.file(self.segment))
            self._continue()
        for suffix in (".new", ".1.new"):
            remove(self.path.with_name(self.path.name + suffix))
        self._record(sync=True)
        return f"renamed the data file of version one to {self.file(self.segment).name}"

    def _segments(self) -> list[Segment]:
        found = (parse(self.path.name, name) for name in os.listdir(self.path.parent))
        return [segment for segment in found if segment]

    def _begin(self, segment: Segment) -> None:
        self.close()
        self.segment, self.size, self.tail = segment, 0, b""

    def _continue(self) -> int:
        """Open the current segment if it exists and remove a torn last line. Return the line's length in bytes."""
        if self.fd < 0 and regular(path := self.file(self.segment)):
            self.fd = open_regular(path, os.O_APPEND)
        if self.fd < 0:
            return 0
        cut = cut_torn_line(self.fd)
        self.size = os.fstat(self.fd).st_size
        self.tail = tail(self.fd, self.size)
        return cut

    def _damage(self, killed: bool = False) -> str:
        """Return how the current segment was damaged, or an empty string.

        `killed`: the writer may have written more than it recorded.
        """
        path = self.file(self.segment)
        if not (found := regular(path)):
            return "was removed" if self.size or self.fd >= 0 or killed else ""
        if self.fd < 0:
            self.fd = open_regular(path, os.O_APPEND)
        if not os.path.samestat(found, os.fstat(self.fd)):
            return "was replaced"
        if found.st_size < self.size:
            return f"{TRUNCATED} from {self.size} to {found.st_size} bytes"
        if found.st_size > self.size and not killed:
            return "was appended to by another program"
        return "" if tail(self.fd, self.size) == self.tail else "was changed at its end"

    def _symlink(self, target: str) -> Path:
        """Make a symlink under a temporary name next to the data file. Return its path."""
        link = self.path.with_name(self.path.name + ".link")
        remove(link)
        try:
            os.symlink(target, link)
        except OSError as error:
            if error.errno in NO_SYMLINKS:
                problem = f"cannot make symlinks in {self.path.parent}"
                raise Unusable(f"{problem}: give a file on another file system") from None
            raise
        return link

    def _show(self) -> None:
        """Point the symlink to the current segment, then remove finished segments beyond `keep`."""
        name = self.segment.file_name(self.path.name)
        if self.shown == name:
            return
        regular(self.path, symlink=True)
        os.replace(self._symlink(name), self.path)
        if self.fsync:
            fd = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        self.shown = name
        with contextlib.suppress(OSError):  # the next rotation retries
            finished = [segment for segment in self._segments() if segment != self.segment]
            finished.sort(key=lambda found: (found.stream == self.segment.stream, found.base), reverse=True)
            for segment in finished[self.keep :]:  # other streams first, then the oldest
                remove(self.file(segment))

    def _record(self, stopped: bool = False, sync: bool = False) -> None:
        stream, base = self.segment
        self.lock.write(State(stream, base, self.end, self.tail.decode("latin-1"), self.boot, stopped), sync)
