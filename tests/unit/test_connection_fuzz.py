"""100,000 random and damaged requests over a fake socket, however they are cut: the same answers, and always an end."""

import errno
import itertools
import os
import random

import pytest

from echo.http.connection import HEAD_SECONDS, IDLE_SECONDS, SWEEP_SECONDS, Connection, Connections
from echo.http.request import BadRequest, Request
from echo.http.response import Response, Stream, Text, frame
from support.fake_network import FakeLoop, FakeTransport
from support.mutants import comparable, cut, statuses, streams

REQUESTS = 100_000
ALL_AT_ONCE = 2**40
LONGEST = 2 * (HEAD_SECONDS + IDLE_SECONDS)


class Lines:
    """A body of some lines, of known length or not."""

    def __init__(self, count: int, known: bool) -> None:
        self.lines = iter([b"%d\n" % (number % 10) for number in range(count)])
        self.length = 2 * count if known else None
        self.closed = 0

    def send(self, stream: Stream) -> bool:
        line = next(self.lines, b"")
        if line:
            stream.write(frame(line) if stream.chunked else line)
        else:
            stream.finish()
        return bool(line)

    def close(self) -> None:
        self.closed += 1
        assert self.closed == 1


class Handler:
    """Answers with bodies of all kinds."""

    def __call__(self, request: Request, client: str) -> Response:
        if request.path == "/data":
            return Response(200, [], Lines(20, known=not request.query))
        if request.path == "/healthz":
            return Response(304 if "if-none-match" in request.headers else 200, [], b"alive\n")
        return Text(404, f"{request.method} {request.path!a} {request.query!a}")

    def refuse(self, client: str, error: BadRequest) -> Response:
        return Text(error.status, str(error))


def answered(pieces: list[bytes], capacity: int = ALL_AT_ONCE) -> bytes:
    """What a connection answers to these pieces, from a client that takes so many bytes at a time; it must end."""
    loop, log = FakeLoop(), list[str]()
    connections = Connections(Handler(), loop, log.append)
    connection = Connection(connections)
    transport = FakeTransport(loop, connection, capacity)

    def settle() -> None:
        loop.run()
        while transport.waiting:
            transport.take(capacity)
            loop.run()

    for piece in pieces:
        transport.feed(piece)
        settle()
    began = loop.now
    while connections.open:
        loop.now += HEAD_SECONDS
        connections.sweep()
        settle()
        assert loop.now - began < LONGEST, "it is still open"
    assert not log
    assert connection.body is None
    return bytes(transport.sent)


def test_100_000_damaged_requests_whole_and_in_pieces() -> None:
    chance, count = random.Random(9), 0
    for turn, (stream, requests) in enumerate(streams(9)):
        whole = answered([stream])
        assert {status for status in statuses(whole) if status >= 500} <= {501, 505}, stream
        for pieces, capacity in (
            (cut(chance, stream, 8), ALL_AT_ONCE),
            *([([stream], chance.choice([1, 10, 1000]))] if turn % 10 == 0 else []),
            *([([bytes([byte]) for byte in stream], ALL_AT_ONCE)] if turn % 10 == 1 and len(stream) < 2000 else []),
        ):
            assert comparable(answered(pieces, capacity)) == comparable(whole), (
                stream,
                list(map(len, pieces)),
                capacity,
            )
        count += requests
        if count >= REQUESTS:
            break


def test_a_client_that_ends_its_side_anywhere_is_let_go() -> None:
    """With what it asked for, or with less; but never does its connection stay."""
    chance = random.Random(10)
    for stream, _ in itertools.islice(streams(10), 2000):
        loop = FakeLoop()
        connections = Connections(Handler(), loop, lambda line: None)
        transport = FakeTransport(loop, Connection(connections), chance.choice([0, 10, ALL_AT_ONCE]))
        transport.feed(stream)
        if chance.random() < 0.5:
            loop.run()
        transport.feed_eof()
        loop.run()
        while transport.waiting:
            transport.take(100)
            loop.run()
        for _ in range(5):
            loop.now += SWEEP_SECONDS
            connections.sweep()
            loop.run()
        assert not connections.open, stream


def test_a_client_that_resets_before_the_end_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the socket has no side left to close, and the transport does not know that yet."""

    def write_eof(_: FakeTransport) -> None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    monkeypatch.setattr(FakeTransport, "write_eof", write_eof)
    assert statuses(answered([b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"])) == [200]
