"""`/data?follow` over real connections: no number is missing or repeated, whatever fails."""

import contextlib
import http.client
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from echo.store.segment import CACHE_BYTES
from support import ROOT, free_port, need, running, wait_until
from support.echo_program import (
    EVENTS,
    SERVING,
    Echo,
    Stream,
    append,
    descriptors,
    generating,
    numbers,
    read_chunked,
    replace,
    resident,
    serving,
)
from support.segments import OTHER, STREAM, Writer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def writer(data: Path) -> Writer:
    """A writer whose data folder has three numbers."""
    writer = Writer(data)
    writer.append(b"10\n20\n30\n")
    return writer


@pytest.fixture
def echo(data: Path, writer: Writer) -> Iterator[Echo]:
    with serving(data, "--stale", "0") as echo:
        yield echo


def event(offset: int, number: int, stream: str = STREAM) -> tuple[str, str, str]:
    return "message", f"{stream}-{offset}", str(number)


def gone(offset: int, stream: str = STREAM) -> tuple[str, str, str]:
    return "gone", "", f"{stream}-{offset}"


# What is sent


@pytest.mark.parametrize(
    ("query", "before"),
    [
        *(("", b"10\n20\n30\n"), ("&tail=2", b"20\n30\n"), ("&tail=0", b""), ("&tail=99999999", b"10\n20\n30\n")),
        *(("&offset=0", b"10\n20\n30\n"), ("&offset=6", b"30\n"), ("&offset=9", b"")),
    ],
)
def test_text_is_what_is_there_and_then_each_new_number(echo: Echo, writer: Writer, query: str, before: bytes) -> None:
    with Stream(echo.url, query) as stream:
        stream.has(before)
        for number in (b"40\n", b"50\n60\n"):
            writer.append(number)
            before += number
            stream.has(before)
        assert stream.response.headers["content-type"] == "text/plain; charset=utf-8"
        assert "content-length" not in stream.response.headers


def test_half_a_line_is_not_sent_until_it_is_one(echo: Echo, writer: Writer) -> None:
    with Stream(echo.url, "&tail=0") as stream:
        writer.append(b"4")
        writer.append(b"0\n5")
        stream.has(b"40\n")


def test_events_are_one_a_number_with_the_offset_after_it(echo: Echo, writer: Writer) -> None:
    with Stream(echo.url, "&tail=1", EVENTS) as stream:
        writer.append(b"40\n")
        stream.has_events([event(9, 30), event(12, 40)])
        assert stream.response.headers["content-type"] == "text/event-stream"
        assert stream.content.startswith(b"retry: 1000\n\n")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        *(("*/*", "text/plain"), ("text/plain", "text/plain"), ("text/html", "text/plain"), ("", "text/plain")),
        *(("text/event-stream", "text/event-stream"), ("Text/Event-Stream", "text/event-stream")),
        *(("text/plain;q=0.5, text/event-stream", "text/event-stream"), ("text/event-stream;q=0, */*", "text/plain")),
        *(("text/event-stream;q=0.1, text/plain", "text/plain"), ("text/event-stream;q=x", "text/plain")),
    ],
)
def test_the_client_chooses_between_text_and_events(echo: Echo, accept: str, kind: str) -> None:
    with Stream(echo.url, "", {"Accept": accept}) as stream:
        assert stream.response.headers["content-type"].partition(";")[0] == kind
        assert "accept" in stream.response.headers["vary"]


def test_curl_prints_numbers_at_once_and_ends_with_0(echo: Echo, writer: Writer) -> None:
    with running([need("curl"), "--silent", "--no-buffer", f"{echo.url}/data?follow"]) as curl:
        curl.wait_for_log("^30$")
        writer.append(b"40\n")
        curl.wait_for_log("^40$")
        assert echo.stop() < 1
        assert curl.ended() == 0
        assert curl.lines == ["10", "20", "30", "40"]


def test_head_is_the_head_alone(echo: Echo) -> None:
    response = requests.head(f"{echo.url}/data?follow", headers=EVENTS)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
    assert echo.status()["followers"] == 0


def test_a_silent_stream_of_events_has_a_comment_every_5_s(echo: Echo) -> None:
    """One line only: an empty line would make some clients emit an empty event."""
    with Stream(echo.url, "&tail=0", EVENTS) as stream:
        wait_until(lambda: stream.content == b"retry: 1000\n\n:\n:\n", within=12)


