"""A real Kubernetes cluster, used through kubectl alone, and namespaces that are always deleted."""

import contextlib
import functools
import json
import re
import secrets
import shlex
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from support import ROOT, Program, free_port, running, wait_until

Object = dict[str, Any]

POLL = 0.2  # seconds between two requests to the cluster
RESTRICTED: Object = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

SIDECARS = (1, 29)  # the first version that runs them by default
KUBECTL = (1, 32)  # the port-forward of older versions hangs once a client has closed a stream

context = ""  # kubectl's name of the cluster; empty: the current context
second = ""  # kubectl's name of the second cluster of a federation; empty: there is none
edge = ""  # the first cluster's address in the second; empty: the address of a node
registry = ""  # the registry of the two images, ending with /; empty: the nodes have the images
link = ""  # a command that takes `cut` or `mend`, for the link between the clusters; empty: there is none


def command(*args: str, on: str = "") -> list[str]:
    """Return a kubectl command for the context `on`, or for `context`."""
    return ["kubectl", *([f"--context={on or context}"] if on or context else []), *args]


def kubectl(*args: str, on: str = "", stdin: str = "", within: float = 60) -> str:
    """Run a kubectl command and return its stdout. Raises AssertionError with its stderr if it fails."""
    done = subprocess.run(command(*args, on=on), input=stdin, capture_output=True, text=True, timeout=within)
    assert done.returncode == 0, f"kubectl {' '.join(args)}: {done.stderr}"
    return done.stdout.strip()


@functools.cache
def problem(on: str = "") -> str:
    """Return why nothing can be deployed to a cluster, or an empty string."""
    try:
        version = json.loads(kubectl("version", "--client", "--output=json"))["clientVersion"]["gitVersion"]
        if numbers(version) < KUBECTL:
            return f"kubectl {version} is too old: 1.32 or newer is needed"
        kubectl("version", "--request-timeout=5s", on=on, within=20)
        kubectl("auth", "can-i", "create", "namespaces", on=on, within=20)
    except FileNotFoundError:
        return "kubectl is not installed"
    except (AssertionError, subprocess.TimeoutExpired) as error:
        return f"no Kubernetes cluster to use: {str(error).strip().splitlines()[-1]}"
    return ""


@functools.cache
def sidecar_problem() -> str:
    """Return why the cluster cannot run native sidecars, or an empty string."""
    if reason := problem():
        return reason
    version = json.loads(kubectl("version", "--output=json"))["serverVersion"]["gitVersion"]
    return (
        "" if numbers(version) >= SIDECARS else f"Kubernetes {version} has no native sidecars: 1.29 or newer is needed"
    )


def numbers(version: str) -> tuple[int, ...]:
    """Return the major and minor number of a version such as `v1.29.2`."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def federation_problem() -> str:
    """Return why nothing can be deployed to two clusters, or an empty string."""
    return problem() or (problem(second) if second else "no second cluster: name one with --second-context")


def link_problem() -> str:
    """Return why the link between the clusters cannot be cut, or an empty string."""
    return federation_problem() or (
        "" if link else "cannot cut the link between the clusters: give a command with --link"
    )


def address() -> str:
    """Return the address at which the second cluster reaches the first one's node ports."""
    nodes = json.loads(kubectl("get", "nodes", "--output=json"))["items"]
    return edge or next(each["address"] for each in nodes[0]["status"]["addresses"] if each["type"] == "InternalIP")


@contextlib.contextmanager
def link_cut() -> Iterator[None]:
    """Cut the link between the two clusters, and mend it at the end."""

    def make(state: str) -> None:
        subprocess.run([*shlex.split(link), state], check=True, timeout=60)

    try:
        make("cut")
        yield
    finally:
        make("mend")


def image(program: str) -> str:
    return f"{registry}appcoup-{program}:1"


def manifest(name: str) -> list[Object]:
    """Return the objects of k8s/NAME.yaml."""
    text = (ROOT / "k8s" / f"{name}.yaml").read_text().replace("image: ", f"image: {registry}")
    return [thing for thing in yaml.safe_load_all(text) if thing]


def pod_spec(thing: Object) -> Object | None:
    """Return the specification of a Pod, or of a Deployment's pods, or None."""
    spec: Object | None = {
        "Pod": thing.get("spec"),
        "Deployment": thing.get("spec", {}).get("template", {}).get("spec"),
    }.get(thing["kind"])
    return spec


