"""Replicas as processes: a generator, echos that restart at the same port, a relay, and clients that hop."""

import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from support import Program, free_port, running, wait_until
from support.wire import Echo

EVENT = re.compile(rb"id: ([0-9a-f]{8})-([0-9]+)\ndata: (-?[0-9]+)\Z|event: gone\ndata: ([0-9a-f]{8})-([0-9]+)\Z")
KEPT_NUMBERS = 1_000_000  # received by clients, to compare with numbers that others receive
Position = tuple[str, int]  # a stream, and an offset in it


@contextlib.contextmanager
def generating(path: Path, *flags: str) -> Iterator[Program]:
    with running([sys.executable, "-m", "generator", "--file", path, *flags]) as program:
        wait_until(path.exists)
        yield program


class Replica:
    """A program that can be killed and restarted. An echo keeps its port."""

    def __init__(self, *command: str | Path, port: int = 0, env: Mapping[str, str] | None = None) -> None:
        self.command, self.port, self.env = command, port, env
        self.program: Program | None = None

    def start(self) -> Program:
        self.program = Program([sys.executable, "-m", *self.command], self.env)
        return self.program

    def kill(self) -> None:
        """Kill it with SIGKILL. Assert that it logged no traceback."""
        if self.program:
            self.program.close()
            assert "Traceback" not in self.program.output, self.program.output

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/data"

    @property
    def echo(self) -> Echo:
        assert self.program
        return Echo(self.program, self.port)


def echo_at(source: Path | str, *flags: str | Path, env: Mapping[str, str] | None = None) -> Replica:
    """Return an echo that is not started yet."""
    port = free_port()
    options = ("--source", str(source), "--listen", f"127.0.0.1:{port}", "--stale", "0")
    return Replica("echo", *options, *flags, port=port, env=env)


@contextlib.contextmanager
def started(replicas: Sequence[Replica]) -> Iterator[None]:
    """Start the replicas and kill them at the end."""
    try:
        for replica in replicas:
            replica.start()
        yield
    finally:
        for replica in replicas:
            replica.kill()


class Relay:
    """A TCP relay to a port. Tests can cut its connections (`cut`) or stall them (`flows.clear()`)."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.flows = threading.Event()
        self.flows.set()
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.closed = False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/data"
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.flows.set()
        self.cut()
        for thread in self.threads:
            thread.join(10)

    def cut(self) -> None:
        for pair in list(self.pairs):
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self.closed:
                client, _ = self.listener.accept()
                thread = threading.Thread(target=self._pass, args=(client,), daemon=True)
                thread.start()
                self.threads.append(thread)

    def _pass(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self.target)) as server:
            self.pairs.append((client, server))
            other = {client: server, server: client}
            while not self.closed:
                ready, _, _ = select.select([client, server], [], [])
                for each in ready:
                    self.flows.wait()
                    data = each.recv(65536)
                    if not data:
                        return
                    other[each].sendall(data)


class Truth:
    """A record of everything that clients received. A position has one number, and an ETag has one content."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.numbers: dict[Position, bytes] = {}
        self.contents: dict[str, bytes] = {}  # the longest one of each segment
        self.hashes: dict[str, str] = {}  # by ETag
        self.faults: list[str] = []

    def fault(self, text: str) -> None:
        self.faults.append(text)

    def add_numbers(self, found: dict[Position, bytes], port: int) -> None:
        with self.lock:
            for position, number in found.items():
                if self.numbers.setdefault(position, number) != number:
                    self.fault(f"{position} is {number!r} at {port} and was {self.numbers[position]!r}")
            while len(self.numbers) > KEPT_NUMBERS:
                del self.numbers[next(iter(self.numbers))]

    def add_content(self, etag: str, content: bytes, port: int) -> None:
        segment = etag.strip('"').rpartition("-")[0]
        digest = hashlib.sha256(content).hexdigest()
        with self.lock:
            if self.hashes.setdefault(etag, digest) != digest:
                self.fault(f"two contents under ETag {etag}, one at {port}")
            short, long = sorted((content, self.contents.get(segment, b"")), key=len)
            if not long.startswith(short):
                self.fault(f"two contents of segment {segment}, one at {port}")
            self.contents[segment] = long


def fetch(port: int, path: str, timeout: float = 5) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Return the status, fields and body of a response. Raises OSError or HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def status_of(port: int) -> dict[str, object]:
    """Return a replica's /status. Raises OSError or HTTPException."""
    status: dict[str, object] = json.loads(fetch(port, "/status")[2])
    return status


def is_gone(port: int, position: Position) -> bool:
    """Whether a replica cannot send the numbers after a position. Raises OSError or HTTPException."""
    stream, offset = position
    replica = status_of(port)
    names = [str(name).split("-") for name in replica["segments"]]  # type: ignore[attr-defined]
    bases = [int(base) for name, base in names if name == stream]
    before, after = [base for base in bases if base <= offset], [base for base in bases if base > offset]
    if not before:
        return True
    status, _, content = fetch(port, f"/data/{stream}-{before[-1]}")
    ended = bool(after) or replica["stream"] != stream
    return status == 410 or (ended and before[-1] + len(content) <= offset)


