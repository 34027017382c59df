"""The Pythons whose supervisor the plugin is tested with."""

import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

OLDEST = ["supervisor==4.2.5", "setuptools<81"]  # Debian 12's; it imports pkg_resources


@pytest.fixture(scope="session", params=["newest", "4.2.5"])
def python(request: pytest.FixtureRequest) -> str:
    if request.param == "newest":
        return sys.executable
    folder = ROOT / ".cache" / "supervisor-4.2.5"
    if not (folder / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *OLDEST], check=True)
        Path(folder / "done").touch()
    return str(folder / "bin" / "python")
