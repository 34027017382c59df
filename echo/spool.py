"""The data of another echo in files of our own: served as if they were local, also while that one is away."""

import contextlib
import fcntl
import os
import re
import weakref
from collections import deque
from pathlib import Path

from echo.datafile import LONGEST, Descriptor, Generation, NotReady, Snapshot, whole_lines

KEPT = 2  # generations: the one of now, and the one before for who is still in it


class Writer:
    """Appends to the file of a generation, in the thread that follows the source."""

    def __init__(self, file: Descriptor, name: str, size: int) -> None:
        self.file, self.name = file, name
        self.written = self.size = size  # bytes; and those of whole lines
        self.last = b"\n"  # byte

    @property
    def position(self) -> str:
        return f"{self.name}-{self.size}"

    def append(self, block: bytes) -> None:
        """As much of it as the file takes. Raises OSError, with no line lost or torn."""
        start, done = self.written, 0
        try:
            while done < len(block):
                done += os.pwrite(self.file.fd, memoryview(block)[done:], start + done)
        finally:
            self.written = start + done
            self.last = block[done - 1 : done] or self.last
            if end := block.rfind(b"\n", 0, done) + 1:
                self.size = start + end
        if self.written - self.size > LONGEST:
            raise ValueError(f"a line of more than {LONGEST} bytes is no number")

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
        for path in sorted(left, key=lambda path: path.stat().st_mtime):
            writer = self.open(path.name)
            there = os.fstat(writer.file.fd)
            with contextlib.suppress(NotReady):
                writer.written = writer.size = whole_lines(writer.file.read, there.st_size)
            if writer.size:
                self.grew(writer, writer.size, there.st_mtime)
                self.writer = writer
            else:
                path.unlink()
        self.turns = self.grown = 0

    def open(self, name: str) -> Writer:
        """Begin the file of a generation, or go on with it. Raises OSError."""
        if (generation := self.living.get(name)) and not generation.lost:
            return Writer(generation.descriptor, name, generation.size)
        if not self.folder:
            return Writer(Descriptor(os.memfd_create(name, os.MFD_CLOEXEC)), name, 0)
        fd = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
        return Writer(Descriptor(fd), name, 0)

    # What follows runs in the thread that serves.

    def grew(self, writer: Writer, size: int, changed: float) -> None:
        """So many bytes of whole lines are there now, and the newest is of then."""
        before = self.current
        if before and before.name == writer.name:
            self.grown += max(0, size - before.size)
            before.size = max(before.size, size)
        else:
            self.grown += size
            self.current = self.living[writer.name] = Generation(writer.file, writer.name, size)
            if before:
                before.next = self.current
                self.turns += 1
            self.kept.append(self.current)
            while len(self.kept) > KEPT:
                oldest = self.kept.popleft()
                oldest.lose()
                if self.folder and oldest.name != writer.name:
                    (self.folder / oldest.name).unlink(missing_ok=True)
        self.changed = changed
        self.snapshot = None

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
