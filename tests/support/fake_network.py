"""A fake event loop, clock and socket, to test connections without a network."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol


class FakeLoop:
    """An event loop that runs callbacks only in `run`. Tests set the time in `now`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.callbacks: deque[Callable[[], object]] = deque()

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.callbacks.append(callback)

    def run(self) -> None:
        """Run callbacks until none is left."""
        for _ in range(1_000_000):
            if not self.callbacks:
                return
            self.callbacks.popleft()()
        raise AssertionError("the callbacks never end")


class Receiver(Protocol):
    """The part of asyncio.BufferedProtocol that a transport calls."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def get_buffer(self, sizehint: int) -> memoryview: ...
    def buffer_updated(self, nbytes: int) -> None: ...
    def eof_received(self) -> bool | None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...


class FakeTransport(asyncio.Transport):
    """A transport that sends `capacity` bytes to `sent`, and more when the client takes them."""

    def __init__(self, loop: FakeLoop, receiver: Receiver, capacity: int = 2**40) -> None:
        super().__init__({"peername": ("192.0.2.1", 1), "socket": object()})
        self.loop, self.receiver = loop, receiver
        self.capacity = capacity
        self.sent = bytearray()
        self.waiting = bytearray()  # bytes written, but not sent yet
        self.received = b""  # bytes from the client, not read yet because reading is paused
        self.eof = self.reading_paused = self.writing_paused = self.ending = self.closed = False
        receiver.connection_made(self)

    # The client's side.

    def feed(self, data: bytes) -> None:
        """Receive bytes from the client; keep them while reading is paused."""
        self.received += data
        self.deliver()

    def deliver(self) -> None:
        while self.received and not (self.reading_paused or self.ending):
            buffer = self.receiver.get_buffer(-1)
            size = min(len(buffer), len(self.received))
            buffer[:size], self.received = self.received[:size], self.received[size:]
            self.receiver.buffer_updated(size)

    def feed_eof(self) -> None:
        if not self.ending and not self.receiver.eof_received():
            self.close()

    def take(self, count: int) -> None:
        """Let the client take `count` more bytes."""
        self.capacity += count
        self.fill()
        if self.writing_paused and not self.waiting and not self.ending:
            self.writing_paused = False
            self.receiver.resume_writing()

    def fill(self) -> None:
        size = min(self.capacity, len(self.waiting))
        self.sent += self.waiting[:size]
        del self.waiting[:size]
        self.capacity -= size
        if self.ending and not self.waiting:
            self.lose()

    # The connection's side.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.eof, "a write after the end"
        self.waiting += data
        self.fill()
        if self.waiting and not self.writing_paused:
            self.writing_paused = True
            self.receiver.pause_writing()

    def write_eof(self) -> None:
        self.eof = True

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        if self.reading_paused:
            self.reading_paused = False
            self.loop.call_soon(self.deliver)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert not high

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def is_closing(self) -> bool:
        return self.ending

    def close(self) -> None:
        self.ending = True
        if not self.waiting:
            self.lose()

    def abort(self) -> None:
        self.ending = True
        self.waiting.clear()
        self.lose()

    def lose(self) -> None:
        if not self.closed:
            self.closed = True
            self.loop.call_soon(lambda: self.receiver.connection_lost(None))
