"""Tests of supervisord with the pid1 plugin as PID 1 of the image: signals, exit status, restarts, orphans."""

import itertools
import os
import pty
import select
import socket
import statistics
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support import ROOT, wait_until
from support.engine import DOCKER, POLL, Container, container, docker, image, volume

pytestmark = pytest.mark.docker
CONF = (ROOT / "supervisord.conf").read_text()
GENERATOR = "command = python -m generator"
ECHO = "command = python -m echo"
LOST = 4  # seconds; only a stop whose signal was lost takes longer
CLEAN = ("generator | stopped by SIGTERM", "echo | stopped: ")


def conf(tmp_path: Path, *changes: tuple[str, str]) -> list[str]:
    """Return options that run the image with a changed supervisord.conf."""
    text = CONF
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "supervisord.conf"
    path.write_text(text)
    path.chmod(0o644)
    tmp_path.chmod(0o755)
    return ["--volume", f"{path}:/app/supervisord.conf:ro"]


def stop(app: Container, name: str = "TERM") -> float:
    """Send a signal and wait for the end with status 0. Return the seconds that it took."""
    start = time.time()
    app.signal(name)
    assert app.ended() == 0, app.logs()
    return app.finished_at() - start


# Stopping


@pytest.mark.serial
@pytest.mark.parametrize("name", ["TERM", "INT", "QUIT"])
def test_a_stop_signal_stops_both_cleanly_within_a_second(hardened: list[str], name: str) -> None:
    with container(*hardened) as app:
        app.running()
        assert stop(app, name) < 1
        app.wait_for_log(*CLEAN)


