"""Compares process managers in one container: start, stop, respawn, memory, idle CPU and log throughput."""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PORTS = (18000, 18001)
LONGEST_FLOOD_SECONDS = 8
SERVER = """
import os, socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1])))
s.listen()
while True:
    c = s.accept()[0]
    c.recv(100)
    c.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n%d" % os.getpid())
    c.close()
"""
SUPERVISORD = """[supervisord]
nodaemon=true
user=root
logfile=/dev/null
logfile_maxbytes=0
pidfile={folder}/pid
[unix_http_server]
file={folder}/sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
PLUGIN = "[rpcinterface:pid1]\nsupervisor.rpcinterface_factory=pid1:make_plugin\n"


@dataclass
class Manager:
    """A process manager. `prepare` writes its files for named commands and returns the command that runs it."""

    name: str
    prepare: Callable[[Path, dict[str, str]], list[str]]
    stop_signal: signal.Signals = signal.SIGTERM
    respawns: bool = True
    relays: bool = True  # False: the programs write to the manager's stdout themselves


def supervisord(head: str, command: list[str]) -> Callable[[Path, dict[str, str]], list[str]]:
    """Return a `prepare` that writes a configuration file of supervisord."""

    def prepare(folder: Path, programs: dict[str, str]) -> list[str]:
        keys = "stdout_logfile=/dev/stdout\nstdout_logfile_maxbytes=0\n"
        sections = (f"[program:{name}]\ncommand={line}\n{keys}" for name, line in programs.items())
        (folder / "conf").write_text(SUPERVISORD.format(folder=folder) + head + "".join(sections))
        return [*command, "-c", str(folder / "conf")]

    return prepare


def services(*command: str) -> Callable[[Path, dict[str, str]], list[str]]:
    """Return a `prepare` that writes a folder of services, each with a file `run`, for s6 and runit."""

    def prepare(folder: Path, programs: dict[str, str]) -> list[str]:
        for name, line in programs.items():
            (folder / "scan" / name).mkdir(parents=True)
            run = folder / "scan" / name / "run"
            run.write_text(f"#!/bin/sh\nexec {line}\n")
            run.chmod(0o755)
        return [*command, str(folder / "scan")]

    return prepare


def tini(folder: Path, programs: dict[str, str]) -> list[str]:
    return ["tini", "-s", "-g", "--", "sh", "-c", "".join(f"{line} & " for line in programs.values()) + "wait"]


def honcho(folder: Path, programs: dict[str, str]) -> list[str]:
    (folder / "Procfile").write_text("".join(f"{name}: exec {line}\n" for name, line in programs.items()))
    return ["honcho", "-f", str(folder / "Procfile"), "-d", str(folder), "start"]


def circus(folder: Path, programs: dict[str, str]) -> list[str]:
    stream = "stdout_stream.class=StdoutStream\n"
    watchers = (f"[watcher:{name}]\ncmd={line}\n{stream}" for name, line in programs.items())
    head = f"[circus]\nendpoint=ipc://{folder}/a\npubsub_endpoint=ipc://{folder}/b\nstats_endpoint=ipc://{folder}/c\n"
    (folder / "ini").write_text(head + "".join(watchers))
    return ["circusd", str(folder / "ini")]


MANAGERS = [
    Manager("supervisord + pid1", supervisord(PLUGIN, ["pid1"])),
    Manager("stock supervisord", supervisord("", ["supervisord"])),
    Manager("s6", services("s6-svscan"), relays=False),
    Manager("runit", services("runsvdir", "-P"), signal.SIGHUP, relays=False),
    Manager("tini, a shell", tini, respawns=False, relays=False),
    Manager("honcho", honcho, respawns=False),
    Manager("circus", circus),
]


@contextlib.contextmanager
def running(
    manager: Manager, programs: dict[str, str], output: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a manager in its own session. At the end, kill it and all its descendants."""
    folder = Path(tempfile.mkdtemp())
    command = manager.prepare(folder, programs)
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        for pid in [*descendants(process.pid), process.pid]:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        for port in PORTS:  # a server may outlive its manager
            with contextlib.suppress(OSError):
                os.kill(ask(port), signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)  # an ending manager may still write


def descendants(pid: int) -> list[int]:
    try:
        children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [each for child in children for each in (child, *descendants(child))]


def ask(port: int) -> int:
    """Return the server's PID from its answer. Raises OSError without an answer of status 200."""
    with socket.create_connection(("127.0.0.1", port), 1) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while data := client.recv(100):
            answer += data
    if not answer.startswith(b"HTTP/1.0 200"):
        raise OSError("no answer")
    return int(answer.rpartition(b"\n")[2])


