"""The HTTP client for another echo, and the checks of its responses."""

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

CONNECT_TIMEOUT_SECONDS = 2.0
READ_TIMEOUT_SECONDS = 5.0
LIVE_END = 2**53 - 1  # the last position of a live range (RFC 8673)


class UpstreamError(Exception):
    """The source does not answer as an echo; the message says what is wrong."""


class SegmentGone(Exception):
    """The source no longer keeps the requested segment."""

    def __init__(self, successor: SegmentName | None) -> None:
        super().__init__()
        self.successor = successor  # the next segment that the source keeps, or None


@dataclass(frozen=True)
class Head:
    """The head of an accepted response."""

    name: SegmentName
    first: int  # the body's first byte, as a position in the segment
    live: bool  # False: the body is the whole segment so far, because a proxy dropped the range
    size: int  # of the segment in bytes at that time, 0 if unknown
    modified: float | None  # Unix time of the newest number, if the response has it

    @classmethod
    def of(cls, response: requests.Response, asked: SegmentName | None) -> "Head":
        """Check and parse a response. Raises UpstreamError."""
        headers = response.headers
        name = asked or parse(headers.get("Content-Location", "").rpartition("/")[2])
        etag = re.fullmatch(r'(?:W/)?"([0-9a-f]{8}-[0-9]{1,16})-([0-9]{1,16})"', headers.get("ETag", ""))
        if not name or (etag and etag[1] != str(name)):
            raise UpstreamError("the response names no segment: set --source (ECHO_SOURCE) to an echo's /data")
        part = re.fullmatch(r"bytes ([0-9]{1,16})-([0-9]{1,16})/(\*|[0-9]{1,16})", headers.get("Content-Range", ""))
        if bool(part) != (response.status_code == 206) or not headers.get("Content-Type", "").startswith("text/plain"):
            raise UpstreamError("the response is not a range of numbers: set --source (ECHO_SOURCE) to an echo's /data")
        modified = None
        with contextlib.suppress(ValueError, TypeError):
            modified = parsedate_to_datetime(headers.get("Last-Modified", "")).timestamp()
        live = bool(part and part[2] == str(LIVE_END))
        return cls(name, int(part[1]) if part else 0, live, int(etag[2]) if etag else 0, modified)


class Upstream:
    """Another echo's /data."""

    def __init__(self, settings: Settings) -> None:
        """Raises OSError or ValueError if the token cannot be read."""
        self.url = str(settings.source)
        self.token, self.authority = settings.source_token_file, settings.source_ca
        if self.token:
            read_token(self.token)  # report a wrong file at the start
        self.id = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self.via: tuple[str, ...] = (self.id,)  # the path of the numbers (RFC 9110, section 7.6.3); this echo is last

    def session(self) -> requests.Session:
        """Return a session that ignores proxy settings and `.netrc`."""
        session = requests.Session()
        session.trust_env = False
        session.verify = str(self.authority) if self.authority else True
        return session

    def note_via(self, response: requests.Response) -> None:
        """Record the echos that a response passed, from its Via field. Raises UpstreamError for a loop."""
        via = re.findall(r"[0-9.]+ ([^\s,]+)", response.headers.get("Via", ""))
        self.via = (*(name for name in via if name != self.id), self.id)
        if self.id in via:
            raise UpstreamError(f"is a loop: it mirrors this echo through {' and '.join(via)}")

    @contextlib.contextmanager
    def ask(
        self, session: requests.Session, name: SegmentName | None, start: int, stop: int = LIVE_END
    ) -> Iterator[requests.Response]:
        """Request a range of a segment, or of the current one if `name` is None; by default a live range.

        Raises SegmentGone, UpstreamError, OSError, ValueError or an error of urllib3.
        """
        headers = {"Accept": "text/plain", "Accept-Encoding": "identity", "Range": f"bytes={start}-{stop}"}
        if self.token:
            headers["Authorization"] = f"Bearer {read_token(self.token)}"
        url = f"{self.url.rstrip('/')}/{name}" if name else self.url
        options: dict[str, Any] = {"allow_redirects": False, "timeout": (CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS)}
        with session.get(url, headers=headers, stream=True, **options) as response:
            self.note_via(response)
            if name and response.status_code in (404, 410):
                if not response.raw.read1(1):
                    raise UpstreamError("the response was cut short")
                raise SegmentGone(linked(response))
            check(response)
            yield response

    def successor(self, session: requests.Session, name: SegmentName, size: int) -> SegmentName | None:
        """Return the next segment if this one is finished and has at most `size` bytes. Raises as `ask` does.

        The request is for one byte, which proves that the head was not cut short.
        """
        with self.ask(session, name, 0, 0) as response:
            length = response.headers.get("Content-Range" if response.status_code == 206 else "Content-Length", "")
            match = re.fullmatch("(?:bytes 0-0/)?([0-9]{1,16})", length)
            complete = match and int(match[1]) <= size and response.raw.read1(1)
            return linked(response) if complete else None


def linked(response: requests.Response) -> SegmentName | None:
    """Return the segment that a response links as the next one, or None."""
    link = re.search(r'<([^>]*)>\s*;\s*rel="?next"?', response.headers.get("Link", ""))
    return parse(link[1].rpartition("/")[2]) if link else None


def check(response: requests.Response) -> None:
    """Check the status of a response. Raises UpstreamError."""
    status = response.status_code
    if status == 401:
        raise UpstreamError("401: the token is missing or wrong: set --source-token-file (ECHO_SOURCE_TOKEN_FILE)")
    if status == 503:
        words = response.raw.read(200).decode("utf-8", "replace").partition("\n")[0]
        raise UpstreamError(f"503: {''.join(filter(str.isprintable, words)) or 'not ready'}")
    if 300 <= status < 400:
        raise UpstreamError(f"{status}: cannot follow redirects: set --source (ECHO_SOURCE) to the echo's own address")
    if status not in (200, 206, 416):
        raise UpstreamError(f"{status}: not an echo's /data: check --source (ECHO_SOURCE)")


def describe(error: BaseException) -> str:
    """Return the root cause of an exception as a short text, the same for each occurrence."""
    reason = "does not answer" if isinstance(error, requests.Timeout) else str(error) or type(error).__name__
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, (http.client.HTTPException, urllib3.exceptions.ProtocolError)):
            reason = "the connection was closed or is not HTTP"
        if isinstance(cause, (urllib3.exceptions.TimeoutError, TimeoutError)):
            reason = "does not answer"
        if isinstance(cause, OSError) and cause.strerror:
            reason = getattr(cause, "verify_message", "") or cause.strerror
            reason += f": {cause.filename}" if cause.filename else ""
        inner = getattr(cause.args[0], "reason", None) if cause.args else None
        cause = cause.__cause__ or cause.__context__ or (inner if isinstance(inner, BaseException) else None)
    return reason
