"""Readiness and liveness checks. They run in supervisord's own loop, so nothing here blocks."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import time
from typing import Any, Callable
from urllib.parse import urlsplit

from pid1.output import MAX_LINE_BYTES

CHECKS_PER_LIMIT = 4  # checks within the time limit
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.02, 1.0
Passed = Callable[..., None]  # its argument: the age of the sign of life in seconds, 0 by default


class FileCheck:
    """Passes when the file changes. A wrong clock, or a file left by an earlier process, does not make it pass."""

    def __init__(self, path: str, passed: Passed) -> None:
        self.path, self.passed = path, passed
        self.reset()

    def state(self) -> tuple[int, ...]:
        """Return the inode, modification time in ns and size, or () without a file."""
        try:
            found = os.stat(self.path)
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def reset(self) -> None:
        self.seen = self.state()

    def start(self) -> None:
        before, self.seen = self.seen, self.state()
        if self.seen and self.seen != before:
            self.passed(time.time() - self.seen[1] / 1e9)


class AddressCheck:
    """Passes when the port accepts a connection or, over HTTP, answers 2xx or 3xx. Belongs in the socket map."""

    def __init__(self, url: str, passed: Passed, sockets: dict[int, Any]) -> None:
        self.url, self.passed, self.sockets = urlsplit(url), passed, sockets
        path = f"{self.url.path or '/'}{'?' + self.url.query if self.url.query else ''}"
        self.request = f"GET {path} HTTP/1.0\r\nHost: {self.url.netloc}\r\n\r\n".encode()
        self.socket: Any = None
        self.connecting = True

    def start(self) -> None:
        if self.socket:
            return  # the last request has no answer yet
        try:
            host, port = self.url.hostname, self.url.port or 80
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.socket = socket.socket(family, kind)
            self.socket.setblocking(False)
            self.sockets[self.socket.fileno()] = self
            if self.socket.connect_ex(address) not in (0, errno.EINPROGRESS):
                self.reset()
        except OSError:
            self.reset()

    def reset(self) -> None:
        if self.socket:
            self.sockets.pop(self.socket.fileno(), None)
            self.socket.close()
        self.socket, self.connecting = None, True

    handle_error = reset

    def readable(self) -> bool:
        return not self.connecting

    def writable(self) -> bool:
        return self.connecting

    def handle_write_event(self) -> None:
        if not self.socket or self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.reset()
        elif self.url.scheme == "http":
            self.connecting = False
            self.socket.send(self.request)
        else:
            self.finish(True)

    def handle_read_event(self) -> None:
        if self.socket and not self.connecting:
            self.finish(bool(re.match(rb"HTTP/1\.[01] [23]\d\d", self.socket.recv(64))))

    def finish(self, passed: bool) -> None:
        self.reset()
        if passed:
            self.passed()


class CommandCheck:
    """Passes when a shell command exits with status 0. supervisord's waitpid reports the exit."""

    def __init__(self, command: str, passed: Passed, commands: dict[int, Callable[[int], None]]) -> None:
        self.command, self.passed, self.commands = command, passed, commands
        self.pid = 0

    def start(self) -> None:
        if not self.pid:
            null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
            words = ["sh", "-c", self.command]
            self.pid = os.posix_spawn("/bin/sh", words, os.environ, file_actions=null, setpgroup=0, setsigmask=())
            self.commands[self.pid] = self.ended

    def ended(self, status: int) -> None:
        self.pid = 0
        if status == 0:
            self.passed()

    def reset(self) -> None:
        if self.pid:
            self.commands[self.pid] = lambda status: None
            os.killpg(self.pid, signal.SIGKILL)
        self.pid = 0


