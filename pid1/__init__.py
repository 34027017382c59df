"""What supervisord lacks as PID 1 of a container: a plugin for the stock `supervisord` command. README.md has more."""

import os
import signal
import time
from contextlib import suppress
from typing import Any

from supervisor import events
from supervisor.datatypes import RestartWhenExitUnexpected
from supervisor.options import decode_wait_status
from supervisor.states import ProcessStates, SupervisorStates

from pid1.liveness import Check
from pid1.output import Output

OWN = {"SIGTERM", "SIGINT", "SIGQUIT", "SIGCHLD", "SIGKILL", "SIGSTOP"}
TIMED = (ProcessStates.STARTING, ProcessStates.BACKOFF, ProcessStates.STOPPING)


class Pid1:
    """Stands before methods of supervisord's options, which are made anew for each reload."""

    def __init__(self, supervisord: Any, forward: str = "HUP USR1 USR2", give_up_on: str = "", **alive: str) -> None:
        """The settings are those of the conf's section, as text. Raises ValueError."""
        self.groups, self.options = supervisord.process_groups, supervisord.options
        names = {f"SIG{name}" for name in forward.split()}
        if wrong := (names - signal.Signals.__members__.keys()) | (names & OWN):
            raise ValueError(f"forward: {', '.join(sorted(wrong))} cannot be passed on: give names as HUP USR1 USR2")
        self.forward, self.final = {signal.Signals[name] for name in names}, give_up_on.split()
        self.checks = [Check(self.options, self.processes(), key, value) for key, value in alive.items()]
        self.held: set[int] = set()  # signals to be passed on
        self.status, self.verdict = 0, ""
        self.again = True  # another pass of the loop is due at once; the first one spawns
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        for process in self.processes():  # at 0 a program that ends at once is restarted without a pause, and forever
            process.config.startsecs = process.config.startsecs or int(bool(process.config.autorestart))
        for number in self.forward:
            signal.signal(number, self.options.signal_receiver.receive)
        self.stock_poll, self.options.poller.poll = self.options.poller.poll, self.poll
        self.stock = {name: getattr(self.options, name) for name in ("get_signal", "fork", "waitpid", "close_logger")}
        for name in self.stock:
            setattr(self.options, name, getattr(self, name))
        # Whoever started supervisord may have blocked signals until its handlers stood, as app.sh does.
        events.subscribe(events.SupervisorRunningEvent, lambda event: signal.pthread_sigmask(signal.SIG_SETMASK, ()))
        # All groups stop at once: one after another they outlast the 10 s that Docker gives.
        events.subscribe(events.SupervisorStoppingEvent, lambda event: [g.stop_all() for g in self.groups.values()])
        events.subscribe(events.ProcessStateEvent, self.on_process)

    def processes(self) -> list[Any]:
        return [process for group in self.groups.values() for process in group.processes.values()]

    def poll(self, timeout: float) -> Any:
        """Wait for the next pass: none if the last one changed something, else for a signal or the next timer."""
        self.pass_on()
        due = [process.delay - time.time() for process in self.processes() if process.state in TIMED]
        due += [check.turn() for check in self.checks]
        timeout, self.again = 0 if self.again else max(0, min([timeout, *due])), False
        self.options.poller.register_readable(self.reader)
        readable, writable = self.stock_poll(timeout)
        if self.reader in readable:
            readable.remove(self.reader)
            os.read(self.reader, 4096)
        return readable, writable

    def get_signal(self) -> Any:
        """The next signal for supervisord itself, which takes one a pass."""
        number = self.stock["get_signal"]()
        self.again |= number is not None
        self.held |= {number} & self.forward
        return None if number in self.forward else number

    def pass_on(self) -> None:
        """Pass signals on, once no program is starting: before its handlers stand it would die of them."""
        processes = self.processes() if self.held else []
        if any(process.state == ProcessStates.STARTING for process in processes):
            return
        for process in processes:
            for number in self.held if process.state == ProcessStates.RUNNING else ():
                self.options.logger.info(f"passing {signal.Signals(number).name} on to {process.config.name}")
                process.signal(number)
        self.held.clear()

    def fork(self) -> Any:
        """Until exec the child has supervisord's handlers, which swallow signals, and what Python ignores (SIGPIPE)."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        pid = -1
        try:
            pid = self.stock["fork"]()
            for number in signal.valid_signals() if pid == 0 else ():
                if callable(signal.getsignal(number)) or number in (signal.SIGPIPE, signal.SIGXFSZ):
                    signal.signal(number, signal.SIG_DFL)
            with suppress(OSError):  # the child has gone on to exec
                os.setpgid(pid, pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before if pid else ())
        return pid

    def waitpid(self) -> Any:
        """The next program that ended; orphans are reaped on the way, as many as there are."""
        while (ended := self.stock["waitpid"]())[0] and ended[0] not in self.options.pidhistory:
            pass
        if ended[0]:
            self.options.pidhistory[ended[0]].wait_status = ended[1]
        return ended

    def on_process(self, event: Any) -> None:
        """A program's state changed: the next pass shall act on it at once."""
        self.again = True
        process, status = event.process, getattr(event.process, "wait_status", None)
        if process.state == ProcessStates.STARTING:
            process.wait_status = None
        elif process.state == ProcessStates.BACKOFF and status is not None:
            code, config = os.waitstatus_to_exitcode(status), process.config
            if config.autorestart is RestartWhenExitUnexpected and code in config.exitcodes:
                process.exitstatus = code  # it was quick, and is done
                process.change_state(ProcessStates.EXITED)
            elif str(code) in self.final:
                process.give_up()
        elif process.state == ProcessStates.FATAL and self.options.mood == SupervisorStates.RUNNING:
            code = 127 if status is None else os.waitstatus_to_exitcode(status)
            self.status = 128 - code if code < 0 else code or 1  # for a signal 128 + n, and never 0
            how = process.spawnerr if status is None else decode_wait_status(status)[1]
            self.verdict = f"{process.config.name} cannot be kept up ({how}): ending with status {self.status}"
            self.options.mood = SupervisorStates.SHUTDOWN

    def close_logger(self) -> None:
        """The last that supervisord does with its options, before a reload too."""
        signal.set_wakeup_fd(-1)
        os.close(self.reader)
        os.close(self.writer)
        if self.status:
            self.options.logger.critical(self.verdict)
            raise SystemExit(self.status)
        self.stock["close_logger"]()


def make_plugin(supervisord: Any, **settings: str) -> object:
    """supervisord calls this for each HTTP server it has, and again after a reload."""
    if not hasattr(supervisord, "pid1"):
        Output(supervisord.options.logger)
        try:
            supervisord.pid1 = Pid1(supervisord, **settings)
        except ValueError as error:
            supervisord.options.logger.critical(f"[rpcinterface:pid1] {error}")
            os._exit(2)  # nothing runs yet, and an exception would be logged as a traceback
    return object()  # no methods for supervisorctl
