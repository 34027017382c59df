"""Both programs' settings: their flags, variables, defaults and refusals, `--help` and the table in the docs."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as profiles
from hypothesis import strategies as st

import echo.options
import echo.settings
import generator.options
import generator.settings
from generator.options import boolean, natural, seconds
from generator.settings import integer, size
from support import ROOT

profiles.load_profile("ci")  # the same examples each time, no deadline

PARSERS: dict[str, Callable[..., Any]] = {"echo": echo.settings.parse, "generator": generator.settings.parse}
DECLARED: list[Any] = [*echo.settings.Settings.declared, *generator.settings.Settings.declared]
Refusal = Callable[..., str]

both = pytest.mark.parametrize("program", PARSERS)


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refusal:
    """Return a function that parses what must be refused, in a folder with some files, and returns the one line."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)

    def refuse(program: str, argv: Sequence[str], environ: Mapping[str, str] = {}) -> str:
        with pytest.raises(SystemExit) as end:
            PARSERS[program](argv, environ)
        (line,) = capsys.readouterr().err.splitlines()
        assert end.value.code == 2
        assert line.startswith(f"{program}: ")
        return line

    return refuse


def test_both_programs_have_the_same_options_module() -> None:
    assert (ROOT / "echo" / "options.py").read_bytes() == (ROOT / "generator" / "options.py").read_bytes()


# Converters


@given(st.integers(0, 10**9), st.sampled_from(["", "K", "M", "G"]), st.sampled_from(["", "B", "iB", "b"]))
def test_size_is_bytes_in_powers_of_1024(number: int, unit: str, suffix: str) -> None:
    expected = number * 1024 ** ["", "K", "M", "G"].index(unit)
    assert size(f"{number}{unit}{suffix}") == size(f"{number}{unit}{suffix}".lower()) == expected


@given(st.floats(0, 1e300))
def test_seconds_are_any_finite_number_from_0(number: float) -> None:
    assert seconds(repr(number)) == number


@given(st.integers(-(10**18) + 1, 10**18 - 1))
def test_integer_is_what_is_written(number: int) -> None:
    assert integer(str(number)) == number


@pytest.mark.parametrize("words, value", [("1 true yes on TRUE Yes", True), ("0 false no off FALSE No", False)])
def test_boolean_is_yes_or_no(words: str, value: bool) -> None:
    assert all(boolean(word) is value for word in words.split())


@pytest.mark.parametrize(
    ("convert", "text"),
    [
        *((size, text) for text in ("", "K", "-1", "1.5K", "1T", "64 K", "1KK", "9" * 16, "one")),
        *((seconds, text) for text in ("", "-1", "-0.001", "nan", "inf", "-inf", "1e999", "2s", "two", "1_0")),
        *((integer, text) for text in ("", "1.0", "1e3", "+1", "--1", " 1", "1_000", "9" * 19, "٣")),
        *((natural, text) for text in ("-1", "", "x")),
        *((boolean, text) for text in ("", "2", "y", "maybe", "yes ")),
    ],
)
def test_a_wrong_value_is_refused_and_quoted(convert: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match="is ") as refused:
        convert(text)
    assert repr(text) in str(refused.value)


@given(st.text())
def test_any_text_is_a_value_or_refused(text: str) -> None:
    for convert in (size, seconds, integer, natural, boolean):
        try:
            assert convert(text) is not None
        except ValueError as refused:
            assert repr(text) in str(refused)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.0.0.0:8000", ("0.0.0.0", 8000)),
        ("[::1]:0", ("::1", 0)),
        ("echo.example:65535", ("echo.example", 65535)),
        (":80", ("0.0.0.0", 80)),
        ("80", ("0.0.0.0", 80)),
    ],
)
def test_address_is_a_host_and_a_port(text: str, value: tuple[str, int]) -> None:
    assert echo.settings.address(text) == value


# Flags, variables, defaults


