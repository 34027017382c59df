"""A running echo in tests, and clients of its streams."""

import contextlib
import http.client
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from support import Program, assert_same_bytes, running, wait_until

ANY_PORT = "127.0.0.1:0"
EVENTS = {"Accept": "text/event-stream"}
SERVING = "^serving .* on http://.*:([0-9]+)/data$"


@dataclass(frozen=True)
class Echo:
    """A running echo."""

    program: Program
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str = "/data", **headers: str) -> requests.Response:
        return requests.get(self.url + path, headers={name.replace("_", "-"): headers[name] for name in headers})

    def status(self) -> dict[str, object]:
        status: dict[str, object] = self.get("/status").json()
        return status

    def wait_for_followers(self, count: int) -> None:
        wait_until(lambda: self.status()["followers"] == count)

    def connect(self) -> socket.socket:
        """Open a connection with a small receive buffer."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(20)
        client.connect(("127.0.0.1", self.port))
        return client

    def ask(self, target: str, *fields: str, version: str = "1.1") -> socket.socket:
        """Open a connection and send one request."""
        client = self.connect()
        lines = [f"GET {target} HTTP/{version}", "Host: x", *fields, "", ""]
        client.sendall("\r\n".join(lines).encode())
        return client

    def raw(self, request: bytes) -> bytes:
        """Send bytes; return all that comes until the connection is closed."""
        with self.connect() as client:
            client.sendall(request)
            return read_all(client)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Stop echo, and wait for exit status 0; return the seconds that it took."""
        began = time.monotonic()
        self.program.signal(number)
        assert self.program.ended() == 0, self.program.output
        return time.monotonic() - began


@contextlib.contextmanager
def serving(source: Path, *flags: str, at: str = ANY_PORT) -> Iterator[Echo]:
    with running([sys.executable, "-m", "echo", "--source", source, "--listen", at, *flags]) as program:
        yield Echo(program, int(program.wait_for_log(SERVING)[1]))


@contextlib.contextmanager
def generating(data: Path, *flags: str) -> Iterator[Program]:
    """Run a real generator of numbers with five digits."""
    command = [sys.executable, "-m", "generator", "--file", str(data), "--min", "10000", "--max", "99999", *flags]
    with running(command) as generator:
        wait_until(lambda: data.stat().st_size)
        yield generator


def read_all(client: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(2**20):
            received += piece
    return received


def read_chunked(client: socket.socket) -> bytes:
    """Return the body of a complete chunked response. Raises http.client.IncompleteRead."""
    response = http.client.HTTPResponse(client)
    response.begin()
    return response.read()


def body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def replace(path: Path, content: bytes) -> None:
    path.with_name("new").write_bytes(content)
    path.with_name("new").replace(path)


def numbers(count: int) -> bytes:
    return b"".join(b"%05d\n" % (number % 100_000) for number in range(count))


class Stream:
    """A stream, read by a thread until it ends or is closed."""

    def __init__(self, url: str, query: str = "", headers: dict[str, str] | None = None) -> None:
        path = query if query.startswith("/") else f"/data?follow{query}"
        self.response = requests.get(url + path, headers=headers, stream=True, timeout=30)
        connection = self.response.raw.connection
        self.socket = connection and connection.sock  # none once a short answer is complete
        self.content = b""
        self.clean = False
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        with contextlib.suppress(requests.RequestException, OSError):
            for piece in self.response.iter_content(None):
                self.content += piece
            self.clean = True

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *exc: object) -> None:
        self.cut()

    def cut(self) -> None:
        """Close the connection in the middle of the stream."""
        with contextlib.suppress(OSError):
            if self.socket:
                self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(20)
        self.response.close()

    def ended(self) -> bool:
        """Wait for the end; return whether it was clean."""
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.clean

    def has(self, content: bytes) -> None:
        """Wait until exactly this has been received."""

        def same() -> bool:
            assert_same_bytes(self.content, content)
            return True

        wait_until(same)

    def has_lines(self, count: int) -> None:
        """Wait for this many numbers, or the end."""
        wait_until(lambda: self.content.count(b"\n") >= count or not self.thread.is_alive())

    def events(self) -> list[tuple[str, str, str]]:
        """Return type, id and data of each complete event so far."""
        found = []
        for block in self.content.decode().split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
            if "data" in fields:
                found.append((fields.get("event", "message"), fields.get("id", ""), fields["data"]))
        return found

    def has_events(self, expected: list[tuple[str, str, str]]) -> None:
        """Wait until exactly these numbers have been received."""

        def same() -> bool:
            assert self.events() == expected
            return True

        wait_until(same)

    def numbers(self) -> list[str]:
        return [data for kind, _, data in self.events() if kind == "message"]

    def numbers_are(self, expected: str) -> None:
        """Wait until exactly these numbers have been received as events."""
        wait_until(lambda: self.numbers() == expected.split())


def resident(echo: Echo) -> int:
    """Return the resident memory in bytes."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{echo.program.pid}/status").read_text())
    assert match
    return int(match[1]) * 1024


def descriptors(echo: Echo) -> list[str]:
    """Return the targets of the open descriptors."""
    links = list(Path(f"/proc/{echo.program.pid}/fd").iterdir())
    found = []
    for link in links:
        with contextlib.suppress(OSError):
            found.append(str(link.readlink()))
    return found