class LogCheck:
    """Passes when the program writes a line that matches a pattern."""

    def __init__(self, pattern: str, passed: Passed) -> None:
        self.pattern, self.passed = re.compile(pattern.encode(), re.MULTILINE), passed
        self.unfinished = b""

    def feed(self, data: bytes) -> None:
        lines, _, self.unfinished = (self.unfinished + data).rpartition(b"\n")
        self.unfinished = self.unfinished[-MAX_LINE_BYTES:]
        if lines and self.pattern.search(lines):
            self.passed()

    def start(self) -> None:
        """Do nothing: `feed` receives the lines."""

    reset = start


class NotifyCheck:
    """Passes when the program sends READY=1, as with systemd. Belongs in the socket map."""

    def __init__(self, passed: Passed, sockets: dict[int, Any]) -> None:
        self.passed, self.sockets = passed, sockets
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind("")  # an abstract name that the kernel chooses
        self.address = "@" + self.socket.getsockname()[1:].decode()
        sockets[self.socket.fileno()] = self

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        if b"READY=1" in self.socket.recv(4096).split(b"\n"):
            self.passed()

    def handle_error(self) -> None:
        """Ignore the error: the next message may be valid."""

    start = reset = handle_error

    def close(self) -> None:
        self.sockets.pop(self.socket.fileno(), None)
        self.socket.close()


class Watch:
    """Schedules a check, and knows when the program last passed it."""

    def __init__(self, limit: float, make: Callable[[Passed], Any], eager: bool) -> None:
        """Make a watch. `limit` is in seconds; an `eager` watch checks often at first and needs one pass only."""
        self.limit, self.eager = limit, eager
        self.check = make(self.passed)
        self.key: object = None  # identifies the process; a new key restarts the watch; None: no process
        self.now = self.due = self.begun = self.last = self.checked = 0.0
        self.seen = False

    def passed(self, age: float = 0.0) -> None:
        """Record a pass. The sign of life is `age` seconds old, but newer than the last check."""
        self.seen, self.last = True, self.now - min(max(age, 0.0), self.now - self.checked)

    def begin(self, key: object, now: float) -> None:
        self.key, self.now, self.begun, self.last, self.checked, self.seen = key, now, now, now, now, False
        self.due = now + (FIRST_PAUSE_SECONDS if self.eager else self.limit / CHECKS_PER_LIMIT / CHECKS_PER_LIMIT)
        self.check.reset()

    def turn(self, key: object, now: float) -> float:
        """Run the check if it is due. Return the seconds until the next turn."""
        self.now = now
        pause = self.limit / CHECKS_PER_LIMIT
        if key != self.key or (key and now > self.due + pause):  # a new process, or the container was paused
            self.begin(key, now)
        elif key and now >= self.due:
            self.check.start()
            self.checked = now
            growing = max(FIRST_PAUSE_SECONDS, min(MAX_PAUSE_SECONDS, (now - self.begun) / CHECKS_PER_LIMIT))
            self.due = min(now + (min(growing, pause) if self.eager else pause), max(now, self.last + self.limit))
        return self.due - now if key else self.limit

    def close(self) -> None:
        getattr(self.check, "close", self.check.reset)()

    def late(self) -> bool:
        """Return whether the last pass is older than the limit."""
        return self.key is not None and self.now >= self.last + self.limit


def make_watch(target: str, limit: float, eager: bool, sockets: dict[int, Any], commands: dict[int, Any]) -> Watch:
    """Make a watch from the value of `ready` or `alive`, such as http://127.0.0.1:8000/healthz."""
    kind, _, rest = target.partition(":")
    makers: dict[str, Callable[[Passed], Any]] = {
        "http": lambda passed: AddressCheck(target, passed, sockets),
        "tcp": lambda passed: AddressCheck(target, passed, sockets),
        "exec": lambda passed: CommandCheck(rest, passed, commands),
        "log": lambda passed: LogCheck(rest, passed),
        "notify": lambda passed: NotifyCheck(passed, sockets),
    }
    return Watch(limit, makers.get(kind, lambda passed: FileCheck(target, passed)), eager)
