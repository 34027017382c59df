"""The data file as its readers see it: whole lines only, and a name for each file it has been."""

import contextlib
import ctypes
import functools
import hashlib
import os
import stat
import struct
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SMALL = 2**20  # bytes; what is smaller is kept in memory, which is ten times as fast
BLOCK = 2**16  # bytes read at a time from the end, looking for lines
LONGEST = 4096  # bytes; a file whose end has no line this short is no file of numbers

STATX_BTIME, AT_EMPTY_PATH = 0x800, 0x1000  # linux/stat.h, linux/fcntl.h
libc = ctypes.CDLL(None, use_errno=True)


class NotReady(Exception):
    """There is nothing to serve yet, or no longer; the message says why."""


class Descriptor:
    """An open file, closed with the last snapshot or response that reads it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def of(cls, path: Path) -> "Descriptor":
        """Raises OSError."""
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))  # not to wait for a FIFO's writer

    def __del__(self) -> None:
        os.close(self.fd)

    def read(self, start: int, stop: int) -> bytes:
        return os.pread(self.fd, stop - start, start)


class Generation:
    """One file, which is only ever appended to, as those see it who follow it."""

    def __init__(self, descriptor: Descriptor, name: str, size: int) -> None:
        self.descriptor = descriptor
        self.name = name
        self.size = size  # bytes of whole lines, so far
        self.next: Generation | None = None  # once nothing more comes to this one
        self.overwritten = False
        self.counting = threading.Lock()
        self.counted = self.numbers = 0  # bytes, and numbers in them

    def end(self, successor: "Generation") -> None:
        """Another file has taken its place. What this one got in its last moment counts, unless it was overwritten."""
        ours, theirs = os.fstat(self.descriptor.fd), os.fstat(successor.descriptor.fd)
        self.overwritten = os.path.samestat(ours, theirs)
        if not self.overwritten:
            with contextlib.suppress(NotReady):
                self.size = max(self.size, whole_lines(self.descriptor.read, ours.st_size))
        self.next = successor

    def lines(self, start: int, most: int) -> bytes:
        """The whole lines that begin at `start`, up to `most` bytes. Raises ValueError if none begins there."""
        before = min(start, 1)
        data = self.descriptor.read(start - before, min(start + most, self.size))
        if before and data[:1] not in (b"", b"\n"):
            raise ValueError(f"no line begins at {start}")
        return data[before : data.rfind(b"\n") + 1]

    def count(self) -> tuple[int, int]:
        """Its size in bytes, and how many numbers those are; reads only what came since it was last asked."""
        with self.counting:
            while block := self.descriptor.read(self.counted, min(self.counted + SMALL, self.size)):
                self.numbers += block.count(b"\n")
                self.counted += len(block)
            return self.counted, self.numbers


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The whole lines of the file at one moment. Same generation and same size mean same bytes."""

    descriptor: Descriptor
    generation: str
    size: int  # bytes
    changed: float  # Unix time

    @property
    def etag(self) -> str:
        return f"{self.generation}-{self.size}"

    @functools.cached_property
    def small(self) -> bytes | None:
        """The bytes, if they are few."""
        return self.descriptor.read(0, self.size) if self.size <= SMALL else None

    def read(self, start: int, stop: int) -> bytes:
        return self.descriptor.read(start, stop) if self.small is None else self.small[start:stop]


