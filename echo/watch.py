"""Tells when the file may have changed: by inotify where it works, by looking where it does not."""

import asyncio
import contextlib
from collections.abc import Callable

from inotify_simple import INotify, flags

from echo.datafile import DataFile

LOOK = 1.0  # seconds between looks while inotify is to be trusted
POLL = 0.05  # and while it is not
PAUSE = 0.002  # at least, between two looks at a file that is written to all the time
TRUST = 2  # changes in a row that inotify did not tell, after which it is not trusted

CONTENT = flags.MODIFY | flags.ATTRIB | flags.MOVE_SELF | flags.DELETE_SELF
NAMES = flags.CREATE | flags.MOVED_TO


class Watch:
    """Calls `look` when the file at `path` may have changed; that returns whether it had.

    On network file systems inotify tells of this machine's own writes only, if of any. Nothing says
    so beforehand, thus it is found out: looking once a second finds changes that were not told.
    """

    via: tuple[str, ...] = ()  # the file is the source itself

    def __init__(self, file: DataFile) -> None:
        self.path = file.path
        self.reopen = file.reopen
        self.inotify: INotify | None = None
        self.file = -1  # the watch on it
        self.missed = 0
        self.due: asyncio.TimerHandle | None = None
        self.looked = 0.0

    @property
    def how(self) -> str:
        return "inotify" if self.inotify and self.missed < TRUST else "polling"

    # There is nothing between the file and echo to tell of.

    def unready(self) -> str:
        return ""

    def remark(self) -> str:
        return ""

    def report(self) -> None:
        return None

    async def awaited(self, name: str) -> None:
        return None

    async def run(self, look: Callable[[], bool]) -> None:
        """Until cancelled."""
        self.look = look
        loop = asyncio.get_running_loop()
        try:
            self.inotify = inotify = await asyncio.to_thread(INotify, nonblocking=True)
            loop.add_reader(inotify.fd, self._told)
        except (OSError, AttributeError):  # no more instances for this user, or no inotify at all
            pass
        try:
            while True:
                self._watch()
                self._check()
                await asyncio.sleep(LOOK if self.how == "inotify" else POLL)
        finally:
            if self.inotify:
                loop.remove_reader(self.inotify.fd)
                self.inotify.close()

    def _watch(self) -> None:
        """Watch the folder for another file of this name, and the file that has it now."""
        if not self.inotify:
            return
        try:
            self.inotify.add_watch(self.path.parent, NAMES)
            file = self.inotify.add_watch(self.path, CONTENT)
        except OSError:  # not there, or no more watches for this user
            return
        before, self.file = self.file, file
        if before not in (-1, file):
            with contextlib.suppress(OSError):  # went with its file
                self.inotify.rm_watch(before)

    def _check(self) -> None:
        """Look, and see whether inotify has told what there was to see."""
        told = self._read() or self.due
        if self._look() and not told and not self._read():
            self.missed += 1

    def _told(self) -> None:
        """Look at once, but not all the time."""
        if self._read() and not self.due:
            loop = asyncio.get_running_loop()
            self.due = loop.call_at(max(self.looked + PAUSE, loop.time()), self._look)

    def _read(self) -> bool:
        """Whether inotify tells something."""
        if not self.inotify:
            return False
        # Of the folder's other files it may tell where it does not of this one.
        events = [event for event in self.inotify.read(timeout=0) if event.name in ("", self.path.name)]
        if events:
            self.missed = 0
        if any(event.mask & (NAMES | flags.ATTRIB | flags.IGNORED) for event in events):
            self._watch()
        return bool(events)

    def _look(self) -> bool:
        if self.due:
            self.due.cancel()
            self.due = None
        self.looked = asyncio.get_running_loop().time()
        return self.look()
