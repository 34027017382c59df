"""The stream of numbers: how soon they come, to how many at once, what each follower costs, and how it all ends."""

import argparse
import contextlib
import http.client
import math
import os
import platform
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from follow_programs import WITHOUT_INOTIFY, Echo, Failure, Followers, PlainServer, Tail, Writer, appending
from report import machine, markdown, number, progress, spread

ACCEPT = {"text": "text/plain", "SSE": "text/event-stream"}
HEAD = ("median (range)", "ours", "beside", "target", "met")
TAIL, ALONE, TAIL_10 = "`tail -F`", "no followers", "`tail -n10`"
PLAIN = {"queues": "asyncio, a queue each", "writes": "asyncio, only writes"}
SMALL, LONG, HUGE = 11_000, 64_000_000, 1_000_000_000  # bytes of files
SETTLE = 0.5  # seconds in which the last number arrives, and as much again for each thousand followers
GETS_PER_SECOND = 20
STALLED = 200
P99 = {1000: {99: 25.0}, 4000: {99: 75.0}}  # ms that a number shall take to so many
GET_P99 = {1000: {99: 15.0}}  # ms that a request shall take while so many follow
STOP = {1000: 0.2}  # seconds that the stop shall take while so many follow


@dataclass
class Row:
    """One thing measured, by round: ours, what that is seen beside, and what ours shall be."""

    name: str
    unit: str
    below: float | None
    exactly: int | None
    ours: list[float] = field(default_factory=list)
    others: dict[str, list[float]] = field(default_factory=dict)

    def add(self, figure: float, other: str = "") -> None:
        (self.others.setdefault(other, []) if other else self.ours).append(figure)

    def show(self, figures: Sequence[float]) -> str:
        if not figures:
            return "-"
        if self.exactly is None:
            return spread(figures, self.unit)
        return ", ".join(f"{each:,.0f} ({figures.count(each)} times)" for each in sorted(set(figures)))

    def target(self) -> str:
        if self.exactly is not None:
            return f"{self.exactly:,}"
        return "-" if self.below is None else f"< {number(self.below)} {self.unit}"

    def met(self) -> str:
        if not self.ours or self.target() == "-":
            return "-"
        if self.exactly is not None:
            return "yes" if set(self.ours) == {self.exactly} else "no"
        return "yes" if self.below and statistics.median(self.ours) < self.below else "no"

    def cells(self) -> list[str]:
        others = "; ".join(f"{name}: {self.show(figures)}" for name, figures in self.others.items())
        return [self.name, self.show(self.ours), others or "-", self.target(), self.met()]


