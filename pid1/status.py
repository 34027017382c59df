"""The programs' states: by XML-RPC, by `supervisorctl pid1 status`, and as Prometheus text."""

from __future__ import annotations

import os
import time
from typing import Any

from supervisor.supervisorctl import ControllerPluginBase

from pid1.program import State


class Rpc:
    """The methods pid1.status and pid1.metrics."""

    def __init__(self, plugin: Any) -> None:
        self._plugin = plugin

    def status(self) -> list[dict[str, Any]]:
        """Return the state of each program.

        @return array result  structs with name, state, waiting_for, since (Unix time), starts, exit_status (-1: none)
        """
        offset = time.time() - self._plugin.now()
        return [
            {
                "name": each.name,
                "state": each.state.value,
                "waiting_for": self._plugin.unmet(each) if each.state is State.WAITING else "",
                "since": each.since + offset,
                "starts": each.starts,
                "exit_status": -1 if each.status is None else each.shell_status(),
            }
            for each in self._plugin.programs()
        ]

    def metrics(self) -> str:
        """Return the states as Prometheus text.

        @return string result
        """
        rows = {f'program="{row["name"]}"': row for row in self.status()}
        states = {f'{key},state="{s.value}"': int(row["state"] == s.value) for key, row in rows.items() for s in State}
        since = {key: row["since"] for key, row in rows.items()}
        starts = {key: row["starts"] for key, row in rows.items()}
        ends = {key: row["exit_status"] for key, row in rows.items() if row["exit_status"] >= 0}
        dropped = {"": self._plugin.output.dropped()}
        return (
            series("program_state", "gauge", "Whether the program is in this state.", states)
            + series("program_state_since_seconds", "gauge", "Unix time of the last change of state.", since)
            + series("program_starts_total", "counter", "Starts, including restarts.", starts)
            + series("program_exit_status", "gauge", "Last exit status, 128+N for signal N.", ends)
            + series("output_dropped_lines_total", "counter", "Lines dropped because the log had no reader.", dropped)
        )

    def write_metrics(self, path: str) -> None:
        """Replace the file in one step, so that a reader never sees half of it."""
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            file.write(self.metrics())
        os.replace(f"{path}.new", path)


def series(name: str, kind: str, help: str, values: dict[str, Any]) -> str:
    """Return a metric in Prometheus' text format. `values` maps labels to values."""
    lines = (f"pid1_{name}{f'{{{labels}}}' if labels else ''} {value}\n" for labels, value in values.items())
    return f"# HELP pid1_{name} {help}\n# TYPE pid1_{name} {kind}\n{''.join(lines)}"


class Control(ControllerPluginBase):
    """The command `supervisorctl pid1 status`."""

    def __init__(self, controller: Any) -> None:
        self.ctl = controller

    def do_pid1(self, words: str) -> None:
        if words not in ("status", "metrics"):
            return self.help_pid1()
        found = getattr(self.ctl.get_server_proxy("pid1"), words)()
        for row in found if words == "status" else ():
            ended = "" if row["exit_status"] < 0 else f", last exit status {row['exit_status']}"
            waits = f" for {row['waiting_for']}" if row["waiting_for"] else ""
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row["since"]))
            self.ctl.output(f"{row['name']:<20} {row['state']}{waits} since {since}, {row['starts']} starts{ended}")
        if words == "metrics":
            self.ctl.output(found.rstrip("\n"))

    def help_pid1(self) -> None:
        self.ctl.output("pid1 status\t\tthe state of each program\npid1 metrics\t\tthe states as Prometheus text")


def make_control(controller: Any) -> Control:
    """Make the plugin of supervisorctl. Set it with supervisor.ctl_factory = pid1:make_control in [ctlplugin:pid1]."""
    return Control(controller)
