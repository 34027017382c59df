"""Measure requests per second and per second of CPU time, compared with nginx and other servers in one run."""

import argparse
import contextlib
import http.client
import os
import platform
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from command import Failure, exit_on_signal
from follow_programs import BENCH_FOLDER, Program, wait_until
from report import machine, markdown, number, progress
from serving_peers import NGINX

PEER_BIN = BENCH_FOLDER.parent / ".cache" / "servers" / "bin"
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
IMPORT_REPEATS = 20
IMPORTS = {
    "Python alone": (sys.executable, "pass"),
    "asyncio": (sys.executable, "import asyncio"),
    "echo": (sys.executable, "import echo.__main__, echo.server"),
    "uvicorn, Starlette": (
        str(PEER_BIN / "python"),
        "import uvicorn.server, starlette.applications, starlette.responses",
    ),
    "granian": (str(PEER_BIN / "python"), "import granian.server"),
}


@dataclass(frozen=True)
class Workload:
    """A kind of request, and the response that a server must send."""

    name: str
    size: int  # bytes of the file
    field: tuple[str, str] | None = None  # of the request; the value ETAG becomes the ETag of the server
    status: int = 200
    body: int | None = None  # bytes of the response; None for the whole file
    downloads: bool = False  # send one request after the other with curl, instead of many at once with wrk


WORKLOADS = {
    "small": Workload("11 KB", 11_000),
    "304": Workload("304 of 11 KB", 11_000, ("If-None-Match", "ETAG"), 304, 0),
    "range": Workload("`bytes=-100` of 11 KB", 11_000, ("Range", "bytes=-100"), 206, 100),
    "middle": Workload("1 MB", 1_000_000),
    "big": Workload("100 MB, one client", 100_000_000, downloads=True),
}


