"""Measure start, delay, stop, failed requests, memory and upload size of each coupling of the two programs."""

import argparse
import contextlib
import os
import signal
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from command import exit_on_signal, positive_integer
from containers import DockerSession
from coupling_deployments import ERRORS, Deployment, Launcher, Outage, Stop, measure_outage, receipt_delays
from report import machine, markdown, number, percentile, progress, spread
from shipping import ROOT, changed_file_size, changed_tree, measure_upload
from support import cluster, compose, engine
from support.couplings import COUPLINGS, NEEDS

NUMBERS_PER_ROUND = 250  # whose delay from append to receipt is measured
UNAVAILABLE_REASONS: dict[str, Callable[[], str]] = {  # each returns an empty string if the need is met
    "docker": engine.problem,
    "compose": compose.problem,
    "kubernetes": cluster.problem,
    "sidecar": cluster.sidecar_problem,
    "federation": cluster.federation_problem,
}
NOTES = """\
Start: from `./app.sh`, `docker run`, `docker compose up` (which waits for the generator's first health check) or
`kubectl apply` to the first response of /data with status 200. The client sends at least a hundred requests per
second; it reaches a pod by the pod's own address, and the other Kubernetes couplings through their Service.
Append to receipt: one client watches the generator's file and another follows the coupling's echo. The delay is the
difference of their clocks. The generator appends a number every 20 ms.
Stop: from SIGTERM, `docker stop`, `docker compose stop` or `kubectl delete pod` of echo to the end of the program.
`kill -9`: meanwhile a client sends echo a request every 20 ms.
Upload: the bytes of the layers that are new after a change of one line of the generator.
Memory: resident memory of processes, working sets of containers, summed over all replicas."""


@dataclass
class Figures:
    """The measurements of one coupling in all rounds. Times are in seconds, memory is in bytes per container."""

    starts: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    memory: list[list[float]] = field(default_factory=list)
    upload: str = "-"

    def measure(self, deployment: Deployment) -> None:
        """Measure one round. Raises one of ERRORS."""
        self.starts.append(deployment.start_seconds)
        self.memory.append(deployment.memory())
        self.delays += receipt_delays(deployment, NUMBERS_PER_ROUND)
        self.outages.append(measure_outage(deployment))
        self.stops.append(deployment.stop_echo())

    def cells(self) -> list[str]:
        """Return the cells of this coupling's column, in the order of ROWS."""
        cells = (self.start_cell, self.receipt_cell, self.stop_cell, self.failed_requests_cell, self.pause_cell)
        return [*(cell() if self.stops else "-" for cell in cells), self.upload, self.memory_cell()]

    def start_cell(self) -> str:
        return spread(self.starts, "s")

    def receipt_cell(self) -> str:
        return ", ".join(f"{number(percentile(self.delays, percent) * 1000)} ms" for percent in (50, 99))

    def stop_cell(self) -> str:
        unclean = [stop.clean for stop in self.stops].count(False)
        return f"{spread([stop.seconds for stop in self.stops], 's')}, {f'{unclean} not ' if unclean else ''}clean"

    def failed_requests_cell(self) -> str:
        return f"{sum(each.failed for each in self.outages)} of {sum(each.requests for each in self.outages):,}"

    def pause_cell(self) -> str:
        return spread([each.seconds for each in self.outages], "s")

    def memory_cell(self) -> str:
        if not self.memory:
            return "-"
        count = len(self.memory[0])
        median = statistics.median(sum(each) for each in self.memory) / 2**20
        return f"{number(median)} MiB" + (f", {count} containers" if count > 1 else "")


ROWS = (
    "start to the first 200",
    "append to receipt, p50, p99",
    "stop",
    "`kill -9` of the generator: failed requests",
    "`kill -9` of the generator: time without numbers",
    "upload after a change of the generator",
    "memory",
)


def table(figures: dict[str, Figures]) -> str:
    """Format a table with a column for each coupling."""
    columns = [["median (range)", *ROWS], *([name, *each.cells()] for name, each in figures.items())]
    return markdown(list(zip(*columns, strict=True)))


