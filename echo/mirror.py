"""Follows another echo over HTTP, for as long as it takes, and believes nothing that it cannot be."""

import asyncio
import contextlib
import http.client
import random
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import urllib3

from echo.access import read_token
from echo.datafile import LONGEST, Generation, NotReady
from echo.exchange import say
from echo.follow import EVENTS
from echo.query import parse_position
from echo.settings import Settings
from echo.spool import Spool, Writer

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between two attempts
CONNECT = 2.0  # seconds
SILENCE = 12.0  # seconds without a byte, after which the source counts as dead: its heart beats more often
BLOCK = 2**20  # bytes
GLANCE = 0.01  # seconds between announcements of what comes in one piece
MUCH = 2**16  # bytes a second, above which numbers come faster in one piece
OVERLAP = 2**12  # bytes that we have and ask for again, to see whether they are still the source's
BEYOND = 10**18 - 1  # bytes: the offset that is larger than any
QUESTIONS = 8  # to the source at a time, about generations that are not here
PATIENCE = 2.0  # seconds for the answer: somebody waits for it, who may go to another replica
NUMBER = re.compile(rb"^data: ([0-9-]+)$", re.MULTILINE)


class Refused(Exception):
    """What the source says is not what an echo says; the message says what."""


class Full(Exception):
    """What it says cannot be kept; the message says why."""


def pause(failures: int, chance: Callable[[float, float], float] = random.uniform) -> float:
    """Seconds to wait after so many failures in a row: up to 5, at random, so that mirrors do not come all at once."""
    return chance(SHORTEST_PAUSE, min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** min(failures, 10)))


@dataclass(frozen=True)
class Event:
    """A server-sent event, as an echo sends them."""

    kind: str
    id: str
    data: str


