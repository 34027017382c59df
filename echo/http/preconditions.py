"""Preconditions and ranges: which part of a representation to send (RFC 9110, 13 and 14). Pure."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from echo.http.fields import parse_date, parse_etags, parse_range

CONDITIONS = {"if-match", "if-unmodified-since", "if-none-match", "if-modified-since", "range"}


class Part(NamedTuple):
    """A status, and the range of bytes from `start` up to `stop` to send."""

    status: int  # 200, 206, 304, 412 or 416
    start: int
    stop: int
    live: str = ""  # a live range's last position, in the client's words (RFC 8673)


def select(
    headers: Mapping[str, str], etag: str, size: int, modified: int | None, extends: Callable[[str], bool]
) -> Part:
    """Choose the response to a GET or HEAD with these headers (names in lower case).

    `etag` is the current strong entity tag in quotes, `size` is in bytes, `modified` is the Unix time of
    Last-Modified or None. `extends(older)` tells whether the current representation begins with the one of an older
    entity tag: then If-Range accepts that tag too. The order is that of RFC 9110, 13.2.2. A live range may begin
    beyond `size`.
    """
    if CONDITIONS.isdisjoint(headers):
        return Part(200, 0, size)
    if "if-match" in headers:
        tags = parse_etags(headers["if-match"])
        if etag not in tags and tags != ("*",):
            return Part(412, 0, 0)
    elif (date := parse_date(headers.get("if-unmodified-since"))) is not None and modified and modified > date:
        return Part(412, 0, 0)
    if "if-none-match" in headers:
        tags = parse_etags(headers["if-none-match"])
        if etag in tags or tags == ("*",) or f"W/{etag}" in tags:
            return Part(304, 0, 0)
    elif (date := parse_date(headers.get("if-modified-since"))) is not None and modified and modified <= date:
        return Part(304, 0, 0)
    asked = parse_range(headers["range"]) if "range" in headers else None
    if asked is None or not holds(headers.get("if-range"), etag, modified, extends):
        return Part(200, 0, size)
    if asked.live and asked.first is not None:
        return Part(206, asked.first, size, asked.live)
    if asked.first is None:
        start, stop = max(0, size - asked.suffix), size
    else:
        start, stop = asked.first, size if asked.last is None else min(asked.last + 1, size)
    return Part(206, start, stop) if start < size else Part(416, 0, 0)


def holds(if_range: str | None, etag: str, modified: int | None, extends: Callable[[str], bool]) -> bool:
    """Return whether If-Range holds. Weak entity tags never match (RFC 9110, 13.1.5)."""
    if if_range is None:
        return True
    if if_range.startswith('"'):
        return if_range == etag or extends(if_range)
    return modified is not None and parse_date(if_range) == modified
