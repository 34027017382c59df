"""Tests of hung programs, supervisorctl, signals, environment files and unusual programs."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from support import free_port, wait_until
from support.supervisord import SLEEP, order, program, supervising

BEAT = "while :; do date >{folder}/beat; sleep 0.1; done"
SERVER = "exec {python} -m http.server {port} --bind 127.0.0.1"


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("alive", "script"),
    [
        ("{folder}/beat", BEAT),
        ('exec:test -n "$(find {folder}/beat -newermt -0.5sec)"', BEAT),
        ("http://127.0.0.1:{port}/", SERVER),
        ("tcp://127.0.0.1:{port}", "exec {python} {folder}/server.py {port}"),
    ],
    ids=["file", "exec", "http", "tcp"],
)
def test_a_hung_program_is_replaced_and_the_other_is_not(tmp_path: Path, python: str, alive: str, script: str) -> None:
    """The kernel accepts connections for a stopped program, so the TCP server has a backlog of 0."""
    (tmp_path / "server.py").write_text(
        "import socket, sys\n"
        "s = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "s.bind(('127.0.0.1', int(sys.argv[1])))\ns.listen(0)\n"
        "while True: s.accept()[0].close()\n"
    )
    values = {"folder": tmp_path, "port": free_port(), "python": sys.executable}
    conf = program("web", script.format(**values), f"alive = {alive.format(**values)}", "alive_timeout = 2")
    with supervising(tmp_path, conf + program("side", SLEEP), python) as run:
        run.until(web="ready", side="ready")
        side, web = run.pid("side"), run.pid("web")
        assert "hangs" not in run.process.output
        os.kill(web, signal.SIGSTOP)
        run.wait_for_log("web hangs, no sign of life from .*: killing it")
        wait_until(lambda: run.pid("web") != web)
        run.until(web="ready")
        assert run.pid("side") == side


def test_a_living_program_is_left_alone(tmp_path: Path, python: str) -> None:
    conf = program("web", BEAT.format(folder=tmp_path), f"alive = {tmp_path}/beat", "alive_timeout = 1")
    with supervising(tmp_path, conf, python) as run:
        run.until(web="ready")
        start = time.monotonic()
        wait_until(lambda: time.monotonic() > start + 3)  # three times alive_timeout
        assert run.status()["web"]["starts"] == 1


def test_a_heartbeat_from_the_future_is_no_sign_of_life(tmp_path: Path, python: str) -> None:
    """The clock may have been set back, so only a change of the file counts."""
    beat = tmp_path / "beat"
    beat.touch()
    os.utime(beat, (2**32, 2**32))
    keys = (f"alive = {beat}", "alive_timeout = 1")
    with supervising(tmp_path, program("web", SLEEP, *keys), python) as run:
        run.wait_for_log("web hangs")


def test_the_kill_of_a_hung_program_takes_its_group(tmp_path: Path, python: str) -> None:
    """The children of a killed program would keep its port."""
    keys = ("alive = /nowhere", "alive_timeout = 1", "killasgroup = true")
    with supervising(tmp_path, program("web", "sleep 1001 & wait", *keys), python) as run:
        run.until(web="ready")
        web = run.pid("web")
        (child,) = wait_until(lambda: Path(f"/proc/{web}/task/{web}/children").read_text().split())
        run.wait_for_log("web hangs, no sign of life from /nowhere: killing its group")
        wait_until(lambda: not is_running(int(child)))


# supervisorctl


def test_update_keeps_checking_a_changed_program(tmp_path: Path, python: str) -> None:
    keys = ("alive = /nowhere", "alive_timeout = 60")
    with supervising(tmp_path, program("web", SLEEP, *keys), python) as run:
        run.until(web="ready")
        run.write(program("web", SLEEP, "alive = /nowhere", "alive_timeout = 1"))
        assert "web: updated process group" in run.control("update")
        run.wait_for_log("web hangs")


def test_update_takes_a_new_program_that_depends_on_an_old_one(tmp_path: Path, python: str) -> None:
    db = program("db", SLEEP)
    with supervising(tmp_path, db, python) as run:
        run.until(db="ready")
        run.write(db + program("web", SLEEP, "depends_on = db:ready"))
        run.control("update")
        run.until(db="ready", web="ready")
        run.write(db)
        run.control("update")
        assert run.states() == {"db": "ready"}


def test_a_wrong_setting_is_refused_by_update_too(tmp_path: Path, python: str) -> None:
    with supervising(tmp_path, program("web", SLEEP), python) as run:
        run.until(web="ready")
        run.write(program("web", SLEEP, "depends_on = nobody:ready"))
        assert "unknown program nobody" in run.control("update")
        assert run.states() == {"web": "ready"}


def test_dependants_survive_stop_start_and_restart(tmp_path: Path, python: str) -> None:
    """The dependants keep running, but wait for it when they restart."""
    conf = program("db", SLEEP) + program("web", SLEEP, "depends_on = db:ready", "autorestart = true")
    with supervising(tmp_path, conf, python) as run:
        run.until(db="ready", web="ready")
        web = run.pid("web")
        run.control("restart", "db")
        run.until(db="ready", web="ready")
        run.control("stop", "db")
        assert run.pid("web") == web
        os.kill(web, signal.SIGKILL)
        run.until(db="stopped", web="backoff")
        run.control("start", "db")
        run.until(db="ready", web="ready")
        assert run.status()["db"]["starts"] == 3


def test_dependants_survive_a_killed_dependency(tmp_path: Path, python: str) -> None:
    conf = program("db", SLEEP) + program("web", SLEEP, "depends_on = db:ready")
    with supervising(tmp_path, conf, python) as run:
        run.until(db="ready", web="ready")
        web = run.pid("web")
        os.kill(run.pid("db"), signal.SIGKILL)
        wait_until(lambda: run.status()["db"]["starts"] == 2)
        run.until(db="ready", web="ready")
        assert run.pid("web") == web


def test_a_waiting_program_that_is_stopped_no_longer_waits(tmp_path: Path, python: str) -> None:
    """A later `start` ignores its dependencies."""
    conf = program("db", SLEEP, f"ready = {tmp_path}/ready") + program("web", SLEEP, "depends_on = db:ready")
    with supervising(tmp_path, conf, python) as run:
        run.until(db="started", web="waiting")
        assert re.search("web +BACKOFF +waiting for db:ready", run.control("status"))
        assert "web: ERROR (already started)" in run.control("start", "web")
        assert "web: stopped" in run.control("stop", "web")
        run.until(web="stopped")
        (tmp_path / "ready").touch()
        run.until(db="ready", web="stopped")
        (tmp_path / "ready").unlink()
        run.control("restart", "db")
        run.control("restart", "web")
        run.until(db="started", web="ready")
        run.control("reload")
        run.until(db="started", web="waiting")
        run.control("restart", "web")
        run.until(db="started", web="ready")
        run.write(program("db", SLEEP))
        run.control("update")
        run.until(db="ready")
        assert run.states().keys() == {"db"}


def test_update_removes_a_waiting_program(tmp_path: Path, python: str) -> None:
    db = program("db", SLEEP, "ready = /nowhere")
    with supervising(tmp_path, db + program("web", SLEEP, "depends_on = db:ready"), python) as run:
        run.until(db="started", web="waiting")
        run.write(db)
        assert "web: removed process group" in run.control("update")
        assert run.states() == {"db": "started"}


@pytest.mark.parametrize("how", ["reload", "HUP"])
def test_a_reload_starts_in_order_again_and_leaks_nothing(tmp_path: Path, python: str, how: str) -> None:
    keys = ("depends_on = db:ready", "ready = notify", "ready_timeout = 60")
    conf = program("web", SLEEP, *keys) + program("db", SLEEP, "ready = /nowhere")
    with supervising(tmp_path, conf, python) as run:
        run.until(web="waiting", db="started")
        before = len(os.listdir(f"/proc/{run.process.pid}/fd"))
        for count in (2, 3):
            run.control("reload") if how == "reload" else run.process.signal(signal.SIGHUP)
            wait_until(lambda count=count: order(run).count("db") == count)  # type: ignore[misc]
            run.until(web="waiting", db="started")
        wait_until(lambda: len(os.listdir(f"/proc/{run.process.pid}/fd")) <= before)
        assert run.stop() == 0


def test_status_and_metrics_show_each_program(tmp_path: Path, python: str) -> None:
    metrics = tmp_path / "pid1.prom"
    conf = f"metrics = {metrics}\n" + program("db", SLEEP, "ready = /nowhere") + program("one", "exit 0")
    with supervising(tmp_path, conf + program("web", SLEEP, "depends_on = db:ready, one:exited"), python) as run:
        run.until(db="started", one="done", web="waiting")
        text = run.control("pid1", "status")
        assert "waiting for db:ready" in text
        assert "last exit status 0" in text
        assert wait_until(lambda: 'pid1_program_state{program="one",state="done"} 1\n' in metrics.read_text())
        assert 'pid1_program_starts_total{program="web"} 0\n' in metrics.read_text()
        assert 'pid1_program_exit_status{program="one"} 0\n' in run.control("pid1", "metrics")


# Signals

CATCHER = 'trap "echo HUP" HUP; echo up; while :; do sleep 0.1; done'


def test_a_signal_goes_only_to_programs_that_list_it(tmp_path: Path, python: str) -> None:
    listener = "[eventlistener:l]\ncommand = sh -c 'echo READY; read x'\nevents = TICK_3600\n"
    conf = program("web", CATCHER, "forward = HUP") + program("side", SLEEP) + listener
    with supervising(tmp_path, conf, python) as run:
        pids = [run.pid(name) for name in ("web", "side", "l")]
        run.until(web="ready", side="ready", l="ready")
        run.process.signal(signal.SIGHUP)
        run.wait_for_log(r"web \| HUP")
        assert [run.pid(name) for name in ("web", "side", "l")] == pids


def test_no_early_stop_is_lost(tmp_path: Path, python: str) -> None:
    """The signal arrives at different moments of the start."""
    for delay in range(0, 240, 20):
        with supervising(tmp_path, program("web", SLEEP), python) as run:
            wait_until(lambda: "SigBlk:\t0000000000004" in Path(f"/proc/{run.process.pid}/status").read_text(), 5)
            start = time.monotonic()
            wait_until(lambda: time.monotonic() >= start + delay / 1000)  # noqa: B023
            assert run.stop() == 0


def test_the_command_refuses_a_conf_without_the_plugin(tmp_path: Path, python: str) -> None:
    with supervising(tmp_path, "", python, head="[supervisord]\nnodaemon = true\n") as run:
        assert run.process.ended() == 2
        run.wait_for_log("add\n.rpcinterface:pid1.\nsupervisor.rpcinterface_factory = pid1:make_plugin")


@pytest.mark.parametrize("where", ["main", "included"])
def test_the_plugin_needs_no_http_server_and_may_be_included(tmp_path: Path, python: str, where: str) -> None:
    plugin = "[rpcinterface:pid1]\nsupervisor.rpcinterface_factory = pid1:make_plugin\n"
    head = "[supervisord]\nnodaemon = true\nlogfile = /dev/null\nlogfile_maxbytes = 0\npidfile = {folder}/pid\n"
    (tmp_path / "extra.conf").write_text(plugin if where == "included" else "")
    head += "[include]\nfiles = %(here)s/extra.con*\n" + (plugin if where == "main" else "")
    with supervising(tmp_path, program("one", "exit 0", "autorestart = false"), python, head=head) as run:
        assert run.process.ended() == 0
        run.wait_for_log("all programs are done")


# Environment files


def test_only_its_program_gets_the_variables_of_an_env_file(tmp_path: Path, python: str) -> None:
    (tmp_path / "env").write_text("# a comment\nexport TOKEN='a b'  # why\nOTHER=\"x'y\"\nSET=file\n")
    keys = (f"env_file = {tmp_path}/env", "environment = SET=conf", "autorestart = false")
    conf = program("web", 'echo "$TOKEN|$OTHER|$SET"', *keys) + program("side", 'echo "${TOKEN-unset}"')
    with supervising(tmp_path, conf + program("stay", SLEEP), python) as run:
        run.until(web="done", stay="ready")
        assert run.lines("web") == ["a b|x'y|conf"]
        assert run.lines("side") == ["unset"]
        assert "a b" not in str(run.call("supervisor.getAllConfigInfo")) + run.control("status")


@pytest.mark.parametrize(
    ("text", "why"), [(None, "No such file or directory"), ("A=1\nB C\n", "line 2 is not KEY=VALUE")]
)
def test_an_env_file_that_cannot_be_read_is_refused(tmp_path: Path, python: str, text: str | None, why: str) -> None:
    if text:
        (tmp_path / "env").write_text(text)
    conf = program("web", SLEEP, f"env_file = {tmp_path}/env", "startretries = 0")
    with supervising(tmp_path, conf, python) as run:
        assert run.process.ended() == 127
        run.wait_for_log(f"cannot keep web running .cannot read env_file {tmp_path}/env: {why}")


# Unusual programs


def test_fifty_programs_start_and_stop(tmp_path: Path, python: str) -> None:
    names = [f"p{number}" for number in range(50)]
    needs = ["", *(f"depends_on = p{number}:started" if number % 10 == 0 else "" for number in range(49))]
    conf = "".join(program(name, SLEEP, key, "startsecs = 0") for name, key in zip(names, needs, strict=True))
    with supervising(tmp_path, conf, python) as run:
        wait_until(lambda: {*run.states().values()} == {"ready"})
        assert run.stop(within=5) == 0


def test_a_group_with_two_processes_of_a_program(tmp_path: Path, python: str) -> None:
    """A dependant waits for both processes."""
    keys = ("numprocs = 2", "process_name = w_%(process_num)d", f"ready = {tmp_path}/ready_%(process_num)d")
    conf = "[group:workers]\nprograms = w\n" + program("w", SLEEP, *keys)
    with supervising(tmp_path, conf + program("web", SLEEP, "depends_on = w:ready"), python) as run:
        run.until(w_0="started", w_1="started", web="waiting")
        (tmp_path / "ready_0").touch()
        run.until(w_0="ready", w_1="started", web="waiting")
        (tmp_path / "ready_1").touch()
        run.until(w_0="ready", w_1="ready", web="ready")
        assert run.stop() == 0


def test_an_event_listener_still_gets_its_events(tmp_path: Path, python: str) -> None:
    script = 'while :; do echo READY; read head; echo "$head" >&2; printf "RESULT 2\\nOK"; done'
    listener = f"[eventlistener:l]\ncommand = sh -c '{script}'\nevents = PROCESS_STATE_EXITED\n"
    with supervising(tmp_path, listener + program("one", "sleep 1; exit 0") + program("web", SLEEP), python) as run:
        run.wait_for_log(r"l \| ver:3.0 .*eventname:PROCESS_STATE_EXITED")
        assert run.stop() == 0


def test_a_program_that_daemonizes_is_done(tmp_path: Path, python: str) -> None:
    conf = program("old", "sleep 0.4 & exit 0", "autorestart = false") + program("web", SLEEP)
    with supervising(tmp_path, conf, python) as run:
        run.until(old="done", web="ready")
        children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children")
        wait_until(lambda: len(children.read_text().split()) == 1)
        assert run.stop() == 0