def wait_for(port: int, other_than: int = 0, within: float = 15) -> int:
    """Return the PID of the server on a port, once it is not `other_than`. Raises TimeoutError."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if (pid := ask(port)) != other_than:
                return pid
        time.sleep(0.001)
    raise TimeoutError(f"no answer on port {port}")


def ticks(pids: list[int]) -> int:
    """Return the CPU time of the processes so far, in hundredths of a second."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split() for pid in pids]
    return sum(int(fields[11]) + int(fields[12]) for fields in stats)


def own_memory(pids: list[int]) -> float:
    """Return the memory of the processes in MiB. Each process counts its share of shared pages (Pss)."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(int(text.partition("\nPss:")[2].split()[0]) for text in texts) / 1024


def measure(manager: Manager, server: Path, figures: dict[str, list[float]], idle: float) -> None:
    """Measure everything except log throughput once, and add the values to `figures`."""

    def add(row: str, value: float) -> None:
        figures.setdefault(row, []).append(value)

    lines = {f"p{port}": f"{sys.executable} -S -E {server} {port}" for port in PORTS}
    began = time.monotonic()
    with running(manager, lines) as process:
        pids = [wait_for(port) for port in PORTS]
        add("start to both 200, ms", (time.monotonic() - began) * 1000)
        time.sleep(1.5)  # until stock supervisord and circus count the programs as started
        managers = [pid for pid in [process.pid, *descendants(process.pid)] if pid not in pids]
        add("memory of the manager, MiB", own_memory(managers))
        if idle:
            before = ticks(managers)
            time.sleep(idle)
            add("idle CPU, ms per s", (ticks(managers) - before) * 10 / idle)
        if manager.respawns:
            began = time.monotonic()
            os.kill(pids[0], signal.SIGKILL)
            wait_for(PORTS[0], pids[0])
            add("kill -9 to a new answer, ms", (time.monotonic() - began) * 1000)
            time.sleep(1.5)
        began = time.monotonic()
        process.send_signal(manager.stop_signal)
        process.wait(30)
        add("stop, ms", (time.monotonic() - began) * 1000)


def throughput(manager: Manager, megabytes: int) -> float:
    """Return the MB/s of 100-byte lines from a program to the reader of the manager's stdout."""
    line = "x" * 99
    script = f"sh -c 'sleep 1; yes {line} | head -c {megabytes}000000; echo the end; exec sleep 1000'"
    reader, writer = os.pipe()
    with running(manager, {"flood": script}, writer) as _:
        os.close(writer)
        began, received = 0.0, 0
        tail = b""
        while b"the end" not in tail and not (began and time.monotonic() > began + LONGEST_FLOOD_SECONDS):
            data = os.read(reader, 2**20)
            if not data:
                raise EOFError("its output ended")
            tail = tail[-10:] + data
            received += len(data)
            if not began and line[:20].encode() in data:
                began = time.monotonic()
        seconds = time.monotonic() - began
    os.close(reader)
    return received / 1e6 / seconds


def table(figures: dict[str, dict[str, list[float]]]) -> str:
    """Return the medians as a Markdown table, with one column per manager."""
    rows = list(dict.fromkeys(row for each in figures.values() for row in each))
    lines = [["median", *figures], ["---"] * (len(figures) + 1)]
    for row in rows:
        values = (f"{statistics.median(each[row]):.1f}" if row in each else "-" for each in figures.values())
        lines.append([row, *values])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=100)
    arguments = parser.parse_args()
    server = Path(tempfile.mkdtemp()) / "server.py"
    server.write_text(SERVER)
    figures: dict[str, dict[str, list[float]]] = {manager.name: {} for manager in MANAGERS}
    for turn in range(arguments.rounds):
        for manager in MANAGERS[turn % len(MANAGERS) :] + MANAGERS[: turn % len(MANAGERS)]:
            print(f"round {turn + 1}: {manager.name}", file=sys.stderr, flush=True)
            try:
                measure(manager, server, figures[manager.name], 5 if turn < 3 else 0)
                row = f"log, MB/s{'' if manager.relays else ' (written by the program itself)'}"
                figures[manager.name].setdefault(row, []).append(throughput(manager, arguments.megabytes))
            except (OSError, TimeoutError, EOFError, subprocess.TimeoutExpired) as error:
                print(f"{manager.name}: {error!r}", file=sys.stderr, flush=True)
    print(table(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