@pytest.mark.parametrize("headers", [{}, EVENTS], ids=["text", "events"])
def test_a_stream_says_that_it_is_not_to_be_held_back(echo: Echo, headers: dict[str, str]) -> None:
    with Stream(echo.url, "&tail=0", headers) as stream:
        fields = stream.response.headers
        assert (fields["incremental"], fields["x-accel-buffering"], fields["cache-control"]) == ("?1", "no", "no-store")
        assert fields["last-event-id"] == f"{STREAM}-9"


# What is refused


@pytest.mark.parametrize(
    ("query", "words"),
    [
        *(("&offset=1", "offset 1 is inside a line"), ("&offset=4", "offset 4 is inside a line")),
        *(
            ("&offset=-1", "not a whole number"),
            ("&offset=9" + "9" * 18, "not a whole number"),
            ("&tail=-1", "not a whole number"),
        ),
        *(("&tail=1&offset=0", "give one of them"), ("&last-event-id=x", "is not STREAM-OFFSET")),
        *(("&last-event-id=STREAM-1", "inside a line"), ("&last-event-id=STREAM--1", "is not STREAM-OFFSET")),
    ],
)
@pytest.mark.parametrize("headers", [{}, EVENTS], ids=["text", "events"])
def test_a_start_that_makes_no_sense_is_400_and_says_why(
    echo: Echo, query: str, words: str, headers: dict[str, str]
) -> None:
    response = requests.get(f"{echo.url}/data?follow{query.replace('STREAM', STREAM)}", headers=headers)
    assert response.status_code == 400
    assert words in response.text and response.text.count("\n") == 1


@pytest.mark.parametrize("text", ["x", STREAM, f"{STREAM}-1.5", f"{STREAM}-0-9", "-1", "9" * 1000, "\xe9", "a, b"])
def test_a_last_event_id_of_nonsense_is_400_and_says_why(echo: Echo, text: str) -> None:
    response = requests.get(f"{echo.url}/data?follow", headers={**EVENTS, "Last-Event-ID": text.encode("latin-1")})
    assert response.status_code == 400
    assert "is not STREAM-OFFSET" in response.text


def test_before_the_first_number_it_is_503(data: Path) -> None:
    with serving(data) as echo:
        response = echo.get("/data?follow")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")


def test_one_follower_too_many_is_503_until_one_leaves(data: Path) -> None:
    data.write_bytes(b"1\n")
    with serving(data, "--followers", "2", "--stale", "0") as echo, Stream(echo.url), Stream(echo.url) as second:
        echo.wait_for_followers(2)
        response = echo.get("/data?follow")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert "2 followers" in response.text
        assert echo.get().content == b"1\n"
        second.cut()
        echo.wait_for_followers(1)
        with Stream(echo.url) as third:
            third.has(b"1\n")


def test_followers_leave_descriptors_for_plain_requests(data: Path) -> None:
    data.write_bytes(b"1\n")
    command = 'ulimit -n 140 && exec "$0" -m echo --source "$1" --listen 127.0.0.1:0 --stale 0'
    with running(["sh", "-c", command, sys.executable, data]) as program, contextlib.ExitStack() as streams:
        echo = Echo(program, int(program.wait_for_log(SERVING)[1]))
        program.wait_for_log(
            "^limited followers to 12: 1000 need more than 140 open files .ulimit -n, ECHO_FOLLOWERS.$"
        )
        for _ in range(12):
            streams.enter_context(Stream(echo.url))
        assert echo.get("/data?follow").status_code == 503
        assert echo.get().content == b"1\n"


