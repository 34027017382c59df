"""The generator's settings: each one a flag and an environment variable."""

import argparse
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
RENAMED = {"max-size": "segment-size"}
SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT$|_PORT_\d+_(TCP|UDP|SCTP)")  # set by Kubernetes


class Settings(argparse.Namespace):
    """What to write where; see `--help` for each field's meaning and unit."""

    file: Path
    interval: float
    count: int
    min: int
    max: int
    seed: int | None
    segment_size: int
    keep: int
    fsync: bool
    heartbeat: Path | None


def seconds(text: str) -> float:
    """A finite number of seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return value


def integer(text: str) -> int:
    """A decimal integer of at most 18 digits, so that a line stays short."""
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at most 18 digits")
    return int(text)


def natural(text: str) -> int:
    """An integer, 0 or more."""
    if (value := integer(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is negative: give 0 or more")
    return value


def size(text: str) -> int:
    """A number of bytes, as 65536, 64K, 64M, 64MiB or 1G (powers of 1024)."""
    if not (match := re.fullmatch(r"([0-9]{1,15})([KMG]?)(?:i?B)?", text, re.IGNORECASE)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 65536, 64K, 64MiB or 1G")
    return int(match[1]) * UNITS[match[2].upper()]


def boolean(text: str) -> bool:
    """Yes or no, in the words that environment variables use for it."""
    if text.lower() not in WORDS:
        raise argparse.ArgumentTypeError(f"{text!r} is neither yes nor no")
    return WORDS[text.lower()]


def variable(flag: str) -> str:
    """Return the environment variable of a flag: `--segment-size` is GENERATOR_SEGMENT_SIZE."""
    return "GENERATOR_" + flag.removeprefix("--").replace("-", "_").upper()


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that names flag and variable, status 2."""

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (--[\w-]+):", lambda m: f"{m[1]} ({variable(m[1])}):", message)
        self.exit(2, f"{self.prog}: {message}\n")

    def refuse_unknown(self, known: set[str], argv: Sequence[str] | None, environ: Mapping[str, str]) -> None:
        """Refuse old names and misspelt variables; Kubernetes sets variables for a service of this name too."""
        for old, new in RENAMED.items():
            _, rest = self.parse_known_args(argv)
            if any(word.partition("=")[0] == f"--{old}" for word in rest):
                self.error(f"unknown flag --{old}: use --{new}")
            if variable(old) in environ:
                self.error(f"unknown environment variable {variable(old)}: use {variable(new)}")
        for name in sorted(environ):
            if name.startswith("GENERATOR_") and name not in known and not SERVICE_LINK.search(name):
                self.error(f"unknown environment variable {name}: there is {', '.join(sorted(known))}")


def parse(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return settings from flags, then environment, then defaults.

    Ends the program with status 2 and one line on stderr if one of them is wrong.
    """
    parser = Parser(prog="generator", description=__doc__, allow_abbrev=False)
    known: set[str] = set()

    def option(flag: str, convert: Callable[[str], Any], default: str | None, text: str, **more: Any) -> None:
        known.add(name := variable(flag))
        given = environ.get(name) or default  # argparse converts a default that is a string
        text = f"{text} [{name}, default {default or 'none'}]"
        parser.add_argument(flag, type=convert, default=given, metavar=convert.__name__.upper(), help=text, **more)

    option("--file", Path, "data", "the symlink to the current segment; segments are FILE.STREAM.OFFSET")
    option("--interval", seconds, "2", "from one number to the next; 0: as fast as it can")
    option("--count", natural, "0", "end after so many numbers; 0: never")
    option("--min", integer, "0", "the least number")
    option("--max", integer, "32767", "the greatest number")
    option("--seed", integer, None, "the same seed gives the same numbers")
    option("--segment-size", size, "64MiB", "begin a new segment before this size; 0: never")
    option("--keep", natural, "2", "keep so many finished segments")
    option("--fsync", boolean, "no", "flush each write to the disk", nargs="?", const="yes")
    option("--heartbeat", Path, None, "a file touched while alive, once a second at least")
    parser.refuse_unknown(known, argv, environ)
    settings = parser.parse_args(argv, Settings())
    if settings.min > settings.max:
        parser.error(f"--min (GENERATOR_MIN): {settings.min} is more than --max (GENERATOR_MAX), {settings.max}")
    if 0 < settings.segment_size < 4096:
        less = f"{settings.segment_size} is less than 4096 bytes; 0 is no limit"
        parser.error(f"--segment-size (GENERATOR_SEGMENT_SIZE): {less}")
    return settings
