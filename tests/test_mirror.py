"""An echo that mirrors another over HTTP: the same bytes under the same names, whatever happens to the source."""

import contextlib
import http.server
import itertools
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from echo.endpoints.follow import EVENTS as EVENT_FORMAT
from echo.endpoints.follow import LINES as LINES_OF_TEXT
from echo.endpoints.follow import Position
from echo.mirror import LONGEST_PAUSE, OVERLAP, SHORTEST_PAUSE, Mirror, pause
from echo.numbers import are_numbers
from echo.settings import parse
from echo.spool import Spool, Writer
from echo.upstream import Event, Events, Refused
from support import alike, free_port, running, wait_until
from test_echo import MEGABYTES, Echo, append, numbers, refusal, replace, serving
from test_follow import EVENTS, Stream, rewrite, rotate

# Pure parts


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_a_pause_is_from_a_tenth_to_five_seconds_and_longer_after_more_failures(failures: int, where: float) -> None:
    def chance(low: float, high: float) -> float:
        return low + (high - low) * where

    assert SHORTEST_PAUSE <= pause(failures, chance) <= LONGEST_PAUSE
    assert pause(failures, chance) <= pause(failures + 1, chance)
    assert pause(0, chance) == SHORTEST_PAUSE
    assert pause(100, lambda low, high: high) == LONGEST_PAUSE


LINES = st.lists(st.integers(-(10**18), 10**18).map(lambda number: b"%d\n" % number)).map(b"".join)


@given(LINES, st.integers(0, 100), st.integers(0, 100))
def test_any_part_of_a_file_of_numbers_is_believed(lines: bytes, start: int, length: int) -> None:
    assert are_numbers(lines[start : start + length], lines[start - 1 : start] if start else b"\n")


@given(st.lists(st.sampled_from([b"-", b"\n", b"0", b"17", b"9" * 20])).map(b"".join), st.integers(0, 100))
def test_only_what_can_be_the_beginning_of_such_a_file_is_believed_in_whatever_pieces(data: bytes, cut: int) -> None:
    proper = bool(re.fullmatch(rb"(-?[0-9]+\n)*(-?[0-9]*)?", data))
    first, rest = data[:cut], data[cut:]
    assert are_numbers(data) == proper
    assert (are_numbers(first) and are_numbers(rest, first[-1:] or b"\n")) == proper


@given(LINES, st.binary(min_size=1).filter(lambda block: block.translate(None, b"0123456789-\n")), LINES)
def test_no_other_byte_is_believed(before: bytes, other: bytes, after: bytes) -> None:
    assert not are_numbers(before + other + after)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9))), st.lists(st.integers(0, 2000)))
def test_events_are_the_same_in_whatever_pieces_they_come(events: list[tuple[int, int]], cuts: list[int]) -> None:
    stream = b"retry: 1000\n\n:\n\n" + b"".join(b"id: x-%d\ndata: %d\n\n" % event for event in events)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    parser = Events()
    got = [event for start, stop in itertools.pairwise(places) for event in parser.feed(stream[start:stop])]
    assert got == [Event("message", f"x-{offset}", str(number)) for offset, number in events]


def test_an_event_without_end_is_refused() -> None:
    parser = Events()
    with pytest.raises(Refused):
        for _ in range(100):
            list(parser.feed(b"x" * 100))


# With real echos


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


@pytest.fixture
def source(data: Path) -> Iterator[Echo]:
    data.write_bytes(b"10\n20\n30\n")
    with serving(data, "--stale", "0") as echo:
        yield echo


@contextlib.contextmanager
def mirroring(url: str, *flags: str, at: str = "127.0.0.1:0") -> Iterator[Echo]:
    command = [sys.executable, "-m", "echo", "--source", url, "--listen", at, "--stale", "0", *flags]
    with running(command) as program:
        yield Echo(program, int(program.said("^serving .* on https?://.*:([0-9]+)/data$")[1]))


def same(mirror: Echo, source: Echo) -> None:
    """Wait until bytes, ETag and positions are those of the source."""

    def is_so() -> bool:
        there, here = source.get(), mirror.get()
        assert here.status_code == 200, here.text
        alike(here.content, there.content)
        assert here.headers["etag"] == there.headers["etag"]
        return True

    wait_until(is_so)


@contextlib.contextmanager
def coupled(data: Path) -> Iterator[tuple[contextlib.ExitStack, Echo, Echo]]:
    """A source, which can be started again, and a mirror that has what it has; and what more programs are put into."""
    with contextlib.ExitStack() as programs:
        source = programs.enter_context(serving(data, "--stale", "0"))
        mirror = programs.enter_context(mirroring(f"{source.url}/data"))
        same(mirror, source)
        yield programs, source, mirror


def restarted(source: Echo, data: Path) -> contextlib.AbstractContextManager[Echo]:
    """At the address where it was."""
    return serving(data, "--stale", "0", at=f"127.0.0.1:{source.port}")


def report(echo: Echo) -> dict[str, object]:
    answer: dict[str, object] = echo.get("/status").json()["mirror"]
    return answer


def test_a_mirror_serves_the_same_bytes_under_the_same_names(source: Echo, data: Path) -> None:
    with mirroring(f"{source.url}/data") as mirror:
        same(mirror, source)
        append(data, b"40\n50\n")
        same(mirror, source)
        with Stream(source.url, "", EVENTS) as there, Stream(mirror.url, "", EVENTS) as here:
            append(data, b"60\n")
            wait_until(lambda: len(here.events()) == 6 and here.events() == there.events())
        etag = source.get().headers["etag"]
        ranged = mirror.get("/data", Range="bytes=3-", If_Range=etag)
        assert (ranged.status_code, ranged.content) == (206, b"20\n30\n40\n50\n60\n")


def test_a_chain_of_mirrors_works_and_says_what_it_came_through(source: Echo, data: Path) -> None:
    with mirroring(f"{source.url}/data") as first, mirroring(f"{first.url}/data") as second:
        append(data, b"40\n")
        same(second, source)
        assert "via" not in source.get().headers
        assert second.get().headers["via"].startswith(first.get().headers["via"])
        assert second.get().headers["via"].count("1.1 ") == 2


