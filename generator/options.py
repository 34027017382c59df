"""A program's settings. One declaration of each gives its flag, its variable, `--help` and the table in docs/.

The folders generator/ and echo/ hold equal copies of this module, because neither program imports the other.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from math import inf
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn, Self

Converter = Callable[[str], Any]  # from a text to its value; raises ValueError with the reason

# Kubernetes sets these variables for a Service whose name begins with the program's name.
SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT$|_PORT_\d+_(TCP|UDP|SCTP)")


def converter(what: str, pattern: str, convert: Callable[[re.Match[str]], Any]) -> Converter:
    """Return a converter of texts that match a pattern. It refuses infinity; `what` describes valid texts."""

    def checked(text: str) -> Any:
        match = re.fullmatch(pattern, text, re.IGNORECASE | re.ASCII)
        if not match or (value := convert(match)) == inf:
            raise ValueError(f"{text!r} is not {what}")
        return value

    return checked


NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?"
seconds = converter("a number of seconds, 0 or more", NUMBER, lambda match: float(match[0]))
natural = converter("an integer of at most 18 digits, 0 or more", "[0-9]{1,18}", lambda match: int(match[0]))
boolean = converter("yes or no", "(1|true|yes|on)|0|false|no|off", lambda match: bool(match[1]))


class Setting:
    """The declaration of a setting. The default is a text, as in a variable, or None."""

    def __init__(
        self, program: str, name: str, convert: Converter, default: str | None, unit: str, meaning: str
    ) -> None:
        self.name, self.flag, self.variable = name, "--" + name.replace("_", "-"), f"{program}_{name}".upper()
        self.convert, self.default, self.unit, self.meaning = convert, default, unit, meaning

    def __str__(self) -> str:
        return f"{self.flag} ({self.variable})"


def setting(convert: Converter, default: str | None, unit: str, meaning: str) -> Any:
    """Declare a setting as a class attribute of Settings, annotated with the type of its value."""
    return convert, default, unit, meaning


class Options(SimpleNamespace):
    """The base class of a program's Settings, which declares each setting. Its docstring begins `--help`."""

    program: ClassVar[str]
    declared: ClassVar[list[Setting]]

    def __init_subclass__(cls, program: str) -> None:
        cls.program = program
        cls.declared = [Setting(program, name, *vars(cls)[name]) for name in cls.__annotations__]

    @classmethod
    def parse(cls, argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Self:
        """Return the settings. A flag wins over a variable, and a variable that is not empty over the default.

        Ends the program with status 2 and one line on stderr if a setting is wrong.
        """
        flags = cls.read_flags(sys.argv[1:] if argv is None else argv)
        cls.check_variables(environ)
        settings = cls()
        for each in cls.declared:
            text = flags.get(each.name, environ.get(each.variable) or each.default)
            try:
                setattr(settings, each.name, None if text is None else each.convert(text))
            except ValueError as error:
                cls.refuse(f"{each}: {error}")
        return settings

    @classmethod
    def read_flags(cls, argv: Sequence[str]) -> dict[str, str]:
        """Return a text per setting from `--flag text`, `--flag=text` or, for a boolean, `--flag`."""
        known, texts, words = {each.flag: each for each in cls.declared}, {}, list(argv)
        while words:
            word = words.pop(0)
            flag, equals, text = word.partition("=")
            if flag in ("-h", "--help"):
                print(cls.help())
                raise SystemExit(0)
            if flag not in known:
                cls.refuse(f"unknown argument {word}: see --help")
            each = known[flag]
            if not equals and words and not words[0].startswith("--"):
                text = words.pop(0)
            elif not equals and each.convert is boolean:
                text = "yes"
            elif not equals:
                cls.refuse(f"{each}: the value is missing: give {flag} {each.unit}")
            texts[each.name] = text
        return texts

    @classmethod
    def check_variables(cls, environ: Mapping[str, str]) -> None:
        """Refuse a variable with the program's prefix that is neither a setting nor set by Kubernetes."""
        known = sorted(each.variable for each in cls.declared)
        for name in sorted(environ):
            if name.startswith(f"{cls.program.upper()}_") and name not in known and not SERVICE_LINK.search(name):
                cls.refuse(f"unknown environment variable {name}: use one of {', '.join(known)}")

    @classmethod
    def refuse(cls, problem: str) -> NoReturn:
        """End the program with one line on stderr and status 2."""
        print(f"{cls.program}: {problem}", file=sys.stderr)
        raise SystemExit(2)

    @classmethod
    def help(cls) -> str:
        """Return the text of `--help`."""
        lines = [f"usage: python -m {cls.program} [--flag VALUE]...", "", cls.__doc__ or "", ""]
        for each in cls.declared:
            lines.append(f"  {each.flag} {each.unit}")
            lines.append(f"      {each.meaning} [{each.variable}, default {each.default or 'none'}]")
        return "\n".join(lines)

    @classmethod
    def table(cls) -> str:
        """Return the settings as a Markdown table, for the documentation."""
        rows = ["| Flag | Environment variable | Default | Meaning |", "|---|---|---|---|"]
        for each in cls.declared:
            flag = f"{each.flag} {each.unit}".replace("|", "\\|")
            default = f"`{each.default}`" if each.default else ""
            rows.append(f"| `{flag}` | `{each.variable}` | {default} | {each.meaning} |")
        return "\n".join(rows)
