"""The application launched in each coupling by way of tests/, and what is done to it; nothing of it is left."""

import contextlib
import itertools
import json
import os
import re
import secrets
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from containers import DOCKER, Container, Failure, Workshop, answers, docker
from lifecycle import child, children
from report import progress
from support import ROOT, Program, cluster, compose, free_port, running, wait_until
from support.couplings import app_sh, federate

CLIENT = Path(__file__).with_name("coupling_client.py")
INTERVAL = "0.02"  # seconds from one number to the next
BEFORE_ALL = ("0.01", "0.3")  # seconds from one request to the next before the first is answered, and patience
MANIFESTS = {  # by coupling, where the file is to be seen: pod's name, container, path; and the pod that has echo
    "pod": ("appcoup", "echo", "/tmp/in/data", "appcoup"),
    "pod-sidecar": ("appcoup", "echo", "/tmp/in/data", "appcoup"),
    "volume": ("echo", "echo", "/data/data", "echo"),
    "services": ("generator", "adapter", "/data/data", "echo"),
    "federation": ("generator", "adapter", "/data/data", "echo"),
}
# The working set as the kubelet counts it, of version 1 and 2 control groups.
WORKING_SET = """cd /sys/fs/cgroup
if [ -f memory.current ]; then cat memory.current; grep ^inactive_file memory.stat
else cat memory/memory.usage_in_bytes; grep ^total_inactive_file memory/memory.stat; fi"""


@dataclass(frozen=True)
class Stop:
    seconds: float
    clean: bool


class Deployment(Protocol):
    """The application in one coupling, as it runs."""

    started: float  # seconds until the first 200

    def memory(self) -> list[float]:
        """Bytes, by container."""

    def watch(self) -> AbstractContextManager[Program]:
        """The client at the generator's file."""

    def look(self, *what: str) -> AbstractContextManager[Program]:
        """The client where users are; `URL` is echo's address there."""

    def kill_generator(self) -> None: ...

    def stop_echo(self) -> Stop: ...


def here(*arguments: str) -> AbstractContextManager[Program]:
    return running([sys.executable, CLIENT, *arguments])


def working_set(said: str) -> float:
    """Raises Failure."""
    match = re.fullmatch(r"(\d+)\s+\S+ (\d+)", said.strip())
    if not match:
        raise Failure(f"no working set in {said!r}")
    return float(match[1]) - float(match[2])


class ProcessDeployment:
    """./app.sh on this machine."""

    def __init__(self, app: Program, folder: Path, port: int, began: float) -> None:
        self.app, self.folder, self.port = app, folder, port
        while not answers(port):
            if time.perf_counter() - began > 20 or app.process.poll() is not None:
                raise Failure(f"no answer from app.sh:\n{app.output}")
            time.sleep(0.002)
        self.started = time.perf_counter() - began

    def memory(self) -> list[float]:
        supervisord = self.app.pid
        return [float(sum(map(resident, [supervisord, *children(supervisord)])))]

    def watch(self) -> AbstractContextManager[Program]:
        return here("watch", str(self.folder / "data"))

    def look(self, *what: str) -> AbstractContextManager[Program]:
        return here(*with_address(what, f"http://127.0.0.1:{self.port}/data"))

    def kill_generator(self) -> None:
        os.kill(child(self.app.pid, "generator"), signal.SIGKILL)

    def stop_echo(self) -> Stop:
        began = time.perf_counter()
        self.app.signal(signal.SIGTERM)
        status = self.app.process.wait(20)
        return Stop(time.perf_counter() - began, status == 0)


def resident(pid: int) -> int:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) * 1024 if match else 0


def with_address(words: Sequence[str], address: str) -> list[str]:
    return [address if word == "URL" else word for word in words]


class DockerDeployment:
    """One container of the single image."""

    def __init__(self, container: Container) -> None:
        self.container, self.started = container, container.started

    def memory(self) -> list[float]:
        return [working_set(docker("exec", self.container.id, "sh", "-c", WORKING_SET))]

    def watch(self) -> AbstractContextManager[Program]:
        client = ["python", "-c", CLIENT.read_text(), "watch", "/data/data"]
        return running([DOCKER, "exec", self.container.id, *client])

    def look(self, *what: str) -> AbstractContextManager[Program]:
        return here(*with_address(what, f"http://127.0.0.1:{self.container.port}/data"))

    def kill_generator(self) -> None:
        docker("exec", self.container.id, "pkill", "-KILL", "-f", "python -m generator")

    def stop_echo(self) -> Stop:
        began = time.perf_counter()
        docker("stop", self.container.id)
        return Stop(time.perf_counter() - began, self.container.inspect(".State.ExitCode") == "0")


