"""The choice of HTTP server: the same small application on each candidate, one worker each, over loopback."""

import argparse
import contextlib
import http.client
import platform
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from report import machine, markdown, number, progress
from server_candidates import NAMES

HERE = Path(__file__).parent
FILES = {"small": 11_000, "middle": 1_100_000, "big": 113_000_000}  # bytes
STREAMS, STALLED = 200, 100  # clients
STALL = 3.0  # seconds that clients do not read
TOO_MUCH = 1024.0  # MB that a candidate may grow, which ends the measuring of it
HEAD = (
    *("median", "start to first 200, ms", "requests/s, 11 KB", "requests/s, 1.1 MB", "113 MB file, GB/s", "RSS, MB"),
    *("stop with 200 streams, s", "its status", "streams ended cleanly", "growth with 100 stalled readers, MB"),
)


class Failure(Exception):
    """Something broke, so that there is no figure; the message says what."""


@dataclass
class Figures:
    """Of one candidate, a figure a round."""

    start: list[float] = field(default_factory=list)
    small: list[float] = field(default_factory=list)
    middle: list[float] = field(default_factory=list)
    big: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)
    stop: list[float] = field(default_factory=list)
    status: list[str] = field(default_factory=list)
    clean: list[int] = field(default_factory=list)
    growth: list[float] = field(default_factory=list)

    def cells(self) -> list[str]:
        load = [self.start, self.small, self.middle, self.big, self.rss, self.stop]
        statuses = ", ".join(sorted(set(self.status))) or "-"
        clean = " to ".join(str(count) for count in sorted({min(self.clean), max(self.clean)})) if self.clean else "-"
        growth = f"> {number(TOO_MUCH)}" if self.growth and max(self.growth) > TOO_MUCH else median(self.growth)
        return [*(median(values) for values in load), statuses, clean, growth]


def median(values: Sequence[float]) -> str:
    return number(statistics.median(values)) if values else "-"


