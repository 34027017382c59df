"""echo's settings: each one a flag and an environment variable."""

import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from echo import __doc__ as purpose


@dataclass(frozen=True)
class Settings:
    """What to serve where; see `--help` for each field's meaning and unit."""

    source: Path
    listen: tuple[str, int]
    stale: float
    stop_timeout: float


class Seconds(click.ParamType[float]):
    """A finite number of seconds, 0 or more."""

    name = "seconds"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            self.fail(f"{value!r} is not a number of seconds, 0 or more", param, ctx)
        return number


class Address(click.ParamType[tuple[str, int]]):
    """A host and a port to listen on, as 0.0.0.0:8000, [::]:8000 or 8000."""

    name = "[host:]port"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(
            r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]:|(?P<host>[\w.-]+):|:)?(?P<port>[0-9]{1,5})", value, re.ASCII
        )
        if not match or int(match["port"]) > 65535:
            self.fail(f"{value!r} is not [HOST:]PORT with a port from 0 to 65535", param, ctx)
        return match["six"] or match["host"] or "0.0.0.0", int(match["port"])


def option(flag: str, default: str, text: str, **more: Any) -> click.Option:
    variable = "ECHO_" + flag.removeprefix("--").replace("-", "_").upper()
    return click.Option(
        [flag], default=default, envvar=variable, show_envvar=True, show_default=True, help=text, **more
    )


COMMAND = click.Command(
    "echo",
    help=purpose,
    callback=Settings,
    params=[
        option("--source", "data", "the data file", type=click.Path(path_type=Path)),
        option("--listen", "0.0.0.0:8000", "where to answer", type=Address()),
        option("--stale", "10", "ready no longer when the newest number is older; 0: never", type=Seconds()),
        option("--stop-timeout", "3", "when stopped, requests in flight have so long to finish", type=Seconds()),
    ],
)


def refuse_unknown(environ: Mapping[str, str]) -> None:
    """A misspelt variable is an error; those that Kubernetes sets for a service of this name are not."""
    service_link = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT$|_PORT_\d+_(TCP|UDP|SCTP)")
    known = sorted(str(param.envvar) for param in COMMAND.params)
    for name in sorted(environ):
        if name.startswith("ECHO_") and name not in known and not service_link.search(name):
            raise click.UsageError(f"unknown environment variable {name}: there is {', '.join(known)}")


def parse(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from flags, then environment, then defaults.

    Ends the program with status 2 and one line on stderr if one of them is wrong, with 0 after --help.
    """
    try:
        refuse_unknown(environ)
        settings = COMMAND.main(argv, prog_name="echo", standalone_mode=False)
    except click.ClickException as error:
        sys.exit(refuse(error.format_message()))
    if not isinstance(settings, Settings):  # --help was printed
        sys.exit(0)
    return settings


def refuse(problem: str, status: int = 2) -> int:
    """Say in one line why echo does not start; returns the exit status to do it with."""
    print("echo:", " ".join(problem.split()), file=sys.stderr, flush=True)
    return status
