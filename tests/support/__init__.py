"""Helpers for all tests: waiting for a condition, programs that are always ended, free ports."""

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
    """Call `condition` every `every` seconds until it returns a true value, and return that value.

    `condition` may also assert. After `within` seconds, the last AssertionError or OSError is raised.
    """
    deadline = time.monotonic() + within
    while True:
        try:
            value = condition()
            problem: Exception = AssertionError(f"not true within {within} s: {condition!r} returned {value!r}")
            if value:
                return value
        except (AssertionError, OSError) as error:
            problem = error
        if time.monotonic() > deadline:
            raise problem
        time.sleep(every)


def assert_same_bytes(here: bytes, there: bytes) -> None:
    """Assert that two byte strings are equal. pytest's own comparison takes too long for large ones."""
    same = here == there
    assert same, f"{len(here)} bytes ending in {here[-60:]!r} differ from {len(there)} bytes ending in {there[-60:]!r}"


def need(command: str) -> str:
    """Return a command. Skip the test where it is not installed, but fail in CI."""
    if not shutil.which(command):
        assert not os.environ.get("CI"), f"{command} is missing"
        pytest.skip(f"{command} is not installed")
    return command


@contextlib.contextmanager
def locked(name: str, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a lock that all test processes of this tree share, by name."""
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
    """A running program. Collects stdout and stderr together as they arrive."""

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

    def wait_for_log(self, pattern: str, within: float = 20) -> re.Match[str]:
        """Wait until a line of the output matches. Return the match."""

        def found() -> re.Match[str]:
            match = re.search(pattern, self.output, re.MULTILINE)
            assert match, f"no {pattern!r} in:\n{self.output}"
            return match

        return wait_until(found, within)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self, within: float = 20) -> int:
        """Wait for the end. Return the exit status, negative for a signal."""
        status = self.process.wait(within)
        self.reader.join(within)
        return status

    def close(self) -> None:
        if "COVERAGE_PROCESS_CONFIG" in os.environ:  # a killed program writes no coverage data
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
    """Run a program. Kill it at the end, even after an error."""
    program = Program(command, env, cwd)
    try:
        yield program
    finally:
        program.close()
