"""Random and damaged requests over real connections: the same answers, whole or in pieces."""

import contextlib
import itertools
import os
import random
import socket
from pathlib import Path

from support.mutants import comparable, cut, statuses, streams
from support.wire import Connection, Echo, connections, numbers, serving

REQUESTS = 2_000
AT_ONCE = 100


def receive(client: Connection, stream: bytes) -> bytes:
    """Return all responses until the server closes the connection."""
    with contextlib.suppress(OSError):
        client.socket.shutdown(socket.SHUT_WR)
    received = b""
    client.socket.settimeout(5)
    with contextlib.suppress(ConnectionResetError):
        try:
            while data := client.socket.recv(2**16):
                received += data
        except TimeoutError:
            raise AssertionError(f"not closed after {stream!r}") from None
    return received


def answers(echo: Echo, sent: list[list[bytes]]) -> list[bytes]:
    """Return the answers to several requests, sent in turn piece by piece so that each piece is read alone."""
    with connections(echo, len(sent), receive_buffer=2**16) as clients:
        for pieces in itertools.zip_longest(*sent, fillvalue=b""):
            for client, piece in zip(clients, pieces, strict=True):
                client.send(piece)
        echo.catch_up()  # or the end would come before the response to what was sent
        return [receive(client, b"".join(pieces)) for client, pieces in zip(clients, sent, strict=True)]


def test_damaged_requests_do_no_harm_however_they_are_cut(tmp_path: Path, effort: int) -> None:
    (tmp_path / "data").write_bytes(numbers(1000))
    os.utime(tmp_path / "data", (1, 1))  # so that Last-Modified is the same in all answers
    chance = random.Random(9)
    source, count = streams(9), 0
    with serving(tmp_path / "data") as echo:
        while count < REQUESTS * effort:
            batch = [next(source) for _ in range(AT_ONCE)]
            count += sum(requests for _, requests in batch)
            whole = answers(echo, [[stream] for stream, _ in batch])
            pieces = [cut(chance, stream, 6) for stream, _ in batch]
            for (stream, _), parts, one, other in zip(batch, pieces, whole, answers(echo, pieces), strict=True):
                assert {status for status in statuses(one) if status >= 500} <= {501, 503, 505}, stream
                assert comparable(one) == comparable(other), f"{stream!r}, in {[len(part) for part in parts]}"
        assert echo.serves()
        assert len(echo.program.lines) <= 2, echo.program.output[:2000]
