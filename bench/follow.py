"""Measure the stream of numbers: delay, number of followers, memory of each follower, and the stop."""

import argparse
import contextlib
import http.client
import os
import platform
import random
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from command import Failure, exit_on_signal, positive_integer, raise_file_limit
from follow_programs import WITHOUT_INOTIFY, Echo, Followers, PlainServer, Tail, Writer, open_for_append
from report import machine, markdown, number, percentile, progress, spread

ACCEPT = {"text": "text/plain", "SSE": "text/event-stream"}
HEADER = ("median (range)", "echo", "compared with", "target", "met")
TAIL_F, TAIL_N10, NO_FOLLOWERS = "`tail -F`", "`tail -n10`", "no followers"
PLAIN_SERVERS = {"queues": "asyncio, a queue for each follower", "writes": "asyncio, writes only"}
SMALL_FILE_BYTES, LARGE_FILE_BYTES, HUGE_FILE_BYTES = 11_000, 64_000_000, 1_000_000_000
SETTLE_SECONDS = 0.5  # until the last number has arrived; the same again for each thousand followers
REQUESTS_PER_SECOND = 20
STALLED_READERS = 200
RECEIPT_TARGETS = {1000: {99: 25.0}, 4000: {99: 75.0}}  # percentiles in ms, by the number of followers
REQUEST_TARGETS = {1000: {99: 15.0}}  # percentiles in ms, by the number of followers
STOP_TARGET_SECONDS = {1000: 0.2}  # by the number of followers


@dataclass
class Row:
    """A row of the table: the figures of echo and its peers, one for each round, and echo's target."""

    name: str
    unit: str
    below: float | None  # the target: echo's median must be smaller than this
    exactly: int | None  # the target: each of echo's figures must be this
    echo: list[float] = field(default_factory=list)
    peers: dict[str, list[float]] = field(default_factory=dict)

    def add(self, figure: float, peer: str = "") -> None:
        """Add a figure of a peer, or of echo if no peer is named."""
        (self.peers.setdefault(peer, []) if peer else self.echo).append(figure)

    def format(self, figures: Sequence[float]) -> str:
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
        if not self.echo or self.target() == "-":
            return "-"
        if self.exactly is not None:
            return "yes" if set(self.echo) == {self.exactly} else "no"
        return "yes" if self.below and statistics.median(self.echo) < self.below else "no"

    def cells(self) -> list[str]:
        peers = "; ".join(f"{name}: {self.format(figures)}" for name, figures in self.peers.items())
        return [self.name, self.format(self.echo), peers or "-", self.target(), self.met()]


class Table:
    """A table whose rows stand in the order of their first use."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def row(self, name: str, unit: str = "", below: float | None = None, exactly: int | None = None) -> Row:
        """Return the row with this name. The first call creates it."""
        return self.rows.setdefault(name, Row(name, unit, below, exactly))

    def add_times(self, name: str, seconds: Sequence[float], targets: Mapping[int, float], peer: str = "") -> None:
        """Add the 50th and the 99th percentile. `targets` has the targets of echo's percentiles in milliseconds."""
        for percent in (50, 99):
            row = self.row(f"{name}, p{percent}", "ms", targets.get(percent))
            row.add(percentile(seconds, percent) * 1000, peer)

    def __str__(self) -> str:
        return markdown([HEADER, *(row.cells() for row in self.rows.values())])


