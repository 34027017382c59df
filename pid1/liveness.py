"""Programs that are alive but hung are killed, so that supervisord restarts them, and them alone."""

import os
import re
import signal
import time
from contextlib import suppress
from typing import Any

from supervisor.http_client import HTTPHandler, Listener
from supervisor.states import ProcessStates

LOOKS = 4  # in the time that a program may be without a sign of life


class Check(Listener):
    """Looks for signs of life of a program while supervisord has it RUNNING."""

    def __init__(self, options: Any, processes: list[Any], key: str, value: str) -> None:
        """From a setting `alive.PROGRAM = FILE-OR-URL SECONDS`. Raises ValueError."""
        found = [process for process in processes if f"alive.{process.config.name}".lower() == key]
        self.target, _, seconds = value.rpartition(" ")
        right = re.fullmatch(r"/.*|http://[^/:\[]+(:[0-9]+)?(/.*)?", self.target) and seconds.isdecimal()
        if not found or not right or not int(seconds):
            raise ValueError(f"{key} = {value}: give alive.PROGRAM = FILE SECONDS or http://ADDRESS/PATH SECONDS")
        self.options, self.process, self.limit = options, found[0], int(seconds)
        self.pid, self.due, self.last = 0, 0.0, 0.0
        self.request: Any = None  # under way
        self.error = self.close = lambda *why: setattr(self, "request", None)
        self.feed = lambda *body: None

    def turn(self) -> float:
        """Do what is due; returns the seconds until the next turn."""
        now, pid = time.monotonic(), self.process.pid if self.process.state == ProcessStates.RUNNING else 0
        if pid != self.pid or now > self.due + self.limit / LOOKS:  # another process, or a container that was paused
            self.pid, self.due, self.last = pid, now + self.limit / LOOKS / LOOKS, now
            if self.request:
                self.request.close()
        elif pid and now >= self.due:
            self.last = max(self.last, self.look(now))
            self.due = min(now + self.limit / LOOKS, self.last + self.limit)
            if now >= self.last + self.limit:
                self.options.logger.error(f"{self.process.config.name} hangs, {self.target} shows no life: killing it")
                self.options.kill(pid, signal.SIGKILL)
                self.last = now
            return 0  # a request that was begun is to be polled for
        return self.due - now if pid else self.limit

    def look(self, now: float) -> float:
        """When the file was touched last; an address is asked, and tells by `status`."""
        if self.target.startswith("/"):
            with suppress(OSError):
                return now - max(0, time.time() - os.stat(self.target).st_mtime)
        elif not self.request:
            self.request = HTTPHandler(self)
            host, _, path = self.target.removeprefix("http://").partition("/")
            try:
                self.request.get(f"http://{host}", f"/{path}")
            except (OSError, OverflowError):  # refused, or no port
                self.request.close()
        return 0

    def status(self, url: str, status: int) -> None:
        self.last = time.monotonic() if status == 200 else self.last
