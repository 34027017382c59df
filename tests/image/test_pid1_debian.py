"""Tests of the example and recipes in pid1/README.md, in an image built on Debian."""

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
TOYS = {
    "celery": 'echo "worker has $SECRET"; exec sleep 1000',
    "manage.py": 'echo "migrated with $SECRET"',
    "server": "sleep 1.5; exit 7",
}
PACKAGES = "RUN apt-get update && apt-get install -y --no-install-recommends nginx-light php-fpm cron"
INSTALL = """
RUN pip install --break-system-packages --no-cache-dir gunicorn
COPY --chmod=755 toys /usr/local/bin
COPY site /etc/nginx/sites-enabled/default
COPY wsgi.py /app/wsgi.py
RUN mkdir -p /run/secrets && echo SECRET=42 >/run/secrets/app.env && ln -s /usr/local/bin/manage.py /manage.py
RUN echo '<?php echo "php works";' >/var/www/html/index.php
ENV PYTHONPATH=/
"""
SITE = """
server {
    listen 80;
    root /var/www/html;
    location = /healthz { return 200; }
    location / { include fastcgi.conf; fastcgi_pass unix:/run/php/php8.4-fpm.sock; }
}
"""
WSGI = """
def application(environ, start_response):
    start_response("200 OK", [])
    return [b"gunicorn works"]
"""
GET = "from urllib.request import urlopen; import sys; print(urlopen(sys.argv[1]).read().decode())"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the README's Dockerfile, with the plugin from its folder instead of PyPI and with the recipes' programs.

    nginx, php-fpm, cron and gunicorn are real. celery, manage.py and the server are scripts.
    """
    folder = tmp_path_factory.mktemp("foreign")
    shutil.copytree(ROOT / "pid1", folder / "pid1", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "toys").mkdir()
    for name, script in TOYS.items():
        (folder / "toys" / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / "site").write_text(SITE)
    (folder / "wsgi.py").write_text(WSGI)
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith(("FROM", "RUN apt-get", "CMD"))]
    (command,) = re.findall("^CMD.*", DOCKERFILE, re.MULTILINE)
    text = "\n".join(["ARG BASE", "FROM ${BASE}", PACKAGES, "COPY pid1 /src/pid1", *lines, INSTALL, command, ""])
    (folder / "Dockerfile").write_text(text.replace("supervisor-pid1", "/src/pid1"))
    (folder / "supervisord.conf").write_text(EXAMPLE + CONTROL)
    yield build("pid1-foreign", folder)
    docker("image", "rm", "--force", "pid1-foreign")


def conf(folder: Path, programs: str) -> list[str]:
    """Return options that run the image with these programs."""
    path = folder / "supervisord.conf"
    path.write_text(HEAD + CONTROL + programs)
    return ["--volume", f"{path}:/etc/supervisord.conf:ro"]


def test_the_example_starts_in_order_and_stops_cleanly(foreign: str) -> None:
    with container(of=foreign) as app:
        app.wait_for_log("spawned: 'web'")
        starts = re.findall(r"spawned: '(\w+)'", app.logs())
        assert starts == ["db", "migrate", "web"]
        app.wait_for_log("migrate | migrating")
        wait_until(lambda: "web                  ready" in app.run("supervisorctl", "pid1", "status"), every=POLL)
        start = time.time()
        app.signal("TERM")
        assert app.ended() == 0
        assert app.finished_at() - start < 2


def test_the_first_line_of_the_log_has_a_name(foreign: str) -> None:
    with container(of=foreign) as app:
        app.wait_for_log("spawned: 'web'")
        assert [line for line in app.logs().splitlines() if " | " not in line] == []


def test_the_recipe_for_fpm_and_nginx(foreign: str, tmp_path: Path) -> None:
    with container(*conf(tmp_path, FPM), of=foreign) as app:
        app.wait_for_log("spawned: 'nginx'")
        assert re.findall(r"spawned: '(\w+)'", app.logs()) == ["fpm", "nginx"]
        get = ("python3", "-c", GET, "http://127.0.0.1/index.php")
        assert "php works" in wait_until(lambda: app.run(*get))
        app.signal("HUP")
        app.wait_for_log("forwarding SIGHUP to nginx")
        assert "php works" in app.run(*get)
        app.signal("TERM")
        assert app.ended() == 0


def test_the_recipe_with_migrations_and_a_worker(foreign: str, tmp_path: Path) -> None:
    with container(*conf(tmp_path, MIGRATIONS), of=foreign) as app:
        app.wait_for_log("migrate | migrated with 42", "worker | worker has 42")
        assert re.findall(r"spawned: '(\w+)'", app.logs())[0] == "migrate"
        wait_until(lambda: "web                  ready" in app.run("supervisorctl", "pid1", "status"), every=POLL)
        assert "gunicorn works" in app.run("python3", "-c", GET, "http://127.0.0.1:8000/")
        app.signal("TERM")
        assert app.ended() == 0


def test_the_recipe_with_a_main_program(foreign: str, tmp_path: Path) -> None:
    with container(*conf(tmp_path, CRON.replace("unexpected", "false")), of=foreign) as app:
        app.wait_for_log("spawned: 'cron'")
        assert app.ended() == 7
        assert "cannot keep server running (exit status 7): ending with status 7" in app.logs()