def test_a_loop_is_refused_in_words() -> None:
    ports = free_port(), free_port()
    with (
        mirroring(f"http://127.0.0.1:{ports[0]}/data", at=f"127.0.0.1:{ports[1]}") as one,
        mirroring(f"http://127.0.0.1:{ports[1]}/data", at=f"127.0.0.1:{ports[0]}") as other,
    ):
        for echo in (one, other):
            echo.program.said("is a loop: it mirrors this echo, by way of")
            assert echo.get().status_code == 503
    with mirroring(f"http://127.0.0.1:{ports[0]}/data", at=f"127.0.0.1:{ports[0]}") as itself:
        itself.program.said("is a loop")


def test_a_client_moves_between_replicas_without_missing_a_number(source: Echo, data: Path) -> None:
    with mirroring(f"{source.url}/data") as one, mirroring(f"{source.url}/data") as other:
        seen: list[str] = []
        last = ""
        for turn in range(6):
            append(data, b"%d\n" % turn)
            headers = {**EVENTS, "Last-Event-ID": last} if last else EVENTS
            same(one, source)
            with Stream((one, other)[turn % 2].url, "", headers) as stream:
                wait_until(lambda: len(seen) + len(stream.numbers()) == turn + 4)  # noqa: B023
                seen += stream.numbers()
                last = stream.events()[-1][1]
        assert seen == data.read_text().split()


@pytest.mark.parametrize("turn", [rotate, replace])
def test_the_next_generation_is_begun_when_the_source_has_one(
    source: Echo, data: Path, turn: Callable[[Path, bytes], None]
) -> None:
    """And what the last one got in its last moment is not lost."""
    with mirroring(f"{source.url}/data") as mirror:
        same(mirror, source)
        wait_until(lambda: source.get("/status").json()["followers"] == 1)
        with Stream(mirror.url) as stream:
            append(data, b"40\n")
            turn(data, b"50\n60\n")
            stream.has(b"10\n20\n30\n40\n50\n60\n")
        same(mirror, source)


def test_it_serves_on_while_the_source_is_away_and_says_since_when(data: Path) -> None:
    """And goes on where it was, each number once, when the source is back."""
    data.write_bytes(b"10\n")
    with coupled(data) as (programs, first, mirror):
        stream = programs.enter_context(Stream(mirror.url))
        first.kill()
        mirror.program.said("trying again")
        wait_until(lambda: report(mirror)["unreachable_since"] is not None)
        assert mirror.get().content == b"10\n"
        assert report(mirror)["behind"] is None
        ready = mirror.get("/readyz")
        assert (ready.status_code, "since" in ready.text) == (200, True)
        append(data, b"20\n")
        again = programs.enter_context(restarted(first, data))
        stream.has(b"10\n20\n")
        same(mirror, again)
        wait_until(lambda: report(mirror)["unreachable_since"] is None)
        assert mirror.program.output.count("Connection refused; trying again") <= 1  # said once, however often tried


def test_a_rotation_while_the_link_was_cut_loses_nothing(data: Path) -> None:
    data.write_bytes(b"10\n")
    with coupled(data) as (programs, first, mirror):
        stream = programs.enter_context(Stream(mirror.url))
        first.kill()
        append(data, b"20\n")
        rotate(data, b"30\n")
        again = programs.enter_context(restarted(first, data))
        stream.has(b"10\n20\n30\n")
        same(mirror, again)


def test_a_source_that_is_silent_is_left(data: Path) -> None:
    """It is stopped, so that its connections stay open. It counts as away since it was heard last."""
    data.write_bytes(b"10\n")
    with serving(data, "--stale", "0") as source, mirroring(f"{source.url}/data") as mirror:
        same(mirror, source)
        source.program.signal(signal.SIGSTOP)
        stopped = datetime.now(UTC)
        mirror.program.said("does not answer; trying again", within=20)
        assert datetime.fromisoformat(str(report(mirror)["unreachable_since"])) <= stopped
        assert mirror.get().content == b"10\n"
        source.program.signal(signal.SIGCONT)
        append(data, b"20\n")
        same(mirror, source)


def test_stale_is_said_of_a_mirror_too(source: Echo, data: Path) -> None:
    with mirroring(f"{source.url}/data", "--stale", "1") as mirror:
        wait_until(lambda: mirror.get().status_code == 200)
        wait_until(lambda: mirror.get("/readyz").status_code == 503)
        assert "stale" in mirror.get("/readyz").text
        append(data, b"40\n")
        wait_until(lambda: mirror.get("/readyz").status_code == 200)


def test_what_the_source_has_lost_is_said_by_the_mirror_too(data: Path) -> None:
    """Two rotations while the link was cut: of the one in between there is nothing left."""
    data.write_bytes(b"10\n20\n")
    with coupled(data) as (programs, first, mirror):
        events = programs.enter_context(Stream(mirror.url, "", EVENTS))
        text = programs.enter_context(Stream(mirror.url))
        text.has(b"10\n20\n")
        first.kill()
        append(data, b"30\n")
        rotate(data, b"40\n")
        rotate(data, b"50\n")
        programs.enter_context(restarted(first, data))
        wait_until(lambda: events.numbers() == ["10", "20", "50"])
        assert [kind for kind, _, _ in events.events()] == ["message", "message", "gone", "message"]
        assert not text.ended()  # cleanly, for it has no way to say it


def test_a_source_that_returns_to_an_older_generation_is_followed(data: Path, tmp_path: Path) -> None:
    """As when its address leads to another replica, which is behind."""
    data.write_bytes(b"10\n")
    with coupled(data) as (programs, first, mirror):
        older = tmp_path / "older"
        data.rename(older)
        data.write_bytes(b"20\n")
        same(mirror, first)
        first.kill()
        os.replace(older, data)
        os.utime(data, (1e9, 1e9))
        again = programs.enter_context(restarted(first, data))
        same(mirror, again)
        assert mirror.get().headers["last-modified"] == again.get().headers["last-modified"]
        append(data, b"30\n")
        same(mirror, again)
        assert mirror.program.process.poll() is None


