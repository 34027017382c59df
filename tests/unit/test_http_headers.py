"""The grammar of header fields, with Werkzeug's parsers as the oracle."""

import re
from datetime import UTC, datetime
from email.utils import formatdate

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import (
    http_date,
    parse_accept_header,
    parse_if_range_header,
    parse_range_header,
)
from werkzeug.http import parse_date as werkzeug_date
from werkzeug.http import (
    parse_etags as werkzeug_etags,
)

from echo.http.fields import Range, best_match, format_date, parse_date, parse_etags, parse_range
from echo.http.preconditions import holds

SPACE = st.text(" \t", max_size=2)
SEPARATORS = st.builds(lambda before, after: f"{before},{after}", SPACE, SPACE)


def joined(elements: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, list[str]]]:
    """A comma-separated list with some empty elements, and its other elements."""

    def join(pairs: list[tuple[str, str]]) -> tuple[str, list[str]]:
        text = "".join(element + separator for element, separator in pairs[:-1]) + pairs[-1][0]
        return text, [element for element, _ in pairs if element]

    return st.lists(st.tuples(elements | st.just(""), SEPARATORS), min_size=1, max_size=4).map(join)


# Ranges

POSITIONS = st.integers(0, 99).map(str) | st.integers(0, 10**18).map(str) | st.just("007")
SPECS = (
    st.builds("{}-{}".format, POSITIONS, POSITIONS | st.just(""))
    | POSITIONS.map("-{}".format)
    | st.text("0123456789-+x_\xb2 ", min_size=1, max_size=5).map(str.strip).filter(bool)
)


@given(st.sampled_from(["bytes", "Bytes", "lines"]), joined(SPECS))
def test_a_range_is_what_werkzeug_takes_for_one(unit: str, ranges: tuple[str, list[str]]) -> None:
    """Two ranges, -0 and inner spaces are the exceptions."""
    text, elements = ranges
    assume(not any(re.search("[ \t]", element) or int(element[1:]) == 0 for element in elements if is_suffix(element)))
    assume(not any(re.search("[ \t]", element) for element in elements))
    oracle = parse_range_header(f"{unit}={','.join(elements)}")
    found = parse_range(f"{unit}={text}")
    if oracle is None or oracle.units != "bytes" or len(oracle.ranges) != 1:
        assert found is None
    else:
        ((start, stop),) = oracle.ranges
        last = None if stop is None else stop - 1
        assert found
        assert (found.first, found.last, found.suffix) == ((None, None, -start) if start < 0 else (start, last, 0))


def is_suffix(element: str) -> bool:
    return bool(re.fullmatch("-[0-9]+", element))


@given(st.text("bytes=0123456789-, \t+x\xb2"))
def test_no_text_breaks_the_range_parser(text: str) -> None:
    for value in (text, f"bytes={text}"):
        found = parse_range(value)
        assert found is None or "=" in value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=-0", Range(None, None, 0)),
        ("bytes=0-4,", Range(0, 4)),
        ("bytes=,0-4", Range(0, 4)),
        ("bytes = 0-4", None),
        ("bytes=0 - 4", None),
        ("bytes=0-1,3-4", None),
        ("bytes=4-0", None),
        ("bytes=-", None),
        ("bytes=", None),
    ],
)
def test_ranges_that_servers_get_wrong(value: str, expected: Range | None) -> None:
    assert parse_range(value) == expected


@given(st.integers(0, 10**30), st.integers(0, 10**30))
def test_positions_of_any_length_keep_their_order(first: int, last: int) -> None:
    """All numbers of more than 18 digits count as larger than any file."""
    found = parse_range(f"bytes={first}-{last}")
    if min(first, 10**18) <= min(last, 10**18):
        assert found and (found.first, found.last) == (min(first, 10**18), min(last, 10**18))
    else:
        assert found is None


@given(st.integers(0, 2**53 + 10) | st.integers(2**53 - 2, 10**30))
def test_a_last_position_of_2_53_less_1_or_more_is_live(last: int) -> None:
    """RFC 8673. The digits are kept, because the response repeats them."""
    found = parse_range(f"bytes=0-{last}")
    assert found and found.live == (str(last) if last >= 2**53 - 1 else "")


# Entity tags

OPAQUE = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters='"\x7f'), min_size=1, max_size=6
)
OPAQUE = OPAQUE.filter(lambda text: not re.search("[\x7f-\x9f]", text))
TAGS = st.builds(lambda weak, text: f'{weak}"{text}"', st.sampled_from(["", "W/"]), OPAQUE)


