"""What a bench of the stream runs: echo, its peers, those who follow, and who appends; nothing of it is left."""

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

HERE = Path(__file__).parent
# Not fs.inotify.max_user_instances, which is the whole machine's, whoever writes it: this one is the namespace's own.
NO_INOTIFY = 'echo 0 >/proc/sys/user/max_inotify_instances && exec "$0" "$@"'
WITHOUT_INOTIFY = ("unshare", "--user", "--map-root-user", "sh", "-c", NO_INOTIFY)


class Failure(Exception):
    """Something broke, so that there is no figure; the message says what."""


def wait_until(
    condition: Callable[[], Any], problem: Callable[[], str], within: float = 20, every: float = 0.005
) -> None:
    """Seconds, both. Raises Failure."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"{problem()}, within {within:.0f} s")
        time.sleep(every)


class Program:
    """A running program; it is killed at the end of the context, whatever happened."""

    def __init__(self, *command: str, stdin: int | IO[bytes] = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL):
        self.name = " ".join(command)
        self.words = tempfile.TemporaryFile()  # noqa: SIM115, closed in __exit__
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ECHO_")}
        self.process = subprocess.Popen(
            command,
            cwd=HERE.parent,
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=self.words,
            start_new_session=True,  # Ctrl-C is for the bench, which ends all
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.words):
            if file:
                file.close()

    def said(self) -> str:
        """Its stderr."""
        return os.pread(self.words.fileno(), 2**20, 0).decode(errors="replace")

    def last_words(self) -> str:
        return f"{self.name}: {(self.said().splitlines() or ['no word'])[-1]}"

    def says(self, pattern: str) -> re.Match[str]:
        """Wait for a line. Raises Failure."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found.extend(re.finditer(pattern, self.said(), re.MULTILINE))
            if not found and self.process.poll() is not None:
                raise Failure(f"ended by itself: {self.last_words()}")
            return bool(found)

        wait_until(look, lambda: f"no {pattern!r} from {self.last_words()}")
        return found[0]

    def _proc(self, file: str, pattern: str) -> int:
        match = re.search(pattern, Path(f"/proc/{self.process.pid}/{file}").read_text())
        if not match:
            raise Failure(f"/proc: no {pattern!r} in {file}")
        return int(match[1])

    def rss(self) -> float:
        """Resident KiB. Raises Failure."""
        return self._proc("status", r"VmRSS:\s+(\d+) kB")

    def bytes_read(self) -> int:
        """By all of its read calls so far. Raises Failure."""
        return self._proc("io", r"rchar: (\d+)")

    def stop(self, within: float = 15) -> tuple[float, int]:
        """SIGTERM; returns the seconds until the end, and the exit status. Raises Failure."""
        watched = os.pidfd_open(self.process.pid)  # Popen.wait with a timeout looks every 50 ms
        try:
            began = time.perf_counter()
            self.process.send_signal(signal.SIGTERM)
            ended, _, _ = select.select([watched], [], [], within)
            seconds = time.perf_counter() - began
        finally:
            os.close(watched)
        if not ended:
            raise Failure(f"not stopped within {within:.0f} s: {self.last_words()}")
        return seconds, self.process.wait()


