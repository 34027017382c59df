"""The echo at the other end: what it is asked over HTTP, and which of its answers are accepted."""

import contextlib
import http.client
import re
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import urllib3

from echo.auth import read_token
from echo.settings import Settings
from echo.store import SegmentName, parse

CONNECT_SECONDS = 2.0
SILENCE_SECONDS = 5.0
BEYOND = 2**53 - 1  # the last position of a live range (RFC 8673)


class UpstreamError(Exception):
    """The source does not answer as an echo does; the message says what is wrong."""


class SegmentGone(Exception):
    """The source does not keep this segment any more."""

    def __init__(self, successor: SegmentName | None) -> None:
        super().__init__()
        self.successor = successor  # the first one that it keeps after it, if it names one


@dataclass(frozen=True)
class Head:
    """What the head of an accepted answer says."""

    name: SegmentName
    first: int  # position in the segment of the body's first byte
    live: bool  # False: the body ends with what there is now, because something in between drops ranges
    size: int  # of the segment at that time, 0 if it is not said
    modified: float | None  # Unix time of the newest number, unless that is just now

    @classmethod
    def of(cls, response: requests.Response, asked: SegmentName | None) -> "Head":
        """Raises UpstreamError."""
        headers = response.headers
        name = asked or parse(headers.get("Content-Location", "").rpartition("/")[2])
        etag = re.fullmatch(r'(?:W/)?"([0-9a-f]{8}-[0-9]{1,16})-([0-9]{1,16})"', headers.get("ETag", ""))
        if not name or (etag and etag[1] != str(name)):
            raise UpstreamError("its answer names no segment: is it the address of an echo's /data?")
        part = re.fullmatch(r"bytes ([0-9]{1,16})-([0-9]{1,16})/(\*|[0-9]{1,16})", headers.get("Content-Range", ""))
        if bool(part) != (response.status_code == 206) or not headers.get("Content-Type", "").startswith("text/plain"):
            raise UpstreamError("its answer is no range of numbers: is it the address of an echo's /data?")
        modified = None
        with contextlib.suppress(ValueError, TypeError):
            modified = parsedate_to_datetime(headers.get("Last-Modified", "")).timestamp()
        live = bool(part and part[2] == str(BEYOND))
        return cls(name, int(part[1]) if part else 0, live, int(etag[2]) if etag else 0, modified)


class Upstream:
    """Another echo's /data."""

    def __init__(self, settings: Settings) -> None:
        """Raises OSError or ValueError if the token cannot be read."""
        self.url = str(settings.source)
        self.token, self.authority = settings.source_token_file, settings.source_ca
        if self.token:
            read_token(self.token)  # reports a wrong one at once
        self.id = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self.via: tuple[str, ...] = (self.id,)  # what the numbers come through (RFC 9110, 7.6.3), this echo last

    def session(self) -> requests.Session:
        """Return a session, which ignores proxy settings and `.netrc`."""
        session = requests.Session()
        session.trust_env = False
        session.verify = str(self.authority) if self.authority else True
        return session

    def note_via(self, response: requests.Response) -> None:
        """Note what an answer came through, whatever it is. Raises UpstreamError for a loop."""
        via = re.findall(r"[0-9.]+ ([^\s,]+)", response.headers.get("Via", ""))
        self.via = (*(name for name in via if name != self.id), self.id)
        if self.id in via:
            raise UpstreamError(f"is a loop: it mirrors this echo, by way of {' and '.join(via)}")

    @contextlib.contextmanager
    def ask(
        self, session: requests.Session, name: SegmentName | None, start: int, stop: int = BEYOND
    ) -> Iterator[requests.Response]:
        """Ask for a range of a segment, or of the current one; by default for all that comes.

        Raises SegmentGone, UpstreamError, OSError, ValueError or one of urllib3's errors.
        """
        headers = {"Accept": "text/plain", "Accept-Encoding": "identity", "Range": f"bytes={start}-{stop}"}
        if self.token:
            headers["Authorization"] = f"Bearer {read_token(self.token)}"
        url = f"{self.url.rstrip('/')}/{name}" if name else self.url
        options: dict[str, Any] = {"allow_redirects": False, "timeout": (CONNECT_SECONDS, SILENCE_SECONDS)}
        with session.get(url, headers=headers, stream=True, **options) as response:
            self.note_via(response)
            if name and response.status_code in (404, 410):
                if not response.raw.read1(1):
                    raise UpstreamError("its answer was cut short")
                raise SegmentGone(linked(response))
            check(response)
            yield response

    def successor(self, session: requests.Session, name: SegmentName, size: int) -> SegmentName | None:
        """Return the next segment, once this one is finished and has no more bytes than these. Raises as `ask` does.

        Asks for one byte, because that shows that the head was not cut short.
        """
        with self.ask(session, name, 0, 0) as response:
            length = response.headers.get("Content-Range" if response.status_code == 206 else "Content-Length", "")
            match = re.fullmatch("(?:bytes 0-0/)?([0-9]{1,16})", length)
            complete = match and int(match[1]) <= size and response.raw.read1(1)
            return linked(response) if complete else None


def linked(response: requests.Response) -> SegmentName | None:
    """Return the segment that an answer names as the next one."""
    link = re.search(r'<([^>]*)>\s*;\s*rel="?next"?', response.headers.get("Link", ""))
    return parse(link[1].rpartition("/")[2]) if link else None


def check(response: requests.Response) -> None:
    """Raises UpstreamError for a status that is no answer."""
    status = response.status_code
    if status == 401:
        raise UpstreamError("401: it wants a token, or another one: see --source-token-file (ECHO_SOURCE_TOKEN_FILE)")
    if status == 503:
        words = response.raw.read(200).decode("utf-8", "replace").partition("\n")[0]
        raise UpstreamError(f"503: {''.join(filter(str.isprintable, words)) or 'it is not ready'}")
    if 300 <= status < 400:
        raise UpstreamError(f"{status}: it is elsewhere, and redirects are not followed: give the echo's own address")
    if status not in (200, 206, 416):
        raise UpstreamError(f"{status}: that is no echo's /data")


def describe(error: BaseException) -> str:
    """Return the reason at the bottom of an exception, in a few words that are the same each time."""
    told = "does not answer" if isinstance(error, requests.Timeout) else str(error) or type(error).__name__
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, (http.client.HTTPException, urllib3.exceptions.ProtocolError)):
            told = "the connection broke off, or speaks no HTTP"
        if isinstance(cause, (urllib3.exceptions.TimeoutError, TimeoutError)):
            told = "does not answer"
        if isinstance(cause, OSError) and cause.strerror:
            told = getattr(cause, "verify_message", "") or cause.strerror
            told += f": {cause.filename}" if cause.filename else ""
        reason = getattr(cause.args[0], "reason", None) if cause.args else None
        cause = cause.__cause__ or cause.__context__ or (reason if isinstance(reason, BaseException) else None)
    return told
