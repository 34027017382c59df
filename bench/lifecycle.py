"""The life of a container: the project's image, the seed's `sh app.sh` and stock supervisord, turn by turn."""

import argparse
import json
import os
import random
import re
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from containers import Container, Failure, Workshop, docker
from report import machine, markdown, number, progress, spread

HERE = Path(__file__).parent
OURS, SEED, STOCK = "ours", "(a) seed", "(b) stock"
CONTESTANTS = (OURS, SEED, STOCK)
PROGRAMS = ("generator", "echo")
SEED_STOPS = 3  # rounds in which the seed is stopped, for it takes 10 s
HEALTH_CHECKS = 20  # in a round
UNITS = {"B": 1, "kB": 1e3, "KiB": 2**10, "MB": 1e6, "MiB": 2**20, "GB": 1e9, "GiB": 2**30}
HEAD = ("median (range)", *CONTESTANTS, "ours / (a)", "ours / (b)", "target", "met")


@dataclass
class Row:
    """One thing measured: the figures by contestant, and what ours shall be at most."""

    name: str
    unit: str
    most: float | None = None
    of: dict[str, float] = field(default_factory=dict)  # times another's median
    figures: dict[str, list[float]] = field(default_factory=dict)

    def add(self, contestant: str, figure: float) -> None:
        self.figures.setdefault(contestant, []).append(figure)

    def ratio(self, other: str) -> float | None:
        if OURS not in self.figures or other not in self.figures:
            return None
        return statistics.median(self.figures[OURS]) / statistics.median(self.figures[other])

    def target(self) -> str:
        absolute = [f"< {number(self.most)} {self.unit}"] if self.most else []
        return ", ".join(absolute + [f"<= {times} x {other[:3]}" for other, times in self.of.items()])

    def met(self) -> str:
        if OURS not in self.figures:
            return "-"
        held = [statistics.median(self.figures[OURS]) < self.most] if self.most else []
        held += [(ratio := self.ratio(other)) is not None and ratio <= times for other, times in self.of.items()]
        return "yes" if all(held) else "no"

    def cells(self) -> list[str]:
        figures = [spread(self.figures[c], self.unit) if c in self.figures else "-" for c in CONTESTANTS]
        ratios = [self.ratio(other) for other in (SEED, STOCK)]
        return [self.name, *figures, *("-" if r is None else f"{r:.3f}" for r in ratios), self.target(), self.met()]


class Statuses:
    """The exit statuses after `docker stop`, of which each of ours shall be 0."""

    def __init__(self) -> None:
        self.seen: dict[str, list[int]] = {contestant: [] for contestant in CONTESTANTS}

    def cells(self) -> list[str]:
        counts = [
            ", ".join(f"{status} ({seen.count(status)} times)" for status in sorted(set(seen)))
            for seen in self.seen.values()
        ]
        return ["its exit status", *counts, "-", "-", "0", "no" if any(self.seen[OURS]) else "yes"]


def settle(container: Container, contestant: str) -> None:
    """Wait until the programs run; then to any point of stock supervisord's loop, which turns once a second."""
    for program in PROGRAMS if contestant != SEED else ():
        container.said(f"success: {program} entered RUNNING")
    time.sleep(random.random())


def start_and_stop(workshop: Workshop, images: dict[str, str], rounds: int) -> list[Row | Statuses]:
    start = Row("`docker run` to the first 200", "ms", of={SEED: 1.5, STOCK: 0.4})
    stop = Row("`docker stop`", "ms", most=300, of={SEED: 0.05, STOCK: 0.2})
    statuses = Statuses()
    for turn in range(rounds):
        progress(f"start and stop: round {turn + 1} of {rounds}")
        for contestant in turns(turn):
            container = workshop.start(images[contestant])
            start.add(contestant, container.started * 1000)
            if contestant != SEED or turn < SEED_STOPS:
                settle(container, contestant)
                began = time.perf_counter()
                docker("stop", container.id)
                stop.add(contestant, (time.perf_counter() - began) * 1000)
                statuses.seen[contestant].append(int(container.inspect(".State.ExitCode")))
            container.remove()
    return [start, stop, statuses]


def turns(turn: int, contestants: Sequence[str] = CONTESTANTS) -> Sequence[str]:
    """Everybody is first at times."""
    first = turn % len(contestants)
    return [*contestants[first:], *contestants[:first]]


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def child(pid: int, program: str) -> int:
    """The child of a process that is `python -m PROGRAM`. Raises Failure."""
    for each in children(pid):
        if f"-m\0{program}\0" in Path(f"/proc/{each}/cmdline").read_text():
            return each
    raise Failure(f"supervisord has no child {program}")


def respawn(supervisord: int, program: str, within: float = 15) -> float:
    """Kill a program; returns the seconds until supervisord has a new child."""
    victim, before = child(supervisord, program), children(supervisord)
    began = time.perf_counter()
    os.kill(victim, signal.SIGKILL)
    while not children(supervisord) - before:
        if time.perf_counter() - began > within:
            raise Failure(f"{program} not started again within {within:.0f} s")
        time.sleep(0.001)
    return time.perf_counter() - began


