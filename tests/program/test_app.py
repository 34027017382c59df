"""Tests of ./app.sh: its first start, its health check and its errors."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from support import ROOT, free_port, need, running, wait_until
from support.couplings import self_signed

VENV = ROOT / "scripts" / "venv"


def app_environment(run: Path) -> dict[str, str]:
    return {"APPCOUP_VENV": sys.prefix, "APPCOUP_RUN": str(run), "ECHO_LISTEN": f"127.0.0.1:{free_port()}"}


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a short name. A socket's name has at most 107 bytes, and some of a worker's are longer."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_app_sh_needs_nothing_but_python(short_path: Path) -> None:
    """A fresh copy makes its own environment. It writes the data to the current folder, also when called by a link."""
    checkout, here = short_path / "check out", short_path / "here"
    made = shutil.ignore_patterns(".git", ".venv", ".cache", ".run", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, checkout, ignore=made)
    here.mkdir()
    (here / "random.py").write_text("raise SystemExit('a module of the current folder was imported')")
    (here / "app").symlink_to(checkout / "app.sh")
    port = free_port()
    with running([here / "app"], {"ECHO_LISTEN": f"127.0.0.1:{port}"}, here) as app:
        app.wait_for_log(f"^installing [0-9]+ packages into {checkout}/.venv, once; this takes ")
        app.wait_for_log("echo | serving", within=100)
        app.wait_for_log("generator | writing")
        get = [need("curl"), "-sf", f"http://127.0.0.1:{port}/data"]
        assert wait_until(lambda: subprocess.run(get, capture_output=True).stdout).strip().isdigit()
        assert (here / "data").exists()
        app.process.terminate()
        assert app.ended() == 0


@pytest.fixture
def quick_python(tmp_path: Path) -> Path:
    """A Python that makes environments with an empty pip, because the real one takes many seconds to install."""
    python = tmp_path / "python3"
    python.write_text(f"""#!/bin/sh -e
[ "$2" = venv ] || exec {sys.executable} "$@"
{sys.executable} -m venv --without-pip "$3"
sed -i s/--without-pip.// "$3/pyvenv.cfg"
touch "$3"/bin/pip "$(echo "$3"/lib/python3*/site-packages)/pip.py"
chmod +x "$3/bin/pip"
""")
    python.chmod(0o755)
    (tmp_path / "requirements.txt").touch()
    return python


def make_venv(folder: Path, requirements: Path, python: Path) -> subprocess.CompletedProcess[str]:
    command, environment = [VENV, folder, requirements], {**os.environ, "PYTHON": str(python)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_an_environment_that_does_not_run_is_made_again(tmp_path: Path, quick_python: Path) -> None:
    """It was moved, or its Python is gone. An environment that runs stays."""
    venv, moved, requirements = tmp_path / "venv", tmp_path / "moved", tmp_path / "requirements.txt"

    def made(folder: Path) -> bool:
        done = make_venv(folder, requirements, quick_python)
        assert done.returncode == 0
        return done.stderr == f"installing 0 packages into {folder}, once; this takes 10 seconds to a minute\n"

    assert made(venv)
    assert not made(venv)
    venv.rename(moved)
    assert made(moved)
    (moved / "bin" / "python").unlink()
    (moved / "bin" / "python").symlink_to("/nowhere")
    assert made(moved)
    assert not made(moved)


def test_installers_wait_for_each_other(tmp_path: Path, quick_python: Path) -> None:
    venv, requirements = tmp_path / "venv", tmp_path / "requirements.txt"
    with requirements.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with running([VENV, venv, requirements], {"PYTHON": str(quick_python)}) as second:
            wait_until(lambda: "flock" in children(second.pid))
            subprocess.run([quick_python, "-m", "venv", venv], check=True)
            shutil.copy(requirements, venv)
            fcntl.flock(file, fcntl.LOCK_UN)
            assert (second.ended(), second.lines) == (0, [])


def children(pid: int) -> list[str]:
    """Return the names of a process's children."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [Path(f"/proc/{each}/comm").read_text().strip() for each in pids]


