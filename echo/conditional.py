"""Which part of a growing file a request is to get: preconditions and ranges of RFC 9110. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

CONDITIONS = ("if-match", "if-unmodified-since", "if-none-match", "if-modified-since", "range")


@dataclass(frozen=True)
class Part:
    """A status, and the bytes from `start` up to `stop` that go with it."""

    status: int
    start: int
    stop: int


def select(headers: Mapping[str, str], generation: str, size: int, modified: datetime | None) -> Part:
    """What to answer to a GET or HEAD with these headers (names in lower case).

    `generation` and `size` make the ETag; `modified` is what Last-Modified says, if it says anything.
    Status 200, 206, 304, 412 or 416 (RFC 9110, 13.2.2 and 14.2).
    """
    if not any(name in headers for name in CONDITIONS):
        return Part(200, 0, size)
    from werkzeug import http  # here, for it takes longer to load than all of echo

    etag = f"{generation}-{size}"
    if "if-match" in headers:
        if etag not in http.parse_etags(headers["if-match"]):
            return Part(412, 0, 0)
    elif modified and (date := http.parse_date(headers.get("if-unmodified-since"))) and modified > date:
        return Part(412, 0, 0)
    if "if-none-match" in headers:
        if http.parse_etags(headers["if-none-match"]).contains_weak(etag):
            return Part(304, 0, 0)
    elif modified and (date := http.parse_date(headers.get("if-modified-since"))) and modified <= date:
        return Part(304, 0, 0)
    asked = http.parse_range_header(headers.get("range"))
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1:
        return Part(200, 0, size)  # malformed, unknown or several: ignored, as RFC 9110, 14.2 allows
    if "if-range" in headers and not same_prefix(headers["if-range"], generation, size, modified):
        return Part(200, 0, size)
    start, stop = asked.ranges[0]
    if start < 0:
        start, stop = max(0, size + start), size
    if start >= size:
        return Part(416, 0, 0)
    return Part(206, start, size if stop is None else min(stop, size))


def same_prefix(if_range: str, generation: str, size: int, modified: datetime | None) -> bool:
    """Whether a client that has the beginning of what `if_range` names may go on with the rest.

    Also with an older ETag of the generation: what is only ever appended to keeps its prefix, so
    that a growing file can be resumed. Weak ETags never match (RFC 9110, 13.1.5).
    """
    from werkzeug import http

    validator = http.parse_if_range_header(if_range)
    if validator.date is not None:
        return validator.date == modified
    if validator.etag is None or if_range.lstrip().startswith("W/"):
        return False
    name, _, length = validator.etag.rpartition("-")
    return name == generation and length.isascii() and length.isdecimal() and len(length) < 20 and int(length) <= size
