"""Follow a server with many connections in one process, and measure how long each number takes.

follow_client.py PORT COUNT ACCEPT: open COUNT streams from the server on this port
follow_client.py: read one stream from stdin

Each number in a stream is the time at which it was written, in nanoseconds. The program prints `ready` to stderr when
all streams are open. When all have ended, it prints JSON to stdout: the delays of each number in nanoseconds, and how
many streams ended with the last chunk of a chunked response.
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
TIMEOUT_SECONDS = 20.0  # to connect, and to receive the head of a response

TimedBytes = tuple[int, bytes]  # received bytes, after the time in nanoseconds


def follow(port: int, count: int, accept: str) -> Iterator[tuple[socket.socket, bytes]]:
    """Open `count` streams, and yield each with the bytes that were received together with its head."""
    clients = [socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) for _ in range(count)]
    for client in clients:
        client.sendall(REQUEST % accept.encode())
    for client in clients:
        response = b""
        while b"\r\n\r\n" not in response:
            data = client.recv(4096)
            response += data
            if not data or not response.startswith(b"HTTP/1.1 200 "[: len(response)]):
                raise SystemExit(f"cannot follow: {response[:50]!r}")
        client.settimeout(None)
        yield client, response.partition(b"\r\n\r\n")[2]


def receive(streams: Iterable[tuple[socket.socket | BinaryIO, bytes]]) -> list[list[TimedBytes]]:
    """Return what each stream received and when, after all streams have ended.

    The numbers are parsed only afterwards, because parsing one stream would delay the others.
    """
    epoll, open_streams, received = select.epoll(), {}, {}
    for stream, data in streams:
        epoll.register(stream, select.EPOLLIN)
        open_streams[stream.fileno()] = stream
        received[stream.fileno()] = [(time.monotonic_ns(), data)]
    print("ready", file=sys.stderr, flush=True)
    gc.disable()  # A collection would delay all streams.
    while open_streams:
        for fd, _ in epoll.poll():
            try:
                data = os.read(fd, 2**16)
            except OSError:  # connection reset
                data = b""
            if data:
                received[fd].append((time.monotonic_ns(), data))
            else:
                epoll.unregister(fd)
                open_streams.pop(fd).close()
    return list(received.values())


def delays(received: Iterable[TimedBytes]) -> Iterator[tuple[int, int]]:
    """Yield each number, and the nanoseconds until its line was complete."""
    incomplete = b""
    for now, data in received:
        lines, _, incomplete = (incomplete + data).rpartition(b"\n")
        for number in NUMBER.findall(lines):
            yield int(number), now - int(number)


def ended_cleanly(received: Sequence[TimedBytes]) -> bool:
    """Return whether the stream ended with the last chunk (RFC 9112, section 7.1)."""
    return b"".join(data for _, data in received[-5:]).endswith(b"\n0\r\n\r\n")


def main(argv: Sequence[str]) -> int:
    if argv:
        streams: list[list[TimedBytes]] = receive(follow(int(argv[0]), int(argv[1]), argv[2]))
    else:
        streams = receive([(sys.stdin.buffer, b"")])
    by_number: dict[int, list[int]] = defaultdict(list)
    for received in streams:
        for number, delay in delays(received):
            by_number[number].append(delay)
    json.dump({"delays": by_number, "clean": sum(map(ended_cleanly, streams))}, sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
