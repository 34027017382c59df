"""Thousands of slow, idle and stalled clients at once, beside an honest one: memory, descriptors, and its responses."""

import argparse
import http.client
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from follow import Bench, Table, end, natural
from follow_programs import HERE, Echo, Failure, Program, wait_until
from report import machine, progress

LARGE = 100_000_000  # bytes of the file
SLOW, IDLE, STALLED = 1000, 2000, 300  # clients
SECONDS, GETS_PER_SECOND = 10, 50
MEMORY, P99 = 96.0, 50.0  # MiB of the process, ms: what shall not be exceeded


def descriptors(echo: Echo) -> int:
    return len(os.listdir(f"/proc/{echo.process.pid}/fd"))


def megabytes(echo: Echo) -> float:
    return echo.rss() / 1024


def measure(bench: Bench) -> None:
    """One round. Raises Failure."""
    table, seconds, failures = bench.table, list[float](), 0
    with Echo(bench.file(LARGE), "--stale", "0") as echo:
        opened = descriptors(echo)
        table.row("memory of the process before", "MiB").add(peak := megabytes(echo))
        counts = map(str, (echo.port, SLOW, IDLE, STALLED))
        with Program(sys.executable, str(HERE / "hostile_clients.py"), *counts, stdin=subprocess.PIPE) as hostile:
            hostile.says("^ready$")
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                began = time.perf_counter()
                try:
                    echo.get("/data?tail=10")
                except (Failure, OSError, http.client.HTTPException):
                    failures += 1
                seconds.append(time.perf_counter() - began)
                peak = max(peak, megabytes(echo))
                time.sleep(1 / GETS_PER_SECOND)
        wait_until(
            lambda: descriptors(echo) <= opened, lambda: f"{descriptors(echo)} descriptors are open, not {opened}"
        )
        table.row("the most meanwhile", "MiB", MEMORY).add(peak)
        table.row("afterwards", "MiB").add(megabytes(echo))
    table.add_times("`/data?tail=10` meanwhile", seconds, {99: P99})
    table.row("failures of these requests", exactly=0).add(failures)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/run limits", description=__doc__)
    parser.add_argument("--rounds", type=natural, default=3, help="how often all is measured (default: %(default)s)")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, end)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # of the programs that are started, too
    table = Table()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for turn in range(arguments.rounds):
                progress(f"round {turn + 1} of {arguments.rounds}")
                measure(Bench(Path(folder), [], table))
    except KeyboardInterrupt:
        return 130
    except (Failure, OSError) as failure:
        progress(f"bench/run limits: {failure}")
        return 1
    print(f"{SLOW:,} slow readers of 100 MB, {IDLE:,} idle clients and {STALLED} stalled followers at once:\n\n{table}")
    print(f"\n{machine(f'Python {platform.python_version()}')}; rounds: {arguments.rounds}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
