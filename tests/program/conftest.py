"""The versions of Python and supervisor that the plugin is tested with."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support import ROOT, locked

OLDEST = ["supervisor==4.2.5", "setuptools<81"]  # Debian 12's version; it imports pkg_resources


def environment(name: str, python: str, *packages: str) -> str:
    """Make a virtual environment with these packages, once. Return its Python."""
    folder = ROOT / ".cache" / name
    with locked(name):  # other workers wait
        if not (folder / "done").exists():
            subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
            subprocess.run([folder / "bin" / "pip", "install", "--quiet", *packages], check=True)
            (folder / "done").touch()
    return str(folder / "bin" / "python")


@pytest.fixture(scope="session", params=["newest", "4.2.5"])
def python(request: pytest.FixtureRequest) -> str:
    return sys.executable if request.param == "newest" else environment("supervisor-4.2.5", sys.executable, *OLDEST)


@pytest.fixture(scope="session")
def python_of() -> Callable[[str], str]:
    """Return a function that finds an installed Python by version and gives it the newest supervisor."""

    def find(version: str) -> str:
        found = next(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), None)
        python = str(found or shutil.which(f"python{version}") or "")
        return environment(f"python-{version}", python, "supervisor") if python else pytest.skip(f"no Python {version}")

    return find
