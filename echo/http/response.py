"""Responses: a status, headers, and a body of bytes or one that is sent as the socket takes it."""

import copy
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Protocol

MAX_PIECE_BYTES = 262144  # sent at once to a socket that takes it, before others have their turn
MAX_BUFFERED_BYTES = 16384  # of ours that wait for a socket which is full

NO_BODY = (204, 304)  # the statuses of responses without a body (RFC 9110, 6.4.1)
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}

Headers = Iterable[tuple[str, str]]


class Stream(Protocol):
    """Where a body is sent."""

    chunked: bool  # whether a part has to be framed as a chunk
    piece_bytes: int  # what to offer at once

    @property
    def blocked(self) -> bool: ...  # whether the socket takes nothing at the moment
    def write(self, data: bytes) -> None: ...  # all of these few bytes, which wait for the socket if they must
    def offer(self, data: bytes | memoryview) -> int: ...  # as many as the socket takes; returns how many
    def resume(self) -> None: ...  # ask the body to send, unless the socket is full: then that happens later
    def finish(self) -> None: ...  # the body is complete


class Body(Protocol):
    """A body that is sent as the socket takes it."""

    @property
    def length(self) -> int | None: ...  # bytes; None if it is known only at the end
    def send(self, stream: Stream) -> bool: ...  # called when the socket takes more; returns whether there is more now
    def close(self) -> None: ...  # called once, after the end or when the client has gone


class Response:
    """A response, which may be sent many times if its body is bytes."""

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
        """Return the same response with one more header field."""
        response = copy.copy(self)
        response.head += f"{name}: {value}\r\n".encode("latin-1")
        return response


class Text(Response):
    """A response of one line of text."""

    def __init__(self, status: int, text: str, headers: Headers = ()) -> None:
        plain = [("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store")]
        super().__init__(status, [*plain, *headers], f"{text}\n".encode(errors="backslashreplace"))


class FilePart:
    """Bytes that `read(start, stop)` returns, from `start` up to `stop`."""

    def __init__(self, read: Callable[[int, int], bytes | memoryview], start: int, stop: int) -> None:
        self.read, self.start, self.stop = read, start, stop
        self.length = stop - start

    def send(self, stream: Stream) -> bool:
        """Raises EOFError if the file has become shorter, and what `read` raises."""
        if self.start < self.stop:
            data = self.read(self.start, min(self.stop, self.start + stream.piece_bytes))
            if not data:
                raise EOFError("its file was truncated")
            self.start += stream.offer(data)
        if self.start == self.stop:
            stream.finish()
        return self.start < self.stop

    def close(self) -> None:
        """Nothing is held."""


def frame(data: bytes) -> bytes:
    """Return a chunk of a body of unknown length (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
