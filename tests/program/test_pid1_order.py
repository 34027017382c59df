"""Tests of start order, one-shots, exit status and restarts, on each supported supervisor."""

import itertools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support import free_port, wait_until
from support.supervisord import SLEEP, Supervisord, order, program, supervising

CHAIN = (
    program("web", f"echo web; {SLEEP}", "depends_on = db:ready, migrate:exited")
    + program("migrate", "echo migrated", "depends_on = db:ready", "autorestart = false")
    + program("db", f"read -t 0.3 x </dev/zero; sleep 0.3; echo listening; {SLEEP}", "ready = log:^listening$")
)


def test_a_chain_starts_in_order_of_readiness(tmp_path: Path, python: str) -> None:
    with supervising(tmp_path, CHAIN, python) as run:
        found = run.until(db="ready", migrate="done", web="ready")
        assert order(run) == ["db", "migrate", "web"]
        assert found["migrate"]["exit_status"] == 0
        run.wait_for_log(r"^db \| listening\n(.*\n)*migrate \| migrated\n(.*\n)*web \| web")


@pytest.mark.parametrize("version", ["3.8", "3.12", "3.13"])
def test_other_pythons_run_it(tmp_path: Path, version: str, python_of: Callable[[str], str]) -> None:
    with supervising(tmp_path, "log_format = json\n" + CHAIN, python_of(version)) as run:
        run.until(db="ready", migrate="done", web="ready")
        assert "web" in run.control("pid1", "status")
        assert run.stop() == 0


@pytest.mark.parametrize(
    ("ready", "script"),
    [
        ("{folder}/ready", "sleep 0.2; echo 1 >{folder}/ready"),
        ("exec:test -f {folder}/ready", "sleep 0.2; echo 1 >{folder}/ready"),
        ("http://127.0.0.1:{port}/", "exec {python} -m http.server {port} --bind 127.0.0.1"),
        ("tcp://localhost:{port}", "exec {python} -m http.server {port} --bind 127.0.0.1"),
        ("notify", "exec {python} {folder}/notify.py"),
    ],
    ids=["file", "exec", "http", "tcp", "notify"],
)
def test_each_kind_of_ready_check(tmp_path: Path, python: str, ready: str, script: str) -> None:
    (tmp_path / "notify.py").write_text(
        "import os, socket, time\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.sendto(b'STATUS=soon\\nREADY=1', os.environ['NOTIFY_SOCKET'].replace('@', chr(0)))\n"
        "time.sleep(1000)\n"
    )
    values = {"folder": tmp_path, "port": free_port(), "python": python}
    script = script if "exec" in script else f"{script}; {SLEEP}"
    conf = program("db", script.format(**values), f"ready = {ready.format(**values)}")
    with supervising(tmp_path, conf + program("web", SLEEP, "depends_on = db:ready"), python) as run:
        run.until(db="ready", web="ready")
        assert order(run) == ["db", "web"]


def test_a_program_not_ready_in_time_is_retried_then_fails(tmp_path: Path, python: str) -> None:
    keys = ("ready = /nowhere/file", "ready_timeout = 0.2", "startretries = 1", "restart_delay = 0.1")
    conf = program("db", SLEEP, *keys) + program("web", SLEEP, "depends_on = db:ready")
    with supervising(tmp_path, conf, python) as run:
        assert run.process.ended() == 137
        assert order(run) == ["db", "db"]
        run.wait_for_log(
            "cannot start web: it depends on db, which failed", r"cannot keep db running \(was not ready within 0.2 s\)"
        )