def test_ctrl_c_in_a_terminal_stops_both(hardened: list[str]) -> None:
    """Run `docker run -it` with a real terminal."""
    mine, theirs = pty.openpty()
    name = f"appcoup-terminal-{os.getpid()}"
    client = subprocess.Popen(
        [DOCKER, "run", "--rm", "-it", "--name", name, *hardened, image()], stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""

    def read_until(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            assert select.select([mine], [], [], 20)[0], seen
            seen += os.read(mine, 4096)

    try:
        read_until(b"generator | writing")
        read_until(b"echo | serving")
        os.write(mine, b"\x03")
        read_until(b"generator | stopped by SIGTERM")
        read_until(b"echo | stopped")
        assert client.wait(20) == 0
    finally:
        client.kill()
        client.wait()
        os.close(mine)
        subprocess.run([DOCKER, "rm", "--force", name], capture_output=True)


def test_downloads_in_flight_finish() -> None:
    """50 downloads, each larger than the buffers on the way. Both programs then stop cleanly."""
    numbers = {"GENERATOR_INTERVAL": "0", "GENERATOR_COUNT": "1500000"}
    with container(*(f"--env={k}={v}" for k, v in numbers.items())) as app:
        app.wait_for_log("generator | done:")
        url = urlsplit(app.url)
        clients = [socket.create_connection((url.hostname, url.port)) for _ in range(50)]
        for client in clients:
            client.sendall(b"GET /data HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        heads = [client.recv(4096) for client in clients]
        app.signal("TERM")
        app.wait_for_log("echo | SIGTERM: stopping")
        with ThreadPoolExecutor(10) as pool:
            sizes = list(pool.map(drain, clients))
        assert app.ended() == 0
        for head, size in zip(heads, sizes, strict=True):
            header, _, body = head.partition(b"\r\n\r\n")
            length = int(header.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            assert len(body) + size == length > 8_000_000
        app.wait_for_log("echo | stopped: ")


def drain(client: socket.socket) -> int:
    size = 0
    with client:
        while data := client.recv(2**20):
            size += len(data)
    return size


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5])
def test_a_stop_during_start_up_is_not_lost(hardened: list[str], delay: float) -> None:
    """The signal arrives at different moments of the start. Without `pid1` the kernel would drop early ones."""
    with container(*hardened) as app:
        threading.Event().wait(delay)
        assert stop(app) < LOST


def test_a_stop_during_back_off_ends_at_once(tmp_path: Path) -> None:
    with container(*conf(tmp_path, (GENERATOR, "command = sh -c 'exit 3'"))) as app:
        app.wait_for_log("exited: generator (exit status 3; not expected)")
        assert stop(app) < LOST


def test_a_stop_right_after_a_respawn_is_not_lost(effort: int) -> None:
    """The signal arrives while a child is between fork and exec, or while its Python starts."""

    def once(number: int) -> float:
        with container() as app:
            pids = app.running()
            program = ("generator", "echo")[number % 2]
            respawn_and_stop = (
                f"kill -9 {pids[program]}; until [ ! -d /proc/{pids[program]} ]; do :; done; kill -TERM 1"
            )
            start = time.time()
            subprocess.run([DOCKER, "exec", app.id, "sh", "-c", respawn_and_stop], capture_output=True)
            assert app.ended() == 0, app.logs()
            return app.finished_at() - start

    with ThreadPoolExecutor(5) as pool:
        times = list(pool.map(once, range(5 * effort)))
    assert max(times) < LOST, sorted(times)


@pytest.mark.serial
@pytest.mark.parametrize("deaf", [(GENERATOR,), (GENERATOR, ECHO)], ids=["one", "both"])
def test_programs_that_ignore_term_are_killed_at_the_deadline(tmp_path: Path, deaf: tuple[str, ...]) -> None:
    """They are killed at most 50 ms after stopwaitsecs, here 2 s, and before Docker's 10 s.

    One of three tries must succeed, because the machine may be busy.
    """
    ignoring = "command = sh -c \"trap '' TERM; echo deaf; while :; do sleep 1; done\""

    def late() -> float:
        changes = [*((command, ignoring) for command in deaf), ("stopwaitsecs = 5", "stopwaitsecs = 2")]
        with container(*conf(tmp_path, *changes)) as app:
            wait_until(lambda: app.logs().count("| deaf") == len(deaf))
            app.signal("TERM")
            app.wait_for_log("received SIGTERM")
            docker("stop", "--time", "10", app.id)  # sends SIGTERM again, which wakes the main loop
            assert app.state()["ExitCode"] == 0
            log = app.timed_logs()
            stopped = next(time for time, line in log if "received SIGTERM" in line)
            killed = [time for time, line in log if "with SIGKILL" in line]
            assert len(killed) == len(deaf)
            assert min(killed) - stopped >= 1.95  # Docker's time stamps may be late
            return max(killed) - stopped - 2

    tries = [late()]
    while tries[-1] >= 0.05 and len(tries) < 3:
        tries.append(late())
    assert tries[-1] < 0.05, tries


# Forwarded signals


@pytest.mark.parametrize("name", ["HUP", "USR1", "USR2"])
def test_a_signal_is_forwarded_to_both_and_nothing_restarts(hardened: list[str], name: str) -> None:
    with container(*hardened) as app:
        pids = app.running()
        app.signal(name)
        app.wait_for_log(f"generator | SIG{name}", f"echo | SIG{name}")
        assert app.running() == pids


def test_a_signal_during_start_up_waits_for_both(hardened: list[str]) -> None:
    """A signal kills a program that has no handler yet."""
    with container(*hardened) as app:
        app.wait_for_log("spawned: 'echo'")
        app.signal("USR1")
        app.wait_for_log("generator | SIGUSR1", "echo | SIGUSR1")
        assert app.logs().count("spawned: ") == 2


# Restarts

RESPAWN = """
import os, signal, sys, time
old, name = int(sys.argv[1]), sys.argv[2].encode()
def pid():
    for entry in os.listdir("/proc"):
        try:
            if entry.isdecimal() and b"-m\\0" + name in open(f"/proc/{entry}/cmdline", "rb").read():
                return int(entry)
        except OSError:
            pass
os.kill(old, signal.SIGKILL)
start = time.monotonic()
while pid() in (None, old):
    assert time.monotonic() - start < 10
print(time.monotonic() - start)
"""


@pytest.mark.serial
@pytest.mark.parametrize("program", ["generator", "echo"])
def test_a_killed_program_alone_is_restarted_within_100_ms(program: str) -> None:
    other = {"generator": "echo", "echo": "generator"}[program]
    with container() as app:
        times = []
        for _ in range(3):  # the machine may be slow at one of them
            pids = app.running()
            times.append(float(app.run("python", "-c", RESPAWN, str(pids[program]), program)))
            after = app.running()
            assert after[program] != pids[program]
            assert after[other] == pids[other]
        assert min(times) < 0.1, times


@pytest.mark.serial
@pytest.mark.parametrize("program", ["generator", "echo"])
def test_a_hung_program_alone_is_replaced_in_time(tmp_path: Path, program: str) -> None:
    other = {"generator": "echo", "echo": "generator"}[program]
    with container(*conf(tmp_path, ("ready = ", "alive_timeout = 2\nready = "))) as app:
        pids = app.running()
        app.run("sh", "-c", f"kill -STOP {pids[program]}")
        start = time.time()
        app.wait_for_log(f"{program} hangs")
        killed = next(time for time, line in app.timed_logs() if f"{program} hangs" in line)
        assert killed - start < 2.05
        wait_until(lambda: app.running()[program] != pids[program])
        assert app.running()[other] == pids[other]


@pytest.mark.serial
def test_back_off_ends_within_50_ms_of_its_time(tmp_path: Path) -> None:
    """A signal in between wakes the main loop and so shifts its one-second poll."""
    with container(*conf(tmp_path, (GENERATOR, "command = sh -c 'exit 3'"))) as app:
        for number in range(1, 4):
            wait_until(lambda number=number: app.logs().count("exited: generator") == number)  # type: ignore[misc]
            app.signal("HUP")
        app.ended()
        log = app.timed_logs()
        exits = [time for time, line in log if "exited: generator" in line]
        spawns = [time for time, line in log if "spawned: 'generator'" in line]
        late = [spawn - end - delay for delay, end, spawn in zip((0.5, 1, 2), exits, spawns[1:], strict=False)]
        assert len(late) == 3
        assert all(seconds > -0.01 for seconds in late)
        assert statistics.median(late) < 0.05, late


def test_startsecs_0_does_not_spin(tmp_path: Path) -> None:
    with container(*conf(tmp_path, (GENERATOR, "command = false\nstartsecs = 0"))) as app:
        wait_until(lambda: app.logs().count("spawned: 'generator'") >= 4)
        spawns = [time for time, line in app.timed_logs() if "spawned: 'generator'" in line]
        assert all(later - time > 0.45 for time, later in itertools.pairwise(spawns))


# Exit status


@pytest.mark.parametrize(
    ("command", "status", "why"),
    [
        ("sh -c 'exit 3'", 3, "exit status 3"),
        ("sh -c 'exit 255'", 255, "exit status 255"),
        ("true", 1, "exit status 0"),
        ("sh -c 'kill -SEGV $$'", 139, "terminated by SIGSEGV"),
        ("sh -c 'kill -9 $$'", 137, "terminated by SIGKILL"),
        ("/app/missing", 127, "can't find command '/app/missing'"),
    ],
)
def test_a_failed_programs_status_is_the_containers_status(tmp_path: Path, command: str, status: int, why: str) -> None:
    """The last log line says which program failed and why. The other program stops cleanly."""
    with container(
        *conf(tmp_path, (GENERATOR, f"command = {command}\nstartretries = 1\ndepends_on = echo:ready"))
    ) as app:
        assert app.ended() == status
        app.wait_for_log("echo | stopped: ")
        last = app.timed_logs()[-1][1]
        assert last == f"supervisord | CRIT cannot keep generator running ({why}): ending with status {status}"


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ("GENERATOR_INTERVAL=-1", "--interval (GENERATOR_INTERVAL)"),
        ("GENERATOR_FILE=/nowhere/data", "directory /nowhere does not exist"),
        ("GENERATOR_FILE=/etc/data", "/etc/data"),
        ("GENERATOR_INTERVALL=1", "GENERATOR_INTERVALL"),
        ("ECHO_STALE=soon", "(ECHO_STALE)"),
        ("ECHO_LISTEN=0.0.0.0:80000", "--listen (ECHO_LISTEN)"),
    ],
)
def test_a_wrong_setting_ends_the_container_and_is_named(wrong: str, names: str) -> None:
    """The error is logged once, because a program that exits with status 2 is not restarted."""
    source = ["--env", "ECHO_SOURCE=/data/data"] if "FILE" in wrong else []
    with container("--env", wrong, *source) as app:
        assert app.ended() == 2
        assert len([line for line in app.logs().splitlines() if names in line]) == 1


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("forward = HUP USR1 USR2", "forward = HUP TERM", "forward = HUP TERM: cannot forward SIGTERM"),
        ("alive = %(ENV_ECHO_HEARTBEAT)s", "alive = ftp:", "alive = ftp:"),
    ],
)
def test_a_wrong_setting_of_the_plugin_is_refused(tmp_path: Path, old: str, new: str, names: str) -> None:
    with container(*conf(tmp_path, (old, new))) as app:
        assert app.ended() == 2
        assert names in app.logs().splitlines()[0]


