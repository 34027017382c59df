"""Runs each command of README and docs in a fresh clone, and compares its output with the text.

Only names, ports and the base image differ from the text. tests/unit/test_docs.py checks commands that need a cluster.
"""

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from _pytest.mark import ParameterSet

from support import ROOT, Program, compose, docs, engine, free_port, need, running, wait_until
from support.docs import STREAM, Command

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]
NOT_HERE = re.compile(r"\bkubectl\b|^tests/run\b")  # needs a cluster; would run this test again
REPEATED = ("curl ", "docker logs ")  # repeated until the output is right, because what they ask may still be starting
COMMAND_SECONDS = 600  # a build may have to install everything


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the files that git tracks, as they are now."""
    folder = tmp_path_factory.mktemp("clone")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for file in filter(None, files.stdout.split("\0")):
        if (ROOT / file).exists():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, folder / file)
    return folder


class Terminal:
    """Runs commands one after the other. Interrupts a command that still runs when its section ends."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.container = f"appcoup-readme-{secrets.token_hex(4)}"
        self.ports = {"8000": str(free_port()), "8001": str(free_port())}
        self.open: list[tuple[tuple[str, ...], contextlib.ExitStack]] = []
        (home / ".curlrc").write_text("no-progress-meter\n")  # as if this were a terminal
        self.environment = {
            "APPCOUP_PORT": f"127.0.0.1:{self.ports['8000']}",
            "APPCOUP_MIRROR_PORT": f"127.0.0.1:{self.ports['8001']}",
            "BASE": engine.base(),
            "COMPOSE_DOCKER_CLI_BUILD": "1",
            "COMPOSE_PROJECT_NAME": self.container,
            "CURL_HOME": str(home),
            "DOCKER_BUILDKIT": "1",
            "ECHO_LISTEN": f"127.0.0.1:{self.ports['8000']}",
            "PATH": f"{Path(engine.DOCKER).parent}:{os.environ['PATH']}",
            "PYTHONPATH": "",
        }

    def run(self, command: Command) -> None:
        self.leave(command.section)
        words, pattern = self.adapt(command.words), self.pattern(command.prints)

        def attempt() -> bool:
            with contextlib.ExitStack() as stack:
                program = stack.enter_context(running(["bash", "-c", words], self.environment, self.folder))
                stack.callback(interrupt, program)
                shown = pattern.match if command.keeps_running else pattern.fullmatch
                wait_until(lambda: ended(program) or (command.keeps_running and shown(program.output)), COMMAND_SECONDS)
                assert shown(program.output), f"{words} printed\n{program.output}\ninstead of\n{command.prints}"
                if ended(program):
                    assert program.process.returncode == 0, words
                elif command.keeps_running:
                    self.open.append((command.section, stack.pop_all()))
            return True

        wait_until(attempt, 30 if words.startswith(REPEATED) else 0, 0.2)

    def leave(self, section: tuple[str, ...]) -> None:
        """Interrupt the commands of all sections that do not contain this one."""
        for began, stack in reversed(self.open):
            if section[: len(began)] != began:
                stack.close()
        self.open = [(began, stack) for began, stack in self.open if section[: len(began)] == began]

    def adapt(self, words: str) -> str:
        """Return a command with this test's names, ports and base image."""
        if STREAM in words:
            words = words.replace(
                STREAM, requests.get(f"http://127.0.0.1:{self.ports['8000']}/status").json()["stream"]
            )
        if words.startswith("docker compose "):
            words = words.replace("docker compose", " ".join(compose.command()))
        elif words.startswith("docker build "):
            words = words.replace("build", f"build --build-arg BASE={engine.base()}")
        elif words.startswith("docker run "):
            words = words.replace("--name appcoup", f"--name {self.container}")
            words = words.replace("-p 8000:", f"-p 127.0.0.1:{self.ports['8000']}:")
        elif words.startswith("docker "):
            words = re.sub(r"\bappcoup\b", self.container, words)
        return re.sub(r"localhost:(8000|8001)\b", lambda match: f"127.0.0.1:{self.ports[match[1]]}", words)

    def pattern(self, prints: str) -> re.Pattern[str]:
        """Return a pattern for an output. White space, numbers on their own line and the stream may differ."""
        lines = []
        for line in prints.splitlines():
            if line.isdigit():
                lines.append(r"-?\d+")
                continue
            line = self.container if line == "appcoup" else line
            parts = [re.sub(r"(?:\\ )+", r"\\s+", re.escape(part)) for part in line.split("...")]
            lines.append(".*?".join(parts).replace(STREAM, "[0-9a-f]{8}"))
        address = re.escape("0.0.0.0:8000")
        whole = r"\s*".join(lines).replace(address, f"(?:{address}|127.0.0.1:{self.ports['8000']})")
        return re.compile(rf"\s*{whole}\s*", re.DOTALL)

    def clean(self) -> None:
        self.leave(("nowhere",))
        subprocess.run([engine.DOCKER, "rm", "--force", "--volumes", self.container], capture_output=True)
        if not compose.command():
            return
        down = [*compose.command(), "--profile", "mirror", "down", "--volumes", "--rmi", "local", "--timeout", "3"]
        subprocess.run(down, cwd=self.folder, env={**os.environ, **self.environment}, capture_output=True)


def ended(program: Program) -> bool:
    if program.process.poll() is None:
        return False
    program.reader.join()
    return True


def interrupt(program: Program) -> None:
    """End what a reader ends by Ctrl-C. A shell in the background starts its commands with SIGINT ignored."""
    if not ended(program):
        program.signal(signal.SIGTERM)
        program.ended()


@pytest.fixture
def terminal(clone: Path, tmp_path: Path) -> Iterator[Terminal]:
    need("curl")
    engine.image()
    terminal = Terminal(clone, tmp_path)
    try:
        yield terminal
    finally:
        terminal.clean()


def pages() -> Iterator[ParameterSet]:
    """Yield the documents that have commands."""
    for path in docs.DOCUMENTS:
        words = [command.words for command in docs.commands(path)]
        if words and path.parent.name != "pid1":
            marks = [pytest.mark.compose] if any(each.startswith("docker compose") for each in words) else []
            yield pytest.param(path, id=docs.name(path), marks=marks)


@pytest.mark.parametrize("page", [*pages()])
def test_commands_print_what_the_text_says(page: Path, terminal: Terminal) -> None:
    for command in docs.commands(page):
        if not NOT_HERE.search(command.words):
            terminal.run(command)