class Relay:
    """Passes connections on to a port.

    What those of now send back can be held, or they be cut; new ones can be refused, go to other ports, or break off.
    What is sent there can be changed; it is dropped with its connection if nothing of it is left.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.others: list[int] = []  # ports of the next ones
        self.refuses = False
        self.most: int | None = None  # bytes that each sends back
        self.resets = True  # after those; or closes as at the end
        self.edit: Callable[[bytes], bytes] = lambda data: data
        self.clients: list[socket.socket] = []
        self.gates: list[threading.Event] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/data"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *exc: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.release()

    def hold(self) -> None:
        for gate in self.gates:
            gate.clear()

    def release(self) -> None:
        for gate in self.gates:
            gate.set()

    def cut(self) -> None:
        for client in self.clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.clients.append(client)
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        gate = threading.Event()
        gate.set()
        self.gates.append(gate)
        with contextlib.suppress(OSError), client:
            if self.refuses:
                return
            with socket.create_connection(("127.0.0.1", self.others.pop(0) if self.others else self.target)) as server:
                back = threading.Thread(target=self._pump, args=(server, client, gate), daemon=True)
                back.start()
                self._pump(client, server, None)
                back.join()

    def _pump(self, source: socket.socket, target: socket.socket, gate: threading.Event | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if gate:
                    gate.wait()
                    passed += len(data)
                    if self.most and passed > self.most:
                        target.sendall(data[: self.most - passed])
                        if not self.resets:
                            source.shutdown(socket.SHUT_RDWR)
                            break
                        target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
                        target.shutdown(socket.SHUT_RD)  # which ends the other direction, and closes it
                        return
                elif not (data := self.edit(data)):
                    break
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("turn", [rotate, replace])
@pytest.mark.parametrize("chain", [False, True], ids=["mirror", "mirror of a mirror"])
def test_who_comes_with_a_generation_that_is_yet_to_come_waits_for_it(
    source: Echo, data: Path, turn: Callable[[Path, bytes], None], chain: bool
) -> None:
    """As from another replica, which is ahead: it has no number twice, and misses none."""
    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(Relay(source.port))
        mirror = stack.enter_context(mirroring(relay.url))
        if chain:
            mirror = stack.enter_context(mirroring(f"{mirror.url}/data"))
        same(mirror, source)
        relay.hold()
        turn(data, b"40\n50\n")
        wait_until(lambda: source.get().content == b"40\n50\n")
        ahead = source.get().headers["etag"].strip('"').partition("-")[0]
        events = stack.enter_context(Stream(mirror.url, "", {**EVENTS, "Last-Event-ID": f"{ahead}-3"}))
        text = stack.enter_context(Stream(mirror.url, f"&last-event-id={ahead}-3"))
        wait_until(lambda: mirror.get("/status").json()["followers"] == 2)
        assert mirror.get().content == b"10\n20\n30\n"
        relay.release()
        text.has(b"50\n")
        wait_until(lambda: events.events() == [("message", f"{ahead}-6", "50")])
        append(data, b"60\n")
        text.has(b"50\n60\n")
        wait_until(lambda: events.numbers() == ["50", "60"])


def test_a_source_of_which_one_replica_is_behind_is_gone_on_with(source: Echo, data: Path, tmp_path: Path) -> None:
    """One that says that a generation is gone, while the next has it: what comes after it is not told to be lost."""
    late = tmp_path / "late"
    late.mkdir()
    (late / "data").write_bytes(b"5\n")
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(serving(late / "data", "--stale", "0"))
        relay = stack.enter_context(Relay(source.port))
        mirror = stack.enter_context(mirroring(relay.url))
        same(mirror, source)
        stream = stack.enter_context(Stream(mirror.url))
        stream.has(b"10\n20\n30\n")
        relay.others += [other.port] * 2
        relay.cut()
        mirror.program.said(
            "it said that this generation is gone, and has it: as of replicas that differ; trying again"
        )
        wait_until(lambda: source.get("/status").json()["followers"] == 1)
        replace(data, b"40\n")
        stream.has(b"10\n20\n30\n40\n")
        same(mirror, source)


def test_through_a_proxy_that_drops_ranges_it_goes_on_where_it_was(source: Echo, data: Path) -> None:
    replace(data, numbers(10_000))
    with Relay(source.port) as relay:
        relay.edit = lambda data: data.replace(b"\r\nRange:", b"\r\nX-Range:")
        with mirroring(relay.url) as mirror:
            same(mirror, source)
            with Stream(mirror.url, "&tail=0") as stream:
                wait_until(lambda: source.get("/status").json()["followers"] == 1)
                relay.cut()
                append(data, b"7\n")
                stream.has(b"7\n")
            same(mirror, source)


def test_through_a_proxy_that_drops_ranges_much_that_comes_is_no_reason_to_ask_for_all_of_it(
    source: Echo, data: Path
) -> None:
    replace(data, numbers(10_000))
    with Relay(source.port) as relay:
        relay.edit = lambda data: data.replace(b"\r\nRange:", b"\r\nX-Range:")
        with mirroring(relay.url) as mirror:
            same(mirror, source)
            relay.cut()
            append(data, b"7\n")
            same(mirror, source)
            wait_until(lambda: source.get("/status").json()["followers"] == 1)
            connections = len(relay.clients)
            for _ in range(3):
                append(data, numbers(30_000))
                same(mirror, source)
            assert len(relay.clients) == connections


@pytest.mark.parametrize("line", [b"77777\n", b"7777777\n"], ids=["at a line", "inside a line"])
@pytest.mark.parametrize("same_lines", [1, 250_000])
def test_through_a_proxy_that_drops_ranges_nothing_is_mixed(data: Path, line: bytes, same_lines: int) -> None:
    """The file is filled anew while its echo is down; the mirror's end is at a line's end, or not."""
    data.write_bytes(numbers(300_000))
    with serving(data, "--stale", "0") as first, Relay(first.port) as relay:
        relay.edit = lambda data: data.replace(b"\r\nRange:", b"\r\nX-Range:")
        with mirroring(relay.url) as mirror:
            same(mirror, first)
            name = generation(first)
            first.kill()
            rewrite(data, numbers(same_lines) + line * 300_000)
            with restarted(first, data) as again:
                same(mirror, again)
                append(data, line)
                same(mirror, again)
                assert generation(mirror) == name


def test_through_a_proxy_that_drops_ranges_it_returns_to_an_older_generation(data: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    data.write_bytes(numbers(10_000))
    with serving(data, "--stale", "0") as first, Relay(first.port) as relay:
        relay.edit = lambda data: data.replace(b"\r\nRange:", b"\r\nX-Range:")
        with mirroring(relay.url) as mirror:
            same(mirror, first)
            data.rename(older)
            data.write_bytes(b"20\n")
            same(mirror, first)
            first.kill()
            older.replace(data)
            with restarted(first, data) as again:
                same(mirror, again)


def test_a_connection_that_breaks_off_again_and_again_brings_it_further(source: Echo, data: Path) -> None:
    replace(data, numbers(300_000))
    with Relay(source.port) as relay:
        relay.most = 500_000
        with mirroring(relay.url) as mirror:
            same(mirror, source)


@pytest.mark.parametrize("breaks", [0, 2])
def test_who_waits_for_a_generation_that_will_not_come_is_told_that_it_is_gone(data: Path, breaks: int) -> None:
    """The source had it, and has lost it before it was mirrored; also if it can say so not at once."""
    data.write_bytes(b"10\n")
    port = free_port()
    with contextlib.ExitStack() as programs:
        first = programs.enter_context(serving(data, "--stale", "0", at=f"127.0.0.1:{port}"))
        relay = programs.enter_context(Relay(port))
        mirror = programs.enter_context(mirroring(relay.url))
        same(mirror, first)
        relay.hold()
        replace(data, b"20\n30\n")
        wait_until(lambda: first.get().content == b"20\n30\n")
        ahead = first.get().headers["etag"].strip('"').partition("-")[0]
        events = programs.enter_context(Stream(mirror.url, "", {**EVENTS, "Last-Event-ID": f"{ahead}-3"}))
        text = programs.enter_context(Stream(mirror.url, f"&last-event-id={ahead}-3"))
        wait_until(lambda: mirror.get("/status").json()["followers"] == 2)
        first.kill()
        questions: list[bytes] = []

        def edit(data: bytes) -> bytes:
            if data.startswith(b"HEAD"):
                questions.append(data)
            return b"" if questions[-1:] == [data] and len(questions) <= breaks else data

        relay.edit = edit
        replace(data, b"40\n")
        programs.enter_context(serving(data, "--stale", "0", at=f"127.0.0.1:{port}"))
        relay.release()
        wait_until(lambda: [(kind, text) for kind, _, text in events.events()] == [("gone", ahead), ("message", "40")])
        assert not text.ended()  # cleanly, for it has no way to say it
        assert len(questions) == breaks + 1


def generation(echo: Echo) -> str:
    return echo.get().headers["etag"].strip('"').partition("-")[0]


def test_who_comes_with_a_generation_that_is_gone_is_told_so(data: Path) -> None:
    """Also of one that the source still has, for somebody who is in it, while the mirror is past it."""
    data.write_bytes(MEGABYTES)
    with serving(data, "--stale", "0") as source, mirroring(f"{source.url}/data") as mirror:
        left = generation(source)
        with source.connect() as slow:
            slow.sendall(b"GET /data?follow HTTP/1.1\r\nHost: x\r\n\r\n")
            assert slow.recv(12) == b"HTTP/1.1 200"
            for number in range(3):
                replace(data, b"%d\n" % number)
                same(mirror, source)
            known = f"{source.url}/data?follow&last-event-id={left}-0"
            assert requests.head(known).status_code == 200
            for gone in (left, "0123456789abcdef"):
                with Stream(mirror.url, "", {**EVENTS, "Last-Event-ID": f"{gone}-0"}) as stream:
                    wait_until(lambda: stream.numbers() == ["2"])
                    assert stream.events()[0] == ("gone", "", gone)
                assert mirror.get(f"/data?follow&last-event-id={gone}-0").status_code == 410


def test_what_cannot_be_known_while_the_source_is_away_is_said(source: Echo) -> None:
    """Another replica may know the generation: who asks is not told that it is gone, nor given another."""
    with Relay(source.port) as relay, mirroring(relay.url) as mirror:
        same(mirror, source)
        relay.refuses = True
        answer = mirror.get("/data?follow&last-event-id=0123456789abcdef-0", Accept="text/event-stream")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.text.startswith(
            "whether generation 0123456789abcdef is gone or yet to come here cannot be told: "
        )
        assert len(answer.text.splitlines()) == 1


def test_a_file_that_was_filled_anew_while_its_echo_was_down_is_not_mixed_with_what_it_was(data: Path) -> None:
    """It has the name that it had, and more bytes, and begins as it did: the mirror sees that they are others."""
    data.write_bytes(b"10\n20\n30\n")
    with coupled(data) as (programs, first, mirror):
        name = generation(first)
        events = programs.enter_context(Stream(mirror.url, "", EVENTS))
        text = programs.enter_context(Stream(mirror.url))
        text.has(b"10\n20\n30\n")
        first.kill()
        rewrite(data, b"10\n21\n31\n41\n")
        again = programs.enter_context(restarted(first, data))
        assert generation(again) == name
        same(mirror, again)
        mirror.program.said("other numbers than before under the same name")
        wait_until(lambda: events.numbers() == ["10", "20", "30", "10", "21", "31", "41"])
        assert [event[::2] for event in events.events()][3] == ("gone", name)
        assert not text.ended()  # cleanly, for it has no way to say it
        append(data, b"51\n")
        same(mirror, again)


def test_questions_to_a_source_that_is_silent_are_few_and_do_not_hold_up_the_stop(source: Echo) -> None:
    with mirroring(f"{source.url}/data") as mirror, contextlib.ExitStack() as stack:
        same(mirror, source)
        source.program.signal(signal.SIGSTOP)
        asked = [stack.enter_context(mirror.connect()) for _ in range(12)]
        for number, client in enumerate(asked):
            client.sendall(b"GET /data?follow&last-event-id=%016d-0 HTTP/1.0\r\n\r\n" % number)
        refused = b"is gone or yet to come here cannot be told: 8 others are asked for"
        wait_until(lambda: any(refused in client.recv(65536, socket.MSG_PEEK) for client in asked[8:]))
        assert mirror.stop() < 8  # the grace period
        source.program.signal(signal.SIGCONT)


@pytest.mark.parametrize("more", [b"77777\n" * 100, b"77777\n" * 30_000], ids=["shorter", "longer"])
@pytest.mark.parametrize("seen", [False, True], ids=["unseen", "seen"])
def test_a_long_file_that_was_filled_anew_is_neither_kept_nor_mixed(data: Path, seen: bool, more: bytes) -> None:
    """Not by the stream either, which was read from its beginning before.

    A source that saw it gave it a name of its own, and after its restart the one that it had before.
    """
    data.write_bytes(numbers(20_000))
    with coupled(data) as (programs, first, mirror):
        name = generation(first)
        with Stream(mirror.url) as stream:
            stream.has(numbers(20_000))
        if not seen:
            first.kill()
        rewrite(data, b"00000\n" + more)
        if seen:
            same(mirror, first)
            assert generation(mirror) != name
            first.kill()
        again = programs.enter_context(restarted(first, data))
        same(mirror, again)
        assert generation(mirror) == name
        with Stream(mirror.url) as stream:
            stream.has(b"00000\n" + more)


def test_a_connection_that_breaks_off_in_what_is_compared_is_no_other_content(source: Echo, data: Path) -> None:
    replace(data, numbers(1000))
    with Relay(source.port) as relay, mirroring(relay.url) as mirror:
        same(mirror, source)
        relay.most, relay.resets = 1000, False
        relay.cut()
        mirror.program.said("broke off")
        connections = len(relay.clients)
        wait_until(lambda: len(relay.clients) >= connections + 2)  # it has tried again, so the answer was seen
        relay.most = None
        append(data, b"7\n")
        same(mirror, source)
        assert "under the same name" not in mirror.program.output


@pytest.mark.parametrize("more", [b"", b"77777\n"], ids=["beyond", "inside"])
def test_a_tail_that_was_lost_before_a_rotation_does_not_hold_up_what_is_now(data: Path, more: bytes) -> None:
    """The mirror's end is beyond the end of the rotated file, or inside of a line of it."""
    data.write_bytes(b"10\n20\n30\n")
    with coupled(data) as (programs, first, mirror):
        first.kill()
        os.truncate(data, 6)
        append(data, more)
        rotate(data, b"40\n")
        again = programs.enter_context(restarted(first, data))
        same(mirror, again)