class Events:
    """Server-sent events out of bytes as they come."""

    def __init__(self) -> None:
        self.rest = b""

    def numbers(self, data: bytes, name: str, offset: int) -> bytes:
        """The lines of events that are all numbers, the next ones of a generation; else nothing, and `feed` is to see.

        Ten times as fast: they are made anew from their numbers, and compared.
        """
        stream = self.rest + data
        end = stream.rfind(b"\n\n") + 2
        lines = b"".join(number + b"\n" for number in NUMBER.findall(stream, 0, end))
        if not lines or EVENTS.numbers(name, offset, lines) != stream[:end]:
            return b""
        self.rest = stream[end:]
        return lines

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that end in these bytes. Raises Refused for one that does not end."""
        *blocks, self.rest = (self.rest + data).split(b"\n\n")
        for block in blocks:
            fields = dict(line.partition(": ")[::2] for line in block.decode("utf-8", "replace").split("\n"))
            if "data" in fields:
                yield Event(fields.get("event", "message"), fields.get("id", ""), fields["data"])
        if len(self.rest) > LONGEST:
            raise Refused(f"an event of more than {LONGEST} bytes is none of an echo")


def describe(error: BaseException) -> str:
    """The reason at the bottom of an exception, in a few words that are the same each time."""
    said = "does not answer" if isinstance(error, requests.Timeout) else str(error) or type(error).__name__
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, http.client.HTTPException | urllib3.exceptions.ProtocolError):
            said = "the connection broke off, or speaks no HTTP"
        if isinstance(cause, urllib3.exceptions.TimeoutError | TimeoutError):
            said = "does not answer"
        if isinstance(cause, OSError) and cause.strerror:
            said = getattr(cause, "verify_message", "") or cause.strerror
            said += f": {cause.filename}" if cause.filename else ""
        reason = getattr(cause.args[0], "reason", None) if cause.args else None
        cause = cause.__cause__ or cause.__context__ or (reason if isinstance(reason, BaseException) else None)
    return said


class Mirror:
    """Brings what a source has, and what comes to it, into a spool, in a thread of its own."""

    how = "mirroring"

    def __init__(self, settings: Settings, spool: Spool) -> None:
        self.source = str(settings.source)
        self.token, self.authority = settings.source_token_file, settings.source_ca
        if self.token:
            read_token(self.token)  # now, for a wrong one to be said at once
        self.spool = spool
        self.writer: Writer | None = spool.writer
        self.id = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self.via = [self.id]  # what the numbers come through; the last one is this
        self.behind: int | None = None  # bytes, when the source last said
        self.caught_up = bool(spool.current)  # once
        self.heard = datetime.now(UTC)  # the last of the source
        self.unreachable_since: datetime | None = self.heard
        self.problem = "was not reached yet"
        self.failures = 0
        self.again = threading.Event()
        self.shorter = False  # the source has less than we, so that its next numbers may be others than ours
        self.left = ""  # the generation that it last said is gone
        self.announced = 0.0  # by the monotonic clock
        self.full = ""  # why what it has cannot be kept
        self.questions: dict[str, asyncio.Future[bool | str]] = {}  # about generations, by name

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
                with self._session() as session:
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
        self.spool.problem = self.remark().lstrip("; ")

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
        if self.unreachable_since:
            raise NotReady(f"{untold}: {self.source} {self.problem}")
        if name not in self.questions and len(self.questions) == QUESTIONS:
            raise NotReady(f"{untold}: {QUESTIONS} others are asked for")
        answer = await asyncio.shield(self.questions.get(name) or self._ask(name))
        if isinstance(answer, str):
            raise NotReady(f"{untold}: {self.source}: {answer}")
        return self.spool.expect(name) if answer else None

    def _ask(self, name: str) -> asyncio.Future[bool | str]:
        """Whether the generation is yet to come, or why that cannot be told; one question for all who ask meanwhile."""
        question = self.questions[name] = self.loop.create_future()
        question.add_done_callback(lambda _: self.questions.pop(name))

        def ask() -> None:
            try:
                self._tell(question.set_result, self._is_ahead(name))
            except (Refused, OSError, ValueError) as error:
                self._tell(question.set_result, describe(error))

        threading.Thread(target=ask, daemon=True).start()  # asyncio's own threads would hold up a stop
        return question

    def _is_ahead(self, name: str) -> bool:
        """Whether the source has this generation, and is or was in it after the one of now here.

        A position in text that is beyond the end of a generation goes on into the last one that followed it.
        """
        query = f"?follow&last-event-id={name}-{BEYOND}"
        with self._session() as session, self._get(session, query, {}, "HEAD", PATIENCE) as response:
            last = response.headers.get("Last-Event-ID", "").partition("-")[0]
            current = self.spool.current
            return response.status_code == 200 and (last == name or not current or last != current.name)

    def _tell(self, call: Callable[..., object], *arguments: object) -> None:
        """Call it in the thread that serves, unless that is about to end."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(call, *arguments)

    def _session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False  # neither a proxy nor a password of somebody else
        session.verify = str(self.authority) if self.authority else True
        return session

    @contextlib.contextmanager
    def _get(
        self,
        session: requests.Session,
        query: str,
        headers: dict[str, str],
        method: str = "GET",
        patience: float = SILENCE,
    ) -> Iterator[requests.Response]:
        """A response that an echo may have given. Raises Refused."""
        if self.token:
            headers["Authorization"] = f"Bearer {read_token(self.token)}"
        headers["Accept-Encoding"] = "identity"
        options: dict[str, Any] = {"stream": True, "allow_redirects": False, "timeout": (CONNECT, patience)}
        with session.request(method, self.source + query, headers=headers, **options) as response:
            via = re.findall(r"[0-9.]+ ([^\s,]+)", response.headers.get("Via", ""))
            if self.id in via:
                raise Refused(f"is a loop: it mirrors this echo, by way of {' and '.join(via)}")
            self.via = [*via, self.id]
            status = response.status_code
            if status == 401:
                raise Refused("401: it wants a token, or another one: see --source-token-file (ECHO_SOURCE_TOKEN_FILE)")
            if status == 503:
                words = response.raw.read(200).decode("utf-8", "replace").partition("\n")[0]
                raise Refused(f"503: {''.join(filter(str.isprintable, words))}")
            if 300 <= status < 400:
                raise Refused(f"{status}: it is elsewhere, and redirects are not followed: give the echo's own address")
            if status not in (200, 206, 410, 416):
                raise Refused(f"{status}: that is no echo's /data")
            yield response

    def _fetch(self, session: requests.Session) -> bool:
        """What there is, in one piece, if it continues what we have: whether it does."""
        headers, start, awaited = {}, 0, list(self.spool.awaited.values())
        if self.writer:
            start = max(0, self.writer.size - OVERLAP)
            headers = {"Range": f"bytes={start}-", "If-Range": f'"{self.writer.name}-{start}"'}
        self.behind, self.shorter = None, False
        with self._get(session, "", headers) as response:
            if response.status_code == 416:
                self.shorter = True
                return False
            etag = re.fullmatch('"([0-9a-f]{16})-([0-9]{1,18})"', response.headers.get("ETag", ""))
            if not etag or "Content-Length" not in response.headers:
                raise Refused("its answer has no ETag of an echo, or no length: is it the address of an echo's /data?")
            name, size = etag[1], int(etag[2])
            part = re.match("bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
            begins = int(part[1]) if part else 0
            if response.headers["Content-Length"] != str(size - begins):
                raise Refused(f"its answer is not the {size} bytes that its ETag says")
            modified = response.headers.get("Last-Modified")  # none if that was just now
            changed = parsedate_to_datetime(modified).timestamp() if modified else time.time()
            if not self.writer:
                self.writer = self.spool.open(name)
                if self.writer.size:  # of a generation that we had before
                    self._announce_soon(changed)
                    if name == self.left:
                        raise Refused("it said that this generation is gone, and has it: as of replicas that differ")
                    return False
            writer = self.writer
            if (writer.name, start) != (name, begins):
                self.shorter = writer.name == name
                return False  # not a continuation: the stream tells what became of ours
            ours = writer.file.read(start, min(writer.size, size))
            if ours and response.raw.read(len(ours)) != ours:
                self.writer = self.spool.open(name, anew=True)
                raise Refused("it has other numbers than before under the same name, as of a file filled anew")
            self.behind, self.unreachable_since = max(0, size - writer.size), None
            try:
                while block := response.raw.read1(BLOCK):
                    self.heard = datetime.now(UTC)
                    self._append(block, changed, GLANCE)
                    self.behind = size - writer.size
            finally:
                self._announce_soon(changed)
            if writer.written != writer.size or writer.size < size:
                raise Refused(f"its answer is not the {size} bytes of whole lines that its ETag says")
            self.shorter, self.caught_up = writer.size > size, True
            if awaited:
                self._tell(self.spool.give_up, awaited)
            return True

    def _follow(self, session: requests.Session, continued: bool) -> None:
        """What comes, number by number, to the end of the generation, or until it is too much for that."""
        headers = {"Accept": "text/event-stream"}
        if self.writer:
            headers["Last-Event-ID"] = self.writer.position
        with self._get(session, "?follow", headers) as response:
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
        if self.writer and (lines := events.numbers(data, self.writer.name, self.writer.size)):
            return lines
        got = b""
        for event in events.feed(data):
            name, offset = parse_position(event.id) if event.id else ("", 0)
            if event.kind == "message":
                got += f"{event.data}\n".encode()
                if not self.writer or (name, offset) != (self.writer.name, self.writer.size + len(got)):
                    raise Refused(f"event {event.id} does not follow on what came before")
            elif event.kind in ("generation", "gone"):
                if got:
                    self._append(got, time.time())
                if event.kind == "gone":
                    self._tell(self.spool.cut)
                    self.left = self.writer.name if self.writer else ""
                self.writer = self.spool.open(name) if event.kind == "generation" else None
                return None
        return got

    def _append(self, block: bytes, changed: float, every: float = 0) -> None:
        """More of the generation, which is of that Unix time, and announced if nothing was for `every` seconds.

        Raises ValueError if it is no numbers, and Full.
        """
        assert self.writer
        try:
            self.writer.append(block, changed)
            self.full = ""
        except OSError as error:
            raise Full(f"the spool (ECHO_SPOOL): {error.strerror}") from None
        finally:
            if time.monotonic() - self.announced >= every:
                self._announce_soon(changed)

    def _announce_soon(self, changed: float) -> None:
        self.announced = time.monotonic()
        if self.writer and self.writer.size:
            self._tell(self._announce, self.writer, self.writer.size, changed)

    def _announce(self, writer: Writer, size: int, changed: float) -> None:
        self.spool.grew(writer, size, changed)
        self.look()