@dataclass
class Bench:
    """What all measurements share."""

    folder: Path  # for the files
    follower_counts: Sequence[int]
    table: Table

    def file(self, size: int) -> Path:
        """Create a file with about `size` bytes of numbers."""
        path = self.folder / f"{size}"
        path.unlink(missing_ok=True)
        text = "".join(f"{random.randrange(32768)}\n" for _ in range(min(size, 2**20) // 5))[: min(size, 2**20)]
        block = text[: text.rindex("\n") + 1].encode()
        with path.open("wb") as file:
            for _ in range(max(1, size // len(block))):
                file.write(block)
        return path


def one_follower(bench: Bench) -> None:
    """Measure the delay from append to receipt for one follower, compared with `tail -F`."""
    for format, accept in ACCEPT.items():
        source = bench.file(SMALL_FILE_BYTES)
        with Echo(source) as echo, open_for_append(source) as writer, Followers.of(echo, 1, accept) as follower:
            written = write_and_settle(writer, 0.01, 500)
            echo.check()
            echo.stop()
            bench.table.add_times(
                f"append to receipt, {format}", follower.received().delays(written, 1), {50: 2, 99: 10}
            )
    source = bench.file(SMALL_FILE_BYTES)
    with Tail(source) as tail, open_for_append(source) as writer, Followers(stdin=tail.output) as follower:
        written = write_and_settle(writer, 0.01, 500)
        tail.stop()
        delays = follower.received().delays(written, 1)
    for format in ACCEPT:
        bench.table.add_times(f"append to receipt, {format}", delays, {}, TAIL_F)


def one_follower_polling(bench: Bench) -> None:
    """Measure the same where echo has no inotify and polls."""
    source = bench.file(SMALL_FILE_BYTES)
    with (
        Echo(source, inotify=False) as echo,
        open_for_append(source) as writer,
        Followers.of(echo, 1, ACCEPT["text"]) as follower,
    ):
        written = write_and_settle(writer, 0.01, 500)
        echo.check()
        echo.stop()
        bench.table.add_times("append to receipt, text, polling", follower.received().delays(written, 1), {})


def many_followers(bench: Bench) -> None:
    for count in bench.follower_counts:
        follow_together(bench, count)


def follow_together(bench: Bench, count: int) -> None:
    """Measure many followers at once.

    The delay and the memory are compared with two plain servers. Plain requests are compared with requests while
    nobody follows. The stop is measured while all streams are open.
    """
    for format, accept in ACCEPT.items():
        source = bench.file(SMALL_FILE_BYTES)
        with Echo(source, "--followers", f"{count + 10}") as echo, open_for_append(source) as writer:
            if format == "SSE":
                time_requests(bench, count, echo, writer, 100, NO_FOLLOWERS)
            before = echo.rss()
            with Followers.of(echo, count, accept) as followers:
                written = write_and_settle(writer, 0.1, 50, count)
                memory = (echo.rss() - before) / count
                if format == "SSE":
                    time_requests(bench, count, echo, writer, 200)
                echo.check()
                seconds, status = echo.stop()
                received = followers.received()
            if status or received.clean < count:
                progress(f"the stop was not clean: {echo.log()}")
        add_followers(bench, count, format, received.delays(written, count), memory)
        add_stop(bench, count, format, seconds, status, received.clean)
    for kind, name in PLAIN_SERVERS.items():
        with PlainServer(kind) as server:
            before = server.rss()
            with Followers.of(server, count, "*/*") as followers:
                written = write_and_settle(Writer(server.pipe.fileno()), 0.1, 50, count)
                memory = (server.rss() - before) / count
                server.stop()
                delays = followers.received().delays(written, count)
        for format in ACCEPT:
            add_followers(bench, count, format, delays, memory, name)


def write_and_settle(writer: Writer, seconds: float, times: int, followers: int = 1) -> list[int]:
    """Write numbers, wait until they should have arrived, and return them."""
    written = writer.write_every(seconds, times)
    time.sleep(SETTLE_SECONDS * (1 + followers / 1000))
    return written


def time_requests(bench: Bench, count: int, echo: Echo, writer: Writer, times: int, peer: str = "") -> None:
    """Measure plain requests while numbers are written. The requests start at a fixed rate, however long each takes."""

    def get(_: int) -> float:
        began = time.perf_counter()
        echo.get("/data")
        return time.perf_counter() - began

    with writer.writing_every(0.1), ThreadPoolExecutor(REQUESTS_PER_SECOND) as threads:
        due, requests = time.monotonic(), []
        for each in range(times):
            requests.append(threads.submit(get, each))
            due += 1 / REQUESTS_PER_SECOND
            time.sleep(max(0.0, due - time.monotonic()))
        seconds = [request.result() for request in requests]
    time.sleep(SETTLE_SECONDS)
    bench.table.add_times(f"`GET /data` while {count:,} follow", seconds, REQUEST_TARGETS.get(count, {}), peer)


def add_followers(
    bench: Bench, count: int, format: str, delays: Sequence[float], memory: float, peer: str = ""
) -> None:
    name = f"{count:,} followers, {format}"
    bench.table.add_times(name, delays, RECEIPT_TARGETS.get(count, {}), peer)
    bench.table.row(f"{name}, memory of each", "KiB", below=5).add(memory, peer)


def add_stop(bench: Bench, count: int, format: str, seconds: float, status: int, clean: int) -> None:
    name = f"stop with {count:,} streams, {format}"
    bench.table.row(name, "s", STOP_TARGET_SECONDS.get(count)).add(seconds)
    bench.table.row(f"{name}: exit status", exactly=0).add(status)
    bench.table.row(f"{name}: streams that ended cleanly", exactly=count).add(clean)


def stalled_readers(bench: Bench) -> None:
    """Measure the memory while many clients follow a large file without reading, and the delay of one that reads."""
    source = bench.file(LARGE_FILE_BYTES)
    with Echo(source) as echo, open_for_append(source) as writer, Followers.of(echo, 1, ACCEPT["text"]) as follower:
        before = echo.rss()
        with writer.writing_every(0.01) as written, contextlib.ExitStack() as clients:
            for each in range(STALLED_READERS):
                clients.enter_context(echo.request("/data?follow", list(ACCEPT.values())[each % len(ACCEPT)]))
            time.sleep(3)
            early = echo.rss()
            time.sleep(3)
            late = echo.rss()
        time.sleep(SETTLE_SECONDS)
        echo.stop()
        delays = follower.received().delays(written, 1)
    name = f"{STALLED_READERS} stalled readers"
    bench.table.row(f"{name}: memory growth in 3 s", "MiB").add((early - before) / 1024)
    bench.table.row(f"{name}: memory growth in the next 3 s", "MiB", below=1).add((late - early) / 1024)
    bench.table.add_times(f"{name}: append to receipt of another follower", delays, {})


def huge_file(bench: Bench) -> None:
    """Measure how fast echo finds the last numbers of a huge file."""
    source = bench.file(HUGE_FILE_BYTES)
    command = ("tail", "-n10", str(source))
    expected = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    with Echo(source, warm=False) as echo:

        def tail() -> None:
            if echo.get("/data?tail=10") != expected:
                raise Failure("the response to tail=10 is not the last ten numbers")

        def follow() -> None:
            with echo.request("/data?follow&tail=0") as client:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += client.recv(4096) or b"\r\n\r\n"
            if not head.startswith(b"HTTP/1.1 200 "):
                raise Failure(f"follow&tail=0: {head[:50]!r}")

        add_reads(bench, echo, "`tail=10` of 1 GB, first request", tail, 1)
        add_reads(bench, echo, "`tail=10` of 1 GB, later requests", tail, 20)
        add_reads(bench, echo, "`follow&tail=0` of 1 GB, response head", follow, 20)
    seconds = statistics.median(timed(lambda: subprocess.run(command, stdout=subprocess.DEVNULL)) for _ in range(20))
    bench.table.row("`tail=10` of 1 GB, later requests").add(seconds * 1000, TAIL_N10)


def add_reads(bench: Bench, echo: Echo, name: str, request: Callable[[], object], times: int) -> None:
    """Measure how long the request takes, and how many bytes echo reads for it."""
    read = echo.bytes_read()
    seconds = statistics.median(timed(request) for _ in range(times))
    read = echo.bytes_read() - read
    bench.table.row(name, "ms", below=20).add(seconds * 1000)
    bench.table.row(f"{name}: bytes read", "KiB").add(read / times / 1024)


def timed(action: Callable[[], object]) -> float:
    """Return how many seconds the action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def why_not_without_inotify() -> str:
    """Return why programs cannot run without inotify here, or an empty string if they can."""
    try:
        done = subprocess.run([*WITHOUT_INOTIFY, "true"], capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else ""


def measure(rounds: int, follower_counts: Sequence[int]) -> tuple[str, list[str]]:
    """Return the table, and the errors."""
    described = machine(f"Python {platform.python_version()}", f"load {os.getloadavg()[0]:.1f} before")
    parts, notes, errors = [one_follower, one_follower_polling, many_followers, stalled_readers, huge_file], "", []
    if reason := why_not_without_inotify():
        parts.remove(one_follower_polling)
        notes = f"\nPolling was skipped: {reason}"
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), follower_counts, Table())
        for part in parts:
            name = part.__name__.replace("_", " ")
            try:
                for turn in range(rounds):
                    progress(f"{name}: round {turn + 1} of {rounds}")
                    part(bench)
            except (Failure, OSError, http.client.HTTPException) as error:
                errors.append(f"{name}: {error}")
    return f"{bench.table}\n\n{described}; rounds: {rounds}{notes}", errors


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/run follow", description=__doc__)
    parser.add_argument("--rounds", type=positive_integer, default=3, help="rounds (default: %(default)s)")
    parser.add_argument(
        "--followers",
        type=positive_integer,
        action="append",
        help="followers at once; may be repeated (default: 1000, 4000)",
    )
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, exit_on_signal)
    raise_file_limit()
    try:
        table, errors = measure(arguments.rounds, arguments.followers or [1000, 4000])
    except KeyboardInterrupt:
        return 130
    print(table)
    for error in errors:
        progress(f"bench/run follow: {error}")
    return 1 if errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
