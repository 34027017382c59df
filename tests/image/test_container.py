"""Tests of the single image: its processes, files, ports, log and health."""

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from support import need, wait_until
from support.engine import DOCKER, POLL, Container, container, volume

pytestmark = pytest.mark.docker


def test_curl_gets_numbers_one_a_line_two_seconds_apart() -> None:
    with container() as app:
        app.running()
        app.signal("USR2")
        wait_until(lambda: app.logs().count("generator | wrote ") >= 3)
        times = [time for time, line in app.timed_logs() if "generator | wrote " in line]
        assert all(1.5 < later - time < 2.5 for time, later in itertools.pairwise(times))
        lines = subprocess.check_output([need("curl"), "-sf", f"{app.url}/data"], text=True).splitlines()
        assert len(lines) >= 4
        assert all(line.isdecimal() and 0 <= int(line) <= 32767 for line in lines)


def test_ps_shows_only_supervisord_generator_and_echo() -> None:
    with container() as app:
        app.running()
        assert app.processes().keys() == {"supervisord", "generator", "echo"}
        assert app.processes()["supervisord"] == 1


def test_supervisorctl_works_by_docker_exec() -> None:
    with container() as app:
        pids = app.running()
        status = [line.split() for line in app.run("supervisorctl", "status").splitlines()]
        assert {words[0]: (words[1], int(words[3].rstrip(","))) for words in status} == {
            name: ("RUNNING", pid) for name, pid in pids.items()
        }


def test_it_does_not_run_as_root() -> None:
    with container() as app:
        app.running()
        assert {line.split()[0] for line in app.run("ps", "-e", "-o", "uid=").splitlines()} == {"10001"}


def test_a_mounted_folder_has_the_file(tmp_path: Path) -> None:
    """`docker run -v "$PWD":/data` writes the numbers to that folder, and the next run continues them."""
    tmp_path.chmod(0o775)
    user = f"{os.getuid() or 10001}:0"  # root's folder belongs to group 0, so the image's own user may write to it
    for runs in (1, 2):
        with container("--user", user, "--volume", f"{tmp_path}:/data") as app:
            app.wait_for_log("writing numbers")
            lines = wait_until(lambda runs=runs: (tmp_path / "data").read_text().splitlines()[runs - 1 :])  # type: ignore[misc]
            assert all(line.isdecimal() for line in lines)
            app.signal("TERM")
            assert app.ended() == 0


def test_another_user_of_group_0_continues_the_volume() -> None:
    with volume() as name:
        for user in ("10001:0", "123456:0"):
            with container("--volume", f"{name}:/data", "--user", user) as app:
                app.running()
                app.signal("TERM")
                assert app.ended() == 0


def test_no_tcp_port_but_8000_is_open() -> None:
    with container() as app:
        app.running()
        app.wait_for_log("echo | serving")
        tables = app.run("cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()
        listening = [line.split()[1] for line in tables if line.split()[3] == "0A"]
        assert [int(address.rpartition(":")[2], 16) for address in listening] == [8000]


def test_each_line_of_the_log_has_its_programs_name() -> None:
    with container() as app:
        app.wait_for_log("generator | writing", "echo | serving")
        app.run("sh", "-c", f"kill -SEGV {app.running()['echo']}")
        app.wait_for_log("terminated by SIGSEGV")
        app.running()
        app.signal("TERM")
        app.ended()
        names = {line.split(" | ")[0] for line in app.logs().splitlines()}
        assert names == {"supervisord", "generator", "echo"}


def health(app: Container) -> str:
    """Return the output of the image's health check: nothing, or why the container is not healthy."""
    done = subprocess.run([DOCKER, "exec", app.id, "/app/health.sh"], capture_output=True, text=True)
    assert bool(done.returncode) == bool(done.stdout), done
    return done.stdout


def test_docker_reports_it_healthy() -> None:
    with container("--health-interval", "1s") as app:
        app.becomes("healthy")


@pytest.mark.parametrize("program", ["generator", "echo"])
def test_unhealthy_when_a_program_is_dead(program: str) -> None:
    with container() as app:
        app.running()
        wait_until(lambda: not health(app), every=POLL)
        app.run("supervisorctl", "stop", program)
        assert program in wait_until(lambda: health(app), every=POLL)


@pytest.mark.parametrize("program", ["generator", "echo"])
def test_unhealthy_when_a_program_hangs(program: str) -> None:
    """The health check sees it before the pid1 plugin replaces it."""
    with container() as app:
        pids = app.running()
        wait_until(lambda: not health(app), every=POLL)
        app.run("sh", "-c", f"kill -STOP {pids[program]}")
        assert program in wait_until(lambda: health(app), every=POLL)
        assert app.running()[program] == pids[program]


def test_unhealthy_when_the_newest_number_is_stale() -> None:
    """Both programs run."""
    with container("--env", "GENERATOR_INTERVAL=60", "--env", "ECHO_STALE=1") as app:
        app.running()
        wait_until(lambda: "echo: HTTP/1.1 503" in health(app), every=POLL)
