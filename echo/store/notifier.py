"""Notification of changes in the data folder, by inotify where it works and by polling elsewhere."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inotify_simple import INotify

CHECK_SECONDS = 1.0  # between checks while inotify is trusted
POLL_SECONDS = 0.05  # between checks while it is not
PAUSE_SECONDS = 0.002  # at least, between two refreshes for a file that changes all the time
TRUSTED_MISSES = 2  # inotify is not trusted after this many unreported changes in a row

# Masks of inotify(7).
ATTRIB, IGNORED = 0x4, 0x8000
CONTENT = 0x2 | ATTRIB | 0x400 | 0x800  # MODIFY, DELETE_SELF, MOVE_SELF
NAMES = 0x80 | 0x100  # MOVED_TO, CREATE


def open_inotify() -> "INotify":
    """Open inotify. Raises OSError at the limit of instances per user, AttributeError where inotify is missing."""
    from inotify_simple import INotify  # imported here because it takes a tenth of echo's start

    return INotify(nonblocking=True)


class Notifier:
    """A notifier that calls `refresh`, which returns whether the symlink or its segment changed, after each change.

    On network file systems inotify reports only writes from this machine, if any, and nothing announces that. The
    notifier therefore checks once a second and polls if it finds changes that inotify did not report.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inotify: INotify | None = None
        self._file = -1  # the watch on the segment
        self._missed = 0
        self._due: asyncio.TimerHandle | None = None
        self._refreshed = 0.0

    @property
    def how(self) -> str:
        """The method in use: `inotify` or `polling`."""
        return "inotify" if self._inotify and self._missed < TRUSTED_MISSES else "polling"

    async def run(self, refresh: Callable[[], bool]) -> None:
        """Call `refresh` after each change until cancelled."""
        self._call = refresh
        loop = asyncio.get_running_loop()
        try:
            self._inotify = inotify = await asyncio.to_thread(open_inotify)
            loop.add_reader(inotify.fd, self._notified)
        except (OSError, AttributeError):
            pass
        try:
            while True:
                self._watch()
                self._check()
                await asyncio.sleep(CHECK_SECONDS if self.how == "inotify" else POLL_SECONDS)
        finally:
            if self._due:
                self._due.cancel()
            if self._inotify:
                loop.remove_reader(self._inotify.fd)
                self._inotify.close()

    def _watch(self) -> None:
        """Watch the folder for a new symlink, and the current segment for changes."""
        if not self._inotify:
            return
        try:
            self._inotify.add_watch(self.path.parent, NAMES)
            file = self._inotify.add_watch(os.path.realpath(self.path), CONTENT)
        except OSError:  # the file is missing, or the user has too many watches
            return
        before, self._file = self._file, file
        if before not in (-1, file):
            with contextlib.suppress(OSError):  # the kernel removed the watch together with its file
                self._inotify.rm_watch(before)

    def _check(self) -> None:
        """Refresh, and count a change that inotify did not report."""
        reported = self._read() or self._due
        if self._refresh() and not reported:
            if self._read():  # the report came late, or another change followed
                self._schedule()
            else:
                self._missed += 1

    def _notified(self) -> None:
        if self._read():
            self._schedule()

    def _schedule(self) -> None:
        """Refresh at once, or PAUSE_SECONDS after the last refresh."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._refreshed + PAUSE_SECONDS:
            self._refresh()
        elif not self._due:
            self._due = loop.call_at(self._refreshed + PAUSE_SECONDS, self._refresh)

    def _read(self) -> bool:
        """Whether inotify reports a change of the symlink or the segment."""
        if not self._inotify:
            return False
        # Events for other files in the folder do not prove that inotify reports this one.
        events = [event for event in self._inotify.read(timeout=0) if event.name in ("", self.path.name)]
        if events:
            self._missed = 0
        if any(event.mask & (NAMES | ATTRIB | IGNORED) for event in events):
            self._watch()
        return bool(events)

    def _refresh(self) -> bool:
        if self._due:
            self._due.cancel()
            self._due = None
        self._refreshed = asyncio.get_running_loop().time()
        return self._call()
