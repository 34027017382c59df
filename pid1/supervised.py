"""One program of supervisord's: when it starts, what its end means, where its output goes."""

from __future__ import annotations

import fcntl
import math
import os
import signal
from contextlib import suppress
from typing import Any

from supervisor.datatypes import RestartUnconditionally, RestartWhenExitUnexpected
from supervisor.dispatchers import POutputDispatcher
from supervisor.options import BadCommand, EventListenerConfig, decode_wait_status
from supervisor.states import ProcessStates, SupervisorStates

from pid1.checks import LogCheck, NotifyCheck, Watch, make_watch
from pid1.output import F_SETPIPE_SZ, Relay
from pid1.program import RUNS, Event, Program, Restart, State
from pid1.settings import read_env_file

READ_BYTES = 2**17  # what supervisord reads at once: more in a pipe would be lost at the end of a program
RESTARTS = {RestartUnconditionally: Restart.ALWAYS, RestartWhenExitUnexpected: Restart.UNEXPECTED}
EVENTS = {
    ProcessStates.STARTING: Event.SPAWNED,
    ProcessStates.RUNNING: Event.STAYED,
    ProcessStates.STOPPING: Event.STOP_SENT,
    ProcessStates.STOPPED: Event.STOPPED,
    ProcessStates.EXITED: Event.ENDED,
    ProcessStates.BACKOFF: Event.ENDED,
}


