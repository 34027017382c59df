"""./app.sh on a bare machine, and the plugin where no container is needed to see it."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path

import requests

from support import ROOT, free_port, need, running, wait_until


def app_environment(run: Path) -> dict[str, str]:
    return {"APPCOUP_VENV": sys.prefix, "APPCOUP_RUN": str(run), "ECHO_LISTEN": f"127.0.0.1:{free_port()}"}


def test_app_sh_needs_nothing_but_python(tmp_path: Path) -> None:
    """In a fresh copy it makes its own environment, and the data file where it was called, here by a link."""
    checkout, here = tmp_path / "check out", tmp_path / "here"
    made = shutil.ignore_patterns(".git", ".venv", ".cache", ".run", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, checkout, ignore=made)
    here.mkdir()
    (here / "random.py").write_text("raise SystemExit('not the module that was meant')")
    (here / "app").symlink_to(checkout / "app.sh")
    port = free_port()
    with running([here / "app"], {"ECHO_LISTEN": f"127.0.0.1:{port}"}, here) as app:
        app.said("echo | serving", within=100)
        app.said("generator | writing")
        get = [need("curl"), "-sf", f"http://127.0.0.1:{port}/data"]
        assert wait_until(lambda: subprocess.run(get, capture_output=True).stdout).strip().isdigit()
        assert (here / "data").exists()
        app.process.terminate()
        assert app.ended() == 0


def test_where_python_has_no_venv_it_names_the_package(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\ncase $2 in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    command = [ROOT / "tests" / "venv", tmp_path / "venv", ROOT / "requirements.txt"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHON": str(python)})
    assert done.returncode == 2
    assert "python3-venv" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_taken_port_is_said_and_ends_it(tmp_path: Path) -> None:
    environment = app_environment(tmp_path)
    with running([ROOT / "app.sh"], environment, tmp_path) as first:
        first.said("echo | serving")
        other = tmp_path / "other"
        other.mkdir()
        with running([ROOT / "app.sh"], {**environment, "APPCOUP_RUN": str(other)}, other) as second:
            assert second.ended() == 1
            assert "Address already in use" in second.output
            assert second.lines[-1].startswith("supervisord | CRIT echo cannot be kept up")
        first.process.terminate()
        assert first.ended() == 0


def test_an_output_that_nobody_reads_does_not_keep_it_from_stopping(tmp_path: Path) -> None:
    """Stock supervisord sleeps in the write then, and hears no signal."""
    conf = tmp_path / "supervisord.conf"
    text = (ROOT / "supervisord.conf").read_text()
    conf.write_text(text.replace("command = python -m generator", "command = sh -c 'exec yes'"))
    environment = {
        **os.environ,
        **app_environment(tmp_path),
        "PYTHONPATH": str(ROOT),
        "GENERATOR_HEARTBEAT": str(tmp_path / "beat"),
        "APPCOUP_ECHO": "127.0.0.1:1",
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


def test_a_reader_of_the_output_that_goes_away_does_not_end_it(tmp_path: Path) -> None:
    """As in `./app.sh | head -n 1`: the application goes on, and stops when it is told to."""
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
            app.send_signal(signal.SIGUSR1)  # of which all of them write a line
            app.terminate()
            assert app.wait(10) == 0
        finally:
            app.kill()
