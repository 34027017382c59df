"""The pure logic of the endpoints: preconditions, queries, event ids, formats, statistics."""

import re
import string
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import example, given
from hypothesis import settings as profiles
from hypothesis import strategies as st

from echo.endpoints.data import Representation, last_modified
from echo.endpoints.follow import EVENTS, LINES, CannotSay
from echo.endpoints.query import BadQuery, Query, parse_event_id, parse_query
from echo.endpoints.stats import BOUNDS, WINDOW, Latency, Rate
from echo.http.preconditions import Part, select
from echo.store import Segment, SegmentName
from support.segments import OTHER, STREAM

profiles.load_profile("ci")  # the same examples each time, no deadline

SEGMENT, NEXT, OTHER_STREAM = f"{STREAM}-600", f"{STREAM}-0", f"{OTHER}-600"
MODIFIED = datetime(2024, 2, 29, 12, 0, 0, tzinfo=UTC)
SIZES = st.integers(1, 10**12)
CONTENT = st.binary(min_size=1, max_size=300)
LINE = st.one_of(st.integers(0, 99999), st.integers(-(10**18) + 1, 10**18 - 1)).map(lambda number: b"%d\n" % number)


def etag(size: int, segment: str = SEGMENT) -> str:
    return f'"{segment}-{size}"'


def date(seconds: int = 0) -> str:
    """Return the HTTP date this many seconds after the last change."""
    return format_datetime(MODIFIED + timedelta(seconds=seconds), usegmt=True)


def answer(size: int, **headers: str) -> Part:
    """Return the part that a request with these headers gets of a file of this size."""
    return choose({name.replace("_", "-"): value for name, value in headers.items()}, size, int(MODIFIED.timestamp()))


def choose(headers: dict[str, str], size: int, modified: int | None) -> Part:
    return select(headers, etag(size), size, modified, lambda older: extends(older, size))


def extends(older: str, size: int) -> bool:
    segment = Segment(Path("data"), SegmentName(STREAM, 600))
    segment.size = size
    return Representation(segment, None, []).extends(older)


def status(size: int, **headers: str) -> int:
    return answer(size, **headers).status


# Ranges


@given(CONTENT, st.integers(0, 400), st.integers(0, 400) | st.none())
def test_a_range_is_the_slice_of_these_bytes(content: bytes, first: int, last: int | None) -> None:
    part = answer(len(content), range=f"bytes={first}-{'' if last is None else last}")
    if last is not None and last < first:
        assert part == Part(200, 0, len(content))  # malformed
    elif first >= len(content):
        assert part.status == 416
    else:
        assert part.status == 206
        assert content[part.start : part.stop] == content[first : None if last is None else last + 1]


@given(CONTENT, st.integers(1, 400))
def test_a_suffix_range_is_that_many_bytes_of_the_end(content: bytes, length: int) -> None:
    """A suffix longer than the file is the whole file."""
    part = answer(len(content), range=f"bytes=-{length}")
    assert part.status == 206
    assert content[part.start : part.stop] == content[-length:]
    assert part.stop == len(content)


@given(SIZES, st.integers(0, 10**12))
def test_a_start_at_or_after_the_end_cannot_be_satisfied(size: int, beyond: int) -> None:
    assert answer(size, range=f"bytes={size + beyond}-") == Part(416, 0, 0)


def test_the_suffix_of_no_bytes_is_never_the_whole_file_as_a_part() -> None:
    assert status(10, range="bytes=-0") in (200, 416)


@given(SIZES, st.text(string.printable + "²٣é", max_size=30))
def test_any_range_header_has_an_answer_within_the_file(size: int, text: str) -> None:
    for value in (text, f"bytes={text}"):
        part = answer(size, range=value)
        assert part.status in (200, 206, 416)
        assert 0 <= part.start <= part.stop <= size
        assert part.status != 200 or part == Part(200, 0, size)
        assert part.status != 206 or part.start < part.stop


@pytest.mark.parametrize(
    "value",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=1",
        "bytes=5-4",
        "bytes=+1-2",
        "bytes=1_0-20",
        "bytes=0x1-2",
        "bytes=--5",
        "bytes=1.0-2",
        "bytes=0-1,4-5",
        "bytes=0-1,-1",
        "bytes=0-,0-",
        "lines=0-1",
        "items=0-1",
        "0-1",
        ",".join(["bytes=0-1"] * 1000),
    ],
)
def test_malformed_multiple_and_other_ranges_are_ignored(value: str) -> None:
    assert answer(10, range=value) == Part(200, 0, 10)