def split_by_availability(wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the couplings that can run here, and for each other one a note that says why it cannot."""
    available, notes = [], []
    for coupling in wanted:
        reason = next(filter(None, (UNAVAILABLE_REASONS[need]() for need in NEEDS.get(coupling, []))), "")
        if reason:
            notes.append(f"The column {coupling} is empty: {reason}")
        else:
            available.append(coupling)
    return available, notes


def measure_uploads(session: DockerSession, folder: Path, base: str, figures: dict[str, Figures]) -> None:
    """Measure the upload after a change of the generator, for the single image and for the generator's own image."""
    tree = changed_tree(folder)
    if "container" in figures:
        figures["container"].upload = str(measure_upload(session, ".", tree, base))
    if with_two_images := set(figures) - {"process", "container"}:
        upload = str(measure_upload(session, "generator", tree, base))
        for coupling in with_two_images:
            figures[coupling].upload = upload


@contextlib.contextmanager
def reporting_errors(errors: list[str], step: str) -> Iterator[None]:
    """Report an error of this step, and let the other steps continue."""
    try:
        yield
    except ERRORS as error:
        errors.append(f"{step}: {error}")
        progress(errors[-1])


def measure_couplings(couplings: Sequence[str], rounds: int, errors: list[str]) -> dict[str, Figures]:
    """Measure these couplings in turn, round by round. Errors are appended to `errors`."""
    figures = {coupling: Figures() for coupling in couplings}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        session = stack.enter_context(DockerSession()) if not engine.problem() else None
        image = ""
        if session:
            with reporting_errors(errors, "images"):
                progress("building the images, with and without a change of the generator")
                base = engine.base()
                if "container" in figures:
                    image = session.build(ROOT, base, "single")
                measure_uploads(session, folder, base, figures)
        if "process" in figures:
            figures["process"].upload = f"{number(changed_file_size() / 1024)} KiB: a file"
        signals = None
        if any("kubernetes" in NEEDS.get(coupling, []) for coupling in couplings):
            signals = stack.enter_context(cluster.signals())
        launcher = Launcher(folder, session, image, signals)
        for turn in range(rounds):
            for coupling, each in figures.items():
                progress(f"{coupling}: round {turn + 1} of {rounds}")
                with reporting_errors(errors, coupling), launcher.launch(coupling) as deployment:
                    each.measure(deployment)
    return figures


def measure(wanted: Sequence[str], rounds: int) -> tuple[str, list[str]]:
    """Return the text to print, and the errors."""
    errors: list[str] = []
    described = machine(f"load {os.getloadavg()[0]:.1f} before")
    couplings, notes = split_by_availability(list(dict.fromkeys(wanted)))
    parts = notes
    with reporting_errors(errors, "couplings"):
        if couplings:
            figures = measure_couplings(couplings, rounds, errors)
            parts += [table({each: figures.get(each, Figures()) for each in dict.fromkeys(wanted)}), NOTES]
    return "\n\n".join([*parts, f"{described}; rounds: {rounds}"]), errors


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/run couplings", description=__doc__)
    parser.add_argument("--rounds", type=positive_integer, default=3, help="rounds (default: %(default)s)")
    parser.add_argument(
        "--coupling", action="append", choices=list(COUPLINGS), help="measure only this coupling; may be repeated"
    )
    parser.add_argument("--context", default="", help="kubectl's name of the cluster (default: the current context)")
    parser.add_argument("--second-context", default="", help="kubectl's name of a second cluster, for federation")
    parser.add_argument(
        "--edge",
        metavar="HOST",
        default="",
        help="host at which the second cluster reaches the first (default: the address of a node)",
    )
    arguments = parser.parse_args(argv)
    cluster.context, cluster.second, cluster.edge = arguments.context, arguments.second_context, arguments.edge
    signal.signal(signal.SIGTERM, exit_on_signal)
    try:
        text, errors = measure(arguments.coupling or list(COUPLINGS), arguments.rounds)
    except KeyboardInterrupt:
        return 130
    print(text)
    for error in errors:
        progress(f"bench/run couplings: {error}")
    return 1 if errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