@pytest.mark.parametrize("lost", [6, OVERLAP, 2 * OVERLAP - 2])
@pytest.mark.parametrize("seen", [False, True], ids=["unseen", "seen"])
def test_where_a_lost_tail_is_filled_anew_the_mirror_has_the_new_numbers_at_once(
    data: Path, seen: bool, lost: int
) -> None:
    """It waits for nothing: the source need not have as much as it had, nor have more come to it."""
    data.write_bytes(b"0\n" * 8192)
    with coupled(data) as (programs, first, mirror):
        first.kill()
        os.truncate(data, 2 * 8192 - lost - 2)
        if not seen:
            append(data, b"7\n")
        again = programs.enter_context(restarted(first, data))
        if seen:
            wait_until(lambda: again.get("/status").json()["followers"] == 1)
            assert mirror.get().content == b"0\n" * 8192
            append(data, b"7\n")
        same(mirror, again)


def test_what_comes_after_a_lost_tail_and_is_rotated_at_once_is_not_mixed_with_it() -> None:
    """Both in one piece, as something between may hand them on."""
    old, new = "a" * 16, "b" * 16
    mirror = Mirror(parse(["--source", "http://127.0.0.1:1/data"], {}), Spool(None))
    mirror.writer = writer = mirror.spool.open(old)
    writer.append(b"10\n20\n30\n", 0)
    mirror.shorter = 6
    comes = b"".join([EVENT_FORMAT.numbers(old, 6, b"99\n"), EVENT_FORMAT.begins(new)])
    assert mirror._lines(Events(), comes) is None
    assert mirror.writer.position == f"{new}-0"
    assert writer.file.read(0, 100) == b"10\n20\n30\n"


