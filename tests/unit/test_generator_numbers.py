"""The generator's schedule and numbers, without files or clocks."""

import math

from hypothesis import given
from hypothesis import settings as profiles
from hypothesis import strategies as st

from generator.loop import next_due
from generator.numbers import Numbers

profiles.load_profile("ci")  # the same examples each time, no deadline

INTERVALS = st.floats(0.001, 1000)
LATENESS = st.floats(0, 1.99)  # in intervals: a write may last past the next due time
NUMBERS = st.integers(-(10**18) + 1, 10**18 - 1)


@given(INTERVALS, st.lists(LATENESS, max_size=200))
def test_the_schedule_never_drifts(interval: float, lateness: list[float]) -> None:
    """Number n is due n intervals after the first, if no write is late by more than one interval."""
    due = 0.0
    for late in lateness:
        due = next_due(due, interval, due + late * interval)
    assert math.isclose(due, len(lateness) * interval, rel_tol=1e-9)


@given(INTERVALS, st.floats(2.01, 1e6))
def test_the_schedule_does_not_burst_after_a_pause(interval: float, pause: float) -> None:
    """After a pause one number comes at once and the next an interval later. Missed ones are skipped."""
    now = pause * interval
    at_once = next_due(0.0, interval, now)
    assert at_once == now
    assert next_due(at_once, interval, now) == now + interval


@given(st.floats(0, 1e6), st.floats(0, 1000), st.floats(0, 1e6))
def test_the_schedule_is_late_by_one_interval_at_most(previous: float, interval: float, gap: float) -> None:
    now = previous + gap
    due = next_due(previous, interval, now)
    assert now - due <= interval
    assert due >= previous


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
def test_a_seed_gives_the_same_lines_in_any_batches(seed: int, batches: list[int]) -> None:
    one, other = Numbers(0, 32767, seed), Numbers(0, 32767, seed)
    assert b"".join(one.lines(count) for count in batches) == other.lines(sum(batches))


def test_without_a_seed_each_run_has_other_lines() -> None:
    one, other = (Numbers(0, 32767) for _ in range(2))
    assert one.lines(20) != other.lines(20)