def test_a_read_only_root_without_a_tmpfs_is_one_line() -> None:
    with container("--read-only") as app:
        assert app.ended() == 2
        (line,) = app.logs().splitlines()
        assert "--tmpfs /tmp" in line


def test_a_second_generator_on_a_volume_names_the_first() -> None:
    with volume() as name, container("--volume", f"{name}:/data") as first:
        first.running()
        with container("--volume", f"{name}:/data") as second:
            assert second.ended() == 1
            assert f"already has a writer: generator with pid {first.running()['generator']}" in second.logs()
        assert first.running()


def test_a_generator_without_a_count_is_always_restarted() -> None:
    """Another process sends it SIGTERM, and it exits with status 0. It must start again."""
    with container() as app:
        pids = app.running()
        app.run("sh", "-c", f"kill -TERM {pids['generator']}")
        wait_until(lambda: app.running()["generator"] != pids["generator"])
        assert app.running()["echo"] == pids["echo"]


def test_a_count_that_is_reached_within_startsecs_is_done() -> None:
    """An exit with status 0 within startsecs is not a failed start."""
    with container("--env", "GENERATOR_COUNT=2", "--env", "GENERATOR_INTERVAL=0.1") as app:
        app.wait_for_log("success: echo entered RUNNING")
        app.wait_for_log("generator | done: 2 numbers")
        assert app.run("cat", "/data/data").count("\n") == 1  # one line end, between the two numbers
        assert app.logs().count("spawned: 'generator'") == 1
        assert stop(app) < LOST


