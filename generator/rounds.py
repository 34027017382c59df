"""The generator at work: a number a round, signals between rounds, trouble told once."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

from generator.cadence import next_round
from generator.datafile import DataFile, Locked
from generator.settings import Settings

STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
SIGNALS = STOP | {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
BATCH = 4096  # lines a write at interval 0: some 24 KB
RETRY = 1.0  # seconds between tries while writing fails, and between heartbeats


def say(text: str) -> None:
    """A line on stderr; nobody reading it is no reason to end."""
    with contextlib.suppress(OSError):
        os.write(2, os.fsencode(f"{text}\n"))


class Numbers:
    """Random numbers as lines; the same seed gives the same lines, in batches of any size."""

    def __init__(self, settings: Settings) -> None:
        self.range = range(settings.min, settings.max + 1)
        self.random = random.Random(settings.seed)

    def lines(self, count: int) -> bytes:
        return b"%d\n" * count % tuple(self.random.choices(self.range, k=count))


class Rounds:
    """Appends numbers to an open data file until told to stop or done."""

    def __init__(self, settings: Settings, file: DataFile) -> None:
        self.settings = settings
        self.file = file
        self.numbers = Numbers(settings)
        self.written = 0
        self.pending = b""  # drawn, not yet in the file
        self.problem = ""
        self.verbose = False

    def run(self) -> int:
        """Returns 0. The signals of SIGNALS must be blocked: they are taken between lines."""
        due = time.monotonic()
        while True:
            self._beat()
            self._round()
            if self.settings.count and self.written == self.settings.count:
                break
            due = next_round(due, RETRY if self.problem else self.settings.interval, time.monotonic())
            if stop := self._wait(due):
                say(f"stopped by {stop.name}: {self._status()}")
                return 0
        say(f"done: {self._status()}")
        return 0

    def _round(self) -> None:
        try:
            self._heed_changes()
            self.pending = self.pending or self.numbers.lines(self._batch())
            kept = self.file.append(self.pending)
        except OSError as error:
            self._trouble(f"{error.filename or self.file.path}: {error.strerror}")
            return
        except Locked as error:
            self._trouble(str(error))
            return
        done, self.pending = self.pending[:kept], self.pending[kept:]
        self.written += done.count(b"\n")
        if self.problem and done:
            say("writing again")
            self.problem = ""
        if self.verbose and done:
            say(f"wrote {', '.join(done.decode().split())}")

    def _batch(self) -> int:
        if self.settings.interval:
            return 1
        room = self.settings.count - self.written if self.settings.count else BATCH
        widest = 1 + max(len(str(self.settings.min)), len(str(self.settings.max)))
        fits = self.settings.max_size // widest if self.settings.max_size else BATCH
        return min(BATCH, room, fits)

    def _heed_changes(self) -> None:
        change = self.file.changed()
        if not change:
            return
        if self.file.truncated():
            self.file.renew()
        elif told := self.file.reopen():
            say(told)
        say(f"{self.file.path} {change}: going on with what is there now")

    def _trouble(self, problem: str) -> None:
        if problem != self.problem:
            say(f"cannot write, trying again every {RETRY:g} s: {problem}")
        self.problem = problem

    def _wait(self, due: float) -> signal.Signals | None:
        """Wait until `due`, beating and answering signals; returns the signal that says stop."""
        while True:
            left = due - time.monotonic()
            got = signal.sigtimedwait(SIGNALS, min(max(left, 0), RETRY))
            if got is not None and (name := signal.Signals(got.si_signo)) in STOP:
                return name
            if got is not None:
                self._answer(signal.Signals(got.si_signo))
            elif left <= RETRY:
                return None
            self._beat()

    def _answer(self, received: signal.Signals) -> None:
        if received == signal.SIGHUP:
            say(f"SIGHUP: reopening {self.file.path}")
            self.file.close()
        elif received == signal.SIGUSR1:
            say(f"SIGUSR1: {self._status()}")
        else:
            self.verbose = not self.verbose
            say(f"SIGUSR2: {'telling' if self.verbose else 'no longer telling'} every number")

    def _beat(self) -> None:
        if self.settings.heartbeat:
            with contextlib.suppress(OSError):  # its age tells
                touch(self.settings.heartbeat)

    def _status(self) -> str:
        trouble = f", cannot write: {self.problem}" if self.problem else ""
        return f"{self.written} numbers written, {self.file.path} has {self.file.size} bytes{trouble}"


def touch(path: Path) -> None:
    """Set a file's modification time to now, creating it if need be."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o664)
    try:
        os.utime(fd)
    finally:
        os.close(fd)
