"""The lock file: it admits one writer per folder and keeps the state for the next start."""

import fcntl
import json
import os
import stat
from pathlib import Path
from typing import NamedTuple

MODE = 0o664  # OpenShift restarts a pod under another user id of group 0
STATE_BYTES = 1024  # one write within a page, so a kill cannot tear it
ORIGINAL_NS = 10**8  # a lock file that changed this long after its state was written is a copy


class Locked(OSError):
    """Another process writes to this folder; the message names it."""


class Unusable(OSError):
    """The folder cannot be written with these settings; the message says why and what to do."""


class State(NamedTuple):
    """The state that the lock file keeps for the next start."""

    stream: str
    base: int  # of the current segment
    end: int  # the offset after the last number written
    tail: str  # the bytes before it, as Latin-1
    boot: str  # the machine's boot id
    stopped: bool  # the writer stopped cleanly and wrote nothing after `end`


def regular(path: Path, symlink: bool = False) -> os.stat_result | None:
    """Return the status of a regular file (or symlink), or None if the path is free. Raises Unusable otherwise."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(found.st_mode) or (symlink and stat.S_ISLNK(found.st_mode)):
        return found
    raise Unusable(f"{path} is not a regular file: remove it")


def open_regular(path: Path, flags: int) -> int:
    """Open a regular file. Raises Unusable, without opening it, for any other kind; else OSError."""
    regular(path)
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags, MODE)


class Lock:
    """An flock on a separate file, because segments are removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1

    def acquire(self) -> bool:
        """Lock the file at the path unless this process holds it. Raises Locked.

        Return whether to start over: at the first call, and after the folder was moved, because another generator
        may continue the stream there.
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
            raise Locked(f"{self.path.with_suffix('')} already has a writer: {holder or 'unknown'}") from None
        start_over = self.fd < 0 or os.fstat(self.fd).st_nlink > 0
        self.release()
        self.fd = fd
        return start_over

    def read(self) -> State | None:
        """Return the recorded state, or None if there is none or the file is a copy.

        A copy has another inode. A copy restored in place has a later change time, which no program can set.
        """
        now = os.fstat(self.fd)
        try:
            kept = json.loads(os.pread(self.fd, STATE_BYTES, 0).partition(b"\n")[2])
            original = kept.pop("inode") == now.st_ino and abs(now.st_ctime_ns - kept.pop("changed")) < ORIGINAL_NS
            return State(**kept) if original else None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, state: State, sync: bool) -> None:
        """Write the state; with `sync` it survives a crash of the machine."""
        os.utime(self.fd)  # the file system's clock may differ from this machine's
        now = os.fstat(self.fd)
        kept = json.dumps({**state._asdict(), "inode": now.st_ino, "changed": now.st_ctime_ns})
        text = f"generator with pid {os.getpid()} on host {os.uname().nodename}\n{kept}"
        os.pwrite(self.fd, text.encode().ljust(STATE_BYTES - 1) + b"\n", 0)
        if sync:
            os.fsync(self.fd)

    def release(self) -> None:
        """Unlock the file."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
