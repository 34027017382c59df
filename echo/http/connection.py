"""Connections: requests are answered in order, and every wait has a limit."""

import asyncio
import contextlib
import enum
import heapq
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, Protocol

from echo.http.body import ChunkedBody, SizedBody
from echo.http.fields import format_date
from echo.http.request import (
    MAX_HEAD_BYTES,
    MAX_REPEATED_BYTES,
    MAX_TARGET_BYTES,
    BadRequest,
    Request,
    check_beginning,
    parse_head,
    parse_repeated_head,
)
from echo.http.response import MAX_BUFFERED_BYTES, MAX_PIECE_BYTES, NO_BODY, Body, Response

HEAD_SECONDS = 10.0  # from the connection, or the first byte of a head, to the end of the head
BODY_SECONDS = 10.0  # between two pieces of a request's body
IDLE_SECONDS = 30.0  # between two requests
LINGER_SECONDS = 2.0  # for the client to close after the last response (RFC 9112, 9.6)
SWEEP_SECONDS = 1.0  # between two searches for connections that are past their deadline
MAX_PIPELINED = 16  # requests of one connection answered before other connections get their turn
MAX_DISCARDED_BYTES = 2**20  # received while a connection closes
TURNS_PER_PASS = 4  # connections that go on in one pass of the event loop


class State(enum.Enum):
    """The states of a connection."""

    NEW = "waiting for the first request"
    IDLE = "waiting for another request"
    HEAD = "receiving a head"
    BODY = "receiving a body"
    RESPONDING = "making or sending a response"
    CLOSING = "waiting for the client to close"
    CLOSED = "closed"


NEW, IDLE, HEAD, BODY, RESPONDING, CLOSING, CLOSED = State  # looked up sooner than by State's name
WAITING = (IDLE, NEW)


class Handler(Protocol):
    """Makes the responses. It does not raise."""

    def __call__(self, request: Request, client: str) -> Response | Awaitable[Response]: ...
    def refuse(self, client: str, error: BadRequest) -> Response: ...


class Connections:
    """The open connections, and what they share: the handler, the deadlines, the turns to send."""

    def __init__(self, handler: Handler, loop: Any, log: Callable[[str], None]) -> None:
        self.handler, self.loop, self.log = handler, loop, log
        self.open: set[Connection] = set()
        self.closing = False  # no connection is kept after its response
        self.on_close: Callable[[], None] = lambda: None
        self.requests = self.bytes_sent = 0  # bytes of bodies
        self.turns: deque[Callable[[], None]] = deque()
        self.turning = False  # whether run_turns is scheduled
        self.input = memoryview(bytearray(MAX_HEAD_BYTES))  # one for all: its content is copied at once
        self.update_date()

    def update_date(self) -> None:
        self.head_end = f"date: {format_date(int(time.time()))}\r\n\r\n".encode()

    def sweep(self) -> None:
        """Update the Date field, and end connections past their deadline. To be called every SWEEP_SECONDS."""
        self.update_date()
        now = self.loop.time()
        for connection in [each for each in self.open if each.deadline <= now]:
            connection.expire()

    def take_turn(self, callback: Callable[[], None]) -> None:
        """Call `callback` soon. Each pass of the event loop serves only a few turns, so none holds up the others."""
        self.turns.append(callback)
        if not self.turning:
            self.turning = True
            self.loop.call_soon(self.run_turns)

    def run_turns(self) -> None:
        now = [self.turns.popleft() for _ in range(min(TURNS_PER_PASS, len(self.turns)))]
        self.turning = bool(self.turns)
        if self.turning:
            self.loop.call_soon(self.run_turns)
        for callback in now:
            callback()

    def close_idle(self, most: int) -> None:
        """Close at most this many idle connections, the longest idle first."""
        idle = [each for each in self.open if each.state is IDLE and not each.blocked]
        for connection in heapq.nsmallest(most, idle, key=lambda each: each.deadline):
            connection.transport.close()


