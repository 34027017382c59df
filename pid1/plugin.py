"""The plugin. It replaces methods of supervisord's options to react at once and to exit with the right status."""

from __future__ import annotations

import math
import os
import signal
import time
from contextlib import suppress
from typing import Any, Callable

from supervisor import events
from supervisor.options import VERSION
from supervisor.states import RUNNING_STATES, STOPPED_STATES, ProcessStates, SupervisorStates

from pid1.order import stop_turns
from pid1.output import Output
from pid1.program import Program, State
from pid1.settings import PluginSettings
from pid1.status import Rpc

TESTED_VERSIONS = ("4.2.5", "4.3.0")
TIMED = (ProcessStates.STARTING, ProcessStates.STOPPING)


class Pid1:
    """The plugin object of one supervisord. `now` is the monotonic clock; tests replace it."""

    def __init__(self, supervisord: Any, settings: PluginSettings, output: Output) -> None:
        self.supervisord, self.options = supervisord, supervisord.options
        self.settings, self.output = settings, output
        self.now = time.monotonic
        self.held: set[int] = set()  # signals that wait to be forwarded
        self.commands: dict[int, Callable[[int], None]] = {}  # running exec: checks by PID
        self.child_environment: dict[str, str] = {}  # variables for the next child, on top of its configuration
        self.status, self.verdict = 0, ""
        self.stop_began = 0.0
        self.again = True  # the next pass is due at once; the first pass spawns
        self.stale = True  # the metrics file is out of date
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        self.stock_poll, self.options.poller.poll = self.options.poller.poll, self.poll
        self.stock = {name: getattr(self.options, name) for name in ("get_signal", "fork", "waitpid", "close_logger")}
        for name in self.stock:
            setattr(self.options, name, getattr(self, name))
        self.rpc = Rpc(self)
        self.groups: dict[str, list[Program]] = {}
        for name in supervisord.process_groups:
            self.supervise(name)
        # The command `pid1` blocked the signals. At this event, supervisord's handlers are installed.
        events.subscribe(events.SupervisorRunningEvent, lambda event: signal.pthread_sigmask(signal.SIG_SETMASK, ()))
        events.subscribe(events.SupervisorStoppingEvent, lambda event: self.begin_stop())
        events.subscribe(events.ProcessStateEvent, self.on_process)
        events.subscribe(events.ProcessGroupAddedEvent, lambda event: self.supervise(event.group))
        events.subscribe(events.ProcessGroupRemovedEvent, lambda event: self.forget(event.group))
        if VERSION not in TESTED_VERSIONS:
            tested = " and ".join(TESTED_VERSIONS)
            self.options.logger.warn(f"supervisor {VERSION} is untested; supervisor-pid1 is tested with {tested}")

    def supervise(self, group: str) -> None:
        """Take charge of the processes of a group."""
        processes = self.supervisord.process_groups[group].processes
        self.groups[group] = [Program(process, self) for process in processes.values()]
        for number in {number for each in self.groups[group] for number in each.settings.forward}:
            signal.signal(number, self.options.signal_receiver.receive)
        self.again = self.stale = True

    def forget(self, group: str) -> None:
        """Close the checks of a removed group."""
        for each in self.groups.pop(group):
            each.close()
        self.stale = True

    def programs(self) -> list[Program]:
        return [each for group in self.groups.values() for each in group]

    # Order

    def unmet(self, one: Program) -> str:
        """Return the first dependency that keeps a program from starting, or an empty string."""
        for name, state in one.settings.depends_on:
            found = [each for each in self.programs() if each.settings.program == name]
            if not found or not all(each.satisfies(state) for each in found):
                return f"{name}:{state}"
        return ""

    def dependants(self, one: Program) -> list[Program]:
        """Return the programs that depend on this one."""
        return [each for each in self.programs() if one.settings.program in dict(each.settings.depends_on)]

    def begin_stop(self) -> None:
        """Start the stop. Without this, supervisord would stop its groups one by one, each with its own deadline."""
        self.supervisord.stop_groups = []
        self.stop_began = self.now()

    def stop_in_turn(self, now: float) -> float:
        """Stop each program once its dependants have stopped. Return the seconds until the next turn.

        All programs share one deadline. Each turn gets an equal part, so no program uses up the others' time.
        """
        programs = self.programs()
        graph = {each.settings.program: list(dict(each.settings.depends_on)) for each in programs}
        turns = stop_turns({name: [need for need in needs if need in graph] for name, needs in graph.items()})
        seconds = max((each.config.stopwaitsecs for each in programs), default=0)
        share = seconds / (max(turns.values(), default=0) + 1)
        waits = [math.inf]
        for each in programs:
            if each.process.state in RUNNING_STATES:
                wait = self.stop_began + turns[each.settings.program] * share - now
                if wait <= 0 or all(other.process.state in STOPPED_STATES for other in self.dependants(each)):
                    each.process.stop()
                    each.process.delay = min(each.process.delay, time.time() + self.stop_began + seconds - now)
                else:
                    waits.append(wait)
        return min(waits)

    # The loop

    def poll(self, timeout: float) -> Any:
        """Wait for a signal, a file descriptor or the next timer. Do not wait if the last pass changed something."""
        now = self.now()
        self.forward_held()
        programs = self.programs()
        due = [each.turn(now) for each in programs]
        if self.supervisord.stopping:
            due.append(self.stop_in_turn(now))
        due += [each.process.delay - time.time() for each in programs if each.process.state in TIMED]
        if self.settings.metrics and self.stale:
            self.stale = False
            self.write_metrics()
        writable = [stream.fd for stream in self.output.pending()]
        timeout, self.again = 0 if self.again else max(0, min([timeout, *due])), False
        poller = self.options.poller
        poller.register_readable(self.reader)
        for fd in writable:
            poller.register_writable(fd)
        ready = self.stock_poll(timeout)
        for fd in writable:
            poller.unregister_writable(fd)
        for stream in self.output.streams.values():
            stream.drain(self.now())
        if self.reader in ready[0]:
            os.read(self.reader, 4096)
        return [fd for fd in ready[0] if fd != self.reader], [fd for fd in ready[1] if fd not in writable]

    def write_metrics(self) -> None:
        """Write the metrics file. Log an error, because a full disk must not stop the programs."""
        try:
            self.rpc.write_metrics(self.settings.metrics)
        except OSError as error:
            self.options.logger.error(f"cannot write {self.settings.metrics}: {error.strerror} (metrics)")

    def get_signal(self) -> Any:
        """Return the next signal for supervisord itself, or None. supervisord takes one signal per pass."""
        number = self.stock["get_signal"]()
        self.again |= number is not None
        if not any(number in each.settings.forward for each in self.programs()):
            return number
        self.held.add(number)
        return None

    def forward_held(self) -> None:
        """Forward signals once all receivers are ready. A signal kills a program that has no handler yet."""
        receivers = [each for each in self.programs() if each.process.pid and each.settings.forward & self.held]
        if any(each.state in (State.STARTING, State.STARTED) for each in receivers):
            return
        for each in receivers:
            for number in self.held & each.settings.forward:
                self.options.logger.info(f"forwarding {signal.Signals(number).name} to {each.name}")
                each.process.signal(number)
        self.held.clear()

    def fork(self) -> Any:
        """Fork, and reset signals in the child.

        Until exec, the child has supervisord's handlers, which swallow signals. Signals that Python ignores, such as
        SIGPIPE, would stay ignored after exec.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        pid = -1
        try:
            pid = self.stock["fork"]()
            if pid == 0:
                os.environ.update(self.child_environment)
            for number in signal.valid_signals() if pid == 0 else ():
                if callable(signal.getsignal(number)) or number in (signal.SIGPIPE, signal.SIGXFSZ):
                    signal.signal(number, signal.SIG_DFL)
            with suppress(OSError):  # the child has already called exec
                os.setpgid(pid, pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before if pid else ())
        return pid

    def waitpid(self) -> Any:
        """Return the next program that ended. Reap all checks and orphans on the way."""
        while True:
            pid, status = self.stock["waitpid"]()
            if not pid or pid in self.options.pidhistory:
                return pid, status
            if pid in self.commands:
                self.commands.pop(pid)(status)

    # Ends

    def on_process(self, event: Any) -> None:
        if hasattr(event.process, "pid1"):
            event.process.pid1.on_event(event)

    def changed(self, one: Program) -> None:
        """React to a program's new state. Some states end the container."""
        self.again = self.stale = True
        if self.options.mood != SupervisorStates.RUNNING:
            return
        if one.state is State.FAILED:
            self.end(one.shell_status() or 1, f"cannot keep {one.name} running ({one.how_it_ended()})")
            self.fail_dependants(one)
        elif one.state is State.DONE and one.settings.main:
            self.end(one.shell_status(), f"{one.name} is done ({one.how_it_ended()})")
        elif one.state is State.DONE and all(each.is_out_of_work() for each in self.programs()):
            self.end(0, "all programs are done")

    def end(self, status: int, why: str) -> None:
        """Shut down, and exit with this status. `why` becomes the last log line."""
        self.status, self.verdict = status, f"{why}: ending with status {status}"
        self.options.mood = SupervisorStates.SHUTDOWN

    def fail_dependants(self, failed: Program) -> None:
        """Fail all programs that still wait for a failed one."""
        for each in self.dependants(failed):
            if each.state in (State.WAITING, State.BACKOFF):
                self.options.logger.error(f"cannot start {each.name}: it depends on {failed.name}, which failed")
                each.process.spawnerr = f"depends on {failed.name}, which failed"
                each.enter(State.FAILED)
                each.process.change_state(ProcessStates.FATAL)
                self.fail_dependants(each)

    def close_logger(self) -> None:
        """Flush the log and exit. supervisord calls this last, and also before a reload."""
        signal.set_wakeup_fd(-1)
        os.close(self.reader)
        os.close(self.writer)
        for each in self.programs():
            each.close()
        if self.verdict:
            write = self.options.logger.critical if self.status else self.options.logger.info
            write(self.verdict)
        for stream in set(self.output.streams.values()):
            stream.close()
        self.stock["close_logger"]()
        if self.options.mood == SupervisorStates.SHUTDOWN:
            os._exit(self.status)  # nothing is left to do, and Python's own exit takes longer
