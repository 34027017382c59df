"""What the command lines of all benches share: how they read numbers, handle signals and report failures."""

import argparse
import resource
import sys
from typing import NoReturn


class Failure(Exception):
    """A measurement failed, so there is no figure. The message says why."""


def positive_integer(text: str) -> int:
    """Read an option's value for argparse. Raises ArgumentTypeError if it is not an integer of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of 1 or more")
    return int(text)


def exit_on_signal(number: int, frame: object) -> NoReturn:
    """Handle a signal by leaving with `sys.exit`, so that context managers stop the programs they started."""
    sys.exit(128 + number)


def raise_file_limit() -> int:
    """Let this process and its children open as many files as the hard limit allows, and return that limit."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    return limit
