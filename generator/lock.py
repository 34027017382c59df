"""The lock file: one writer per folder, and the state for the next start."""

import contextlib
import fcntl
import json
import os
import stat
from pathlib import Path

from generator.segments import State

MODE = 0o664  # group 0 may continue the file under another user id, as OpenShift needs
STATE_BYTES = 1024  # always overwritten as a whole, with one write within a page: a kill cannot tear it
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
ORIGINAL_NS = 10**9  # a lock file that changed later than this after its state was written is a copy


class Locked(Exception):
    """Another process writes to this folder; the message says which."""


class Unusable(Exception):
    """The folder cannot be written as asked; the message says why and what to do."""


def boot_id() -> str:
    """Return the id of the machine's boot, or an empty string where there is none."""
    with contextlib.suppress(OSError):
        return BOOT_ID.read_text().strip()
    return ""


def open_regular(path: Path, flags: int) -> int:
    """Open a regular file; anything else at the path is never opened. Raises Unusable and OSError."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise Unusable(f"{path} is not a regular file: remove it")
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags, MODE)


class Lock:
    """An flock on a file of its own, because segments come and go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1

    def held(self) -> bool:
        """Return whether the file at the path is the one this process has locked."""
        try:
            return self.fd >= 0 and os.path.samestat(os.fstat(self.fd), os.lstat(self.path))
        except FileNotFoundError:
            return False

    def acquire(self) -> bool:
        """Lock the file at the path, then let go of the one locked before.

        Returns whether another generator may find that older file, with its state. Raises Locked.
        """
        fd = open_regular(self.path, os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(fd, STATE_BYTES, 0).decode(errors="replace").partition("\n")[0].strip()
            os.close(fd)
            if not isinstance(error, BlockingIOError):
                raise
            raise Locked(f"{self.path.with_suffix('')} has a writer already: {holder or 'unknown'}") from None
        moved = self.fd >= 0 and os.fstat(self.fd).st_nlink > 0
        self.release()
        self.fd = fd
        return moved

    def read(self) -> State | None:
        """Return the state that this very file was left with; None if there is none, or the file is a copy.

        A copy has another inode or, restored in place, a change time that no longer fits: no program can set it.
        """
        now = os.fstat(self.fd)
        try:
            kept = json.loads(os.pread(self.fd, STATE_BYTES, 0).partition(b"\n")[2])
            original = kept.pop("inode") == now.st_ino and abs(now.st_ctime_ns - kept.pop("changed")) < ORIGINAL_NS
            return State(**kept) if original else None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, state: State, sync: bool = False) -> None:
        """Keep the state; `sync` makes it outlive a crash of the machine."""
        os.utime(self.fd)  # so that the file system's own clock tells the time, not this machine's
        now = os.fstat(self.fd)
        kept = json.dumps({**state._asdict(), "inode": now.st_ino, "changed": now.st_ctime_ns})
        text = f"generator with pid {os.getpid()} on host {os.uname().nodename}\n{kept}"
        os.pwrite(self.fd, text.encode().ljust(STATE_BYTES - 1) + b"\n", 0)
        if sync:
            os.fsync(self.fd)

    def release(self) -> None:
        """Unlock."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
