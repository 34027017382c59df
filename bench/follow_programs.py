"""Programs for benches of the stream: echo, its peers, its followers and a writer. Each is ended with its context."""

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

from command import Failure

BENCH_FOLDER = Path(__file__).parent
# Run a command in a user namespace whose own inotify limit is 0. fs.inotify.max_user_instances would not do, because
# it belongs to the whole machine.
NO_INOTIFY = 'echo 0 >/proc/sys/user/max_inotify_instances && exec "$0" "$@"'
WITHOUT_INOTIFY = ("unshare", "--user", "--map-root-user", "sh", "-c", NO_INOTIFY)


def wait_until(
    condition: Callable[[], Any], problem: Callable[[], str], within: float = 20, every: float = 0.005
) -> None:
    """Check the condition every `every` seconds until it holds.

    Raises Failure with the text of `problem` after `within` seconds.
    """
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"{problem()}, after {within:.0f} s")
        time.sleep(every)


class Program:
    """A running program, killed at the end of the context."""

    def __init__(self, *command: str, stdin: int | IO[bytes] = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL):
        self.name = " ".join(command)
        self.log_file = tempfile.TemporaryFile()  # noqa: SIM115 # __exit__ closes it
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ECHO_")}
        self.process = subprocess.Popen(
            command,
            cwd=BENCH_FOLDER.parent,
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=self.log_file,
            start_new_session=True,  # Ctrl-C interrupts only the bench, which then ends the program.
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.log_file):
            if file:
                file.close()

    def log(self) -> str:
        """Return the program's stderr so far."""
        return os.pread(self.log_file.fileno(), 2**20, 0).decode(errors="replace")

    def last_log_line(self) -> str:
        """Return the program's command and its last line, for error messages."""
        return f"{self.name}: {(self.log().splitlines() or ['no output'])[-1]}"

    def wait_for_log(self, pattern: str) -> re.Match[str]:
        """Wait until a line of stderr matches, and return the match. Raises Failure."""
        found: list[re.Match[str]] = []

        def matches() -> bool:
            found.extend(re.finditer(pattern, self.log(), re.MULTILINE))
            if not found and self.process.poll() is not None:
                raise Failure(f"the program has ended: {self.last_log_line()}")
            return bool(found)

        wait_until(matches, lambda: f"no {pattern!r} from {self.last_log_line()}")
        return found[0]

    def _proc(self, file: str, pattern: str) -> int:
        """Return an integer from a file in the program's /proc folder. Raises Failure."""
        match = re.search(pattern, Path(f"/proc/{self.process.pid}/{file}").read_text())
        if not match:
            raise Failure(f"/proc: no {pattern!r} in {file}")
        return int(match[1])

    def rss(self) -> float:
        """Return the resident memory in KiB. Raises Failure."""
        return self._proc("status", r"VmRSS:\s+(\d+) kB")

    def bytes_read(self) -> int:
        """Return how many bytes the program's read calls have returned so far. Raises Failure."""
        return self._proc("io", r"rchar: (\d+)")

    def stop(self, within: float = 15) -> tuple[float, int]:
        """Send SIGTERM, and return the seconds until the end and the exit status. Raises Failure."""
        pidfd = os.pidfd_open(self.process.pid)  # Popen.wait with a timeout checks only every 50 ms.
        try:
            began = time.perf_counter()
            self.process.send_signal(signal.SIGTERM)
            ended, _, _ = select.select([pidfd], [], [], within)
            seconds = time.perf_counter() - began
        finally:
            os.close(pidfd)
        if not ended:
            raise Failure(f"not stopped after {within:.0f} s: {self.last_log_line()}")
        return seconds, self.process.wait()


class Server(Program):
    """A server that logs the address on which it serves."""

    def __enter__(self) -> Self:
        try:
            self.port = int(self.wait_for_log(r"^serving .* on http://.*:(\d+)/data$")[1])
            self.warm_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def warm_up(self) -> None:
        """Follow once in each format. Otherwise the bench would measure the one-time costs of the first follower."""
        for accept in ("text/plain", "text/event-stream"):
            with self.request("/data?follow&tail=0", accept) as client:
                client.recv(4096)

    def request(self, path: str, accept: str = "*/*") -> socket.socket:
        """Open a connection and send a GET request on it."""
        client = socket.create_connection(("127.0.0.1", self.port), 20)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: {accept}\r\n\r\n".encode())
        return client

    def get(self, path: str) -> bytes:
        """Send a GET request on a new connection and return the body. Raises Failure if the status is not 200."""
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
    """This project's echo.

    It polls the file if `inotify` is false. It is warmed up before measurements if `warm` is true.
    """

    def __init__(self, source: Path | str, *options: str, inotify: bool = True, warm: bool = True) -> None:
        self.warm = warm
        echo = (sys.executable, "-m", "echo", "--source", str(source), "--listen", "127.0.0.1:0", *options)
        self.watch_mode = "inotify" if inotify else "polling"
        super().__init__(*(() if inotify else WITHOUT_INOTIFY), *echo)

    def warm_up(self) -> None:
        if not self.warm:
            return
        super().warm_up()
        self.get("/data?tail=1")
        wait_until(lambda: self.status("followers") == 0, lambda: "echo does not see its clients go")
        self.check()

    def status(self, name: str) -> Any:
        """Return a field of /status."""
        return json.loads(self.get("/status"))[name]

    def check(self) -> None:
        """Check that echo watches the file by inotify or by polling, as required. Raises Failure."""
        wait_until(
            lambda: self.status("watching") == self.watch_mode, lambda: f"echo does not use {self.watch_mode}", 2
        )


