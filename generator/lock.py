"""The lock file: one writer per folder, and the state for the next start."""

import fcntl
import json
import os
import stat
from pathlib import Path
from typing import NamedTuple

MODE = 0o664  # group 0 may continue the file under another user id, as OpenShift needs
STATE_BYTES = 1024  # always overwritten as a whole, with one write within a page: a kill cannot tear it
ORIGINAL_NS = 10**8  # a lock file that changed later than this after its state was written is a copy


class Locked(OSError):
    """Another process writes to this folder; the message says which."""


class Unusable(OSError):
    """The folder cannot be written as asked; the message says why and what to do."""


class State(NamedTuple):
    """What the lock file keeps for the next start."""

    stream: str
    base: int  # of the current segment
    end: int  # the offset after the last number written
    tail: str  # the bytes before it, as Latin-1
    boot: str  # the machine's boot id
    stopped: bool  # cleanly: nothing was written after `end`


def regular(path: Path, symlink: bool = False) -> os.stat_result | None:
    """Return the status of a regular file (or symlink), None if there is none. Raises Unusable for anything else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(found.st_mode) or (symlink and stat.S_ISLNK(found.st_mode)):
        return found
    raise Unusable(f"{path} is not a regular file: remove it")


def open_regular(path: Path, flags: int) -> int:
    """Open a regular file; anything else at the path is never opened. Raises Unusable and other OSErrors."""
    regular(path)
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags, MODE)


class Lock:
    """An flock on a file of its own, because segments come and go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1

    def acquire(self) -> bool:
        """Lock the file at the path, unless this process has locked it already. Raises Locked.

        Returns whether to start anew: at the first time, and after the folder was moved away, where another
        generator may continue its stream.
        """
        found = regular(self.path)
        if self.fd >= 0 and found and os.path.samestat(found, os.fstat(self.fd)):
            return False
        fd = open_regular(self.path, os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(fd, STATE_BYTES, 0).decode(errors="replace").partition("\n")[0].strip()
            os.close(fd)
            if not isinstance(error, BlockingIOError):
                raise
            raise Locked(f"{self.path.with_suffix('')} has a writer already: {holder or 'unknown'}") from None
        anew = self.fd < 0 or os.fstat(self.fd).st_nlink > 0
        self.release()
        self.fd = fd
        return anew

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

    def write(self, state: State, sync: bool) -> None:
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
