"""What a mirror costs: to catch up, beside curl, and for each number that comes. Two echos on this machine."""

import argparse
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from command import Failure, exit_on_signal, positive_integer
from follow import ACCEPT, Bench, Table, write_and_settle
from follow_programs import Echo, Followers, open_for_append, wait_until
from report import machine, markdown, percentile, progress, spread

HUGE, SMALL = 1_000_000_000, 11_000  # bytes of files
NUMBERS = 500
CATCH_UPS = 15  # at least: they take little time, and differ
RATIO, HOPS = 1.0, {50: 0.0005, 99: 0.005}  # targets: times curl's speed; percentiles of seconds


class Mirror(Echo):
    """One that keeps its copy in a folder of its own, which is removed with it."""

    def __init__(self, source: Echo, folder: Path) -> None:
        self.spool = tempfile.TemporaryDirectory(dir=folder)
        super().__init__(f"http://127.0.0.1:{source.port}/data", "--spool", self.spool.name, warm=False)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.spool.cleanup()

    def mirrored(self) -> int:
        """Return the bytes that it has, as seen from outside, because requests would cost it time."""
        return max((file.stat().st_size for file in Path(self.spool.name).glob("data.*.*")), default=0)

    def catches_up(self, size: int) -> None:
        """Raises Failure."""

        def problem() -> str:
            return f"{self.mirrored()} of {size} bytes mirrored"

        # Seldom: it is looked at by the cores that do the work.
        wait_until(lambda: self.mirrored() >= size, problem, 60, every=0.01)


def memory_folder() -> str | None:
    """Where files are in memory, if there is such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def touch(folder: Path) -> None:
    """Take as much memory and give it back: of a virtual machine it may be the host's by now, and be long in coming."""
    file = folder / "touched"
    with file.open("wb", buffering=0) as touched:
        for _ in range(HUGE // 10**6):
            touched.write(bytes(10**6))
    file.unlink()


def mirror_a_gigabyte(echo: Echo, folder: Path, size: int) -> float:
    """Seconds from when the mirror serves, which is when it first asks, until it has all."""
    touch(folder)
    with Mirror(echo, folder) as mirror:
        began = time.perf_counter()
        mirror.catches_up(size)
        took = time.perf_counter() - began
        wait_until(lambda: mirror.status("size") == size, lambda: "the mirror does not serve what it has")
    return took


def curl_a_gigabyte(echo: Echo, folder: Path) -> float:
    touch(folder)
    target = folder / "fetched"
    began = time.perf_counter()
    command = ["curl", "--silent", "--fail", "--output", str(target), f"http://127.0.0.1:{echo.port}/data"]
    subprocess.run(command, check=True)
    took = time.perf_counter() - began
    target.unlink()
    return took


def hop(bench: Bench) -> list[float]:
    """Seconds by which a number comes later from a mirror than from its source."""
    source = bench.file(SMALL)
    with (
        Echo(source, warm=False) as echo,
        Mirror(echo, bench.folder) as mirror,
        open_for_append(source) as writer,
    ):
        mirror.catches_up(source.stat().st_size)
        with (
            Followers.of(echo, 1, ACCEPT["SSE"]) as near,
            Followers.of(mirror, 1, ACCEPT["SSE"]) as far,
        ):
            stamps = write_and_settle(writer, 0.01, NUMBERS)
            mirror.stop()
            echo.stop()
            delays = [followers.received().delays(stamps, 1) for followers in (near, far)]
    return [late - early for early, late in zip(*delays, strict=True)]


def measure(rounds: int) -> str:
    """The table. Raises Failure, OSError or subprocess.CalledProcessError."""
    mirrors, curls, hops = [], [], []
    with tempfile.TemporaryDirectory(dir=memory_folder()) as name:
        folder = Path(name)
        bench = Bench(folder, [], Table())
        for turn in range(rounds):
            progress(f"one hop: round {turn + 1} of {rounds}")
            hops += hop(bench)
        source = bench.file(HUGE)
        size = source.stat().st_size
        with Echo(source, warm=False) as echo:
            curl_a_gigabyte(echo, folder)  # once to warm up
            for turn in range(max(rounds, CATCH_UPS)):
                progress(f"catching up: round {turn + 1} of {max(rounds, CATCH_UPS)}")
                mirrors.append(mirror_a_gigabyte(echo, folder, size))
                curls.append(curl_a_gigabyte(echo, folder))
    ratio = statistics.median(curls) / statistics.median(mirrors)
    rows = [
        ("mirroring", "measured", "target", "met"),
        ("1 GB, by a mirror", spread(mirrors, "s"), "-", "-"),
        ("1 GB, by `curl` to a file in memory", spread(curls, "s"), "-", "-"),
        ("the mirror's speed, times `curl`'s", f"{ratio:.2f}", f">= {RATIO}", "yes" if ratio >= RATIO else "no"),
    ]
    for percent, target in HOPS.items():
        late = percentile(hops, percent)
        row = (f"{late * 1000:.2f} ms", f"< {target * 1000:g} ms", "yes" if late < target else "no")
        rows.append((f"one hop more, p{percent}", *row))
    return markdown(rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/run mirroring", description=__doc__)
    parser.add_argument(
        "--rounds", type=positive_integer, default=3, help="how often all is measured (default: %(default)s)"
    )
    rounds = parser.parse_args(argv).rounds
    signal.signal(signal.SIGTERM, exit_on_signal)
    described = machine(f"load {os.getloadavg()[0]:.1f} before")
    try:
        print(f"{measure(rounds)}\n\n{described}; rounds: {rounds}, {max(rounds, CATCH_UPS)} of catching up")
    except KeyboardInterrupt:
        return 130
    except (Failure, OSError, subprocess.SubprocessError) as problem:
        progress(f"bench/run mirroring: {problem}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
