"""Log lines on stderr."""

import contextlib
import sys


def log(text: str) -> None:
    """Write a line to stderr. Write errors are ignored: echo can do without a log."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
