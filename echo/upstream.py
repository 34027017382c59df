"""The echo at the other end: what it is asked over HTTP, and what of its answers is believed."""

import contextlib
import http.client
import re
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import urllib3

from echo.auth import read_token
from echo.datafile import LONGEST
from echo.endpoints.follow import EVENTS
from echo.settings import Settings

CONNECT = 2.0  # seconds
SILENCE = 12.0  # seconds without a byte, after which it counts as dead: its heart beats more often
PATIENCE = 2.0  # seconds for an answer that somebody waits for
BEYOND = 10**18 - 1  # bytes: the offset that is larger than any
NUMBER = re.compile(rb"^data: ([0-9-]+)$", re.MULTILINE)


class Refused(Exception):
    """What is said is not what an echo says; the message says what."""


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


@dataclass(frozen=True)
class Piece:
    """What the head of an answer says: its bytes are those of a generation from an offset on, up to its size."""

    name: str
    begins: int  # byte
    size: int  # bytes
    changed: float  # Unix time

    @classmethod
    def of(cls, response: requests.Response) -> "Piece":
        """Raises Refused."""
        if response.status_code not in (200, 206):
            raise Refused(f"{response.status_code}: that is no echo's /data")
        etag = re.fullmatch('"([0-9a-f]{16})-([0-9]{1,18})"', response.headers.get("ETag", ""))
        if not etag or "Content-Length" not in response.headers:
            raise Refused("its answer has no ETag of an echo, or no length: is it the address of an echo's /data?")
        part = re.match("bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
        begins, size = int(part[1]) if part else 0, int(etag[2])
        if response.headers["Content-Length"] != str(size - begins):
            raise Refused(f"its answer is not the {size} bytes that its ETag says")
        modified = response.headers.get("Last-Modified")  # none if that was just now
        changed = parsedate_to_datetime(modified).timestamp() if modified else time.time()
        return cls(etag[1], begins, size, changed)


class Upstream:
    """Another echo's /data."""

    def __init__(self, settings: Settings) -> None:
        """Raises OSError or ValueError if the token cannot be read."""
        self.url = str(settings.source)
        self.token, self.authority = settings.source_token_file, settings.source_ca
        if self.token:
            read_token(self.token)  # now, for a wrong one to be said at once
        self.id = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self.via = [self.id]  # what the numbers come through (RFC 9110, 7.6.3); the last one is this echo

    def session(self) -> requests.Session:
        """To ask in, from one thread."""
        session = requests.Session()
        session.trust_env = False  # neither a proxy nor a password of somebody else
        session.verify = str(self.authority) if self.authority else True
        return session

    @contextlib.contextmanager
    def ask(
        self,
        session: requests.Session,
        query: str,
        headers: dict[str, str],
        method: str = "GET",
        patience: float = SILENCE,
    ) -> Iterator[requests.Response]:
        """A response that an echo may have given. Raises Refused, OSError, ValueError or one of urllib3's errors."""
        if self.token:
            headers["Authorization"] = f"Bearer {read_token(self.token)}"
        headers["Accept-Encoding"] = "identity"
        options: dict[str, Any] = {"stream": True, "allow_redirects": False, "timeout": (CONNECT, patience)}
        with session.request(method, self.url + query, headers=headers, **options) as response:
            via = re.findall(r"[0-9.]+ ([^\s,]+)", response.headers.get("Via", ""))
            if self.id in via:
                raise Refused(f"is a loop: it mirrors this echo, by way of {' and '.join(via)}")
            self.via = [*via, self.id]
            check(response)
            yield response

    def latest(self, name: str) -> str:
        """The generation it has come to from this one; empty if this one is gone. Raises as `ask` does.

        For a position in text that is beyond the end of a generation is one in the last that followed it.
        """
        query = f"?follow&last-event-id={name}-{BEYOND}"
        with self.session() as session, self.ask(session, query, {}, "HEAD", PATIENCE) as response:
            if response.status_code not in (200, 410):
                raise Refused(f"{response.status_code}: that is no echo's /data")
            return "" if response.status_code == 410 else response.headers.get("Last-Event-ID", "").partition("-")[0]


def check(response: requests.Response) -> None:
    """Raises Refused, in words, for a status that is no answer."""
    status = response.status_code
    if status == 401:
        raise Refused("401: it wants a token, or another one: see --source-token-file (ECHO_SOURCE_TOKEN_FILE)")
    if status == 503:
        words = response.raw.read(200).decode("utf-8", "replace").partition("\n")[0]
        raise Refused(f"503: {''.join(filter(str.isprintable, words)) or 'it is not ready, or cannot tell'}")
    if 300 <= status < 400:
        raise Refused(f"{status}: it is elsewhere, and redirects are not followed: give the echo's own address")
    if status not in (200, 206, 400, 410, 416):
        raise Refused(f"{status}: that is no echo's /data")


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
