"""The images and containers of one run of a bench; nothing of them is left at its end."""

import http.client
import os
import secrets
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# A client with BuildKit: an older one may stand earlier on PATH than the engine's own.
DOCKER = os.environ.get("DOCKER") or ("/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker")


class Failure(Exception):
    """Something broke, so that there is no figure; the message says what."""


def docker(*args: str, within: float = 60) -> str:
    """Run a docker command; returns its stdout, of logs also stderr. Raises Failure."""
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    # In a session of its own it does not hear Ctrl-C, and is waited for: a container it makes is there to be removed.
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
        out, err = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Failure(f"docker {args[0]}: nothing within {within:.0f} s") from None
    finally:
        process.wait()
    if process.returncode:
        raise Failure(f"docker {args[0]}: {(err or out).strip()}")
    return out.strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether GET /data is answered with 200."""
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
    id: str
    started: float  # seconds from `docker run` to the first 200
    port: int

    def inspect(self, field: str) -> str:
        return docker("inspect", "--format", f"{{{{{field}}}}}", self.id)

    def said(self, text: str, times: int = 1, within: float = 20) -> None:
        """Wait until the log has the text so many times."""
        deadline = time.monotonic() + within
        while docker("logs", self.id).count(text) < times:
            if time.monotonic() > deadline:
                raise Failure(f"not {times} times in the log within {within:.0f} s: {text}")
            time.sleep(0.05)

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self.id)


class Workshop:
    """Makes labelled images and containers, and removes them at the end, whatever happened."""

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
        """A name for an image as it is now, for it may be built anew meanwhile. Raises Failure."""
        docker("tag", image, f"{self.name}:{name}")
        return f"{self.name}:{name}"

    def build(self, folder: Path, base: str, name: str = "") -> str:
        """The image of a folder's Dockerfile, on the layers of another image. Raises Failure."""
        tag = f"{self.name}:{name or folder.name}"
        options = ["--quiet", "--label", self.label, "--tag", tag, "--build-arg", f"BASE={base}"]
        docker("build", *options, str(folder), within=300)
        return tag

    def start(self, image: str, *more: str, within: float = 30) -> Container:
        """Run a container until its first answer. Raises Failure."""
        port = free_port()
        options = ["--no-healthcheck", "--label", self.label, "--publish", f"127.0.0.1:{port}:8000"]
        began = time.perf_counter()
        id = docker("run", "--detach", *options, *more, image)
        # Not sooner: a connection before the container's network is up fails in ARP and costs a second.
        while not answers(port):
            if time.perf_counter() - began > within:
                raise Failure(f"no answer from {image} within {within:.0f} s:\n{docker('logs', '--tail', '20', id)}")
            time.sleep(0.002)
        return Container(id, time.perf_counter() - began, port)
