"""Tests of the distribution supervisor-pid1: it can be built and checked, and its README lists all settings."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from pid1.settings import PLUGIN, PROGRAM
from support import ROOT

README = (ROOT / "pid1" / "README.md").read_text()


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the distribution and return its folder."""
    folder = tmp_path_factory.mktemp("dist")
    shutil.copytree(
        ROOT / "pid1", folder / "source", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    )
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(folder / "source")]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist"


def test_wheel_and_sdist_pass_the_check(dist: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir()], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_wheel_has_the_modules_and_the_command(dist: Path) -> None:
    (wheel,) = dist.glob("supervisor_pid1-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        modules = {f"pid1/{path.name}" for path in (ROOT / "pid1").glob("*.py")}
        assert modules | {"pid1/py.typed"} == {name for name in names if name.startswith("pid1/")}
        texts = {name.rpartition("/")[2]: archive.read(name).decode() for name in names if "dist-info" in name}
    assert "pid1 = pid1.__main__:main" in texts["entry_points.txt"]
    assert re.findall("Requires-Dist: (.*)", texts["METADATA"]) == ["supervisor>=4.2.5"]
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as files:
        assert {"LICENSE", "README.md"} < {name.rpartition("/")[2] for name in files.getnames()}


@pytest.mark.parametrize("key", [*PROGRAM, *PLUGIN])
def test_the_readme_lists_each_setting(key: str) -> None:
    assert f"| `{key}` |" in README