class ComposeDeployment:
    """The generator and echo of compose.yaml; their images are built already."""

    def __init__(self, project: compose.Project) -> None:
        self.project = project
        began = time.perf_counter()
        project.run("up", "--detach", "echo")
        wait_until(lambda: answers(project.port), every=0.002)
        self.started = time.perf_counter() - began

    def memory(self) -> list[float]:
        ids = [self.project.container(service).id for service in ("generator", "echo")]
        return [working_set(docker("exec", id, "sh", "-c", WORKING_SET)) for id in ids]

    def watch(self) -> AbstractContextManager[Program]:
        client = ["python", "-c", CLIENT.read_text(), "watch", "/data/data"]
        return running([DOCKER, "exec", self.project.container("echo").id, *client])

    def look(self, *what: str) -> AbstractContextManager[Program]:
        return here(*with_address(what, f"http://127.0.0.1:{self.project.port}/data"))

    def kill_generator(self) -> None:
        self.project.kill("generator")

    def stop_echo(self) -> Stop:
        began = time.perf_counter()
        self.project.run("stop", "echo")
        return Stop(time.perf_counter() - began, self.project.inspect("echo", "{{.State.ExitCode}}") == "0")


class KubernetesDeployment:
    """k8s/COUPLING.yaml in one or two namespaces, and a pod beside it for the client."""

    def __init__(
        self,
        coupling: str,
        spaces: Sequence[cluster.Namespace],
        signals: cluster.Signals,
        ask_for: Callable[[], object],
    ) -> None:
        self.spaces, self.signals = spaces, signals
        self.near, self.far = spaces[0], spaces[-1]
        self.watched, self.container, self.path, self.echo = MANIFESTS[coupling]
        self.far.apply(cluster.helper("bench", "sleep", "infinity"))
        with self.look("ask", "URL", *BEFORE_ALL) as asking:
            asking.said("^failed ")
            began = time.time_ns()
            ask_for()
            self.started = (int(asking.said(r"^ok (\d+)", within=90)[1]) - began) / 1e9
        for space in spaces:
            for each in space.get("deployments")["items"]:
                space.ready(f"deployment/{each['metadata']['name']}")
            for pod in self.pods(space):
                space.ready(f"pod/{pod['metadata']['name']}")

    def pods(self, space: cluster.Namespace) -> list[cluster.Object]:
        found: list[cluster.Object] = space.get("pods", "--selector=app.kubernetes.io/part-of=appcoup")["items"]
        return found

    def memory(self) -> list[float]:
        found = []
        for space in self.spaces:
            for pod in self.pods(space):
                for container in cluster.containers(pod["spec"]):
                    where = ("exec", pod["metadata"]["name"], f"--container={container['name']}")
                    found.append(working_set(space.kubectl(*where, "--", "sh", "-c", WORKING_SET)))
        return found

    def watch(self) -> AbstractContextManager[Program]:
        pod = self.near.pods(self.watched)[0]["metadata"]["name"]
        client = ["python", "-c", CLIENT.read_text(), "watch", self.path]
        return running(self.near.command("exec", pod, f"--container={self.container}", "--", *client))

    def look(self, *what: str) -> AbstractContextManager[Program]:
        client = ["python", "-c", CLIENT.read_text(), *with_address(what, "http://echo:8000/data")]
        return running(self.far.command("exec", "bench", "--", *client))

    def kill_generator(self) -> None:
        (pod,) = [each for each in self.pods(self.near) if "generator" in names(each)]
        label = pod["metadata"]["labels"]["app.kubernetes.io/name"]
        self.signals.send(self.near, label, "generator", signal.SIGKILL)

    def stop_echo(self) -> Stop:
        """Until its log ends, which is when its program does."""
        pod = self.far.pods(self.echo)[0]["metadata"]["name"]
        with (
            self.far.watch("pod", pod) as states,
            self.far.log(pod, "echo") as log,
        ):
            log.said("^serving ")
            began = time.perf_counter()
            self.far.kubectl("delete", "pod", pod, "--wait=false")
            log.ended()
            seconds = time.perf_counter() - began
            told = [each for line in states.lines for each in cluster.statuses(json.loads(line))]
        codes = {each["state"]["terminated"]["exitCode"] for each in told if "terminated" in each["state"]}
        return Stop(seconds, codes <= {0} and bool(re.search("^stopped: ", log.output, re.MULTILINE)))


def names(pod: cluster.Object) -> list[str]:
    return [each["name"] for each in cluster.containers(pod["spec"])]


