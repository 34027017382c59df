"""Requests for fuzzing: some valid, most damaged. The same seed gives the same requests."""

import random
import re
from collections.abc import Iterator

GOOD_LINES = [
    *("GET /data", "GET /data?tail=3", "GET /healthz", "GET /", "HEAD /data", "HEAD /data?follow", "GET http://x/data"),
    *("GET /nothing", "POST /data", "OPTIONS *", "GET /data?tail=x"),
]
METHODS = ["GET", "HEAD", "POST", "OPTIONS", "DELETE", "CONNECT", "TRACE", "FETCH", "get", "PRI", ""]
TARGETS = [
    *(
        "/data?tail=1&tail=2",
        "/data?",
        "*",
        "http://x",
        "http://u@x/",
        "https://[::1]:80/data",
        "/a#b",
        "/%00%ff",
        "//",
    ),
    *("/../x", "x:80", "/" + "x" * 9000, "/data?" + "x" * 9000, "", " ", "/\xff", "/a b"),
]
VERSIONS = ["HTTP/1.1"] * 30 + ["HTTP/1.0"] * 3 + ["HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1", "HTTP", ""]
ETAG, DATE = '"0123456789abcdef-6000"', "Sun, 06 Nov 1994 08:49:37 GMT"
VALUES = {
    "Host": ["x", "x:80", "[::1]", "", "x/y", "u@x", "x,y"],
    "Connection": ["close", "keep-alive", "Upgrade", "close, Upgrade", "x", ""],
    "Upgrade": ["h2c", "websocket", "TLS/1.0"],
    "Content-Length": ["0", "5", "34", "65536", "65537", "99999999999999999999", "-1", "+5", "x", "5, 5", ""],
    "Transfer-Encoding": ["chunked", "gzip, chunked", "chunked, gzip", "xchunked", "identity", "chunked, chunked", ""],
    "Expect": ["100-continue", "x", ""],
    "Range": ["bytes=0-4", "bytes=-0", "bytes=-5", "bytes=9-", "bytes=5-4", "bytes=0-4,", "bytes = 0-4", "x=1-2"],
    "If-Range": [ETAG, DATE, f"W/{ETAG}", "x", ""],
    "If-Match": ["*", ETAG, f'"x", {ETAG}', '"', ","],
    "If-None-Match": ["*", ETAG, f"W/{ETAG}", '"x"', '"', ","],
    "If-Modified-Since": [DATE, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "x", "0"],
    "If-Unmodified-Since": [DATE, "Thu, 01 Jan 1970 00:00:00 GMT", "x"],
    "Accept": ["text/html", "text/html;q=0", "*/*", "text/*;q=x", ";", ",", "text/plain;version=x"],
    "Authorization": ["Bearer x", "Basic", ""],
    "Last-Event-ID": ["5", "x", "\xff"],
    "X": ["y", "y" * 2000, "y" * 20_000, "\xff\x80", "a\tb", ""],
    "X ": ["y"],
    "": ["y"],
}
RARE = {"Host", "Content-Length", "Transfer-Encoding", "Expect", "X ", ""}  # what is seldom right
BODIES = [
    *(
        b"",
        b"12345",
        b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
        b"5\r\n12345\r\n0\r\n\r\n",
        b"5;x=y\r\n12345\r\n0\r\nX: y\r\n\r\n",
    ),
    *(
        b"0\r\n\r\n",
        b"zz\r\n",
        b"-1\r\n",
        b"ffffffffffffffffff\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"x" * 70_000,
        b"\x16\x03\x01" + bytes(40),
    ),
]
PIECES = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b"\xff",
    b"\r\n\r\n",
    b"HTTP/1.1",
    b"Host: y\r\n",
    b"GET ",
]


def request(random: random.Random) -> bytes:
    fields = [] if random.random() < 0.03 else [("Host", "x")]
    for _ in range(random.choice([0, 0, 1, 1, 2, 3])):
        name = random.choice(list(VALUES))
        if name not in RARE or random.random() < 0.2:
            fields.append((name, random.choice(VALUES[name])))
    if random.random() < 0.02:
        fields += [("a", "b")] * random.choice([90, 99, 100, 101, 5000])
    good = random.random() < 0.9
    target = random.choice(GOOD_LINES) if good else f"{random.choice(METHODS)} {random.choice(TARGETS)}"
    head = "\r\n".join([f"{target} {random.choice(VERSIONS)}", *(f"{name}: {value}" for name, value in fields), "", ""])
    body = b"" if random.random() < 0.6 else random.choice(BODIES)
    length = f"Content-Length: {len(body)}\r\n" if body and random.random() < 0.5 else ""
    return head.replace("\r\n", f"\r\n{length}", 1).encode("latin-1") + body


def damaged(random: random.Random, data: bytes) -> bytes:
    """Return the bytes with a few changed, removed, doubled or inserted."""
    start = random.randrange(len(data) + 1)
    stop = min(len(data), start + random.choice([0, 1, 1, 2, 8, 30]))
    piece = random.choice(
        [b"", random.randbytes(stop - start), data[start:stop] * 2, random.choice(PIECES), data[start:stop].swapcase()]
    )
    return data[:start] + piece + data[stop:]


def streams(seed: int) -> Iterator[tuple[bytes, int]]:
    """Yield without end what a connection sends, and the number of requests before the damage."""
    chance = random.Random(seed)
    while True:
        count = chance.choice([1, 1, 2, 3, 5])
        stream = b"".join(request(chance) for _ in range(count))
        for _ in range(chance.choice([0, 0, 0, 1, 1, 3])):
            stream = damaged(chance, stream)
        yield stream, count


def cut(random: random.Random, data: bytes, most: int) -> list[bytes]:
    """Cut the bytes into at most this many pieces."""
    places = sorted(random.randrange(len(data) + 1) for _ in range(random.randrange(1, most)))
    return [data[start:stop] for start, stop in zip([0, *places], [*places, len(data)], strict=True)]


def comparable(answered: bytes) -> bytes:
    """Remove what depends on timing: dates, interim responses, the reason of a refusal."""
    answered = re.sub(rb"(?i)\r\ndate: [^\r]*", b"", answered.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""))
    return re.sub(rb"(?s)(HTTP/1\.1 4\d\d )[^\r]*\r\n(?:(?!HTTP/1\.1).)*connection: close.*\Z", rb"\1", answered)


def statuses(answered: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", answered)]
