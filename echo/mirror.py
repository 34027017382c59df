"""Follows another echo over HTTP, for as long as it takes, and believes nothing that it cannot be."""

import asyncio
import contextlib
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import requests

from echo.datafile import Generation, NotReady
from echo.endpoints.query import parse_position
from echo.log import log as say
from echo.settings import Settings
from echo.spool import Spool, Writer
from echo.upstream import Events, Piece, Refused, Upstream, describe

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between two attempts
BLOCK = 2**20  # bytes
GLANCE = 0.01  # seconds between announcements of what comes in one piece
MUCH = 2**16  # bytes a second, above which numbers come faster in one piece
OVERLAP = 2**12  # bytes that we have and ask for again, to see whether they are still the source's
ASK_AGAIN = 1.0  # seconds until a question is asked again
QUESTIONS = 8  # to the source at a time, about generations that are not here


class Full(Exception):
    """What it says cannot be kept; the message says why."""


def pause(failures: int, chance: Callable[[float, float], float] = random.uniform) -> float:
    """Seconds to wait after so many failures in a row: up to 5, at random, so that mirrors do not come all at once."""
    return chance(SHORTEST_PAUSE, min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** min(failures, 10)))


def is_ours(response: requests.Response, piece: Piece, writer: Writer) -> bool:
    """Whether the piece begins with what we have; it is read up to there. Raises Refused if it breaks off."""
    place, stop = piece.begins, min(writer.size, piece.size)
    while place < stop:
        ours = writer.file.read(place, min(place + BLOCK, stop))
        theirs = response.raw.read(len(ours))
        if theirs != ours and ours.startswith(theirs):
            raise Refused("the connection broke off")
        if theirs != ours:
            return False
        place += len(ours)
    return True


@dataclass(frozen=True)
class Question:
    """Whether a generation is yet to come here: the answer, or why that cannot be told; and `turns` at that time."""

    answer: asyncio.Future[bool | str]
    turns: int