class PlainServer(Server):
    """A baseline server of follow_peer.py, which takes its lines from a pipe."""

    def __init__(self, kind: str) -> None:
        super().__init__(sys.executable, str(BENCH_FOLDER / "follow_peer.py"), kind, stdin=subprocess.PIPE)
        assert self.process.stdin
        self.pipe = self.process.stdin


class Tail(Program):
    """`tail -F`, which follows a file by inotify as echo does."""

    def __init__(self, source: Path) -> None:
        super().__init__("tail", "-n0", "-F", str(source), stdout=subprocess.PIPE)
        assert self.process.stdout
        self.output = self.process.stdout

    def __enter__(self) -> Self:
        try:
            wait_until(self.uses_inotify, lambda: f"no inotify: {self.last_log_line()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def uses_inotify(self) -> bool:
        folder = Path(f"/proc/{self.process.pid}/fdinfo")
        return any("inotify wd:" in descriptor.read_text() for descriptor in folder.iterdir())


@dataclass(frozen=True)
class Received:
    """What the followers received."""

    by_number: dict[str, list[int]]  # nanoseconds from append to receipt, one entry for each follower
    clean: int  # streams that ended cleanly

    def delays(self, numbers: Sequence[int], followers: int) -> list[float]:
        """Return the delays of these numbers in seconds.

        Raises Failure if a follower did not receive each number exactly once.
        """
        delays = [self.by_number.get(str(number), []) for number in numbers]
        if wrong := sum(len(each) != followers for each in delays):
            raise Failure(f"{wrong} of {len(numbers)} numbers did not reach each of {followers} followers once")
        return [delay / 1e9 for each in delays for delay in each]


class Followers(Program):
    """Followers of one server, or the reader of a pipe, in one process: follow_client.py."""

    def __init__(self, *arguments: str, stdin: int | IO[bytes] = subprocess.DEVNULL) -> None:
        command = (sys.executable, str(BENCH_FOLDER / "follow_client.py"), *arguments)
        super().__init__(*command, stdin=stdin, stdout=subprocess.PIPE)

    @classmethod
    def of(cls, server: Server, count: int, accept: str) -> Self:
        """Follow the server with `count` connections."""
        return cls(str(server.port), str(count), accept)

    def __enter__(self) -> Self:
        try:
            self.wait_for_log("^ready$")
        except BaseException:
            self.__exit__()
            raise
        return self

    def received(self) -> Received:
        """Wait until all streams have ended, and return what they received. Raises Failure."""
        try:
            out, _ = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            raise Failure("the streams did not end after 30 s") from None
        if self.process.returncode:
            raise Failure(self.last_log_line())
        result = json.loads(out)
        return Received(result["delays"], result["clean"])


class Writer:
    """A writer of numbers. Each number is the time at which it is written, in nanoseconds."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write(self) -> int:
        """Write a number with one system call, and return it."""
        now = time.monotonic_ns()
        os.write(self.fd, b"%d\n" % now)
        return now

    def write_every(self, seconds: float, times: int) -> list[int]:
        """Write `times` numbers, one every `seconds` seconds, and return them."""
        written, due = [], time.monotonic()
        for _ in range(times):
            written.append(self.write())
            due += seconds
            time.sleep(max(0.0, due - time.monotonic()))
        return written

    @contextlib.contextmanager
    def writing_every(self, seconds: float) -> Iterator[list[int]]:
        """Write a number every `seconds` seconds until the context ends. The numbers are added to the yielded list."""
        written: list[int] = []
        stop = threading.Event()

        def write() -> None:
            while not stop.wait(seconds):
                written.append(self.write())

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield written
        finally:
            stop.set()
            thread.join()


@contextlib.contextmanager
def open_for_append(path: Path) -> Iterator[Writer]:
    """Open the file for a writer."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        yield Writer(fd)
    finally:
        os.close(fd)
