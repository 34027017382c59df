"""What happens now: over supervisord's XML-RPC, with `supervisorctl pid1 status`, and as Prometheus text."""

from __future__ import annotations

import os
import time
from typing import Any

from supervisor.supervisorctl import ControllerPluginBase

from pid1.program import State

METRIC = """# HELP pid1_program_state Whether the program is in this state.
# TYPE pid1_program_state gauge
{states}# HELP pid1_program_state_since_seconds Unix time of the last change of state.
# TYPE pid1_program_state_since_seconds gauge
{since}# HELP pid1_program_starts_total Starts, the first one and restarts.
# TYPE pid1_program_starts_total counter
{starts}# HELP pid1_program_exit_status Last exit status, 128+N for signal N.
# TYPE pid1_program_exit_status gauge
{statuses}# HELP pid1_output_dropped_lines_total Lines dropped because nobody read the output.
# TYPE pid1_output_dropped_lines_total counter
pid1_output_dropped_lines_total {dropped}
"""


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
                "name": each.program.name,
                "state": each.program.state.value,
                "waiting_for": self._plugin.unmet(each) if each.program.state is State.WAITING else "",
                "since": each.program.since + offset,
                "starts": each.program.starts,
                "exit_status": -1 if each.program.status is None else each.program.shell_status(),
            }
            for each in self._plugin.supervised()
        ]

    def metrics(self) -> str:
        """Return the same as Prometheus text.

        @return string result
        """
        rows = self.status()

        def series(name: str, key: str, where: list[dict[str, Any]]) -> str:
            return "".join(f'pid1_program_{name}{{program="{row["name"]}"}} {row[key]}\n' for row in where)

        states = "".join(
            f'pid1_program_state{{program="{row["name"]}",state="{state.value}"}} {int(row["state"] == state.value)}\n'
            for row in rows
            for state in State
        )
        return METRIC.format(
            states=states,
            since=series("state_since_seconds", "since", rows),
            starts=series("starts_total", "starts", rows),
            statuses=series("exit_status", "exit_status", [row for row in rows if row["exit_status"] >= 0]),
            dropped=self._plugin.output.dropped(),
        )

    def write_metrics(self, path: str) -> None:
        """Replace the file: a reader never sees half of it."""
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            file.write(self.metrics())
        os.replace(f"{path}.new", path)


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
        self.ctl.output("pid1 status\t\tthe state of each program\npid1 metrics\t\tthe same as Prometheus text")


def make_control(controller: Any) -> Control:
    """[ctlplugin:pid1] has supervisor.ctl_factory = pid1:make_control."""
    return Control(controller)
