"""The data of another echo in files of our own: served as if they were local, also while that one is away."""

import contextlib
import fcntl
import os
import re
import weakref
from collections import deque
from pathlib import Path

from echo.datafile import LONGEST, SMALL, Descriptor, Generation, NotReady, Snapshot
from echo.log import log as say
from echo.numbers import are_numbers

NOW = "now"  # a link to the generation of now
KEPT = 2  # generations: the one of now, and the one before for who is still in it


class Writer:
    """Appends to the file of a generation, in the thread that follows the source; nothing but numbers."""

    def __init__(self, file: Descriptor, name: str, size: int) -> None:
        self.file, self.name = file, name
        self.written = self.size = size  # bytes; and those of whole lines
        self.last = b"\n"  # byte

    @property
    def position(self) -> str:
        return f"{self.name}-{self.size}"

    def append(self, block: bytes, changed: float) -> None:
        """As much of it as the file takes; it is of that Unix time. Raises OSError, with no line lost or torn.

        Raises ValueError, with nothing written, if these are no numbers.
        """
        if not are_numbers(block, self.last):
            raise ValueError("its data are no numbers, one a line")
        start, done = self.written, 0
        try:
            while done < len(block):
                done += os.pwrite(self.file.fd, memoryview(block)[done:], start + done)
            with contextlib.suppress(OSError):  # as of a file of another user
                os.utime(self.file.fd, (changed, changed))  # for who goes on with it
        finally:
            self._took(block[:done])
        if self.written - self.size > LONGEST:
            raise ValueError(f"a line of more than {LONGEST} bytes is no number")

    def _took(self, block: bytes) -> None:
        if end := block.rfind(b"\n") + 1:
            self.size = self.written + end
        self.written += len(block)
        self.last = block[-1:] or self.last

    def resume(self) -> bool:
        """Go on with what is in the file, up to a torn last line; whether it is all numbers."""
        while block := self.file.read(self.written, self.written + SMALL):
            if not are_numbers(block, self.last):
                return False
            self._took(block)
        self.rewind()
        return bool(self.size)

    def rewind(self) -> None:
        """Forget the torn line that a broken connection left."""
        self.written, self.last = self.size, b"\n"


class Spool:
    """A file a generation, of its name, in a folder; or in memory, lost with the process.

    It is what a DataFile is to those who read; a mirror writes it. Raises OSError if the folder
    cannot be used, or is by another echo.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.problem = "nothing was mirrored yet"
        self.current: Generation | None = None
        self.writer: Writer | None = None  # to go on with
        self.living: weakref.WeakValueDictionary[str, Generation] = weakref.WeakValueDictionary()
        self.kept: deque[Generation] = deque()
        self.awaited: dict[str, Generation] = {}  # which the source has already
        self.snapshot: Snapshot | None = None
        self.changed = 0.0  # Unix time of the newest number
        self.grown = self.turns = 0
        if folder:
            self.lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(f"--spool (ECHO_SPOOL): {folder} is in use by another echo") from None
            self._load(folder)

    def _load(self, folder: Path) -> None:
        """What an earlier run left."""
        left = [path for path in folder.iterdir() if re.fullmatch("[0-9a-f]{16}", path.name)]
        now = os.path.realpath(folder / NOW)
        for path in sorted(left, key=lambda path: (os.path.realpath(path) == now, path.stat().st_ctime_ns)):
            writer = Writer(Descriptor(os.open(path, os.O_RDWR | os.O_CLOEXEC)), path.name, 0)
            if writer.resume():
                self.grew(writer, writer.size, path.stat().st_mtime)
                self.writer = writer
            else:
                say(f"{path} is not whole lines of numbers: it is mirrored anew")
                path.unlink()
        self.turns = self.grown = 0

    def open(self, name: str, anew: bool = False) -> Writer:
        """Begin the file of a generation, or go on with it unless it is to be begun anew. Raises OSError."""
        generation = self.living.get(name)
        kept = generation and generation.size and not generation.lost and not anew
        # What was said to be gone was removed from the folder, and would not outlive this process.
        if generation and kept and (not self.folder or os.fstat(generation.descriptor.fd).st_nlink):
            return Writer(generation.descriptor, name, generation.size)
        if not self.folder:
            return Writer(Descriptor(os.memfd_create(name, os.MFD_CLOEXEC)), name, 0)
        path = self.folder / name
        path.unlink(missing_ok=True)  # who reads it goes on with it
        return Writer(Descriptor(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o664)), name, 0)

    # What follows runs in the thread that serves.

    def grew(self, writer: Writer, size: int, changed: float) -> None:
        """So many bytes of whole lines are there now, and the newest is of then."""
        before = self.current
        if before and before.descriptor is writer.file:
            self.grown += max(0, size - before.size)
            before.cut = False  # should the source have said so: it goes on with it
            if size > before.size:
                before.size, self.changed = size, max(changed, self.changed)  # clocks differ; this one only goes on
        else:
            self.grown += size
            self._turn(writer, size)
            self.changed = changed
        self.snapshot = None

    def _turn(self, writer: Writer, size: int) -> None:
        """A generation takes the place of the one before; or its own, if what was taken for it was another."""
        before = self.current
        generation = self.awaited.pop(writer.name, None) or Generation(writer.name)
        generation.descriptor, generation.size = writer.file, size
        self.current = self.living[writer.name] = generation
        if before:
            before.next = generation
            self.turns += 1
            if before.name == writer.name:
                self.kept.remove(before)
                before.cut = True
                before.lose()
            elif before.cut:
                self._remove(before)  # a later run would not know that something is missing
        self.kept.append(generation)
        if self.folder:
            with contextlib.suppress(OSError):  # as of a full disk; then the time of the last write tells
                (self.folder / f"{NOW}.new").unlink(missing_ok=True)
                (self.folder / f"{NOW}.new").symlink_to(writer.name)
                (self.folder / f"{NOW}.new").replace(self.folder / NOW)
        while len(self.kept) > KEPT:
            oldest = self.kept.popleft()
            oldest.lose()
            if oldest.name != writer.name:
                self._remove(oldest)

    def _remove(self, generation: Generation) -> None:
        """From the folder; who reads it goes on with it."""
        if self.folder:
            (self.folder / generation.name).unlink(missing_ok=True)

    def cut(self) -> None:
        """The source has no more of the generation of now, which may have had more."""
        if self.current:
            self.current.cut = True

    def look(self) -> Snapshot:
        """The data as they are now. Raises NotReady."""
        if not self.current or not self.current.size:
            raise NotReady(self.problem)
        if not self.snapshot:
            self.snapshot = Snapshot(self.current.descriptor, self.current.name, self.current.size, self.changed)
        return self.snapshot

    def find(self, name: str) -> Generation | None:
        """A generation that can still be read."""
        return self.living.get(name)

    def expect(self, name: str) -> Generation:
        """A generation that is yet to come, for who has begun with it elsewhere."""
        if not (generation := self.living.get(name)):
            generation = self.living[name] = self.awaited[name] = Generation(name)
        return generation

    def give_up(self, name: str) -> None:
        """It will not come, unless it has."""
        if generation := self.awaited.pop(name, None):
            generation.lost = generation.cut = True
            generation.next = self.current
