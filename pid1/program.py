"""One process of supervisord's: its state, its starts and restarts, its checks and its output."""

from __future__ import annotations

import enum
import fcntl
import math
import os
import signal
from contextlib import suppress
from typing import Any

from supervisor.datatypes import RestartUnconditionally
from supervisor.dispatchers import POutputDispatcher
from supervisor.options import BadCommand, EventListenerConfig, decode_wait_status
from supervisor.states import ProcessStates, SupervisorStates

from pid1.checks import LogCheck, NotifyCheck, Watch, make_watch
from pid1.output import F_SETPIPE_SZ, Relay
from pid1.settings import read_env_file

MIN_RUN_SECONDS = 1.0  # a shorter run is a failed start, even if startsecs is shorter
READ_BYTES = 2**17  # supervisord's read size, and so the pipe's: at a program's end, any more would be lost


class State(enum.Enum):
    """The state of a program."""

    WAITING = "waiting"  # waits for its dependencies
    STARTING = "starting"  # has run for less than startsecs, and is not ready
    STARTED = "started"  # has run for startsecs, and is not ready
    READY = "ready"
    BACKOFF = "backoff"  # ended, will start again
    STOPPING = "stopping"
    STOPPED = "stopped"  # stopped by supervisorctl, or never started
    DONE = "done"  # ended as expected, for good
    FAILED = "failed"  # ended, and will not start again


SATISFIED_IN = {
    "started": (State.STARTED, State.READY, State.DONE),
    "ready": (State.READY, State.DONE),
    "exited": (State.DONE,),
}