class Peer(Program):
    """A server of the file. It is killed with all its children at the end of the context."""

    def __init__(self, command: Callable[[int, Path, Path], Sequence[str]], file: Path, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        super().__init__("env", f"BENCH_FILE={file}", *command(self.port, file, folder))

    def __enter__(self) -> Self:
        try:
            wait_until(self.serves_data, lambda: f"no response from {self.last_log_line()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        super().__exit__(*error)

    def serves_data(self) -> bool:
        """Return whether the server sends the file. Raises Failure if the server has ended."""
        if self.process.poll() is not None:
            raise Failure(f"the server has ended: {self.last_log_line()}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get({})[0] == 200
        return False

    def get(self, fields: Mapping[str, str]) -> tuple[int, str, int]:
        """Request the file, and return the status, the ETag and the size of the body in bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", "/data", headers=fields)
            response = connection.getresponse()
            return response.status, response.headers["ETag"] or "", len(response.read())
        finally:
            connection.close()

    def cpu_seconds(self) -> float:
        """Return the user and system time so far, of the server and all its descendants."""
        seconds, parents = {}, {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                with contextlib.suppress(OSError):
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    parents[int(folder.name)] = int(fields[1])
                    seconds[int(folder.name)] = sum(map(int, fields[11:15])) / TICKS_PER_SECOND
        family = {self.process.pid}
        while children := {pid for pid, parent in parents.items() if parent in family} - family:
            family |= children
        return sum(seconds[pid] for pid in family)


def nginx(port: int, file: Path, folder: Path) -> Sequence[str]:
    user = "user root;" if os.geteuid() == 0 else ""  # Workers of another user could not read the temporary folder.
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(port=port, root=file.parent, folder=folder, user=user))
    return "nginx", "-c", str(config)


def echo(port: int, file: Path, folder: Path) -> Sequence[str]:
    return sys.executable, "-m", "echo", "--source", str(file), "--listen", f"127.0.0.1:{port}", "--stale", "0"


def http_server(port: int, file: Path, folder: Path) -> Sequence[str]:
    return sys.executable, "-m", "http.server", f"{port}", "--bind", "127.0.0.1", "--directory", str(file.parent)


def uvicorn(port: int, file: Path, folder: Path) -> Sequence[str]:
    options = (
        "--factory",
        "--port",
        f"{port}",
        "--app-dir",
        str(BENCH_FOLDER),
        "--no-access-log",
        "--log-level",
        "warning",
    )
    return str(PEER_BIN / "uvicorn"), "serving_peers:starlette", *options


def granian(port: int, file: Path, folder: Path) -> Sequence[str]:
    options = ("--interface", "rsgi", "--port", f"{port}", "--working-dir", str(BENCH_FOLDER), "--log-level", "warning")
    return str(PEER_BIN / "granian"), "serving_peers:rsgi", *options


SERVERS: dict[str, Callable[[int, Path, Path], Sequence[str]]] = {
    "nginx, one worker": nginx,
    "echo": echo,
    "`python -m http.server`": http_server,
    "uvicorn, Starlette's FileResponse": uvicorn,
    "granian, RSGI, response_file": granian,
}
BASELINE, *_ = SERVERS


@dataclass(frozen=True)
class Figure:
    """Requests or gigabytes, per second and per second of the server's CPU time."""

    per_second: float
    per_cpu_second: float


def measure(server: Peer, workload: Workload, seconds: int) -> Figure | None:
    """Measure a server under one workload. Return None if it does not send the right response. Raises Failure."""
    fields = {}
    if workload.field:
        name, value = workload.field
        fields = {name: value.replace("ETAG", server.get({})[1])}
    status, _, size = server.get(fields)
    if (status, size) != (workload.status, workload.size if workload.body is None else workload.body):
        return None
    load = download if workload.downloads else send_requests
    load(server, fields, 1)  # warm up
    cpu, began = server.cpu_seconds(), time.perf_counter()
    amount = load(server, fields, seconds)
    took = time.perf_counter() - began
    return Figure(amount / took, amount / (server.cpu_seconds() - cpu))


def send_requests(server: Peer, fields: Mapping[str, str], seconds: int) -> float:
    """Send requests on 16 connections with one thread of wrk, and return the number of responses. Raises Failure."""
    headers = [word for name, value in fields.items() for word in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", "-c16", f"-d{seconds}", *headers, f"http://127.0.0.1:{server.port}/data"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20).stdout
    match = re.search(r"(\d+) requests in", out)
    if not match or "Non-2xx" in out:
        raise Failure(f"wrk of {server.name}: {out.strip()}")
    return float(match[1])


def download(server: Peer, fields: Mapping[str, str], seconds: int) -> float:
    """Download the file repeatedly with curl, and return the number of gigabytes. Raises Failure."""
    command = ["curl", "--silent", "--fail", "--output", "/dev/null", "--write-out", "%{size_download}"]
    end, size = time.monotonic() + seconds, 0.0
    while time.monotonic() < end:
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{server.port}/data"], capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            raise Failure(f"curl of {server.name} ended with status {done.returncode}")
        size += float(done.stdout) / 1e9
    return size


def table(workload: Workload, figures: Mapping[str, Sequence[Figure]]) -> str:
    """Format the medians and their ratios to those of nginx."""
    unit = "GB" if workload.downloads else "requests"
    rows = [[workload.name, f"{unit}/s", "times nginx", f"{unit} per CPU second", "times nginx"]]
    medians = {
        name: [statistics.median(getattr(each, kind) for each in found) for kind in ("per_second", "per_cpu_second")]
        for name, found in figures.items()
        if found
    }
    for name in figures:
        cells = []
        for kind, value in enumerate(medians.get(name, [])):
            base = medians.get(BASELINE)
            cells += [number(value), f"{value / base[kind]:.2f}" if base else "-"]
        rows.append([name, *(cells or ["-"] * 4)])
    return markdown(rows)


def time_import(python: str, statement: str) -> tuple[float, float]:
    """Return the seconds and the CPU seconds of a Python that runs only this statement. Raises CalledProcessError."""
    began, cpu = time.perf_counter(), children_cpu_seconds()
    subprocess.run([python, "-c", statement], cwd=BENCH_FOLDER.parent, check=True)
    return time.perf_counter() - began, children_cpu_seconds() - cpu


def children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def import_table() -> str:
    """Measure how long Python takes to import each server, and format the table."""
    taken: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(IMPORT_REPEATS):
        for name, words in IMPORTS.items():
            taken[name].append(time_import(*words))
    rows = [
        [name, *(number(statistics.median(kind) * 1000) for kind in zip(*times, strict=True))]
        for name, times in taken.items()
    ]
    return markdown([["Python imports", "ms", "CPU ms"], *rows])


@contextlib.contextmanager
def files() -> Iterator[dict[int, Path]]:
    """Create a file of numbers for each size. Each is named data, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for size in {workload.size for workload in WORKLOADS.values()}:
            paths[size] = Path(folder) / str(size) / "data"
            paths[size].parent.mkdir()
            paths[size].write_bytes(b"1\n" * (size // 2))
        yield paths


def measure_all(names: Sequence[str], rounds: int, seconds: int) -> tuple[list[str], list[str]]:
    """Return the tables, and the errors."""
    found: dict[str, dict[str, list[Figure]]] = {name: {server: [] for server in SERVERS} for name in names}
    errors: list[str] = []
    with files() as paths:
        for turn in range(rounds):
            for name, server_name in ((name, server) for name in found for server in SERVERS):
                progress(f"round {turn + 1} of {rounds}: {WORKLOADS[name].name}, {server_name}")
                try:
                    with (
                        tempfile.TemporaryDirectory() as folder,
                        Peer(SERVERS[server_name], paths[WORKLOADS[name].size], Path(folder)) as server,
                    ):
                        if figure := measure(server, WORKLOADS[name], seconds):
                            found[name][server_name].append(figure)
                except (Failure, OSError, subprocess.SubprocessError, http.client.HTTPException) as error:
                    errors.append(f"{WORKLOADS[name].name}, {server_name}: {error}")
    return [table(WORKLOADS[name], figures) for name, figures in found.items()], errors


def from_1_to_60(text: str) -> int:
    """Read an option's value for argparse. Raises ArgumentTypeError if it is not an integer from 1 to 60."""
    if not text.isdecimal() or not 1 <= int(text) <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer from 1 to 60")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/run serving", description=__doc__)
    parser.add_argument("--rounds", type=from_1_to_60, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=from_1_to_60, default=2, help="load for each figure (default: %(default)s)")
    names = (*WORKLOADS, "import")
    parser.add_argument("--only", choices=names, action="append", help="measure only this; may be repeated")
    arguments = parser.parse_args(argv)
    wanted = arguments.only or names
    signal.signal(signal.SIGTERM, exit_on_signal)
    try:
        tables, errors = measure_all(
            [name for name in WORKLOADS if name in wanted], arguments.rounds, arguments.seconds
        )
        if "import" in wanted:
            tables.append(import_table())
    except KeyboardInterrupt:
        return 130
    print("\n\n".join(tables))
    print(f"\n{machine(f'Python {platform.python_version()}')}; rounds: {arguments.rounds}")
    for error in errors:
        progress(f"bench/run serving: {error}")
    return 1 if errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