class Connection(asyncio.BufferedProtocol):
    """A client's connection. It is also the `Stream` to which a response's body is sent."""

    __slots__ = (
        *("blocked", "body", "buffer", "chunked", "client", "connections", "deadline", "discarded", "half_closed"),
        *("keep_alive", "piece_bytes", "request", "request_body", "scanned", "socket", "state", "task", "transport"),
    )
    transport: asyncio.Transport

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.state = NEW
        self.buffer = b""  # received and not parsed
        self.discarded = 0  # bytes received after the last response
        self.scanned = 0  # bytes at the start of `buffer` without the end of a head
        self.request: Request | None = None
        self.request_body: SizedBody | ChunkedBody | None = None
        self.body: Body | None = None  # of the response being sent
        self.task: asyncio.Future[Response] | None = None  # makes the response
        self.chunked = self.keep_alive = False
        self.half_closed = False  # whether the client has shut down its sending side
        self.blocked = False  # whether the socket is full and data wait for it

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        # pause_writing is called as soon as data wait. Over TLS asyncio calls it at the limit, otherwise beyond it.
        transport.set_write_buffer_limits(1 if transport.get_extra_info("ssl_object") else 0, 0)
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]) if peer else "-"
        # With TLS, only the transport can send.
        self.socket = None if transport.get_extra_info("sslcontext") else transport.get_extra_info("socket")
        self.piece_bytes = MAX_PIECE_BYTES if self.socket else MAX_BUFFERED_BYTES
        self.deadline = self.connections.loop.time() + HEAD_SECONDS
        self.connections.open.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.connections.input

    def buffer_updated(self, nbytes: int) -> None:
        state = self.state
        if state is CLOSING:
            self.discarded += nbytes
            if self.discarded > MAX_DISCARDED_BYTES:
                self.transport.abort()
            return
        data = bytes(self.connections.input[:nbytes])
        self.buffer = self.buffer + data if self.buffer else data
        if state is not RESPONDING:
            self.advance()
        elif len(self.buffer) > MAX_BUFFERED_BYTES:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Keep the connection for responses in progress. A stream without end is closed: the client may have gone."""
        self.half_closed = True
        if self.socket is None or (self.body and self.body.length is None):
            return False
        return self.state is RESPONDING or (self.state in WAITING and bool(self.buffer))

    def pause_writing(self) -> None:
        self.blocked = True

    def resume_writing(self) -> None:
        self.blocked = False
        if self.body:
            self.connections.take_turn(self.resume)
        elif self.state not in (RESPONDING, CLOSING):
            self.advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self.state, self.deadline = CLOSED, inf
        self.connections.open.discard(self)
        self.connections.on_close()
        if self.task:
            self.task.cancel()
        self.end_body()

    # Requests.

    def advance(self) -> None:
        """Answer the requests received so far, in order, while the socket has room."""
        for _ in range(MAX_PIPELINED):
            if self.blocked:
                self.transport.pause_reading()
                return
            try:
                complete = self.read_body() if self.state is BODY else self.read_head()
            except BadRequest as error:
                self.refuse(error)
                return
            if not complete:
                self.wait_for_more()
                return
            self.handle()
            if self.state is not IDLE:
                return
            if not self.buffer:
                self.wait_for_more()
                return
        self.transport.pause_reading()
        self.connections.take_turn(self.advance_if_idle)

    def wait_for_more(self) -> None:
        if self.half_closed:
            self.close()
        else:
            self.transport.resume_reading()

    def read_head(self) -> bool:
        """Parse a head at the start of the buffer; return whether the request is complete. Raises BadRequest."""
        if self.state in WAITING:
            while self.buffer.startswith(b"\r\n"):  # RFC 9112, 2.2; the deadline stays
                self.buffer = self.buffer[2:]
            if not self.buffer or self.buffer == b"\r":
                return False
            self.scanned = 0
        end = self.buffer.find(b"\r\n\r\n", self.scanned)
        if end < 0 and len(self.buffer) <= MAX_HEAD_BYTES + 3:
            self.wait_for_head()
            return False
        if end < 0 or end > MAX_HEAD_BYTES:
            check_beginning(self.buffer[:MAX_HEAD_BYTES])
            line = self.buffer.find(b"\r\n", 0, MAX_TARGET_BYTES + 32)
            raise BadRequest(414 if line < 0 else 431, f"the head is longer than {MAX_HEAD_BYTES} bytes")
        parse = parse_repeated_head if end <= MAX_REPEATED_BYTES else parse_head
        self.request = parse(self.buffer[:end])
        self.buffer = self.buffer[end + 4 :]
        return self.request.body == 0 or self.begin_body(self.request)

    def wait_for_head(self) -> None:
        """Wait for the rest of a head. Raises BadRequest if this cannot become one."""
        check_beginning(self.buffer, self.scanned)
        self.scanned = max(0, len(self.buffer) - 3)
        if self.state in WAITING:
            self.state, self.deadline = HEAD, self.connections.loop.time() + HEAD_SECONDS

    def begin_body(self, request: Request) -> bool:
        self.request_body = ChunkedBody() if request.body is None else SizedBody(request.body)
        if request.expects_continue and not self.buffer:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.state, self.deadline = BODY, self.connections.loop.time() + BODY_SECONDS
        return self.read_body()

    def read_body(self) -> bool:
        """Skip the received part of a request's body; return whether the body has ended. Raises BadRequest."""
        body = self.request_body
        assert body
        before = body.skipped
        rest = body.skip(self.buffer)
        self.buffer = rest or b""
        if body.skipped > before:  # chunk extensions and trailers do not extend the deadline
            self.deadline = self.connections.loop.time() + BODY_SECONDS
        return rest is not None

    def handle(self) -> None:
        assert self.request
        self.state, self.deadline = RESPONDING, inf
        answer = self.connections.handler(self.request, self.client)
        if isinstance(answer, Response):
            self.respond(answer)
        else:
            self.task = asyncio.ensure_future(answer)
            self.task.add_done_callback(self.respond_later)

    def respond_later(self, task: asyncio.Future[Response]) -> None:
        self.task = None
        if task.cancelled():
            return
        response = task.result()
        if self.state is RESPONDING:
            self.respond(response)
            self.next_request()
        elif not isinstance(response.body, bytes):
            response.body.close()

    # Responses.

    def respond(self, response: Response) -> None:
        """Send a response: in one write if its body is bytes, otherwise as the socket takes it."""
        request, body, connections = self.request, response.body, self.connections
        assert request
        connections.requests += 1
        self.keep_alive = request.keep_alive and not connections.closing
        self.chunked = False
        if request.method == "HEAD" or response.status in NO_BODY:
            if not isinstance(body, bytes):
                body.close()
            body = b""
        elif not isinstance(body, bytes) and body.length is None:
            if self.half_closed:
                body.close()
                self.transport.close()
                return
            self.chunked = request.minor > 0
            self.keep_alive &= self.chunked  # without chunks, the end of the connection ends the body
        framing = b"transfer-encoding: chunked\r\n" if self.chunked else b""
        if not self.keep_alive:
            framing += b"connection: close\r\n"
        elif not request.minor:
            framing += b"connection: keep-alive\r\n"
        if isinstance(body, bytes):
            self.transport.write(b"".join((response.head, framing, connections.head_end, body)))
            connections.bytes_sent += len(body)
            self.end_response()
        else:
            self.transport.write(b"".join((response.head, framing, connections.head_end)))
            self.body = body
            self.resume()

    def resume(self) -> None:
        """Let the body send its next piece, unless the socket is full."""
        if not self.body or self.blocked:
            return
        try:
            if self.body.send(self) and not self.blocked:
                self.connections.take_turn(self.resume)
        except (EOFError, OSError, ValueError) as error:
            self.connections.log(f"cannot go on with a response to {self.client}: {error}")
            self.transport.abort()

    def write(self, data: bytes) -> None:
        """Send all these bytes of the body; they wait in memory while the socket is full."""
        self.transport.write(data)
        self.connections.bytes_sent += len(data)

    def offer(self, data: bytes | memoryview) -> int:
        """Send as many bytes as the socket takes, and buffer a few more; return how many bytes that is.

        sendfile(2) would send zeros for bytes that are truncated while they are on their way.
        """
        sent = 0
        if self.socket and not self.blocked:
            with contextlib.suppress(BlockingIOError):
                sent = os.write(self.socket.fileno(), data)  # the transport would buffer all the rest
        if sent < len(data) and not self.blocked:  # full, or TLS
            rest = bytes(data[sent : sent + MAX_BUFFERED_BYTES])
            self.transport.write(rest)
            sent += len(rest)
        self.connections.bytes_sent += sent
        return sent

    def finish(self) -> None:
        """End the body being sent."""
        if self.chunked:
            self.transport.write(b"0\r\n\r\n")
        self.end_body()
        self.end_response()
        self.next_request()

    def end_body(self) -> None:
        if self.body:
            self.body.close()
        self.body = None

    def end_response(self) -> None:
        self.request = None
        if self.keep_alive:
            self.state, self.deadline = IDLE, self.connections.loop.time() + IDLE_SECONDS
        else:
            self.close()

    def next_request(self) -> None:
        """Answer requests that arrived during the response, in a turn of their own."""
        if self.state is IDLE:
            self.connections.take_turn(self.advance_if_idle)

    def advance_if_idle(self) -> None:
        if self.state is IDLE:
            self.advance()

    # The end.

    def refuse(self, error: BadRequest) -> None:
        """Answer a malformed request, and close the connection."""
        response = self.connections.handler.refuse(self.client, error)
        assert isinstance(response.body, bytes)
        parts = (response.head, b"connection: close\r\n", self.connections.head_end, response.body)
        self.transport.write(b"".join(parts))
        self.close()

    def expire(self) -> None:
        """End a connection that is past its deadline."""
        if self.state is HEAD:
            self.refuse(BadRequest(408, f"the head did not arrive within {HEAD_SECONDS:g} s"))
        elif self.state is BODY:
            self.refuse(BadRequest(408, f"the body paused for {BODY_SECONDS:g} s"))
        elif self.state in WAITING:
            self.close()
        elif not self.blocked:
            self.transport.abort()

    def close(self) -> None:
        """Shut down the sending side, then wait for the client to close.

        Closing at once could destroy a response on its way if the client has sent more (RFC 9112, 9.6).
        """
        self.state, self.deadline = CLOSING, self.connections.loop.time() + LINGER_SECONDS
        self.buffer = b""
        if self.socket:
            with contextlib.suppress(OSError):  # a reset, which the next read will find too
                self.transport.write_eof()
            self.transport.resume_reading()
        else:
            self.transport.close()