@pytest.mark.parametrize("digits", [19, 10_000])
def test_a_range_of_many_digits_is_beyond_any_end(digits: int) -> None:
    assert answer(10, range=f"bytes={'9' * digits}-") == Part(416, 0, 0)
    live = answer(10, range=f"bytes=4-{'9' * digits}")
    assert live == Part(206, 4, 10, "9" * digits)
    assert answer(10, range=f"bytes=11-{'9' * digits}") == Part(206, 11, 10, "9" * digits)  # ahead


# If-Range


@given(SIZES, SIZES)
def test_an_older_etag_of_the_same_segment_can_be_resumed(one: int, other: int) -> None:
    older, size = sorted((one, other))
    assert extends(etag(older), size)
    assert answer(size + 1, range=f"bytes={older}-", if_range=etag(older)) == Part(206, older, size + 1)


@given(SIZES, SIZES)
def test_the_etag_of_another_segment_begins_again(one: int, other: int) -> None:
    older, size = sorted((one, other))
    for segment in (NEXT, OTHER_STREAM):
        assert answer(size, range="bytes=0-0", if_range=etag(older, segment)) == Part(200, 0, size)


@given(SIZES, st.integers(1, 10**12))
def test_the_etag_of_a_longer_file_begins_again(size: int, more: int) -> None:
    assert answer(size, range="bytes=0-0", if_range=etag(size + more)) == Part(200, 0, size)


@given(SIZES)
def test_a_weak_etag_begins_again(size: int) -> None:
    for value in (f"W/{etag(size)}", f" W/{etag(size)}"):
        assert answer(size, range="bytes=0-0", if_range=value) == Part(200, 0, size)


@given(SIZES, st.text(string.printable + "²٣", max_size=40))
@example(10, "٣")
def test_any_other_if_range_begins_again(size: int, text: str) -> None:
    for value in (text, f'"{text}"', f'"{SEGMENT}-{text}"', f'"{SEGMENT}{text}"'):
        if not (text.isascii() and text.lstrip("-").isdecimal()):
            assert answer(size, range="bytes=0-0", if_range=value) == Part(200, 0, size)


def test_a_date_in_if_range_must_match_exactly() -> None:
    assert status(10, range="bytes=5-", if_range=date()) == 206
    for other in (date(-1), date(1)):
        assert status(10, range="bytes=5-", if_range=other) == 200
    assert choose({"range": "bytes=5-", "if-range": date()}, 10, None).status == 200


def test_if_range_alone_changes_nothing() -> None:
    assert answer(10, if_range=etag(5)) == Part(200, 0, 10)


# Conditions


@given(SIZES, st.sampled_from(["{}", "W/{}", '"x", {}', '{} , W/"y"', '"x",{},"y"']))
def test_if_none_match_with_the_etag_is_not_modified(size: int, pattern: str) -> None:
    assert status(size, if_none_match=pattern.format(etag(size))) == 304


@given(SIZES, SIZES)
def test_if_none_match_with_other_etags_is_answered_in_full(size: int, other: int) -> None:
    value = f'{etag(size, OTHER_STREAM)}, {etag(other) if other != size else etag(size + 1)}, "x"'
    assert answer(size, if_none_match=value) == Part(200, 0, size)


def test_a_star_matches_any_file() -> None:
    assert status(10, if_none_match="*") == 304
    assert status(10, if_match="*") == 200


@given(SIZES, SIZES)
def test_if_match_needs_the_strong_etag_of_now(size: int, other: int) -> None:
    assert status(size, if_match=f'"x", {etag(size)}') == 200
    assert status(size, if_match=f"W/{etag(size)}") == 412
    assert status(size, if_match=etag(other)) == (200 if other == size else 412)
    assert status(size, if_match=etag(size, OTHER_STREAM)) == 412


