"""Tests of the images of each program, which are built from the programs' own folders."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from support import ROOT, engine
from support.engine import Container, docker

pytestmark = pytest.mark.docker
PROGRAMS = ("generator", "echo")


def layers(image: str) -> list[str]:
    """Return the digests of an image's layers."""
    found: list[str] = json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image))
    return found


def test_the_generators_image_adds_no_package() -> None:
    """The list of packages is the same as the base image's."""
    listed = [
        docker("run", "--rm", "--entrypoint", "python", image, "-m", "pip", "list", "--format=freeze")
        for image in (engine.base(), engine.part("generator"))
    ]
    assert listed[0] == listed[1]


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_image_has_nothing_of_the_other_program(program: str) -> None:
    shell = ("run", "--rm", "--entrypoint", "sh", engine.part(program), "-c")
    assert set(docker(*shell, "ls /app").split()) - {"requirements.txt"} == {program}
    assert "Dockerfile" not in docker(*shell, f"ls -a /app/{program}")


@pytest.mark.parametrize("changed, same", [PROGRAMS, PROGRAMS[::-1]])
def test_a_change_to_one_program_keeps_the_others_image(tmp_path: Path, changed: str, same: str) -> None:
    """With a build cache. In its own image two layers change: the program and its compiled files."""
    copy = tmp_path / "copy"
    for program in PROGRAMS:
        shutil.copytree(ROOT / program, copy / program)
    with (copy / changed / "__init__.py").open("a") as file:
        file.write("# changed\n")
    before = {program: layers(engine.part(program)) for program in PROGRAMS}
    names = {program: f"appcoup-{program}:with-{changed}-changed" for program in PROGRAMS}
    after = {program: layers(engine.build(names[program], copy / program)) for program in PROGRAMS}
    docker("image", "rm", *names.values())
    assert after[same] == before[same]
    assert [old == new for old, new in zip(before[changed], after[changed], strict=True)].count(False) == 2


def test_hardened_containers_work_together() -> None:
    """Each program is PID 1, healthy, receives signals, and runs as any user of group 0."""
    with engine.volume() as volume:
        quick = ("--health-interval", "1s", "--env", "GENERATOR_INTERVAL=0.1", "--volume", f"{volume}:/data")
        for user in ("10001:0", "123456:0"):  # the second user continues the first one's file
            options = (*quick, *engine.HARDENED, "--user", user)
            with (
                engine.container(*options, of=engine.part("generator")) as generator,
                engine.container(*options, of=engine.part("echo")) as echo,
            ):
                generator.wait_for_log("writing numbers")
                echo.wait_for_log("serving")
                assert command_line(generator) == ["python", "-m", "generator"]
                assert command_line(echo) == ["python", "-m", "echo"]
                for program in (generator, echo):
                    program.becomes("healthy")
                    program.signal("USR1")
                    program.wait_for_log("SIGUSR1: ")
                    program.signal("TERM")
                    assert program.ended() == 0, program.logs()


def command_line(container: Container) -> list[str]:
    return container.run("cat", "/proc/1/cmdline").strip("\0").split("\0")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_hangs_is_unhealthy(program: str) -> None:
    options = ("--health-interval", "1s", "--health-start-period", "0s", "--health-timeout", "1s")
    with engine.container(*options, of=engine.part(program)) as hanging:
        hanging.becomes("healthy")
        hanging.signal("STOP")
        hanging.becomes("unhealthy", within=30)


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_image_passes_flags_to_its_program(program: str) -> None:
    done = subprocess.run(
        [engine.DOCKER, "run", "--rm", engine.part(program), "--nonsense"], capture_output=True, text=True
    )
    assert (done.returncode, "--nonsense" in done.stderr) == (2, True)
