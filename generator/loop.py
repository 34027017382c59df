"""The generator's loop: it writes one number per interval, answers signals and logs each fault once."""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from generator.folder import DataFolder
from generator.numbers import Numbers
from generator.settings import Settings
from generator.signals import STOP, Signals

BATCH_LINES = 16384  # per write at interval 0: about 96 KB
RETRY_SECONDS = 1.0  # between attempts while writing fails
BEAT_SECONDS = 0.5  # between heartbeats
CHECK_SECONDS = 0.01  # at least, between checks of the folder


def log(text: str) -> None:
    """Write a line to stderr. Write errors are ignored."""
    with contextlib.suppress(OSError):
        os.write(2, os.fsencode(f"{text}\n"))


def touch(path: Path) -> None:
    """Set a file's modification time to now; create it if it is missing."""
    with path.open("ab") as file:
        os.utime(file.fileno())


def next_due(previous: float, interval: float, now: float) -> float:
    """Return when the number after `previous` is due, in seconds of the monotonic clock.

    Due times are counted from the first, so lateness does not add up. After a pause of more than one interval
    (a suspended machine, a hung disk) the missed times are skipped.
    """
    due = previous + interval
    return due if now - due <= interval else now


class Loop:
    """Appends numbers to a data folder until stopped or done."""

    def __init__(self, settings: Settings, folder: DataFolder) -> None:
        self.settings = settings
        self.folder = folder
        self.numbers = Numbers(settings.min, settings.max, settings.seed)
        widest = 1 + max(len(str(settings.min)), len(str(settings.max)))
        self.batch = 1 if settings.interval else min(BATCH_LINES, (settings.segment_size or sys.maxsize) // widest)
        self.written = 0
        self.pending = b""  # generated, not yet written
        self.problem = ""
        self.verbose = False
        self.check_due = self.beat_due = 0.0

    def run(self, signals: Signals) -> int:
        """Return 0 when stopped or done."""
        due = time.monotonic()
        while True:
            self._write()
            if self.settings.count and self.written == self.settings.count:
                log(f"done: {self._status()}")
                break
            due = next_due(due, RETRY_SECONDS if self.problem else self.settings.interval, time.monotonic())
            if stop := self._wait(signals, due):
                log(f"stopped by {stop.name}: {self._status()}")
                break
        self.folder.stop()
        return 0

    def _write(self) -> None:
        try:
            if (now := time.monotonic()) >= self.check_due:
                if change := self.folder.check():
                    log(change)
                self.check_due = now + CHECK_SECONDS
            left = (self.settings.count or sys.maxsize) - self.written
            self.pending = self.pending or self.numbers.lines(min(self.batch, left))
            kept = self.folder.append(self.pending)
        except OSError as error:
            problem = f"{error.filename or self.folder.path}: {error.strerror}" if error.strerror else str(error)
            if problem != self.problem:
                log(f"cannot write, trying again every {RETRY_SECONDS:g} s: {problem}")
            self.problem, self.check_due = problem, 0
            return
        done, self.pending = self.pending[:kept], self.pending[kept:]
        self.written += done.count(b"\n")
        if self.problem:
            log("writing again")
            self.problem = ""
        if self.verbose:
            log(f"wrote {', '.join(done.decode().split())}")

    def _wait(self, signals: Signals, due: float) -> signal.Signals | None:
        """Wait until `due`; meanwhile write heartbeats and answer signals. Return a signal that stops the program."""
        while True:
            self._beat()
            left = due - time.monotonic()
            received = signals.wait(min(left, BEAT_SECONDS))
            if stop := received & STOP:
                return stop.pop()
            for other in received:
                self._answer(other)
            if left <= 0:
                return None

    def _answer(self, received: signal.Signals) -> None:
        if received == signal.SIGHUP:
            log(f"SIGHUP: reopening {self.folder.path}")
            self.folder.close()
            self.check_due = 0
        elif received == signal.SIGUSR1:
            log(f"SIGUSR1: {self._status()}")
        else:
            self.verbose = not self.verbose
            log(f"SIGUSR2: {'logging' if self.verbose else 'no longer logging'} every number")

    def _beat(self) -> None:
        """Show that the process is alive, also while it cannot write: echo's /readyz reports missing numbers."""
        if self.settings.heartbeat and (now := time.monotonic()) >= self.beat_due:
            self.beat_due = now + BEAT_SECONDS
            with contextlib.suppress(OSError):  # the file's age shows the failure
                touch(self.settings.heartbeat)

    def _status(self) -> str:
        fault = f", cannot write: {self.problem}" if self.problem else ""
        segment = self.folder.file(self.folder.segment) if self.folder.segment.stream else self.folder.path
        return f"{self.written} numbers written, {segment} has {self.folder.size} bytes{fault}"
