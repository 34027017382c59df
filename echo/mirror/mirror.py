"""Copies another echo's segments by live ranges, in a thread of its own."""

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

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between two attempts
WHOLE_PAUSE = 1.0  # seconds at least between two transfers of a whole segment, where ranges are dropped


class Link(Enum):
    """How it stands with the source."""

    CONNECTING = "it has not answered yet"
    FOLLOWING = "it answers, and its numbers come as they are made"
    AWAY = "it does not answer, or not as an echo does"


@dataclass(frozen=True)
class Status:
    """What the mirror's thread tells others; a new one each time something changes."""

    source: str
    link: Link = Link.CONNECTING
    via: tuple[str, ...] = ()  # what the numbers come through (RFC 9110, 7.6.3); this echo is the last
    behind: int | None = None  # bytes; None is unknown
    heard: float | None = None  # Unix time of the last answer or numbers
    problem: str | None = None
    caught_up: bool = False  # at least once


class FolderError(Exception):
    """The copy cannot be written; the message says why."""


def pause(failures: int, chance: Callable[[float, float], float] = random.uniform) -> float:
    """Return the seconds to wait after so many failures in a row: random, for mirrors not to come all at once."""
    return chance(SHORTEST_PAUSE, min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** min(failures, 10)))


class Mirror:
    """Fills the data folder whose symlink is `folder` from a source.

    Raises OSError or ValueError if a setting is wrong. Others read `status`, and set the two events; everything else
    belongs to the thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._upstream = Upstream(settings)
        self._copies = Copies(settings.spool)
        self.folder = self._copies.link
        self.status = Status(self._upstream.url, via=self._upstream.via)
        self._copy: Copy | None = None
        self._shown: Copy | None = None  # the symlink points to it
        self._gone: SegmentName | None = None  # the source said so last
        self._logged: str | None = None  # the problem; empty: none
        self._reload, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def reload(self) -> None:
        """Try at once, with the token and the certificates as they are now."""
        self._reload.set()

    def close(self) -> None:
        """End the thread at its next step, and remove a private folder."""
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
                except Exception as error:  # whatever it is, what there is can still be served
                    self._failed(error)
            failures = failures + 1 if self.status.heard == heard else 1
            self._reload.wait(pause(failures))

    def _follow(self, session: requests.Session) -> None:
        """Ask once for what comes next, and take it. Raises what goes wrong."""
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
                            return  # ask again, from where it ends
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
            raise UpstreamError("has less than this mirror: waiting for it")
        elif not live:
            self._reload.wait(max(WHOLE_PAUSE, time.monotonic() - started))
        elif copy.size == before:
            raise UpstreamError("it ends the range, and brings nothing")

    def _take(self, response: requests.Response, head: Head, copy: Copy) -> bool:
        """Take a body, which begins with what there is; return whether it came to its end."""
        position = head.first
        try:
            while block := response.raw.read1(BLOCK_BYTES):
                known = copy.read(position, min(position + len(block), copy.size)) if position < copy.size else b""
                if position > copy.received or not block.startswith(known):
                    self._copies.drop(copy)
                    self._copy = None
                    raise UpstreamError(f"has other numbers than before in segment {copy.name}: copying it anew")
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
            self._copy = None  # to be opened anew
            raise self._folder_error(error) from None
        if head.modified and copy.size == head.size:
            copy.stamp(head.modified)
        self._reached()

    def _continue(self) -> Copy | None:
        """Go on with what an earlier run left."""
        name = self._copies.current()
        return self._begin(name) if name and name != self._gone else None

    def _begin(self, name: SegmentName) -> Copy:
        """Open the copy of a segment, in which there may be something."""
        gone, self._gone = self._gone, None
        if gone and gone.stream == name.stream and gone.base >= name.base:
            raise UpstreamError(f"does not have segment {gone}, and is at {name}: waiting for it")
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
        """Go on with the next segment that the source keeps, or its current one, because it does not keep ours."""
        gone = self._copy.name if self._copy else None
        if gone:
            log(f"{self._upstream.url} does not keep segment {gone} any more")
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
        """Note that all is well: what goes wrong next is news."""
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
