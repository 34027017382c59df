"""Serving the file: requests per second, and per second of the server's CPU time, beside other servers in one run."""

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
from typing import NoReturn, Self

from follow_programs import HERE, Failure, Program, wait_until
from report import machine, markdown, number, progress
from serving_peers import NGINX

PEERS = HERE.parent / ".cache" / "servers" / "bin"
TICKS = os.sysconf("SC_CLK_TCK")
STARTS = 20  # of Python, for each import
IMPORTS = {
    "Python alone": (sys.executable, "pass"),
    "asyncio": (sys.executable, "import asyncio"),
    "echo": (sys.executable, "import echo.__main__, echo.server"),
    "uvicorn, Starlette": (str(PEERS / "python"), "import uvicorn.server, starlette.applications, starlette.responses"),
    "granian": (str(PEERS / "python"), "import granian.server"),
}


@dataclass(frozen=True)
class Workload:
    """What is asked for: the size of the file, the header field (ETAG stands for the server's), and what must come."""

    name: str
    size: int
    field: tuple[str, str] | None = None
    status: int = 200
    body: int | None = None  # bytes; None for the whole file
    downloads: bool = False  # one after the other, by curl, instead of requests by wrk


WORKLOADS = {
    "small": Workload("11 KB", 11_000),
    "304": Workload("304 of 11 KB", 11_000, ("If-None-Match", "ETAG"), 304, 0),
    "range": Workload("`bytes=-100` of 11 KB", 11_000, ("Range", "bytes=-100"), 206, 100),
    "middle": Workload("1 MB", 1_000_000),
    "big": Workload("100 MB, one client", 100_000_000, downloads=True),
}


