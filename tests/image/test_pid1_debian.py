"""The README's example and recipes in an image that is not this project's: a Debian base and toy programs."""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ROOT, wait_until
from support.engine import POLL, build, container, docker

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("debian")]
README = (ROOT / "pid1" / "README.md").read_text()
DOCKERFILE, *CONFS = re.findall(r"```(?:dockerfile|ini)\n(.*?)```", README, re.DOTALL)
EXAMPLE, CONTROL, FPM, MIGRATIONS, CRON = CONFS
HEAD = EXAMPLE.partition("[program:")[0]
SOCKET = "import socket, time; socket.socket(socket.AF_UNIX).bind('/run/fpm'); time.sleep(1000)"
TOYS = {
    "php-fpm8.2": f'sleep 0.5; exec python3 -c "{SOCKET}"',
    "nginx": "mkdir -p /srv/n; cd /srv/n; : >healthz; exec python3 -m http.server 80",
    "gunicorn": "mkdir -p /srv/g; cd /srv/g; : >healthz; exec python3 -m http.server 8000",
    "celery": 'echo "worker has $SECRET"; exec sleep 1000',
    "manage.py": 'echo "migrated with $SECRET"',
    "cron": "exec sleep 1000",
    "server": "sleep 1.5; exit 7",
}
INSTALL = """
COPY --chmod=755 toys /usr/local/bin
RUN mkdir -p /run/secrets && echo SECRET=42 >/run/secrets/app.env && ln -s /usr/local/bin/manage.py /manage.py
"""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The README's Dockerfile with the plugin from the folder instead of PyPI, and toys with the recipes' names."""
    folder = tmp_path_factory.mktemp("foreign")
    shutil.copytree(ROOT / "pid1", folder / "pid1", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "toys").mkdir()
    for name, script in TOYS.items():
        (folder / "toys" / name).write_text(f"#!/bin/sh\n{script}\n")
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith(("FROM", "RUN apt-get", "CMD"))]
    (command,) = re.findall("^CMD.*", DOCKERFILE, re.MULTILINE)
    text = "\n".join(["ARG BASE", "FROM ${BASE}", "COPY pid1 /src/pid1", *lines, INSTALL, command, ""])
    (folder / "Dockerfile").write_text(text.replace("supervisor-pid1", "/src/pid1"))
    (folder / "supervisord.conf").write_text(EXAMPLE + CONTROL)
    yield build("pid1-foreign", folder)
    docker("image", "rm", "--force", "pid1-foreign")


def conf(folder: Path, programs: str) -> list[str]:
    path = folder / "supervisord.conf"
    path.write_text(HEAD + CONTROL + programs)
    return ["--volume", f"{path}:/etc/supervisord.conf:ro"]


def test_the_example_starts_in_order_and_stops_cleanly(foreign: str) -> None:
    with container(of=foreign) as app:
        app.said("spawned: 'web'")
        starts = re.findall(r"spawned: '(\w+)'", app.logs())
        assert starts == ["db", "migrate", "web"]
        app.said("migrate | migrating")
        wait_until(lambda: "web                  ready" in app.run("supervisorctl", "pid1", "status"), every=POLL)
        start = time.time()
        app.signal("TERM")
        assert app.ended() == 0
        assert app.finished_at() - start < 2


def test_the_first_line_of_the_log_has_a_name(foreign: str) -> None:
    with container(of=foreign) as app:
        app.said("spawned: 'web'")
        assert [line for line in app.logs().splitlines() if " | " not in line] == []


def test_the_recipe_for_fpm_and_nginx(foreign: str, tmp_path: Path) -> None:
    with container(*conf(tmp_path, FPM.replace("/run/php/php8.2-fpm.sock", "/run/fpm")), of=foreign) as app:
        app.said("spawned: 'nginx'")
        assert re.findall(r"spawned: '(\w+)'", app.logs()) == ["fpm", "nginx"]
        app.signal("TERM")
        assert app.ended() == 0


def test_the_recipe_with_migrations_and_a_worker(foreign: str, tmp_path: Path) -> None:
    with container(*conf(tmp_path, MIGRATIONS), of=foreign) as app:
        app.said("migrate | migrated with 42", "worker | worker has 42")
        assert re.findall(r"spawned: '(\w+)'", app.logs())[0] == "migrate"
        wait_until(lambda: "web                  ready" in app.run("supervisorctl", "pid1", "status"), every=POLL)
        app.signal("TERM")
        assert app.ended() == 0


def test_the_recipe_with_a_main_program(foreign: str, tmp_path: Path) -> None:
    with container(*conf(tmp_path, CRON.replace("unexpected", "false")), of=foreign) as app:
        assert app.ended() == 7
        assert "server cannot be kept up (exit status 7): ending with status 7" in app.logs()
