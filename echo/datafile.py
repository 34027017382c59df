"""The data file as its readers see it: whole lines only, and a name for each file it has been."""

import contextlib
import ctypes
import functools
import hashlib
import itertools
import os
import stat
import struct
import weakref
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

SMALL = 2**20  # bytes; what is smaller is kept in memory, which is ten times as fast
BLOCK = 2**16  # bytes read at a time from the end, looking for lines
LONGEST = 4096  # bytes; a file whose end has no line this short is no file of numbers

KNOWN = 64  # bytes at the end by which a file is known again
KEPT = 8  # generations that ended and are still followed

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

    serials = itertools.count()
    descriptor: Descriptor  # once there is something to read, and until it is lost

    def __init__(self, name: str, descriptor: Descriptor | None = None, size: int = 0) -> None:
        self.name = name
        self.serial = next(self.serials)  # another for another file, should the name be the same
        if descriptor:
            self.descriptor = descriptor
        self.size = size  # bytes of whole lines, so far
        self.next: Generation | None = None  # once nothing more comes to this one
        self.lost = False  # its bytes can no longer be had
        self.cut = False  # nor what came to it after these
        self.counted = self.numbers = 0  # bytes, and numbers in them

    def end(self, successor: "Generation") -> None:
        """Another file has taken its place. What this one got in its last moment counts, unless it lost what it had."""
        self.next = successor
        with contextlib.suppress(NotReady, OSError):
            ours, theirs = os.fstat(self.descriptor.fd), os.fstat(successor.descriptor.fd)
            self.lost = os.path.samestat(ours, theirs) or ours.st_size < self.size
            if not self.lost:
                self.size = max(self.size, whole_lines(self.descriptor.read, ours.st_size))

    def lose(self) -> None:
        """Let go of the file, which may have been deleted long ago."""
        if not self.lost:
            self.lost = True
            del self.descriptor

    def lines(self, start: int, most: int) -> bytes:
        """The whole lines that begin at `start`, up to `most` bytes. Raises ValueError if none begins or ends there."""
        before = min(start, 1)
        stop = min(start + most, self.size)
        data = self.descriptor.read(start - before, stop)
        if before and data[:1] not in (b"", b"\n"):
            raise ValueError(f"no line begins at {start}")
        lines = data[before : data.rfind(b"\n") + 1]
        if not lines and before + stop - start == len(data) and start < stop < self.size:
            raise ValueError(f"no line ends in {most} bytes from {start} on")
        return lines

    def count(self) -> Generator[None, None, tuple[int, int]]:
        """Its size in bytes, and how many numbers those are; reads only what came since it was last asked."""
        read = self.descriptor.read  # also if it is lost meanwhile
        while block := read(self.counted, min(self.counted + SMALL, self.size)):
            self.numbers += block.count(b"\n")
            self.counted += len(block)
            yield
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
        self.path, self.name = path, str(path)
        self.descriptor: Descriptor | None = None
        self.seen: os.stat_result | None = None
        self.snapshot: Snapshot | None = None
        self.served = 0  # bytes of the file that was seen
        self.known = b""  # the last of them
        self.shrinks = 0  # of it
        self.current: Generation | None = None
        self.living: weakref.WeakValueDictionary[str, Generation] = weakref.WeakValueDictionary()
        self.grown = 0  # bytes that came since the first look, in all generations
        self.turns = 0  # how often a generation took another's place
        self.rotated = ""  # the generation at FILE.1 at the last turn
        self.renamed = ("", "")  # its name by what it is now, and the one that it was served under
        self.skipped = False  # what came between it and the file is gone
        self.waited = False  # for the first number

    def reopen(self) -> None:
        """Open the file anew at the next look."""
        self.descriptor = None

    def look(self) -> Snapshot:
        """The file as it is now. Raises NotReady."""
        try:
            return self._look()
        except NotReady:
            self.waited = True
            raise

    def _look(self) -> Snapshot:
        try:
            there = os.stat(self.name)
            if self.descriptor and self.seen and self.snapshot and unchanged(there, self.seen):
                return self.snapshot
            if not stat.S_ISREG(there.st_mode):
                raise NotReady(f"{self.path} is not a file")
            if not (self.seen and os.path.samestat(there, self.seen)):
                self.descriptor = None
            self.snapshot = None
            self.descriptor = self.descriptor or Descriptor.of(self.path)
            before, self.seen = self.seen, os.fstat(self.descriptor.fd)
            if not (before and os.path.samestat(before, self.seen)):
                self.served, self.known, self.shrinks = 0, b"", 0
            self.snapshot = self._take(self.descriptor, self.seen)
        except FileNotFoundError:
            raise NotReady(f"{self.path} is not there yet") from None
        except OSError as error:
            raise NotReady(f"{self.path} cannot be read: {error.strerror}") from None
        return self.snapshot

    def _take(self, descriptor: Descriptor, seen: os.stat_result) -> Snapshot:
        size = whole_lines(descriptor.read, seen.st_size)
        last = descriptor.read(max(0, size - KNOWN), size)  # before those known are, lest a change in between is missed
        if size < self.served or descriptor.read(self.served - len(self.known), self.served) != self.known:
            self.shrinks += 1  # other bytes stand, or will stand, where some were served; it may have grown again since
        self.served, self.known = size, last
        if not size:
            raise NotReady(f"{self.path} has no number yet")
        name = identify(descriptor, seen, size, self.shrinks)
        self._advance(descriptor, name, size)
        return Snapshot(descriptor, name, size, seen.st_mtime)

    def _advance(self, descriptor: Descriptor, name: str, size: int) -> None:
        before = self.current
        if before and before.name == name:
            before.descriptor = descriptor
            self.grown += max(0, size - before.size)
            before.size = max(before.size, size)
            return
        self.current = self.living[name] = Generation(name, descriptor, size)
        if before or self.waited:
            self.grown += size
        rotated = self._rotated()
        if before:
            self.turns += 1
            self.skipped = bool(rotated and rotated.name == self.rotated)
            if rotated and rotated.name != before.name and same_file(rotated, before):
                self.renamed, rotated.name = (rotated.name, before.name), before.name
            if rotated and rotated.name not in (before.name, self.rotated):
                self.living[rotated.name] = rotated  # there were two rotations since the last look
                before.end(rotated)
                rotated.end(self.current)
            else:
                before.end(self.current)
        self.rotated = rotated.name if rotated else ""
        for ended in list(self.living.values())[: -KEPT - 1]:
            ended.lose()  # who is still there reads too slowly

    def _rotated(self) -> Generation | None:
        """What the generator's last rotation put aside, by its name."""
        with contextlib.suppress(OSError, NotReady):
            descriptor = Descriptor.of(self.path.with_name(f"{self.path.name}.1"))
            seen = os.fstat(descriptor.fd)
            if size := whole_lines(descriptor.read, seen.st_size):
                name = identify(descriptor, seen, size, 0)
                return Generation(self.renamed[1] if name == self.renamed[0] else name, descriptor, size)
        return None

    def find(self, name: str) -> Generation | None:
        """A generation that can still be read: the file's, one that somebody follows, or the one rotated to FILE.1."""
        if name in self.living:
            return self.living[name]
        rotated = self._rotated()
        if not rotated or rotated.name != name:
            return None
        rotated.next, rotated.cut = self.current, self.skipped
        self.living[name] = rotated
        return rotated


def same_file(one: Generation, other: Generation) -> bool:
    try:
        return os.path.samestat(os.fstat(one.descriptor.fd), os.fstat(other.descriptor.fd))
    except OSError:  # as of a file that was deleted on a network file system
        return False


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


def tail_offset(read: Callable[[int, int], bytes], size: int, lines: int) -> Generator[None, None, int]:
    """Where the last `lines` lines of `size` bytes of whole lines begin; reads no more than those, block by block."""
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
        yield
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
