"""The generator's settings, schedule and numbers: pure."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as profiles
from hypothesis import strategies as st

from generator import settings
from generator.loop import next_due
from generator.numbers import Numbers

profiles.load_profile("ci")  # the same examples each time, no deadline

INTERVALS = st.floats(0.001, 1000)
LATENESS = st.floats(0, 1.99)  # in intervals: a round may overrun the next one's time
NUMBERS = st.integers(-(10**18) + 1, 10**18 - 1)


@given(INTERVALS, st.lists(LATENESS, max_size=200))
def test_cadence_on_time_never_drifts(interval: float, lateness: list[float]) -> None:
    """However late rounds are, if not by more than an interval, round n is due n intervals after the first."""
    due = 0.0
    for late in lateness:
        due = next_due(due, interval, due + late * interval)
    assert math.isclose(due, len(lateness) * interval, rel_tol=1e-9)


@given(INTERVALS, st.floats(2.01, 1e6))
def test_cadence_after_a_pause_does_not_burst(interval: float, pause: float) -> None:
    """After a pause one round comes at once and the next one an interval later; the missed ones never come."""
    now = pause * interval
    at_once = next_due(0.0, interval, now)
    assert at_once == now
    assert next_due(at_once, interval, now) == now + interval


@given(st.floats(0, 1e6), st.floats(0, 1000), st.floats(0, 1e6))
def test_cadence_is_never_due_in_the_past_by_more_than_the_interval(
    previous: float, interval: float, gap: float
) -> None:
    now = previous + gap
    due = next_due(previous, interval, now)
    assert now - due <= interval
    assert due >= previous


@given(st.integers(0, 10**9), st.sampled_from(["", "K", "M", "G"]), st.sampled_from(["", "B", "iB", "b"]))
def test_size_is_bytes_in_powers_of_1024(number: int, unit: str, suffix: str) -> None:
    expected = number * 1024 ** ["", "K", "M", "G"].index(unit)
    assert settings.size(f"{number}{unit}{suffix}") == expected
    assert settings.size(f"{number}{unit}{suffix}".lower()) == expected


@given(st.floats(0, 1e300))
def test_seconds_are_any_finite_number_from_0(number: float) -> None:
    assert settings.seconds(repr(number)) == number


@given(NUMBERS)
def test_integer_is_what_is_written(number: int) -> None:
    assert settings.integer(str(number)) == number


@pytest.mark.parametrize("word", ["1", "true", "yes", "on", "TRUE", "Yes"])
def test_boolean_yes(word: str) -> None:
    assert settings.boolean(word) is True


@pytest.mark.parametrize("word", ["0", "false", "no", "off", "FALSE", "No"])
def test_boolean_no(word: str) -> None:
    assert settings.boolean(word) is False


@pytest.mark.parametrize(
    ("convert", "text"),
    [
        *((settings.size, text) for text in ("", "K", "-1", "1.5K", "1T", "64 K", "1KK", "9" * 16, "one")),
        *((settings.seconds, text) for text in ("", "-1", "-0.001", "nan", "inf", "-inf", "1e999", "2s", "two")),
        *((settings.integer, text) for text in ("", "1.0", "1e3", "+1", "--1", " 1", "1_000", "9" * 19, "٣")),
        *((settings.natural, text) for text in ("-1", "", "x")),
        *((settings.boolean, text) for text in ("", "2", "y", "maybe", "yes ")),
    ],
)
def test_a_wrong_value_is_refused_and_quoted(convert: Callable[[str], object], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is ") as refused:
        convert(text)
    assert repr(text) in str(refused.value)


@given(st.text())
def test_any_text_is_a_value_or_refused(text: str) -> None:
    """No text makes a converter fail in any other way."""
    for convert in (settings.size, settings.seconds, settings.integer, settings.natural, settings.boolean):
        try:
            assert convert(text) is not None
        except argparse.ArgumentTypeError as refused:
            assert repr(text) in str(refused)


def test_defaults_are_those_of_the_documentation() -> None:
    parsed = settings.parse([], {})
    assert (parsed.file, parsed.interval, parsed.count) == (Path("data"), 2.0, 0)
    assert (parsed.min, parsed.max, parsed.seed) == (0, 32767, None)
    assert (parsed.segment_size, parsed.keep, parsed.fsync, parsed.heartbeat) == (64 * 2**20, 2, False, None)


@pytest.mark.parametrize(
    ("flag", "field", "environment", "given_flag"),
    [
        ("--file", "file", ("a", Path("a")), ("b", Path("b"))),
        ("--interval", "interval", ("0.5", 0.5), ("0", 0.0)),
        ("--count", "count", ("5", 5), ("0", 0)),
        ("--min", "min", ("-5", -5), ("-7", -7)),
        ("--max", "max", ("40000", 40000), ("7", 7)),
        ("--seed", "seed", ("1", 1), ("-2", -2)),
        ("--segment-size", "segment_size", ("1M", 2**20), ("64KiB", 2**16)),
        ("--keep", "keep", ("5", 5), ("0", 0)),
        ("--fsync", "fsync", ("yes", True), ("no", False)),
        ("--heartbeat", "heartbeat", ("a", Path("a")), ("b", Path("b"))),
    ],
)
def test_a_flag_goes_before_its_variable_and_that_before_the_default(
    flag: str, field: str, environment: tuple[str, object], given_flag: tuple[str, object]
) -> None:
    environ = {settings.variable(flag): environment[0]}
    assert getattr(settings.parse([], environ), field) == environment[1]
    assert getattr(settings.parse([flag, given_flag[0]], environ), field) == given_flag[1]
    assert getattr(settings.parse([], {settings.variable(flag): ""}), field) == getattr(settings.parse([], {}), field)


def test_fsync_as_a_bare_flag_is_yes() -> None:
    assert settings.parse(["--fsync"], {}).fsync is True


@pytest.mark.parametrize(
    "name",
    [
        "GENERATOR_SERVICE_HOST",
        "GENERATOR_SERVICE_PORT",
        "GENERATOR_SERVICE_PORT_HTTP",
        "GENERATOR_PORT",
        "GENERATOR_PORT_8000_TCP",
        "GENERATOR_PORT_8000_TCP_ADDR",
        "GENERATOR_PORT_53_UDP_PROTO",
        "GENERATOR_ADAPTER_SERVICE_HOST",
        "GENERATOR_ADAPTER_PORT_80_TCP_PORT",
    ],
)
def test_service_link_variables_of_kubernetes_are_ignored(name: str) -> None:
    assert settings.parse([], {name: "tcp://10.0.0.1:8000"}) == settings.parse([], {})


@pytest.mark.parametrize("name", ["GENERATOR_INTERVALL", "GENERATOR_", "GENERATOR_MAXSIZE", "GENERATOR_interval"])
def test_a_misspelt_variable_is_refused_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        settings.parse([], {name: "1"})
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert f"variable {name}:" in line
    assert "GENERATOR_INTERVAL," in line


def test_variables_of_others_are_ignored() -> None:
    assert settings.parse([], {"ECHO_STALE": "x", "MYGENERATOR_X": "x", "GENERATOR": "x"}) == settings.parse([], {})


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--interval=-1"], "--interval (GENERATOR_INTERVAL): '-1'"),
        (["--interval", "nan"], "--interval (GENERATOR_INTERVAL): 'nan'"),
        (["--interval"], "--interval (GENERATOR_INTERVAL): expected one argument"),
        (["--count=-1"], "--count (GENERATOR_COUNT): '-1'"),
        (["--max", "1.5"], "--max (GENERATOR_MAX): '1.5'"),
        (["--segment-size", "big"], "--segment-size (GENERATOR_SEGMENT_SIZE): 'big'"),
        (["--segment-size", "1K"], "--segment-size (GENERATOR_SEGMENT_SIZE): 1024 is less than 4096"),
        (["--keep=-1"], "--keep (GENERATOR_KEEP): '-1'"),
        (["--max-size", "1M"], "--max-size: use --segment-size"),
        (["--fsync", "maybe"], "--fsync (GENERATOR_FSYNC): 'maybe'"),
        (["--intervall", "1"], "unrecognized arguments: --intervall"),
        (["--inter", "1"], "unrecognized arguments: --inter"),
        (["data"], "unrecognized arguments: data"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        settings.parse(argv, {})
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert words in line


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("GENERATOR_INTERVAL", "soon", "--interval (GENERATOR_INTERVAL): 'soon'"),
        ("GENERATOR_MIN", "99999", "--min (GENERATOR_MIN): 99999 is more than --max"),
        ("GENERATOR_FSYNC", "perhaps", "--fsync (GENERATOR_FSYNC): 'perhaps'"),
        ("GENERATOR_MAX_SIZE", "1M", "GENERATOR_MAX_SIZE: use GENERATOR_SEGMENT_SIZE"),
    ],
)
def test_a_wrong_variable_is_refused_in_one_line(
    name: str, value: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        settings.parse([], {name: value})
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert words in line


@pytest.mark.parametrize(
    ("argv", "name"),
    [(["--min", "5", "--max", "4"], "GENERATOR_MIN"), (["--segment-size", "4095"], "GENERATOR_SEGMENT_SIZE")],
)
def test_values_that_contradict_are_refused_by_name(
    argv: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        settings.parse(argv, {})
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert name in line


@given(NUMBERS, NUMBERS, NUMBERS, st.integers(1, 200))
def test_numbers_are_within_their_range_one_a_line(one: int, other: int, seed: int, count: int) -> None:
    least, greatest = sorted((one, other))
    lines = Numbers(least, greatest, seed).lines(count)
    assert lines.endswith(b"\n")
    values = lines.decode().splitlines()
    assert len(values) == count
    assert all(least <= int(value) <= greatest and str(int(value)) == value for value in values)


@given(st.integers(-50, 50), st.integers(0, 2))
def test_numbers_reach_both_ends_of_their_range(least: int, width: int) -> None:
    lines = Numbers(least, least + width, 1).lines(500)
    assert {int(value) for value in lines.split()} == set(range(least, least + width + 1))


@given(NUMBERS, st.lists(st.integers(1, 50), max_size=20))
def test_the_same_seed_gives_the_same_lines_in_whatever_batches(seed: int, batches: list[int]) -> None:
    one, other = Numbers(0, 32767, seed), Numbers(0, 32767, seed)
    assert b"".join(one.lines(count) for count in batches) == other.lines(sum(batches))


def test_without_a_seed_each_run_has_other_lines() -> None:
    one, other = (Numbers(0, 32767) for _ in range(2))
    assert one.lines(20) != other.lines(20)