class Mirror:
    """Brings what a source has, and what comes to it, into a spool, in a thread of its own."""

    how = "mirroring"

    def __init__(self, settings: Settings, spool: Spool) -> None:
        self.upstream = Upstream(settings)
        self.source = self.upstream.url
        self.spool = spool
        self.writer: Writer | None = spool.writer
        self.behind: int | None = None  # bytes, when the source last said
        self.caught_up = bool(spool.current)  # once
        self.heard = datetime.now(UTC)  # the last of the source
        self.unreachable_since: datetime | None = self.heard
        self.problem = "was not reached yet"
        self.failures = 0
        self.again = threading.Event()
        self.shorter = 0  # bytes that the source has, if those are fewer than ours: its next numbers may be others
        self.left = ""  # the generation that it last said is gone
        self.announced = 0.0  # by the monotonic clock
        self.full = ""  # why what it has cannot be kept
        self.questions: dict[str, Question] = {}  # by the generation's name

    @property
    def via(self) -> list[str]:
        return self.upstream.via

    @property
    def end(self) -> int:
        """The offset of the source's next number."""
        return (self.shorter or self.writer.size) if self.writer else 0

    def reopen(self) -> None:
        """Try at once, with what token and certificates are now."""
        self.failures = 0
        self.again.set()

    def unready(self) -> str:
        return "" if self.caught_up else "has not caught up yet"

    def remark(self) -> str:
        remark = f"; {self.behind} bytes behind {self.source}" if self.behind else ""
        if since := self.unreachable_since:
            remark = f"; {self.source} {self.problem}, since {since.isoformat(timespec='seconds')}"
        return f"{remark}; {self.full}" if self.full else remark

    def report(self) -> dict[str, object]:
        since = self.unreachable_since
        return {
            "via": self.via,
            "behind": self.behind,
            "unreachable_since": since.isoformat(timespec="milliseconds") if since else None,
            "problem": self.problem if since else self.full or None,
        }

    async def run(self, look: Callable[[], bool]) -> None:
        """Until cancelled, or something happened that should not; the thread ends with the program."""
        self.look, self.loop = look, asyncio.get_running_loop()
        broken = self.loop.create_future()

        def thread() -> None:
            try:
                self._run()
            except BaseException as error:
                self._tell(broken.set_exception, error)

        threading.Thread(target=thread, name="mirror", daemon=True).start()
        await broken

    def _run(self) -> None:
        while True:
            try:
                with self.upstream.session() as session:
                    while True:
                        before = self.writer and (self.writer.position, self.shorter)
                        self._follow(session, self._fetch(session))
                        if before and before == (self.writer and (self.writer.position, self.shorter)):
                            raise Refused("it ends the stream, and brings nothing")
            except Full as error:
                self._overflowed(str(error))
            except Exception as error:  # whatever it is, what there is can still be served
                self._failed(describe(error))
            if self.writer:
                self.writer.rewind()
            self.failures += 1
            self.again.wait(pause(self.failures))
            self.again.clear()

    def _failed(self, problem: str) -> None:
        self.unreachable_since = self.unreachable_since or self.heard
        self.behind = None
        if problem != self.problem:
            say(f"{self.source}: {problem}; trying again")
        self.problem = problem
        self.spool.problem = self.remark().removeprefix("; ")

    def _overflowed(self, problem: str) -> None:
        if problem != self.full:
            say(f"{problem}; trying again")
        self.full = self.spool.problem = problem

    def _reached(self) -> None:
        """It answers, and more than once: what goes wrong next is news."""
        if self.problem:
            say(f"following {self.source}")
        self.problem, self.failures = "", 0

    async def awaited(self, name: str) -> Generation | None:
        """The generation if it is yet to come here, None if it is gone. Raises NotReady if that cannot be told now."""
        untold = f"whether generation {name} is gone or yet to come here cannot be told"
        while not (found := self.spool.find(name)):
            if self.unreachable_since:
                raise NotReady(f"{untold}: {self.source} {self.problem}")
            if name not in self.questions and len(self.questions) >= QUESTIONS:
                raise NotReady(f"{untold}: {QUESTIONS} others are asked for")
            question = self.questions.get(name) or self._ask(name)
            answer = await asyncio.shield(question.answer)
            if isinstance(answer, str):
                raise NotReady(f"{untold}: {self.source}: {answer}")
            if question.turns == self.spool.turns:  # or the answer may be of before
                return self.spool.expect(name) if answer else None
        return found

    def _settle(self) -> None:
        """Now that we are where the source is: ask anew about what is awaited still."""
        for name in self.spool.awaited.keys() - self.questions.keys():
            self._ask(name)

    def _ask(self, name: str) -> Question:
        """One question for all who ask meanwhile."""
        question = self.questions[name] = Question(self.loop.create_future(), self.spool.turns)

        def answered(answer: asyncio.Future[bool | str]) -> None:
            del self.questions[name]
            if answer.result() is False:
                self.spool.give_up(name)
            elif name in self.spool.awaited and (
                isinstance(answer.result(), str) or question.turns != self.spool.turns
            ):
                self.loop.call_later(ASK_AGAIN, self._settle)

        def ask() -> None:
            try:
                latest, current = self.upstream.latest(name), self.spool.current
                ahead = latest == name or bool(latest and current and latest != current.name)
                self._tell(question.answer.set_result, ahead)
            except Exception as error:
                self._tell(question.answer.set_result, describe(error))

        question.answer.add_done_callback(answered)
        try:
            threading.Thread(target=ask, daemon=True).start()  # asyncio's own threads would hold up a stop
        except RuntimeError as error:  # there are as many as there may be
            question.answer.set_result(str(error))
        return question

    def _tell(self, call: Callable[..., object], *arguments: object) -> None:
        """Call it in the thread that serves, unless that is about to end."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(call, *arguments)

    def _fetch(self, session: requests.Session) -> bool:
        """What there is, in one piece, if it continues what we have: whether more comes well in pieces."""
        headers, start = {}, max(0, self.end - OVERLAP)
        if self.writer:
            headers = {"Range": f"bytes={start}-", "If-Range": f'"{self.writer.name}-{start}"'}
        self.behind = None
        with self.upstream.ask(session, "", headers) as response:
            fewer = re.fullmatch(r"bytes \*/([0-9]{1,18})", response.headers.get("Content-Range", ""))
            if response.status_code == 416 and fewer and 0 < int(fewer[1]) <= start:
                self.shorter = int(fewer[1])
                return self._fetch(session)
            piece = Piece.of(response)
            if not self.writer:
                self.writer = self._open(piece.name)
                if self.writer.size:  # of a generation that we had before: is it still the same?
                    if piece.name == self.left:
                        raise Refused("it said that this generation is gone, and has it: as of replicas that differ")
                    response.close()
                    return self._fetch(session)
            if piece.name != self.writer.name or piece.begins not in (start, 0):
                self.shorter = 0
                return False  # not a continuation: the stream tells what became of ours
            self._take(response, piece, self.writer)
        self._tell(self._settle)
        return piece.begins == start  # or something between drops ranges, and each piece would be all of it

    def _open(self, name: str, anew: bool = False) -> Writer:
        """Raises Full."""
        try:
            self.shorter = 0
            return self.spool.open(name, anew)
        except OSError as error:
            raise Full(f"the spool (ECHO_SPOOL): {error.strerror}") from None

    def _take(self, response: requests.Response, piece: Piece, writer: Writer) -> None:
        """The piece of our generation, which begins with what we have. Raises Refused, ValueError and Full."""
        if not is_ours(response, piece, writer):
            self.writer = self._open(piece.name, anew=True)
            raise Refused("it has other numbers than before under the same name, as of a file filled anew")
        self.behind, self.unreachable_since = max(0, piece.size - writer.size), None
        try:
            while block := response.raw.read1(BLOCK):
                self.heard = datetime.now(UTC)
                self._append(block, piece.changed, GLANCE)
                self.behind = piece.size - writer.size
        finally:
            self._announce_soon(piece.changed)  # also if nothing came: it may be one that we had before
        if writer.written != writer.size or writer.size < piece.size:
            raise Refused(f"its answer is not the {piece.size} bytes of whole lines that its ETag says")
        self.shorter, self.caught_up = piece.size if piece.size < writer.size else 0, True

    def _follow(self, session: requests.Session, continued: bool) -> None:
        """What comes, number by number, to the end of the generation, or until it is too much for that."""
        headers = {"Accept": "text/event-stream"}
        if self.writer:
            headers["Last-Event-ID"] = f"{self.writer.name}-{self.end}"
        with self.upstream.ask(session, "?follow", headers) as response:
            if response.status_code == 400 and self.writer:
                self._gone()  # for no line begins where ours end: it lost some, and has others
                return
            if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                raise Refused("it does not stream events: is it the address of an echo's /data?")
            self.unreachable_since = None
            events, since, got, opened = Events(), time.monotonic(), 0, False
            while data := response.raw.read1(BLOCK):
                self.heard = datetime.now(UTC)
                lines = self._lines(events, data)
                if lines is None or (lines and self.shorter):  # which is then to be seen in one piece
                    return
                if lines:
                    self._append(lines, time.time())
                if lines or opened:
                    self._reached()
                opened, got = True, got + len(lines)
                if continued and got > MUCH:
                    if time.monotonic() - since < 1:
                        return
                    since, got = time.monotonic(), 0
        raise Refused("it ended the stream")

    def _lines(self, events: Events, data: bytes) -> bytes | None:
        """The lines of the events that end in `data`, which must be the next ones; None at the end of a generation."""
        if self.writer and (lines := events.numbers(data, self.writer.name, self.end)):
            return lines
        got = b""
        for event in events.feed(data):
            name, offset = parse_position(event.id) if event.id else ("", 0)
            if event.kind == "message":
                got += f"{event.data}\n".encode()
                if not self.writer or (name, offset) != (self.writer.name, self.end + len(got)):
                    raise Refused(f"event {event.id} does not follow on what came before")
            elif event.kind in ("generation", "gone"):
                if got and not self.shorter:
                    self._append(got, time.time())
                if event.kind == "gone":
                    self._gone()
                else:
                    self.writer = self._open(name)
                return None
        return got

    def _gone(self) -> None:
        """The source has no more of our generation."""
        self._tell(self.spool.cut)
        self.left = self.writer.name if self.writer else ""
        self.writer = None

    def _append(self, block: bytes, changed: float, every: float = 0) -> None:
        """More of the generation, which is of that Unix time, and announced if nothing was for `every` seconds.

        Raises ValueError if it is no numbers, and Full.
        """
        assert self.writer
        before = self.writer.size
        try:
            self.writer.append(block, changed)
            self.full = ""
        except OSError as error:
            raise Full(f"the spool (ECHO_SPOOL): {error.strerror}") from None
        finally:
            if self.writer.size > before and time.monotonic() - self.announced >= every:
                self._announce_soon(changed)

    def _announce_soon(self, changed: float) -> None:
        self.announced = time.monotonic()
        if self.writer and self.writer.size:
            self._tell(self._announce, self.writer, self.writer.size, changed)

    def _announce(self, writer: Writer, size: int, changed: float) -> None:
        self.spool.grew(writer, size, changed)
        self.look()
