"""A real supervisord with the pid1 plugin, started by the command `pid1` in a temporary folder."""

import contextlib
import os
import signal
import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from support import ROOT, Program, running, wait_until

HEAD = """
[supervisord]
nodaemon = true
user = root
logfile = /dev/null
logfile_maxbytes = 0
pidfile = {folder}/pid
[unix_http_server]
file = {folder}/sock
[supervisorctl]
serverurl = unix://{folder}/sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[ctlplugin:pid1]
supervisor.ctl_factory = pid1:make_control
[rpcinterface:pid1]
supervisor.rpcinterface_factory = pid1:make_plugin
"""
SLEEP = "exec sleep 1000"


def program(name: str, script: str, *keys: str) -> str:
    """Return the section of a program that runs a shell script."""
    return "\n".join([f"[program:{name}]", f"command = sh -c '{script}'", *keys, ""])


class Supervisord:
    """A running supervisord. Its configuration is HEAD, then the test's keys for the plugin, then programs."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder, self.python = folder, python
        self.process: Program

    def write(self, conf: str, head: str = HEAD) -> None:
        (self.folder / "conf").write_text(head.format(folder=self.folder) + conf)

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method by XML-RPC and return its result."""
        transport = SupervisorTransport(None, None, f"unix://{self.folder}/sock")
        try:
            return getattr(xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport), method)(*arguments)
        finally:
            transport.close()

    def status(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.call("pid1.status")}

    def states(self) -> dict[str, str]:
        return {name: row["state"] for name, row in self.status().items()}

    def until(self, within: float = 20, **states: str) -> dict[str, dict[str, Any]]:
        """Wait until the programs are in these states. Return the status of all programs."""

        def reached() -> dict[str, dict[str, Any]]:
            found = self.status()
            assert {name: found[name]["state"] for name in states} == states, self.process.output
            return found

        return wait_until(reached, within, 0.02)

    def pid(self, name: str) -> int:
        """Wait until a program runs, and return its PID."""
        return int(wait_until(lambda: self.call("supervisor.getProcessInfo", name)["pid"]))

    def control(self, *words: str) -> str:
        """Run a supervisorctl command and return its stdout."""
        command = [self.python, "-m", "supervisor.supervisorctl", "-c", str(self.folder / "conf"), *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60).stdout

    def wait_for_log(self, *patterns: str) -> None:
        """Wait until each pattern matches a line of the log."""
        for pattern in patterns:
            self.process.wait_for_log(pattern)

    def lines(self, name: str) -> list[str]:
        """Return the lines that a program wrote."""
        return [line.partition(" | ")[2] for line in self.process.lines if line.startswith(f"{name} | ")]

    def stop(self, number: signal.Signals = signal.SIGTERM, within: float = 20) -> int:
        """Send a signal, wait for the end and return the exit status."""
        self.process.signal(number)
        return self.process.ended(within)


def order(run: Supervisord) -> list[str]:
    """Return the programs in the order of their starts."""
    return [line.split("'")[1] for line in run.process.lines if "spawned: " in line]


def command(python: str, folder: Path) -> list[str]:
    return [python, "-m", "pid1", "-c", str(folder / "conf")]


@contextlib.contextmanager
def supervising(
    folder: Path, conf: str, python: str = sys.executable, env: Mapping[str, str] | None = None, head: str = HEAD
) -> Iterator[Supervisord]:
    """Run supervisord. At the end, kill it and all its descendants, even after an error."""
    found = Supervisord(folder, python)
    found.write(conf, head)
    with running(command(python, folder), {**(env or {}), "PYTHONPATH": str(ROOT)}, folder) as found.process:
        try:
            yield found
        finally:
            kill_descendants(found.process.pid)


def kill_descendants(pid: int) -> None:
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            kill_descendants(int(child))
            with contextlib.suppress(OSError):
                os.kill(int(child), signal.SIGKILL)
