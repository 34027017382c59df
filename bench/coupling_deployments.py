"""Deploy the application in each coupling with the helpers of tests/, measure it, and remove it afterwards."""

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

from command import Failure
from containers import DOCKER, Container, DockerSession, docker, serves_data
from lifecycle import child, children
from report import progress
from support import ROOT, Program, cluster, compose, free_port, running, wait_until
from support.couplings import app_sh, federate

CLIENT = Path(__file__).with_name("coupling_client.py")
GENERATOR_INTERVAL = "0.02"  # seconds
START_REQUESTS = ("0.01", "0.3")  # interval and timeout of requests while the deployment starts, in seconds
# The pod, the container and the path at which the generator's file is visible, and the pod that runs echo.
FILE_AND_ECHO = {
    "pod": ("appcoup", "echo", "/tmp/in/data", "appcoup"),
    "pod-sidecar": ("appcoup", "echo", "/tmp/in/data", "appcoup"),
    "volume": ("echo", "echo", "/data/data", "echo"),
    "services": ("generator", "adapter", "/data/data", "echo"),
    "federation": ("generator", "adapter", "/data/data", "echo"),
}
# Print what the kubelet calculates the working set from, for control groups of version 1 and 2.
WORKING_SET_COMMAND = """cd /sys/fs/cgroup
if [ -f memory.current ]; then cat memory.current; grep ^inactive_file memory.stat
else cat memory/memory.usage_in_bytes; grep ^total_inactive_file memory/memory.stat; fi"""


@dataclass(frozen=True)
class Stop:
    """How long a stop took, and whether it ended with status 0."""

    seconds: float
    clean: bool


class Deployment(Protocol):
    """The running application in one coupling."""

    start_seconds: float  # until the first response with status 200

    def memory(self) -> list[float]:
        """Return the memory of each container in bytes."""

    def watch_file(self) -> AbstractContextManager[Program]:
        """Run `coupling_client.py watch` at the generator's file."""

    def client(self, *arguments: str) -> AbstractContextManager[Program]:
        """Run coupling_client.py outside of the deployment. The argument `URL` becomes the address of echo's /data."""

    def kill_generator(self) -> None:
        """Kill the generator with SIGKILL."""

    def stop_echo(self) -> Stop:
        """Stop echo with SIGTERM and wait until it has ended."""


def local_client(*arguments: str) -> AbstractContextManager[Program]:
    """Run coupling_client.py on this machine."""
    return running([sys.executable, CLIENT, *arguments])


def working_set(output: str) -> float:
    """Return the working set in bytes from the output of WORKING_SET_COMMAND. Raises Failure."""
    match = re.fullmatch(r"(\d+)\s+\S+ (\d+)", output.strip())
    if not match:
        raise Failure(f"no working set in {output!r}")
    return float(match[1]) - float(match[2])


class ProcessDeployment:
    """Processes on this machine, started by ./app.sh."""

    def __init__(self, app: Program, folder: Path, port: int, began: float) -> None:
        self.app, self.folder, self.port = app, folder, port
        while not serves_data(port):
            if time.perf_counter() - began > 20 or app.process.poll() is not None:
                raise Failure(f"no response from app.sh:\n{app.output}")
            time.sleep(0.002)
        self.start_seconds = time.perf_counter() - began

    def memory(self) -> list[float]:
        supervisord = self.app.pid
        return [float(sum(map(resident_bytes, [supervisord, *children(supervisord)])))]

    def watch_file(self) -> AbstractContextManager[Program]:
        return local_client("watch", str(self.folder / "data"))

    def client(self, *arguments: str) -> AbstractContextManager[Program]:
        return local_client(*with_address(arguments, f"http://127.0.0.1:{self.port}/data"))

    def kill_generator(self) -> None:
        os.kill(child(self.app.pid, "generator"), signal.SIGKILL)

    def stop_echo(self) -> Stop:
        began = time.perf_counter()
        self.app.signal(signal.SIGTERM)
        status = self.app.process.wait(20)
        return Stop(time.perf_counter() - began, status == 0)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) * 1024 if match else 0


def with_address(arguments: Sequence[str], address: str) -> list[str]:
    """Replace the argument `URL` by the address."""
    return [address if argument == "URL" else argument for argument in arguments]


class DockerDeployment:
    """One container of the single image."""

    def __init__(self, container: Container) -> None:
        self.container, self.start_seconds = container, container.start_seconds

    def memory(self) -> list[float]:
        return [working_set(docker("exec", self.container.id, "sh", "-c", WORKING_SET_COMMAND))]

    def watch_file(self) -> AbstractContextManager[Program]:
        client = ["python", "-c", CLIENT.read_text(), "watch", "/data/data"]
        return running([DOCKER, "exec", self.container.id, *client])

    def client(self, *arguments: str) -> AbstractContextManager[Program]:
        return local_client(*with_address(arguments, f"http://127.0.0.1:{self.container.port}/data"))

    def kill_generator(self) -> None:
        docker("exec", self.container.id, "pkill", "-KILL", "-f", "python -m generator")

    def stop_echo(self) -> Stop:
        began = time.perf_counter()
        docker("stop", self.container.id)
        return Stop(time.perf_counter() - began, self.container.inspect(".State.ExitCode") == "0")


