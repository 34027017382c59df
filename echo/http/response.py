"""Responses. A body is bytes, or an object that sends itself as the socket takes it."""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Protocol

MAX_PIECE_BYTES = 262144  # sent at once, before other connections get their turn
MAX_BUFFERED_BYTES = 16384  # buffered for a socket that is full

NO_BODY = (204, 304)  # the statuses of responses without a body (RFC 9110, 6.4.1)
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}

Headers = Iterable[tuple[str, str]]


class Stream(Protocol):
    """The connection, as a body sees it."""

    chunked: bool  # whether data must be framed as chunks
    piece_bytes: int  # the most to offer at once

    @property
    def blocked(self) -> bool: ...  # whether the socket is full
    def write(self, data: bytes) -> None: ...  # a few bytes, buffered while the socket is full
    def offer(self, data: bytes | memoryview) -> int: ...  # returns how many bytes were taken
    def resume(self) -> None: ...  # call the body's `send`, now or when the socket has room
    def finish(self) -> None: ...  # the body is complete


class Body(Protocol):
    """A body that sends itself as the socket takes it."""

    @property
    def length(self) -> int | None: ...  # bytes, or None if unknown
    def send(self, stream: Stream) -> bool: ...  # called when the socket has room; returns whether there is more now
    def close(self) -> None: ...  # called once, at the end or when the client has gone


class Response:
    """A response. It can be sent again if its body is bytes."""

    __slots__ = ("body", "head", "status")

    def __init__(self, status: int, headers: Headers, body: "bytes | Body" = b"") -> None:
        self.status = status
        self.body = body
        lines = [f"{name}: {value}\r\n" for name, value in headers]
        length = len(body) if isinstance(body, bytes) else body.length
        if length is not None and status not in NO_BODY:
            lines.append(f"content-length: {length}\r\n")
        self.head = (STATUS_LINES[status] + "".join(lines)).encode("latin-1")

    def with_header(self, name: str, value: str) -> "Response":
        """Return a copy with one more header field."""
        response = Response.__new__(Response)  # copy.copy takes ten times as long
        response.status, response.body = self.status, self.body
        response.head = self.head + f"{name}: {value}\r\n".encode("latin-1")
        return response


class Text(Response):
    """A response with one line of text."""

    def __init__(self, status: int, text: str, headers: Headers = ()) -> None:
        plain = [("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store")]
        super().__init__(status, [*plain, *headers], f"{text}\n".encode(errors="backslashreplace"))


class FilePart:
    """The bytes of a file from `start` up to `stop`, as `read(start, stop)` returns them."""

    def __init__(self, read: Callable[[int, int], bytes | memoryview], start: int, stop: int) -> None:
        self.read, self.start, self.stop = read, start, stop
        self.length = stop - start

    def send(self, stream: Stream) -> bool:
        """Send the next piece. Raises EOFError if the file was truncated, and what `read` raises."""
        if self.start < self.stop:
            data = self.read(self.start, min(self.stop, self.start + stream.piece_bytes))
            if not data:
                raise EOFError("its file was truncated")
            self.start += stream.offer(data)
        if self.start == self.stop:
            stream.finish()
        return self.start < self.stop

    def close(self) -> None:
        """Do nothing: a part holds nothing open."""


def frame(data: bytes) -> bytes:
    """Return data framed as a chunk (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