@pytest.mark.parametrize(
    ("program", "field", "default", "variable", "flag"),
    [
        ("generator", "file", Path("data"), ("a", Path("a")), ("b", Path("b"))),
        ("generator", "interval", 2.0, ("0.5", 0.5), ("0", 0.0)),
        ("generator", "count", 0, ("5", 5), ("1", 1)),
        ("generator", "min", 0, ("-5", -5), ("-7", -7)),
        ("generator", "max", 32767, ("40000", 40000), ("7", 7)),
        ("generator", "seed", None, ("1", 1), ("-2", -2)),
        ("generator", "segment_size", 64 * 2**20, ("1M", 2**20), ("64KiB", 2**16)),
        ("generator", "keep", 2, ("5", 5), ("0", 0)),
        ("generator", "fsync", False, ("yes", True), ("no", False)),
        ("generator", "heartbeat", None, ("a", Path("a")), ("b", Path("b"))),
        ("echo", "source", Path("data"), ("a", Path("a")), ("http://h/data", "http://h/data")),
        ("echo", "listen", ("0.0.0.0", 8000), ("1", ("0.0.0.0", 1)), ("h:2", ("h", 2))),
        ("echo", "stale", 10.0, ("1", 1.0), (".5", 0.5)),
        ("echo", "stop_timeout", 3.0, ("1", 1.0), ("2", 2.0)),
        ("echo", "stall_timeout", 30.0, ("1", 1.0), ("2", 2.0)),
        ("echo", "followers", 1000, ("1", 1), ("2", 2)),
        ("echo", "token_file", None, ("/dev/null", Path("/dev/null")), ("/dev/zero", Path("/dev/zero"))),
    ],
)
def test_a_flag_overrides_its_variable_and_that_the_default(
    program: str, field: str, default: object, variable: tuple[str, object], flag: tuple[str, object]
) -> None:
    (setting,) = [each for each in DECLARED if each.variable == f"{program}_{field}".upper()]
    environ = {setting.variable: variable[0]}

    def value(argv: list[str], environ: dict[str, str]) -> object:
        return getattr(PARSERS[program](argv, environ), field)

    assert value([], {}) == value([], {setting.variable: ""}) == default
    assert value([], environ) == variable[1]
    assert value([setting.flag, flag[0]], environ) == value([f"{setting.flag}={flag[0]}"], environ) == flag[1]
    assert value([setting.flag, flag[0]], {setting.variable: "\0"}) == flag[1]


@pytest.mark.parametrize("argv", [["--fsync"], ["--fsync", "--count", "1"], ["--fsync=yes"]])
def test_fsync_as_a_bare_flag_is_yes(argv: list[str]) -> None:
    assert generator.settings.parse(argv, {}).fsync is True


@both
@pytest.mark.parametrize(
    "name",
    [
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_HTTP",
        "PORT",
        "PORT_80_TCP",
        "PORT_80_UDP_PROTO",
        "X_PORT_80_TCP_ADDR",
    ],
)
def test_service_link_variables_of_kubernetes_are_ignored(program: str, name: str) -> None:
    parse = PARSERS[program]
    assert parse([], {f"{program.upper()}_{name}": "tcp://10.0.0.1:8000"}) == parse([], {})


@both
def test_variables_of_others_are_ignored(program: str) -> None:
    parse = PARSERS[program]
    others = {"OTHER_STALE": "x", f"MY{program}_X".upper(): "x", program.upper(): "x"}
    assert parse([], others) == parse([], {})


# Refusals


@pytest.mark.parametrize(
    ("program", "name"),
    [
        *(("generator", f"GENERATOR_{name}") for name in ("INTERVALL", "", "MAXSIZE", "interval", "MAX_SIZE")),
        *(("echo", f"ECHO_{name}") for name in ("STALLE", "", "stale")),
    ],
)
def test_a_misspelt_variable_is_refused(refusal: Refusal, program: str, name: str) -> None:
    known = {"generator": "GENERATOR_COUNT, GENERATOR_FILE,", "echo": "ECHO_FOLLOWERS, ECHO_HEARTBEAT,"}[program]
    assert refusal(program, [], {name: "1"}).startswith(
        f"{program}: unknown environment variable {name}: use one of {known}"
    )


@both
@pytest.mark.parametrize("word", ["--intervall=1", "--inter", "--stal", "--max-size", "data", "-x", "--"])
def test_an_unknown_argument_is_refused(refusal: Refusal, program: str, word: str) -> None:
    assert refusal(program, [word, "1"]) == f"{program}: unknown argument {word}: see --help"