class ComposeDeployment:
    """The generator and echo of compose.yaml. Their images must have been built."""

    def __init__(self, project: compose.Project) -> None:
        self.project = project
        began = time.perf_counter()
        project.run("up", "--detach", "echo")
        wait_until(lambda: serves_data(project.port), every=0.002)
        self.start_seconds = time.perf_counter() - began

    def memory(self) -> list[float]:
        ids = [self.project.container(service).id for service in ("generator", "echo")]
        return [working_set(docker("exec", id, "sh", "-c", WORKING_SET_COMMAND)) for id in ids]

    def watch_file(self) -> AbstractContextManager[Program]:
        client = ["python", "-c", CLIENT.read_text(), "watch", "/data/data"]
        return running([DOCKER, "exec", self.project.container("echo").id, *client])

    def client(self, *arguments: str) -> AbstractContextManager[Program]:
        return local_client(*with_address(arguments, f"http://127.0.0.1:{self.project.port}/data"))

    def kill_generator(self) -> None:
        self.project.kill("generator")

    def stop_echo(self) -> Stop:
        began = time.perf_counter()
        self.project.run("stop", "echo")
        return Stop(time.perf_counter() - began, self.project.inspect("echo", "{{.State.ExitCode}}") == "0")


class KubernetesDeployment:
    """k8s/COUPLING.yaml in one or two namespaces. An additional pod runs the client."""

    def __init__(
        self,
        coupling: str,
        spaces: Sequence[cluster.Namespace],
        signals: cluster.Signals,
        create: Callable[[], object],
    ) -> None:
        """Create the deployment with `create`, and wait until all of it is ready."""
        self.spaces, self.signals = spaces, signals
        self.first_space, self.last_space = spaces[0], spaces[-1]
        self.watched, self.container, self.path, self.echo = FILE_AND_ECHO[coupling]
        self.last_space.apply(cluster.helper("bench", "sleep", "infinity"))
        with self.client("request", "URL", *START_REQUESTS) as requests:
            requests.wait_for_log("^failed ")
            began = time.time_ns()
            create()
            self.start_seconds = (int(requests.wait_for_log(r"^ok (\d+)", within=90)[1]) - began) / 1e9
        for space in spaces:
            for each in space.get("deployments")["items"]:
                space.ready(f"deployment/{each['metadata']['name']}")
            for pod in self.application_pods(space):
                space.ready(f"pod/{pod['metadata']['name']}")

    def application_pods(self, space: cluster.Namespace) -> list[cluster.Object]:
        """Return the pods of the application, without the client's."""
        pods: list[cluster.Object] = space.get("pods", "--selector=app.kubernetes.io/part-of=appcoup")["items"]
        return pods

    def memory(self) -> list[float]:
        sizes = []
        for space in self.spaces:
            for pod in self.application_pods(space):
                for container in cluster.containers(pod["spec"]):
                    exec_in = ("exec", pod["metadata"]["name"], f"--container={container['name']}")
                    sizes.append(working_set(space.kubectl(*exec_in, "--", "sh", "-c", WORKING_SET_COMMAND)))
        return sizes

    def watch_file(self) -> AbstractContextManager[Program]:
        pod = self.first_space.pods(self.watched)[0]["metadata"]["name"]
        client = ["python", "-c", CLIENT.read_text(), "watch", self.path]
        return running(self.first_space.command("exec", pod, f"--container={self.container}", "--", *client))

    def client(self, *arguments: str) -> AbstractContextManager[Program]:
        client = ["python", "-c", CLIENT.read_text(), *with_address(arguments, "http://echo:8000/data")]
        return running(self.last_space.command("exec", "bench", "--", *client))

    def kill_generator(self) -> None:
        (pod,) = [each for each in self.application_pods(self.first_space) if "generator" in container_names(each)]
        label = pod["metadata"]["labels"]["app.kubernetes.io/name"]
        self.signals.send(self.first_space, label, "generator", signal.SIGKILL)

    def stop_echo(self) -> Stop:
        """Delete echo's pod and wait until its log ends, because the log ends with the program."""
        pod = self.last_space.pods(self.echo)[0]["metadata"]["name"]
        with (
            self.last_space.watch("pod", pod) as states,
            self.last_space.log(pod, "echo") as log,
        ):
            log.wait_for_log("^serving ")
            began = time.perf_counter()
            self.last_space.kubectl("delete", "pod", pod, "--wait=false")
            log.ended()
            seconds = time.perf_counter() - began
            statuses = [status for line in states.lines for status in cluster.statuses(json.loads(line))]
        codes = {status["state"]["terminated"]["exitCode"] for status in statuses if "terminated" in status["state"]}
        return Stop(seconds, codes <= {0} and bool(re.search("^stopped: ", log.output, re.MULTILINE)))


