"""Runs compose.yaml as a user does, as a project with a random name and free ports, and removes it."""

import contextlib
import functools
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support import ROOT, engine, free_port, wait_until
from support.engine import DOCKER, Container

BUILD_SECONDS = 300
# Compose version 1 is a Python program, and this module's name would shadow one of its modules.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@functools.cache
def command() -> list[str]:
    """Return the command of the installed Compose, preferably version 2, or an empty list."""
    for words in ([DOCKER, "compose"], ["docker-compose"]):
        with contextlib.suppress(OSError):
            if subprocess.run([*words, "version"], capture_output=True, env=ENVIRONMENT).returncode == 0:
                return words
    return []


def problem() -> str:
    """Return why Compose cannot run here, or an empty string."""
    return engine.problem() or ("" if command() else "no Docker Compose: install docker-compose")


class Project:
    """A Compose project with all services of compose.yaml in `root`."""

    def __init__(self, root: Path, settings: dict[str, str]) -> None:
        self.root, self.name = root, f"appcoup-test-{secrets.token_hex(4)}"
        self.port, self.mirror_port = free_port(), free_port()
        self.environment = {
            **ENVIRONMENT,
            # With these, version 1 builds with the docker client, whose cache outlives the image.
            "COMPOSE_DOCKER_CLI_BUILD": "1",
            "DOCKER_BUILDKIT": "1",
            "PATH": f"{Path(DOCKER).parent}:{os.environ['PATH']}",
            "BASE": engine.base(),
            "COMPOSE_PROFILES": "mirror",
            "APPCOUP_PORT": f"127.0.0.1:{self.port}",
            "APPCOUP_MIRROR_PORT": f"127.0.0.1:{self.mirror_port}",
            **settings,
        }

    def run(self, *args: str, within: float = 60) -> str:
        """Run a Compose command and return its stdout. Raises AssertionError with its output if it fails."""
        words = [*command(), "--project-name", self.name, *args]
        environment = self.environment
        done = subprocess.run(words, cwd=self.root, env=environment, capture_output=True, text=True, timeout=within)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def up(self, *services: str) -> None:
        self.run("up", "--detach", "--build", *services, within=BUILD_SECONDS)

    def container(self, service: str) -> Container:
        labels = {"project": self.name, "service": service}
        filters = [f"--filter=label=com.docker.compose.{label}={value}" for label, value in labels.items()]
        (id,) = engine.docker("ps", "--all", "--quiet", "--no-trunc", *filters).split()
        return Container(id)

    def kill(self, service: str, signal: str = "KILL") -> None:
        """Send a signal from the host, because Docker does not restart a container after `docker kill`."""
        pid = self.container(service).state()["Pid"]
        helper = ("--pid=host", "--user=0", "--entrypoint=sh", engine.base())
        engine.docker("run", "--rm", *helper, "-c", f"kill -{signal} {pid}")

    def restarted(self, service: str, restarts: int = 1) -> None:
        """Wait until the engine has restarted a service this many times and it runs."""

        def again() -> bool:
            count, running = self.inspect(service, "{{.RestartCount}} {{.State.Running}}").split()
            assert (int(count), running) == (restarts, "true")
            return True

        wait_until(again)

    def inspect(self, service: str, form: str) -> str:
        return engine.docker("inspect", "--format", form, self.container(service).id)

    def remove(self) -> None:
        self.run("down", "--volumes", "--rmi", "local", "--remove-orphans", "--timeout", "3")


@contextlib.contextmanager
def project(*services: str, root: Path = ROOT, **settings: str) -> Iterator[Project]:
    """Run `docker compose up` for these services. At the end, remove everything it made, even after an error."""
    project = Project(root, settings)
    try:
        project.up(*services)
        yield project
    finally:
        project.remove()
