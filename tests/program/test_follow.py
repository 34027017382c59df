"""`/data?follow` over real connections: nothing missing, nothing twice, whatever happens to client, echo and file."""

import asyncio
import contextlib
import http.client
import itertools
import os
import random
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import requests
from echo.datafile import SMALL, DataFile
from echo.watch import Watch

from echo.endpoints.steps import run_steps
from support import ROOT, alike, free_port, need, running, wait_until
from test_echo import Echo, append, numbers, replace, serving

EVENTS = {"Accept": "text/event-stream"}


class Stream:
    """A stream that is being read, in a thread of its own, until it ends or is closed."""

    def __init__(self, url: str, query: str = "", headers: dict[str, str] | None = None) -> None:
        self.response = requests.get(f"{url}/data?follow{query}", headers=headers, stream=True, timeout=30)
        connection = self.response.raw.connection
        self.socket = connection and connection.sock  # none once a short answer is complete
        self.content = b""
        self.clean = False
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        with contextlib.suppress(requests.RequestException, OSError):
            for piece in self.response.iter_content(None):
                self.content += piece
            self.clean = True

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *exc: object) -> None:
        self.cut()

    def cut(self) -> None:
        """Go away in the midst of it."""
        with contextlib.suppress(OSError):
            if self.socket:
                self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(20)
        self.response.close()

    def ended(self) -> bool:
        """Wait for the end; returns whether it was a clean one."""
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.clean

    def has(self, content: bytes) -> None:
        """Wait until exactly this has come."""

        def same() -> bool:
            alike(self.content, content)
            return True

        wait_until(same)

    def has_lines(self, count: int) -> None:
        """Wait until so many have come, or the end."""
        wait_until(lambda: self.content.count(b"\n") >= count or not self.thread.is_alive())

    def events(self) -> list[tuple[str, str, str]]:
        """Type, id and data of each whole event so far."""
        found = []
        for block in self.content.decode().split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
            if "data" in fields:
                found.append((fields.get("event", "message"), fields.get("id", ""), fields["data"]))
        return found

    def numbers(self) -> list[str]:
        return [data for kind, _, data in self.events() if kind == "message"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def echo(data: Path) -> Iterator[Echo]:
    """An echo whose file has three numbers, and which can be appended to."""
    data.write_bytes(b"10\n20\n30\n")
    with serving(data, "--stale", "0") as echo:
        yield echo


def status(echo: Echo) -> dict[str, object]:
    answer: dict[str, object] = echo.get("/status").json()
    return answer


def followers(echo: Echo, count: int) -> None:
    wait_until(lambda: status(echo)["followers"] == count)


# What is sent


@pytest.mark.parametrize(
    ("query", "before"),
    [
        *(("", b"10\n20\n30\n"), ("&tail=2", b"20\n30\n"), ("&tail=0", b""), ("&tail=99999999", b"10\n20\n30\n")),
        *(("&offset=0", b"10\n20\n30\n"), ("&offset=6", b"30\n"), ("&offset=9", b"")),
    ],
)
def test_text_is_what_is_there_and_then_each_new_number(echo: Echo, data: Path, query: str, before: bytes) -> None:
    with Stream(echo.url, query) as stream:
        stream.has(before)
        for number in (b"40\n", b"50\n60\n"):
            append(data, number)
            before += number
            stream.has(before)
        assert stream.response.headers["content-type"] == "text/plain; charset=utf-8"
        assert "content-length" not in stream.response.headers


def test_half_a_line_is_not_sent_until_it_is_one(echo: Echo, data: Path) -> None:
    with Stream(echo.url, "&tail=0") as stream:
        append(data, b"4")
        append(data, b"0\n5")
        stream.has(b"40\n")


def test_events_are_one_a_number_with_the_offset_after_it(echo: Echo, data: Path) -> None:
    generation = echo.get().headers["etag"].strip('"').split("-")[0]
    with Stream(echo.url, "&tail=1", EVENTS) as stream:
        append(data, b"40\n")
        expected = [("message", f"{generation}-9", "30"), ("message", f"{generation}-12", "40")]
        wait_until(lambda: stream.events() == expected)
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


def test_curl_prints_numbers_as_they_come_and_ends_with_0_when_echo_stops(echo: Echo, data: Path) -> None:
    with running([need("curl"), "--silent", "--no-buffer", f"{echo.url}/data?follow"]) as curl:
        curl.said("^30$")
        append(data, b"40\n")
        curl.said("^40$")
        assert echo.stop() < 1
        assert curl.ended() == 0
        assert curl.lines == ["10", "20", "30", "40"]


def test_head_is_the_head_alone(echo: Echo) -> None:
    response = requests.head(f"{echo.url}/data?follow", headers=EVENTS)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
    assert status(echo)["followers"] == 0


def test_a_silent_stream_of_events_has_a_comment_every_5_s(echo: Echo) -> None:
    with Stream(echo.url, "&tail=0", EVENTS) as stream:
        wait_until(lambda: stream.content.endswith(b"\n\n:\n\n:\n\n"), within=10)


# What is refused


@pytest.mark.parametrize(
    ("query", "words"),
    [
        *(("&offset=1", "offset 1 is inside a line"), ("&offset=10", "beyond the end: there are 9 bytes")),
        *(("&offset=999999999999999999", "beyond the end"), ("&offset=-1", "not a whole number")),
        *(("&offset=9" + "9" * 18, "not a whole number"), ("&tail=-1", "not a whole number")),
        *(("&tail=1&offset=0", "give one of them"), ("&last-event-id=x", "none that was given here")),
        *(("&last-event-id=GENERATION-1", "inside a line"), ("&last-event-id=GENERATION--1", "none that was")),
    ],
)
@pytest.mark.parametrize("headers", [{}, EVENTS], ids=["text", "events"])
def test_a_start_that_makes_no_sense_is_400_and_says_why(
    echo: Echo, query: str, words: str, headers: dict[str, str]
) -> None:
    generation = echo.get().headers["etag"].strip('"').split("-")[0]
    response = requests.get(f"{echo.url}/data?follow{query.replace('GENERATION', generation)}", headers=headers)
    assert response.status_code == 400
    assert words in response.text and response.text.count("\n") == 1


@pytest.mark.parametrize("text", ["x", "0123456789abcdef", "0123456789abcdef-1.5", "-1", "9" * 1000, "\xe9", "a, b"])
def test_a_last_event_id_of_nonsense_is_400_and_says_why(echo: Echo, text: str) -> None:
    response = requests.get(f"{echo.url}/data?follow", headers={**EVENTS, "Last-Event-ID": text.encode("latin-1")})
    assert response.status_code == 400
    assert "none that was given here" in response.text


def test_before_the_first_number_it_is_503(data: Path) -> None:
    with serving(data) as echo:
        response = echo.get("/data?follow")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")


def test_one_follower_too_many_is_503_until_one_leaves_and_others_are_served(data: Path) -> None:
    data.write_bytes(b"1\n")
    with serving(data, "--followers", "2", "--stale", "0") as echo, Stream(echo.url), Stream(echo.url) as second:
        followers(echo, 2)
        response = echo.get("/data?follow")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert "2 followers" in response.text
        assert echo.get().content == b"1\n"
        second.cut()
        followers(echo, 1)
        with Stream(echo.url) as third:
            third.has(b"1\n")


def test_followers_leave_descriptors_for_plain_requests(data: Path) -> None:
    data.write_bytes(b"1\n")
    command = 'ulimit -n 140 && exec "$0" -m echo --source "$1" --listen 127.0.0.1:0 --stale 0'
    with running(["sh", "-c", command, sys.executable, data]) as program, contextlib.ExitStack() as streams:
        echo = Echo(program, int(program.said("^serving .* on http://.*:([0-9]+)/data$")[1]))
        program.said("^--followers .ECHO_FOLLOWERS.: 1000 need more than 140 open files .ulimit -n.: 12 it is$")
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
            followers(echo, 0)


def test_work_in_steps_goes_a_step_at_a_time() -> None:
    """However much of it there is, others come in between."""
    done = 0

    def steps() -> Generator[None, None, int]:
        nonlocal done
        for _ in range(50):
            done += 1
            yield
        return 50

    async def together() -> tuple[list[int], list[int]]:
        seen: list[int] = []
        work = asyncio.gather(*(run_steps(steps()) for _ in range(20)))
        while not work.done():
            seen.append(done)
            await asyncio.sleep(0)
        return await work, seen

    results, seen = asyncio.run(together())
    assert results == [50] * 20
    assert max(after - before for before, after in itertools.pairwise(seen[3:])) <= 8  # after the first of each


# Resuming


@pytest.mark.parametrize("how", ["header", "query", "header before query"])
@pytest.mark.parametrize("kind", [{}, EVENTS], ids=["text", "events"])
def test_an_id_is_resumed_exactly_there(echo: Echo, data: Path, how: str, kind: dict[str, str]) -> None:
    etag = echo.get().headers["etag"].strip('"')
    older = etag.replace("-9", "-3")
    headers, query = dict(kind), f"&last-event-id={older}"
    if how != "query":
        headers["Last-Event-ID"] = older
        query = "&tail=0" if how == "header before query" else ""
    with Stream(echo.url, query, headers) as stream:
        append(data, b"40\n")
        wait_until(lambda: re.findall(rb"(?m)^(?:data: )?(\d+)$", stream.content) == [b"20", b"30", b"40"])
        assert stream.response.headers["last-event-id"] == older


def test_an_etag_is_an_id_to_go_on_from(echo: Echo, data: Path) -> None:
    etag = echo.get().headers["etag"].strip('"')
    append(data, b"40\n")
    with Stream(echo.url, f"&last-event-id={etag}") as stream:
        stream.has(b"40\n")


def test_an_id_from_a_replica_that_is_ahead_is_waited_for(echo: Echo, data: Path) -> None:
    ahead = echo.get().headers["etag"].strip('"').replace("-9", "-15")
    with Stream(echo.url, f"&last-event-id={ahead}") as stream:
        append(data, b"40\n")
        append(data, b"50\n60\n")
        stream.has(b"60\n")


def test_a_generation_that_is_gone_is_said_and_the_new_one_begun(echo: Echo, data: Path) -> None:
    old = echo.get().headers["etag"].strip('"')
    replace(data, b"7\n8\n")
    new = echo.get().headers["etag"].strip('"').removesuffix("-4")
    with Stream(echo.url, f"&last-event-id={old}", EVENTS) as stream:
        gone = ("gone", "", old.split("-")[0])
        wait_until(lambda: stream.events() == [gone, ("message", f"{new}-2", "7"), ("message", f"{new}-4", "8")])
    response = requests.get(f"{echo.url}/data?follow&last-event-id={old}")  # text has no way to say it
    assert response.status_code == 410
    assert old.split("-")[0] in response.text


def test_a_rotated_generation_is_resumed_in_the_file_that_it_was_renamed_to(echo: Echo, data: Path) -> None:
    """By an echo that never saw it too; a client that counts the bytes of text may be in the new one already."""
    old = echo.get().headers["etag"].strip('"')
    append(data, b"40\n")
    data.rename(f"{data}.1")
    data.write_bytes(b"50\n60\n")
    with serving(data, "--stale", "0") as other:
        new = other.get().headers["etag"].strip('"').removesuffix("-6")
        with Stream(other.url, f"&last-event-id={old}", EVENTS) as stream:
            expected = [("message", old.replace("-9", "-12"), "40"), ("generation", f"{new}-0", new)]
            expected += [("message", f"{new}-3", "50"), ("message", f"{new}-6", "60")]
            wait_until(lambda: stream.events() == expected)
        with Stream(other.url, f"&last-event-id={old}") as text:
            text.has(b"40\n50\n60\n")
        with Stream(other.url, f"&last-event-id={old.replace('-9', '-15')}") as text:
            text.has(b"60\n")
        assert other.get(f"/data?follow&last-event-id={old.replace('-9', '-13')}").status_code == 400


# What happens to the file


def rotate(data: Path, content: bytes) -> None:
    data.rename(f"{data}.1")
    data.write_bytes(content)


def rewrite(data: Path, content: bytes) -> None:
    os.truncate(data, 0)
    append(data, content)


@pytest.mark.parametrize("turn", [rotate, replace])
def test_what_was_written_before_the_file_was_replaced_is_not_lost(
    echo: Echo, data: Path, turn: Callable[[Path, bytes], None]
) -> None:
    with Stream(echo.url) as text, Stream(echo.url, "", EVENTS) as events:
        text.has(b"10\n20\n30\n")
        append(data, b"40\n")
        turn(data, b"50\n")
        text.has(b"10\n20\n30\n40\n50\n")
        wait_until(lambda: len(events.events()) == 6)
        assert events.numbers() == ["10", "20", "30", "40", "50"]
        assert [kind for kind, _, _ in events.events()].index("generation") == 4


def test_a_truncated_file_is_followed_from_its_new_beginning(echo: Echo, data: Path) -> None:
    with Stream(echo.url) as text, Stream(echo.url, "", EVENTS) as events:
        text.has(b"10\n20\n30\n")
        wait_until(lambda: len(events.events()) == 3)
        os.truncate(data, 0)
        wait_until(lambda: echo.get().status_code == 503)
        append(data, b"7\n8\n")
        text.has(b"10\n20\n30\n7\n8\n")
        wait_until(lambda: events.numbers() == ["10", "20", "30", "7", "8"])


def test_what_a_truncation_took_from_a_follower_is_said(data: Path) -> None:
    """One that had not read it yet, for it reads slowly."""
    data.write_bytes(numbers(2_000_000))
    with serving(data, "--stale", "0") as echo, echo.connect() as client:
        client.sendall(b"GET /data?follow HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
        generation = echo.get("/data?tail=1").status_code and status(echo)["generation"]
        followers(echo, 1)
        rewrite(data, b"7\n")
        wait_until(lambda: status(echo)["size"] == 2)
        received = b""
        while b"data: 7\n" not in received[-100:] and (piece := client.recv(2**20)):
            received += piece
        assert f"event: gone\ndata: {generation}\n".encode() in received
        events = re.findall(rb"id: \w+-(\d+)\ndata: (\d+)\n", received)
        assert all(int(data) == (int(offset) // 6 - 1) % 100_000 for offset, data in events[:-1])


def test_what_a_truncation_took_from_a_client_of_text_ends_its_stream(data: Path) -> None:
    """Not cleanly, for text has no way to say it; asking again is 410."""
    data.write_bytes(numbers(2_000_000))
    with serving(data, "--stale", "0") as echo, echo.connect() as client:
        client.sendall(b"GET /data?follow HTTP/1.1\r\nHost: x\r\n\r\n")
        position = f"{status(echo)['generation']}-6"
        followers(echo, 1)
        rewrite(data, b"7\n")
        wait_until(lambda: status(echo)["size"] == 2)
        with pytest.raises(http.client.IncompleteRead):
            read_chunked(client)
        echo.program.said("cannot go on with a response .* is gone$")
        assert echo.get(f"/data?follow&last-event-id={position}").status_code == 410


def test_two_rotations_between_two_looks_lose_nothing(echo: Echo, data: Path) -> None:
    with Stream(echo.url) as text, Stream(echo.url, "", EVENTS) as events:
        text.has(b"10\n20\n30\n")
        echo.program.signal(signal.SIGSTOP)
        append(data, b"40\n")
        rotate(data, b"50\n60\n")
        rotate(data, b"70\n")
        echo.program.signal(signal.SIGCONT)
        text.has(b"10\n20\n30\n40\n50\n60\n70\n")
        wait_until(lambda: events.numbers() == ["10", "20", "30", "40", "50", "60", "70"])
        assert [kind for kind, _, _ in events.events()].count("generation") == 2


def test_an_event_id_never_counts_into_the_next_generation(echo: Echo, data: Path) -> None:
    """It is of a replica that was ahead of this one."""
    ahead = echo.get().headers["etag"].strip('"').replace("-9", "-15")
    with Stream(echo.url, f"&last-event-id={ahead}", EVENTS) as stream:
        followers(echo, 1)
        replace(data, b"1\n2\n3\n4\n")
        wait_until(lambda: stream.numbers() == ["1", "2", "3", "4"])


def test_an_event_id_beyond_the_end_of_a_generation_is_told_of_the_next(echo: Echo, data: Path) -> None:
    """As of numbers that a crash has taken from the file."""
    ahead = echo.get().headers["etag"].strip('"').replace("-9", "-15")
    rotate(data, b"1\n")
    with Stream(echo.url, f"&last-event-id={ahead}", EVENTS) as stream:
        wait_until(lambda: [kind for kind, _, _ in stream.events()] == ["generation", "message"])


def test_a_slow_reader_does_not_hold_generation_after_generation(data: Path) -> None:
    data.write_bytes(numbers(1_000_000))
    with serving(data, "--stale", "0") as echo, echo.connect() as client:
        client.sendall(b"GET /data?follow HTTP/1.1\r\nHost: x\r\n\r\n")
        followers(echo, 1)
        before = len(os.listdir(f"/proc/{echo.program.pid}/fd"))
        for turn in range(40):
            replace(data, b"%d\n" % turn)
            wait_until(lambda: echo.get().content == b"%d\n" % turn)  # noqa: B023
        assert len(os.listdir(f"/proc/{echo.program.pid}/fd")) < before + 20


def test_the_removal_of_the_file_is_waited_out(echo: Echo, data: Path) -> None:
    with Stream(echo.url) as stream:
        stream.has(b"10\n20\n30\n")
        data.unlink()
        wait_until(lambda: echo.get().status_code == 503)
        data.write_bytes(b"40\n")
        stream.has(b"10\n20\n30\n40\n")


# How it is watched


def test_other_files_of_the_folder_tell_nothing_of_this_one(data: Path) -> None:
    data.write_bytes(b"1\n")

    async def told(change: Callable[[], object]) -> bool:
        watch = Watch(DataFile(data))
        watch.look = lambda: False
        running = asyncio.ensure_future(watch.run(lambda: False))
        while not (watch.inotify and watch.file > 0):
            await asyncio.sleep(0.001)
        asyncio.get_running_loop().remove_reader(watch.inotify.fd)
        change()
        heard = watch._read()
        running.cancel()
        return heard

    assert not asyncio.run(told(data.with_name("other").touch))
    assert asyncio.run(told(lambda: append(data, b"2\n")))
    assert asyncio.run(told(lambda: replace(data, b"3\n")))


def test_if_watching_breaks_echo_ends_and_says_why(data: Path, tmp_path: Path) -> None:
    """Its supervisor is to start it anew: it would serve on, but tell nobody of what comes."""
    data.write_bytes(b"1\n")
    broken = "def INotify(**_):\n    raise RuntimeError('broken')\n\n\nclass flags:\n"
    broken += "".join(f"    {name} = 0\n" for name in ("MODIFY", "ATTRIB", "MOVE_SELF", "DELETE_SELF", "CREATE"))
    (tmp_path / "inotify_simple.py").write_text(broken + "    MOVED_TO = IGNORED = 0\n")
    command = [sys.executable, "-m", "echo", "--source", str(data), "--listen", "127.0.0.1:0"]
    with running(command, {"PYTHONPATH": f"{tmp_path}:{ROOT}"}) as program:
        assert program.ended() == 1
        assert "cannot go on: RuntimeError('broken')" in program.output


def test_inotify_is_used_where_it_works(echo: Echo, data: Path) -> None:
    wait_until(lambda: status(echo)["watching"] == "inotify")
    with Stream(echo.url) as stream:
        for number in range(5):
            append(data, b"%d\n" % number)
            stream.has(b"10\n20\n30\n" + b"".join(b"%d\n" % before for before in range(number + 1)))
    assert status(echo)["watching"] == "inotify"


def test_a_link_to_a_file_elsewhere_is_followed_and_so_is_the_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    first, second, link = tmp_path / "elsewhere" / "1", tmp_path / "elsewhere" / "2", tmp_path / "data"
    first.write_bytes(b"1\n")
    second.write_bytes(b"3\n")
    link.symlink_to(first)
    with serving(link, "--stale", "0") as echo, Stream(echo.url) as stream:
        wait_until(lambda: status(echo)["watching"] == "inotify")
        append(first, b"2\n")
        stream.has(b"1\n2\n")
        (tmp_path / "new").symlink_to(second)
        os.replace(tmp_path / "new", link)
        stream.has(b"1\n2\n3\n")
        append(second, b"4\n")
        stream.has(b"1\n2\n3\n4\n")
        assert status(echo)["watching"] == "inotify"


NAMESPACES = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")


@contextlib.contextmanager
def serving_within(prepare: str, source: Path) -> Iterator[Echo]:
    """An echo in namespaces of its own, in which a shell command is run before."""
    need("unshare")
    command = f'{prepare} && exec "$0" -m echo --source "$1" --listen 127.0.0.1:0 --stale 0'
    with running([*NAMESPACES, command, sys.executable, source]) as program:
        wait_until(lambda: program.lines or program.process.poll() is not None)
        if program.process.poll() is not None and not os.environ.get("CI"):
            pytest.skip(f"no namespaces here: {program.output}")
        yield Echo(program, int(program.said("^serving .* on http://.*:([0-9]+)/data$")[1]))


def test_without_inotify_it_polls_and_says_so(data: Path) -> None:
    data.write_bytes(b"1\n")
    with serving_within("echo 0 >/proc/sys/user/max_inotify_instances", data) as echo, Stream(echo.url) as stream:
        assert status(echo)["watching"] == "polling"
        append(data, b"2\n")
        stream.has(b"1\n2\n")
        replace(data, b"3\n")
        stream.has(b"1\n2\n3\n")


def test_where_inotify_does_not_tell_it_is_found_out(tmp_path: Path) -> None:
    """The file is seen through an overlay and written to beneath it: as on a network file system nothing is told."""
    lower, upper, work, seen = (tmp_path / name for name in ("lower", "upper", "work", "seen"))
    for folder in (lower, upper, work, seen):
        folder.mkdir()
    (upper / "data").write_bytes(b"1\n")
    mount = f"mount -t overlay overlay -o lowerdir={lower},upperdir={upper},workdir={work} {seen}"
    with serving_within(mount, seen / "data") as echo, Stream(echo.url) as stream:
        wait_until(lambda: status(echo)["watching"] == "inotify")
        sent = b"1\n"
        while status(echo)["watching"] == "inotify" and len(sent) < 100:
            append(upper / "data", b"2\n")
            sent += b"2\n"
            stream.has(sent)
        assert status(echo)["watching"] == "polling"
        assert len(sent) <= 8  # two changes that were not told, and perhaps one more that came in between


# Many clients, cut off at random


def follow_text(url: str, position: str, total: int, chance: random.Random) -> list[str]:
    """The numbers, by a client that counts bytes, is cut off at random, and says where it was."""
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
    """The numbers, by a client that is cut off at random and sends the last whole event's id, as a browser does."""
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
    """300 numbers at 10 ms, 50 clients of text and 50 of events; none missing and none twice."""
    total, port = 300, free_port()
    flags = ["--count", str(total), "--seed", "1", "--min", str(10**17), "--max", str(10**18 - 1)]  # 5,700 bytes
    with running([sys.executable, "-m", "generator", "--file", f"{data}.same", "--interval", "0", *flags]) as same:
        assert same.ended() == 0
    expected = Path(f"{data}.same").read_text().split()
    flags += ["--file", str(data), "--interval", "0.01", "--segment-size", "4096B" if "rotation" in happening else "0"]
    results: dict[int, list[str]] = {}

    def client(number: int) -> None:
        follow = follow_text if number % 2 else follow_events
        results[number] = follow(echo.url, beginning, total, random.Random(number))

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(100)]
    with contextlib.ExitStack() as programs:
        echo = programs.enter_context(serving(data, "--stale", "0", at=f"127.0.0.1:{port}"))
        generator = programs.enter_context(running([sys.executable, "-m", "generator", *flags]))
        wait_until(lambda: echo.get().status_code == 200)
        beginning = f"{status(echo)['generation']}-0"
        for thread in threads:
            thread.start()
        if "rotation" in happening:
            wait_until(Path(f"{data}.1").exists)
        if "restart" in happening:
            wait_until(lambda: int(str(status(echo)["numbers"])) > 20)
            echo.stop()
            programs.enter_context(serving(data, "--stale", "0", at=f"127.0.0.1:{port}"))
        assert generator.ended() == 0
        for thread in threads:
            thread.join(30)
        assert sorted(results) == list(range(100))
        assert [number for number, seen in results.items() if seen != expected] == []


# Load


def test_plain_requests_are_answered_while_a_thousand_follow(data: Path) -> None:
    """And all thousand streams have every number, and end cleanly when echo stops."""
    data.write_bytes(b"1\n")
    request = b"GET /data?follow&tail=0 HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(data, "--stale", "0") as echo, contextlib.ExitStack() as clients:
        streams = [clients.enter_context(echo.connect()) for _ in range(1000)]
        for stream in streams:
            stream.sendall(request)
        followers(echo, 1000)
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


def read_chunked(client: socket.socket) -> bytes:
    """The body of a response in chunks, which must be complete. Raises http.client.IncompleteRead."""
    response = http.client.HTTPResponse(client)
    response.begin()
    return response.read()


def rss(echo: Echo) -> int:
    """Bytes of resident memory."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{echo.program.pid}/status").read_text())
    assert match
    return int(match[1]) * 1024


def test_readers_that_stop_reading_are_dropped_and_never_grow_memory(data: Path) -> None:
    """200 of them, while another gets all that comes."""
    data.write_bytes(numbers(1_000_000))
    with contextlib.ExitStack() as stack:
        echo = stack.enter_context(serving(data, "--stale", "0", "--stall-timeout", "2"))
        reader = stack.enter_context(Stream(echo.url, "&tail=0"))
        followers(echo, 1)
        before = rss(echo)
        for _ in range(200):
            stalled = stack.enter_context(echo.connect())
            stalled.sendall(b"GET /data?follow HTTP/1.1\r\nHost: x\r\n\r\n")
        followers(echo, 201)
        sent, peak = b"", 0
        while status(echo)["followers"] != 1:
            append(data, b"99999\n")
            sent += b"99999\n"
            reader.has(sent)
            peak = max(peak, rss(echo))
        assert peak - before < 200 * 2**17 + 8 * SMALL


# The end of a large file


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of 1 GB."""
    path = tmp_path_factory.mktemp("large") / "data"
    block = numbers(166_667)
    with path.open("wb") as file:
        for _ in range(1000):
            file.write(block)
    yield path
    path.unlink()


def read_bytes(echo: Echo) -> int:
    """That it has read so far, of files and connections."""
    match = re.search(r"rchar: (\d+)", Path(f"/proc/{echo.program.pid}/io").read_text())
    assert match
    return int(match[1])


def test_the_end_of_a_gigabyte_is_served_without_reading_the_rest(large: Path) -> None:
    """Also by a fresh echo, and by a stream that begins there; and counting it is done once."""
    with serving(large, "--stale", "0") as echo:
        before = read_bytes(echo)
        assert echo.get("/data?tail=10").content == numbers(166_667)[-60:]
        with Stream(echo.url, "&tail=2") as stream:
            stream.has(numbers(166_667)[-12:])
        assert read_bytes(echo) - before < 300_000
        assert status(echo)["numbers"] == 166_667_000
        before = read_bytes(echo)
        append(large, b"1\n")
        assert status(echo)["numbers"] == 166_667_001
        os.truncate(large, large.stat().st_size - 2)
        assert read_bytes(echo) - before < 300_000


def test_a_stop_does_not_wait_for_long_searches(large: Path) -> None:
    """Of twelve who want nearly all of it, as its tail; and small requests go in between."""
    with serving(large, "--stale", "0", "--stop-timeout", "1") as echo, contextlib.ExitStack() as clients:
        for _ in range(12):
            client = clients.enter_context(echo.connect())
            client.sendall(b"GET /data?tail=166000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert echo.get("/data?tail=1").status_code == 200
        assert echo.stop() < 4


# At the stop


def test_a_stop_ends_streams_of_all_kinds_cleanly(echo: Echo, data: Path) -> None:
    with Stream(echo.url) as text, Stream(echo.url, "", EVENTS) as events:
        followers(echo, 2)
        began = time.monotonic()
        echo.program.signal(signal.SIGTERM)
        assert text.ended() and events.ended()
        text.response.close()
        events.response.close()
        assert echo.program.ended() == 0
        assert time.monotonic() - began < 2
        assert text.content == b"10\n20\n30\n"
