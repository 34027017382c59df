"""Images and containers for one run of a bench. All of them are removed when the run ends."""

import http.client
import os
import secrets
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from command import Failure

# Prefer the engine's own client, which has BuildKit: PATH may name an older client first.
DOCKER = os.environ.get("DOCKER") or ("/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker")


def docker(*args: str, timeout: float = 60) -> str:
    """Run a docker command and return its stdout; for `logs` also its stderr.

    Raises Failure if the command fails or takes longer than `timeout` seconds.
    """
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    # Ctrl-C must not interrupt the command: it may just be creating a container, which is removed later by its label.
    process = subprocess.Popen(
        [DOCKER, *args],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if args[0] == "logs" else subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Failure(f"docker {args[0]}: not done after {timeout:.0f} s") from None
    finally:
        process.wait()
    if process.returncode:
        raise Failure(f"docker {args[0]}: {(err or out).strip()}")
    return out.strip()


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serves_data(port: int) -> bool:
    """Return whether the server on this port answers `GET /data` with status 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=0.5)
    try:
        connection.request("GET", "/data")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass(frozen=True)
class Container:
    """A running container."""

    id: str
    start_seconds: float  # from `docker run` to the first response with status 200
    port: int

    def inspect(self, field: str) -> str:
        """Return a field of `docker inspect`, such as `.State.ExitCode`."""
        return docker("inspect", "--format", f"{{{{{field}}}}}", self.id)

    def wait_for_log(self, text: str, times: int = 1, timeout: float = 20) -> None:
        """Wait until the log contains the text this many times. Raises Failure after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while docker("logs", self.id).count(text) < times:
            if time.monotonic() > deadline:
                raise Failure(f"the log does not contain {text!r} {times} times after {timeout:.0f} s")
            time.sleep(0.05)

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self.id)


class DockerSession:
    """Create labelled images and containers, and remove them at the end, also after an error."""

    def __init__(self) -> None:
        self.name = f"appcoup-bench-{secrets.token_hex(4)}"
        self.label = f"appcoup.bench={self.name}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if ids := docker("ps", "--all", "--quiet", "--filter", f"label={self.label}").split():
            docker("rm", "--force", "--volumes", *ids)
        if tags := docker("images", "--format", "{{.Repository}}:{{.Tag}}", self.name).split():
            docker("rmi", "--force", *tags)

    def tag(self, image: str, name: str) -> str:
        """Give the image a second name and return it, so that a rebuild does not change what is measured.

        Raises Failure.
        """
        docker("tag", image, f"{self.name}:{name}")
        return f"{self.name}:{name}"

    def build(self, folder: Path, base: str, name: str = "") -> str:
        """Build a folder's Dockerfile on top of the image `base`, and return the tag. Raises Failure."""
        tag = f"{self.name}:{name or folder.name}"
        options = ["--quiet", "--label", self.label, "--tag", tag, "--build-arg", f"BASE={base}"]
        docker("build", *options, str(folder), timeout=300)
        return tag

    def start(self, image: str, *options: str, timeout: float = 30) -> Container:
        """Run a container and wait until it serves /data. Raises Failure after `timeout` seconds."""
        port = free_port()
        common = ["--no-healthcheck", "--label", self.label, "--publish", f"127.0.0.1:{port}:8000"]
        began = time.perf_counter()
        id = docker("run", "--detach", *common, *options, image)
        # Connect only after `docker run` has returned: an earlier connection fails in ARP, which costs a second.
        while not serves_data(port):
            if time.perf_counter() - began > timeout:
                raise Failure(f"no response from {image} after {timeout:.0f} s:\n{docker('logs', '--tail', '20', id)}")
            time.sleep(0.002)
        return Container(id, time.perf_counter() - began, port)
