"""client.py SECONDS WORKERS URL...: GET the next URL every SECONDS, each time on a new connection.

The workers share the requests, so that a slow answer does not delay the next request. From the first answer on, the
client prints every failure, and the number of requests from time to time.

Different bytes of a segment are a failure, too. A replica may only append to the bytes that it served before. Another
replica may be behind, but what it serves is the beginning of the same bytes.
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


@functools.cache  # cached, because a Service keeps its address, and a lost packet to the name server costs 5 s
def resolve(host: str | None, port: int | None) -> str:
    """Return the address of a host. Raises OSError."""
    (_, _, _, _, (address, *_)), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return str(address)


def ask(address: str, url: urllib.parse.SplitResult) -> None:
    """Send one request and check the answer. Raises OSError, HTTPException or ValueError for a failure."""
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
    """Compare a segment with what this and other replicas served before. Raises ValueError if bytes differ."""
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
    """Count a request, and print a failure."""
    global requests, first, slowest
    with lock:
        if not requests and error:
            return  # the first answer has not come yet
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
            start = time.monotonic()  # the time of a name lookup does not count
            ask(address, url)
        except (OSError, ValueError, http.client.HTTPException) as raised:
            error = raised
        account(time.monotonic() - start, error)


for _ in range(workers):
    threading.Thread(target=work).start()
