"""The mirror's thread, which copies another echo's segments with live ranges (RFC 8673)."""

import dataclasses
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import requests
import urllib3

from echo.log import log
from echo.mirror.copies import BLOCK_BYTES, Copies, Copy
from echo.mirror.upstream import Head, SegmentGone, Upstream, UpstreamError, describe
from echo.settings import Settings
from echo.store import SegmentName

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 5.0  # between two attempts
WHOLE_PAUSE_SECONDS = 1.0  # at least, between two transfers of a whole segment, where a proxy drops ranges


class Link(Enum):
    """The state of the connection to the source."""

    CONNECTING = "the source has not responded yet"
    FOLLOWING = "the source responds, and the mirror receives its numbers"
    AWAY = "the source does not respond, or not as an echo"


@dataclass(frozen=True)
class Status:
    """The mirror's status, for other threads; each change makes a new object."""

    source: str
    link: Link = Link.CONNECTING
    via: tuple[str, ...] = ()  # the path of the numbers (RFC 9110, section 7.6.3); this echo is last
    behind: int | None = None  # bytes; None if unknown
    heard: float | None = None  # Unix time when the source last sent anything
    problem: str | None = None
    caught_up: bool = False  # the mirror has had all numbers at least once


class FolderError(Exception):
    """The mirror cannot write a copy; the message says why."""


def pause(failures: int, chance: Callable[[float, float], float] = random.uniform) -> float:
    """Return the seconds to wait after this many failures in a row. They are random, so that mirrors spread out."""
    return chance(MIN_PAUSE_SECONDS, min(MAX_PAUSE_SECONDS, MIN_PAUSE_SECONDS * 2 ** min(failures, 10)))


class Mirror:
    """A thread that copies a source into the data folder whose symlink is `folder`.

    Raises OSError or ValueError if a setting is wrong. Other threads may only read `status` and call methods.
    """

    def __init__(self, settings: Settings) -> None:
        self._upstream = Upstream(settings)
        self._copies = Copies(settings.spool)
        self.folder = self._copies.link
        self.status = Status(self._upstream.url, via=self._upstream.via)
        self._copy: Copy | None = None
        self._shown: Copy | None = None  # the copy that the symlink points to
        self._gone: SegmentName | None = None  # the segment that the source last reported gone
        self._logged: str | None = None  # the last problem logged; empty after a success
        self._reload, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def reload(self) -> None:
        """Reconnect now and read the token and the certificates again."""
        self._reload.set()

    def close(self) -> None:
        """Signal the thread to end, and remove a private folder."""
        self._stop.set()
        self._reload.set()
        self._copies.close()

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            self._reload.clear()
            heard = self.status.heard
            with self._upstream.session() as session:
                try:
                    while not self._reload.is_set():
                        self._follow(session)
                except Exception as error:  # echo still serves the copies, whatever the error
                    self._failed(error)
            failures = failures + 1 if self.status.heard == heard else 1
            self._reload.wait(pause(failures))

    def _follow(self, session: requests.Session) -> None:
        """Request the next bytes and copy them. Raises FolderError, NotNumbers, and the errors of `Upstream.ask`."""
        started, copy = time.monotonic(), self._copy or self._continue()
        name, start = (copy.name, copy.last_line()) if copy else (None, 0)
        try:
            with self._upstream.ask(session, name, start) as response:
                if copy and response.status_code == 416:
                    before, live = -1, True
                else:
                    head = Head.of(response, name)
                    if not copy:
                        copy = self._begin(head.name)
                        if copy.size:
                            return  # the next request begins where the copy ends
                    before, live = copy.size, head.live
                    if not self._take(response, head, copy):
                        return
            successor = self._upstream.successor(session, copy.name, copy.size)
        except SegmentGone as gone:
            self._leave(gone.successor)
            return
        if successor:
            self._begin(successor)
        elif before == -1:
            raise UpstreamError("has fewer numbers than this mirror: waiting for it to catch up")
        elif not live:
            self._reload.wait(max(WHOLE_PAUSE_SECONDS, time.monotonic() - started))
        elif copy.size == before:
            raise UpstreamError("closed the stream without sending data")

    def _take(self, response: requests.Response, head: Head, copy: Copy) -> bool:
        """Copy a body after comparing the bytes that the copy has already. Return whether the body was complete."""
        position = head.first
        try:
            while block := response.raw.read1(BLOCK_BYTES):
                known = copy.read(position, min(position + len(block), copy.size)) if position < copy.size else b""
                if position > copy.received or not block.startswith(known):
                    self._copies.drop(copy)
                    self._copy = None
                    raise UpstreamError(f"sent other bytes than before for segment {copy.name}: copying it again")
                position += len(block)
                if len(known) < len(block):
                    self._append(copy, block[len(known) :] if known else block, head)
                self._show(copy)
                behind = max(0, head.size - copy.size)
                self._publish(
                    link=Link.FOLLOWING, behind=behind, caught_up=self.status.caught_up or not behind, heard=time.time()
                )
        except urllib3.exceptions.ReadTimeoutError:
            self._reached()
            return False
        finally:
            copy.forget_torn()
        return True

    def _append(self, copy: Copy, block: bytes, head: Head) -> None:
        try:
            copy.append(block)
        except OSError as error:
            self._copy = None  # the next request opens it again
            raise self._folder_error(error) from None
        if head.modified and copy.size == head.size:
            copy.stamp(head.modified)
        self._reached()

    def _continue(self) -> Copy | None:
        """Open the copy that an earlier run left, if there is one."""
        name = self._copies.current()
        return self._begin(name) if name and name != self._gone else None

    def _begin(self, name: SegmentName) -> Copy:
        """Open the copy of a segment, which an earlier run may have left."""
        gone, self._gone = self._gone, None
        if gone and gone.stream == name.stream and gone.base >= name.base:
            raise UpstreamError(f"has no segment {gone}, only {name}: waiting for it to catch up")
        try:
            copy = self._copies.open(name)
        except OSError as error:
            raise self._folder_error(error) from None
        self._close_copy()
        self._copy = copy
        return copy

    def _show(self, copy: Copy) -> None:
        if copy.size and self._shown is not copy:
            try:
                self._copies.show(copy)
            except OSError as error:
                raise self._folder_error(error) from None
            self._shown = copy

    def _leave(self, successor: SegmentName | None) -> None:
        """Continue with `successor`, or else the current segment, because the source removed this one."""
        gone = self._copy.name if self._copy else None
        if gone:
            log(f"{self._upstream.url} no longer keeps segment {gone}")
        self._close_copy()
        if successor:
            self._begin(successor)
        self._gone = gone

    def _close_copy(self) -> None:
        if self._copy:
            self._copy.close()
        self._copy = None

    def _folder_error(self, error: OSError) -> FolderError:
        return FolderError(f"cannot write {self._copies.folder}: {error.strerror} (ECHO_SPOOL)")

    def _publish(self, **changes: Any) -> None:
        self.status = dataclasses.replace(self.status, via=self._upstream.via, **changes)

    def _reached(self) -> None:
        """Record a success, so that the next problem is logged."""
        if self._logged != "":
            log(f"following {self._upstream.url}")
            self._logged = ""
            self._publish(link=Link.FOLLOWING, problem=None)

    def _failed(self, error: Exception) -> None:
        ours = isinstance(error, FolderError)
        problem = str(error) if ours else describe(error)
        if problem != self._logged and not self._stop.is_set():
            log(f"{problem if ours else f'{self._upstream.url}: {problem}'}; trying again")
        self._logged = problem
        self._publish(link=self.status.link if ours else Link.AWAY, behind=None, problem=problem)