def test_a_tail_that_was_lost_and_came_again_with_other_numbers_is_not_mixed_with_what_it_was(data: Path) -> None:
    """Line by line of the same length, up to the size that the mirror has, and beyond."""
    data.write_bytes(b"10\n20\n30\n")
    with coupled(data) as (programs, first, mirror):
        first.kill()
        os.truncate(data, 6)
        again = programs.enter_context(restarted(first, data))
        wait_until(lambda: again.get("/status").json()["followers"] == 1)
        append(data, b"99\n")
        same(mirror, again)  # which have the same size, and the same name
        append(data, b"88\n")
        same(mirror, again)
        assert mirror.get().content == b"10\n20\n99\n88\n"


def test_a_source_that_has_less_than_the_mirror_is_waited_for(data: Path) -> None:
    """As when its address leads to another replica, which is behind."""
    data.write_bytes(b"".join(b"%07d\n" % number for number in range(OVERLAP)))
    port = free_port()
    for less in (8, OVERLAP, 2 * OVERLAP):
        with contextlib.ExitStack() as programs:
            first = programs.enter_context(serving(data, "--stale", "0", at=f"127.0.0.1:{port}"))
            mirror = programs.enter_context(mirroring(f"{first.url}/data"))
            same(mirror, first)
            there = mirror.get()
            first.kill()
            size = data.stat().st_size
            rest = data.read_bytes()[-less:]
            os.truncate(data, size - less)
            again = programs.enter_context(serving(data, "--stale", "0", at=f"127.0.0.1:{port}"))
            wait_until(lambda: again.get("/status").json()["followers"] == 1)  # noqa: B023
            assert mirror.get().content == there.content
            append(data, rest + b"0000007\n")
            same(mirror, again)
            assert mirror.get().headers["etag"] == f'"{there.headers["etag"][1:17]}-{size + 8}"'
            assert "trying again" in mirror.program.output
            assert not re.search("under the same name|no ETag", mirror.program.output)


# The spool


def files(spool: Path) -> list[Path]:
    return [path for path in spool.iterdir() if not path.is_symlink()]


def write_to(spool: Spool, writer: Writer, block: bytes, changed: float = 0) -> None:
    writer.append(block, changed)
    spool.grew(writer, writer.size, changed)


