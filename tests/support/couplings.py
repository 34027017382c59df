"""Launches the application in each coupling. A contract test gets only an address."""

import contextlib
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from support import ROOT, Program, cluster, compose, engine, free_port, running


@contextlib.contextmanager
def app_sh(folder: Path, port: int, interval: str) -> Iterator[Program]:
    """Run ./app.sh in an environment that has all packages."""
    settings = {
        "APPCOUP_VENV": sys.prefix,
        "APPCOUP_RUN": str(folder),
        "GENERATOR_INTERVAL": interval,
        "ECHO_LISTEN": f"127.0.0.1:{port}",
        "PATH": os.environ["PATH"],
    }
    with running([ROOT / "app.sh"], settings, folder) as app:
        try:
            yield app
        finally:  # killing supervisord would leave its programs running
            app.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                app.ended()


@contextlib.contextmanager
def process(folder: Path) -> Iterator[str]:
    port = free_port()
    with app_sh(folder, port, "0.1") as app:
        app.wait_for_log("echo | serving")
        app.wait_for_log("generator | writing")
        yield f"http://127.0.0.1:{port}"
        app.process.terminate()
        assert app.ended() == 0, app.output


@contextlib.contextmanager
def container(folder: Path) -> Iterator[str]:
    """Run the single image, hardened."""
    with (
        engine.volume() as volume,
        engine.container(*engine.HARDENED, "--volume", f"{volume}:/data", "--env", "GENERATOR_INTERVAL=0.1") as app,
    ):
        app.wait_for_log("echo | serving", "generator | writing")
        yield app.url
        app.signal("TERM")
        assert app.ended() == 0, app.logs()


@contextlib.contextmanager
def composed(folder: Path) -> Iterator[str]:
    """Run compose.yaml."""
    with compose.project("echo", GENERATOR_INTERVAL="0.1") as project:
        yield f"http://127.0.0.1:{project.port}"


def kubernetes(name: str, target: str) -> Callable[[Path], contextlib.AbstractContextManager[str]]:
    """Return a launcher that deploys k8s/NAME.yaml and forwards a port to `target`."""

    @contextlib.contextmanager
    def launch(folder: Path) -> Iterator[str]:
        with (
            cluster.deployed(name, {"GENERATOR_INTERVAL": "0.1"}) as space,
            space.forward(target) as url,
        ):
            yield url

    return launch


@dataclass
class Federation:
    """Two coupled namespaces, and the source and secrets with which another may be coupled to the first."""

    first: cluster.Namespace
    second: cluster.Namespace
    source: str
    secrets: dict[str, str]

    def couple(self, space: cluster.Namespace, **secrets: str) -> None:
        """Create what k8s/federation.yaml needs. `secrets` replace the right ones."""
        address = {"source": self.source}
        space.ask_for(
            cluster.secret("upstream", **self.secrets | secrets),
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "upstream"}, "data": address},
        )


@contextlib.contextmanager
def federated(folder: Path) -> Iterator[Federation]:
    """Couple two clusters and wait until they are ready."""
    with cluster.namespace() as first, cluster.namespace(cluster.second) as second:
        both = federate(first, second, folder, "0.1")
        for space, names in ((first, ("generator", "echo", "edge")), (second, ("echo",))):
            for name in names:
                space.ready(f"deployment/{name}")
        yield both


@contextlib.contextmanager
def federation(folder: Path) -> Iterator[str]:
    with federated(folder) as both, both.second.forward("service/echo") as url:
        yield url


def federate(first: cluster.Namespace, second: cluster.Namespace, folder: Path, interval: str) -> Federation:
    """Deploy k8s/services.yaml and k8s/edge.yaml in one cluster and k8s/federation.yaml in another. Do not wait."""
    token, host = secrets.token_hex(16), cluster.address()
    certificate, key = self_signed(folder, host)
    first.ask_for(
        *cluster.with_settings(cluster.manifest("services"), {"GENERATOR_INTERVAL": interval}),
        cluster.secret("edge", **{"token": token, "tls.crt": certificate, "tls.key": key}),
        *without_node_port(cluster.manifest("edge")),
    )
    port = first.get("service/edge")["spec"]["ports"][0]["nodePort"]
    both = Federation(first, second, f"https://{host}:{port}/data", {"token": token, "ca.crt": certificate})
    both.couple(second)
    second.ask_for(*cluster.manifest("federation"))
    return both


def self_signed(folder: Path, host: str) -> tuple[str, str]:
    """Return a self-signed certificate for this host, and its key."""
    kind = "IP" if re.fullmatch(r"[0-9.]+|.*:.*", host) else "DNS"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += [
        "-subj",
        "/CN=edge",
        "-addext",
        f"subjectAltName={kind}:{host}",
        "-keyout",
        "key",
        "-out",
        "certificate",
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    return (folder / "certificate").read_text(), (folder / "key").read_text()


def without_node_port(things: list[cluster.Object]) -> list[cluster.Object]:
    """Remove fixed node ports, so that the cluster chooses free ones."""
    for thing in things:
        if thing["kind"] == "Service":
            for port in thing["spec"]["ports"]:
                port.pop("nodePort", None)
    return things


COUPLINGS: dict[str, Callable[[Path], contextlib.AbstractContextManager[str]]] = {
    "process": process,
    "container": container,
    "compose": composed,
    "pod": kubernetes("pod", "pod/appcoup"),
    "pod-sidecar": kubernetes("pod-sidecar", "pod/appcoup"),
    "services": kubernetes("services", "service/echo"),
    "volume": kubernetes("volume", "service/echo"),
    "federation": federation,
}
# What a coupling needs: the marks of pyproject.toml.
NEEDS = {
    "container": ["docker"],
    "compose": ["docker", "compose"],
    "pod": ["kubernetes"],
    "pod-sidecar": ["kubernetes", "sidecar"],
    "services": ["kubernetes"],
    "volume": ["kubernetes"],
    "federation": ["kubernetes", "federation"],
}