@given(joined(TAGS))
def test_entity_tags_are_those_that_werkzeug_finds(tags: tuple[str, list[str]]) -> None:
    text, elements = tags
    assume(elements)
    oracle = werkzeug_etags(text)
    found = parse_etags(text)
    assert found == tuple(elements)
    assert {tag.removeprefix("W/").strip('"') for tag in found if not tag.startswith("W/")} == set(oracle.as_set())
    assert {tag.removeprefix("W/").strip('"') for tag in found} == set(oracle.as_set(include_weak=True))


@pytest.mark.parametrize("value", ["", ",", "x", '"x', 'x"', "*, *", '"x", y', '"x" "y"', 'w/"x"', '"x", *', '"a b"'])
def test_a_malformed_list_of_entity_tags_is_none(value: str) -> None:
    assert parse_etags(value) == ()


@given(TAGS, TAGS | st.none())
def test_if_range_holds_for_the_same_strong_tag_alone(current: str, other: str | None) -> None:
    assume(not current.startswith("W/"))
    value = other or current
    oracle = parse_if_range_header(value)
    expected = f'"{oracle.etag}"' == current and not value.startswith("W/")
    assert holds(value, current, None, lambda etag: False) == expected


# Dates

SECONDS = st.integers(0, 2**32)


def formats(seconds: int) -> list[str]:
    """The three formats of RFC 9110, section 5.6.7."""
    when = datetime.fromtimestamp(seconds, UTC)
    return [
        formatdate(seconds, usegmt=True),
        when.strftime("%A, %d-%b-%y %H:%M:%S GMT"),
        when.strftime(f"%a %b {when.day:2} %H:%M:%S %Y"),
    ]


@given(SECONDS)
def test_a_date_is_written_as_werkzeug_writes_it_and_read_back(seconds: int) -> None:
    assert format_date(seconds) == http_date(seconds)
    assert parse_date(format_date(seconds)) == seconds


@given(SECONDS, st.integers(0, 2))
def test_dates_are_parsed_as_werkzeug_parses_them(seconds: int, which: int) -> None:
    text = formats(seconds)[which]
    oracle = werkzeug_date(text)
    assert oracle
    assert parse_date(text) == oracle.timestamp()


@given(SECONDS, st.integers(0, 2), st.integers(0, 30), st.text("0123456789 :,-GMTSunx\xb2", max_size=3))
def test_a_damaged_date_is_none_or_werkzeugs(seconds: int, which: int, place: int, damage: str) -> None:
    text = formats(seconds)[which]
    text = text[:place] + damage + text[place + 1 :]
    found, oracle = parse_date(text), werkzeug_date(text)
    assert found is None or (oracle is not None and found == oracle.timestamp())


@given(st.text())
def test_no_text_breaks_the_date_parser(text: str) -> None:
    parse_date(text)


@given(SECONDS, SECONDS, st.integers(0, 2))
def test_if_range_with_a_date_holds_for_exactly_that_one(modified: int, other: int, which: int) -> None:
    for seconds in (modified, other):
        value = formats(seconds)[which]
        oracle = parse_if_range_header(value)
        assert oracle.date
        assert holds(value, '"x"', modified, lambda etag: False) == (oracle.date.timestamp() == modified)


# Accept

OFFERS = ("text/plain", "text/html")
MEDIA = st.sampled_from(["text/plain", "text/html", "TEXT/HTML", "text/*", "*/*", "image/png", "application/xml"])
QUALITIES = st.sampled_from(["", ";q=1", ";q=0", ";q=0.5", ";q=0.001", "; q=0.9", ";Q=0.8", ";q=1.000", " ;q=0."])


@given(joined(st.builds(str.__add__, MEDIA, QUALITIES)))
def test_the_media_type_is_the_one_that_werkzeug_prefers(accept: tuple[str, list[str]]) -> None:
    """The first one, if the client has no preference."""
    text, elements = accept
    assume(elements)
    oracle = parse_accept_header(",".join(elements).replace("0.,", "0,").removesuffix("."), MIMEAccept)
    assert best_match(text, OFFERS) == max(OFFERS, key=oracle.quality)


@given(st.text())
def test_no_text_breaks_the_choice_of_media_type(text: str) -> None:
    assert best_match(text, OFFERS) in OFFERS