class Supervised:
    """Stands before methods of a supervisord process, which supervisord calls as before."""

    def __init__(self, process: Any, plugin: Any) -> None:
        config, settings = process.config, process.config.pid1
        self.process, self.plugin, self.settings = process, plugin, settings
        restart = RESTARTS.get(config.autorestart, Restart.NEVER)
        self.program = Program(
            config.name, settings, restart, config.exitcodes, config.startretries, bool(config.autostart)
        )
        self.wait_status: int | None = None  # of the last end
        self.killed_because = ""
        self.ready = self._watch(settings.ready, settings.ready_timeout, True)
        self.alive = self._watch(settings.alive, settings.alive_timeout, False)
        self.stock_transition, self.stock_finish = process.transition, process.finish
        self.stock_execv_args, self.stock_dispatchers = process.get_execv_args, config.make_dispatchers
        process.pid1, process.transition, process.finish = self, self.transition, self.finish
        process.get_execv_args, config.make_dispatchers = self.get_execv_args, self.make_dispatchers

    def _watch(self, target: str, limit: float, hurried: bool) -> Watch | None:
        sockets = self.plugin.options.get_socket_map()
        return make_watch(target, limit, hurried, sockets, self.plugin.commands) if target else None

    def close(self) -> None:
        for watch in filter(None, (self.ready, self.alive)):
            watch.close()

    def transition(self) -> None:
        """supervisord asks once a pass; it knows when to kill, but not when to start."""
        running = self.plugin.options.mood == SupervisorStates.RUNNING
        if self.process.state not in (ProcessStates.STOPPED, ProcessStates.EXITED, ProcessStates.BACKOFF):
            self.stock_transition()
        elif running and self.program.may_start(self.plugin.now()) and not self.plugin.unmet(self):
            self.process.spawn()

    def get_execv_args(self) -> Any:
        """supervisord asks right before it forks. Raises BadCommand."""
        self.plugin.child_environment = {}
        if self.ready and isinstance(self.ready.check, NotifyCheck):
            self.plugin.child_environment["NOTIFY_SOCKET"] = self.ready.check.address
        if self.settings.env_file:
            try:
                self.plugin.child_environment.update(read_env_file(self.settings.env_file))
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                raise BadCommand(f"cannot read env_file {self.settings.env_file}: {why}") from None
        return self.stock_execv_args()

    def make_dispatchers(self, process: Any) -> Any:
        dispatchers, pipes = self.stock_dispatchers(process)
        for channel, fd in self.settings.relayed:
            stock = dispatchers.get(pipes[channel])
            if type(stock) is POutputDispatcher:
                relay = dispatchers[stock.fd] = Relay(process, stock.event_type, stock.fd)
                relay.stream = self.plugin.output.streams.get(fd)
                relay.watch = self.watch_lines
                with suppress(OSError):
                    fcntl.fcntl(stock.fd, F_SETPIPE_SZ, READ_BYTES)
        return dispatchers, pipes

    def watch_lines(self, lines: bytes) -> None:
        if self.ready and isinstance(self.ready.check, LogCheck) and self.program.state is not State.READY:
            self.ready.check.feed(lines)

    def finish(self, pid: int, wait_status: int) -> None:
        """supervisord reaped the process: note how it ended, and show its last words before supervisord tells."""
        relays = [each for each in self.process.dispatchers.values() if isinstance(each, Relay)]
        for relay in relays:
            relay.ended = True
        self.process.drain()
        for relay in relays:
            relay.finish()
        self.wait_status = wait_status
        config, startsecs = self.process.config, self.process.config.startsecs
        if self.program.is_success(exit_code(wait_status)):
            config.startsecs = 0  # it was quick, and is done
        try:
            self.stock_finish(pid, wait_status)
        finally:
            config.startsecs = startsecs

    def on_event(self, event: Any) -> None:
        """supervisord changed the state of the process."""
        state, now = self.process.state, self.plugin.now()
        if state not in EVENTS or (state == ProcessStates.BACKOFF and event.from_state == ProcessStates.EXITED):
            return  # a change that was made below
        if state == ProcessStates.STARTING:
            self.wait_status, self.killed_because = None, ""
            if self.ready:  # a file that changes from now on is the new process's
                self.ready.begin(self.program.starts + 1, now)
        new = self.program.advance(EVENTS[state], now, exit_code(self.wait_status))
        if new is State.BACKOFF and state == ProcessStates.EXITED:
            self.process.change_state(ProcessStates.BACKOFF)  # so that supervisorctl can stop it
        elif new is State.FAILED:
            self.process.change_state(ProcessStates.FATAL)

    def turn(self, now: float) -> float:
        """Do what is due; returns the seconds until the next turn."""
        state, waits = self.program.state, [math.inf]
        if self.ready:
            waits.append(self.ready.turn(self.program.starts if state in RUNS[:2] else None, now))
            if self.ready.seen:
                self.program.advance(Event.PASSED, now)
                self.plugin.changed(self)
            elif self.ready.late():
                self.kill(self.ready, f"was not ready within {self.settings.ready_timeout:g} s")
        if self.alive:
            waits.append(self.alive.turn(self.program.starts if state is State.READY else None, now))
            if self.alive.late():
                self.kill(self.alive, f"hangs, {self.settings.alive} shows no life")
        if state is State.BACKOFF:
            waits.append(self.program.due - now)
        return min(waits)

    def kill(self, watch: Watch, why: str) -> None:
        watch.last, self.killed_because = watch.now, why
        group = self.process.config.killasgroup or self.process.config.stopasgroup
        self.plugin.options.logger.error(f"{self.program.name} {why}: killing {'its group' if group else 'it'}")
        self.plugin.options.kill(-self.process.pid if group else self.process.pid, signal.SIGKILL)

    def is_out_of_work(self) -> bool:
        """Whether it is done or was never started; event listeners serve the others only."""
        config = self.process.config
        idle = self.program.state is State.DONE or not (self.program.starts or config.autostart)
        return idle or isinstance(config, EventListenerConfig)

    def how_it_ended(self) -> str:
        if self.wait_status is None:
            return str(self.process.spawnerr)
        return self.killed_because or str(decode_wait_status(self.wait_status)[1])


def exit_code(wait_status: int | None) -> int | None:
    """The exit status, -N for signal N. (os.waitstatus_to_exitcode is not in Python 3.8.)"""
    if wait_status is None:
        return None
    return -os.WTERMSIG(wait_status) if os.WIFSIGNALED(wait_status) else os.WEXITSTATUS(wait_status)
