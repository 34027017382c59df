"""echo's settings."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from echo.options import Options, natural, seconds, setting


def address(text: str) -> tuple[str, int]:
    """Return the host and the port to listen on, from 0.0.0.0:8000, [::]:8000, :8000 or 8000."""
    match = re.fullmatch(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]:|(?P<host>[0-9A-Za-z_.-]*):)?(?P<port>[0-9]{1,5})", text)
    if not match or int(match["port"]) > 65535:
        raise ValueError(f"{text!r} is not [HOST:]PORT with a port from 0 to 65535")
    return match["six"] or match["host"] or "0.0.0.0", int(match["port"])


def source(text: str) -> Path | str:
    """Return the path of the data file, which need not exist yet, or the URL of another echo's /data."""
    if re.match("[A-Za-z][A-Za-z0-9+.-]*:/|https?:", text):
        return url(text)
    path = Path(text)
    if os.path.isdir(path):
        raise ValueError(f"{text} is a directory: give a file in it, as {path / 'data'}")
    if not os.path.isdir(path.parent):
        raise ValueError(f"directory {path.parent} does not exist: create it or give a file elsewhere")
    return path


def url(text: str) -> str:
    """Check the URL of another echo's /data. The reason does not quote it, because it may hold a password."""
    try:
        parts = urlsplit(text)
        host = re.fullmatch("[0-9A-Za-z_:-][0-9A-Za-z._:-]*", parts.hostname or "")
        valid = host and parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:
        valid = None
    if not valid or not text.isprintable() or " " in text:
        raise ValueError("the URL is not http://HOST:PORT/data nor https://HOST:PORT/data")
    if parts.username is not None or parts.query or parts.fragment or not parts.path.strip("/"):
        better = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/') or '/data'}"
        raise ValueError(f"the URL must have a host and a path only: give {better}")
    return text


def file(text: str) -> Path:
    """Return the path of a file that can be read."""
    try:
        with open(text, "rb"):
            return Path(text)
    except OSError as error:
        raise ValueError(f"{text} cannot be read: {error.strerror}") from None


def folder(text: str) -> Path:
    """Return the path of a folder that can be written to."""
    if not os.path.isdir(text):
        raise ValueError(f"{text} is not a folder: create it or give another")
    if not os.access(text, os.W_OK | os.X_OK):
        raise ValueError(f"{text} is not writable")
    return Path(text)


class Settings(Options, program="echo"):
    """Serve a file of numbers over HTTP while another program appends to it."""

    source: Path | str = setting(source, "data", "PATH|URL", "data file, or http://HOST:PORT/data of an echo to mirror")
    listen: tuple[str, int] = setting(address, "0.0.0.0:8000", "[HOST:]PORT", "address to listen on")
    stale: float = setting(seconds, "10", "SECONDS", "report not ready when the newest number is older; 0: never")
    stop_timeout: float = setting(seconds, "3", "SECONDS", "time that responses in flight have when echo stops")
    stall_timeout: float = setting(
        seconds, "30", "SECONDS", "cut off a client that reads nothing for so long; 0: never"
    )
    followers: int = setting(natural, "1000", "CLIENTS", "maximum of clients that follow at the same time")
    token_file: Path | None = setting(file, None, "PATH", "require this file's token: Authorization: Bearer TOKEN")
    tls_cert: Path | None = setting(file, None, "PATH", "serve HTTPS with this certificate chain")
    tls_key: Path | None = setting(file, None, "PATH", "private key of the certificate")
    heartbeat: Path | None = setting(Path, None, "PATH", "write the URL to this file, and touch it once a second")
    spool: Path | None = setting(folder, None, "PATH", "keep a mirror's segments in this folder; none: a temporary one")
    source_token_file: Path | None = setting(file, None, "PATH", "send this file's token to the source")
    source_ca: Path | None = setting(file, None, "PATH", "trust only these certificates for an https source")


def parse(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings, or end the program with status 2 and one line on stderr."""
    settings = Settings.parse(argv, environ)
    if (settings.tls_cert is None) != (settings.tls_key is None):
        Settings.refuse("--tls-cert (ECHO_TLS_CERT) and --tls-key (ECHO_TLS_KEY) go together: give both")
    mirrors = isinstance(settings.source, str)
    if settings.spool and not mirrors:
        Settings.refuse("--spool (ECHO_SPOOL) needs a URL as --source (ECHO_SOURCE)")
    if settings.source_token_file and not mirrors:
        Settings.refuse("--source-token-file (ECHO_SOURCE_TOKEN_FILE) needs a URL as --source (ECHO_SOURCE)")
    if settings.source_ca and not str(settings.source).startswith("https:"):
        Settings.refuse("--source-ca (ECHO_SOURCE_CA) needs an https URL as --source (ECHO_SOURCE)")
    return settings