@given(st.integers(-(10**7), 10**7))
def test_dates_in_conditions_are_compared_by_the_second(seconds: int) -> None:
    assert status(10, if_modified_since=date(seconds)) == (304 if seconds >= 0 else 200)
    assert status(10, if_unmodified_since=date(seconds)) == (200 if seconds >= 0 else 412)


@pytest.mark.parametrize("value", ["", "yesterday", "0", "Thu, 99 Feb 2024 12:00:00 GMT", "²"])
def test_a_date_that_is_none_is_ignored(value: str) -> None:
    assert status(10, if_modified_since=value) == 200
    assert status(10, if_unmodified_since=value) == 200


def test_dates_are_ignored_while_the_file_has_no_date_to_rely_on() -> None:
    for name in ("if-modified-since", "if-unmodified-since"):
        for seconds in (-10, 10):
            assert choose({name: date(seconds)}, 10, None) == Part(200, 0, 10)


def test_an_etag_in_a_condition_goes_before_a_date() -> None:
    """RFC 9110, 13.2.2."""
    assert status(10, if_none_match='"x"', if_modified_since=date(10)) == 200
    assert status(10, if_match=etag(10), if_unmodified_since=date(-10)) == 200


def test_conditions_go_before_a_range() -> None:
    """RFC 9110, 13.2.2."""
    assert status(10, range="bytes=0-1", if_none_match=etag(10)) == 304
    assert status(10, range="bytes=50-", if_match='"x"') == 412
    assert status(10, range="bytes=0-1", if_match=etag(10)) == 206
    assert status(10, if_match='"x"', if_none_match=etag(10)) == 412


@given(
    SIZES, st.dictionaries(st.sampled_from(["if_match", "if_none_match", "if_range", "range"]), st.text(max_size=20))
)
def test_any_headers_have_an_answer(size: int, headers: dict[str, str]) -> None:
    part = answer(size, **headers)
    assert part.status in (200, 206, 304, 412, 416)
    assert 0 <= part.start <= part.stop <= size


# Dates


@given(st.floats(0, 4e9), st.floats(0, 4e9))
def test_last_modified_is_a_second_that_is_over(one: float, other: float) -> None:
    changed, now = sorted((one, other))
    modified = last_modified(changed, now)
    if int(changed) == int(now):
        assert modified is None
    else:
        assert modified == int(changed)
        assert last_modified(now, changed) is None  # a clock that went back


# Queries and event ids

NUMBERS = st.integers(0, 10**16 - 1)


@given(NUMBERS)
def test_a_query_says_where_to_begin_and_whether_to_go_on(number: int) -> None:
    assert parse_query("") == Query()
    assert parse_query(f"tail={number:016}") == Query(tail=number)
    assert parse_query("follow") == parse_query("follow=") == Query(follow=True)
    assert parse_query(f"follow&tail={number}") == parse_query(f"tail={number}&follow") == Query(True, number)
    assert parse_query(f"follow&offset={number}") == Query(True, offset=number)
    assert parse_query(f"follow&last-event-id=x-{number}") == Query(True, after=f"x-{number}")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        *((f"tail={text}", "tail=10") for text in ("", "-1", "+1", "1.5", "x", "%20 1", "1_0", "%D9%A3", "9" * 17)),
        *((f"follow&offset={text}", "offset=10") for text in ("", "-1", "+1", "1.5", "x", "1_0", "9" * 17)),
        *((query, "there is tail=N") for query in ("x=1", "Tail=1", "tail=1&x=2", "%00", "=1", "follow&limit=1")),
        *((query, "twice") for query in ("tail=1&tail=2", "follow&follow", "follow&offset=1&offset=1")),
        *((query, "no value") for query in ("follow=1", "follow=0", "follow=false")),
        ("follow&tail=1&offset=0", "tail and offset both"),
        ("follow&tail=1&last-event-id=x", "tail and last-event-id both"),
        ("follow&offset=1&last-event-id=x", "offset and last-event-id both"),
        ("offset=1", "Range"),
        ("last-event-id=x", "Range"),
        ("tail=1&offset=0", "both"),
    ],
)
def test_any_other_query_is_refused_with_what_would_be_right(query: str, words: str) -> None:
    with pytest.raises(BadQuery, match=words):
        parse_query(query)


