"""hostile_clients.py PORT SLOW IDLE STALLED: clients that cost a server much, all at once, until stdin ends.

So many slowly read a large /data, so many have had an answer and say no more, so many follow and read nothing. Says
`ready` on stderr when all of them have got their first bytes, and at the end how many were cut off.
"""

import contextlib
import itertools
import os
import select
import socket
import sys
import time
from collections.abc import Sequence

GET = "GET {} HTTP/1.1\r\nHost: bench\r\nAccept: {}\r\n\r\n"
READ_BYTES = 4096  # by a slow client at a time
PAUSE = 0.5  # seconds between two of its reads


def connect(port: int, target: str, accept: str) -> socket.socket:
    """A connection whose client takes little, and on which this was asked."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BYTES)
    client.settimeout(20)
    client.connect(("127.0.0.1", port))
    client.sendall(GET.format(target, accept).encode())
    return client


def read_slowly(slow: Sequence[socket.socket]) -> int:
    """Let each read a little every PAUSE seconds, until stdin ends; return how many were cut off."""
    cut_off: set[socket.socket] = set()
    for client in slow:
        client.setblocking(False)
    due = time.monotonic()
    for client in itertools.cycle(slow):
        due += PAUSE / len(slow)
        if select.select([sys.stdin], [], [], max(0, due - time.monotonic()))[0]:
            break
        with contextlib.suppress(BlockingIOError):
            try:
                if not client.recv(READ_BYTES):
                    cut_off.add(client)
            except ConnectionResetError:
                cut_off.add(client)
    return len(cut_off)


def main(port: int, slow: int, idle: int, stalled: int) -> None:
    slow_clients = [connect(port, "/data", "*/*") for _ in range(slow)]
    idle_clients = [connect(port, "/healthz", "*/*") for _ in range(idle)]
    kinds = itertools.cycle(["text/plain", "text/event-stream"])
    stalled_clients = [connect(port, "/data?follow", kind) for kind, _ in zip(kinds, range(stalled), strict=False)]
    for client in (*slow_clients, *idle_clients, *stalled_clients):
        answer = client.recv(17)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"not served: {answer!r}")
    print("ready", file=sys.stderr, flush=True)
    began = time.monotonic()
    cut_off = read_slowly(slow_clients)
    seconds = time.monotonic() - began
    print(f"{cut_off} of {slow} slow clients were cut off in {seconds:.1f} s", file=sys.stderr, flush=True)
    os._exit(0)  # all connections are closed at once


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
