"""The generator's settings: each one a flag and an environment variable."""

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
RENAMED = {"--max-size": "--segment-size", "GENERATOR_MAX_SIZE": "GENERATOR_SEGMENT_SIZE"}
SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT$|_PORT_\d+_(TCP|UDP|SCTP)")  # set by Kubernetes


def converter(what: str, pattern: str, convert: Callable[[re.Match[str]], Any]) -> Callable[[str], Any]:
    """Return a function that converts a setting's text; it refuses text without a match, and infinity."""

    def checked(text: str) -> Any:
        match = re.fullmatch(pattern, text, re.IGNORECASE | re.ASCII)
        if not match or (value := convert(match)) == math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return checked


def to_int(match: re.Match[str]) -> int:
    """Return the matched integer. At most 18 digits keep a line short."""
    return int(match[0])


SECONDS = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?"
seconds = converter("a number of seconds, 0 or more", SECONDS, lambda match: float(match[0]))
integer = converter("an integer of at most 18 digits", "-?[0-9]{1,18}", to_int)
natural = converter("an integer of at most 18 digits, 0 or more", "[0-9]{1,18}", to_int)
boolean = converter("yes or no", "(1|true|yes|on)|0|false|no|off", lambda match: bool(match[1]))
size = converter(
    "a size such as 65536, 64K, 64MiB or 1G",
    "([0-9]{1,15})([KMG]?)(?:i?B)?",
    lambda match: int(match[1]) * UNITS[match[2].upper()],
)


def setting(convert: Callable[[str], Any], default: str | None, text: str) -> Any:
    """Declare a setting: its type, default and help; the field's name gives flag and variable."""
    return {"convert": convert, "default": default, "help": text}


class Settings(argparse.Namespace):
    """What to write where."""

    file: Path = setting(Path, "data", "the symlink to the current segment; segments are FILE.STREAM.OFFSET")
    interval: float = setting(seconds, "2", "seconds from one number to the next; 0: as fast as it can")
    count: int = setting(natural, "0", "end after so many numbers; 0: never")
    min: int = setting(integer, "0", "the least number")
    max: int = setting(integer, "32767", "the greatest number")
    seed: int | None = setting(integer, None, "the same seed gives the same numbers")
    segment_size: int = setting(size, "64MiB", "begin a new segment before this size; 0: never")
    keep: int = setting(natural, "2", "keep so many finished segments")
    fsync: bool = setting(boolean, "no", "flush each write to the disk")
    heartbeat: Path | None = setting(Path, None, "a file touched while alive, once a second at least")


def variable(flag: str) -> str:
    """Return the environment variable of a flag: `--segment-size` is GENERATOR_SEGMENT_SIZE."""
    return "GENERATOR_" + flag.removeprefix("--").replace("-", "_").upper()


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that names flag and variable, status 2."""

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (--[\w-]+):", lambda m: f"{m[1]} ({variable(m[1])}):", message)
        self.exit(2, f"{self.prog}: {message}\n")


def parse(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return settings from flags, then environment, then defaults.

    Ends the program with status 2 and one line on stderr if one of them is wrong.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = Parser(prog="generator", description=__doc__, allow_abbrev=False)
    fields = {"--" + name.replace("_", "-"): getattr(Settings, name) for name in Settings.__annotations__}
    for flag, field in fields.items():
        default = environ.get(variable(flag)) or field["default"]  # argparse converts a default that is a string
        text = f"{field['help']} [{variable(flag)}, default {field['default'] or 'none'}]"
        bare: Any = {"nargs": "?", "const": "yes"} if field["convert"] is boolean else {}
        parser.add_argument(flag, type=field["convert"], default=default, help=text, **bare)
    known = sorted(map(variable, fields))
    for name in (*(word.partition("=")[0] for word in argv), *sorted(environ)):
        if name in RENAMED:
            parser.error(f"unknown setting {name}: use {RENAMED[name]}")
        if name.startswith("GENERATOR_") and name not in known and not SERVICE_LINK.search(name):
            parser.error(f"unknown environment variable {name}: there is {', '.join(known)}")
    settings = Settings(**vars(parser.parse_args(argv)))
    if settings.min > settings.max:
        parser.error(f"argument --min: {settings.min} is more than --max (GENERATOR_MAX), {settings.max}")
    if 0 < settings.segment_size < 4096:
        parser.error(f"argument --segment-size: {settings.segment_size} is less than 4096 bytes; 0 is no limit")
    if settings.heartbeat and not os.path.isdir(settings.heartbeat.parent):
        parser.error(f"argument --heartbeat: directory {settings.heartbeat.parent} does not exist: create it")
    return settings
