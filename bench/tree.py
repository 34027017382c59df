"""A tree of mirrors: one source, three mirrors of it, three mirrors of each, and followers of the last nine."""

import argparse
import contextlib
import itertools
import os
import re
import resource
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from follow import ACCEPT, end, natural, percentile, write_and_settle
from follow_programs import Echo, Failure, Followers, appending, wait_until
from report import machine, markdown, number, progress

WIDTH = 3  # mirrors of each echo
SPARE = 200  # descriptors of an echo that are not followers
SECONDS = 2.0  # from one number to the next: the generator's default
WARM_UP = 2  # numbers at the start that are not counted
SEGMENT = "data.5f3a9c21.0000000000000000"


@dataclass
class Level:
    """The echos at one distance from the source, and the seconds from append to receipt there."""

    name: str
    echos: list[Echo] = field(default_factory=list)
    followers: list[tuple[int, Followers]] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)

    def follow(self, count: int, stack: contextlib.ExitStack) -> None:
        """So many follow each echo of this level."""
        for echo in self.echos:
            self.followers.append((count, stack.enter_context(Followers.of(echo, count, ACCEPT["SSE"]))))

    def collect(self, stamps: Sequence[int]) -> None:
        """Stop the echos and keep what their followers received. Raises Failure if a number is missing."""
        for echo in self.echos:
            echo.stop()
        for count, followers in self.followers:
            self.delays += followers.received().delays(stamps, count)

    def cells(self) -> list[str]:
        followers = sum(count for count, _ in self.followers)
        times = (f"{number(percentile(self.delays, percent) * 1000)} ms" for percent in (50, 99))
        return [self.name, f"{len(self.echos)}", f"{followers:,}", *times]


@dataclass(frozen=True)
class Run:
    """What one tree did: its levels, and the bytes that the source and the last level sent for each number."""

    levels: list[Level]
    source_bytes: float
    last_bytes: float


def source(folder: Path) -> Path:
    """A data folder whose segment has a number; returns the segment."""
    segment = folder / SEGMENT
    segment.write_bytes(b"1\n")
    (folder / "data").symlink_to(SEGMENT)
    return segment


def grow(folder: Path, stack: contextlib.ExitStack) -> list[Level]:
    """All echos, each of which has the source's first number."""
    levels = [Level("source"), Level("mirrors of it"), Level("mirrors of those")]
    levels[0].echos.append(stack.enter_context(Echo(folder / "data")))
    for above, level in itertools.pairwise(levels):
        for parent in above.echos:
            for _ in range(WIDTH):
                mirror = Echo(f"http://127.0.0.1:{parent.port}/data", warm=False)
                level.echos.append(stack.enter_context(mirror))
                wait_until(lambda mirror=mirror: mirror.status("size"), lambda: "a mirror has nothing")  # type: ignore[misc]
    return levels


def bytes_sent(echos: Sequence[Echo]) -> tuple[float, float]:
    """Bytes of bodies that all of them have sent: without these answers, and with them. Raises Failure."""
    without = answers = 0.0
    for echo in echos:
        body = echo.get("/metrics")
        found = re.search(rb"^echo_http_sent_bytes_total ([0-9.e+]+)$", body, re.MULTILINE)
        if not found:
            raise Failure("/metrics: no bytes sent")
        without, answers = without + float(found[1]), answers + len(body)
    return without, without + answers


def measure(followers: int, numbers: int) -> Run:
    """One tree with so many followers of each of the last mirrors, and one of each other echo. Raises Failure."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        writer = stack.enter_context(appending(source(folder)))
        levels = grow(folder, stack)
        for level in levels:
            level.follow(followers if level is levels[-1] else 1, stack)
        write_and_settle(writer, SECONDS, WARM_UP)
        before = [bytes_sent(level.echos)[1] for level in (levels[0], levels[-1])]
        stamps = write_and_settle(writer, SECONDS, numbers)
        after = [bytes_sent(level.echos)[0] for level in (levels[0], levels[-1])]
        for level in reversed(levels):
            level.collect(stamps)
    first, last = ((late - early) / numbers for early, late in zip(before, after, strict=True))
    return Run(levels, first, last)


def possible(wanted: int) -> tuple[int, str]:
    """Followers of each of the last mirrors, and why they are fewer than wanted."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    each = wanted // WIDTH**2
    if each <= limit - SPARE:
        return each, ""
    return limit - SPARE, f"Fewer followers than {wanted:,}: a process may open {limit:,} files (ulimit -Hn)."


def table(runs: Sequence[Run]) -> str:
    head = ("level", "echos", "followers", "append to receipt, p50", "p99")
    return "\n\n".join(
        f"{markdown([head, *(level.cells() for level in run.levels)])}\n\n"
        f"For each number the source sent {run.source_bytes:,.0f} bytes in all, "
        f"and the last {WIDTH**2} mirrors {run.last_bytes:,.0f}."
        for run in runs
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/run tree", description=__doc__)
    parser.add_argument("--followers", type=natural, default=9000, help="of all last mirrors (default: %(default)s)")
    parser.add_argument("--numbers", type=natural, default=20, help="how many are written (default: %(default)s)")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, end)
    described = machine(f"load {os.getloadavg()[0]:.1f} before")
    followers, less = possible(arguments.followers)
    try:
        runs = []
        for count in (1, followers):
            progress(f"a tree with {count:,} followers of each of the last mirrors")
            runs.append(measure(count, arguments.numbers))
        print("\n\n".join([table(runs), *filter(None, [less]), f"{described}; a number every {SECONDS:.0f} s"]))
    except KeyboardInterrupt:
        return 130
    except (Failure, OSError, subprocess.SubprocessError) as problem:
        progress(f"bench/run tree: {problem}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
