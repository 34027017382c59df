"""A running echo, and a strict HTTP client that works on bytes."""

import contextlib
import os
import re
import resource
import select
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from support import Program, running, wait_until

TICKS = os.sysconf("SC_CLK_TCK")
STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [ -~]*\r\n")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff]*?)[ \t]*\r\n")


@dataclass(frozen=True)
class Response:
    """A response. Field names are in lower case."""

    status: int
    fields: dict[str, str]
    body: bytes


class Connection:
    """A client's connection with a small receive buffer."""

    def __init__(self, port: int, timeout: float = 20, receive_buffer: int = 4096) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self.reader = self.socket.makefile("rb")

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.reader.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send all bytes. A server that has closed the connection may refuse some."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def readable(self) -> bool:
        """Return whether there is something to read, or the end."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(0))

    def line(self) -> bytes:
        return self.reader.readline(65536)

    def head(self) -> tuple[int, dict[str, str]]:
        """Read a status and fields. Raises EOFError at the end of the connection."""
        line = self.line()
        if not line:
            raise EOFError
        match = STATUS_LINE.fullmatch(line)
        assert match, f"not a status line: {line!r}"
        fields: dict[str, str] = {}
        while (line := self.line()) != b"\r\n":
            field = FIELD.fullmatch(line)
            assert field, f"not a field line: {line!r}"
            name = field[1].decode().lower()
            assert name not in fields, f"{name} comes twice"
            fields[name] = field[2].decode("latin-1")
        return int(match[1]), fields

    def chunk(self) -> bytes:
        """Read a chunk; the last one is empty."""
        size = re.fullmatch(rb"([0-9a-fA-F]+)\r\n", self.line())
        assert size
        content = self.exactly(int(size[1], 16))
        assert self.line() == b"\r\n"
        return content

    def exactly(self, size: int) -> bytes:
        content = self.reader.read(size)
        assert len(content) == size, f"{len(content)} bytes of {size}"
        return content

    def response(self, method: str = "GET") -> Response:
        """Read one response. Raises EOFError at the end of the connection."""
        status, fields = self.head()
        assert not {"transfer-encoding", "content-length"} <= fields.keys()
        if method == "HEAD" or status < 200 or status in (204, 304):
            return Response(status, fields, b"")
        if "transfer-encoding" in fields:
            assert fields["transfer-encoding"] == "chunked"
            return Response(status, fields, b"".join(iter(self.chunk, b"")))
        if "content-length" in fields:
            return Response(status, fields, self.exactly(int(fields["content-length"])))
        return Response(status, fields, self.reader.read())

    def responses(self) -> list[Response]:
        """Read until the server closes the connection."""
        found = []
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                found.append(self.response())
        return found

    def statuses(self) -> list[int]:
        return [response.status for response in self.responses()]


@dataclass(frozen=True)
class Echo:
    """A running echo."""

    program: Program
    port: int

    def connect(self, timeout: float = 20, receive_buffer: int = 4096) -> Connection:
        return Connection(self.port, timeout, receive_buffer)

    def exchange(self, request: bytes) -> list[Response]:
        """Send bytes on a new connection; return all responses until the server closes it."""
        with self.connect() as client:
            client.send(request)
            return client.responses()

    def get(self, target: str = "/data", *fields: str) -> Response:
        """Send one request on a new connection; return the response."""
        responses = self.exchange(get(target, *fields, "Connection: close"))
        assert len(responses) == 1
        return responses[0]

    def catch_up(self) -> None:
        """Wait until echo, which has one thread, has read everything sent before."""
        for _ in range(2):
            assert self.get("/healthz").status == 200

    def proc(self, file: str, pattern: str) -> int:
        match = re.search(pattern, Path(f"/proc/{self.program.pid}/{file}").read_text())
        assert match
        return int(match[1])

    def rss(self) -> int:
        """Return the resident memory in bytes."""
        return self.proc("status", r"VmRSS:\s+(\d+) kB") * 1024

    def peak_rss(self) -> int:
        """Return the peak of the resident memory in bytes."""
        return self.proc("status", r"VmHWM:\s+(\d+) kB") * 1024

    def cpu_seconds(self) -> float:
        """Return the seconds of CPU time so far."""
        fields = Path(f"/proc/{self.program.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.program.pid}/fd"))

    def serves(self) -> bool:
        """Check that echo still serves and has logged no traceback."""
        assert self.program.process.poll() is None and "Traceback" not in self.program.output, self.program.output
        return self.get("/healthz").status == 200


def get(target: str = "/data", *fields: str, method: str = "GET") -> bytes:
    """Return a request's head with a Host field."""
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", *fields, "", ""]).encode("latin-1")


@contextlib.contextmanager
def serving(source: Path | str, *flags: str, before: Sequence[str] = ()) -> Iterator[Echo]:
    """Run an echo, under the command `before` if there is one."""
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "echo",
        "--source",
        source,
        "--listen",
        "127.0.0.1:0",
        "--stale",
        "0",
    ]
    with running([*before, *command, *flags]) as program:
        port = program.wait_for_log("^serving .* on https?://.*:([0-9]+)/data$")[1]
        yield Echo(program, int(port))


@contextlib.contextmanager
def connections(echo: Echo, count: int, receive_buffer: int = 4096) -> Iterator[list[Connection]]:
    """Open this many connections; close them at the end of the context."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(echo.connect(receive_buffer=receive_buffer)) for _ in range(count)]


def wait_for_idle(echo: Echo, seconds: float = 0.25) -> None:
    """Wait until echo uses no CPU time: it has sent all that its clients take."""

    spent = [0.0, -1.0]

    def idle() -> bool:
        spent[:] = spent[1], echo.cpu_seconds()
        return spent[1] - spent[0] < seconds / 10

    wait_until(idle, every=seconds)


def allow_descriptors(count: int) -> None:
    """Raise the descriptor limit of this process, if it is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(count, hard)), hard))


def numbers(count: int) -> bytes:
    """Return this many different lines of six bytes."""
    return b"".join(b"%05d\n" % (number % 100_000) for number in range(count))
