"""Tests of compose.yaml: each program can be killed, stopped and replaced alone, and a mirror added."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from support import ROOT, compose, engine, wait_until
from support.compose import Project, project
from support.couplings import NEEDS

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.coupling("compose"),
    *(getattr(pytest.mark, need) for need in NEEDS["compose"]),
]
PROGRAMS = ("generator", "echo")
STOP_SECONDS = 5.0  # less than a grace period; Compose itself may take 2 s on a busy machine


@pytest.fixture(scope="module")
def shared() -> Iterator[Project]:
    """Run a project that all tests share. A restart must undo what a test does to it."""
    with project("echo", GENERATOR_INTERVAL="0.1") as running:
        wait_until(lambda: data(running))
        yield running


def data(project: Project) -> bytes:
    """Return the numbers that echo serves. Raises an error of requests."""
    response = requests.get(f"http://127.0.0.1:{project.port}/data")
    response.raise_for_status()
    return response.content


def state(project: Project) -> dict[str, str]:
    """Return the id and last start of the container, by program."""
    return {program: project.inspect(program, "{{.Id}} {{.State.StartedAt}}") for program in PROGRAMS}


@pytest.mark.parametrize("killed, other", [PROGRAMS, PROGRAMS[::-1]])
def test_a_killed_program_is_restarted_alone(shared: Project, killed: str, other: str) -> None:
    """New numbers come after those served before."""
    before, served = state(shared), data(shared)
    restarts = int(shared.inspect(killed, "{{.RestartCount}}"))
    shared.kill(killed)
    shared.restarted(killed, restarts + 1)
    wait_until(lambda: len(data(shared)) > len(served))
    after = state(shared)
    assert data(shared).startswith(served)
    assert (after[other], after[killed] != before[killed]) == (before[other], True)


def test_echo_serves_while_the_generator_is_stopped(shared: Project) -> None:
    """Docker does not restart a service after `docker compose kill`, until `start`."""
    shared.run("kill", "generator")
    served = data(shared)
    assert shared.inspect("generator", "{{.State.Running}}") != "true"
    assert data(shared) == served
    shared.run("start", "generator")
    wait_until(lambda: len(data(shared)) > len(served))


@pytest.mark.parametrize("program", PROGRAMS)
def test_containers_have_only_what_they_need(shared: Project, program: str) -> None:
    host = json.loads(shared.inspect(program, "{{json .HostConfig}}"))
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
    assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"])
    (mount,) = json.loads(shared.inspect(program, "{{json .Mounts}}"))
    assert (mount["Destination"], mount["RW"]) == ("/data", program == "generator")
    assert bool(host["PortBindings"]) == (program == "echo")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_hangs_is_unhealthy(shared: Project, program: str) -> None:
    """Docker does not restart it, as docs/couplings.md says."""
    wait_until(lambda: shared.inspect(program, "{{.State.Health.Status}}") == "healthy")
    shared.kill(program, "STOP")
    wait_until(lambda: shared.inspect(program, "{{.State.Health.Status}}") == "unhealthy", within=30)
    shared.kill(program, "CONT")
    wait_until(lambda: shared.inspect(program, "{{.State.Health.Status}}") == "healthy")


def test_a_change_of_one_program_replaces_it_alone(tmp_path: Path) -> None:
    """`docker compose up --build` replaces only the changed program, and no number is lost."""
    for program in PROGRAMS:
        shutil.copytree(ROOT / program, tmp_path / program, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "compose.yaml", tmp_path)
    with project("echo", root=tmp_path, GENERATOR_INTERVAL="0.1") as running:
        for changed, other in (PROGRAMS, PROGRAMS[::-1]):
            served, before = wait_until(lambda: data(running)), state(running)
            with (tmp_path / changed / "__init__.py").open("a") as file:
                file.write("# changed\n")
            running.up("echo")
            wait_until(lambda served=served: data(running).startswith(served))  # type: ignore[misc]
            after = state(running)
            assert (after[other], after[changed] != before[changed]) == (before[other], True)


def test_a_stop_is_clean_and_prompt() -> None:
    with project("echo") as running:
        containers = [running.container(program) for program in PROGRAMS]
        wait_until(lambda: data(running))
        began = time.monotonic()
        running.run("stop")
        assert time.monotonic() - began < STOP_SECONDS
        assert [container.state()["ExitCode"] for container in containers] == [0, 0]
        assert running.run("logs", "--no-color", *PROGRAMS).count("| stopped") == 2


def test_the_profile_mirror_adds_a_mirror() -> None:
    """The mirror serves its copy while the first echo is stopped."""
    with project(GENERATOR_INTERVAL="0.1") as running:
        mirror = f"http://127.0.0.1:{running.mirror_port}"
        wait_until(lambda: requests.get(f"{mirror}/readyz").status_code == 200)
        etag = requests.get(f"{mirror}/data").headers["ETag"]
        source = requests.get(f"http://127.0.0.1:{running.port}/data").headers["ETag"]
        assert etag.rpartition("-")[0] == source.rpartition("-")[0]
        running.run("stop", "echo")
        assert requests.get(f"{mirror}/data").status_code == 200
        running.run("start", "echo")
        size = int(requests.get(f"{mirror}/status").json()["size"])
        wait_until(lambda: int(requests.get(f"{mirror}/status").json()["size"]) > size)


def test_nothing_is_left_after_down() -> None:
    with project("echo") as running:
        assert left(running.name)
    assert not left(running.name)


def left(name: str) -> list[str]:
    """Return the containers, volumes, networks and images whose names begin with the project's."""
    found = [
        engine.docker(*kind, "--filter", f"name={name}")
        for kind in (("ps", "--all", "--quiet"), ("volume", "ls", "--quiet"), ("network", "ls", "--quiet"))
    ]
    images = engine.docker("image", "ls", "--format", "{{.Repository}}")
    return [*" ".join(found).split(), *(each for each in images.split() if each.startswith(name))]


@pytest.mark.parametrize("service", ["generator", "echo", "mirror"])
def test_variables_are_settings_of_the_program(service: str) -> None:
    """Compose passes a variable from .env to a program only if compose.yaml names it."""
    program = "generator" if service == "generator" else "echo"
    text = subprocess.check_output([sys.executable, "-m", program, "--help"], cwd=ROOT, text=True)
    named = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"][service]["environment"]
    assert not [each for each in named if f"[{each.partition('=')[0]}," not in " ".join(text.split())]


@pytest.mark.parametrize("words", [["docker", "compose"], ["docker-compose"]], ids=" ".join)
def test_compose_accepts_the_file(words: list[str]) -> None:
    """Version 2, and Debian's version 1.29.2, accept it without a warning."""
    try:
        done = subprocess.run([*words, "config"], cwd=ROOT, capture_output=True, text=True, env=compose.ENVIRONMENT)
    except FileNotFoundError:
        pytest.skip(f"{words[0]} is not installed")
    if words[0] == "docker" and "compose" not in compose.command():
        pytest.skip("Compose version 2 is not installed")
    assert (done.returncode, done.stderr) == (0, "")
