"""Programs that are alive but hung are killed, so that supervisord restarts them, and them alone."""

import os
import signal
import time
from contextlib import suppress
from typing import Any

from supervisor.http_client import HTTPHandler, Listener
from supervisor.states import ProcessStates

ASKS = 4  # a deadline: three misses in a row end before it, and a container that was paused misses but one


class Check(Listener):
    """Asks a program for a sign of life, ASKS times a deadline, while supervisord has it RUNNING."""

    def __init__(self, options: Any, processes: list[Any], key: str, value: str) -> None:
        """From a setting `alive.PROGRAM = FILE-OR-URL SECONDS`. Raises ValueError."""
        found = [process for process in processes if f"alive.{process.config.name}" == key]
        if not found:
            raise ValueError(f"{key}: there is no such setting or program: give forward, give_up_on, alive.PROGRAM")
        self.target, _, seconds = value.partition(" ")
        if not self.target.startswith(("/", "http://")) or not seconds.isdecimal() or not int(seconds):
            raise ValueError(f"{key}: {value!r} is not an absolute path or an http:// address, then seconds")
        self.options, self.process, self.deadline = options, found[0], int(seconds)
        self.pid, self.due, self.misses = 0, 0.0, 0
        self.sign: Any = None  # the file's time, or whether the request was answered
        self.request: Any = None
        self.error = self.feed = lambda *why: None  # no answer is all there is to know, nor does the body matter

    def turn(self) -> float:
        """Do what is due; returns the seconds until the next turn."""
        now, pid = time.monotonic(), self.process.pid if self.process.state == ProcessStates.RUNNING else 0
        if pid != self.pid:
            self.pid, self.due, self.misses = pid, now, -1  # at first there is nothing to compare with
        if pid and now >= self.due:
            self.due = now + self.deadline / ASKS
            self.misses = 0 if self.alive() else self.misses + 1
            if self.misses == ASKS - 1:
                self.options.logger.error(f"{self.process.config.name} hangs, {self.target} shows no life: killing it")
                self.options.kill(pid, signal.SIGKILL)
        return self.due - now if pid else self.deadline

    def alive(self) -> bool:
        """Whether the file was touched, or the address answered, since the last time."""
        before = self.sign
        if self.target.startswith("/"):
            self.sign = os.stat(self.target).st_mtime_ns if os.path.exists(self.target) else before
            return bool(self.sign != before)
        if self.request:
            self.request.close()
        self.sign, self.request = False, HTTPHandler(self)
        host, _, path = self.target.removeprefix("http://").partition("/")
        with suppress(OSError):
            self.request.get(f"http://{host}", f"/{path}")  # in supervisord's loop: nobody waits for it
        return bool(before)

    def status(self, url: str, status: int) -> None:
        self.sign = status == 200
