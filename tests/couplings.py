"""How the application is launched in each coupling. A contract test gets an address and knows no more."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cluster
import engine
from support import ROOT, free_port, running


@contextlib.contextmanager
def process(folder: Path) -> Iterator[str]:
    """./app.sh on this machine, in an environment that has everything installed."""
    port = free_port()
    settings = {
        "APPCOUP_VENV": sys.prefix,
        "APPCOUP_RUN": str(folder),
        "GENERATOR_INTERVAL": "0.1",
        "ECHO_LISTEN": f"127.0.0.1:{port}",
        "PATH": os.environ["PATH"],
    }
    with running([ROOT / "app.sh"], settings, folder) as app:
        app.said("echo | serving")
        app.said("generator | writing")
        yield f"http://127.0.0.1:{port}"
        app.process.terminate()
        assert app.ended() == 0, app.output


@contextlib.contextmanager
def container(folder: Path) -> Iterator[str]:
    """The single image."""
    with engine.container("--env", "GENERATOR_INTERVAL=0.1") as app:
        app.said("echo | serving", "generator | writing")
        yield app.url
        app.signal("TERM")
        assert app.ended() == 0, app.logs()


def kubernetes(name: str, target: str) -> Callable[[Path], contextlib.AbstractContextManager[str]]:
    """k8s/NAME.yaml, reached at `target`."""

    @contextlib.contextmanager
    def launch(folder: Path) -> Iterator[str]:
        with (
            cluster.deployed(name, {"GENERATOR_INTERVAL": "0.1"}) as space,
            space.forward(target) as url,
        ):
            yield url

    return launch


COUPLINGS: dict[str, Callable[[Path], contextlib.AbstractContextManager[str]]] = {
    "process": process,
    "container": container,
    "pod": kubernetes("pod", "pod/appcoup"),
    "services": kubernetes("services", "service/echo"),
    "volume": kubernetes("volume", "service/echo"),
}
# What a coupling needs: the marks of pyproject.toml.
NEEDS = {"container": "docker", "pod": "kubernetes", "services": "kubernetes", "volume": "kubernetes"}
