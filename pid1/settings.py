"""The settings: those in [rpcinterface:pid1], and those in the section of each program."""

from __future__ import annotations

import difflib
import re
import shlex
import signal
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Mapping
from urllib.parse import urlsplit

from supervisor.datatypes import boolean, list_of_exitcodes, list_of_strings

KEPT_SIGNALS = {"SIGTERM", "SIGINT", "SIGQUIT", "SIGCHLD", "SIGKILL", "SIGSTOP"}
STATES = ("started", "ready", "exited")


@dataclass(frozen=True)
class Dependency:
    """A program, and the state that it must have reached."""

    program: str
    state: str

    def __str__(self) -> str:
        return f"{self.program}:{self.state}"


@dataclass(frozen=True)
class PluginSettings:
    """The keys of [rpcinterface:pid1]."""

    log_format: str = "text"
    log_time: bool = False
    metrics: str = ""


@dataclass(frozen=True)
class ProgramSettings:
    """The plugin's keys in the section of a program; times are in seconds."""

    program: str
    depends_on: tuple[Dependency, ...] = ()
    ready: str = ""
    ready_timeout: float = 60.0
    alive: str = ""
    alive_timeout: float = 10.0
    main: bool = False
    env_file: str = ""
    restart_delay: float = 0.5
    restart_delay_max: float = 30.0
    give_up_on: frozenset[int] = frozenset()
    forward: frozenset[signal.Signals] = frozenset()
    relayed: tuple[tuple[str, int], ...] = ()  # channel and the descriptor that its lines go to


def dependencies(text: str) -> tuple[Dependency, ...]:
    pairs = [Dependency(*item.partition(":")[::2]) for item in list_of_strings(text)]
    if not all(pair.program and pair.state in STATES for pair in pairs):
        raise ValueError("give PROGRAM:started, PROGRAM:ready or PROGRAM:exited, separated by commas")
    return tuple(pairs)


def target(text: str) -> str:
    """A file, an address, a command or (to become ready) a pattern. Raises ValueError."""
    kind, _, rest = text.partition(":")
    right = text.startswith("/") or text == "notify"
    if kind in ("http", "tcp"):
        url = urlsplit(text)
        right = rest.startswith("//") and bool(url.hostname) and bool(url.port or kind == "http")
    elif kind in ("log", "exec"):
        right = bool(rest.strip())
        re.compile(rest if kind == "log" else "")
    if not right:
        raise ValueError("give /FILE, http://HOST:PORT/PATH, tcp://HOST:PORT, exec:COMMAND, log:REGEX or notify")
    return text


def sign_of_life(text: str) -> str:
    if text.startswith("log:") or text == "notify":
        raise ValueError("give /FILE, http://HOST:PORT/PATH, tcp://HOST:PORT or exec:COMMAND")
    return target(text)


def seconds(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not float(text):
        raise ValueError("give seconds, more than 0")
    return float(text)


def signals(text: str) -> frozenset[signal.Signals]:
    names = {f"SIG{name}" for name in text.split()}
    wrong = sorted((names - signal.Signals.__members__.keys()) | (names & KEPT_SIGNALS))
    if wrong:
        raise ValueError(f"{', '.join(wrong)} cannot be forwarded; give names such as HUP USR1 USR2")
    return frozenset(signal.Signals[name] for name in names)


def log_format(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError("give text or json")
    return text


PLUGIN: dict[str, Callable[[str], Any]] = {
    "log_format": log_format,
    "log_time": boolean,
    "metrics": str,
}
PROGRAM: dict[str, Callable[[str], Any]] = {
    "depends_on": dependencies,
    "ready": target,
    "ready_timeout": seconds,
    "alive": sign_of_life,
    "alive_timeout": seconds,
    "main": boolean,
    "env_file": str,
    "restart_delay": seconds,
    "restart_delay_max": seconds,
    "forward": signals,
    "give_up_on": lambda text: frozenset(list_of_exitcodes(text)),
}


def parse(parsers: Mapping[str, Callable[[str], Any]], texts: Mapping[str, str]) -> dict[str, Any]:
    """Raises ValueError, with the name of the key."""
    values = {}
    for key, text in texts.items():
        try:
            values[key] = parsers[key](text)
        except (ValueError, re.error) as error:
            raise ValueError(f"{key} = {text}: {error}") from None
    return values


def parse_plugin(texts: Mapping[str, str]) -> PluginSettings:
    """Raises ValueError."""
    wrong = sorted(texts.keys() - PLUGIN.keys())
    if wrong:
        raise ValueError(f"no setting is called {', '.join(wrong)}: there are {', '.join(PLUGIN)}")
    return PluginSettings(**parse(PLUGIN, texts))


def refuse_misspelt(keys: Iterable[str]) -> None:
    """supervisord ignores keys that it does not know. Raises ValueError for one that looks like the plugin's."""
    for key in keys:
        close = difflib.get_close_matches(key, PROGRAM, 1, 0.85)
        if close and key not in PROGRAM:
            raise ValueError(f"no setting is called {key}: did you mean {close[0]}?")


def read_env_file(path: str) -> dict[str, str]:
    """Read lines of KEY=VALUE with shell quotes and # comments. Raises OSError, or ValueError with the line number."""
    values = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            words = shlex.split(line, comments=True)
            if words[:1] == ["export"]:
                del words[0]
            if words:
                key, equals, value = words[0].partition("=")
                if len(words) > 1 or not equals or not key.isidentifier():
                    raise ValueError(f"line {number} is not KEY=VALUE")
                values[key] = value
    return values