class Server(Program):
    """One that says where it serves."""

    def __enter__(self) -> Self:
        try:
            self.port = int(self.says(r"^serving .* on http://.*:(\d+)/data$")[1])
            self.warm_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def warm_up(self) -> None:
        """What the first follower alone costs is not to be counted."""
        for accept in ("text/plain", "text/event-stream"):
            with self.request("/data?follow&tail=0", accept) as client:
                client.recv(4096)

    def request(self, path: str, accept: str = "*/*") -> socket.socket:
        """A new connection on which that was asked."""
        client = socket.create_connection(("127.0.0.1", self.port), 20)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: {accept}\r\n\r\n".encode())
        return client

    def get(self, path: str) -> bytes:
        """The whole response, on a new connection. Raises Failure."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            if response.status != 200:
                raise Failure(f"GET {path}: {response.status}")
            return response.read()
        finally:
            connection.close()


class Echo(Server):
    """The echo of this tree."""

    def __init__(self, source: Path | str, *options: str, inotify: bool = True, warm: bool = True) -> None:
        self.warm = warm
        echo = (sys.executable, "-m", "echo", "--source", str(source), "--listen", "127.0.0.1:0", *options)
        self.how = "inotify" if inotify else "polling"
        super().__init__(*(() if inotify else WITHOUT_INOTIFY), *echo)

    def warm_up(self) -> None:
        if not self.warm:
            return
        super().warm_up()
        self.get("/data?tail=1")
        wait_until(lambda: self.status("followers") == 0, lambda: "echo does not see its clients go")
        self.check()

    def status(self, name: str) -> Any:
        return json.loads(self.get("/status"))[name]

    def check(self) -> None:
        """That it watches as it shall. Raises Failure."""
        wait_until(lambda: self.status("watching") == self.how, lambda: f"echo does not watch by {self.how} here", 2)


class PlainServer(Server):
    """One of the servers in follow_peer.py, fed through a pipe."""

    def __init__(self, kind: str) -> None:
        super().__init__(sys.executable, str(HERE / "follow_peer.py"), kind, stdin=subprocess.PIPE)
        assert self.process.stdin
        self.pipe = self.process.stdin


class Tail(Program):
    """tail -F, which follows by inotify too."""

    def __init__(self, source: Path) -> None:
        super().__init__("tail", "-n0", "-F", str(source), stdout=subprocess.PIPE)
        assert self.process.stdout
        self.output = self.process.stdout

    def __enter__(self) -> Self:
        try:
            wait_until(self.watches, lambda: f"no inotify: {self.last_words()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def watches(self) -> bool:
        folder = Path(f"/proc/{self.process.pid}/fdinfo")
        return any("inotify wd:" in descriptor.read_text() for descriptor in folder.iterdir())


@dataclass(frozen=True)
class Received:
    """How many nanoseconds each number took to each follower, and how many streams ended cleanly."""

    by_number: dict[str, list[int]]
    clean: int

    def delays(self, numbers: Sequence[int], followers: int) -> list[float]:
        """Of these numbers, in seconds. Raises Failure if one of them did not come, or came twice."""
        delays = [self.by_number.get(str(number), []) for number in numbers]
        if wrong := sum(len(each) != followers for each in delays):
            raise Failure(f"{wrong} of {len(numbers)} numbers did not come once to each of {followers} followers")
        return [delay / 1e9 for each in delays for delay in each]


class Followers(Program):
    """Those who receive, in a process of their own."""

    def __init__(self, *arguments: str, stdin: int | IO[bytes] = subprocess.DEVNULL) -> None:
        command = (sys.executable, str(HERE / "follow_client.py"), *arguments)
        super().__init__(*command, stdin=stdin, stdout=subprocess.PIPE)

    @classmethod
    def of(cls, server: Server, count: int, accept: str) -> Self:
        return cls(str(server.port), str(count), accept)

    def __enter__(self) -> Self:
        try:
            self.says("^ready$")
        except BaseException:
            self.__exit__()
            raise
        return self

    def received(self) -> Received:
        """Once all their streams have ended. Raises Failure."""
        try:
            out, _ = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            raise Failure("streams did not end") from None
        if self.process.returncode:
            raise Failure(self.last_words())
        said = json.loads(out)
        return Received(said["delays"], said["clean"])


class Writer:
    """Appends numbers, each of which is the time at which it was written."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write(self) -> int:
        stamp = time.monotonic_ns()
        os.write(self.fd, b"%d\n" % stamp)
        return stamp

    def write_every(self, seconds: float, times: int) -> list[int]:
        """Returns what was written."""
        stamps, due = [], time.monotonic()
        for _ in range(times):
            stamps.append(self.write())
            due += seconds
            time.sleep(max(0.0, due - time.monotonic()))
        return stamps

    @contextlib.contextmanager
    def writing_every(self, seconds: float) -> Iterator[list[int]]:
        """Meanwhile; what was written is in the list."""
        stamps: list[int] = []
        over = threading.Event()

        def write() -> None:
            while not over.wait(seconds):
                stamps.append(self.write())

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield stamps
        finally:
            over.set()
            thread.join()


@contextlib.contextmanager
def appending(path: Path) -> Iterator[Writer]:
    """To a file, each number with one call."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        yield Writer(fd)
    finally:
        os.close(fd)
