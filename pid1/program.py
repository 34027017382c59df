"""The life of a program: named states, and one function that goes from one to the next. Knows no process, no clock."""

from __future__ import annotations

import enum

from pid1.settings import ProgramSettings

MIN_RUN_SECONDS = 1.0  # a shorter run is a failed start, whatever startsecs says


class State(enum.Enum):
    WAITING = "waiting"  # for its dependencies
    STARTING = "starting"  # runs, neither for startsecs yet nor ready
    STARTED = "started"  # has run for startsecs, and is not ready
    READY = "ready"
    BACKOFF = "backoff"  # ended, will be started again
    STOPPING = "stopping"
    STOPPED = "stopped"  # by supervisorctl, or never started
    DONE = "done"  # ended as expected, for good
    FAILED = "failed"  # for good


class Event(enum.Enum):
    SPAWNED = "spawned"
    STAYED = "has run for startsecs"
    PASSED = "its ready check passed"
    ENDED = "ended"
    STOP_SENT = "was told to stop"
    STOPPED = "stopped"
    DOOMED = "a dependency failed"


class Restart(enum.Enum):
    """supervisord's autorestart."""

    ALWAYS = "true"
    UNEXPECTED = "unexpected"
    NEVER = "false"


RUNS = (State.STARTING, State.STARTED, State.READY)
SATISFIED_IN = {
    "started": (State.STARTED, State.READY, State.DONE),
    "ready": (State.READY, State.DONE),
    "exited": (State.DONE,),
}


class Program:
    """`status` is the last exit status, -N for signal N; None before the first end, and where nothing could run."""

    def __init__(
        self, name: str, settings: ProgramSettings, restart: Restart, expected: list[int], retries: int, autostart: bool
    ) -> None:
        """`retries` is supervisord's startretries: failed starts in a row, negative for no limit."""
        self.name, self.settings = name, settings
        self.restart, self.expected, self.retries = restart, expected, retries
        self.state = State.WAITING if autostart else State.STOPPED
        self.since = self.spawned = self.due = 0.0  # monotonic: in this state; last start; when the next one may be
        self.starts = self.failed_starts = 0
        self.status: int | None = None

    def advance(self, event: Event, now: float, status: int | None = None) -> State:
        """Go to the next state; `status` comes with ENDED."""
        if event is Event.SPAWNED:
            self.starts, self.spawned, new = self.starts + 1, now, State.STARTING
        elif event is Event.STAYED:
            new = State.STARTED if self.settings.ready and self.state is not State.READY else State.READY
        elif event is Event.PASSED:
            new = State.READY if self.state in RUNS else self.state
        elif event is Event.ENDED:
            self.status = status
            new = self._after_end(now)
        elif event is Event.STOP_SENT:
            new = State.STOPPING
        elif event is Event.STOPPED:
            self.failed_starts = 0
            new = State.STOPPED
        else:
            new = State.FAILED if self.state in (State.WAITING, State.BACKOFF) else self.state
        if new is not self.state:
            self.state, self.since = new, now
        return new

    def is_success(self, status: int | None) -> bool:
        """Whether an end with this status is the end for good, and as expected."""
        return status in self.expected and self.restart is not Restart.ALWAYS

    def _after_end(self, now: float) -> State:
        failed_start = self.state is not State.READY or now - self.spawned < MIN_RUN_SECONDS
        if self.is_success(self.status):
            return State.DONE
        if self.status in self.settings.give_up_on or (self.restart is Restart.NEVER and not failed_start):
            return State.FAILED
        self.failed_starts = self.failed_starts + 1 if failed_start else 0
        if 0 <= self.retries < self.failed_starts:
            return State.FAILED
        self.due = now + self._delay()
        return State.BACKOFF

    def _delay(self) -> float:
        """None after a good run, then doubling with each failed start."""
        if not self.failed_starts:
            return 0.0
        doublings = min(self.failed_starts - 1, 30)
        return min(self.settings.restart_delay * 2**doublings, self.settings.restart_delay_max)

    def may_start(self, now: float) -> bool:
        return self.state is State.WAITING or (self.state is State.BACKOFF and now >= self.due)

    def satisfies(self, state: str) -> bool:
        return self.state in SATISFIED_IN[state]

    def shell_status(self) -> int:
        """The exit status as a shell tells it: 128 + N for signal N, 127 where nothing could run."""
        return 127 if self.status is None else 128 - self.status if self.status < 0 else self.status
