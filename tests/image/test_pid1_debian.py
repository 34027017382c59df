"""The README's example and recipes in an image that is not this project's: a Debian base and toy programs."""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import build, container, docker
from support import ROOT, wait_until

pytestmark = pytest.mark.docker
README = (ROOT / "pid1" / "README.md").read_text()
DOCKERFILE, *CONFS = re.findall(r"```(?:dockerfile|ini)\n(.*?)```", README, re.DOTALL)
EXAMPLE, CONTROL, FPM, MIGRATIONS, CRON = CONFS
HEAD = EXAMPLE.partition("[program:")[0]
TOYS = """
RUN mkdir -p /run/php /run/secrets /run/toys && echo "SECRET=42" >/run/secrets/app.env && cd /usr/local/bin \\
    && printf '#!/bin/sh\\nsleep 0.5; : >/run/php/php8.2-fpm.sock.file; exec python3 -c "import socket, time; s = socket.socket(socket.AF_UNIX); s.bind(\\\\"/run/php/php8.2-fpm.sock\\\\"); time.sleep(1000)"\\n' >php-fpm8.2 \\
    && printf '#!/bin/sh\\nexec python3 -m http.server 80\\n' >nginx \\
    && printf '#!/bin/sh\\nmkdir -p /tmp/w && cd /tmp/w && : >healthz && exec python3 -m http.server 8000\\n' >gunicorn \\
    && printf '#!/bin/sh\\necho "worker has $SECRET"; exec sleep 1000\\n' >celery \\
    && printf '#!/bin/sh\\nexec sleep 1000\\n' >cron \\
    && printf '#!/bin/sh\\nsleep 1.5; exit 7\\n' >server \\
    && printf '#!/bin/sh\\necho "migrated with $SECRET"\\n' >/manage.py && chmod +x * /manage.py && mkdir -p /srv && : >/healthz
"""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The README's Dockerfile, with the plugin from the folder instead of PyPI, and toys by the names in the recipes."""
    folder = tmp_path_factory.mktemp("foreign")
    shutil.copytree(ROOT / "pid1", folder / "pid1", ignore=shutil.ignore_patterns("__pycache__"))
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith(("FROM", "RUN apt-get", "CMD"))]
    text = "\n".join(["ARG BASE", "FROM ${BASE}", "COPY pid1 /src/pid1", *lines, TOYS, 'CMD ["pid1"]', ""])
    (folder / "Dockerfile").write_text(text.replace("supervisor-pid1", "/src/pid1"))
    (folder / "supervisord.conf").write_text(EXAMPLE + CONTROL)
    name = build("pid1-foreign", folder)
    yield name
    docker("image", "rm", "--force", name)


def conf(folder: Path, programs: str) -> list[str]:
    path = folder / "supervisord.conf"
    path.write_text(HEAD + CONTROL + programs)
    return ["--volume", f"{path}:/etc/supervisord.conf:ro"]


def test_the_example_starts_in_order_and_stops_cleanly(foreign: str) -> None:
    with container(of=foreign) as app:
        app.said("web | Serving HTTP" if False else "spawned: 'web'")
        starts = re.findall(r"spawned: '(\w+)'", app.logs())
        assert starts == ["db", "migrate", "web"]
        app.said("migrate | migrating")
        wait_until(lambda: "web                  ready" in app.run("supervisorctl", "pid1", "status"))
        start = time.time()
        app.signal("TERM")
        assert app.ended() == 0
        assert app.finished_at() - start < 2


def test_the_first_line_of_the_log_has_a_name(foreign: str) -> None:
    with container(of=foreign) as app:
        app.said("spawned: 'web'")
        assert all(" | " in line for line in app.logs().splitlines())


def test_the_recipe_for_fpm_and_nginx(foreign: str, tmp_path: Path) -> None:
    with container(*conf(tmp_path, FPM), of=foreign) as app:
        app.said("spawned: 'nginx'")
        assert re.findall(r"spawned: '(\w+)'", app.logs()) == ["fpm", "nginx"]
        app.signal("TERM")
        assert app.ended() == 0


def test_the_recipe_with_migrations_and_a_worker(foreign: str, tmp_path: Path) -> None:
    with container(*conf(tmp_path, MIGRATIONS), of=foreign) as app:
        app.said("migrate | migrated with 42", "worker | worker has 42")
        assert re.findall(r"spawned: '(\w+)'", app.logs())[0] == "migrate"
        wait_until(lambda: "web                  ready" in app.run("supervisorctl", "pid1", "status"))
        app.signal("TERM")
        assert app.ended() == 0


def test_the_recipe_with_a_main_program(foreign: str, tmp_path: Path) -> None:
    with container(*conf(tmp_path, CRON.replace("unexpected", "false")), of=foreign) as app:
        assert app.ended() == 7
        assert "server cannot be kept up (exit status 7): ending with status 7" in app.logs()
