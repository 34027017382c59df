"""How the application is launched in each coupling. A contract test gets an address and knows no more."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

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


COUPLINGS: dict[str, Callable[[Path], contextlib.AbstractContextManager[str]]] = {
    "process": process,
    "container": container,
}
