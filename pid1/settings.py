"""The settings in [rpcinterface:pid1] and in the section of each program."""

from __future__ import annotations

import difflib
import re
import shlex
import signal
from dataclasses import dataclass, field, fields
from typing import Any, Callable, Iterable, Mapping, Tuple

from supervisor.datatypes import boolean, list_of_exitcodes, list_of_strings

KEPT_SIGNALS = {"SIGTERM", "SIGINT", "SIGQUIT", "SIGCHLD", "SIGKILL", "SIGSTOP"}
HOST = r"(\[[^]/]+\]|[^][:/]+)"
SIGN_OF_LIFE = rf"/.+|http://{HOST}(:\d+)?(/.*)?|tcp://{HOST}:\d+|exec:.*\S.*"
Dependency = Tuple[str, str]  # a program, and the state that it must reach
Parser = Callable[[str], Any]


def dependencies(text: str) -> tuple[Dependency, ...]:
    items = list_of_strings(text)
    if not all(re.fullmatch(r".+:(started|ready|exited)", item) for item in items):
        raise ValueError("give PROGRAM:started, PROGRAM:ready or PROGRAM:exited, separated by commas")
    return tuple(tuple(item.rsplit(":", 1)) for item in items)


def sign_of_readiness(text: str) -> str:
    """Return the text of a file, address, command or pattern. Raises ValueError or re.error."""
    if not re.fullmatch(rf"{SIGN_OF_LIFE}|log:.*\S.*|notify", text):
        raise ValueError("give /FILE, http://HOST:PORT/PATH, tcp://HOST:PORT, exec:COMMAND, log:REGEX or notify")
    if text.startswith("log:"):
        re.compile(text[4:])
    return text


def sign_of_life(text: str) -> str:
    if not re.fullmatch(SIGN_OF_LIFE, text):
        raise ValueError("give /FILE, http://HOST:PORT/PATH, tcp://HOST:PORT or exec:COMMAND")
    return text


def seconds(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not float(text):
        raise ValueError("give seconds, more than 0")
    return float(text)


def signals(text: str) -> frozenset[signal.Signals]:
    names = {f"SIG{name}" for name in text.split()}
    wrong = sorted((names - signal.Signals.__members__.keys()) | (names & KEPT_SIGNALS))
    if wrong:
        raise ValueError(f"cannot forward {', '.join(wrong)}; give names such as HUP USR1 USR2")
    return frozenset(signal.Signals[name] for name in names)


def exit_statuses(text: str) -> frozenset[int]:
    return frozenset(list_of_exitcodes(text))


def text_or_json(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError("give text or json")
    return text


def setting(parser: Parser, default: Any) -> Any:
    """Declare a key that users may set."""
    return field(default=default, metadata={"parser": parser})


@dataclass(frozen=True)
class PluginSettings:
    """The keys of [rpcinterface:pid1]."""

    log_format: str = setting(text_or_json, "text")
    log_time: bool = setting(boolean, False)
    metrics: str = setting(str, "")


@dataclass(frozen=True)
class ProgramSettings:
    """The plugin's keys in the section of a program; times are in seconds."""

    program: str  # the name in the section's header
    relayed: tuple[tuple[str, int], ...] = ()  # channels, each with the descriptor for its lines
    depends_on: tuple[Dependency, ...] = setting(dependencies, ())
    ready: str = setting(sign_of_readiness, "")
    ready_timeout: float = setting(seconds, 60.0)
    alive: str = setting(sign_of_life, "")
    alive_timeout: float = setting(seconds, 10.0)
    main: bool = setting(boolean, False)
    env_file: str = setting(str, "")
    restart_delay: float = setting(seconds, 0.5)
    restart_delay_max: float = setting(seconds, 30.0)
    give_up_on: frozenset[int] = setting(exit_statuses, frozenset())
    forward: frozenset[signal.Signals] = setting(signals, frozenset())


def parsers(settings: Any) -> dict[str, Parser]:
    return {each.name: each.metadata["parser"] for each in fields(settings) if each.metadata}


PLUGIN, PROGRAM = parsers(PluginSettings), parsers(ProgramSettings)


def parse(parsers: Mapping[str, Parser], texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the parsed values. Raises ValueError with the name of the key."""
    values = {}
    for key, text in texts.items():
        try:
            values[key] = parsers[key](text)
        except (ValueError, re.error) as error:
            raise ValueError(f"{key} = {text}: {error}") from None
    return values


def parse_plugin(texts: Mapping[str, str]) -> PluginSettings:
    """Return the plugin's settings. Raises ValueError for an unknown key or a wrong value."""
    wrong = sorted(texts.keys() - PLUGIN.keys())
    if wrong:
        raise ValueError(f"unknown setting {', '.join(wrong)}: the settings are {', '.join(PLUGIN)}")
    return PluginSettings(**parse(PLUGIN, texts))


def refuse_misspelt(keys: Iterable[str]) -> None:
    """Raise ValueError for a key that is almost one of the plugin's, because supervisord ignores unknown keys."""
    for key in keys:
        close = difflib.get_close_matches(key, PROGRAM, 1, 0.85)
        if close and key not in PROGRAM:
            raise ValueError(f"unknown setting {key}: did you mean {close[0]}?")


def read_env_file(path: str) -> dict[str, str]:
    """Return the variables of a file of KEY=VALUE lines, with shell quotes and # comments.

    Raises OSError, or ValueError with the line number.
    """
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
