"""echo's HTTP, byte by byte over real connections: framing, limits, hostile clients."""

import contextlib
import re
import selectors
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import wait_until
from support.wire import Connection, Echo, allow_descriptors, connections, get, numbers, serving, wait_for_idle

WHOLE = numbers(1000)
ALIVE = get("/healthz")
LAST = get("/healthz", "Connection: close")
HEAD_SECONDS, BODY_SECONDS, IDLE_SECONDS = 10, 10, 30
KIB = 1024


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Echo]:
    """An echo whose file does not change."""
    data = tmp_path_factory.mktemp("static") / "data"
    data.write_bytes(WHOLE)
    with serving(data) as echo:
        yield echo
        assert echo.serves()


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data file of 100 MB."""
    path = tmp_path_factory.mktemp("large") / "data"
    block = numbers(100_000)
    with path.open("wb") as file:
        for _ in range(167):
            file.write(block)
    yield path
    path.unlink()


def refused(echo: Echo, request: bytes) -> int:
    """Return the status of the only response; echo closes the connection although more requests follow."""
    (response,) = echo.exchange(request + LAST)
    assert response.fields.get("connection") == "close"
    return response.status


# Upgrade is ignored


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.0"])
def test_the_body_behind_an_upgrade_is_no_request(echo: Echo, upgrade: str) -> None:
    body = get("/smuggled")
    head = get("/data", "Connection: Upgrade", f"Upgrade: {upgrade}", f"Content-Length: {len(body)}", method="POST")
    with echo.connect() as client:
        client.send(head)
        echo.catch_up()
        client.send(body + LAST)
        assert client.statuses() in ([405], [405, 200])


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_requests_behind_an_upgrade_are_answered(echo: Echo, method: str) -> None:
    with echo.connect() as client:
        client.send(get("/data?tail=1", "Connection: Upgrade", "Upgrade: h2c", method=method) + LAST)
        assert client.response(method).status == (405 if method == "POST" else 200)
        assert client.response().body == b"alive\n"


def test_what_follows_connect_is_no_tunnel(echo: Echo) -> None:
    with echo.connect() as client:
        client.send(b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n" + LAST)
        assert client.statuses() in ([405], [405, 200], [400], [501])


# Connections that would never end


@dataclass(frozen=True)
class Slow:
    """A client that stops sending, or sends one piece a second; and when it must be cut off."""

    begin: bytes
    drip: bytes
    seconds: int
    statuses: list[int]


POST = get("/data", "Content-Length: 10", method="POST")
CHUNKED = get("/data", "Transfer-Encoding: chunked", method="POST")
SLOW = {
    "nothing at all": Slow(b"", b"", HEAD_SECONDS, []),
    "a head's beginning": Slow(b"GET /data HT", b"", HEAD_SECONDS, [408]),
    "a head in drips": Slow(b"GET /data HTTP/1.1\r\nHost: x\r\nX: ", b"x", HEAD_SECONDS, [408]),
    "empty lines in drips": Slow(b"\r\n", b"\r\n", HEAD_SECONDS, []),
    "a second head's beginning": Slow(ALIVE + b"GET", b"", HEAD_SECONDS, [200, 408]),
    "a second head in drips": Slow(ALIVE + b"GET /data HTTP/1.1\r\nX: ", b"x", HEAD_SECONDS, [200, 408]),
    "an empty line after a response": Slow(ALIVE + b"\r\n", b"", IDLE_SECONDS, [200]),
    "empty lines after a response": Slow(ALIVE, b"\r\n", IDLE_SECONDS, [200]),
    "nothing after a response": Slow(ALIVE, b"", IDLE_SECONDS, [200]),
    "a byte of ten of a body": Slow(POST + b"1", b"", BODY_SECONDS, [408]),
    "a byte of ten of a body of GET": Slow(get("/healthz", "Content-Length: 10") + b"1", b"", BODY_SECONDS, [408]),
    "no byte of a body": Slow(POST, b"", BODY_SECONDS, [408]),
    "half a chunk": Slow(CHUNKED + b"8\r\nx", b"", BODY_SECONDS, [408]),
    "half a chunk's size": Slow(CHUNKED + b"8", b"", BODY_SECONDS, [408]),
    "a chunk extension": Slow(CHUNKED + b"8;x=", b"", BODY_SECONDS, [408]),
    "a chunk extension in drips": Slow(CHUNKED + b"8;x=", b"x", BODY_SECONDS, [408]),
    "a trailer": Slow(CHUNKED + b"0\r\nX: ", b"", BODY_SECONDS, [408]),
    "a trailer in drips": Slow(CHUNKED + b"0\r\nX: ", b"x", BODY_SECONDS, [408]),
}


@dataclass
class Patient:
    """A slow client: what it received, and after how many seconds it was cut off."""

    connection: Connection
    drip: bytes
    received: bytes = b""
    seconds: float = 0

    def read(self, began: float) -> bool:
        """Read what has arrived; return whether the connection has ended."""
        try:
            data = self.connection.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.received += data
        if not data:
            self.seconds = time.monotonic() - began
        return not data


def be_patient(clients: dict[str, Patient], within: float) -> None:
    """Run all slow clients at once until each has been cut off."""
    began = time.monotonic()
    next_drip = began + 1
    with selectors.DefaultSelector() as selector:
        for name, client in clients.items():
            client.connection.send(SLOW[name].begin)
            selector.register(client.connection.socket, selectors.EVENT_READ, client)
        while selector.get_map() and time.monotonic() - began < within:
            for key, _ in selector.select(max(0, next_drip - time.monotonic())):
                if key.data.read(began):
                    selector.unregister(key.fileobj)
            if time.monotonic() >= next_drip:
                next_drip += 1
                for key in selector.get_map().values():
                    key.data.connection.send(key.data.drip)


def test_slow_clients_are_cut_off_in_time(echo: Echo) -> None:
    with connections(echo, len(SLOW)) as opened:
        clients = {name: Patient(opened.pop(), slow.drip) for name, slow in SLOW.items()}
        be_patient(clients, IDLE_SECONDS + 5)
    wrong = {}
    for name, client in clients.items():
        slow = SLOW[name]
        statuses = [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d+) ", client.received, re.MULTILINE)]
        if statuses != slow.statuses or not slow.seconds - 1 < client.seconds < slow.seconds + 5:
            wrong[name] = f"{statuses} and cut off after {client.seconds:.1f} s" if client.seconds else "not cut off"
    assert not wrong, "\n".join(f"{name}: {what}" for name, what in wrong.items())


@pytest.mark.parametrize("target", ["/healthz", "/data", "/data?tail=3", "/status", "/data?tail=x", "/data?follow"])
def test_a_client_that_has_ended_its_side_is_answered_and_closed(echo: Echo, target: str) -> None:
    """For every kind of response; a follower counts as gone."""
    with echo.connect(timeout=5) as client:
        client.send(ALIVE + get(target))
        client.socket.shutdown(socket.SHUT_WR)
        received = client.reader.read()
        assert received.count(b"HTTP/1.1 ") == 2 or "follow" in target


# More connections than descriptors


@pytest.mark.parametrize(("limit", "follow"), [(64, 0), (256, 32), (1024, 128)])
def test_more_connections_than_descriptors_do_no_harm(tmp_path: Path, limit: int, follow: int) -> None:
    """Followers go on, and idle connections make room for a new client, without a busy loop."""
    data = tmp_path / "data"
    data.write_bytes(WHOLE)
    allow_descriptors(limit + 1000)
    with (
        serving(data, before=["prlimit", f"--nofile={limit}:{limit}"]) as echo,
        connections(echo, follow) as followers,
        connections(echo, limit + 200) as kept,
    ):
        for client in followers:
            client.send(get("/data?follow&tail=0"))
        for client in kept:
            client.send(ALIVE)
        assert [client.head()[0] for client in followers] == [200] * follow
        wait_for_idle(echo)
        statuses = [status_so_far(client) for client in kept]
        assert set(statuses) <= {200, 503, None}
        assert statuses.count(200) >= limit // 4
        wait_until(echo.serves)
        with data.open("ab") as file:
            file.write(b"11111\n")
        assert [client.chunk() for client in followers] == [b"11111\n"] * follow
        wait_for_idle(echo, 2)
        assert len(echo.program.lines) <= 3, echo.program.output[:2000]
        for client in (*kept, *followers):
            client.close()
        wait_until(lambda: echo.descriptors() < 30)
        assert echo.serves()


def status_so_far(client: Connection) -> int | None:
    """Return the status of the response so far, or None."""
    with contextlib.suppress(EOFError, ConnectionResetError):
        if client.readable():
            return client.response().status
    return None


# HTTP/1.0 and other versions


@pytest.mark.parametrize("field", [b"", b"Connection: keep-alive\r\n"])
def test_a_follower_of_http_1_0_gets_no_chunks(tmp_path: Path, field: bytes) -> None:
    """RFC 9112, section 6.1: the stream ends with the connection."""
    data = tmp_path / "data"
    data.write_bytes(b"1\n")
    with serving(data) as echo, echo.connect() as client:
        client.send(b"GET /data?follow HTTP/1.0\r\n" + field + b"\r\n")
        status, fields = client.head()
        assert (status, fields["connection"]) == (200, "close")
        assert not {"transfer-encoding", "content-length"} & fields.keys()
        assert client.line() == b"1\n"
        with data.open("ab") as file:
            file.write(b"2\n")
        assert client.line() == b"2\n"
        echo.program.signal(signal.SIGTERM)
        assert client.line() == b""
        assert echo.program.ended() == 0


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /healthz HTTP/1.2", 200),
        (b"GET /healthz HTTP/2.0", 505),
        (b"GET /healthz HTTP/3.0", 505),
        (b"GET /healthz HTTP/9.9", 505),
        (b"GET /healthz HTTP/0.9", 505),
        (b"GET /healthz", 400),
        (b"GET /healthz ", 400),
        (b"GET /healthz HTTP/1", 400),
        (b"GET /healthz HTTP/1.10", 400),
        (b"GET /healthz HTTP/1.1 x", 400),
        (b"GET /healthz http/1.1", 400),
        (b"PRI * HTTP/2.0", 505),
    ],
)
def test_http_1_is_the_version_that_is_spoken(echo: Echo, line: bytes, status: int) -> None:
    request = line + b"\r\nHost: x\r\n\r\n"
    if status == 200:
        assert [response.status for response in echo.exchange(request + LAST)] == [200, 200]
    else:
        assert refused(echo, request) == status


@pytest.mark.parametrize("method", ["FETCH", "get", "GETT", "X-1"])
def test_an_unknown_method_is_501(echo: Echo, method: str) -> None:
    assert refused(echo, get(method=method)) == 501


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE"])
def test_a_known_method_is_405_with_allow(echo: Echo, method: str) -> None:
    response, after = echo.exchange(get(method=method) + LAST)
    assert (response.status, after.status) == (405, 200)
    assert {"GET", "HEAD"} <= set(response.fields["allow"].split(", "))


# The Host field (RFC 9112, section 3.2) and the target


@pytest.mark.parametrize(
    "fields",
    [
        *("", "Host: x\r\nHost: x\r\n", "Host: x\r\nHost: y\r\n", "Host:\r\n", "Host: x/y\r\n", "Host: u@x\r\n"),
        *("Host: x,y\r\n", "Host: x y\r\n", "Host: x:y\r\n", "Host: [::1\r\n", "Host: x?y\r\n", "Host: x#y\r\n"),
    ],
)
def test_a_host_that_is_none_is_400(echo: Echo, fields: str) -> None:
    assert refused(echo, f"GET /healthz HTTP/1.1\r\n{fields}\r\n".encode()) == 400


@pytest.mark.parametrize("host", ["x", "x:80", "echo.example.", "127.0.0.1:8000", "[::1]:8000", "a_b"])
def test_a_host_is_a_name_or_an_address_with_or_without_port(echo: Echo, host: str) -> None:
    request = f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    (response,) = echo.exchange(request.encode())
    assert response.status == 200


def test_http_1_0_needs_no_host(echo: Echo) -> None:
    (response,) = echo.exchange(b"GET /data HTTP/1.0\r\n\r\n")
    assert (response.status, response.body) == (200, WHOLE)


@pytest.mark.parametrize("host", ["http://x", "http://x:80", "HTTP://[::1]", "http://y"])
@pytest.mark.parametrize(("path", "beginning"), [("/data?tail=1", WHOLE[-6:]), ("/", b"random"), ("", b"random")])
def test_a_target_with_scheme_and_host_is_served(echo: Echo, host: str, path: str, beginning: bytes) -> None:
    """RFC 9112, section 3.2.2: a different Host is ignored then."""
    response = echo.get(host + path)
    assert response.status == 200
    assert response.body.startswith(beginning)


@pytest.mark.parametrize("target", ["*", "/data#x", "/#", "http://x/data#x", "data", "x:80", "http://", "http:///data"])
def test_a_target_that_is_none_is_400(echo: Echo, target: str) -> None:
    assert refused(echo, get(target)) == 400


@pytest.mark.parametrize("target", ["*", "/data", "/healthz"])
def test_options_says_what_is_allowed(echo: Echo, target: str) -> None:
    response, after = echo.exchange(get(target, method="OPTIONS") + LAST)
    assert response.status in (200, 204)
    assert response.body == b""
    assert {"GET", "HEAD"} <= set(response.fields["allow"].split(", "))
    assert after.status == 200


# Ranges


def test_the_last_0_bytes_are_416(echo: Echo) -> None:
    """RFC 9110, section 14.1.2: a suffix of length 0 cannot be satisfied."""
    response = echo.get("/data", "Range: bytes=-0")
    assert response.status == 416
    assert response.fields["content-range"] == f"bytes */{len(WHOLE)}"


@pytest.mark.parametrize(
    "range", ["bytes = 0-4", "bytes=0 - 4", "bytes =0-4", "bytes=0- 4", "bytes=+0-4", "bytes=0-\xb2"]
)
def test_what_is_no_range_is_ignored(echo: Echo, range: str) -> None:
    response = echo.get("/data", f"Range: {range}")
    assert (response.status, response.body) == (200, WHOLE)


@pytest.mark.parametrize("range", ["bytes=0-4,", "bytes=,0-4", "bytes=0-4 , ,", "Bytes=0-4"])
def test_a_list_of_ranges_may_have_empty_elements(echo: Echo, range: str) -> None:
    """RFC 9110, section 5.6.1.2; and units are compared without case (section 14.1)."""
    response = echo.get("/data", f"Range: {range}")
    assert (response.status, response.body) == (206, WHOLE[:5])


# The head's limits


def fields(count: int, text: str = "X: y") -> list[str]:
    return [text] * count


HEADS = {
    "200 KB in one field": (get("/healthz", f"X: {'x' * 200_000}"), 431),
    "200 KB in many fields": (get("/healthz", *fields(99, f"X: {'x' * 2000}")), 431),
    "17 KiB": (get("/healthz", *fields(17, f"X: {'x' * KIB}")), 431),
    "15 KiB": (get("/healthz", *fields(15, f"X: {'x' * (KIB - 5)}")), 200),
    "101 fields": (get("/healthz", *fields(100)), 431),
    "100 fields": (get("/healthz", *fields(99)), 200),
    "40,000 fields": (get("/healthz", *fields(40_000)), 431),
    "a target of 8,000 bytes": (get("/" + "x" * 7999), 404),
    "a target of 9,000 bytes": (get("/" + "x" * 8999), 414),
    "a target of 100,000 bytes": (get("/" + "x" * 99_999), 414),
    "a target without end": (b"GET /" + b"x" * 100_000, 414),
    "a field without end": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000, 431),
}


@pytest.mark.parametrize(("request_", "status"), HEADS.values(), ids=HEADS)
def test_a_head_has_its_limits(echo: Echo, request_: bytes, status: int) -> None:
    if status in (431, 414):
        assert refused(echo, request_) == status
    else:
        assert [response.status for response in echo.exchange(request_ + LAST)] == [status, 200]


def test_many_small_fields_cost_little_time(echo: Echo) -> None:
    """A join for each field would be quadratic."""
    before = echo.cpu_seconds()
    for _ in range(20):
        echo.exchange(get("/data", *fields(40_000, "a:1")))
    assert echo.cpu_seconds() - before < 1


# Bodies of requests


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("expect", ["X: y", "Expect: 100-continue"])
def test_a_body_is_read_and_thrown_away(echo: Echo, method: str, expect: str) -> None:
    body = get("/smuggled") * 100
    chunks = b"%x;x=y\r\n%s\r\n0\r\nX: y\r\n\r\n" % (len(body), body)
    for framing, content in ((f"Content-Length: {len(body)}", body), ("Transfer-Encoding: chunked", chunks)):
        with echo.connect() as client:
            client.send(get("/healthz", framing, expect, method=method) + content + LAST)
            responses = [client.response(method)]
            if responses[0].status == 100:
                responses = [client.response(method)]
            responses += client.responses()
            assert [response.status for response in responses] == [200, 200]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_who_expects_100_is_answered_before_the_body(echo: Echo, method: str) -> None:
    with echo.connect() as client:
        client.send(get("/healthz", "Content-Length: 5", "Expect: 100-continue", method=method))
        response = client.response(method)
        final = 200 if method == "GET" else 405
        assert response.status in (100, final)
        if response.status == 100 or response.fields.get("connection") != "close":
            client.send(b"12345" + LAST)
            expected = [200] if response.status == final else [final, 200]
            assert client.statuses() == expected


def test_a_body_of_more_than_64_kib_is_413(echo: Echo) -> None:
    assert [r.status for r in echo.exchange(get("/healthz", "Content-Length: 65536") + b"x" * 65536 + LAST)] == [
        200,
        200,
    ]
    assert refused(echo, get("/healthz", "Content-Length: 65537")) == 413
    assert refused(echo, get("/healthz", "Content-Length: 65537", "Expect: 100-continue")) == 413
    assert refused(echo, get("/healthz", f"Content-Length: {2**64 - 1}")) in (400, 413)
    assert refused(echo, get("/healthz", f"Content-Length: {10**30}")) in (400, 413)


@pytest.mark.parametrize("chunk", [b"1000\r\n" + b"x" * 4096 + b"\r\n", b"1;" + b"x" * 1000 + b"\r\nx\r\n"])
def test_chunks_without_end_are_cut_off(echo: Echo, chunk: bytes) -> None:
    """Chunk extensions count too."""
    with echo.connect() as client:
        client.send(get("/healthz", "Transfer-Encoding: chunked") + chunk * 1000 + b"0\r\n\r\n" + LAST)
        assert client.statuses() in ([413], [200], [])


MALFORMED = {
    "both length and chunks": "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both chunks and length": "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": "Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
    "a length with a sign": "Content-Length: +5\r\n\r\n12345",
    "a length that is none": "Content-Length: x\r\n\r\n",
    "a space before the colon": "X : y\r\n\r\n",
    "a space in a name": "X y: z\r\n\r\n",
    "no colon": "X\r\n\r\n",
    "no name": ": x\r\n\r\n",
    "a folded line": "X: y\r\n z\r\n\r\n",
    "a zero in a value": "X: y\0z\r\n\r\n",
    "a bare CR in a value": "X: y\rz\r\n\r\n",
    "a bare LF": "X: y\n\r\n",
}


@pytest.mark.parametrize("rest", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_head_is_400(echo: Echo, rest: str) -> None:
    assert refused(echo, f"GET /healthz HTTP/1.1\r\nHost: x\r\n{rest}".encode()) == 400


@pytest.mark.parametrize(
    "chunk", [b"zz\r\n", b"-1\r\n", b"0x1\r\nx\r\n", b"1\r\nxy", b"ffffffffffffffffff\r\n", b"1 \r\nx\r\n"]
)
def test_a_malformed_chunk_ends_the_connection(echo: Echo, chunk: bytes) -> None:
    """The bytes after it are not parsed as a request."""
    statuses = [r.status for r in echo.exchange(get("/healthz", "Transfer-Encoding: chunked") + chunk + LAST)]
    assert statuses in ([400], [413], [200], [200, 400])


@pytest.mark.parametrize("coding", ["gzip, chunked", "chunked, gzip", "xchunked", "chunked, chunked", "identity", ""])
def test_a_transfer_coding_other_than_chunked_is_400_or_501(echo: Echo, coding: str) -> None:
    """RFC 9112: 501 for an unknown coding (6.1), 400 if chunked is not the last one (6.3)."""
    assert refused(echo, get("/healthz", f"Transfer-Encoding: {coding}") + b"0\r\n\r\n") in (400, 501)


# Pipelined requests


@pytest.mark.parametrize("count", [16, 500])
def test_pipelined_requests_are_answered_in_order(echo: Echo, count: int) -> None:
    with echo.connect() as client:
        asked = b"".join(get("/data", f"Range: bytes={n}-{n + 9}") for n in range(count))
        client.socket.setblocking(False)
        sent = client.socket.send(asked)  # as much as it takes, before anything is read
        client.socket.settimeout(20)
        for n in range(count):
            if n == min(count, 16) - 1:
                client.send(asked[sent:])
            assert client.response().body == WHOLE[n : n + 10]


def test_who_only_asks_and_never_reads_is_not_read_from_for_ever(echo: Echo) -> None:
    before = echo.rss()
    with echo.connect() as client:
        client.socket.settimeout(1)
        with pytest.raises(TimeoutError):
            for _ in range(1000):
                client.socket.sendall(get() * 1000)
        assert echo.rss() - before < 2**20


# Found in passing


def test_metrics_for_a_version_that_is_none_are_served(echo: Echo) -> None:
    for accept in (
        "text/plain;version=x",
        "text/plain;version=",
        "application/openmetrics-text;version=x;q=x",
        ";",
        ",",
    ):
        response = echo.get("/metrics", f"Accept: {accept}")
        assert response.status == 200
        assert b"echo_" in response.body


# Memory


@pytest.mark.parametrize("target", ["/data", "/data?follow", "/data?tail=1000000", "/data?follow&sse"])
def test_a_stalled_reader_costs_32_kib(large_file: Path, target: str) -> None:
    """300 clients read nothing and then little, whatever they asked for."""
    count = 300
    allow_descriptors(2 * count)
    with serving(large_file, "--stall-timeout", "60") as echo:
        request = get(target.replace("&sse", ""), "Accept: text/event-stream" if "sse" in target else "Accept: */*")
        echo.get("/data?tail=10")
        with connections(echo, 1) as (first,):
            first.send(request)
            first.exactly(1000)
        wait_for_idle(echo)
        before = echo.rss()
        with connections(echo, count) as clients:
            for client in clients:
                client.send(request)
            for _ in range(3):
                for client in clients:
                    client.exactly(1000)
                wait_for_idle(echo)
                assert (echo.rss() - before) / count < 48 * KIB
        wait_until(lambda: echo.descriptors() < 30)
