"""A fake `os` module that simulates a kill before, within or after a system call."""

import os
from collections.abc import Callable
from typing import Any

CALLS = ("open", "write", "pwrite", "ftruncate", "fsync", "utime", "close", "unlink", "rename", "replace", "symlink")
MOMENTS = ("before", "within", "after")


class Crash(BaseException):
    """The simulated kill of the process."""


class System:
    """A fake `os` module that raises Crash at the call number `dies_at` that changes something."""

    def __init__(self, dies_at: int = -1, moment: str = "before") -> None:
        self.left, self.moment = dies_at, moment

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self.dying(name, real) if name in CALLS else real

    def dying(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left != -1 or name == "close":
                return real(*args, **options)
            if self.moment == "within" and name == "write":
                real(args[0], args[1][: len(args[1]) // 2])
            if self.moment == "after":
                result = real(*args, **options)
                if name == "open":
                    os.close(result)  # as the kernel does for a killed process
            raise Crash

        return call