@given(st.binary(max_size=30))
def test_any_query_is_understood_or_refused(query: bytes) -> None:
    for name in ("", "tail=", "follow&offset="):
        for raw in (name + query.decode("latin-1"), name + quote_from_bytes(query)):
            try:
                asked = parse_query(raw)
            except BadQuery:
                continue
            assert (asked.tail, asked.offset, asked.after).count(None) >= 2
            assert asked.follow or asked.offset is None


@given(NUMBERS)
def test_an_event_id_is_a_stream_and_an_offset(offset: int) -> None:
    assert parse_event_id(f"{STREAM}-{offset}") == (STREAM, offset)


@given(st.text(max_size=40))
@example(STREAM)
@example(f"{STREAM}-")
@example(f"{STREAM}--1")
@example(f"{STREAM}-1\n")
@example(f"{STREAM}-600-1")
@example(f"{STREAM}-" + "9" * 17)
@example(STREAM.upper() + "-1")
def test_any_other_event_id_is_refused(text: str) -> None:
    with pytest.raises(BadQuery, match=r"last event id .* is not STREAM-OFFSET"):
        parse_event_id(text)


# Events


def parse_events(stream: bytes) -> list[dict[str, str]]:
    """Parse as browsers do: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation"""
    events, fields = [], dict[str, str]()
    for line in re.split("\r\n|\r|\n", stream.decode("utf-8", "replace")):
        if not line:
            if "data" in fields:
                events.append(fields)
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
    return events


@given(st.lists(LINE, max_size=20), st.integers(0, 10**12))
def test_events_are_the_lines_each_with_the_offset_after_it(lines: list[bytes], offset: int) -> None:
    events = parse_events(EVENTS.numbers(STREAM, offset, b"".join(lines)))
    assert [event["data"] for event in events] == [line.decode().rstrip() for line in lines]
    assert [event["id"] for event in events] == [
        f"{STREAM}-{offset + len(b''.join(lines[: number + 1]))}" for number in range(len(lines))
    ]
    assert all("event" not in event for event in events)


@given(st.binary(max_size=50).map(lambda content: content.replace(b"\n", b"") + b"\n"))
def test_whatever_is_in_a_line_is_one_event(line: bytes) -> None:
    events = parse_events(EVENTS.numbers(STREAM, 0, line))
    assert [event["id"] for event in events] == [f"{STREAM}-{len(line)}"]
    assert events[0].keys() == {"id", "data"}


def test_gone_is_an_event_of_its_own_type_with_the_position() -> None:
    assert parse_events(EVENTS.gone(f"{STREAM}-9")) == [{"event": "gone", "data": f"{STREAM}-9"}]
    assert parse_events(EVENTS.opening + EVENTS.heartbeat) == []
    assert EVENTS.heartbeat == b":\n"


@given(st.lists(LINE).map(b"".join))
def test_a_stream_of_text_is_the_lines_alone(lines: bytes) -> None:
    assert LINES.numbers(STREAM, 5, lines) == lines
    assert LINES.opening + LINES.heartbeat == b""
    with pytest.raises(CannotSay, match=STREAM):
        LINES.gone(f"{STREAM}-9")


# Statistics


@given(st.lists(st.floats(0, 100)))
def test_a_latency_is_in_the_first_bucket_that_holds_it(times: list[float]) -> None:
    latency = Latency()
    for seconds in times:
        latency.add(seconds)
    assert latency.seconds == pytest.approx(sum(times))
    for number, bound in enumerate(BOUNDS):
        assert sum(latency.counts[: number + 1]) == sum(seconds <= bound for seconds in times)
    assert sum(latency.counts) == len(times)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 1000)), min_size=1, max_size=200))
def test_growth_is_that_of_about_the_last_minute(steps: list[tuple[float, int]]) -> None:
    rate, now, total, history = Rate(), 0.0, 0, []
    for seconds, more in steps:
        now, total = now + seconds, total + more
        rate.sample(now, total)
        history.append((now, total))
    window, grown = rate.growth()
    assert history[-1][0] - window == pytest.approx(min(history, key=lambda seen: abs(seen[0] - now + window))[0])
    began = [before for time, before in history if abs(time - now + window) < 1e-9]
    assert total - grown in began
    assert window >= min(WINDOW, now - history[0][0]) - 1
    assert len(rate.samples) <= 2 * WINDOW + 3
