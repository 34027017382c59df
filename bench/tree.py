"""Measure a tree of mirrors: one source, three mirrors of it, three mirrors of each of those, and their followers."""

import argparse
import contextlib
import itertools
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from command import Failure, exit_on_signal, positive_integer, raise_file_limit
from follow import ACCEPT, write_and_settle
from follow_programs import Echo, Followers, open_for_append, wait_until
from report import machine, markdown, number, percentile, progress

MIRRORS_PER_ECHO = 3
OTHER_DESCRIPTORS = 200  # which an echo needs besides one for each follower
INTERVAL_SECONDS = 2.0  # between two numbers: the generator's default
WARM_UP_NUMBERS = 2  # written before the measurement
SEGMENT_NAME = "data.5f3a9c21.0000000000000000"


@dataclass
class Level:
    """The echos at one distance from the source, their followers, and the delays from append to receipt in seconds."""

    name: str
    echos: list[Echo] = field(default_factory=list)
    followers: list[tuple[int, Followers]] = field(default_factory=list)  # after their number
    delays: list[float] = field(default_factory=list)

    def follow(self, count: int, stack: contextlib.ExitStack) -> None:
        """Follow each echo of this level with `count` connections."""
        for echo in self.echos:
            self.followers.append((count, stack.enter_context(Followers.of(echo, count, ACCEPT["SSE"]))))

    def collect(self, written: Sequence[int]) -> None:
        """Stop the echos and collect the delays. Raises Failure if a follower misses a number."""
        for echo in self.echos:
            echo.stop()
        for count, followers in self.followers:
            self.delays += followers.received().delays(written, count)

    def cells(self) -> list[str]:
        followers = sum(count for count, _ in self.followers)
        times = (f"{number(percentile(self.delays, percent) * 1000)} ms" for percent in (50, 99))
        return [self.name, f"{len(self.echos)}", f"{followers:,}", *times]


@dataclass(frozen=True)
class Run:
    """The result of one tree: its levels, and how many bytes the source and the last level sent for each number."""

    levels: list[Level]
    source_bytes: float
    last_bytes: float


def create_source(folder: Path) -> Path:
    """Create a segment with one number in the folder, and return its path."""
    segment = folder / SEGMENT_NAME
    segment.write_bytes(b"1\n")
    (folder / "data").symlink_to(SEGMENT_NAME)
    return segment


def start_tree(folder: Path, stack: contextlib.ExitStack) -> list[Level]:
    """Start all echos, and wait until each has the first number."""
    levels = [Level("source"), Level("mirrors of the source"), Level("mirrors of mirrors")]
    levels[0].echos.append(stack.enter_context(Echo(folder / "data")))
    for above, level in itertools.pairwise(levels):
        for parent in above.echos:
            for _ in range(MIRRORS_PER_ECHO):
                mirror = Echo(f"http://127.0.0.1:{parent.port}/data", warm=False)
                level.echos.append(stack.enter_context(mirror))
                wait_until(lambda mirror=mirror: mirror.status("size"), lambda: "a mirror received nothing")  # type: ignore[misc]
    return levels


def bytes_sent(echos: Sequence[Echo]) -> tuple[float, float]:
    """Return how many body bytes the echos have sent, before and after these responses of /metrics. Raises Failure."""
    sent = responses = 0.0
    for echo in echos:
        body = echo.get("/metrics")
        found = re.search(rb"^echo_http_sent_bytes_total ([0-9.e+]+)$", body, re.MULTILINE)
        if not found:
            raise Failure("/metrics does not have echo_http_sent_bytes_total")
        sent, responses = sent + float(found[1]), responses + len(body)
    return sent, sent + responses


def measure(followers: int, numbers: int) -> Run:
    """Measure a tree with `followers` followers of each mirror of a mirror, and one follower of each other echo.

    Raises Failure.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        writer = stack.enter_context(open_for_append(create_source(folder)))
        levels = start_tree(folder, stack)
        for level in levels:
            level.follow(followers if level is levels[-1] else 1, stack)
        write_and_settle(writer, INTERVAL_SECONDS, WARM_UP_NUMBERS)
        before = [bytes_sent(level.echos)[1] for level in (levels[0], levels[-1])]
        written = write_and_settle(writer, INTERVAL_SECONDS, numbers)
        after = [bytes_sent(level.echos)[0] for level in (levels[0], levels[-1])]
        for level in reversed(levels):
            level.collect(written)
    first, last = ((late - early) / numbers for early, late in zip(before, after, strict=True))
    return Run(levels, first, last)


def limit_followers(wanted: int) -> tuple[int, str]:
    """Return how many followers each mirror of a mirror can have, and a note if these are fewer than wanted."""
    limit = raise_file_limit()
    each = wanted // MIRRORS_PER_ECHO**2
    if each <= limit - OTHER_DESCRIPTORS:
        return each, ""
    return (
        limit - OTHER_DESCRIPTORS,
        f"Fewer than {wanted:,} followers: a process may open {limit:,} files (ulimit -Hn).",
    )


def table(runs: Sequence[Run]) -> str:
    header = ("level", "echos", "followers", "append to receipt, p50", "p99")
    return "\n\n".join(
        f"{markdown([header, *(level.cells() for level in run.levels)])}\n\n"
        f"For each number the source sent {run.source_bytes:,.0f} bytes in all, "
        f"and the {MIRRORS_PER_ECHO**2} mirrors of mirrors {run.last_bytes:,.0f}."
        for run in runs
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/run tree", description=__doc__)
    parser.add_argument(
        "--followers",
        type=positive_integer,
        default=9000,
        help="of all mirrors of mirrors (default: %(default)s)",
    )
    parser.add_argument("--numbers", type=positive_integer, default=20, help="numbers to write (default: %(default)s)")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, exit_on_signal)
    described = f"{machine(f'load {os.getloadavg()[0]:.1f} before')}; a number every {INTERVAL_SECONDS:.0f} s"
    followers, note = limit_followers(arguments.followers)
    try:
        runs = []
        for count in (1, followers):
            progress(f"a tree with {count:,} followers of each mirror of a mirror")
            runs.append(measure(count, arguments.numbers))
        print("\n\n".join([table(runs), *filter(None, [note]), described]))
    except KeyboardInterrupt:
        return 130
    except (Failure, OSError, subprocess.SubprocessError) as problem:
        progress(f"bench/run tree: {problem}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