def test_a_failed_one_shot_fails_its_dependants(tmp_path: Path, python: str) -> None:
    conf = program("migrate", "exit 3", "startretries = 0", "autorestart = false")
    with supervising(tmp_path, conf + program("web", SLEEP, "depends_on = migrate:exited"), python) as run:
        assert run.process.ended() == 3
        assert order(run) == ["migrate"]
        run.wait_for_log(
            "cannot start web: it depends on migrate", r"CRIT cannot keep migrate running \(exit status 3\)"
        )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("depends_on = nobody:ready", "depends_on of web: unknown program nobody"),
        ("depends_on = other:ready", "depends_on has a cycle: "),
        ("depends_on = other", "depends_on = other: give PROGRAM:started, PROGRAM:ready or PROGRAM:exited"),
        ("ready = nonsense", "ready = nonsense: give /FILE, http://"),
        ("alive = log:x", "alive = log:x: give /FILE, http://"),
        ("ready_timeout = soon", "ready_timeout = soon: give seconds, more than 0"),
        ("depend_on = other:ready", "unknown setting depend_on: did you mean depends_on?"),
        ("foward = HUP", "unknown setting foward: did you mean forward?"),
        ("forward = NOPE", "forward = NOPE: cannot forward SIGNOPE"),
        ("forward = HUP TERM", "forward = HUP TERM: cannot forward SIGTERM"),
        ("main = perhaps", "main = perhaps: not a valid boolean value"),
    ],
)
def test_a_wrong_setting_of_a_program_is_refused(tmp_path: Path, python: str, keys: str, message: str) -> None:
    conf = program("web", SLEEP, keys) + program("other", SLEEP, "depends_on = web:ready")
    with supervising(tmp_path, conf, python) as run:
        assert run.process.ended() == 2
        assert message in run.process.lines[0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("log_fromat = json", "unknown setting log_fromat: the settings are log_format, log_time, metrics"),
        ("alive.web = /x 10", "unknown setting alive.web: the settings are log_format, log_time, metrics"),
        ("log_format = xml", "log_format = xml: give text or json"),
    ],
)
def test_a_wrong_setting_of_the_plugin_is_refused(tmp_path: Path, python: str, keys: str, message: str) -> None:
    with supervising(tmp_path, f"{keys}\n" + program("web", SLEEP), python) as run:
        assert run.process.ended() == 2
        assert f"[rpcinterface:pid1] {message}" in run.process.lines[0]


# Exit status


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("sleep 1.2; exit 5", 5), ("kill -SEGV $$", 139)])
def test_the_main_program_ends_the_container(tmp_path: Path, python: str, script: str, status: int) -> None:
    keys = ("main = true", "autorestart = false", "startretries = 0")
    with supervising(tmp_path, program("job", script, *keys) + program("side", SLEEP), python) as run:
        assert run.process.ended() == status
        assert run.process.lines[-1].endswith(f"ending with status {status}")


def test_the_status_is_0_when_all_one_shots_are_done(tmp_path: Path, python: str) -> None:
    conf = program("one", "exit 0", "autorestart = false") + program("two", "exit 4", "exitcodes = 4")
    spare = program("spare", SLEEP, "autostart = false")
    listener = "[eventlistener:l]\ncommand = sh -c 'echo READY; read x'\nevents = TICK_3600\n"
    with supervising(tmp_path, conf + spare + listener, python) as run:
        assert run.process.ended() == 0
        run.wait_for_log("all programs are done: ending with status 0")


def test_a_quick_one_shot_does_not_end_the_others(tmp_path: Path, python: str) -> None:
    """An expected end within startsecs is not a failed start, unless autorestart is true."""
    with supervising(tmp_path, program("one", "exit 0", "autorestart = false") + program("web", SLEEP), python) as run:
        found = run.until(one="done", web="ready")
        assert found["one"]["starts"] == 1
        assert "one (exit status 0; expected)" in run.process.output
        assert run.stop() == 0


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 3", 3), ("exit 0", 1), ("kill -9 $$", 137), ("exec /missing", 127)],
)
def test_a_failed_programs_status_is_the_exit_status(tmp_path: Path, python: str, script: str, status: int) -> None:
    keys = ("autorestart = true", "startretries = 1", "restart_delay = 0.1")
    with supervising(tmp_path, program("web", script, *keys), python) as run:
        assert run.process.ended() == status
        assert "CRIT cannot keep web running" in run.process.lines[-1]


def test_a_status_in_give_up_on_is_not_retried(tmp_path: Path, python: str) -> None:
    with supervising(tmp_path, program("web", "exit 2", "give_up_on = 2,78"), python) as run:
        assert run.process.ended() == 2
        assert order(run) == ["web"]


# Restarts


def spawn_times(run: Supervisord, count: int) -> list[float]:
    """Return the times of the first `count` starts, which the program prints."""
    return [float(line) for line in wait_until(lambda: run.lines("web")[count - 1 :] and run.lines("web")[:count])]


