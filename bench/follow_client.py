"""Many followers in one process; each number of their streams is the time at which it was written.

follow_client.py PORT COUNT ACCEPT: follows the server on that port so many times; without arguments: takes what comes
on stdin. Says `ready` on stderr; once all streams have ended, says in JSON on stdout how many nanoseconds each number
took to each follower, and how many streams ended as a chunked response ends.
"""

import gc
import json
import os
import re
import select
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

REQUEST = b"GET /data?follow&tail=0 HTTP/1.1\r\nHost: bench\r\nAccept: %b\r\n\r\n"
NUMBER = re.compile(rb"^(?:data: )?([0-9]+)$", re.MULTILINE)
PATIENCE = 20.0  # seconds for a connection, and for a response's head

Piece = tuple[int, bytes]  # when it had come, and what


def follow(port: int, count: int, accept: str) -> Iterator[tuple[socket.socket, bytes]]:
    """So many streams, each with what came of it together with the head."""
    clients = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(count)]
    for client in clients:
        client.sendall(REQUEST % accept.encode())
    for client in clients:
        begun = b""
        while b"\r\n\r\n" not in begun:
            part = client.recv(4096)
            begun += part
            if not part or not begun.startswith(b"HTTP/1.1 200 "[: len(begun)]):
                raise SystemExit(f"not followed: {begun[:50]!r}")
        client.settimeout(None)
        yield client, begun.partition(b"\r\n\r\n")[2]


def receive(streams: Iterable[tuple[socket.socket | BinaryIO, bytes]]) -> list[list[Piece]]:
    """What came when, by stream, until the end of all. Nothing else is done meanwhile, for others wait then."""
    watched, open_streams, pieces = select.epoll(), {}, {}
    for stream, begun in streams:
        watched.register(stream, select.EPOLLIN)
        open_streams[stream.fileno()] = stream
        pieces[stream.fileno()] = [(time.monotonic_ns(), begun)]
    print("ready", file=sys.stderr, flush=True)
    gc.disable()
    while open_streams:
        for fd, _ in watched.poll():
            try:
                data = os.read(fd, 2**16)
            except OSError:  # reset
                data = b""
            if data:
                pieces[fd].append((time.monotonic_ns(), data))
            else:
                watched.unregister(fd)
                open_streams.pop(fd).close()
    return list(pieces.values())


def delays(pieces: Iterable[Piece]) -> Iterator[tuple[int, int]]:
    """Each number, and after how long its line was complete."""
    rest = b""
    for came, data in pieces:
        lines, _, rest = (rest + data).rpartition(b"\n")
        for number in NUMBER.findall(lines):
            yield int(number), came - int(number)


def ended_cleanly(pieces: Sequence[Piece]) -> bool:
    return b"".join(data for _, data in pieces[-5:]).endswith(b"\n0\r\n\r\n")


def main(argv: Sequence[str]) -> int:
    if argv:
        streams: list[list[Piece]] = receive(follow(int(argv[0]), int(argv[1]), argv[2]))
    else:
        streams = receive([(sys.stdin.buffer, b"")])
    by_number: dict[int, list[int]] = defaultdict(list)
    for pieces in streams:
        for number, delay in delays(pieces):
            by_number[number].append(delay)
    json.dump({"delays": by_number, "clean": sum(map(ended_cleanly, streams))}, sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
