"""What the tests share: waiting for a condition, programs that are always ended, free ports."""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

ROOT = Path(__file__).parent.parent.parent
T = TypeVar("T")


def wait_until(condition: Callable[[], T], within: float = 20, every: float = 0.005) -> T:
    """Call `condition` every so many seconds until it returns something true, and return that; it may also assert.

    After `within` seconds its own failure is raised, so that a test says what was not so.
    """
    deadline = time.monotonic() + within
    while True:
        try:
            value = condition()
            problem: Exception = AssertionError(f"not so within {within} s: {condition!r} gave {value!r}")
            if value:
                return value
        except (AssertionError, OSError) as error:
            problem = error
        if time.monotonic() > deadline:
            raise problem
        time.sleep(every)


def alike(here: bytes, there: bytes) -> None:
    """Raises AssertionError; for pytest itself compares large ones line by line, for longer than a test waits."""
    same = here == there
    assert same, f"{len(here)} bytes that end in {here[-60:]!r} are not {len(there)} that end in {there[-60:]!r}"


def need(command: str) -> str:
    """A command that a test uses as a user would; where it is missing the test is skipped, but not in CI."""
    if not shutil.which(command):
        assert not os.environ.get("CI"), f"{command} is missing"
        pytest.skip(f"{command} is not installed")
    return command


@contextlib.contextmanager
def locked(name: str, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a lock of this name among all processes that run tests of this tree."""
    folder = ROOT / ".cache"
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.lock").open("w") as file:
        fcntl.flock(file, kind)
        yield


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Program:
    """A running program whose output is collected as it comes, stdout and stderr together."""

    def __init__(
        self, command: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GENERATOR_", "ECHO_", "APPCOUP_"))
        }
        environment |= {"PYTHONPATH": str(ROOT), **(env or {})}
        self.process = subprocess.Popen(
            [str(word) for word in command],
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def said(self, pattern: str, within: float = 20) -> re.Match[str]:
        """Wait for a line that matches, and return the match."""

        def found() -> re.Match[str]:
            match = re.search(pattern, self.output, re.MULTILINE)
            assert match, f"no {pattern!r} in:\n{self.output}"
            return match

        return wait_until(found, within)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self, within: float = 20) -> int:
        """Wait for the end; returns the exit status, negative for a signal."""
        status = self.process.wait(within)
        self.reader.join(within)
        return status

    def close(self) -> None:
        if "COVERAGE_PROCESS_CONFIG" in os.environ:  # a killed program does not say what it ran
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        self.process.kill()
        self.process.wait()
        self.reader.join()
        assert self.process.stdout
        self.process.stdout.close()


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Program]:
    """Run a program; it is killed at the end, whatever happened."""
    program = Program(command, env, cwd)
    try:
        yield program
    finally:
        program.close()