def test_a_failed_fork_does_not_block_signals() -> None:
    """A failed fork must not leave signals blocked."""
    with container("--pids-limit", "2") as app:
        app.wait_for_log("spawnerr: ")
        docker("update", "--pids-limit", "50", app.id)
        app.running()
        assert "SigBlk:\t0000000000000000" in app.run("cat", "/proc/1/status")
        assert stop(app) < LOST


def test_a_slow_program_is_not_killed(tmp_path: Path) -> None:
    """With alive_timeout = 4, it gives a sign of life every 3 s and answers within 2 s."""
    server = tmp_path / "server.py"
    server.write_text(SLOW_SERVER)
    server.chmod(0o644)
    changed = conf(
        tmp_path,
        (GENERATOR, "command = python /app/server.py"),
        ("alive = %(ENV_GENERATOR_HEARTBEAT)s", "alive = /tmp/generator.alive\nalive_timeout = 4"),
        ("alive = %(ENV_ECHO_HEARTBEAT)s", "alive = http://127.0.0.1:9000/\nalive_timeout = 4"),
    )
    with container(*changed, "--volume", f"{server}:/app/server.py:ro") as app:
        wait_until(lambda: app.logs().count("generator | alive") == 4)
        assert "hangs" not in app.logs()


SLOW_SERVER = """
import http.server, os, threading, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(2)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass
threading.Thread(target=http.server.HTTPServer(("127.0.0.1", 9000), Handler).serve_forever).start()
while True:
    open("/tmp/generator.alive", "w").close()
    print("alive", flush=True)
    time.sleep(3)
"""