@pytest.mark.parametrize("startsecs", [0, 1])
def test_the_delay_doubles_up_to_its_cap_without_a_limit(tmp_path: Path, python: str, startsecs: int) -> None:
    keys = ("startretries = -1", f"startsecs = {startsecs}", "restart_delay = 0.2", "restart_delay_max = 0.7")
    conf = program("web", "date +%%s.%%N; exit 1", "autorestart = true", *keys)
    with supervising(tmp_path, conf, python) as run:
        times = spawn_times(run, 6)
        pauses = [later - time for time, later in itertools.pairwise(times)]
        assert all(0 <= pause - due < 0.2 for pause, due in zip(pauses, (0.2, 0.4, 0.7, 0.7, 0.7), strict=True)), pauses
        assert run.stop(within=1) == 0


def test_the_restart_after_a_good_run_is_immediate(tmp_path: Path, python: str) -> None:
    with supervising(tmp_path, program("web", f"date +%%s.%%N; {SLEEP}", "restart_delay = 5"), python) as run:
        for starts in (1, 2, 3):
            wait_until(lambda starts=starts: run.until(web="ready")["web"]["starts"] == starts)  # type: ignore[misc]
            pid = run.pid("web")
            os.kill(pid, signal.SIGKILL)
        spawn_times(run, 4)
        assert run.until(web="ready")["web"]["exit_status"] == 137


def test_a_program_added_with_startsecs_0_does_not_spin(tmp_path: Path, python: str) -> None:
    with supervising(tmp_path, program("side", SLEEP), python) as run:
        run.until(side="ready")
        keys = ("autorestart = true", "startsecs = 0", "startretries = -1", "restart_delay = 0.5")
        run.write(program("side", SLEEP) + program("web", "date +%%s.%%N; exit 1", *keys))
        run.control("update")
        times = spawn_times(run, 3)
        assert times[2] - times[0] > 1.4


# Stopping


def deaf(name: str, *keys: str) -> str:
    """Return the section of a program that does not stop on SIGTERM."""
    return program(name, 'trap "echo TERM" TERM; echo up; while :; do sleep 0.1; done', *keys)


def test_the_stop_goes_in_reverse_order(tmp_path: Path, python: str) -> None:
    with supervising(tmp_path, CHAIN, python) as run:
        run.until(web="ready")
        assert run.stop() == 0
        stops = [line.split("stopped: ")[1].split()[0] for line in run.process.lines if "stopped: " in line]
        assert stops == ["web", "db"]


def test_one_deadline_holds_for_a_chain_of_deaf_programs(tmp_path: Path, python: str) -> None:
    """Each program gets its signal before the deadline, and none gets extra time."""
    keys = "stopwaitsecs = 2"
    conf = deaf("a", keys) + deaf("b", keys, "depends_on = a:started") + deaf("c", keys, "depends_on = b:started")
    with supervising(tmp_path, conf, python) as run:
        run.until(a="ready", b="ready", c="ready")
        start = time.monotonic()
        assert run.stop() == 0
        assert 1.9 < time.monotonic() - start < 3.9
        assert [line[0] for line in run.process.lines if line.endswith("| TERM")] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("state", "script", "keys"),
    [
        ("waiting", SLEEP, "depends_on = side:ready"),
        ("starting", SLEEP, "startsecs = 60"),
        ("started", SLEEP, "ready = /nowhere"),
        ("ready", SLEEP, ""),
        ("backoff", "exit 1", "restart_delay = 60\nrestart_delay_max = 60"),
        ("stopping", 'trap "sleep 0.5; exit 0" TERM; while :; do sleep 0.1; done', ""),
        ("stopped", SLEEP, "autostart = false"),
        ("done", "exit 0", ""),
        ("failed", "sleep 0.3; exit 3", "startretries = 0"),
    ],
)
def test_a_stop_in_each_state_ends_at_once(tmp_path: Path, python: str, state: str, script: str, keys: str) -> None:
    """A failed program has already begun the stop, which goes on and ends with its status."""
    side = 'trap "sleep 1; exit 0" TERM; while :; do sleep 0.1; done'
    conf = program("web", script, keys) + program("side", side, "ready = /nowhere")
    with supervising(tmp_path, conf, python) as run:
        if state == "stopping":
            run.until(web="ready")
            run.call("supervisor.stopProcess", "web", False)
        run.until(web=state)
        assert run.stop(within=5) == (3 if state == "failed" else 0)  # stopwaitsecs is 10
