"""Random and damaged requests on a fake transport, cut anywhere: the same answers, and each connection ends."""

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

REQUESTS = 10_000
ALL_AT_ONCE = 2**40
LONGEST = 2 * (HEAD_SECONDS + IDLE_SECONDS)


class Lines:
    """A body of several lines, with or without a known length."""

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
    """A handler that answers with bodies of every kind."""

    def __call__(self, request: Request, client: str) -> Response:
        if request.path == "/data":
            return Response(200, [], Lines(20, known=not request.query))
        if request.path == "/healthz":
            return Response(304 if "if-none-match" in request.headers else 200, [], b"alive\n")
        return Text(404, f"{request.method} {request.path!a} {request.query!a}")

    def refuse(self, client: str, error: BadRequest) -> Response:
        return Text(error.status, str(error))


def answered(pieces: list[bytes], capacity: int = ALL_AT_ONCE) -> bytes:
    """Return the answers to these pieces for a client that reads this many bytes at a time."""
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


def test_damaged_requests_whole_and_in_pieces(effort: int) -> None:
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
        if count >= REQUESTS * effort:
            break


def test_a_client_that_ends_its_side_anywhere_is_let_go() -> None:
    """It may get all of its answers or fewer, but its connection never stays open."""
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
    """The socket is reset, and the transport has not noticed yet."""

    def write_eof(_: FakeTransport) -> None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    monkeypatch.setattr(FakeTransport, "write_eof", write_eof)
    assert statuses(answered([b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"])) == [200]