def cannot_kill(init: int) -> str:
    """Why programs cannot be killed from outside the container, or an empty string."""
    if os.geteuid():
        return "needs root, for the programs are killed by the PIDs that they have on the host"
    try:
        children(init)
    except OSError:
        return "this kernel or a remote engine does not show the container's processes in /proc"
    return ""


def kills(workshop: Workshop, images: dict[str, str], rounds: int) -> tuple[list[Row], str]:
    """The rows, and why they are empty if they are."""
    rows = {program: Row(f"`kill -9` of {program} to a new one", "ms", of={STOCK: 0.1}) for program in PROGRAMS}
    containers = {contestant: workshop.start(images[contestant]) for contestant in (OURS, STOCK)}
    inits = {contestant: int(each.inspect(".State.Pid")) for contestant, each in containers.items()}
    if reason := cannot_kill(inits[OURS]):
        return list(rows.values()), reason
    for turn in range(rounds):
        progress(f"kill: round {turn + 1} of {rounds}")
        for contestant in turns(turn, (OURS, STOCK)):
            for program in PROGRAMS:
                containers[contestant].said(f"success: {program} entered RUNNING", times=turn + 1)
                time.sleep(random.random())
                rows[program].add(contestant, respawn(inits[contestant], program) * 1000)
    for container in containers.values():
        container.remove()
    return list(rows.values()), ""


def mebibytes(text: str) -> float:
    """Of what docker stats says, as `34.5MiB / 23.5GiB`. Raises Failure."""
    match = re.match(r"([\d.]+)([A-Za-z]+)", text)
    if not match or match[2] not in UNITS:
        raise Failure(f"docker stats: no memory in {text!r}")
    return float(match[1]) * UNITS[match[2]] / 2**20


def memory(workshop: Workshop, images: dict[str, str], rounds: int) -> Row:
    row = Row("memory, idle", "MiB", most=80)
    for turn in range(rounds):
        progress(f"memory: round {turn + 1} of {rounds}")
        containers = {contestant: workshop.start(images[contestant]) for contestant in turns(turn)}
        for contestant, container in containers.items():
            settle(container, contestant)
        for contestant, container in containers.items():
            row.add(contestant, mebibytes(docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container.id)))
            container.remove()
    return row


def health_command(image: str) -> str:
    """The image's health check as a shell command. Raises Failure."""
    kind, *words = json.loads(docker("inspect", "--format", "{{json .Config.Healthcheck.Test}}", image)) or ["NONE"]
    if kind not in ("CMD", "CMD-SHELL"):
        raise Failure("the image has no health check")
    return " ".join(words)


def health(workshop: Workshop, image: str, rounds: int) -> Row:
    """CPU time of the check itself and of what it starts; not what Docker needs to start it."""
    row = Row("health check, CPU time of one", "ms", most=30)
    container = workshop.start(image)
    settle(container, OURS)
    command = health_command(image)
    loop = f"for ((i = 0; i < {HEALTH_CHECKS}; i++)); do {command} || exit 1; done; times"
    for turn in range(rounds):
        progress(f"health: round {turn + 1} of {rounds}")
        spent = docker("exec", container.id, "bash", "-c", loop).splitlines()[-1]
        seconds = sum(int(m) * 60 + float(s) for m, s in re.findall(r"(\d+)m([\d.]+)s", spent))
        row.add(OURS, seconds * 1000 / HEALTH_CHECKS)
    container.remove()
    return row


def measure(image: str, rounds: int) -> str:
    """Everything, as text. Raises Failure."""
    engine = docker("version", "--format", "{{.Server.Version}}")
    with Workshop() as workshop:
        base = workshop.tag(image, "ours")
        images = {
            OURS: base,
            SEED: workshop.build(HERE / "seed", base),
            STOCK: workshop.build(HERE / "stock", base),
        }
        rows: list[Row | Statuses] = start_and_stop(workshop, images, rounds)
        respawns, skipped = kills(workshop, images, rounds)
        rows += [*respawns, memory(workshop, images, min(rounds, 3)), health(workshop, base, rounds)]
    text = markdown([HEAD, *(row.cells() for row in rows)])
    text += f"\n\n{machine(f'Docker {engine}')}; rounds: {rounds}"
    return text + (f"\nThe rows of `kill -9` were skipped: {skipped}" if skipped else "")


def natural(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rounds, 1 or more")
    return int(text)


def end(number: int, frame: object) -> NoReturn:
    """On a signal: what was made is removed on the way out."""
    sys.exit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/run lifecycle", description=__doc__)
    parser.add_argument("--rounds", type=natural, default=15, help="how often all is measured (default: %(default)s)")
    parser.add_argument(
        "--image",
        default=os.environ.get("APPCOUP_IMAGE") or "appcoup",
        help="the project's image, already built (default: $APPCOUP_IMAGE or appcoup)",
    )
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, end)
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
