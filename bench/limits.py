"""Measure echo under thousands of slow, idle and stalled clients: memory, descriptors, requests of another client."""

import argparse
import http.client
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from command import Failure, exit_on_signal, positive_integer, raise_file_limit
from follow import Bench, Table
from follow_programs import BENCH_FOLDER, Echo, Program, wait_until
from report import machine, progress

FILE_BYTES = 100_000_000
SLOW_CLIENTS, IDLE_CLIENTS, STALLED_CLIENTS = 1000, 2000, 300
LOAD_SECONDS, REQUESTS_PER_SECOND = 10, 50
MEMORY_TARGET_MIB, P99_TARGET_MILLISECONDS = 96.0, 50.0


def open_descriptors(echo: Echo) -> int:
    return len(os.listdir(f"/proc/{echo.process.pid}/fd"))


def memory_mib(echo: Echo) -> float:
    return echo.rss() / 1024


def measure(bench: Bench) -> None:
    """Measure one round. Raises Failure."""
    table, seconds, failures = bench.table, list[float](), 0
    with Echo(bench.file(FILE_BYTES), "--stale", "0") as echo:
        before = open_descriptors(echo)
        table.row("memory before the load", "MiB").add(peak := memory_mib(echo))
        counts = map(str, (echo.port, SLOW_CLIENTS, IDLE_CLIENTS, STALLED_CLIENTS))
        with Program(
            sys.executable, str(BENCH_FOLDER / "hostile_clients.py"), *counts, stdin=subprocess.PIPE
        ) as hostile:
            hostile.wait_for_log("^ready$")
            end = time.monotonic() + LOAD_SECONDS
            while time.monotonic() < end:
                began = time.perf_counter()
                try:
                    echo.get("/data?tail=10")
                except (Failure, OSError, http.client.HTTPException):
                    failures += 1
                seconds.append(time.perf_counter() - began)
                peak = max(peak, memory_mib(echo))
                time.sleep(1 / REQUESTS_PER_SECOND)
        wait_until(
            lambda: open_descriptors(echo) <= before,
            lambda: f"{open_descriptors(echo)} descriptors are still open; before the load there were {before}",
        )
        table.row("highest memory under load", "MiB", MEMORY_TARGET_MIB).add(peak)
        table.row("memory after the load", "MiB").add(memory_mib(echo))
    table.add_times("`/data?tail=10` under load", seconds, {99: P99_TARGET_MILLISECONDS})
    table.row("failed requests", exactly=0).add(failures)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/run limits", description=__doc__)
    parser.add_argument("--rounds", type=positive_integer, default=3, help="rounds (default: %(default)s)")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, exit_on_signal)
    raise_file_limit()
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
    print(
        f"{SLOW_CLIENTS:,} slow readers of 100 MB, {IDLE_CLIENTS:,} idle clients, "
        f"{STALLED_CLIENTS} stalled followers:\n"
    )
    print(table)
    print(f"\n{machine(f'Python {platform.python_version()}')}; rounds: {arguments.rounds}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