def test_a_request_behind_a_stream_does_not_keep_its_place(data: Path) -> None:
    data.write_bytes(b"1\n")
    with serving(data, "--followers", "1", "--stale", "0") as echo:
        for _ in range(3):
            with echo.connect() as client:
                client.sendall(b"GET /data?follow HTTP/1.1\r\nHost: x\r\n\r\nGET /data HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
            echo.wait_for_followers(0)


# Resuming


@pytest.mark.parametrize("how", ["header", "query", "header before query"])
@pytest.mark.parametrize("kind", [{}, EVENTS], ids=["text", "events"])
def test_an_id_is_resumed_exactly_there(echo: Echo, writer: Writer, how: str, kind: dict[str, str]) -> None:
    older = f"{STREAM}-3"
    headers, query = dict(kind), f"&last-event-id={older}"
    if how != "query":
        headers["Last-Event-ID"] = older
        query = "&tail=0" if how == "header before query" else ""
    with Stream(echo.url, query, headers) as stream:
        writer.append(b"40\n")
        wait_until(lambda: re.findall(rb"(?m)^(?:data: )?(\d+)$", stream.content) == [b"20", b"30", b"40"])
        assert stream.response.headers["last-event-id"] == older


@pytest.mark.parametrize("query", [f"&last-event-id={STREAM}-3", "&offset=3"])
def test_a_position_in_an_earlier_segment_is_resumed_there(echo: Echo, writer: Writer, query: str) -> None:
    """The offset counts from the start of the stream, across segments."""
    writer.append(b"40\n")
    writer.rotate(b"50\n")
    writer.rotate(b"60\n70\n")
    with Stream(echo.url, query) as text, Stream(echo.url, query, EVENTS) as events:
        text.has(b"20\n30\n40\n50\n60\n70\n")
        events.has_events([event(offset, 10 * offset // 3) for offset in range(6, 22, 3)])


@pytest.mark.parametrize("query", [f"&last-event-id={STREAM}-15", "&offset=15"])
def test_a_position_ahead_of_this_replica_is_waited_for(echo: Echo, writer: Writer, query: str) -> None:
    with echo.ask(f"/data?follow{query}") as client:
        assert echo.status()["offset"] == 9  # answered after the first request, which therefore waits
        writer.append(b"40\n")
        writer.append(b"50\n60\n")
        wait_until(lambda: b"60\n" in client.recv(4096))


def test_a_position_that_stays_ahead_is_503(echo: Echo) -> None:
    """All three run at once, because each takes 10 s."""
    began = time.monotonic()
    clients = [echo.ask(f"/data?follow&{query}") for query in (f"last-event-id={STREAM}-15", "offset=10", "offset=15")]
    for client in clients:
        with client:
            answer = client.recv(4096).lower()
            assert answer.startswith(b"http/1.1 503 ")
            assert b"retry-after: 1\r\n" in answer and b"this replica has not received" in answer
    assert 9.5 < time.monotonic() - began < 15


def test_a_position_older_than_kept_is_gone(echo: Echo, writer: Writer) -> None:
    """Events continue with the oldest number kept; text gets a 410."""
    first = writer.file
    writer.rotate(b"40\n")
    first.unlink()
    writer.rotate(b"50\n")
    wait_until(lambda: echo.status()["segments"] == [f"{STREAM}-9", f"{STREAM}-12"])
    with Stream(echo.url, f"&last-event-id={STREAM}-3", EVENTS) as stream:
        stream.has_events([gone(3), event(12, 40), event(15, 50)])
    response = echo.get(f"/data?follow&last-event-id={STREAM}-3")
    assert (response.status_code, f"{STREAM}-3 are gone" in response.text) == (410, True)


def test_a_position_in_a_gap_is_gone(echo: Echo, writer: Writer) -> None:
    writer.rotate(b"40\n", gap=100)
    with Stream(echo.url, f"&last-event-id={STREAM}-15", EVENTS) as stream:
        stream.has_events([gone(15), event(112, 40)])


def test_a_position_of_another_stream_is_gone(echo: Echo, writer: Writer) -> None:
    writer.rotate(b"40\n50\n")
    with Stream(echo.url, f"&last-event-id={OTHER}-3", EVENTS) as stream:
        stream.has_events([gone(3, OTHER), *(event(3 * index, 10 * index) for index in range(1, 6))])
    assert echo.get(f"/data?follow&last-event-id={OTHER}-3").status_code == 410


# What happens to the folder


def test_a_rotation_loses_nothing_and_is_not_seen(echo: Echo, writer: Writer) -> None:
    with Stream(echo.url) as text, Stream(echo.url, "", EVENTS) as events:
        text.has(b"10\n20\n30\n")
        writer.append(b"40\n")
        writer.rotate(b"50\n")
        text.has(b"10\n20\n30\n40\n50\n")
        events.has_events([event(3 * number, 10 * number) for number in range(1, 6)])


def test_many_rotations_between_two_looks_lose_nothing(echo: Echo, writer: Writer) -> None:
    """As long as the segments are kept."""
    with Stream(echo.url) as text, Stream(echo.url, "", EVENTS) as events:
        text.has(b"10\n20\n30\n")
        echo.program.signal(signal.SIGSTOP)
        for number in range(40, 90, 10):
            writer.rotate(b"%d\n" % number)
        echo.program.signal(signal.SIGCONT)
        text.has(b"10\n20\n30\n40\n50\n60\n70\n80\n")
        events.has_events([event(3 * number, 10 * number) for number in range(1, 9)])


def test_what_a_follower_can_no_longer_have_is_said(echo: Echo, writer: Writer) -> None:
    """It was removed between two refreshes; text is cut off."""
    with Stream(echo.url) as text, Stream(echo.url, "", EVENTS) as events:
        text.has(b"10\n20\n30\n")
        echo.program.signal(signal.SIGSTOP)
        writer.rotate(b"40\n")
        lost = writer.file
        writer.rotate(b"50\n")
        lost.unlink()
        echo.program.signal(signal.SIGCONT)
        events.has_events([*(event(3 * number, 10 * number) for number in range(1, 4)), gone(9), event(15, 50)])
        assert not text.ended()
        echo.program.wait_for_log(f"cannot go on with a response .*{STREAM}-9 are gone")


def test_a_jump_of_the_generator_is_gone(echo: Echo, writer: Writer) -> None:
    with Stream(echo.url, "&tail=0", EVENTS) as events:
        writer.rotate(b"40\n", gap=1000)
        events.has_events([gone(9), event(1012, 40)])


def test_another_stream_is_gone_and_followed(echo: Echo, writer: Writer) -> None:
    with Stream(echo.url, "&tail=0", EVENTS) as events:
        writer.append(b"40\n")
        writer.rotate(b"50\n", stream=OTHER)
        events.has_events([event(12, 40), gone(12), event(3, 50, OTHER)])


@pytest.mark.parametrize("kind", [{}, EVENTS], ids=["text", "events"])
def test_nothing_is_lost_in_silence_at_any_speed(data: Path, kind: dict[str, str]) -> None:
    """With the shortest segments and no pause, each number arrives or is reported as gone."""
    flags = ["--interval", "0", "--segment-size", "4096B", "--keep", "50"]
    with generating(data, *flags) as generator, serving(data) as echo, Stream(echo.url, "", kind) as stream:
        wait_until(lambda: len(stream.content) > 1_000_000 or not stream.thread.is_alive())
        generator.signal(signal.SIGTERM)
        assert generator.ended() == 0
        if kind:
            end = f"{echo.status()['stream']}-{echo.status()['offset']}"
            wait_until(lambda: stream.events()[-1][1] == end, every=0.2)
            position = int(stream.response.headers["last-event-id"].split("-")[1])
            for type_, id, _ in stream.events():
                if type_ == "message":
                    offset = int(id.split("-")[1])
                    assert offset == position + 6 or (position == -1 and offset % 6 == 0)
                    position = offset
                else:
                    position = -1
        else:
            began = int(stream.response.headers["last-event-id"].split("-")[1])
            end_offset = int(str(echo.status()["offset"]))
            wait_until(lambda: len(stream.content) == end_offset - began or not stream.thread.is_alive())
            assert stream.thread.is_alive() or "are gone, and text cannot show that" in echo.program.output


def test_a_plain_file_that_was_replaced_is_gone(data: Path) -> None:
    """A slow reader of a truncated segment gets the message too."""
    data.write_bytes(b"1\n2\n")
    with serving(data, "--stale", "0") as echo, Stream(echo.url, "", EVENTS) as events:
        events.numbers_are("1 2")
        append(data, b"3\n")
        events.numbers_are("1 2 3")
        replace(data, b"4\n")
        events.numbers_are("1 2 3 4")
        os.truncate(data, 0)
        append(data, b"5\n")
        events.numbers_are("1 2 3 4 5")
        kinds = [kind for kind, _, _ in events.events()]
        assert kinds == ["message"] * 3 + ["gone", "message"] * 2


def test_what_a_truncation_took_ends_a_stream_of_text(data: Path) -> None:
    """The connection is cut off, because text cannot express it; the next request gets a 410."""
    data.write_bytes(numbers(2_000_000))
    with serving(data, "--stale", "0") as echo, echo.ask("/data?follow") as client:
        position = f"{echo.status()['stream']}-6"
        echo.wait_for_followers(1)
        os.truncate(data, 0)
        append(data, b"7\n")
        wait_until(lambda: echo.status()["size"] == 2)
        with pytest.raises(http.client.IncompleteRead):
            read_chunked(client)
        echo.program.wait_for_log("cannot go on with a response .* are gone")
        assert echo.get(f"/data?follow&last-event-id={position}").status_code == 410


def test_a_slow_reader_does_not_hold_segment_after_segment(data: Path, writer: Writer) -> None:
    writer.append(numbers(1_000_000))
    with serving(data, "--stale", "0") as echo, echo.ask("/data?follow"):
        echo.wait_for_followers(1)
        before = len(descriptors(echo))
        for turn in range(40):
            removed = writer.file
            writer.rotate(b"%d\n" % turn)
            removed.unlink()
            wait_until(lambda: echo.get().content == b"%d\n" % turn)  # noqa: B023
        assert len(descriptors(echo)) < before + 20


def test_the_removal_of_all_is_waited_out(echo: Echo, writer: Writer, data: Path) -> None:
    with Stream(echo.url, "", EVENTS) as stream:
        stream.numbers_are("10 20 30")
        data.unlink()
        writer.file.unlink()
        wait_until(lambda: echo.get().status_code == 503)
        writer.rotate(b"40\n")
        stream.has_events([event(3, 10), event(6, 20), event(9, 30), event(12, 40)])


# How it is watched


def test_if_watching_breaks_echo_ends_and_says_why(data: Path, tmp_path: Path) -> None:
    """Its supervisor restarts it. Otherwise it would serve on without sending new numbers."""
    data.write_bytes(b"1\n")
    broken = "def INotify(**_):\n    raise RuntimeError('broken')\n\n\nclass flags:\n"
    broken += "".join(f"    {name} = 0\n" for name in ("MODIFY", "ATTRIB", "MOVE_SELF", "DELETE_SELF", "CREATE"))
    (tmp_path / "inotify_simple.py").write_text(broken + "    MOVED_TO = IGNORED = 0\n")
    command = [sys.executable, "-m", "echo", "--source", str(data), "--listen", "127.0.0.1:0"]
    with running(command, {"PYTHONPATH": f"{tmp_path}:{ROOT}"}) as program:
        assert program.ended() == 1
        assert "cannot go on: RuntimeError('broken')" in program.output


def test_inotify_is_used_where_it_works(echo: Echo, writer: Writer) -> None:
    wait_until(lambda: echo.status()["watching"] == "inotify")
    with Stream(echo.url) as stream:
        for number in range(5):
            writer.append(b"%d\n" % number)
            stream.has(b"10\n20\n30\n" + b"".join(b"%d\n" % before for before in range(number + 1)))
    assert echo.status()["watching"] == "inotify"


def test_a_link_to_a_file_elsewhere_is_followed_and_so_is_the_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    first, second, link = tmp_path / "elsewhere" / "1", tmp_path / "elsewhere" / "2", tmp_path / "data"
    first.write_bytes(b"1\n")
    second.write_bytes(b"3\n")
    link.symlink_to(first)
    with serving(link, "--stale", "0") as echo, Stream(echo.url, "", EVENTS) as stream:
        wait_until(lambda: echo.status()["watching"] == "inotify")
        append(first, b"2\n")
        stream.numbers_are("1 2")
        (tmp_path / "new").symlink_to(second)
        os.replace(tmp_path / "new", link)
        stream.numbers_are("1 2 3")
        append(second, b"4\n")
        stream.numbers_are("1 2 3 4")
        assert echo.status()["watching"] == "inotify"


NAMESPACES = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")


@contextlib.contextmanager
def serving_within(prepare: str, source: Path) -> Iterator[Echo]:
    """An echo in its own namespaces, where a shell command runs first."""
    need("unshare")
    command = f'{prepare} && exec "$0" -m echo --source "$1" --listen 127.0.0.1:0 --stale 0'
    with running([*NAMESPACES, command, sys.executable, source]) as program:
        wait_until(lambda: program.lines or program.process.poll() is not None)
        if program.process.poll() is not None and not os.environ.get("CI"):
            pytest.skip(f"no namespaces here: {program.output}")
        yield Echo(program, int(program.wait_for_log(SERVING)[1]))


def test_without_inotify_it_polls_and_says_so(data: Path) -> None:
    data.write_bytes(b"1\n")
    with (
        serving_within("echo 0 >/proc/sys/user/max_inotify_instances", data) as echo,
        Stream(echo.url, "", EVENTS) as stream,
    ):
        assert echo.status()["watching"] == "polling"
        append(data, b"2\n")
        stream.numbers_are("1 2")
        replace(data, b"3\n")
        stream.numbers_are("1 2 3")


def test_where_inotify_does_not_tell_it_is_found_out(tmp_path: Path) -> None:
    """The file is written below an overlay mount: inotify reports nothing, as on a network file system."""
    lower, upper, work, seen = (tmp_path / name for name in ("lower", "upper", "work", "seen"))
    for folder in (lower, upper, work, seen):
        folder.mkdir()
    (upper / "data").write_bytes(b"1\n")
    mount = f"mount -t overlay overlay -o lowerdir={lower},upperdir={upper},workdir={work} {seen}"
    with serving_within(mount, seen / "data") as echo, Stream(echo.url) as stream:
        wait_until(lambda: echo.status()["watching"] == "inotify")
        sent = b"1\n"
        while echo.status()["watching"] == "inotify" and len(sent) < 100:
            append(upper / "data", b"2\n")
            sent += b"2\n"
            stream.has(sent)
        assert echo.status()["watching"] == "polling"
        assert len(sent) <= 8  # two changes that were not told, and perhaps one more that came in between


# Many clients, cut off at random


def follow_text(url: str, position: str, total: int, chance: random.Random) -> list[str]:
    """Return the numbers that a client of text received across random disconnections; it resumes by offset."""
    have = b""
    while (missing := total - have.count(b"\n")) > 0:
        with (
            contextlib.suppress(requests.RequestException, OSError),
            Stream(url, f"&last-event-id={position}") as stream,
        ):
            if stream.response.status_code == 200:
                stream.has_lines(min(missing, chance.randrange(1, 80)))
                stream.cut()
                have += stream.content
                name, offset = stream.response.headers["last-event-id"].split("-")
                position = f"{name}-{int(offset) + len(stream.content)}"
    return have.decode().split()


def follow_events(url: str, position: str, total: int, chance: random.Random) -> list[str]:
    """Return the numbers that a client of events received across random disconnections; it resumes by event id."""
    have: list[str] = []
    headers = {**EVENTS, "Last-Event-ID": position}
    while (missing := total - len(have)) > 0:
        with contextlib.suppress(requests.RequestException, OSError), Stream(url, "", headers) as stream:
            if stream.response.status_code == 200:
                stream.has_lines(3 * min(missing, chance.randrange(1, 80)))  # and a few of other kinds
                stream.cut()
                events = stream.events()
                assert all(kind != "gone" for kind, _, _ in events)
                have += stream.numbers()
                if events:
                    headers["Last-Event-ID"] = events[-1][1]
    return have


@pytest.mark.parametrize("happening", ["nothing else", "a restart", "a rotation", "a restart after a rotation"])
def test_a_hundred_clients_cut_off_at_random_get_exactly_the_file(data: Path, happening: str) -> None:
    """300 numbers, one every 10 ms, to 50 clients of text and 50 of events."""
    total, port = 300, free_port()
    flags = ["--count", str(total), "--seed", "1", "--min", str(10**17), "--max", str(10**18 - 1)]  # 5,700 bytes
    with running([sys.executable, "-m", "generator", "--file", f"{data}.same", "--interval", "0", *flags]) as same:
        assert same.ended() == 0
    expected = Path(f"{data}.same").read_text().split()
    limit = "4096B" if "rotation" in happening else "0"
    flags += ["--file", str(data), "--interval", "0.01", "--segment-size", limit]
    results: dict[int, list[str]] = {}

    def client(number: int) -> None:
        follow = follow_text if number % 2 else follow_events
        results[number] = follow(echo.url, beginning, total, random.Random(number))

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(100)]
    with contextlib.ExitStack() as programs:
        echo = programs.enter_context(serving(data, "--stale", "0", at=f"127.0.0.1:{port}"))
        generator = programs.enter_context(running([sys.executable, "-m", "generator", *flags]))
        wait_until(lambda: echo.get().status_code == 200)
        beginning = f"{echo.status()['stream']}-0"
        for thread in threads:
            thread.start()
        if "rotation" in happening:
            wait_until(lambda: len(str(echo.status()["segments"]).split()) == 2)
        if "restart" in happening:
            wait_until(lambda: int(str(echo.status()["numbers"])) > 20)
            echo.stop()
            programs.enter_context(serving(data, "--stale", "0", at=f"127.0.0.1:{port}"))
        assert generator.ended() == 0
        for thread in threads:
            thread.join(30)
        assert sorted(results) == list(range(100))
        assert [number for number, seen in results.items() if seen != expected] == []


# Load


def test_plain_requests_are_answered_while_a_thousand_follow(data: Path) -> None:
    """Each of the thousand streams gets every number, and ends cleanly when echo stops."""
    data.write_bytes(b"1\n")
    request = b"GET /data?follow&tail=0 HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(data, "--stale", "0") as echo, contextlib.ExitStack() as clients:
        streams = [clients.enter_context(echo.connect()) for _ in range(1000)]
        for stream in streams:
            stream.sendall(request)
        echo.wait_for_followers(1000)
        sent = b""
        for number in range(20):
            append(data, b"%d\n" % number)
            sent += b"%d\n" % number
            assert echo.get().content == b"1\n" + sent
        assert echo.get("/data?follow").status_code == 503
        echo.program.signal(signal.SIGTERM)
        for stream in streams:
            answer = read_chunked(stream)
            stream.close()
            assert answer == sent
        assert echo.program.ended() == 0
        assert "cut" not in echo.program.output


def test_stalled_readers_are_dropped_and_cost_no_memory(data: Path) -> None:
    """200 of them do not read, while another receives every number."""
    data.write_bytes(numbers(1_000_000))
    with contextlib.ExitStack() as stack:
        echo = stack.enter_context(serving(data, "--stale", "0", "--stall-timeout", "2"))
        reader = stack.enter_context(Stream(echo.url, "&tail=0"))
        echo.wait_for_followers(1)
        before = resident(echo)
        for _ in range(200):
            stalled = stack.enter_context(echo.connect())
            stalled.sendall(b"GET /data?follow HTTP/1.1\r\nHost: x\r\n\r\n")
        echo.wait_for_followers(201)
        sent, peak = b"", 0
        while echo.status()["followers"] != 1:
            append(data, b"99999\n")
            sent += b"99999\n"
            reader.has(sent)
            peak = max(peak, resident(echo))
        assert peak - before < 200 * 2**17 + 8 * CACHE_BYTES


# The end of a large file


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data file of 1 GB."""
    path = tmp_path_factory.mktemp("large") / "data"
    block = numbers(166_667)
    with path.open("wb") as file:
        for _ in range(1000):
            file.write(block)
    yield path
    path.unlink()


def read_bytes(echo: Echo) -> int:
    """Return the bytes that echo has read so far, from files and connections."""
    match = re.search(r"rchar: (\d+)", Path(f"/proc/{echo.program.pid}/io").read_text())
    assert match
    return int(match[1])


def test_the_end_of_a_gigabyte_is_served_without_reading_the_rest(large: Path) -> None:
    """A new echo, a stream from the end, and the count of numbers, which is made once."""
    with serving(large, "--stale", "0") as echo:
        before = read_bytes(echo)
        assert echo.get("/data?tail=10").content == numbers(166_667)[-60:]
        with Stream(echo.url, "&tail=2") as stream:
            stream.has(numbers(166_667)[-12:])
        assert read_bytes(echo) - before < 2 * CACHE_BYTES  # its end is checked for long lines
        assert echo.status()["numbers"] == 166_667_000
        before = read_bytes(echo)
        append(large, b"1\n")
        assert echo.status()["numbers"] == 166_667_001
        assert read_bytes(echo) - before < 300_000
    os.truncate(large, large.stat().st_size - 2)


def test_a_stop_does_not_wait_for_long_searches(large: Path) -> None:
    """Twelve clients ask for a very long tail; small requests are answered in between."""
    with serving(large, "--stale", "0", "--stop-timeout", "1") as echo, contextlib.ExitStack() as clients:
        for _ in range(12):
            client = clients.enter_context(echo.connect())
            client.sendall(b"GET /data?tail=166000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert echo.get("/data?tail=1").status_code == 200
        assert echo.stop() < 4


# At the stop


def test_a_stop_ends_streams_of_all_kinds_cleanly(echo: Echo, writer: Writer) -> None:
    with Stream(echo.url) as text, Stream(echo.url, "", EVENTS) as events:
        echo.wait_for_followers(2)
        began = time.monotonic()
        echo.program.signal(signal.SIGTERM)
        assert text.ended() and events.ended()
        text.response.close()
        events.response.close()
        assert echo.program.ended() == 0
        assert time.monotonic() - began < 2
        assert text.content == b"10\n20\n30\n"
