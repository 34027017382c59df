"""client.py SECONDS WORKERS URL...: every so many seconds GET the next URL, each time on a new connection.

So many workers share in it, so that one slow answer holds up no other. From the first answer on it prints every
failure, and now and then how many requests there were. It is a failure, too, when a segment's bytes are not
those that were served of it before: by the same replica, which adds to them, or by another, which may be behind.
"""

import functools
import http.client
import itertools
import socket
import sys
import threading
import time
import urllib.parse

every, workers = float(sys.argv[1]), int(sys.argv[2])
urls = [urllib.parse.urlsplit(url) for url in sys.argv[3:]]
turns = itertools.count()
begun = time.monotonic()
lock = threading.Lock()
served: dict[tuple[str, str], bytes] = {}  # by replica and segment
longest: dict[str, bytes] = {}  # by segment
requests, first, slowest = 0, 0.0, 0.0


@functools.cache  # a Service keeps its address; a lost packet to the name server costs 5 s
def resolve(host: str | None, port: int | None) -> str:
    """Raises OSError."""
    (_, _, _, _, (address, *_)), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return str(address)


def ask(address: str, url: urllib.parse.SplitResult) -> None:
    """Raises OSError, HTTPException or ValueError for what is a failure."""
    before = dict(served)
    connection = http.client.HTTPConnection(address, url.port, timeout=2)
    try:
        connection.request("GET", url._replace(scheme="", netloc="").geturl(), headers={"Host": url.netloc})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise ValueError(f"{response.status}: {body[:200]!r}")
    if not body.endswith(b"\n"):
        raise ValueError(f"not whole lines: {body[-200:]!r}")
    if etag := response.headers["ETag"]:
        segment = etag.strip('"').rpartition("-")[0]
        compare((response.headers["Via"] or url.netloc, segment), body, before)


def compare(key: tuple[str, str], body: bytes, before: dict[tuple[str, str], bytes]) -> None:
    replica, segment = key
    if not body.startswith(before.get(key, b"")):
        raise ValueError(f"{replica}: segment {segment} was {before[key]!r} and is {body!r}")
    with lock:
        short, long = sorted((longest.get(segment, b""), body), key=len)
        if not long.startswith(short):
            raise ValueError(f"{replica}: segment {segment} is {body!r} and elsewhere {longest[segment]!r}")
        longest[segment] = long
        served[key] = max(served.get(key, b""), body, key=len)


def account(took: float, error: Exception | None) -> None:
    global requests, first, slowest
    with lock:
        if not requests and error:
            return  # not there yet
        first = first or time.monotonic()
        requests += 1
        slowest = max(slowest, took)
        if error:
            print(f"failed: after {took:.3f} s: {error!r}", flush=True)
        if requests % 25 == 1:
            seconds = time.monotonic() - first
            print(f"requests: {requests} in {seconds:.1f} s, slowest {slowest:.3f} s", flush=True)


def work() -> None:
    while True:
        turn = next(turns)
        time.sleep(max(0, begun + turn * every - time.monotonic()))
        url, start, error = urls[turn % len(urls)], time.monotonic(), None
        try:
            address = resolve(url.hostname, url.port)
            start = time.monotonic()  # how long names take is the cluster's affair
            ask(address, url)
        except (OSError, ValueError, http.client.HTTPException) as raised:
            error = raised
        account(time.monotonic() - start, error)


for _ in range(workers):
    threading.Thread(target=work).start()