class Program:
    """A process of supervisord's, whose methods it replaces."""

    def __init__(self, process: Any, plugin: Any) -> None:
        self.process, self.config, self.plugin = process, process.config, plugin
        self.name, self.settings = process.config.name, process.config.pid1
        self.state = State.WAITING if self.config.autostart else State.STOPPED
        self.since = plugin.now()  # monotonic time of the last change of state
        self.spawned = self.due = 0.0  # monotonic times: the last start; the earliest next start
        self.starts = self.failed_starts = 0  # all starts; failed starts in a row
        self.status: int | None = None  # the last exit status, -N for signal N; None if nothing could run
        self.wait_status: int | None = None  # as waitpid returned it
        self.killed_because = ""
        self.ready = self._watch(self.settings.ready, self.settings.ready_timeout, True)
        self.alive = self._watch(self.settings.alive, self.settings.alive_timeout, False)
        self.stock = {name: getattr(process, name) for name in ("transition", "finish", "get_execv_args")}
        self.stock_dispatchers, self.config.make_dispatchers = self.config.make_dispatchers, self.make_dispatchers
        process.pid1 = self
        for name in self.stock:
            setattr(process, name, getattr(self, name))

    def _watch(self, target: str, limit: float, eager: bool) -> Watch | None:
        sockets = self.plugin.options.get_socket_map()
        return make_watch(target, limit, eager, sockets, self.plugin.commands) if target else None

    def close(self) -> None:
        for watch in filter(None, (self.ready, self.alive)):
            watch.close()

    # States

    def on_event(self, event: Any) -> None:
        """React to a new state of supervisord's process."""
        if self.process.state == ProcessStates.BACKOFF and event.from_state == ProcessStates.EXITED:
            return  # change_state below sent this event
        new = self._next_state(self.plugin.now())
        self.enter(new)
        if new is State.BACKOFF and self.process.state == ProcessStates.EXITED:
            self.process.change_state(ProcessStates.BACKOFF)  # so that supervisorctl can stop it
        elif new is State.FAILED and self.process.state != ProcessStates.FATAL:
            self.process.change_state(ProcessStates.FATAL)

    def enter(self, state: State) -> None:
        if state is not self.state:
            self.state, self.since = state, self.plugin.now()
            self.plugin.changed(self)

    def _next_state(self, now: float) -> State:
        """Return the state that follows from the state of supervisord's process."""
        state = self.process.state
        if state == ProcessStates.STARTING:
            self.starts, self.spawned, self.wait_status, self.killed_because = self.starts + 1, now, None, ""
            if self.ready:  # from now on, only the new process changes the file
                self.ready.begin(self.starts, now)
            return State.STARTING
        if state == ProcessStates.RUNNING:
            return State.STARTED if self.ready and self.state is not State.READY else State.READY
        if state == ProcessStates.STOPPING:
            return State.STOPPING
        if state == ProcessStates.STOPPED:
            self.failed_starts = 0
            return State.STOPPED
        if state in (ProcessStates.EXITED, ProcessStates.BACKOFF):
            return self._after_end(now)
        return self.state

    def _after_end(self, now: float) -> State:
        """Return the state after the process ended: done, failed, or backoff with the time of the next start."""
        self.status = exit_code(self.wait_status)
        failed_start = self.state is not State.READY or now - self.spawned < MIN_RUN_SECONDS
        if self._is_success():
            return State.DONE
        if self.status in self.settings.give_up_on or not (self.config.autorestart or failed_start):
            return State.FAILED
        self.failed_starts = self.failed_starts + 1 if failed_start else 0
        if 0 <= self.config.startretries < self.failed_starts:  # negative: no limit
            return State.FAILED
        delay = self.settings.restart_delay * 2 ** min(self.failed_starts - 1, 30) if failed_start else 0
        self.due = now + min(delay, self.settings.restart_delay_max)
        return State.BACKOFF

    def _is_success(self) -> bool:
        """Return whether the process ended as expected and will not start again."""
        return self.status in self.config.exitcodes and self.config.autorestart is not RestartUnconditionally

    def satisfies(self, state: str) -> bool:
        return self.state in SATISFIED_IN[state]

    def shell_status(self) -> int:
        """The exit status as a shell gives it: 128 + N for signal N, 127 if nothing could run."""
        return 127 if self.status is None else 128 - self.status if self.status < 0 else self.status

    def how_it_ended(self) -> str:
        if self.wait_status is None:
            return str(self.process.spawnerr)
        return self.killed_because or str(decode_wait_status(self.wait_status)[1])

    def is_out_of_work(self) -> bool:
        """Return whether the container may end without this program. Event listeners only serve the others."""
        idle = self.state is State.DONE or not (self.starts or self.config.autostart)
        return idle or isinstance(self.config, EventListenerConfig)

    # What supervisord calls

    def transition(self) -> None:
        """Start the process when it is due. supervisord calls this in each pass, and still decides when to kill."""
        if self.process.state not in (ProcessStates.STOPPED, ProcessStates.EXITED, ProcessStates.BACKOFF):
            self.stock["transition"]()
            return
        due = self.state is State.WAITING or (self.state is State.BACKOFF and self.plugin.now() >= self.due)
        if due and self.plugin.options.mood == SupervisorStates.RUNNING:
            unmet = self.plugin.unmet(self)
            if not unmet:
                self.process.spawn()
            elif self.process.state != ProcessStates.BACKOFF:
                # supervisorctl can stop a process in BACKOFF. There is no event, because nothing failed.
                self.process.state, self.process.spawnerr = ProcessStates.BACKOFF, f"waiting for {unmet}"

    def get_execv_args(self) -> Any:
        """Return the command, and set the child's environment. Raises BadCommand if env_file cannot be read."""
        environment = self.plugin.child_environment = {}
        if self.ready and isinstance(self.ready.check, NotifyCheck):
            environment["NOTIFY_SOCKET"] = self.ready.check.address
        if self.settings.env_file:
            try:
                environment.update(read_env_file(self.settings.env_file))
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                raise BadCommand(f"cannot read env_file {self.settings.env_file}: {why}") from None
        return self.stock["get_execv_args"]()

    def make_dispatchers(self, process: Any) -> Any:
        """Return supervisord's dispatchers, with a relay in place of each one that has no log file."""
        dispatchers, pipes = self.stock_dispatchers(process)
        for channel, fd in self.settings.relayed:
            stock = dispatchers.get(pipes[channel])
            if type(stock) is POutputDispatcher:
                relay = dispatchers[stock.fd] = Relay(process, stock.event_type, stock.fd)
                relay.stream = self.plugin.output.streams.get(fd)
                relay.watch = self.watch_output
                with suppress(OSError):
                    fcntl.fcntl(stock.fd, F_SETPIPE_SZ, READ_BYTES)
        return dispatchers, pipes

    def watch_output(self, data: bytes) -> None:
        """Pass the output to the `log:` check until the program is ready."""
        if self.ready and isinstance(self.ready.check, LogCheck) and self.state is not State.READY:
            self.ready.check.feed(data)

    def finish(self, pid: int, wait_status: int) -> None:
        """Log the last output of the process that ended, then let supervisord report its end."""
        relays = [each for each in self.process.dispatchers.values() if isinstance(each, Relay)]
        for relay in relays:
            relay.ended = True
        self.process.drain()
        for relay in relays:
            relay.finish()
        self.wait_status, self.status = wait_status, exit_code(wait_status)
        startsecs = self.config.startsecs
        if self._is_success():
            self.config.startsecs = 0  # else supervisord takes a quick end for a failure
        try:
            self.stock["finish"](pid, wait_status)
        finally:
            self.config.startsecs = startsecs

    # Checks

    def turn(self, now: float) -> float:
        """Run the checks that are due. Return the seconds until the next turn."""
        waits = [self.due - now if self.state is State.BACKOFF and self.due > now else math.inf]
        if self.ready:
            waits.append(self.ready.turn(self.starts if self.state in (State.STARTING, State.STARTED) else None, now))
            if self.ready.seen and self.state in (State.STARTING, State.STARTED):
                self.enter(State.READY)
            elif self.ready.late():
                self.kill(self.ready, f"was not ready within {self.settings.ready_timeout:g} s")
        if self.alive:
            waits.append(self.alive.turn(self.starts if self.state is State.READY else None, now))
            if self.alive.late():
                self.kill(self.alive, f"hangs, no sign of life from {self.settings.alive}")
        return min(waits)

    def kill(self, watch: Watch, why: str) -> None:
        """Kill the process with SIGKILL, or its group with `killasgroup` or `stopasgroup`."""
        watch.last, self.killed_because = watch.now, why
        group = self.config.killasgroup or self.config.stopasgroup
        self.plugin.options.logger.error(f"{self.name} {why}: killing {'its group' if group else 'it'}")
        self.plugin.options.kill(-self.process.pid if group else self.process.pid, signal.SIGKILL)


def exit_code(wait_status: int | None) -> int | None:
    """Return the exit status, -N for signal N. Python 3.8 lacks os.waitstatus_to_exitcode."""
    if wait_status is None:
        return None
    return -os.WTERMSIG(wait_status) if os.WIFSIGNALED(wait_status) else os.WEXITSTATUS(wait_status)
