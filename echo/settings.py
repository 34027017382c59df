"""echo's settings: each one a flag and an environment variable."""

import argparse
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from echo import __doc__ as purpose


class Settings(argparse.Namespace):
    """What to serve where; see `--help` for each field's meaning and unit."""

    source: Path | str  # a file, or the address of another echo's /data
    spool: Path | None
    token_file: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    source_token_file: Path | None
    source_ca: Path | None
    listen: tuple[str, int]
    stale: float
    stop_timeout: float
    stall_timeout: float
    followers: int


def seconds(text: str) -> float:
    """A finite number of seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return value


def whole(text: str) -> int:
    """A whole number, 0 or more."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def address(text: str) -> tuple[str, int]:
    """A host and a port to listen on, from 0.0.0.0:8000, [::]:8000, :8000 or 8000."""
    match = re.fullmatch(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]:|(?P<host>[0-9A-Za-z_.-]*):)?(?P<port>[0-9]{1,5})", text)
    if not match or int(match["port"]) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not [HOST:]PORT with a port from 0 to 65535")
    return match["six"] or match["host"] or "0.0.0.0", int(match["port"])


def source(text: str) -> Path | str:
    """The data file, or where it will be; or the address of another echo's /data."""
    if re.match("[A-Za-z][A-Za-z0-9+.-]*:/|https?:", text):
        return url(text)
    path = Path(text)
    if os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{text} is a directory: give a file in it, as {path / 'data'}")
    if not os.path.isdir(path.parent):
        raise argparse.ArgumentTypeError(f"directory {path.parent} does not exist: create it or give a file elsewhere")
    return path


def url(text: str) -> str:
    """Of another echo's /data."""
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        proper = re.fullmatch("[0-9A-Za-z_:-][0-9A-Za-z._:-]*", host) and text.isprintable() and " " not in text
        right = parts.scheme in ("http", "https") and bool(proper) and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise argparse.ArgumentTypeError("the URL is not http://HOST:PORT/data nor https://HOST:PORT/data")
    if parts.username is not None or parts.query or parts.fragment or not parts.path.strip("/"):
        better = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/') or '/data'}"
        raise argparse.ArgumentTypeError(f"the URL is more or less than a host and a path: give {better}")
    return text


def file(text: str) -> Path:
    """A file that can be read."""
    try:
        with open(text, "rb"):
            return Path(text)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be read: {error.strerror}") from None


def folder(text: str) -> Path:
    """A folder that can be written to."""
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is not a folder: create it or give another")
    if not os.access(text, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{text} is not writable")
    return Path(text)


def variable(flag: str) -> str:
    """The environment variable that stands for a flag: `--stop-timeout` is ECHO_STOP_TIMEOUT."""
    return "ECHO_" + flag.removeprefix("--").replace("-", "_").upper()


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that names flag and variable, status 2."""

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (--[\w-]+):", lambda m: f"{m[1]} ({variable(m[1])}):", message)
        self.exit(2, f"{self.prog}: {message}\n")


def parse(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from flags, then environment, then defaults.

    Ends the program with status 2 and one line on stderr if one of them is wrong.
    """
    parser = Parser(prog="echo", description=purpose, allow_abbrev=False)
    known: set[str] = set()

    def option(flag: str, convert: Callable[[str], Any], default: str | None, text: str, metavar: str) -> None:
        name = variable(flag)
        known.add(name)
        value = environ.get(name) or default  # argparse converts a default that is a string
        parser.add_argument(
            flag, type=convert, default=value, metavar=metavar, help=f"{text} [{name}, default {default or 'none'}]"
        )

    option("--source", source, "data", "the data file, or another echo's http://HOST:PORT/data to mirror", "PATH|URL")
    option("--listen", address, "0.0.0.0:8000", "where to answer", "[HOST:]PORT")
    option("--stale", seconds, "10", "not ready when the newest number is older; 0: never", "SECONDS")
    option("--stop-timeout", seconds, "3", "when stopped, what is in flight has so long to arrive", "SECONDS")
    option("--stall-timeout", seconds, "30", "a client that takes nothing for so long is cut off; 0: never", "SECONDS")
    option("--followers", whole, "1000", "how many may follow at a time", "NUMBER")
    option("--token-file", file, None, "who asks must show the token in it: Authorization: Bearer TOKEN", "FILE")
    option("--tls-cert", file, None, "serve https with this certificate chain", "FILE")
    option("--tls-key", file, None, "its private key", "FILE")
    option("--spool", folder, None, "where to keep what is mirrored; without: in memory", "FOLDER")
    option("--source-token-file", file, None, "the token to show to the source", "FILE")
    option("--source-ca", file, None, "the certificates by which to know the source", "FILE")
    # A misspelt variable is an error; those that Kubernetes sets for a service of this name are not.
    service_link = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT$|_PORT_\d+_(TCP|UDP|SCTP)")
    for name in sorted(environ):
        if name.startswith("ECHO_") and name not in known and not service_link.search(name):
            parser.error(f"unknown environment variable {name}: there is {', '.join(sorted(known))}")
    settings = parser.parse_args(argv, Settings())
    if (settings.tls_cert is None) != (settings.tls_key is None):
        parser.error("--tls-cert (ECHO_TLS_CERT) and --tls-key (ECHO_TLS_KEY) go together: give both")
    if isinstance(settings.source, Path):
        for name in ("spool", "source_token_file", "source_ca"):
            if getattr(settings, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                parser.error(f"{flag} ({variable(flag)}) goes with a URL as --source (ECHO_SOURCE) only")
    elif settings.source_ca and not settings.source.startswith("https:"):
        parser.error("--source-ca (ECHO_SOURCE_CA) goes with an https URL as --source (ECHO_SOURCE) only")
    return settings