class Hopper(threading.Thread):
    """A client of server-sent events that resumes at random replicas with the id of its last event.

    It reports a fault if an event does not begin where the last one ended, unless a `gone` event came between them. It
    also reports a `gone` event from a replica that keeps the numbers after the position.
    """

    def __init__(self, truth: Truth, ports: Sequence[int], seed: int, longest: float = 1.0) -> None:
        super().__init__(daemon=True)
        self.truth, self.ports, self.random, self.longest = truth, ports, random.Random(seed), longest
        self.last: Position | None = None
        self.received = self.hops = 0
        self.gones: list[Position] = []
        self.gone = False  # the last event was `gone`
        self.unverified = 0  # the `gone` events whose replica was killed before it could be checked
        self.stopped = threading.Event()

    def stop(self) -> None:
        self.stopped.set()
        self.join(20)
        assert not self.is_alive()

    def run(self) -> None:
        while not self.stopped.is_set():
            port = self.random.choice(self.ports)
            try:
                self._follow(port, time.monotonic() + self.random.uniform(0, self.longest))
                self.hops += 1
            except (OSError, http.client.HTTPException):
                self.stopped.wait(0.02)
            except Exception as error:
                self.truth.fault(f"a client failed: {error!r}")
                return

    def _follow(self, port: int, until: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            last = {"Last-Event-ID": "{}-{}".format(*self.last)} if self.last else {}
            connection.request("GET", "/data?follow", headers={"Accept": "text/event-stream", **last})
            response = connection.getresponse()
            if response.status != 200:
                if response.status not in (401, 503):
                    self.truth.fault(f"{response.status} at {port}: {response.read()!r}")
                return
            rest = b""
            while not self.stopped.is_set() and time.monotonic() < until and (data := response.read1(65536)):
                *events, rest = (rest + data).split(b"\n\n")
                self._take(events, port)
        finally:
            connection.close()

    def _take(self, events: list[bytes], port: int) -> None:
        found: dict[Position, bytes] = {}
        for event in events:
            match = EVENT.search(event)
            if not match:
                if not event.startswith(b"retry:"):
                    self.truth.fault(f"not an event: {event[:200]!r}")
            elif match[4]:
                self._lose((match[4].decode(), int(match[5])), port)
            else:
                position = (match[1].decode(), int(match[2]))
                begins = (position[0], position[1] - len(match[3]) - 1)
                if self.last not in (None, begins) and not self._may_skip(begins):
                    self.truth.fault(f"{begins} follows {self.last} at {port}")
                found[position] = match[3]
                self.last, self.gone = position, False
                self.received += 1
        self.truth.add_numbers(found, port)

    def _may_skip(self, begins: Position) -> bool:
        return self.gone and self.last is not None and (begins[0] != self.last[0] or begins[1] > self.last[1])

    def _lose(self, position: Position, port: int) -> None:
        if position != self.last and not (self.gone and self._may_skip(position)):
            self.truth.fault(f"gone after {position}, and not after {self.last}, at {port}")
        self.gones.append(position)
        self.gone = True
        try:
            if not is_gone(port, position):
                self.truth.fault(f"{port} keeps the numbers after {position} and sent gone")
        except (OSError, http.client.HTTPException):
            self.unverified += 1


class Reader(threading.Thread):
    """A client that repeatedly fetches all segments of all replicas."""

    def __init__(self, truth: Truth, ports: Sequence[int]) -> None:
        super().__init__(daemon=True)
        self.truth, self.ports, self.stopped = truth, ports, threading.Event()

    def stop(self) -> None:
        self.stopped.set()
        self.join(20)
        assert not self.is_alive()

    def run(self) -> None:
        while not self.stopped.wait(0.02):
            for port in self.ports:
                with contextlib.suppress(OSError, http.client.HTTPException, KeyError, ValueError):
                    segments = status_of(port)["segments"]
                    for path in ["/data", *(f"/data/{name}" for name in segments)]:  # type: ignore[attr-defined]
                        status, headers, content = fetch(port, path)
                        if status == 200:
                            self.truth.add_content(headers["ETag"], content, port)


@contextlib.contextmanager
def clients(truth: Truth, ports: Sequence[int], count: int, seed: int = 0) -> Iterator[list[Hopper]]:
    """Run `count` hoppers and one reader; stop them at the end."""
    hoppers = [Hopper(truth, ports, seed + number) for number in range(count)]
    threads: list[Hopper | Reader] = [*hoppers, Reader(truth, ports)]
    for thread in threads:
        thread.start()
    try:
        yield hoppers
    finally:
        for thread in threads:
            thread.stop()


def temporary_folder(folder: Path) -> dict[str, str]:
    """Return an environment in which a mirror makes its private folder under `folder`."""
    os.makedirs(folder, exist_ok=True)
    return {"TMPDIR": str(folder)}
