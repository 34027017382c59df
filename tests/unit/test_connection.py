"""The limits of a connection, on a fake transport and a fake clock."""

import pytest

from echo.http.connection import (
    BODY_SECONDS,
    HEAD_SECONDS,
    IDLE_SECONDS,
    LINGER_SECONDS,
    MAX_DISCARDED_BYTES,
    MAX_PIPELINED,
    Connection,
    Connections,
    State,
)
from echo.http.request import MAX_BODY_BYTES, MAX_FIELDS, MAX_HEAD_BYTES, MAX_TARGET_BYTES, BadRequest, Request
from echo.http.response import MAX_BUFFERED_BYTES, Response, Stream, Text
from support.fake_network import FakeLoop, FakeTransport

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LATE = 0.001  # seconds after a limit


class Never:
    """A body that never sends anything and never ends."""

    length = None

    def send(self, stream: Stream) -> bool:
        return False

    def close(self) -> None:
        """Do nothing."""


class Client:
    """A client with a connection on a fake transport."""

    def __init__(self, capacity: int = 2**40) -> None:
        self.asked: list[str] = []
        self.loop = FakeLoop()
        self.connections = Connections(self, self.loop, lambda line: None)
        self.connection = Connection(self.connections)
        self.transport = FakeTransport(self.loop, self.connection, capacity)

    def __call__(self, request: Request, client: str) -> Response:
        self.asked.append(request.path)
        return Response(200, [], Never() if request.path == "/never" else b"x" * 10)

    def refuse(self, client: str, error: BadRequest) -> Response:
        return Text(error.status, str(error))

    def send(self, data: bytes, run: bool = True) -> bytes:
        """Send bytes; return the first status in the answer, if there is one."""
        self.transport.feed(data)
        if run:
            self.loop.run()
        return bytes(self.transport.sent[9:12])

    def wait(self, seconds: float) -> State:
        self.loop.now += seconds
        self.connections.sweep()
        self.loop.run()
        return self.connection.state


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.mark.parametrize("beginning", [b"G", GET[:-2]])
def test_a_head_has_10_s_from_its_first_byte(client: Client, beginning: bytes) -> None:
    client.send(beginning)
    for byte in (b"X", b":", b"y"):
        assert client.wait(HEAD_SECONDS / 4) is State.HEAD
        client.send(byte)
    client.wait(HEAD_SECONDS / 4 + LATE)
    assert client.send(b"") == b"408"


def test_a_client_that_sends_nothing_has_10_s(client: Client) -> None:
    client.send(b"\r\n")  # which does not prolong it
    assert client.wait(HEAD_SECONDS - LATE) is State.NEW
    assert client.wait(2 * LATE) is State.CLOSING
    assert client.transport.sent == b""


def test_a_body_may_pause_for_10_s(client: Client) -> None:
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
    for _ in range(3):
        assert client.wait(BODY_SECONDS - LATE) is State.BODY
        client.send(b"x")
    client.wait(BODY_SECONDS + LATE)
    assert client.send(b"") == b"408"


def test_an_idle_connection_is_closed_after_30_s(client: Client) -> None:
    for _ in range(3):
        assert client.send(GET) == b"200"
        assert client.wait(IDLE_SECONDS - LATE) is State.IDLE
    assert client.wait(2 * LATE) is State.CLOSING


def test_a_client_that_does_not_close_is_cut_off(client: Client) -> None:
    client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert client.wait(LINGER_SECONDS - LATE) is State.CLOSING
    assert client.wait(2 * LATE) is State.CLOSED
    assert not client.connections.open


def test_what_comes_while_closing_is_thrown_away_up_to_1_mib(client: Client) -> None:
    client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    client.send(bytes(MAX_DISCARDED_BYTES))
    assert not client.transport.closed
    client.send(b"x")
    assert client.transport.closed
    assert len(client.asked) == 1


def test_16_requests_in_a_row_then_others_have_their_turn(client: Client) -> None:
    client.send(GET * (MAX_PIPELINED + 1), run=False)
    assert len(client.asked) == MAX_PIPELINED
    client.loop.run()
    assert len(client.asked) == MAX_PIPELINED + 1


def test_reading_pauses_at_16_kib_while_a_response_is_sent(client: Client) -> None:
    client.send(GET.replace(b"/ ", b"/never "))
    client.send(bytes(MAX_BUFFERED_BYTES))
    assert not client.transport.reading_paused
    client.send(b"x")
    assert client.transport.reading_paused
    assert client.wait(1000) is State.RESPONDING  # a response has no limit: the kernel ends one that is not taken


LIMITS = {
    "head": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", b"431"),
    "endless head": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * MAX_HEAD_BYTES, b"431"),
    "fields": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X:\r\n" * MAX_FIELDS + b"\r\n", b"431"),
    "most fields": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X:\r\n" * (MAX_FIELDS - 1) + b"\r\n", b"200"),
    "target": (b"GET /" + b"x" * MAX_TARGET_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414"),
    "longest target": (b"GET /" + b"x" * (MAX_TARGET_BYTES - 1) + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
    "endless target": (b"GET /" + b"x" * MAX_HEAD_BYTES, b"414"),
    "body": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), b"413"),
    "longest body": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n" + bytes(MAX_BODY_BYTES), b"200"),
    "chunks": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10001\r\n" + bytes(65537), b"413"),
}


@pytest.mark.parametrize(("request_", "status"), LIMITS.values(), ids=LIMITS)
def test_sizes_have_limits(client: Client, request_: bytes, status: bytes) -> None:
    assert client.send(request_)[:3] == status or client.send(b"\r\n0\r\n\r\n") == status
    assert client.connection.state is (State.IDLE if status == b"200" else State.CLOSING)


def test_the_next_request_waits_while_the_socket_is_full() -> None:
    client = Client(capacity=10)
    client.send(GET * 3)
    assert len(client.asked) == 1
    assert client.transport.reading_paused
    client.transport.take(2**20)
    client.loop.run()
    assert len(client.asked) == 3


def test_the_longest_idle_connections_make_room(client: Client) -> None:
    """New connections and those with a response in progress stay."""
    others = [Connection(client.connections) for _ in range(4)]
    for number, connection in enumerate(others):
        client.loop.now += 1
        transport = FakeTransport(client.loop, connection)
        transport.feed([b"", GET.replace(b"/ ", b"/never "), GET, GET][number])
    client.loop.run()
    client.connections.close_idle(1)
    client.loop.run()
    states = [connection.state for connection in others]
    assert states == [State.NEW, State.RESPONDING, State.CLOSED, State.IDLE]