class DataFile:
    """Looks at the file anew for each request, at the cost of a stat while nothing changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor: Descriptor | None = None
        self.seen: os.stat_result | None = None
        self.snapshot: Snapshot | None = None
        self.served = 0  # bytes of the file that was seen
        self.shrinks = 0  # of it
        self.current: Generation | None = None
        self.living: weakref.WeakValueDictionary[str, Generation] = weakref.WeakValueDictionary()
        self.grown = 0  # bytes that came since the first look, in all generations
        self.turns = 0  # how often a generation took another's place

    def reopen(self) -> None:
        """Open the file anew at the next look."""
        self.descriptor = None

    def look(self) -> Snapshot:
        """The file as it is now. Raises NotReady."""
        try:
            there = os.stat(self.path)
            if self.descriptor and self.seen and self.snapshot and unchanged(there, self.seen):
                return self.snapshot
            if not stat.S_ISREG(there.st_mode):
                raise NotReady(f"{self.path} is not a file")
            if not (self.seen and os.path.samestat(there, self.seen)):
                self.descriptor, self.served, self.shrinks = None, 0, 0
            self.snapshot = None
            self.descriptor = self.descriptor or Descriptor.of(self.path)
            self.seen = os.fstat(self.descriptor.fd)
            self.snapshot = self._take(self.descriptor, self.seen)
        except FileNotFoundError:
            raise NotReady(f"{self.path} is not there yet") from None
        except OSError as error:
            raise NotReady(f"{self.path} cannot be read: {error.strerror}") from None
        return self.snapshot

    def _take(self, descriptor: Descriptor, seen: os.stat_result) -> Snapshot:
        size = whole_lines(descriptor.read, seen.st_size)
        if size < self.served:
            self.shrinks += 1  # what is appended from now on stands where other bytes were served
        self.served = size
        if not size:
            raise NotReady(f"{self.path} has no number yet")
        name = identify(descriptor, seen, size, self.shrinks)
        self._advance(descriptor, name, size)
        return Snapshot(descriptor, name, size, seen.st_mtime)

    def _advance(self, descriptor: Descriptor, name: str, size: int) -> None:
        before = self.current
        if before and before.name == name:
            self.grown += max(0, size - before.size)
            before.size = max(before.size, size)
            return
        self.current = self.living[name] = Generation(descriptor, name, size)
        if before:
            self.grown += size
            self.turns += 1
            before.end(self.current)

    def find(self, name: str) -> Generation | None:
        """A generation that can still be read: the file's, one that somebody follows, or the one rotated to FILE.1."""
        if name in self.living:
            return self.living[name]
        try:
            descriptor = Descriptor.of(self.path.with_name(f"{self.path.name}.1"))
            seen = os.fstat(descriptor.fd)
            size = whole_lines(descriptor.read, seen.st_size)
            if identify(descriptor, seen, size, 0) != name:
                return None
        except (OSError, NotReady):
            return None
        self.living[name] = rotated = Generation(descriptor, name, size)
        rotated.next = self.current
        return rotated


def unchanged(now: os.stat_result, before: os.stat_result) -> bool:
    return os.path.samestat(now, before) and (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def whole_lines(read: Callable[[int, int], bytes], size: int) -> int:
    """How many bytes of a file of `size` are whole lines.

    One write(2) is not one step for a reader: where it crosses a page the kernel shows the first
    part first, so the end of the file may be half a line. Raises NotReady if it is no line at all.
    """
    start = max(0, size - LONGEST)
    end = start + read(start, size).rfind(b"\n") + 1
    if start and end == start:
        raise NotReady(f"its last {LONGEST} bytes have no line end: it is not a file of numbers")
    return end


def tail_offset(read: Callable[[int, int], bytes], size: int, lines: int) -> int:
    """Where the last `lines` lines of `size` bytes of whole lines begin; reads no more than those."""
    if lines == 0:
        return size
    end = size - 1  # before the last line's end
    while end > 0:
        start = max(0, end - BLOCK)
        block = read(start, end)
        found = block.count(b"\n")
        if found >= lines:
            position = len(block)
            for _ in range(lines):
                position = block.rfind(b"\n", 0, position)
            return start + position + 1
        lines -= found
        end = start
    return 0


def identify(descriptor: Descriptor, seen: os.stat_result, size: int, shrinks: int) -> str:
    """The name of a file's generation; `size` is that of its whole lines."""
    first = descriptor.read(0, min(size, LONGEST)).partition(b"\n")[0]
    return name_generation(seen.st_ino, birth_time(descriptor.fd), first, shrinks)


def name_generation(inode: int, birth: int, first_line: bytes, shrinks: int) -> str:
    """A name that is the same wherever the same file is seen, and another for any other file.

    An inode alone is used again at once after a file is removed; the time of its birth and its
    first line tell it from its predecessor. 16 hexadecimal digits.
    """
    identity = f"{inode} {birth} {shrinks} ".encode() + first_line
    return hashlib.blake2b(identity, digest_size=8).hexdigest()


def birth_time(fd: int) -> int:
    """When the file was created, in nanoseconds since 1970; 0 where the file system does not say.

    By statx(2), which Python has only from 3.15 on.
    """
    buffer = ctypes.create_string_buffer(256)
    if not hasattr(libc, "statx") or libc.statx(fd, b"", AT_EMPTY_PATH, STATX_BTIME, buffer) != 0:
        return 0
    (mask,) = struct.unpack_from("=I", buffer, 0)
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, 80)
    return seconds * 10**9 + nanoseconds if mask & STATX_BTIME else 0