def test_a_last_line_without_a_line_end_is_logged(tmp_path: Path) -> None:
    with container(*conf(tmp_path, (GENERATOR, "command = sh -c 'printf boom; exit 2'"))) as app:
        assert app.ended() == 2
        assert "generator | boom\n" in app.logs()


# Orphans

ORPHANS = "for i in $(seq 100); do (sleep 2.$i >/dev/null 2>&1 &); done"
NO_REAPING = """
import os

def make_plugin(supervisord):
    options = supervisord.options

    def waitpid():
        for pid in options.pidhistory:
            if os.waitpid(pid, os.WNOHANG)[0]:
                raise AssertionError("no program of supervisord's may end in this test")
        return None, None

    options.waitpid = waitpid
    return object()
"""


def zombies(app: Container) -> int:
    """Return the number of zombies in the container."""
    return app.run("ps", "-e", "-o", "stat=").count("Z")


def sleepers(app: Container) -> int:
    return app.run("ps", "-e", "-o", "args=").count("sleep 2.")


def test_a_hundred_orphans_are_reaped() -> None:
    with container() as app:
        app.running()
        app.run("sh", "-c", ORPHANS)
        assert sleepers(app) == 100
        wait_until(lambda: sleepers(app) == 0, every=POLL)
        assert app.processes().keys() == {"supervisord", "generator", "echo"}
        assert zombies(app) == 0


def test_without_reaping_a_hundred_orphans_become_zombies(tmp_path: Path) -> None:
    """Proves that the test above can fail."""
    plugin = tmp_path / "no_reaping.py"
    plugin.write_text(NO_REAPING)
    section = "[rpcinterface:no_reaping]\nsupervisor.rpcinterface_factory = no_reaping:make_plugin\n\n"
    changed = conf(tmp_path, ("[rpcinterface:supervisor]", section + "[rpcinterface:supervisor]"))
    with container(*changed, "--volume", f"{plugin}:/app/no_reaping.py:ro") as app:
        app.running()
        app.run("sh", "-c", ORPHANS)
        wait_until(lambda: zombies(app) == 100, every=POLL)


# Reload


@pytest.mark.parametrize("how", ["supervisorctl", "HUP"])
def test_reloads_leak_nothing(tmp_path: Path, how: str) -> None:
    """No descriptor and no process leaks. Without `forward`, SIGHUP reloads supervisord."""
    with container(*conf(tmp_path, ("forward = HUP USR1 USR2\n", ""))) as app:
        app.running()
        before = len(app.run("ls", "/proc/1/fd").split())
        for count in range(2, 7):
            if how == "HUP":
                app.signal("HUP")
            else:
                app.run("supervisorctl", "reload")
            wait_until(lambda count=count: app.logs().count("success: ") == 2 * count)  # type: ignore[misc]
        # A running check may have a socket open.
        wait_until(lambda: len(app.run("ls", "/proc/1/fd").split()) <= before, every=POLL)
        assert app.processes().keys() == {"supervisord", "generator", "echo"}
        assert stop(app) < LOST


# Inherited signals


def test_a_program_inherits_no_ignored_and_no_blocked_signals(tmp_path: Path) -> None:
    with container(*conf(tmp_path, (GENERATOR, "command = sleep 1000"))) as app:
        pids = app.running()
        status = app.run("cat", f"/proc/{pids['generator']}/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert int(fields["SigIgn"], 16) == 0
        assert int(fields["SigBlk"], 16) == 0
