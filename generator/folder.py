"""The data folder as its one writer sees it: segments, and the symlink to the current one.

Not noticed at a start: a roll-back of the whole file system, and a change before the last 64 bytes of a segment.
"""

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from generator.lock import Lock, Unusable, boot_id, open_regular
from generator.segments import TAIL_BYTES, Found, Past, Segment, State, beyond, judge, next_base, parse, whole

TEMPORARY = {errno.ENOSPC, errno.EDQUOT, errno.EIO}  # faults of a disk that may pass
NO_SYMLINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def cut_torn_line(fd: int) -> int:
    """Remove what stands after the last whole line; returns the number of bytes."""
    end = size = os.fstat(fd).st_size
    while end > 0:
        start = max(0, end - 4096)
        if lines := whole(os.pread(fd, end - start, start)):
            end = start + lines
            break
        end = start
    if end < size:
        os.ftruncate(fd, end)
    return size - end


def is_plain(path: Path) -> bool:
    """Return whether a regular file is at the path; a symlink is none."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def remove(path: Path) -> None:
    """Remove a file if it is there. Raises Unusable for a directory, a FIFO, a device or a socket."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode) and not path.is_symlink():
            raise Unusable(f"{path} is not a regular file: remove it")
        os.unlink(path)


class DataFolder:
    """The current segment, open or not, and the lock that makes this process the one writer.

    All methods but `open` raise OSError, Locked and Unusable; they can be tried again.
    """

    def __init__(self, path: Path, segment_size: int = 0, keep: int = 2, fsync: bool = False) -> None:
        self.path, self.segment_size, self.keep, self.fsync = path, segment_size, keep, fsync
        self.lock = Lock(path.with_name(path.name + ".lock"))
        self.segment = Segment("", 0)
        self.fd = -1  # of the segment; -1: to be opened if it has bytes, else to be created
        self.size = 0
        self.tail = b""
        self.shown = ""  # the symlink's target
        self.boot = boot_id()

    @property
    def end(self) -> int:
        """The offset in the stream after the last number."""
        return self.segment.base + self.size

    def file(self, segment: Segment) -> Path:
        """Return the path of a segment."""
        return self.path.with_name(segment.file_name(self.path.name))

    def open(self) -> str:
        """Lock the folder and find where to continue. Returns what to log, or nothing.

        Raises Locked, and Unusable where no later try could help.
        """
        folder = self.path.parent
        if os.path.isdir(self.path):
            raise Unusable(f"{self.path} is a directory: give a file in it, as {self.path / 'data'}")
        if os.path.lexists(self.path) and not is_plain(self.path) and not self.path.is_symlink():
            raise Unusable(f"{self.path} is not a regular file: give one, or a new name")
        if not os.path.isdir(folder):
            raise Unusable(f"directory {folder} does not exist: create it or give a file elsewhere")
        try:
            return self.check()
        except PermissionError as error:
            who = f"user {os.geteuid()} with group {os.getegid()}"
            raise Unusable(f"{error.filename} is not writable by {who}: let them, or run as its owner") from None
        except OSError as error:
            if error.errno in TEMPORARY:
                return ""  # the next try may help
            raise Unusable(f"{error.filename or self.path}: {error.strerror}") from None

    def check(self) -> str:
        """Look for what others did since the last call, and go on after it. Returns what to log, or nothing."""
        if self.lock.fd < 0:
            return self._start()
        if not self.lock.held():
            if self.lock.acquire():  # the folder was moved away: another generator may continue the stream there
                self._begin(Segment(secrets.token_hex(4), 0))
            self._record(sync=True)
        if damage := self._damage():
            damaged = self.file(self.segment)
            self._replace_segment()
            return f"{damaged} {damage}: continuing in {self.file(self.segment).name}"
        if self.shown and self._target() != self.shown:
            self.shown = ""
            return f"{self.path} was removed or replaced: restoring the symlink"
        return ""

    def append(self, lines: bytes) -> int:
        """Append whole lines with one write(2); returns how many bytes of them are in the segment.

        That is fewer than given, and still whole lines, when the disk filled up on the way; it is never none.
        """
        if self.size:
            self._show()
        if self.segment_size and self.size and self.size + len(lines) > self.segment_size:
            self._begin(Segment(self.segment.stream, self.end))
        if self.fd < 0:
            path = self.file(self.segment)
            remove(path)  # nobody has received a byte of it
            self.fd = open_regular(path, os.O_APPEND | os.O_CREAT | os.O_EXCL)
        kept = self._write(lines)
        with contextlib.suppress(OSError, Unusable):  # the lines are written: the next call reports it
            self._show()
        with contextlib.suppress(OSError):  # an old state only makes the next start more careful
            self._record()
        return kept

    def close(self) -> None:
        """Close the segment; the next check opens it again. The lock stays."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def stop(self) -> None:
        """Record a clean stop, so that the next start continues in the same segment."""
        if self.lock.fd >= 0:
            with contextlib.suppress(OSError):
                self._record(stopped=True)
        self.close()
        self.lock.release()

    def _start(self) -> str:
        self.lock.acquire()
        try:
            self._probe_symlinks()
            state = self.lock.read()
            newest = self._newest(state) if state else None
            past = judge(state, self.boot, newest)
            done = past.value if newest and past is not Past.INTACT else ""
            if not state or not newest:
                self._begin(Segment(secrets.token_hex(4), 0))
            elif past is Past.INTACT:
                self._begin(newest.segment)
            else:
                if past is Past.DAMAGED and newest.segment.base == state.base:
                    remove(self.file(newest.segment))
                self._begin(Segment(state.stream, next_base(state, newest)))
            cut = self._continue()
            self._record(sync=True)
            taken = self._take_over()
        except BaseException:
            self.close()
            self.lock.release()
            raise
        told = [f"{done}: continuing in {self.file(self.segment).name}" if done else "", taken]
        told += [f"cut a torn last line of {cut} bytes off {self.file(self.segment)}" if cut else ""]
        return "; ".join(filter(None, told))

    def _probe_symlinks(self) -> None:
        link = self.path.with_name(self.path.name + ".link")
        remove(link)
        try:
            os.symlink("probe", link)
        except OSError as error:
            if error.errno in NO_SYMLINKS:
                raise Unusable(f"{self.path.parent} cannot hold symlinks: give a file on another file system") from None
            raise
        remove(link)

    def _segments(self) -> list[Segment]:
        found = (parse(self.path.name, name) for name in os.listdir(self.path.parent))
        return [segment for segment in found if segment]

    def _newest(self, state: State) -> Found | None:
        segments = [segment for segment in self._segments() if segment.stream == state.stream]
        if not segments:
            return None
        fd = open_regular(self.file(newest := max(segments)), 0)
        try:
            end = state.end - newest.base
            start = max(0, end - TAIL_BYTES)
            tail = os.pread(fd, end - start, start) if end > 0 else b""
            return Found(newest, os.fstat(fd).st_size, tail.decode("latin-1"))
        finally:
            os.close(fd)

    def _begin(self, segment: Segment) -> None:
        self.close()
        self.segment, self.size, self.tail = segment, 0, b""

    def _continue(self) -> int:
        """Open the current segment if it exists, and cut a torn last line off it; returns the bytes cut."""
        if not os.path.lexists(path := self.file(self.segment)):
            return 0
        self.fd = open_regular(path, os.O_APPEND)
        cut = cut_torn_line(self.fd)
        self.size = os.fstat(self.fd).st_size
        self.tail = os.pread(self.fd, TAIL_BYTES, max(0, self.size - TAIL_BYTES))
        return cut

    def _take_over(self) -> str:
        """Make segments of the files that version one left: FILE.1, then FILE. A crash in between is no harm.

        The state is written before, so that a start after a crash knows the stream and continues with what is left.
        """
        old = self.path.with_name(self.path.name + ".1")
        plain = is_plain(self.path)
        if not plain and (os.path.lexists(self.path) or self._segments() or not is_plain(old)):
            return ""
        if plain and is_plain(old) and os.path.samefile(old, self.path):
            remove(old)  # a kill within a rotation left two names of one file
        for path in filter(is_plain, (old, self.path)):
            self._begin(Segment(self.segment.stream, self.end))
            fd = open_regular(path, 0)
            try:
                cut_torn_line(fd)
            finally:
                os.close(fd)
            os.rename(path, self.file(self.segment))
            self._continue()
        for suffix in (".new", ".1.new"):
            remove(self.path.with_name(self.path.name + suffix))
        self._record(sync=True)
        return f"made a segment of the file of version one: {self.file(self.segment).name}"

    def _damage(self) -> str:
        """Return what another program did to the current segment, or an empty string."""
        path = self.file(self.segment)
        if self.fd < 0 and not self.size and not is_plain(path):
            return ""  # to be created
        try:
            found = os.lstat(path)
            if self.fd < 0 or not stat.S_ISREG(found.st_mode):
                self.fd = open_regular(path, os.O_APPEND)
        except FileNotFoundError:
            return "was removed"
        if not os.path.samestat(found, os.fstat(self.fd)):
            return "was replaced"
        if found.st_size < self.size:
            return f"was truncated from {self.size} to {found.st_size} bytes"
        if found.st_size > self.size:
            return "was appended to by another program"
        tail = os.pread(self.fd, TAIL_BYTES, max(0, self.size - TAIL_BYTES))
        return "" if tail == self.tail else "was changed at its end"

    def _replace_segment(self) -> None:
        """Remove the damaged segment and continue after it, behind what others appended to it."""
        path = self.file(self.segment)
        size = max(self.size, os.lstat(path).st_size if os.path.lexists(path) else 0)
        remove(path)
        self._begin(Segment(self.segment.stream, self.segment.base + size))

    def _write(self, lines: bytes) -> int:
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
        return kept

    def _target(self) -> str:
        try:
            return os.readlink(self.path)
        except OSError:
            return ""  # it is missing, or no symlink

    def _show(self) -> None:
        """Point the symlink to the current segment, then remove finished ones beyond those to keep."""
        name = self.segment.file_name(self.path.name)
        if self.shown == name:
            return
        if os.path.lexists(self.path) and not is_plain(self.path) and not self.path.is_symlink():
            raise Unusable(f"{self.path} is not a regular file: remove it")
        self._sync_folder()
        link = self.path.with_name(self.path.name + ".link")
        remove(link)
        os.symlink(name, link)
        os.replace(link, self.path)
        self._sync_folder()
        self.shown = name
        with contextlib.suppress(OSError, Unusable):  # the next switch tries again
            for segment in beyond(self._segments(), self.segment, self.keep):
                remove(self.file(segment))

    def _sync_folder(self) -> None:
        if self.fsync:
            fd = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _record(self, stopped: bool = False, sync: bool = False) -> None:
        tail = self.tail.decode("latin-1")
        state = State(self.segment.stream, self.segment.base, self.end, tail, self.boot, stopped)
        self.lock.write(state, sync)
