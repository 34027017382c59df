"""The data file as its one writer sees it: locked, appended to by whole lines, rotated, mended."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

MODE = 0o664  # group 0 may go on with the file under another user id, as OpenShift needs

PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO}  # troubles of a disk that may pass


class Unusable(Exception):
    """The file cannot be written as asked; the message says why and what would be right."""


class Locked(Exception):
    """Another process writes this file; the message says which."""


def whole(data: bytes) -> int:
    """The length of the whole lines at the start of `data`."""
    return data.rfind(b"\n") + 1


def mend(fd: int) -> int:
    """Cut a torn last line off; returns the bytes cut. A crash of the machine may leave one."""
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


def same_file(fd: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


class DataFile:
    """A data file with the lock that makes this process its one writer.

    All methods but `open` raise OSError as the disk does, and Locked; they can be tried again.
    """

    def __init__(self, path: Path, max_size: int = 0, fsync: bool = False) -> None:
        self.path = path
        self.max_size = max_size
        self.fsync = fsync
        self.size = 0
        self.fd = -1
        self.lock = -1

    def sibling(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def open(self) -> str:
        """Open, lock and mend for the first time; returns what there was to mend, or nothing.

        Raises Locked, or Unusable where no later try could help.
        """
        folder = self.path.parent
        if os.path.isdir(self.path):
            raise Unusable(f"{self.path} is a directory: give a file in it, as {self.path / 'data'}")
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise Unusable(f"{self.path} is not a regular file: give one, or a new name")
        if not os.path.isdir(folder):
            raise Unusable(f"directory {folder} does not exist: create it or give a file elsewhere")
        try:
            return self.reopen()
        except PermissionError as error:
            who = f"user {os.geteuid()} with group {os.getegid()}"
            raise Unusable(f"{error.filename} is not writable by {who}: let them, or run as its owner") from None
        except OSError as error:
            if error.errno in PASSING:
                return ""  # the next try may help
            raise Unusable(f"{error.filename or self.path}: {error.strerror}") from None

    def reopen(self) -> str:
        """Open whatever is at the path now, creating it if need be. Returns as `open` does."""
        self.close()
        if self.lock < 0 or not same_file(self.lock, self.sibling(".lock")):
            self._acquire()
        remove(self.sibling(".new"))  # left by a crash within a rotation
        remove(self.sibling(".1.new"))
        self.fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
        cut = mend(self.fd)
        self.size = os.fstat(self.fd).st_size
        return f"cut a torn last line of {cut} bytes off {self.path}" if cut else ""

    def _acquire(self) -> None:
        """Lock FILE.lock, not the file itself, which rotation replaces."""
        self.release()
        fd = os.open(self.sibling(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 200, 0).decode(errors="replace").strip()
            os.close(fd)
            raise Locked(f"{self.path} has a writer already: {holder or 'unknown'}") from None
        self.lock = fd
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"generator with pid {os.getpid()} on host {os.uname().nodename}\n".encode(), 0)

    def changed(self) -> str:
        """What somebody did to the file since the last write, or an empty string."""
        if self.fd < 0:
            return "is closed"
        if not same_file(self.fd, self.path):
            return "was replaced or removed"
        if self.truncated():
            return f"was truncated from {self.size} to {os.fstat(self.fd).st_size} bytes"
        return ""

    def truncated(self) -> bool:
        return self.fd >= 0 and os.fstat(self.fd).st_size < self.size

    def renew(self) -> None:
        """Go on in a copy of the file: after a truncation, readers must see another file.

        Otherwise new bytes would stand at offsets that were served with other bytes.
        """
        new = self.sibling(".new")
        with open(self.path, "rb") as source, open(new, "wb") as copy:
            while os.sendfile(copy.fileno(), source.fileno(), None, 2**20):
                pass
        os.replace(new, self.path)
        self.reopen()

    def append(self, lines: bytes) -> int:
        """Append whole lines with one write(2); returns how many bytes of them are in the file.

        That is fewer than given, and still whole lines, when the disk filled up on the way; it is never none.
        """
        if self.max_size and self.size and self.size + len(lines) > self.max_size:
            self._rotate(lines)
            return len(lines)
        kept = self._write(self.fd, lines)
        self.size = os.fstat(self.fd).st_size
        return kept

    def _write(self, fd: int, lines: bytes) -> int:
        written = os.write(fd, lines)
        kept = whole(lines[:written])
        if kept < written:
            os.ftruncate(fd, os.fstat(fd).st_size - (written - kept))
        if not kept:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.fsync:
            os.fsync(fd)
        return kept

    def _rotate(self, lines: bytes) -> None:
        """Make the file FILE.1 and begin a new one, which has lines before it can be seen."""
        new = self.sibling(".new")
        fd = os.open(new, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, MODE)
        try:
            if self._write(fd, lines) < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(new))
            self._keep_as_old()
            os.replace(new, self.path)
        except OSError:
            os.close(fd)
            raise
        os.close(self.fd)
        self.fd, self.size = fd, len(lines)

    def _keep_as_old(self) -> None:
        """Give the file the name FILE.1, by a link, so that at every moment there is one at the path."""
        link, old = self.sibling(".1.new"), self.sibling(".1")
        remove(link)
        try:
            os.link(self.path, link)
        except OSError:  # a file system without links: readers may find no file for a moment
            os.replace(self.path, old)
            return
        os.replace(link, old)
        remove(link)  # still there if FILE.1 was this file already, after a failed try

    def close(self) -> None:
        """Close the file; the lock stays."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def release(self) -> None:
        if self.lock >= 0:
            os.close(self.lock)
        self.lock = -1