def test_without_pythons_venv_it_names_debians_package(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\ncase $2 in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    done = make_venv(tmp_path / "venv", ROOT / "requirements.txt", python)
    assert done.returncode == 2
    assert "python3-venv" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_second_app_and_a_taken_port_end_with_the_cause(tmp_path: Path) -> None:
    environment = app_environment(tmp_path)
    with running([ROOT / "app.sh"], environment, tmp_path) as first:
        first.wait_for_log("echo | serving")
        other = tmp_path / "other"
        other.mkdir()
        with running([ROOT / "app.sh"], environment, other) as second:
            assert second.ended() == 2
            (line,) = second.lines
            assert line.startswith(f"app.sh: another one runs with {tmp_path}: stop it first, or set APPCOUP_RUN")
        with running([ROOT / "app.sh"], {**environment, "APPCOUP_RUN": str(other)}, other) as third:
            assert third.ended() == 1
            assert f"cannot listen on {environment['ECHO_LISTEN']}: address already in use (--listen," in third.output
            assert third.lines[-1].startswith("supervisord | CRIT cannot keep echo running")
        first.process.terminate()
        assert first.ended() == 0


def test_a_folder_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    with running([ROOT / "app.sh"], {**app_environment(folder)}, tmp_path) as app:
        assert app.ended() == 2
        (line,) = app.lines
        assert line.startswith(f"app.sh: {folder} is too long for the name of a socket: set APPCOUP_RUN")


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", ":0", "https"])
def test_health_sh_asks_echo_wherever_it_listens(tmp_path: Path, address: str) -> None:
    environment = {**app_environment(tmp_path), "ECHO_LISTEN": address}
    if address == "https":
        self_signed(tmp_path, "localhost")
        files = {"ECHO_TLS_CERT": str(tmp_path / "certificate"), "ECHO_TLS_KEY": str(tmp_path / "key")}
        environment |= {"ECHO_LISTEN": "127.0.0.1:0", **files}
    with running([ROOT / "app.sh"], environment, tmp_path) as app:
        wait_until(lambda: (tmp_path / "echo.alive").exists() and (tmp_path / "generator.alive").exists())
        health = [ROOT / "health.sh"]
        wait_until(lambda: subprocess.run(health, env={**os.environ, **environment}).returncode == 0)
        app.process.terminate()
        assert app.ended() == 0


def test_it_stops_although_nothing_reads_its_output(tmp_path: Path) -> None:
    """Stock supervisord blocks in the write, and does not react to signals."""
    conf = tmp_path / "supervisord.conf"
    text = (ROOT / "supervisord.conf").read_text()
    conf.write_text(text.replace("command = python -m generator", "command = sh -c 'exec yes'"))
    environment = {
        **os.environ,
        **app_environment(tmp_path),
        "PYTHONPATH": str(ROOT),
        "GENERATOR_HEARTBEAT": str(tmp_path / "generator.alive"),
        "ECHO_HEARTBEAT": str(tmp_path / "echo.alive"),
        "APPCOUP_RESTART": "true",
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
    }
    command = [f"{sys.prefix}/bin/supervisord", "-c", str(conf)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as app:
        try:
            assert app.stdout
            pipe = app.stdout.fileno()
            wait_until(lambda: int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder) > 60000)
            app.terminate()
            assert app.wait(10) == 0
        finally:
            app.kill()


def test_it_goes_on_when_the_reader_of_its_output_ends(tmp_path: Path) -> None:
    """As in `./app.sh | head -n 1`. The application goes on, and still stops on SIGTERM."""
    environment = {**os.environ, **app_environment(tmp_path)}
    url = f"http://{environment['ECHO_LISTEN']}/data"
    with subprocess.Popen(
        [ROOT / "app.sh"], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as app:
        try:
            assert app.stdout
            assert app.stdout.readline()
            app.stdout.close()
            wait_until(lambda: requests.get(url).ok)
            app.send_signal(signal.SIGUSR1)  # on which each of them logs a line
            app.terminate()
            assert app.wait(10) == 0
        finally:
            app.kill()
