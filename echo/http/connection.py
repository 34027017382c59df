"""A connection: requests in, responses out in their order, every wait bounded."""

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

HEAD_SECONDS = 10.0  # for the head of a request, from the connection or its first byte on
BODY_SECONDS = 10.0  # between two pieces of a request's body
IDLE_SECONDS = 30.0  # between two requests
LINGER_SECONDS = 2.0  # for the client to close after the last response (RFC 9112, 9.6)
SWEEP_SECONDS = 1.0  # between two looks for connections whose time is up
MAX_PIPELINED = 16  # requests answered in a row before other connections have their turn
MAX_DISCARDED_BYTES = 2**20  # received while a connection closes
TURNS_PER_PASS = 4  # bodies that send a piece in one pass of the event loop


class State(enum.Enum):
    """What a connection is doing."""

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
    """What is served. It raises nothing."""

    def __call__(self, request: Request, client: str) -> Response | Awaitable[Response]: ...
    def refuse(self, client: str, error: BadRequest) -> Response: ...


class Connections:
    """What all connections share: the handler, their timers, and whose turn it is to send."""

    def __init__(self, handler: Handler, loop: Any, log: Callable[[str], None]) -> None:
        self.handler, self.loop, self.log = handler, loop, log
        self.open: set[Connection] = set()
        self.closing = False  # no connection is kept after its response
        self.on_close: Callable[[], None] = lambda: None
        self.requests = self.bytes_sent = 0  # bytes of bodies
        self.turns: deque[Callable[[], None]] = deque()
        self.turning = False  # whether run_turns is about to be called
        self.input = memoryview(bytearray(MAX_HEAD_BYTES))  # one read at a time, so one buffer for all
        self.update_date()

    def update_date(self) -> None:
        self.head_end = f"date: {format_date(int(time.time()))}\r\n\r\n".encode()

    def sweep(self) -> None:
        """Renew the Date field and end what has outlived its limit. To be called every SWEEP_SECONDS."""
        self.update_date()
        now = self.loop.time()
        for connection in [each for each in self.open if each.deadline <= now]:
            connection.expire()

    def take_turn(self, callback: Callable[[], None]) -> None:
        """Call back soon; of many that want to send, a few in each pass of the event loop."""
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
        """Close those that have waited longest for another request, to make room."""
        idle = [each for each in self.open if each.state is IDLE and not each.blocked]
        for connection in heapq.nsmallest(most, idle, key=lambda each: each.deadline):
            connection.transport.close()


class Connection(asyncio.BufferedProtocol):
    """One client's connection. It is also the stream that the body of a response is sent to."""

    __slots__ = (
        *("blocked", "body", "buffer", "chunked", "client", "connections", "deadline", "discarded", "half_closed"),
        *("keep_alive", "piece_bytes", "request", "request_body", "scanned", "socket", "state", "task", "transport"),
    )
    transport: asyncio.Transport

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.state = NEW
        self.buffer = b""  # received and not looked at
        self.discarded = 0  # bytes received after the last response
        self.scanned = 0  # bytes of it that hold no end of a head
        self.request: Request | None = None
        self.request_body: SizedBody | ChunkedBody | None = None
        self.body: Body | None = None  # of the response that is being sent
        self.task: asyncio.Future[Response] | None = None  # that makes the response
        self.chunked = self.keep_alive = False
        self.half_closed = False  # the client sends no more
        self.blocked = False  # whether something of ours waits for the socket

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        # So that "blocked" means: something waits for the socket. Over TLS asyncio pauses at the limit, not beyond it.
        transport.set_write_buffer_limits(1 if transport.get_extra_info("ssl_object") else 0, 0)
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]) if peer else "-"
        # With TLS only the transport can send.
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
        """Answer a client that sends no more; a stream without end is for those who keep their side open."""
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
        """Answer what was received; pipelined requests in their order, the next one when the socket has room."""
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
        """Take a head off the buffer; return whether a request is complete with it. Raises BadRequest."""
        if self.state in WAITING:
            while self.buffer.startswith(b"\r\n"):  # RFC 9112, 2.2; it does not prolong the wait for a request
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
        """Wait for the rest of a head. Raises BadRequest if it can be none."""
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
        """Skip what was received of a body; return whether it has ended. Raises BadRequest."""
        body = self.request_body
        assert body
        before = body.skipped
        rest = body.skip(self.buffer)
        self.buffer = rest or b""
        if body.skipped > before:  # not by chunk extensions or trailers alone
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
        """Send a response: in one write if its body is bytes, else as the socket takes it."""
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
            self.keep_alive &= self.chunked  # without chunks the end of the connection is the end of the body
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
        """Let the body send a piece."""
        if not self.body or self.blocked:
            return
        try:
            if self.body.send(self) and not self.blocked:
                self.connections.take_turn(self.resume)
        except (EOFError, OSError, ValueError) as error:
            self.connections.log(f"cannot go on with a response to {self.client}: {error}")
            self.transport.abort()

    def write(self, data: bytes) -> None:
        """Send bytes of the body as they are."""
        self.transport.write(data)
        self.connections.bytes_sent += len(data)

    def offer(self, data: bytes | memoryview) -> int:
        """Send as much as the socket takes, and keep a little for when it takes more; return how many bytes.

        Not by sendfile(2): what is truncated while it is on its way would arrive as zeros.
        """
        sent = 0
        if self.socket and not self.blocked:
            with contextlib.suppress(BlockingIOError):
                sent = os.write(self.socket.fileno(), data)  # past the transport, which would keep all the rest
        if sent < len(data) and not self.blocked:  # full, or TLS
            rest = bytes(data[sent : sent + MAX_BUFFERED_BYTES])
            self.transport.write(rest)
            sent += len(rest)
        self.connections.bytes_sent += sent
        return sent

    def finish(self) -> None:
        """End the body that is being sent."""
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
        """Go on with what was received meanwhile, in a turn of its own."""
        if self.state is IDLE:
            self.connections.take_turn(self.advance_if_idle)

    def advance_if_idle(self) -> None:
        if self.state is IDLE:
            self.advance()

    # The end.

    def refuse(self, error: BadRequest) -> None:
        """Answer a request that cannot be understood, and close."""
        response = self.connections.handler.refuse(self.client, error)
        assert isinstance(response.body, bytes)
        parts = (response.head, b"connection: close\r\n", self.connections.head_end, response.body)
        self.transport.write(b"".join(parts))
        self.close()

    def expire(self) -> None:
        """End a connection that has outlived a limit."""
        if self.state is HEAD:
            self.refuse(BadRequest(408, f"the head did not arrive within {HEAD_SECONDS:g} s"))
        elif self.state is BODY:
            self.refuse(BadRequest(408, f"the body paused for {BODY_SECONDS:g} s"))
        elif self.state in WAITING:
            self.close()
        elif not self.blocked:
            self.transport.abort()

    def close(self) -> None:
        """Send what is left and say that no more comes, then wait for the client to close.

        Closing at once could destroy the response on its way, if the client had sent more (RFC 9112, 9.6).
        """
        self.state, self.deadline = CLOSING, self.connections.loop.time() + LINGER_SECONDS
        self.buffer = b""
        if self.socket:
            with contextlib.suppress(OSError):  # the client has reset the connection, which reading will find
                self.transport.write_eof()
            self.transport.resume_reading()
        else:
            self.transport.close()