def container_names(pod: cluster.Object) -> list[str]:
    return [container["name"] for container in cluster.containers(pod["spec"])]


@dataclass(frozen=True)
class Launcher:
    """Deploys the application, with what the couplings need for it.

    `image` is the tag of the single image. `session` and `signals` are None where no coupling needs them.
    """

    folder: Path
    session: DockerSession | None
    image: str
    signals: cluster.Signals | None

    @contextlib.contextmanager
    def launch(self, coupling: str) -> Iterator[Deployment]:
        """Deploy the application in this coupling, and remove it at the end."""
        if coupling == "process":
            with self._process() as local:
                yield local
        elif coupling == "container":
            assert self.session
            container = self.session.start(self.image, "--env", f"GENERATOR_INTERVAL={GENERATOR_INTERVAL}")
            try:
                yield DockerDeployment(container)
            finally:
                container.remove()
        elif coupling == "compose":
            project = compose.Project(ROOT, {"GENERATOR_INTERVAL": GENERATOR_INTERVAL})
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
        with app_sh(folder, port, GENERATOR_INTERVAL) as app:
            yield ProcessDeployment(app, folder, port, began)

    @contextlib.contextmanager
    def _kubernetes(self, coupling: str) -> Iterator[KubernetesDeployment]:
        assert self.signals
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(cluster.namespace())
            if coupling == "federation":
                second = stack.enter_context(cluster.namespace(cluster.second))
                create = lambda: federate(first, second, self.folder, GENERATOR_INTERVAL)  # noqa: E731
                yield KubernetesDeployment(coupling, [first, second], self.signals, create)
                return
            if coupling in ("pod", "pod-sidecar"):
                first.ask_for(POD_ADDRESS)
            objects = cluster.with_settings(cluster.manifest(coupling), {"GENERATOR_INTERVAL": GENERATOR_INTERVAL})
            yield KubernetesDeployment(coupling, [first], self.signals, lambda: first.ask_for(*objects))


# This Service gives the pod's address a name before the pod exists. It also sends requests to a pod that is not ready,
# because otherwise echo could not be reached while the generator's container is restarted.
POD_ADDRESS: cluster.Object = {
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
    """How echo served while the generator was killed and restarted."""

    requests: int
    failed: int  # requests
    seconds: float  # the longest pause between two numbers


def number_times(client: Program) -> dict[int, int]:
    """Return when the client saw each number, in nanoseconds, by the number's offset."""
    found = re.findall(r"^number (\d+) (\d+)$", client.output, re.MULTILINE)
    return {int(offset): int(seen) for offset, seen in found}


def receipt_delays(deployment: Deployment, count: int) -> list[float]:
    """Return the seconds from the append of each number to its receipt by a follower of echo.

    Raises Failure if the follower misses a number.
    """
    with deployment.watch_file() as watcher, deployment.client("follow", "URL") as follower:
        watcher.wait_for_log("^ready$")
        follower.wait_for_log("^ready$")
        time.sleep(0.5)
        first = len(number_times(watcher))
        wait_until(lambda: len(number_times(watcher)) > first + count, 60, every=0.2)
        offsets = list(number_times(watcher))[first : first + count]
        wait_until(lambda: offsets[-1] in number_times(follower), every=0.05)
        appended, received = number_times(watcher), number_times(follower)
    if missing := [offset for offset in offsets if offset not in received]:
        raise Failure(f"the follower received {count - len(missing)} of {count} numbers")
    return [(received[offset] - appended[offset]) / 1e9 for offset in offsets]


def measure_outage(deployment: Deployment) -> Outage:
    """Kill the generator while one client follows echo and another sends requests."""
    with deployment.client("follow", "URL") as follower, deployment.client("request", "URL", "0.02", "2") as requests:
        requests.wait_for_log("^ok ")
        wait_until(lambda: len(number_times(follower)) >= 25)
        killed = time.time_ns()
        deployment.kill_generator()
        count = len(number_times(follower))
        wait_until(lambda: len(number_times(follower)) >= count + 50, 60, every=0.05)
        received = sorted(number_times(follower).values())
        results = requests.output
    pauses = [late - early for early, late in itertools.pairwise(received) if late >= killed]
    failed = re.findall(r"^failed \d+ (.*)", results, re.MULTILINE)
    for reason in failed:
        progress(f"a request failed: {reason}")
    return Outage(len(failed) + len(re.findall("^ok ", results, re.MULTILINE)), len(failed), max(pauses) / 1e9)


ERRORS = (Failure, AssertionError, OSError, subprocess.SubprocessError, statistics.StatisticsError)
