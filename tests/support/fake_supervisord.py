"""supervisord's own process classes with fake system calls and a fake clock, so that its loop never waits."""

import itertools
from collections.abc import Callable
from typing import Any

from supervisor import events
from supervisor.datatypes import RestartUnconditionally, RestartWhenExitUnexpected
from supervisor.options import ProcessConfig, ProcessGroupConfig
from supervisor.states import STOPPED_STATES, SupervisorStates

from pid1.output import Format, Output
from pid1.plugin import Pid1
from pid1.settings import PROGRAM, PluginSettings, ProgramSettings, parse

RESTARTS: dict[str, object] = {"true": RestartUnconditionally, "unexpected": RestartWhenExitUnexpected, "false": False}
DEFAULTS = dict.fromkeys(ProcessConfig.req_param_names) | {
    **{"command": "/bin/true", "priority": 999, "autostart": True, "startsecs": 1, "startretries": 3},
    **{"stopsignal": 15, "stopwaitsecs": 10, "stopasgroup": False, "killasgroup": False, "exitcodes": [0]},
}


class Clock:
    """A fake clock, for wall time and monotonic time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


class Quiet:
    """A fake logger, poller or signal receiver. Records every call."""

    poll: Callable[[float], tuple[list[int], list[int]]]

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: self.calls.append(" ".join(map(str, args)))


class FakeOptions:
    """supervisord's options with fake system calls. Records kills and ends."""

    def __init__(self, clock: Clock, behave: Callable[[str, int], None]) -> None:
        self.clock, self.behave = clock, behave
        self.mood = SupervisorStates.RUNNING
        self.logger, self.poller, self.signal_receiver = Quiet(), Quiet(), Quiet()
        self.poller.poll = self.poll
        self.pidhistory: dict[int, Any] = {}
        self.pids = itertools.count(100)
        self.killed: list[tuple[float, int, int]] = []
        self.ended: list[tuple[int, int]] = []
        self.sockets: dict[int, Any] = {}

    def poll(self, timeout: float) -> tuple[list[int], list[int]]:
        self.clock.now += timeout + 1e-4  # a pass takes time
        return [], []

    def fork(self) -> int:
        return next(self.pids)

    def kill(self, pid: int, number: int) -> None:
        self.killed.append((self.clock.now, pid, number))
        if number == 9:
            self.ended.append((abs(pid), 9))

    def waitpid(self) -> tuple[Any, Any]:
        return self.ended.pop(0) if self.ended else (None, None)

    def get_signal(self) -> None:
        return None

    def get_socket_map(self) -> dict[int, Any]:
        return self.sockets

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


class FakeSupervisord:
    """A fake supervisord. `programs` maps each program to the keys of its section."""

    def __init__(self, clock: Clock, **programs: dict[str, Any]) -> None:
        self.clock, self.stopping, self.stop_groups, self.passes = clock, False, None, 0
        self.options = FakeOptions(clock, lambda name, pid: None)
        self.process_groups: dict[str, Any] = {}
        for name, keys in programs.items():
            ours = {key: text for key, text in keys.items() if key in PROGRAM}
            stock = {key: value for key, value in keys.items() if key not in PROGRAM}
            stock["autorestart"] = RESTARTS[stock.get("autorestart", "unexpected")]
            config = ProcessConfig(self.options, **(DEFAULTS | {"name": name} | stock))
            config.pid1 = ProgramSettings(name, **parse(PROGRAM, ours))
            config.make_dispatchers = lambda process: ({}, {})
            group = self.process_groups[name] = ProcessGroupConfig(self.options, name, 999, [config]).make_group()
            group.processes[name].get_execv_args = lambda: ("/bin/true", ["true"])
        self.plugin = Pid1(self, PluginSettings(), Output(Format(False, False)))
        self.plugin.now = clock.time

    def process(self, name: str) -> Any:
        return self.process_groups[name].processes[name]

    def states(self) -> dict[str, str]:
        return {each.name: each.state.value for each in self.plugin.programs()}

    def end(self, name: str, status: int) -> None:
        """End a process with a status, or with -N for signal N."""
        self.options.ended.append((self.process(name).pid, -status if status < 0 else status << 8))
        self.plugin.again = True  # as SIGCHLD would

    def turn(self, until: float) -> None:
        """Run one pass of supervisord's loop, in its order. Its poll advances the clock."""
        self.passes += 1
        if self.options.mood < SupervisorStates.RUNNING and not self.stopping:
            self.stopping = True
            events.notify(events.SupervisorStoppingEvent())
        self.options.poll(0)
        self.plugin.poll(max(0, min(1, until - self.clock.now)))
        for group in self.process_groups.values():
            group.transition()
        while (ended := self.options.waitpid())[0]:
            self.options.pidhistory.pop(ended[0]).finish(*ended)

    def run(self, seconds: float) -> None:
        """Run passes for some seconds of the fake clock."""
        until = self.clock.now + seconds
        while self.clock.now < until or self.plugin.again:
            self.turn(until)

    def stop(self) -> float:
        """Shut down. Return how many seconds it took."""
        began, self.options.mood = self.clock.now, SupervisorStates.SHUTDOWN
        while not self.stopping or any(each.process.state not in STOPPED_STATES for each in self.plugin.programs()):
            self.turn(self.clock.now + 1)
            assert self.clock.now < began + 100
        return self.clock.now - began


Make = Callable[..., FakeSupervisord]
