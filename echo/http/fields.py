"""The grammar of header fields: ranges, entity tags, dates, Accept (RFC 9110). Pure."""

import functools
import re
import time
from typing import NamedTuple

MAX_SAFE_INTEGER = 2**53 - 1  # JavaScript's largest; clients send it for "no end" (RFC 8673)

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

RANGE_SET = re.compile(r"(?i:bytes)=[ \t,]*([0-9]*-[0-9]*)(?:[ \t]*,[ \t]*(?:[0-9]+-[0-9]*|-[0-9]+)?)*[ \t]*")
ENTITY_TAG = r'(?:W/)?"[!#-~\x80-\xff]*"'
ENTITY_TAGS = re.compile(rf"[ \t,]*{ENTITY_TAG}(?:[ \t]*,[ \t]*(?:{ENTITY_TAG})?)*[ \t]*")
QUALITY = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


class Range(NamedTuple):
    """One range of bytes: from `first` to `last`, or the last `suffix` bytes (RFC 9110, 14.1.2)."""

    first: int | None
    last: int | None
    suffix: int = 0
    live: str = ""  # the digits of a very large `last`: the client also wants bytes to come (RFC 8673)


@functools.lru_cache(maxsize=256)  # clients that poll repeat it
def parse_range(value: str) -> Range | None:
    """Return the range of a Range field, or None if it is malformed, of another unit, or has several ranges."""
    match = RANGE_SET.fullmatch(value)
    if not match or value.count("-") != 1 or match[1] == "-":
        return None
    first, _, last = match[1].partition("-")
    if not first:
        return Range(None, None, number(last))
    if last and number(last) < number(first):
        return None
    live = last if last and number(last) >= MAX_SAFE_INTEGER else ""
    return Range(number(first), number(last) if last else None, live=live)


def number(digits: str) -> int:
    """Return the value of digits; more than 18 of them all give 10**18, which is beyond any file."""
    return int(digits) if len(digits) <= 18 else 10**18


@functools.lru_cache(maxsize=256)
def parse_etags(value: str) -> tuple[str, ...]:
    """Return the entity tags of If-Match or If-None-Match unchanged, or "*"; an empty tuple if malformed."""
    if value == "*":
        return ("*",)
    return tuple(re.findall(ENTITY_TAG, value)) if ENTITY_TAGS.fullmatch(value) else ()


def parse_date(value: str | None) -> int | None:
    """Return Unix time in seconds from an HTTP date in any of its three formats, or None (RFC 9110, 5.6.7)."""
    if value is None:
        return None
    # Here, because few requests have a date.
    from datetime import UTC, datetime, timedelta
    from email.utils import parsedate_tz

    fields = parsedate_tz(value)
    if not fields or not re.search("[0-9]:[0-9]", value):
        return None
    try:
        return int((datetime(*fields[:6], tzinfo=UTC) - timedelta(seconds=fields[9] or 0)).timestamp())
    except (ValueError, OverflowError):
        return None


@functools.lru_cache(maxsize=4)
def format_date(seconds: int) -> str:
    """Return an HTTP date for a Unix time in seconds. (strftime depends on the locale.)"""
    year, month, day, hour, minute, second, weekday, *_ = time.gmtime(seconds)
    return f"{DAYS[weekday]}, {day:02} {MONTHS[month - 1]} {year:04} {hour:02}:{minute:02}:{second:02} GMT"


def best_match(accept: str | None, offers: tuple[str, ...]) -> str:
    """Return the media type that an Accept field prefers, by default the first (RFC 9110, 12.5.1).

    Parameters other than q are ignored. A media range with a malformed q is ignored.
    """
    if accept is None:
        return offers[0]
    qualities: dict[str, float] = {}
    for element in accept.lower().split(","):
        media, *parameters = (part.strip() for part in element.split(";"))
        weights = [parameter for parameter in parameters if parameter.startswith("q=")]
        match = QUALITY.fullmatch(weights[0]) if weights else None
        quality = 1.0 if not weights else float(match[1]) if match else 0.0
        qualities[media] = max(quality, qualities.get(media, 0.0))

    def quality_of(offer: str) -> float:
        ranges = (offer, f"{offer.partition('/')[0]}/*", "*/*")
        return next((qualities[media] for media in ranges if media in qualities), 0.0)

    return max(offers, key=quality_of)
