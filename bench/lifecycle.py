"""Compare the life of a container: this project's image, the article's `sh app.sh` (the seed), stock supervisord."""

import argparse
import json
import os
import random
import re
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from command import Failure, exit_on_signal, positive_integer
from containers import Container, DockerSession, docker
from report import machine, markdown, number, progress, spread

BENCH_FOLDER = Path(__file__).parent
OURS, SEED, STOCK = "ours", "(a) seed", "(b) stock"
CONTESTANTS = (OURS, SEED, STOCK)
PROGRAMS = ("generator", "echo")
SEED_STOPS = 3  # rounds that stop the seed; more would take long, because each stop takes 10 s
HEALTH_CHECKS_PER_ROUND = 20
UNITS = {"B": 1, "kB": 1e3, "KiB": 2**10, "MB": 1e6, "MiB": 2**20, "GB": 1e9, "GiB": 2**30}
HEADER = ("median (range)", *CONTESTANTS, "ours / (a)", "ours / (b)", "target", "met")


@dataclass
class Row:
    """A row of the table: the figures of each contestant, and the targets of our median."""

    name: str
    unit: str
    below: float | None = None
    ratios: dict[str, float] = field(default_factory=dict)  # the highest ratio to another contestant's median
    figures: dict[str, list[float]] = field(default_factory=dict)

    def add(self, contestant: str, figure: float) -> None:
        self.figures.setdefault(contestant, []).append(figure)

    def ratio(self, other: str) -> float | None:
        if OURS not in self.figures or other not in self.figures:
            return None
        return statistics.median(self.figures[OURS]) / statistics.median(self.figures[other])

    def target(self) -> str:
        absolute = [f"< {number(self.below)} {self.unit}"] if self.below else []
        return ", ".join(absolute + [f"<= {times} x {other[:3]}" for other, times in self.ratios.items()])

    def met(self) -> str:
        if OURS not in self.figures:
            return "-"
        held = [statistics.median(self.figures[OURS]) < self.below] if self.below else []
        held += [(ratio := self.ratio(other)) is not None and ratio <= times for other, times in self.ratios.items()]
        return "yes" if all(held) else "no"

    def cells(self) -> list[str]:
        figures = [spread(self.figures[c], self.unit) if c in self.figures else "-" for c in CONTESTANTS]
        ratios = [self.ratio(other) for other in (SEED, STOCK)]
        return [self.name, *figures, *("-" if r is None else f"{r:.3f}" for r in ratios), self.target(), self.met()]


class Statuses:
    """The row of the exit statuses after `docker stop`. The target of ours is 0."""

    def __init__(self) -> None:
        self.seen: dict[str, list[int]] = {contestant: [] for contestant in CONTESTANTS}

    def cells(self) -> list[str]:
        counts = [
            ", ".join(f"{status} ({seen.count(status)} times)" for status in sorted(set(seen)))
            for seen in self.seen.values()
        ]
        return ["`docker stop`: exit status", *counts, "-", "-", "0", "no" if any(self.seen[OURS]) else "yes"]


def settle(container: Container, contestant: str) -> None:
    """Wait until the programs run, and then up to a second, because stock supervisord's loop runs once a second."""
    for program in PROGRAMS if contestant != SEED else ():
        container.wait_for_log(f"success: {program} entered RUNNING")
    time.sleep(random.random())


def start_and_stop(session: DockerSession, images: dict[str, str], rounds: int) -> list[Row | Statuses]:
    start = Row("`docker run` to the first 200", "ms", ratios={SEED: 1.5, STOCK: 0.4})
    stop = Row("`docker stop`", "ms", below=300, ratios={SEED: 0.05, STOCK: 0.2})
    statuses = Statuses()
    for turn in range(rounds):
        progress(f"start and stop: round {turn + 1} of {rounds}")
        for contestant in rotated(turn):
            container = session.start(images[contestant])
            start.add(contestant, container.start_seconds * 1000)
            if contestant != SEED or turn < SEED_STOPS:
                settle(container, contestant)
                began = time.perf_counter()
                docker("stop", container.id)
                stop.add(contestant, (time.perf_counter() - began) * 1000)
                statuses.seen[contestant].append(int(container.inspect(".State.ExitCode")))
            container.remove()
    return [start, stop, statuses]


def rotated(turn: int, contestants: Sequence[str] = CONTESTANTS) -> Sequence[str]:
    """Return the contestants in an order that begins with another one in each round."""
    first = turn % len(contestants)
    return [*contestants[first:], *contestants[:first]]


def children(pid: int) -> set[int]:
    """Return the PIDs of a process's children."""
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def child(pid: int, program: str) -> int:
    """Return the PID of the child that runs `python -m PROGRAM`. Raises Failure."""
    for each in children(pid):
        if f"-m\0{program}\0" in Path(f"/proc/{each}/cmdline").read_text():
            return each
    raise Failure(f"supervisord has no child {program}")


def respawn(supervisord: int, program: str, timeout: float = 15) -> float:
    """Kill a program, and return the seconds until supervisord has a new child. Raises Failure."""
    victim, before = child(supervisord, program), children(supervisord)
    began = time.perf_counter()
    os.kill(victim, signal.SIGKILL)
    while not children(supervisord) - before:
        if time.perf_counter() - began > timeout:
            raise Failure(f"{program} not restarted after {timeout:.0f} s")
        time.sleep(0.001)
    return time.perf_counter() - began