def test_text_that_is_counted_on_into_what_was_filled_anew_is_gone() -> None:
    """Its bytes are those of neither the one that was nor the one that is."""
    spool = Spool(None)
    write_to(spool, spool.open("a" * 16), b"1\n")
    write_to(spool, spool.open("b" * 16), b"2\n3\n")
    write_to(spool, spool.open("b" * 16, anew=True), b"7\n8\n9\n10\n")
    before = spool.find("a" * 16)
    assert before
    for offset in (4, 6, 8):
        position = Position(before, offset, LINES_OF_TEXT)
        position.check()
        assert position.gone


def test_a_generation_that_comes_back_is_in_the_spool_again_and_time_only_goes_on(tmp_path: Path) -> None:
    spool = Spool(tmp_path)

    def write(name: str, block: bytes, changed: float) -> None:
        write_to(spool, spool.open(name), block, changed)

    for name in ("a" * 16, "b" * 16, "a" * 16):
        write(name, b"1\n", 100.0)
        assert (tmp_path / name).read_bytes() == b"1\n"
        spool.cut()
    write("a" * 16, b"2\n", 90.0)
    assert spool.look().changed == 100.0
    assert (tmp_path / ("a" * 16)).read_bytes() == b"1\n2\n"


def test_a_spool_outlives_the_mirror_and_is_gone_on_with(source: Echo, data: Path, spool: Path) -> None:
    with mirroring(f"{source.url}/data", "--spool", str(spool)) as mirror:
        same(mirror, source)
        etag = mirror.get().headers["etag"]
        mirror.kill()
    (file,) = files(spool)
    append(file, b"4")  # a torn line, as a crash may leave
    source.program.signal(signal.SIGSTOP)
    with mirroring(f"{source.url}/data", "--spool", str(spool)) as mirror:
        assert (mirror.get().content, mirror.get().headers["etag"]) == (b"10\n20\n30\n", etag)
        source.program.signal(signal.SIGCONT)
        append(data, b"50\n")
        same(mirror, source)
        assert file.read_bytes() == data.read_bytes()


def test_what_is_no_number_in_a_spool_is_not_served(source: Echo, spool: Path) -> None:
    """As a crash of the machine may leave it: said in a line, and mirrored anew."""
    with mirroring(f"{source.url}/data", "--spool", str(spool)) as mirror:
        same(mirror, source)
        mirror.stop()
    (file,) = files(spool)
    file.write_bytes(b"10\n" + bytes(3) + b"30\n")
    with mirroring(f"{source.url}/data", "--spool", str(spool)) as mirror:
        mirror.program.said(f"^{file} is not whole lines of numbers: it is mirrored anew$")
        same(mirror, source)


def test_the_age_of_the_newest_number_outlives_the_mirror(source: Echo, data: Path, spool: Path) -> None:
    """It is the source's, not that of the mirror's own file."""
    os.utime(data, (1e9, 1e9))
    for _ in range(2):
        with mirroring(f"{source.url}/data", "--spool", str(spool)) as mirror:
            wait_until(lambda: mirror.get().status_code == 200)
            assert mirror.get().headers["last-modified"] == "Sun, 09 Sep 2001 01:46:40 GMT"
            mirror.stop()
        source.program.signal(signal.SIGSTOP)
    source.program.signal(signal.SIGCONT)


def test_after_a_restart_the_generation_of_now_is_the_one_that_was(source: Echo, data: Path, spool: Path) -> None:
    """Also where the one before has newer numbers, by the clock."""
    with mirroring(f"{source.url}/data", "--spool", str(spool)) as mirror:
        append(data, b"40\n")
        same(mirror, source)
        replace(data, b"50\n")
        os.utime(data, (1e9, 1e9))
        same(mirror, source)
        mirror.stop()
    source.program.signal(signal.SIGSTOP)
    for file in files(spool):
        if file.read_bytes() != b"50\n":
            file.chmod(0o600)  # as of somebody who looks after a volume
    with mirroring(f"{source.url}/data", "--spool", str(spool)) as mirror:
        assert mirror.get().content == b"50\n"
    source.program.signal(signal.SIGCONT)


def test_what_was_gone_is_so_after_a_restart_too(data: Path, spool: Path) -> None:
    """Two rotations while the source was away: who was in the generation before them has missed something."""
    data.write_bytes(b"10\n")
    port = free_port()
    with contextlib.ExitStack() as programs:
        first = programs.enter_context(serving(data, "--stale", "0", at=f"127.0.0.1:{port}"))
        mirror = programs.enter_context(mirroring(f"{first.url}/data", "--spool", str(spool)))
        same(mirror, first)
        left = generation(mirror)
        first.kill()
        append(data, b"20\n")
        rotate(data, b"30\n")
        rotate(data, b"40\n")
        again = programs.enter_context(serving(data, "--stale", "0", at=f"127.0.0.1:{port}"))
        same(mirror, again)
        mirror.stop()
        mirror = programs.enter_context(mirroring(f"{again.url}/data", "--spool", str(spool)))
        wait_until(lambda: report(mirror)["unreachable_since"] is None)
        with Stream(mirror.url, "", {**EVENTS, "Last-Event-ID": f"{left}-3"}) as stream:
            wait_until(lambda: stream.numbers() == ["40"])
            assert stream.events()[0] == ("gone", "", left)


def test_the_spool_keeps_the_generation_before_and_no_more(source: Echo, data: Path, spool: Path) -> None:
    with mirroring(f"{source.url}/data", "--spool", str(spool)) as mirror:
        for number in range(5):
            same(mirror, source)
            old = mirror.get().headers["etag"].strip('"')
            replace(data, b"%d\n" % number)
        same(mirror, source)
        assert len(files(spool)) == 2
        with Stream(mirror.url, f"&last-event-id={old}") as stream:
            stream.has(b"4\n")


def test_a_spool_is_for_one_mirror(source: Echo, tmp_path: Path, spool: Path) -> None:
    with mirroring(f"{source.url}/data", "--spool", str(spool)):
        flags = ("--source", f"{source.url}/data", "--spool", str(spool), "--listen", "127.0.0.1:0")
        assert "is in use by another echo" in refusal(tmp_path, 2, *flags)