REFUSED = """
generator --interval                    --interval (GENERATOR_INTERVAL): the value is missing: give --interval SECONDS
generator --interval nan                --interval (GENERATOR_INTERVAL): 'nan' is not a number of seconds, 0 or more
generator GENERATOR_INTERVAL=soon       --interval (GENERATOR_INTERVAL): 'soon' is not a number of seconds, 0 or more
generator --count=-1                    --count (GENERATOR_COUNT): '-1' is not an integer of at most 18 digits, 0 or
generator --max 1.5                     --max (GENERATOR_MAX): '1.5' is not an integer of at most 18 digits
generator --min 5 --max 4               --min (GENERATOR_MIN): 5 is more than --max (GENERATOR_MAX), 4
generator GENERATOR_MIN=99999           --min (GENERATOR_MIN): 99999 is more than --max (GENERATOR_MAX), 32767
generator --seed x                      --seed (GENERATOR_SEED): 'x' is not an integer of at most 18 digits
generator --segment-size big            --segment-size (GENERATOR_SEGMENT_SIZE): 'big' is not a size such as 65536, 64K
generator --segment-size 4095           --segment-size (GENERATOR_SEGMENT_SIZE): 4095 is less than 4096 bytes; 0 is no
generator --keep -1                     --keep (GENERATOR_KEEP): '-1' is not an integer of at most 18 digits, 0 or more
generator --fsync maybe                 --fsync (GENERATOR_FSYNC): 'maybe' is not yes or no
generator --heartbeat no/beat           --heartbeat (GENERATOR_HEARTBEAT): directory no does not exist: create it
echo --stale --followers                --stale (ECHO_STALE): the value is missing: give --stale SECONDS
echo --stale=-1                         --stale (ECHO_STALE): '-1' is not a number of seconds, 0 or more
echo --stall-timeout inf                --stall-timeout (ECHO_STALL_TIMEOUT): 'inf' is not a number of seconds
echo --stop-timeout x                   --stop-timeout (ECHO_STOP_TIMEOUT): 'x' is not a number of seconds
echo --followers -1                     --followers (ECHO_FOLLOWERS): '-1' is not an integer of at most 18 digits
echo --listen 65536                     --listen (ECHO_LISTEN): '65536' is not [HOST:]PORT with a port from 0 to 65535
echo --listen -1                        --listen (ECHO_LISTEN): '-1' is not [HOST:]PORT
echo --listen localhost                 --listen (ECHO_LISTEN): 'localhost' is not [HOST:]PORT
echo --listen ::1:8000                  --listen (ECHO_LISTEN): '::1:8000' is not [HOST:]PORT
echo --listen bücher:8000               --listen (ECHO_LISTEN): 'bücher:8000' is not [HOST:]PORT
echo ECHO_LISTEN=x:99999                --listen (ECHO_LISTEN): 'x:99999' is not [HOST:]PORT
echo --source folder                    --source (ECHO_SOURCE): folder is a directory: give a file in it, as folder/data
echo --source no/data                   --source (ECHO_SOURCE): directory no does not exist: create it or give a file
echo ECHO_SOURCE=ftp://h/data           --source (ECHO_SOURCE): the URL is not http://HOST:PORT/data nor https://HOST:
echo --source http:h                    --source (ECHO_SOURCE): the URL is not http://HOST:PORT/data nor https://HOST:
echo --source http://h:0/data           --source (ECHO_SOURCE): the URL is not http://HOST:PORT/data nor https://HOST:
echo --source http://h:x/data           --source (ECHO_SOURCE): the URL is not http://HOST:PORT/data nor https://HOST:
echo --source http://[::1/data          --source (ECHO_SOURCE): the URL is not http://HOST:PORT/data nor https://HOST:
echo --source http:///data              --source (ECHO_SOURCE): the URL is not http://HOST:PORT/data nor https://HOST:
echo --source http://h:1                --source (ECHO_SOURCE): the URL must have a host and a path only: give http://h:1/data
echo --source http://me:secret@h:1/     --source (ECHO_SOURCE): the URL must have a host and a path only: give http://h:1/data
echo --source http://h:1/data?follow    --source (ECHO_SOURCE): the URL must have a host and a path only: give http://h:1/data
echo --source http://h:1/data#x         --source (ECHO_SOURCE): the URL must have a host and a path only: give http://h:1/data
echo --token-file no                    --token-file (ECHO_TOKEN_FILE): no cannot be read: No such file or directory
echo --tls-key folder                   --tls-key (ECHO_TLS_KEY): folder cannot be read: Is a directory
echo --tls-cert file                    --tls-cert (ECHO_TLS_CERT) and --tls-key (ECHO_TLS_KEY) go together: give both
echo --spool no                         --spool (ECHO_SPOOL): no is not a folder: create it or give another
echo --spool folder                     --spool (ECHO_SPOOL) needs a URL as --source (ECHO_SOURCE)
echo --source-token-file file           --source-token-file (ECHO_SOURCE_TOKEN_FILE) needs a URL as --source
echo --source-ca file                   --source-ca (ECHO_SOURCE_CA) needs an https URL as --source (ECHO_SOURCE)
echo --source-ca file --source http://h/data   --source-ca (ECHO_SOURCE_CA) needs an https URL as --source (ECHO_SOURCE)
"""


@pytest.mark.parametrize(("words", "reason"), [re.split("   +", line) for line in REFUSED.strip().splitlines()])
def test_a_wrong_setting_is_refused(refusal: Refusal, words: str, reason: str) -> None:
    program, *given = words.split(" ")
    argv = [word for word in given if not word[0].isupper()]
    environ = dict(word.split("=") for word in given if word[0].isupper())
    assert refusal(program, argv, environ).startswith(f"{program}: {reason}")


def test_a_file_name_that_is_too_long_is_refused_in_a_line(refusal: Refusal) -> None:
    assert "--source (ECHO_SOURCE): directory nnn" in refusal("echo", ["--source", "n" * 300 + "/data"])


# --help and the table


@both
def test_help_has_every_setting_even_with_wrong_ones(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        PARSERS[program](["--help"], {f"{program}_X".upper(): "1"})
    assert end.value.code == 0
    text = capsys.readouterr().out
    for each in DECLARED:
        line = f"  {each.flag} {each.unit}\n      {each.meaning} [{each.variable}, default {each.default or 'none'}]\n"
        assert (line in text) == each.variable.startswith(program.upper())


def test_table_escapes_what_markdown_takes_for_a_column() -> None:
    assert r"| `--source PATH\|URL` | `ECHO_SOURCE` | `data` | data file" in echo.settings.Settings.table()
    for table in (echo.settings.Settings.table(), generator.settings.Settings.table()):
        assert {line.replace(r"\|", "").count("|") for line in table.splitlines()} == {5}
