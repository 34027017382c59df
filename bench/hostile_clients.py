"""Load a server with slow, idle and stalled clients at the same time, until stdin ends.

hostile_clients.py PORT SLOW IDLE STALLED: SLOW clients read a large /data slowly, IDLE clients stay connected after
one response, and STALLED clients follow without reading. The program prints `ready` to stderr when every client has
received its first bytes, and at the end how many slow clients the server has disconnected.
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
READ_BYTES = 4096  # for each read of a slow client
READ_INTERVAL_SECONDS = 0.5  # between two reads of a slow client


def connect(port: int, target: str, accept: str) -> socket.socket:
    """Open a connection with a small receive buffer and send a request on it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BYTES)
    client.settimeout(20)
    client.connect(("127.0.0.1", port))
    client.sendall(GET.format(target, accept).encode())
    return client


def read_slowly(slow: Sequence[socket.socket]) -> int:
    """Read from each client every READ_INTERVAL_SECONDS until stdin ends. Return how many were cut off."""
    cut_off: set[socket.socket] = set()
    for client in slow:
        client.setblocking(False)
    due = time.monotonic()
    for client in itertools.cycle(slow):
        due += READ_INTERVAL_SECONDS / len(slow)
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
        status_line = client.recv(17)
        if not status_line.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"cannot get a response: {status_line!r}")
    print("ready", file=sys.stderr, flush=True)
    began = time.monotonic()
    cut_off = read_slowly(slow_clients)
    seconds = time.monotonic() - began
    print(f"{cut_off} of {slow} slow clients were cut off in {seconds:.1f} s", file=sys.stderr, flush=True)
    os._exit(0)  # This closes all connections at the same time.


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