class Table:
    """The rows, in the order in which they were first heard of."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def row(self, name: str, unit: str = "", below: float | None = None, exactly: int | None = None) -> Row:
        return self.rows.setdefault(name, Row(name, unit, below, exactly))

    def add_times(self, name: str, seconds: Sequence[float], below: Mapping[int, float], other: str = "") -> None:
        """The median and the 99th percentile; `below` has targets for them, in milliseconds."""
        for percent in (50, 99):
            row = self.row(f"{name}, p{percent}", "ms", below.get(percent))
            row.add(percentile(seconds, percent) * 1000, other)

    def __str__(self) -> str:
        return markdown([HEAD, *(row.cells() for row in self.rows.values())])


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent do not exceed."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


@dataclass
class Bench:
    """What the parts share: where files are, how many follow at once (one number after the other), and the table."""

    folder: Path
    crowds: Sequence[int]
    table: Table

    def file(self, size: int) -> Path:
        """A new file of about so many bytes of numbers."""
        path = self.folder / f"{size}"
        path.unlink(missing_ok=True)
        text = "".join(f"{random.randrange(32768)}\n" for _ in range(min(size, 2**20) // 5))[: min(size, 2**20)]
        block = text[: text.rindex("\n") + 1].encode()
        with path.open("wb") as file:
            for _ in range(max(1, size // len(block))):
                file.write(block)
        return path


def one_follower(bench: Bench) -> None:
    """Append to receipt, beside tail."""
    for format, accept in ACCEPT.items():
        source = bench.file(SMALL)
        with Echo(source) as echo, appending(source) as writer, Followers.of(echo, 1, accept) as follower:
            stamps = write_and_settle(writer, 0.01, 500)
            echo.check()
            echo.stop()
            bench.table.add_times(
                f"append to receipt, {format}", follower.received().delays(stamps, 1), {50: 2, 99: 10}
            )
    source = bench.file(SMALL)
    with Tail(source) as tail, appending(source) as writer, Followers(stdin=tail.output) as follower:
        stamps = write_and_settle(writer, 0.01, 500)
        tail.stop()
        delays = follower.received().delays(stamps, 1)
    for format in ACCEPT:
        bench.table.add_times(f"append to receipt, {format}", delays, {}, TAIL)


def one_follower_polling(bench: Bench) -> None:
    """The same where inotify cannot be had."""
    source = bench.file(SMALL)
    with (
        Echo(source, inotify=False) as echo,
        appending(source) as writer,
        Followers.of(echo, 1, ACCEPT["text"]) as follower,
    ):
        stamps = write_and_settle(writer, 0.01, 500)
        echo.check()
        echo.stop()
        bench.table.add_times("append to receipt, text, polling", follower.received().delays(stamps, 1), {})


def crowds(bench: Bench) -> None:
    for size in bench.crowds:
        crowd(bench, size)


def crowd(bench: Bench, size: int) -> None:
    """Many followers, beside a plain server; requests meanwhile, beside those with no followers; the stop."""
    for format, accept in ACCEPT.items():
        source = bench.file(SMALL)
        with Echo(source, "--followers", f"{size + 10}") as echo, appending(source) as writer:
            if format == "SSE":
                time_requests(bench, size, echo, writer, 100, ALONE)
            before = echo.rss()
            with Followers.of(echo, size, accept) as followers:
                stamps = write_and_settle(writer, 0.1, 50, size)
                memory = (echo.rss() - before) / size
                if format == "SSE":
                    time_requests(bench, size, echo, writer, 200)
                echo.check()
                seconds, status = echo.stop()
                received = followers.received()
            if status or received.clean < size:
                progress(f"the stop was not clean: {echo.said()}")
        add_crowd(bench, size, format, received.delays(stamps, size), memory)
        add_stop(bench, size, format, seconds, status, received.clean)
    for kind, name in PLAIN.items():
        with PlainServer(kind) as server:
            before = server.rss()
            with Followers.of(server, size, "*/*") as followers:
                stamps = write_and_settle(Writer(server.pipe.fileno()), 0.1, 50, size)
                memory = (server.rss() - before) / size
                server.stop()
                delays = followers.received().delays(stamps, size)
        for format in ACCEPT:
            add_crowd(bench, size, format, delays, memory, name)


def write_and_settle(writer: Writer, seconds: float, times: int, followers: int = 1) -> list[int]:
    stamps = writer.write_every(seconds, times)
    time.sleep(SETTLE * (1 + followers / 1000))
    return stamps


def time_requests(bench: Bench, size: int, echo: Echo, writer: Writer, times: int, other: str = "") -> None:
    """Plain requests at a steady pace, however long each takes, while numbers come."""

    def get(_: int) -> float:
        began = time.perf_counter()
        echo.get("/data")
        return time.perf_counter() - began

    with writer.writing_every(0.1), ThreadPoolExecutor(GETS_PER_SECOND) as threads:
        due, requests = time.monotonic(), []
        for each in range(times):
            requests.append(threads.submit(get, each))
            due += 1 / GETS_PER_SECOND
            time.sleep(max(0.0, due - time.monotonic()))
        seconds = [request.result() for request in requests]
    time.sleep(SETTLE)
    bench.table.add_times(f"`GET /data` while {size:,} follow", seconds, GET_P99.get(size, {}), other)


def add_crowd(bench: Bench, size: int, format: str, delays: Sequence[float], memory: float, other: str = "") -> None:
    name = f"{size:,} followers, {format}"
    bench.table.add_times(name, delays, P99.get(size, {}), other)
    bench.table.row(f"{name}, memory of each", "KiB", below=5).add(memory, other)


def add_stop(bench: Bench, size: int, format: str, seconds: float, status: int, clean: int) -> None:
    name = f"stop with {size:,} streams, {format}"
    bench.table.row(name, "s", STOP.get(size)).add(seconds)
    bench.table.row(f"{name}: exit status", exactly=0).add(status)
    bench.table.row(f"{name}: ended cleanly", exactly=size).add(clean)


def stalled_readers(bench: Bench) -> None:
    """Followers of a long file that never read, and one who does."""
    source = bench.file(LONG)
    with Echo(source) as echo, appending(source) as writer, Followers.of(echo, 1, ACCEPT["text"]) as follower:
        before = echo.rss()
        with writer.writing_every(0.01) as stamps, contextlib.ExitStack() as clients:
            for each in range(STALLED):
                clients.enter_context(echo.request("/data?follow", list(ACCEPT.values())[each % len(ACCEPT)]))
            time.sleep(3)
            early = echo.rss()
            time.sleep(3)
            late = echo.rss()
        time.sleep(SETTLE)
        echo.stop()
        delays = follower.received().delays(stamps, 1)
    name = f"{STALLED} stalled readers"
    bench.table.row(f"{name}: growth in 3 s", "MiB").add((early - before) / 1024)
    bench.table.row(f"{name}: and in 3 s more", "MiB", below=1).add((late - early) / 1024)
    bench.table.add_times(f"{name}: a follower beside them", delays, {})


def end_of_a_huge_file(bench: Bench) -> None:
    """The last numbers of a file that is larger than anybody wants to read."""
    source = bench.file(HUGE)
    command = ("tail", "-n10", str(source))
    expected = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    with Echo(source, warm=False) as echo:

        def tail() -> None:
            if echo.get("/data?tail=10") != expected:
                raise Failure("tail=10 gave other numbers than the last ten")

        def follow() -> None:
            with echo.request("/data?follow&tail=0") as client:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += client.recv(4096) or b"\r\n\r\n"
            if not head.startswith(b"HTTP/1.1 200 "):
                raise Failure(f"follow&tail=0: {head[:50]!r}")

        add_reads(bench, echo, "`tail=10` of 1 GB, first request", tail, 1)
        add_reads(bench, echo, "`tail=10` of 1 GB, later", tail, 20)
        add_reads(bench, echo, "`follow&tail=0` of 1 GB, its head", follow, 20)
    beside = statistics.median(took(lambda: subprocess.run(command, stdout=subprocess.DEVNULL)) for _ in range(20))
    bench.table.row("`tail=10` of 1 GB, later").add(beside * 1000, TAIL_10)


def add_reads(bench: Bench, echo: Echo, name: str, request: Callable[[], object], times: int) -> None:
    """How long one takes, and how much of the file echo reads for it."""
    read = echo.bytes_read()
    seconds = statistics.median(took(request) for _ in range(times))
    read = echo.bytes_read() - read
    bench.table.row(name, "ms", below=20).add(seconds * 1000)
    bench.table.row(f"{name}: read for it", "KiB").add(read / times / 1024)


def took(action: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def cannot_do_without_inotify() -> str:
    """Why, or an empty string."""
    try:
        done = subprocess.run([*WITHOUT_INOTIFY, "true"], capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else ""


def measure(rounds: int, sizes: Sequence[int]) -> tuple[str, list[str]]:
    """The table, and what broke."""
    described = machine(f"Python {platform.python_version()}", f"load {os.getloadavg()[0]:.1f} before")
    parts, notes, broken = [one_follower, one_follower_polling, crowds, stalled_readers, end_of_a_huge_file], "", []
    if reason := cannot_do_without_inotify():
        parts.remove(one_follower_polling)
        notes = f"\nPolling was skipped: {reason}"
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), sizes, Table())
        for part in parts:
            try:
                for turn in range(rounds):
                    progress(f"{part.__name__.replace('_', ' ')}: round {turn + 1} of {rounds}")
                    part(bench)
            except (Failure, OSError, http.client.HTTPException) as failure:
                broken.append(f"{part.__name__.replace('_', ' ')}: {failure}")
    return f"{bench.table}\n\n{described}; rounds: {rounds}{notes}", broken


def natural(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, 1 or more")
    return int(text)


def end(number: int, frame: object) -> NoReturn:
    """On a signal: what was started is ended on the way out."""
    sys.exit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/run follow", description=__doc__)
    parser.add_argument("--rounds", type=natural, default=3, help="how often all is measured (default: %(default)s)")
    parser.add_argument(
        "--followers", type=natural, action="append", help="how many; may be repeated (default: 1000 and 4000)"
    )
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, end)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # of the programs that are started, too
    try:
        table, broken = measure(arguments.rounds, arguments.followers or [1000, 4000])
    except KeyboardInterrupt:
        return 130
    print(table)
    for problem in broken:
        progress(f"bench/run follow: {problem}")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