class Server:
    """A running candidate."""

    def __init__(self, name: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.words = tempfile.TemporaryFile()  # noqa: SIM115, closed in close()
        began = time.perf_counter()
        command = [sys.executable, str(HERE / "server_candidates.py"), name, str(self.port), str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.words, stderr=self.words)
        try:
            while not self.answers():
                if self.process.poll() is not None or time.perf_counter() - began > 20:
                    raise Failure(f"{name} does not answer: {self.last_words()}")
                time.sleep(0.002)
        except BaseException:
            self.close()
            raise
        self.started = time.perf_counter() - began

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.words.close()

    def last_words(self) -> str:
        self.words.seek(0)
        return (self.words.read().decode(errors="replace").splitlines() or ["no message"])[-1]

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=0.5)
        try:
            connection.request("GET", "/small")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def rss(self) -> float:
        """Megabytes. Raises Failure."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            if match := re.search(r"VmRSS:\s+(\d+) kB", status):
                return int(match[1]) * 1024 / 1e6
        raise Failure(f"ended by itself: {self.last_words()}")


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[Server]:
    """Run a candidate; it is killed at the end, whatever happened. Raises Failure."""
    server = Server(name, folder)
    try:
        yield server
    finally:
        server.close()


def requests_per_second(server: Server, name: str, seconds: int) -> float:
    """By one thread of wrk on 16 connections. Raises Failure."""
    command = ["wrk", "-t1", "-c16", f"-d{seconds}", server.url(name)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20).stdout
    match = re.search(r"Requests/sec:\s+([\d.]+)", out)
    if not match or "Non-2xx" in out:
        raise Failure(f"wrk of {name}: {out.strip()}")
    return float(match[1])


def gigabytes_per_second(server: Server) -> float:
    command = ["curl", "--silent", "--fail", "--output", "/dev/null", "--write-out", "%{speed_download}"]
    done = subprocess.run([*command, server.url("big")], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise Failure(f"curl ended with status {done.returncode}")
    return float(done.stdout) / 1e9


@contextlib.contextmanager
def clients(server: Server, path: str, count: int) -> Iterator[list[socket.socket]]:
    """So many connections on which a request was sent."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            client.sendall(f"GET /{path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
            sockets.append(client)
        yield sockets


def ended_cleanly(client: socket.socket) -> bool:
    """Read to the end, and say whether the last chunk came; a body without chunks has no end to tell from a loss."""
    tail = b""
    try:
        while part := client.recv(2**16):
            tail = (tail + part)[-5:]
    except OSError:
        return False
    return tail == b"0\r\n\r\n"


def stop(server: Server, figures: Figures) -> None:
    """SIGTERM while streams are open."""
    with clients(server, "stream", STREAMS) as sockets, ThreadPoolExecutor(STREAMS) as threads:
        for client in sockets:
            client.recv(100)
        began = time.perf_counter()
        server.process.terminate()
        ends = threads.map(ended_cleanly, sockets)
        try:
            figures.status.append(str(server.process.wait(15)))
        except subprocess.TimeoutExpired:
            server.process.kill()
            figures.status.append("killed")
        figures.stop.append(time.perf_counter() - began)
        figures.clean.append(sum(ends))


def growth(server: Server) -> float:
    """Megabytes by which it grows while clients of an endless response do not read."""
    before = server.rss()
    with clients(server, "flood", STALLED):
        deadline = time.monotonic() + STALL
        while time.monotonic() < deadline and server.rss() - before < TOO_MUCH:
            time.sleep(0.05)
        return server.rss() - before


def measure(name: str, folder: Path, seconds: int, figures: Figures) -> None:
    """A round of one candidate. Raises Failure."""
    with running(name, folder) as server:
        figures.start.append(server.started * 1000)
        requests_per_second(server, "small", 1)  # to warm up
        figures.small.append(requests_per_second(server, "small", seconds))
        figures.middle.append(requests_per_second(server, "middle", seconds))
        figures.big.append(statistics.median(gigabytes_per_second(server) for _ in range(3)))
        figures.rss.append(server.rss())
        stop(server, figures)
    with running(name, folder) as server:
        figures.growth.append(growth(server))


def write_files(folder: Path) -> None:
    block = "".join(f"{random.randrange(32768)}\n" for _ in range(100_000))
    for name, size in FILES.items():
        text = (block * (size // len(block) + 1))[:size]
        (folder / name).write_text(text[: text.rindex("\n") + 1])


def natural(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 60")
    return int(text)


def end(number: int, frame: object) -> NoReturn:
    """On a signal: what was started is ended on the way out."""
    sys.exit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/run servers", description=__doc__)
    parser.add_argument("--rounds", type=natural, default=3, help="how often all is measured (default: %(default)s)")
    parser.add_argument("--seconds", type=natural, default=2, help="of load for each figure (default: %(default)s)")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)")
    arguments = parser.parse_args(argv)
    if wrong := set(arguments.names) - set(NAMES):
        parser.error(f"no such server: {', '.join(sorted(wrong))}")
    signal.signal(signal.SIGTERM, end)
    table = {name: Figures() for name in arguments.names or NAMES}
    broken: list[str] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder))
            for turn in range(arguments.rounds):
                for name, figures in table.items():
                    progress(f"round {turn + 1} of {arguments.rounds}: {name}")
                    try:
                        measure(name, Path(folder), arguments.seconds, figures)
                    except (Failure, OSError, subprocess.TimeoutExpired) as failure:
                        broken.append(f"{name}: {failure}")
    except KeyboardInterrupt:
        return 130
    print(markdown([HEAD, *([name, *figures.cells()] for name, figures in table.items())]))
    print(f"\n{machine(f'Python {platform.python_version()}')}; rounds: {arguments.rounds}")
    for problem in broken:
        progress(problem)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