@dataclass(frozen=True)
class Launcher:
    """What the couplings stand on: a folder for files, the single image, who sends signals."""

    folder: Path
    workshop: Workshop | None
    image: str
    signals: cluster.Signals | None

    @contextlib.contextmanager
    def launch(self, coupling: str) -> Iterator[Deployment]:
        if coupling == "process":
            with self._process() as local:
                yield local
        elif coupling == "container":
            assert self.workshop
            container = self.workshop.start(self.image, "--env", f"GENERATOR_INTERVAL={INTERVAL}")
            try:
                yield DockerDeployment(container)
            finally:
                container.remove()
        elif coupling == "compose":
            project = compose.Project(ROOT, {"GENERATOR_INTERVAL": INTERVAL})
            try:
                project.run("build", within=compose.BUILD_SECONDS)
                yield ComposeDeployment(project)
            finally:
                project.remove()
        else:
            with self._kubernetes(coupling) as clustered:
                yield clustered

    @contextlib.contextmanager
    def _process(self) -> Iterator[ProcessDeployment]:
        folder, port = self.folder / secrets.token_hex(4), free_port()
        folder.mkdir()
        began = time.perf_counter()
        with app_sh(folder, port, INTERVAL) as app:
            yield ProcessDeployment(app, folder, port, began)

    @contextlib.contextmanager
    def _kubernetes(self, coupling: str) -> Iterator[KubernetesDeployment]:
        assert self.signals
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(cluster.namespace())
            if coupling == "federation":
                second = stack.enter_context(cluster.namespace(cluster.second))
                ask = lambda: federate(first, second, self.folder, INTERVAL)  # noqa: E731
                yield KubernetesDeployment(coupling, [first, second], self.signals, ask)
                return
            if coupling in ("pod", "pod-sidecar"):
                first.ask_for(ADDRESS)
            things = cluster.with_settings(cluster.manifest(coupling), {"GENERATOR_INTERVAL": INTERVAL})
            yield KubernetesDeployment(coupling, [first], self.signals, lambda: first.ask_for(*things))


# A name for the pod's own address, which is not known before it is there. Not what a Service commonly is: that would
# not send anything to a pod of which one container is away.
ADDRESS: cluster.Object = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "echo"},
    "spec": {
        "publishNotReadyAddresses": True,
        "ports": [{"port": 8000}],
        "selector": {"app.kubernetes.io/name": "appcoup"},
    },
}


@dataclass(frozen=True)
class Outage:
    """What a kill did to echo: requests, those that failed, seconds from a number to the next."""

    requests: int
    failed: int
    seconds: float


def numbers(client: Program) -> dict[int, int]:
    """When each came, by where it ends in the file."""
    found = re.findall(r"^number (\d+) (\d+)$", client.output, re.MULTILINE)
    return {int(offset): int(when) for offset, when in found}


def receipt(deployment: Deployment, count: int) -> list[float]:
    """Seconds from each number's coming to the file to its coming to a follower of echo. Raises Failure."""
    with deployment.watch() as source, deployment.look("follow", "URL") as outer:
        source.said("^ready$")
        outer.said("^ready$")
        time.sleep(0.5)
        first = len(numbers(source))
        wait_until(lambda: len(numbers(source)) > first + count, 60, every=0.2)
        written = list(numbers(source))[first : first + count]
        wait_until(lambda: written[-1] in numbers(outer), every=0.05)
        came, received = numbers(source), numbers(outer)
    if missing := [offset for offset in written if offset not in received]:
        raise Failure(f"{len(missing)} of {count} numbers did not come")
    return [(received[offset] - came[offset]) / 1e9 for offset in written]


def outage(deployment: Deployment) -> Outage:
    """The generator is killed while somebody follows echo and somebody asks it again and again."""
    with deployment.look("follow", "URL") as follower, deployment.look("ask", "URL", "0.02", "2") as asking:
        asking.said("^ok ")
        wait_until(lambda: len(numbers(follower)) >= 25)
        killed = time.time_ns()
        deployment.kill_generator()
        dead = len(numbers(follower))
        wait_until(lambda: len(numbers(follower)) >= dead + 50, 60, every=0.05)
        came = sorted(numbers(follower).values())
        asked = asking.output
    pauses = [late - early for early, late in itertools.pairwise(came) if late >= killed]
    failed = re.findall(r"^failed \d+ (.*)", asked, re.MULTILINE)
    for why in failed:
        progress(f"a request failed: {why}")
    return Outage(len(failed) + len(re.findall("^ok ", asked, re.MULTILINE)), len(failed), max(pauses) / 1e9)


PROBLEMS = (Failure, AssertionError, OSError, subprocess.SubprocessError, statistics.StatisticsError)
