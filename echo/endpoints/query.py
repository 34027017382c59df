"""The query of /data, and event ids. Pure."""

import functools
import re
from typing import NamedTuple
from urllib.parse import parse_qsl

KNOWN = (
    "tail=N, the last N numbers; follow, also those to come; offset=N or last-event-id=STREAM-OFFSET, where to follow"
)


class BadQuery(Exception):
    """The query is invalid; the message says why."""


class Query(NamedTuple):
    """At most one of `tail`, `offset` and `after` is given."""

    follow: bool = False
    tail: int | None = None  # lines
    offset: int | None = None  # bytes, in the stream
    after: str | None = None  # an event id


@functools.lru_cache(maxsize=256)
def parse_query(query: str) -> Query:
    """Parse the query of /data. Raises BadQuery."""
    pairs = parse_qsl(query, keep_blank_values=True) if query else []
    given = dict(pairs)
    if not given.keys() <= {"follow", "tail", "offset", "last-event-id"}:
        raise BadQuery(f"the query is unknown: there is {KNOWN}")
    for name in given:
        if [other for other, _ in pairs].count(name) > 1:
            raise BadQuery(f"{name}= is given twice: give it once")
    if given.get("follow"):
        raise BadQuery(f"follow={given['follow'][:20]!a}: follow takes no value, as in /data?follow")
    starts = [name for name in ("tail", "offset", "last-event-id") if name in given]
    if len(starts) > 1:
        raise BadQuery(f"{' and '.join(starts)} both say where to begin: give one of them")
    if "follow" not in given and starts and starts != ["tail"]:
        raise BadQuery(f"{starts[0]} goes with follow only; for a part of a segment use the header Range: bytes=N-")
    return Query(
        "follow" in given,
        whole_number("tail", given["tail"]) if "tail" in given else None,
        whole_number("offset", given["offset"]) if "offset" in given else None,
        given.get("last-event-id"),
    )


def whole_number(name: str, text: str) -> int:
    """Parse a number, 0 or more, of up to 16 digits. Raises BadQuery."""
    if not re.fullmatch("[0-9]{1,16}", text):
        raise BadQuery(f"{name}={text[:20]!a} is not a whole number of up to 16 digits: give one, as {name}=10")
    return int(text)


def parse_event_id(text: str) -> tuple[str, int]:
    """Parse the id of an event: a stream, and an offset in it. Raises BadQuery."""
    match = re.fullmatch("([0-9a-f]{8})-([0-9]{1,16})", text)
    if not match:
        raise BadQuery(f"last event id {text[:40]!a} is not STREAM-OFFSET: give one, as 5f3a9c21-1234, or none")
    return match[1], int(match[2])
