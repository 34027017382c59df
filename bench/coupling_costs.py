"""What each coupling of the two programs costs and gives: process, container, Compose, pods and clusters."""

import argparse
import contextlib
import os
import signal
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from containers import Workshop
from coupling_deployments import PROBLEMS, Deployment, Launcher, Outage, Stop, outage, receipt
from follow import percentile
from lifecycle import end, natural
from report import machine, markdown, number, progress, spread
from shipping import ROOT, Shipment, changed_file, changed_tree, shipment
from support import cluster, compose, engine
from support.couplings import COUPLINGS, NEEDS

NUMBERS = 250  # in a round, of which the receipt is measured
SITUATIONS: dict[str, Callable[[], str]] = {
    "docker": engine.problem,
    "compose": compose.problem,
    "kubernetes": cluster.problem,
    "sidecar": cluster.sidecar_problem,
    "federation": cluster.federation_problem,
}
NOTES = """\
Start: from `./app.sh`, `docker run`, `docker compose up` (which waits for the generator's first health check) or
`kubectl apply` to the first 200 of /data, for a client that asks a hundred times a second or more (the pod by its own
address, the others through their Service). Receipt: one program sees each number come to the generator's file,
another receives it from the coupling's echo, and the times of both, by the clocks where they run, are compared; a
number every 20 ms. Stop: from SIGTERM, `docker stop`, `docker compose stop` or `kubectl delete pod` of echo to the
end of the program. `kill -9`: while a client asks echo every 20 ms. Ships: bytes of the layers that are new after one
line of the generator was changed. Memory: of a process what is resident, of containers the working sets, of all
replicas."""


@dataclass
class Figures:
    """Of one coupling, by round."""

    start: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    memory: list[list[float]] = field(default_factory=list)
    shipped: str = "-"

    def measure(self, deployment: Deployment) -> None:
        """One round. Raises one of PROBLEMS."""
        self.start.append(deployment.started)
        self.memory.append(deployment.memory())
        self.delays += receipt(deployment, NUMBERS)
        self.outages.append(outage(deployment))
        self.stops.append(deployment.stop_echo())

    def cells(self) -> list[str]:
        shown = (self.shown_start, self.shown_receipt, self.shown_stop, self.shown_kill, self.shown_pause)
        return [*(show() if self.stops else "-" for show in shown), self.shipped, self.shown_memory()]

    def shown_start(self) -> str:
        return spread(self.start, "s")

    def shown_receipt(self) -> str:
        return ", ".join(f"{number(percentile(self.delays, percent) * 1000)} ms" for percent in (50, 99))

    def shown_stop(self) -> str:
        dirty = [stop.clean for stop in self.stops].count(False)
        return f"{spread([stop.seconds for stop in self.stops], 's')}, {f'{dirty} not ' if dirty else ''}clean"

    def shown_kill(self) -> str:
        return f"{sum(each.failed for each in self.outages)} of {sum(each.requests for each in self.outages):,}"

    def shown_pause(self) -> str:
        return spread([each.seconds for each in self.outages], "s")

    def shown_memory(self) -> str:
        if not self.memory:
            return "-"
        count = len(self.memory[0])
        middle = statistics.median(sum(each) for each in self.memory) / 2**20
        return f"{number(middle)} MiB" + (f", {count} containers" if count > 1 else "")


ROWS = (
    "start to the first 200",
    "append to receipt, p50, p99",
    "clean stop",
    "`kill -9` of the generator: failed requests",
    "and seconds without numbers",
    "a change of the generator ships",
    "memory",
)


def table(figures: dict[str, Figures]) -> str:
    columns = [["median (range)", *ROWS], *([name, *each.cells()] for name, each in figures.items())]
    return markdown(list(zip(*columns, strict=True)))


def able(wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """The couplings that can run here, and why others cannot."""
    can, why = [], []
    for coupling in wanted:
        reason = next(filter(None, (SITUATIONS[need]() for need in NEEDS.get(coupling, []))), "")
        if reason:
            why.append(f"The column {coupling} is empty: {reason}")
        else:
            can.append(coupling)
    return can, why


def ship(workshop: Workshop, folder: Path, base: str, figures: dict[str, Figures]) -> None:
    tree = changed_tree(folder)
    single = shipment(workshop, ".", tree, base) if "container" in figures else None
    alone = shipment(workshop, "generator", tree, base) if set(figures) - {"process", "container"} else None
    shipped: dict[str, Shipment | None] = {"container": single}
    for coupling, each in figures.items():
        if coupling != "process" and (what := shipped.get(coupling, alone)):
            each.shipped = str(what)


@contextlib.contextmanager
def told(broken: list[str], what: str) -> Iterator[None]:
    """What breaks is told, and the rest goes on."""
    try:
        yield
    except PROBLEMS as problem:
        broken.append(f"{what}: {problem}")
        progress(broken[-1])


def measure_couplings(couplings: Sequence[str], rounds: int, broken: list[str]) -> dict[str, Figures]:
    figures = {coupling: Figures() for coupling in couplings}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workshop = stack.enter_context(Workshop()) if not engine.problem() else None
        image = ""
        if workshop:
            with told(broken, "images"):
                progress("images: built, and built with a change")
                base = engine.base()
                if "container" in figures:
                    image = workshop.build(ROOT, base, "single")
                ship(workshop, folder, base, figures)
        if "process" in figures:
            figures["process"].shipped = f"{number(changed_file() / 1024)} KiB: a file"
        signals = None
        if any("kubernetes" in NEEDS.get(coupling, []) for coupling in couplings):
            signals = stack.enter_context(cluster.signals())
        launcher = Launcher(folder, workshop, image, signals)
        for turn in range(rounds):
            for coupling, each in figures.items():
                progress(f"{coupling}: round {turn + 1} of {rounds}")
                with told(broken, coupling), launcher.launch(coupling) as deployment:
                    each.measure(deployment)
    return figures


def measure(wanted: Sequence[str], rounds: int) -> tuple[str, list[str]]:
    """What is to be printed, and what broke."""
    broken: list[str] = []
    described = machine(f"load {os.getloadavg()[0]:.1f} before")
    couplings, notes = able(list(dict.fromkeys(wanted)))
    parts = [*notes]
    with told(broken, "couplings"):
        if couplings:
            figures = measure_couplings(couplings, rounds, broken)
            parts += [table({each: figures.get(each, Figures()) for each in dict.fromkeys(wanted)}), NOTES]
    return "\n\n".join([*parts, f"{described}; rounds: {rounds}"]), broken


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/run couplings", description=__doc__)
    parser.add_argument("--rounds", type=natural, default=3, help="how often all is measured (default: %(default)s)")
    parser.add_argument("--coupling", action="append", choices=list(COUPLINGS), help="only this one; may be repeated")
    parser.add_argument("--context", default="", help="the Kubernetes cluster, by kubectl's name [the current one]")
    parser.add_argument("--second-context", default="", help="another one, for a federation")
    parser.add_argument("--edge", metavar="HOST", default="", help="the address of the first in the second [its node]")
    arguments = parser.parse_args(argv)
    cluster.context, cluster.second, cluster.edge = arguments.context, arguments.second_context, arguments.edge
    signal.signal(signal.SIGTERM, end)
    try:
        text, broken = measure(arguments.coupling or list(COUPLINGS), arguments.rounds)
    except KeyboardInterrupt:
        return 130
    print(text)
    for problem in broken:
        progress(f"bench/run couplings: {problem}")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