def containers(spec: Object) -> list[Object]:
    """Return a pod's containers: first the native sidecars, which are in `initContainers`."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def statuses(pod: Object) -> list[Object]:
    """Return the statuses of a pod's containers, in the same order."""
    status = pod["status"]
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def with_settings(things: list[Object], settings: Mapping[str, str]) -> list[Object]:
    """Return the objects with these variables set: GENERATOR_... in the generator's containers, ECHO_... in echo's."""
    for spec in filter(None, map(pod_spec, things)):
        for container in containers(spec):
            for name, value in settings.items():
                if container["image"] == image(name.partition("_")[0].lower()):
                    others = [each for each in container.get("env", []) if each["name"] != name]
                    container["env"] = [*others, {"name": name, "value": value}]
    return things


def secret(name: str, **content: str) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": content}


def helper(name: str, *command: str) -> Object:
    """Return a pod that runs a command in echo's image. It ends at once when it is deleted."""
    container = {
        "name": name,
        "image": image("echo"),
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "securityContext": RESTRICTED,
    }
    spec = {
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


class Forward:
    """`kubectl port-forward` to a free local port. Restarts whenever it ends, because a failed connection ends it."""

    def __init__(self, space: "Namespace", target: str, port: str) -> None:
        self.local = free_port()
        self.command = space.command("port-forward", "--address=127.0.0.1", target, f"{self.local}:{port}")
        self.closing = threading.Event()
        self.ready = threading.Event()
        self.last = ""
        self.process: subprocess.Popen[str] | None = None
        self.thread = threading.Thread(target=self._keep, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.local}"

    def _keep(self) -> None:
        while not self.closing.is_set():
            process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            self.process = process
            if self.closing.is_set():
                process.kill()
            with process:
                assert process.stdout
                for line in process.stdout:
                    self.last = line
                    if line.startswith("Forwarding from"):
                        self.ready.set()
            self.closing.wait(POLL)

    def close(self) -> None:
        self.closing.set()
        if self.process:
            self.process.kill()
        self.thread.join()


class Namespace:
    """A namespace for one test, with the operations that tests need."""

    def __init__(self, name: str, on: str) -> None:
        self.name = name
        self.on = on

    def command(self, *args: str) -> list[str]:
        return command(f"--namespace={self.name}", *args, on=self.on)

    def kubectl(self, *args: str, stdin: str = "", within: float = 60) -> str:
        return kubectl(f"--namespace={self.name}", *args, on=self.on, stdin=stdin, within=within)

    def ask_for(self, *things: Object) -> None:
        """Create or change objects. Do not wait."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": things}))

    def apply(self, *things: Object) -> None:
        """Create or change objects, and wait until their pods are ready."""
        self.ask_for(*things)
        for thing in things:
            if pod_spec(thing):
                self.ready(f"{thing['kind'].lower()}/{thing['metadata']['name']}")

    def ready(self, target: str) -> None:
        """Wait until a pod or a deployment is ready."""
        wait = ("rollout", "status") if target.startswith("deployment/") else ("wait", "--for=condition=Ready")
        try:
            self.kubectl(*wait, target, "--timeout=90s", within=100)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.kubectl('describe', 'pods')}") from None

    def settled(self, name: str, replicas: int) -> None:
        """Wait until a deployment has this many pods, all ready, and no pod is ending."""
        self.ready(f"deployment/{name}")
        wait_until(lambda: len(self.pods(name, ending=True)) == len(self.pods(name)) == replicas, 60, every=POLL)

    def get(self, target: str, *options: str) -> Object:
        found: Object = json.loads(self.kubectl("get", target, *options, "--output=json"))
        return found

    def pods(self, name: str, ending: bool = False) -> list[Object]:
        """Return the pods with this name in their label, oldest first. With `ending`, include ending pods."""
        items: list[Object] = self.get("pods", f"--selector=app.kubernetes.io/name={name}")["items"]
        living = [pod for pod in items if ending or "deletionTimestamp" not in pod["metadata"]]
        return sorted(living, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def pod(self, name: str) -> Object:
        """Return the only pod with this name in its label."""
        (pod,) = self.pods(name)
        return pod

    def restarts(self, name: str) -> dict[str, int]:
        """Return the number of restarts by container, in the only pod with this name in its label."""
        return {each["name"]: each["restartCount"] for each in statuses(self.pod(name))}

    def restarted(self, name: str, container: str, within: float) -> None:
        """Wait until this container runs again and is ready. Assert that only it restarted, and only once."""

        def again() -> bool:
            status = {each["name"]: each for each in statuses(self.pod(name))}
            return status[container]["restartCount"] == 1 and all(each["ready"] for each in status.values())

        wait_until(again, within, every=POLL)
        restarts = self.restarts(name)
        assert restarts == {each: int(each == container) for each in restarts}

    @contextlib.contextmanager
    def log(self, pod: str, container: str) -> Iterator[Program]:
        """Follow the log of a container."""
        with running(self.command("logs", "--follow", f"--container={container}", pod)) as program:
            yield program

    @contextlib.contextmanager
    def watch(self, kind: str, name: str) -> Iterator[Program]:
        """Follow the states of an object, one line of JSON each."""
        with running(self.command("get", kind, name, "--watch", "--output=jsonpath={@}{'\\n'}")) as program:
            program.wait_for_log("^{")
            yield program

    @contextlib.contextmanager
    def forward(self, target: str, port: str = "8000") -> Iterator[str]:
        """Forward a port of a pod or service. Yields the local address."""
        forward = Forward(self, target, port)
        try:
            assert forward.ready.wait(20), f"port-forward: {forward.last}"
            yield forward.url
        finally:
            forward.close()


@contextlib.contextmanager
def namespace(on: str = "") -> Iterator[Namespace]:
    """Create a namespace. At the end, delete it with all it holds, even after an error."""
    name = f"appcoup-test-{secrets.token_hex(4)}"
    try:
        kubectl("create", "namespace", name, on=on)
        space = Namespace(name, on)
        # Pods need the default service account, which a controller creates later.
        wait_until(lambda: space.kubectl("get", "serviceaccount", "default"), every=POLL)
        yield space
    finally:
        kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found", on=on)


@contextlib.contextmanager
def deployed(name: str, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Namespace]:
    """Deploy k8s/NAME.yaml to a new namespace, with settings for its programs, and wait until it is ready."""
    with namespace() as space:
        space.apply(*with_settings(manifest(name), settings))
        yield space


# A pod that sends signals to other pods' processes. SIGSTOP reaches PID 1 of a container only from outside it.

SEND = """
import os, sys
container, number = sys.argv[1], int(sys.argv[2])
def first(pid):
    try:
        with open(f"/proc/{pid}/cgroup") as groups, open(f"/proc/{pid}/status") as status:
            return container in groups.read() and any(
                line.split()[0] == "NSpid:" and line.split()[-1] == "1" for line in status)
    except (FileNotFoundError, ProcessLookupError):
        return False
(pid,) = [int(each) for each in os.listdir("/proc") if each.isdecimal() and first(each)]
os.kill(pid, number)
"""


class Signals:
    """A pod that sends signals to the first process of a container."""

    def __init__(self, space: Namespace) -> None:
        self.space = space

    def send(self, space: Namespace, name: str, container: str, number: int) -> None:
        """Send a signal to a container of the only pod with this name in its label."""
        (status,) = [each for each in statuses(space.pod(name)) if each["name"] == container]
        id = status["containerID"].rpartition("/")[2]
        self.space.kubectl("exec", "signals", "--", "python", "-c", SEND, id, str(number))


@contextlib.contextmanager
def signals() -> Iterator[Signals]:
    container = {
        "name": "signals",
        "image": image("echo"),
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "infinity"],
        "securityContext": {"privileged": True, "runAsUser": 0},
    }
    spec = {"hostPID": True, "terminationGracePeriodSeconds": 0, "containers": [container]}
    with namespace() as space:
        space.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "signals"}, "spec": spec})
        yield Signals(space)


class Client:
    """A pod that sends requests all the time, each on a new connection, and counts failures. It runs client.py."""

    def __init__(self, space: Namespace) -> None:
        self.space = space

    def lines(self) -> list[str]:
        return self.space.kubectl("logs", "client").splitlines()

    def failures(self) -> list[str]:
        return [line for line in self.lines() if not line.startswith("requests: ")]

    def requests(self) -> int:
        return max([int(line.split()[1]) for line in self.lines() if line.startswith("requests: ")], default=0)

    def account(self) -> str:
        return [line for line in self.lines() if line.startswith("requests: ")][-1]

    def rate(self) -> float:
        """Return the requests per second since the first answer."""
        _, requests, _, seconds, *_ = self.account().split()
        return int(requests) / float(seconds)

    def wait_for_requests(self) -> None:
        """Wait until the client has sent at least 100 more requests."""
        before = self.requests()

        def enough() -> bool:
            assert self.requests() >= before + 100, self.lines()[-20:]
            return True

        wait_until(enough, every=POLL)


@contextlib.contextmanager
def client(space: Namespace, *urls: str, every: float = 0.02, workers: int = 1) -> Iterator[Client]:
    """Run a client that requests one of these URLs every `every` seconds. Delete it at the end."""
    program = Path(__file__).with_name("client.py").read_text()
    space.apply(helper("client", "python", "-c", program, str(every), str(workers), *urls))
    try:
        asking = Client(space)
        wait_until(asking.requests, every=POLL)
        yield asking
    finally:
        space.kubectl("delete", "pod", "client")
