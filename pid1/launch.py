"""Finds supervisord and its configuration file, then executes supervisord."""

from __future__ import annotations

import configparser
import glob
import os
import re
import shutil
import sys
from typing import NoReturn

FACTORY = "supervisor.rpcinterface_factory"
SEARCHED = ("supervisord.conf", "etc/supervisord.conf", "/etc/supervisord.conf", "/etc/supervisor/supervisord.conf")


def launch() -> NoReturn:
    """Exec supervisord. Exit if its configuration lacks the plugin, because nothing would unblock the signals."""
    beside = [os.path.dirname(os.path.abspath(path)) for path in (sys.executable, sys.argv[0])]
    found = shutil.which("supervisord", path=os.pathsep.join([*beside, os.environ.get("PATH", os.defpath)]))
    conf = conf_path(sys.argv[1:])
    if not found:
        fail("cannot find supervisord: install it (pip install supervisor) or add it to PATH", 127)
    if conf and not has_plugin(conf):
        fail(
            f"cannot start: {conf} lacks the plugin's section; add\n[rpcinterface:pid1]\n{FACTORY} = pid1:make_plugin",
            2,
        )
    os.execv(found, [found, *sys.argv[1:]])


def fail(why: str, status: int) -> NoReturn:
    print(f"pid1: {why}", file=sys.stderr)
    raise SystemExit(status)


def conf_path(words: list[str]) -> str | None:
    """Return the configuration file that supervisord will read, or None. supervisord reports a missing file."""
    given = re.search(r"\0(?:-\w*c|--conf\w*[=\0])\0?([^\0]+)", "\0".join(["", *words]))
    return next(filter(os.path.isfile, [given[1]] if given else SEARCHED), None)


def has_plugin(conf: str) -> bool:
    """Return whether this file, or one that it includes, has the plugin's section."""
    parser = configparser.RawConfigParser(strict=False, inline_comment_prefixes=(";", "#"))
    folder = os.path.dirname(os.path.abspath(conf))
    try:
        parser.read(conf)
        patterns = re.sub(
            r"%\((?:here|ENV_(\w+))\)s",
            lambda match: os.environ.get(match[1], "") if match[1] else folder,
            parser.get("include", "files", fallback=""),
        )
        for pattern in patterns.split():
            parser.read(glob.glob(os.path.join(folder, pattern)))
    except (configparser.Error, UnicodeDecodeError):
        return True  # supervisord reports the error
    return any(parser.get(each, FACTORY, fallback="").startswith("pid1:") for each in parser.sections())