def test_a_spool_of_another_user_is_gone_on_with(source: Echo, data: Path, spool: Path) -> None:
    """Who may write to a file may yet not set its times: that is left to the system."""
    if os.geteuid():
        pytest.skip("only root can give a file to another user")
    with mirroring(f"{source.url}/data", "--spool", str(spool)) as mirror:
        same(mirror, source)
        mirror.stop()
    (file,) = files(spool)
    os.chown(file, 12345, 0)
    without = ["setpriv", "--bounding-set=-fowner", "--inh-caps=-fowner"]
    flags = ["--source", f"{source.url}/data", "--spool", str(spool), "--listen", "127.0.0.1:0", "--stale", "0"]
    with running([*without, sys.executable, "-m", "echo", *flags]) as program:
        append(data, b"40\n")
        same(Echo(program, int(program.said("^serving .*:([0-9]+)/data$")[1])), source)
        assert "ECHO_SPOOL" not in program.output
    assert file.read_bytes() == data.read_bytes()


def test_a_spool_whose_folder_is_removed_is_said_once_and_served_on(source: Echo, data: Path, spool: Path) -> None:
    with mirroring(f"{source.url}/data", "--spool", str(spool)) as mirror:
        same(mirror, source)
        shutil.rmtree(spool)
        append(data, b"40\n")
        same(mirror, source)
        replace(data, b"50\n")
        mirror.program.said(r"^the spool \(ECHO_SPOOL\): No such file or directory; trying again$")
        assert mirror.get().content == b"10\n20\n30\n40\n"
        spool.mkdir()
        same(mirror, source)
        assert mirror.program.output.count("No such file") == 1


def test_a_full_spool_is_said_once_and_recovered_from(data: Path, spool: Path) -> None:
    """A file system of 1 MiB, in a mount namespace of the mirror's own."""
    data.write_bytes(numbers(400_000))
    prepare = 'mount -t tmpfs -o size=1m tmpfs "$2" && dd if=/dev/zero of="$2/ballast" bs=1k count=900 2>/dev/null'
    command = f'{prepare} && exec "$0" -m echo --source "$1" --spool "$2" --listen 127.0.0.1:0 --stale 0'
    with serving(data, "--stale", "0") as source:
        wrapper = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
        with running([*wrapper, command, sys.executable, f"{source.url}/data", str(spool)]) as program:
            mirror = Echo(program, int(program.said("^serving .*:([0-9]+)/data$")[1]))
            program.said(r"^the spool \(ECHO_SPOOL\): No space left on device; trying again$")
            assert report(mirror)["unreachable_since"] is None
            assert "No space left" in str(report(mirror)["problem"])
            wait_until(lambda: mirror.get().status_code == 200)
            for _ in range(3):
                got = mirror.get().content
                assert got and data.read_bytes().startswith(got) and got.endswith(b"\n")
            replace(data, b"7\n")
            os.unlink(f"/proc/{program.pid}/root{spool}/ballast")
            same(mirror, source)
            assert program.output.count("No space left") == 1
            assert report(mirror)["problem"] is None


# What is at the other end is no echo

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
TAG = 'ETag: "0123456789abcdef-%d"\r\n'
WRONG = {
    "a page": (f"{HEAD}Content-Length: 6\r\n\r\n<html>", "has no ETag of an echo"),
    "a page with an ETag": (f"{HEAD}{TAG % 7}Content-Length: 7\r\n\r\n<html>\n", "no numbers"),
    "404": ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404: that is no echo's /data"),
    "500": ("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", "500: that is no echo's /data"),
    "a redirect": ("HTTP/1.1 302 Found\r\nLocation: /data\r\nContent-Length: 0\r\n\r\n", "302: it is elsewhere"),
    "no HTTP": ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "the connection broke off, or speaks no HTTP"),
    "words": (f"{HEAD}{TAG % 9}Content-Length: 9\r\n\r\n1\n2\nthree", "no numbers"),
    "numbers of another length": (f"{HEAD}{TAG % 7}Content-Length: 600\r\n\r\n{'70' * 299}7\n", "not the 7 bytes"),
    "a line without end": (f"{HEAD}{TAG % 9999}Content-Length: 9999\r\n\r\n{'7' * 9999}", "a line of more than"),
    "an answer cut off": (f"{HEAD}{TAG % 99}Content-Length: 99\r\n\r\n12", "the connection broke off"),
    "an encoding": (f"{HEAD}{TAG % 5}Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\n\x1f\x0b...", "no numbers"),
    "nothing at all": ("", "the connection broke off"),
}


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[tuple[str, list[object]]]:
    """A server that gives the same answer to everybody; gives its address, and who has asked so far."""
    asked: list[object] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle(self) -> None:
            asked.append(self.client_address)
            with contextlib.suppress(OSError):
                self.connection.recv(65536)
                self.connection.sendall(answer)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/data", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_echo_is_said_once_and_nothing_of_it_served(kind: str) -> None:
    answer, words = WRONG[kind]
    with answering(answer.encode("latin-1")) as (url, asked), mirroring(url) as mirror:
        said = mirror.program.said(f"^{re.escape(url)}: .*({words}).*; trying again$")[0]
        wait_until(lambda: len(asked) >= 5)
        for path in ("/data", "/readyz"):
            response = mirror.get(path)
            assert response.status_code == 503
            assert url in response.text and ", since 2" in response.text and len(response.text.splitlines()) == 1
        assert mirror.program.output.count(said) == 1
        assert "Traceback" not in mirror.program.output


def test_numbers_before_something_false_are_all_that_is_served(tmp_path: Path) -> None:
    """Half of a proper answer, and then a page."""
    block = b"".join(b"%05d\n" % number for number in range(250_000))
    body = block + b"<html>" * 200_000
    head = f"{HEAD}{TAG % len(body)}Content-Length: {len(body)}\r\n\r\n".encode()
    with answering(head + body) as (url, _), mirroring(url) as mirror:
        mirror.program.said("no numbers")
        response = mirror.get()
        assert response.status_code in (200, 503)
        assert response.status_code == 503 or block.startswith(response.content)


# Secrets


