"""A real Docker engine, the project's images, and containers that are always removed."""

import contextlib
import functools
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from support import ROOT, Program, locked, wait_until

# The engine's own client, which has BuildKit. An older one may come earlier on PATH.
DOCKER = os.environ.get("DOCKER") or ("/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker")
POLL = 0.1  # seconds between two docker commands that ask for a state
HARDENED = (
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--user", "123456:0"),
)


def docker(*args: str, within: float = 60) -> str:
    """Run a docker command and return its stdout. Raises AssertionError with its stderr if it fails."""
    done = subprocess.run([DOCKER, *args], capture_output=True, text=True, timeout=within)
    assert done.returncode == 0, f"docker {' '.join(args)}: {done.stderr}"
    return done.stdout.strip()


def problem() -> str:
    """Return why no container can run here, or an empty string."""
    try:
        docker("version", "--format", "{{.Server.Version}}")
    except (OSError, AssertionError, subprocess.TimeoutExpired):
        return "no Docker engine answers"
    return ""


@functools.cache
def base() -> str:
    """Return the name of the base image for builds."""
    environment = {**os.environ, "DOCKER": DOCKER}
    with locked("base"):
        done = subprocess.run([ROOT / "scripts" / "base"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def build(name: str, folder: Path) -> str:
    """Build a folder's image as a user does. Return its id, because another build may take the name."""
    command = [DOCKER, "build", "--quiet", "--tag", name, "--build-arg", f"BASE={base()}", str(folder)]
    with locked("build"):  # else all workers would build the same layers at once
        built = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "DOCKER_BUILDKIT": "1"})
    assert built.returncode == 0, built.stderr
    return built.stdout.strip()


@functools.cache
def image() -> str:
    """Build the single image, and return its id."""
    return build("appcoup", ROOT)


@functools.cache
def part(program: str) -> str:
    """Build the image of one program, and return its id."""
    return build(f"appcoup-{program}:1", ROOT / program)


class Container:
    """A running container with a published port."""

    def __init__(self, id: str) -> None:
        self.id = id

    @functools.cached_property
    def log(self) -> Program:
        """The log as it grows, read by one `docker logs`. Starting one for each read would be slow."""
        return Program([DOCKER, "logs", "--follow", "--timestamps", self.id])

    def close(self) -> None:
        if "log" in vars(self):
            self.log.close()
        docker("rm", "--force", "--volumes", self.id)

    @property
    def url(self) -> str:
        return f"http://{docker('port', self.id, '8000/tcp').splitlines()[0]}"

    def state(self) -> dict[str, object]:
        state: dict[str, object] = json.loads(docker("inspect", "--format", "{{json .State}}", self.id))
        return state

    def timed_logs(self) -> list[tuple[float, str]]:
        """Return the Unix time and text of each line, in order of time."""
        pairs = (line.partition(" ") for line in list(self.log.lines))
        return sorted(((unix_time(time), text) for time, _, text in pairs), key=lambda pair: pair[0])

    def becomes(self, health: str, within: float = 20) -> None:
        """Wait until Docker reports this health, `healthy` or `unhealthy`."""
        wait_until(lambda: self.state()["Health"]["Status"] == health, within, every=POLL)  # type: ignore[index]

    def logs(self) -> str:
        return "".join(f"{text}\n" for _, text in self.timed_logs())

    def wait_for_log(self, *texts: str, within: float = 20) -> str:
        """Wait until the log has all of the texts. Return the log."""

        def found() -> str:
            log = self.logs()
            assert all(text in log for text in texts), f"{[t for t in texts if t not in log]} not in:\n{log}"
            return log

        return wait_until(found, within)

    def run(self, *command: str) -> str:
        return docker("exec", self.id, *command)

    def processes(self) -> dict[str, int]:
        """Return the PIDs of all processes in the container, by program."""
        lines = [line.split(None, 1) for line in self.run("ps", "-e", "-o", "pid=,args=").splitlines()]
        return {program_name(args): int(pid) for pid, args in lines if not args.startswith("ps ")}

    def running(self) -> dict[str, int]:
        """Wait until supervisord has logged that both programs run. Return their PIDs."""

        def both() -> dict[str, int]:
            log = self.logs()
            pids = {}
            for name in ("generator", "echo"):
                _, spawned, after = log.rpartition(f"spawned: '{name}' with pid ")
                assert spawned and f"success: {name} entered RUNNING" in after, log
                pids[name] = int(after.split()[0])
            return pids

        return wait_until(both)

    def signal(self, name: str) -> None:
        docker("kill", "--signal", name, self.id)

    def ended(self, within: float = 20) -> int:
        """Wait for the end of the container and of its log. Return the exit status."""
        status = int(docker("wait", self.id, within=within))
        self.log.ended()
        return status

    def finished_at(self) -> float:
        return unix_time(str(self.state()["FinishedAt"]))


def program_name(args: str) -> str:
    """Return the program that a command line runs, or the command line."""
    for name in ("supervisord", "generator", "echo"):
        if f"-m {name}" in args or f"bin/{name}" in args:
            return name
    return args


def unix_time(stamp: str) -> float:
    """Return the Unix time of one of Docker's time stamps (RFC 3339 with nanoseconds)."""
    seconds, _, fraction = stamp.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{seconds}+00:00").timestamp() + float(f"0.{fraction or 0}")


@contextlib.contextmanager
def container(*options: str, command: Sequence[str] = (), of: str = "") -> Iterator[Container]:
    """Start a container of the single image, or of the image `of`. At the end, remove it and its volumes."""
    app = Container(docker("run", "--detach", "--publish", "127.0.0.1::8000", *options, of or image(), *command))
    try:
        yield app
    finally:
        app.close()


@contextlib.contextmanager
def volume() -> Iterator[str]:
    name = docker("volume", "create")
    try:
        yield name
    finally:
        docker("volume", "rm", "--force", name)