class Peer(Program):
    """A server of the file, which may have children; all of them are ended at the end of the context."""

    def __init__(self, command: Callable[[int, Path, Path], Sequence[str]], file: Path, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        super().__init__("env", f"BENCH_FILE={file}", *command(self.port, file, folder))

    def __enter__(self) -> Self:
        try:
            wait_until(self.answers, lambda: f"no answer from {self.last_words()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        super().__exit__(*error)

    def answers(self) -> bool:
        if self.process.poll() is not None:
            raise Failure(f"ended by itself: {self.last_words()}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get({})[0] == 200
        return False

    def get(self, fields: Mapping[str, str]) -> tuple[int, str, int]:
        """Status, ETag and the size of the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", "/data", headers=fields)
            response = connection.getresponse()
            return response.status, response.headers["ETag"] or "", len(response.read())
        finally:
            connection.close()

    def cpu_seconds(self) -> float:
        """User and system time so far, of the server and all below it."""
        seconds, parents = {}, {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                with contextlib.suppress(OSError):
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    parents[int(folder.name)] = int(fields[1])
                    seconds[int(folder.name)] = sum(map(int, fields[11:15])) / TICKS
        family = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in family} - family:
            family |= more
        return sum(seconds[pid] for pid in family)


def nginx(port: int, file: Path, folder: Path) -> Sequence[str]:
    user = "user root;" if os.geteuid() == 0 else ""  # whose folder it is
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(port=port, root=file.parent, folder=folder, user=user))
    return "nginx", "-c", str(config)


def echo(port: int, file: Path, folder: Path) -> Sequence[str]:
    return sys.executable, "-m", "echo", "--source", str(file), "--listen", f"127.0.0.1:{port}", "--stale", "0"


def http_server(port: int, file: Path, folder: Path) -> Sequence[str]:
    return sys.executable, "-m", "http.server", f"{port}", "--bind", "127.0.0.1", "--directory", str(file.parent)


def uvicorn(port: int, file: Path, folder: Path) -> Sequence[str]:
    options = ("--factory", "--port", f"{port}", "--app-dir", str(HERE), "--no-access-log", "--log-level", "warning")
    return str(PEERS / "uvicorn"), "serving_peers:starlette", *options


def granian(port: int, file: Path, folder: Path) -> Sequence[str]:
    options = ("--interface", "rsgi", "--port", f"{port}", "--working-dir", str(HERE), "--log-level", "warning")
    return str(PEERS / "granian"), "serving_peers:rsgi", *options


SERVERS: dict[str, Callable[[int, Path, Path], Sequence[str]]] = {
    "nginx, one worker": nginx,
    "echo": echo,
    "`python -m http.server`": http_server,
    "uvicorn, Starlette's FileResponse": uvicorn,
    "granian, RSGI, response_file": granian,
}
NGINX_NAME, *_ = SERVERS


@dataclass(frozen=True)
class Figure:
    """Requests, or gigabytes, per second and per second of the server's CPU time."""

    per_second: float
    per_cpu_second: float


def measure(server: Peer, workload: Workload, seconds: int) -> Figure | None:
    """None if the server does not do that. Raises Failure."""
    fields = {}
    if workload.field:
        name, value = workload.field
        fields = {name: value.replace("ETAG", server.get({})[1])}
    status, _, size = server.get(fields)
    if (status, size) != (workload.status, workload.size if workload.body is None else workload.body):
        return None
    load = download if workload.downloads else ask
    load(server, fields, 1)  # to warm up
    cpu, began = server.cpu_seconds(), time.perf_counter()
    amount = load(server, fields, seconds)
    took = time.perf_counter() - began
    return Figure(amount / took, amount / (server.cpu_seconds() - cpu))


def ask(server: Peer, fields: Mapping[str, str], seconds: int) -> float:
    """By one thread of wrk on 16 connections; returns how many responses came. Raises Failure."""
    headers = [word for name, value in fields.items() for word in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", "-c16", f"-d{seconds}", *headers, f"http://127.0.0.1:{server.port}/data"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20).stdout
    match = re.search(r"(\d+) requests in", out)
    if not match or "Non-2xx" in out:
        raise Failure(f"wrk of {server.name}: {out.strip()}")
    return float(match[1])


def download(server: Peer, fields: Mapping[str, str], seconds: int) -> float:
    """By curl, again and again; returns how many gigabytes came. Raises Failure."""
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
    """Medians, and what they are of nginx's."""
    unit = "GB" if workload.downloads else "requests"
    rows = [[workload.name, f"{unit}/s", "of nginx", f"{unit} per CPU second", "of nginx"]]
    medians = {
        name: [statistics.median(getattr(each, kind) for each in found) for kind in ("per_second", "per_cpu_second")]
        for name, found in figures.items()
        if found
    }
    for name in figures:
        cells = []
        for kind, value in enumerate(medians.get(name, [])):
            base = medians.get(NGINX_NAME)
            cells += [number(value), f"{value / base[kind]:.2f}" if base else "-"]
        rows.append([name, *(cells or ["-"] * 4)])
    return markdown(rows)


def time_import(python: str, statement: str) -> tuple[float, float]:
    """Seconds, and seconds of CPU time, of a Python that does nothing else. Raises CalledProcessError."""
    began, cpu = time.perf_counter(), children_cpu_seconds()
    subprocess.run([python, "-c", statement], cwd=HERE.parent, check=True)
    return time.perf_counter() - began, children_cpu_seconds() - cpu


def children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def import_table() -> str:
    taken: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(STARTS):
        for name, words in IMPORTS.items():
            taken[name].append(time_import(*words))
    rows = [
        [name, *(number(statistics.median(kind) * 1000) for kind in zip(*times, strict=True))]
        for name, times in taken.items()
    ]
    return markdown([["a Python that imports", "ms", "ms of CPU time"], *rows])


@contextlib.contextmanager
def files() -> Iterator[dict[int, Path]]:
    """A file of numbers of each size, each in a folder of its own and named data."""
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for size in {workload.size for workload in WORKLOADS.values()}:
            made[size] = Path(folder) / str(size) / "data"
            made[size].parent.mkdir()
            made[size].write_bytes(b"1\n" * (size // 2))
        yield made


def measure_all(names: Sequence[str], rounds: int, seconds: int) -> tuple[list[str], list[str]]:
    """The tables, and what broke."""
    found: dict[str, dict[str, list[Figure]]] = {name: {server: [] for server in SERVERS} for name in names}
    broken = []
    with files() as made:
        for turn in range(rounds):
            for name, server_name in ((name, server) for name in found for server in SERVERS):
                progress(f"round {turn + 1} of {rounds}: {WORKLOADS[name].name}, {server_name}")
                try:
                    with (
                        tempfile.TemporaryDirectory() as folder,
                        Peer(SERVERS[server_name], made[WORKLOADS[name].size], Path(folder)) as server,
                    ):
                        if figure := measure(server, WORKLOADS[name], seconds):
                            found[name][server_name].append(figure)
                except (Failure, OSError, subprocess.SubprocessError, http.client.HTTPException) as failure:
                    broken.append(f"{WORKLOADS[name].name}, {server_name}: {failure}")
    return [table(WORKLOADS[name], figures) for name, figures in found.items()], broken


def natural(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 60")
    return int(text)


def end(number: int, frame: object) -> NoReturn:
    """On a signal: what was started is ended on the way out."""
    sys.exit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/run serving", description=__doc__)
    parser.add_argument("--rounds", type=natural, default=5, help="how often all is measured (default: %(default)s)")
    parser.add_argument("--seconds", type=natural, default=2, help="of load for each figure (default: %(default)s)")
    names = (*WORKLOADS, "import")
    parser.add_argument("--only", choices=names, action="append", help="may be repeated (default: all)")
    arguments = parser.parse_args(argv)
    wanted = arguments.only or names
    signal.signal(signal.SIGTERM, end)
    try:
        tables, broken = measure_all(
            [name for name in WORKLOADS if name in wanted], arguments.rounds, arguments.seconds
        )
        if "import" in wanted:
            tables.append(import_table())
    except KeyboardInterrupt:
        return 130
    print("\n\n".join(tables))
    print(f"\n{machine(f'Python {platform.python_version()}')}; rounds: {arguments.rounds}")
    for problem in broken:
        progress(f"bench/run serving: {problem}")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
