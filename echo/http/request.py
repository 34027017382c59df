"""Strict parsing of a request's head (RFC 9112, sections 2 to 6). Pure."""

import functools
import re
from collections.abc import Mapping
from urllib.parse import unquote

MAX_HEAD_BYTES = 16384
MAX_TARGET_BYTES = 8192
MAX_FIELDS = 100
MAX_REPEATED_BYTES = 1024  # heads up to this length are cached: most clients repeat theirs
MAX_BODY_BYTES = 65536

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")

METHOD_START = re.compile(rb"[A-Za-z]")
BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rf"({TOKEN}) ([!-~]+) HTTP/([0-9])\.([0-9])")
FIELDS = re.compile(rf"(?:\r\n{TOKEN}:[\t -~\x80-\xff]*)*")
AUTHORITY = r"(?:[A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?"  # no comma: that would be a repeated Host
HOST = re.compile(AUTHORITY)
URI_CHARACTERS = r"[A-Za-z0-9._~!$&'()*+,;=:@/%-]"
TARGET = re.compile(rf"(?:(?i:https?)://{AUTHORITY}(?=[/?]|$))?(/{URI_CHARACTERS}*)?(?:\?((?:{URI_CHARACTERS}|\?)*))?")
BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class BadRequest(Exception):
    """A malformed request. The response has this status, and the connection is closed."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Request:
    """A request without its body, which is skipped. Immutable: repeated heads give the same object."""

    __slots__ = ("body", "headers", "keep_alive", "method", "minor", "path", "query")

    def __init__(
        self,
        method: str,
        path: str,  # decoded; "*" for OPTIONS *
        query: str,
        minor: int,  # version of HTTP/1: 0, or 1 for 1.1 and later
        headers: Mapping[str, str],  # names in lower case; repeated fields are joined by ", " (RFC 9110, 5.3)
        keep_alive: bool,
        body: int | None,  # bytes; None if it is chunked
    ) -> None:
        self.method, self.path, self.query, self.minor = method, path, query, minor
        self.headers, self.keep_alive, self.body = headers, keep_alive, body

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends the body (RFC 9110, 10.1.1)."""
        return self.minor > 0 and self.body != 0 and "expect" in self.headers


def check_beginning(head: bytes, start: int = 0) -> None:
    """Check the beginning of a head; line ends are checked from `start` on. Raises BadRequest.

    A malformed head is refused before it is complete, with the same status however the bytes were cut.
    """
    if not METHOD_START.match(head):
        raise BadRequest(400, "this is not HTTP")
    if BARE_LINE_FEED.search(head, start):
        raise BadRequest(400, "lines end in CRLF (RFC 9112, 2.2)")


def parse_head(head: bytes) -> Request:
    """Parse a request line and fields, without the empty line that ends them. Raises BadRequest."""
    check_beginning(head)
    text = head.decode("latin-1")
    line, _, rest = text.partition("\r\n")
    match = REQUEST_LINE.fullmatch(line)
    if not match:
        raise BadRequest(400, "the request line is not METHOD TARGET HTTP/1.1")
    method, target, major, minor = match.groups()
    if major != "1":
        raise BadRequest(505, f"HTTP/{major}.{minor} is not served: use HTTP/1.1")
    if len(target) > MAX_TARGET_BYTES:
        raise BadRequest(414, f"the target is longer than {MAX_TARGET_BYTES} bytes")
    headers = parse_fields(text[len(line) :]) if rest else {}
    if method not in METHODS:
        raise BadRequest(501, f"the method {method[:20]} is unknown")
    newer = minor != "0"
    path, query = parse_target(method, target)
    if not HOST.fullmatch(headers.get("host", "" if newer else "-")):
        raise BadRequest(400, "exactly one Host field with a host is required (RFC 9112, 3.2)")
    if "expect" in headers and headers["expect"].lower() != "100-continue":
        raise BadRequest(417, "the only supported expectation is 100-continue")
    options = headers.get("connection", "").lower()
    keep_alive = not has_token(options, "close") if newer else has_token(options, "keep-alive")
    return Request(method, path, query, int(newer), headers, keep_alive, body_length(headers, newer))


parse_repeated_head = functools.lru_cache(maxsize=256)(parse_head)


def parse_fields(text: str) -> dict[str, str]:
    r"""Parse field lines, each after its "\r\n". Raises BadRequest."""
    lines = text.split("\r\n")[1:]
    if len(lines) > MAX_FIELDS:
        raise BadRequest(431, f"there are more than {MAX_FIELDS} header fields")
    if not FIELDS.fullmatch(text):
        raise BadRequest(400, "a header field is malformed (RFC 9112, section 5)")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def parse_target(method: str, target: str) -> tuple[str, str]:
    """Return the decoded path and the raw query of a target in origin or absolute form. Raises BadRequest."""
    if target == "*" and method == "OPTIONS":
        return "*", ""
    match = TARGET.fullmatch(target)
    if not match or target[0] == "?" or BAD_ESCAPE.search(target):
        raise BadRequest(400, "the target is neither a path nor an http URL (RFC 9112, 3.2)")
    path = match[1] or "/"
    return unquote(path) if "%" in path else path, match[2] or ""


def body_length(headers: dict[str, str], newer: bool) -> int | None:
    """Return the length of the request's body in bytes, or None if it is chunked. Raises BadRequest (RFC 9112, 6)."""
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if coding is not None:
        if not newer or length is not None:
            raise BadRequest(400, "Transfer-Encoding with HTTP/1.0 or with Content-Length is ambiguous")
        if coding.lower() != "chunked":
            last = coding.lower().rpartition(",")[2].strip()
            raise BadRequest(501 if last == "chunked" else 400, "the only supported transfer coding is chunked")
        return None
    if length is None:
        return 0
    if not re.fullmatch("[0-9]{1,18}", length):
        raise BadRequest(400, "Content-Length is not one whole number")
    if int(length) > MAX_BODY_BYTES:
        raise BadRequest(413, f"the body is longer than {MAX_BODY_BYTES} bytes")
    return int(length)


def has_token(value: str, token: str) -> bool:
    """Return whether a comma-separated list in lower case has this token."""
    return value == token or (bool(value) and token in map(str.strip, value.split(",")))