def why_not_kill(init: int) -> str:
    """Return why programs cannot be killed from outside the container, or an empty string if they can."""
    if os.geteuid():
        return "they need root, because the programs are killed by their PIDs on the host"
    try:
        children(init)
    except OSError:
        return "/proc does not show the container's processes, because of this kernel or a remote engine"
    return ""


def kills(session: DockerSession, images: dict[str, str], rounds: int) -> tuple[list[Row], str]:
    """Measure respawns. Return the rows, and why they are empty or an empty string."""
    rows = {program: Row(f"`kill -9` of {program} to its restart", "ms", ratios={STOCK: 0.1}) for program in PROGRAMS}
    containers = {contestant: session.start(images[contestant]) for contestant in (OURS, STOCK)}
    inits = {contestant: int(each.inspect(".State.Pid")) for contestant, each in containers.items()}
    if reason := why_not_kill(inits[OURS]):
        return list(rows.values()), reason
    for turn in range(rounds):
        progress(f"kill: round {turn + 1} of {rounds}")
        for contestant in rotated(turn, (OURS, STOCK)):
            for program in PROGRAMS:
                containers[contestant].wait_for_log(f"success: {program} entered RUNNING", times=turn + 1)
                time.sleep(random.random())
                rows[program].add(contestant, respawn(inits[contestant], program) * 1000)
    for container in containers.values():
        container.remove()
    return list(rows.values()), ""


def mebibytes(text: str) -> float:
    """Return the first size in a text of `docker stats`, such as `34.5MiB / 23.5GiB`. Raises Failure."""
    match = re.match(r"([\d.]+)([A-Za-z]+)", text)
    if not match or match[2] not in UNITS:
        raise Failure(f"docker stats: no memory in {text!r}")
    return float(match[1]) * UNITS[match[2]] / 2**20


def memory(session: DockerSession, images: dict[str, str], rounds: int) -> Row:
    row = Row("memory, idle", "MiB", below=80)
    for turn in range(rounds):
        progress(f"memory: round {turn + 1} of {rounds}")
        containers = {contestant: session.start(images[contestant]) for contestant in rotated(turn)}
        for contestant, container in containers.items():
            settle(container, contestant)
        for contestant, container in containers.items():
            row.add(contestant, mebibytes(docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container.id)))
            container.remove()
    return row


def health_command(image: str) -> str:
    """Return the image's health check as a shell command. Raises Failure."""
    kind, *words = json.loads(docker("inspect", "--format", "{{json .Config.Healthcheck.Test}}", image)) or ["NONE"]
    if kind not in ("CMD", "CMD-SHELL"):
        raise Failure("the image has no health check")
    return " ".join(words)


def health(session: DockerSession, image: str, rounds: int) -> Row:
    """Measure the CPU time of the health check and its children, without Docker's own to start them."""
    row = Row("health check, CPU time of one", "ms", below=30)
    container = session.start(image)
    settle(container, OURS)
    command = health_command(image)
    loop = f"for ((i = 0; i < {HEALTH_CHECKS_PER_ROUND}; i++)); do {command} || exit 1; done; times"
    for turn in range(rounds):
        progress(f"health: round {turn + 1} of {rounds}")
        spent = docker("exec", container.id, "bash", "-c", loop).splitlines()[-1]
        seconds = sum(int(m) * 60 + float(s) for m, s in re.findall(r"(\d+)m([\d.]+)s", spent))
        row.add(OURS, seconds * 1000 / HEALTH_CHECKS_PER_ROUND)
    container.remove()
    return row


def measure(image: str, rounds: int) -> str:
    """Measure everything, and return the table with its notes. Raises Failure."""
    engine = docker("version", "--format", "{{.Server.Version}}")
    with DockerSession() as session:
        base = session.tag(image, "ours")
        images = {
            OURS: base,
            SEED: session.build(BENCH_FOLDER / "seed", base),
            STOCK: session.build(BENCH_FOLDER / "stock", base),
        }
        rows: list[Row | Statuses] = start_and_stop(session, images, rounds)
        respawns, skipped = kills(session, images, rounds)
        rows += [*respawns, memory(session, images, min(rounds, 3)), health(session, base, rounds)]
    text = markdown([HEADER, *(row.cells() for row in rows)])
    text += f"\n\n{machine(f'Docker {engine}')}; rounds: {rounds}"
    return text + (f"\nThe rows of `kill -9` were skipped: {skipped}" if skipped else "")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/run lifecycle", description=__doc__)
    parser.add_argument("--rounds", type=positive_integer, default=15, help="rounds (default: %(default)s)")
    parser.add_argument(
        "--image",
        default=os.environ.get("APPCOUP_IMAGE") or "appcoup",
        help="the project's image, already built (default: $APPCOUP_IMAGE or appcoup)",
    )
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, exit_on_signal)
    try:
        print(measure(arguments.image, arguments.rounds))
    except (Failure, OSError) as failure:
        progress(f"bench/run lifecycle: {failure}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