def test_a_token_is_asked_for_and_sent(data: Path, tmp_path: Path) -> None:
    data.write_bytes(b"10\n")
    token, wrong = tmp_path / "token", tmp_path / "wrong"
    token.write_text("s3cret.Token-1\n")
    wrong.write_text("s3cret.Token-2")
    with serving(data, "--stale", "0", "--token-file", str(token)) as source:
        for header in ({}, {"Authorization": "Bearer s3cret.Token"}, {"Authorization": "Basic s3cret.Token-1"}):
            for path in ("/data", "/data?follow", "/status", "/metrics", "/", "/nothing"):
                response = requests.get(f"{source.url}{path}", headers=header)
                assert (response.status_code, response.headers["www-authenticate"]) == (401, 'Bearer realm="echo"')
        assert source.get("/healthz").status_code == source.get("/readyz").status_code == 200
        assert source.get(Authorization="bearer s3cret.Token-1").content == b"10\n"
        with mirroring(f"{source.url}/data", "--source-token-file", str(wrong)) as mirror:
            mirror.program.said("401: it wants a token, or another one: see --source-token-file")
            assert mirror.get().status_code == 503
            wrong.write_text(token.read_text())
            mirror.program.signal(signal.SIGHUP)
            wait_until(lambda: mirror.get().status_code == 200)
            assert mirror.get().content == b"10\n"
        token.write_text("another")
        source.program.signal(signal.SIGHUP)
        wait_until(lambda: source.get(Authorization="Bearer another").status_code == 200)
        assert source.get(Authorization="Bearer s3cret.Token-1").status_code == 401
        token.write_text("")
        source.program.signal(signal.SIGHUP)
        source.program.said("holds no token: .*; going on with what there was")
        assert source.get(Authorization="Bearer another").status_code == 200


def certificate(folder: Path, name: str) -> tuple[str, str]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    cert, key = str(folder / f"{name}.crt"), str(folder / f"{name}.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def test_tls_with_a_private_authority_on_both_sides(data: Path, tmp_path: Path) -> None:
    """And with another certificate after HUP, which the mirror knows only after its own."""
    data.write_bytes(b"10\n")
    cert, key = certificate(tmp_path, "one")
    other_cert, other_key = certificate(tmp_path, "other")
    other_copy = str(shutil.copy(other_cert, tmp_path / "other.copy"))
    with serving_tls(data, cert, key) as source:
        url = f"https://127.0.0.1:{source.port}/data"
        assert requests.get(url, verify=cert).content == b"10\n"
        with mirroring(url) as stranger:
            stranger.program.said("self-signed certificate; trying again")
            assert stranger.get().status_code == 503
        with mirroring(url, "--source-ca", cert) as mirror:
            wait_until(lambda: mirror.get().status_code == 200)
            os.replace(other_cert, cert)
            os.replace(other_key, key)
            source.program.signal(signal.SIGHUP)
            wait_until(lambda: requests.get(url, verify=cert).status_code == 200)
            append(data, b"20\n")
            wait_until(lambda: mirror.get().content == b"10\n20\n")
        shutil.copy(certificate(tmp_path, "third")[0], cert)
        source.program.signal(signal.SIGHUP)
        source.program.said("are not a certificate and its key: .*; going on with what there was")
        assert requests.get(url, verify=other_copy).content == b"10\n20\n"


def test_at_a_hangup_all_files_are_taken_or_none(data: Path, tmp_path: Path) -> None:
    data.write_bytes(b"10\n")
    cert, key = certificate(tmp_path, "one")
    known = shutil.copy(cert, tmp_path / "known")
    token = tmp_path / "token"
    token.write_text("first")
    with serving_tls(data, cert, key, "--token-file", str(token)) as source:
        token.write_text("second")
        shutil.copy(certificate(tmp_path, "other")[0], cert)
        source.program.signal(signal.SIGHUP)
        source.program.said("are not a certificate and its key: .*; going on with what there was")
        url, shown = f"https://127.0.0.1:{source.port}/data", {"Authorization": "Bearer first"}
        assert requests.get(url, verify=str(known), headers=shown).status_code == 200


@contextlib.contextmanager
def serving_tls(data: Path, cert: str, key: str, *more: str) -> Iterator[Echo]:
    """An echo that serves a file over TLS."""
    flags = ["--source", str(data), "--listen", "127.0.0.1:0", "--stale", "0", "--tls-cert", cert, "--tls-key", key]
    with running([sys.executable, "-m", "echo", *flags, *more]) as program:
        yield Echo(program, int(program.said("^serving .* on https://.*:([0-9]+)/data$")[1]))


# What is refused


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--source", "ftp://x/data"], "the URL is not http://HOST:PORT/data nor https://HOST:PORT/data"),
        (["--source", "http:///data"], "is not http://HOST:PORT/data"),
        (["--source", "http://x:99999/data"], "is not http://HOST:PORT/data"),
        (["--source", "http://x:8000"], "give http://x:8000/data"),
        (["--source", "http://u:p@x:8000/data"], "give http://x:8000/data"),
        (["--source", "http://x:8000/data?follow"], "give http://x:8000/data"),
        (["--source", "http:x:8000/data"], "is not http://HOST:PORT/data"),
        (["--source", "http://x y/data"], "is not http://HOST:PORT/data"),
        (["--source", "http://x/data", "--source-ca", "/dev/null"], "goes with an https URL"),
        (["--source", "http://x/data", "--source-token-file", "/dev/null"], "/dev/null holds no token"),
        (["--spool", "."], "--spool (ECHO_SPOOL) goes with a URL as --source (ECHO_SOURCE) only"),
        (["--source", "http://x/data", "--spool", "nothing"], "nothing is not a folder"),
        (["--source", "https://x/data", "--source-ca", "nothing"], "nothing cannot be read: No such file or directory"),
        (["--tls-cert", "/dev/null"], "--tls-cert (ECHO_TLS_CERT) and --tls-key (ECHO_TLS_KEY) go together"),
        (["--tls-cert", "/dev/null", "--tls-key", "/dev/null"], "are not a certificate and its key"),
        (["--token-file", "/dev/null"], "/dev/null holds no token"),
    ],
)
def test_wrong_settings_are_refused_in_a_line(tmp_path: Path, flags: list[str], words: str) -> None:
    assert words in refusal(tmp_path, 2, "--listen", "127.0.0.1:0", *flags)
