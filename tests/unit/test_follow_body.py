"""Bodies of followers on a fake stream: growing, finished and removed segments, fair turns."""

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from echo.endpoints.data import Data
from echo.endpoints.follow import CACHED_CHUNKS, EVENTS, LINES, CannotSay, ChunkCache, Cursor, FollowBody, Lines
from echo.endpoints.followers import SENDS_PER_PASS, Follower, Followers, TooManyFollowers
from echo.endpoints.live import LiveRange
from echo.endpoints.query import BadQuery
from echo.endpoints.steps import run_steps
from echo.http.response import MAX_BUFFERED_BYTES
from echo.store import MAX_LINE_BYTES, DataFolder
from support.segments import STREAM, Writer


class FakeStream:
    """A stream without chunks that records what is sent."""

    def __init__(self, body: Follower) -> None:
        self.body = body
        self.chunked = self.blocked = self.finished = False
        self.piece_bytes = 1000
        self.sent = b""
        self.resume()

    def write(self, data: bytes) -> None:
        self.sent += data

    def offer(self, data: bytes | memoryview) -> int:
        self.sent += data
        return len(data)

    def resume(self) -> None:
        while not self.blocked and not self.finished and self.body.send(self):
            pass

    def finish(self) -> None:
        self.finished = True
        self.body.close()


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    writer = Writer(tmp_path / "data")
    writer.append(b"10\n20\n")
    return writer


@pytest.fixture
def data(writer: Writer) -> Data:
    data = Data(DataFolder(writer.path), Followers(2))
    data.refresh()
    return data


def follow(data: Data, format: Lines = LINES, position: int = 0) -> FakeStream:
    segment = data.folder.refresh()
    return FakeStream(FollowBody(data.followers, Cursor(segment, position), format, b"", data.chunks))


def live(data: Data, position: int = 0) -> FakeStream:
    return FakeStream(LiveRange(data.followers, data.folder.refresh(), position))


@pytest.mark.parametrize("begin", [follow, live])
def test_a_follower_is_sent_what_comes(data: Data, writer: Writer, begin: Callable[[Data], FakeStream]) -> None:
    stream = begin(data)
    assert stream.sent == b"10\n20\n"
    writer.append(b"30\n4")
    assert data.refresh() and not data.refresh()
    assert stream.sent == b"10\n20\n30\n"


@pytest.mark.parametrize("begin", [follow, live])
def test_a_follower_is_sent_what_a_request_saw(data: Data, writer: Writer, begin: Callable[[Data], FakeStream]) -> None:
    """The request refreshed the folder before the notifier did."""
    stream = begin(data)
    writer.append(b"30\n")
    data.folder.refresh()
    assert data.refresh()
    assert stream.sent == b"10\n20\n30\n"


def test_many_followers_leave_room_for_requests(data: Data, writer: Writer) -> None:
    """One pass of the event loop sends to a limited number of followers."""
    many = 3 * SENDS_PER_PASS

    async def passes() -> list[int]:
        data.followers.limit = many
        streams = [follow(data) for _ in range(many)]
        writer.append(b"30\n")
        data.refresh()
        served: list[int] = []
        while not served or served[-1] < many:
            served.append(sum(stream.sent == b"10\n20\n30\n" for stream in streams))
            await asyncio.sleep(0)
        return served

    assert asyncio.run(passes()) == [SENDS_PER_PASS, 2 * SENDS_PER_PASS, many]


def test_a_fault_in_one_follower_does_not_stop_the_others(data: Data, writer: Writer) -> None:
    async def last_one_is_served() -> bool:
        data.followers.limit = SENDS_PER_PASS + 1
        streams = [follow(data) for _ in range(SENDS_PER_PASS + 1)]
        faulty, *_, last = data.followers.at_end
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(faulty), "resume", fail_for(faulty, type(faulty).resume))
            writer.append(b"30\n")
            with pytest.raises(ZeroDivisionError):
                data.refresh()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return any(stream.body is last and stream.sent == b"10\n20\n30\n" for stream in streams)

    assert asyncio.run(last_one_is_served())


def fail_for(faulty: Follower, resume: Callable[[Follower], None]) -> Callable[[Follower], None]:
    def resume_or_fail(follower: Follower) -> None:
        if follower is faulty:
            raise ZeroDivisionError
        resume(follower)

    return resume_or_fail


def test_a_blocked_follower_goes_on_when_it_can(data: Data, writer: Writer) -> None:
    stream = follow(data)
    stream.blocked = True
    writer.append(b"30\n")
    data.refresh()
    assert stream.sent == b"10\n20\n"
    stream.blocked = False
    stream.resume()
    assert stream.sent == b"10\n20\n30\n"


def test_a_live_range_ends_with_its_segment_and_a_follower_goes_on(data: Data, writer: Writer) -> None:
    one, other = live(data), follow(data)
    writer.append(b"30\n")
    writer.rotate(b"40\n")
    data.refresh()
    assert (one.finished, one.sent) == (True, b"10\n20\n30\n")
    assert (other.finished, other.sent) == (False, b"10\n20\n30\n40\n")
    assert len(data.followers) == 1


@pytest.mark.parametrize("begin", [follow, live])
def test_a_follower_far_behind_gets_all(data: Data, writer: Writer, begin: Callable[[Data], FakeStream]) -> None:
    writer.append(b"12345\n" * MAX_BUFFERED_BYTES)
    assert begin(data).sent == writer.file.read_bytes()


@pytest.mark.parametrize("format", [LINES, EVENTS])
@pytest.mark.parametrize("length", [2047, 2048, 2049, MAX_LINE_BYTES - 1, MAX_LINE_BYTES])
def test_a_long_line_is_sent_in_either_format(data: Data, writer: Writer, format: Lines, length: int) -> None:
    writer.append(b"7" * (length - 1) + b"\n8\n")
    sent = follow(data, format).sent
    assert b"7" * (length - 1) + b"\n" in sent and sent.rstrip().endswith(b"8")


def test_a_gap_is_said_once_it_is_certain(data: Data, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if no number follows; text is cut off."""
    text, events = follow(data), follow(data, EVENTS, 6)
    writer.rotate(b"40\n", gap=10)
    data.refresh()
    assert events.sent == b""
    now = time.monotonic()
    monkeypatch.setattr("echo.store.folder.time.monotonic", lambda: now + 10)
    text.blocked = True
    assert data.refresh()
    expected = b"event: gone\ndata: %b-6\n\nid: %b-19\ndata: 40\n\n" % (STREAM.encode(), STREAM.encode())
    assert events.sent == expected
    text.blocked = False
    with pytest.raises(CannotSay, match=f"{STREAM}-6 are gone"):
        text.resume()


def test_a_stop_ends_all_streams(data: Data) -> None:
    streams = [follow(data), live(data)]
    data.followers.stop()
    assert [stream.finished for stream in streams] == [True, True]
    assert len(data.followers) == 0


def test_heartbeats_are_for_silent_events_alone(data: Data) -> None:
    text, events = follow(data), follow(data, EVENTS, 6)
    data.followers.send_heartbeats(0)
    data.followers.send_heartbeats(60)
    assert (text.sent, events.sent) == (b"10\n20\n", b":\n")
    events.blocked = True
    data.followers.send_heartbeats(0)
    assert events.sent == b":\n"


def test_there_is_room_until_the_limit(data: Data) -> None:
    follow(data)
    data.followers.check_room()
    second = follow(data)
    with pytest.raises(TooManyFollowers, match="2 followers"):
        data.followers.check_room()
    second.body.close()
    data.followers.check_room()


def test_a_cursor_refuses_the_inside_of_a_line(data: Data) -> None:
    segment = data.folder.refresh()
    assert str(Cursor(segment, 3)) == f"{STREAM}-3"
    for position in (0, 3, 6):
        Cursor(segment, position).check()
    with pytest.raises(BadQuery, match="offset 4 is inside a line"):
        Cursor(segment, 4).check()


def test_chunks_are_made_once_for_all_and_not_kept(data: Data, writer: Writer) -> None:
    cache = ChunkCache()
    writer.append(b"30\n" * CACHED_CHUNKS)
    segment = data.folder.refresh()
    chunk = cache.get(segment, 0, EVENTS)
    assert cache.get(segment, 0, EVENTS) is chunk
    assert cache.get(segment, 0, LINES) is not chunk
    for position in range(3, 3 * CACHED_CHUNKS, 3):
        cache.get(segment, position, LINES)
    assert len(cache.chunks) == CACHED_CHUNKS
    cache.clear()
    assert not cache.chunks


def test_a_segment_removed_in_a_look_is_looked_for_again(data: Data, writer: Writer) -> None:
    """The writer rotated between the read of the symlink and the open."""
    look, rotated = data.folder._update, list[Path]()

    def late(there: os.stat_result) -> object:
        if not rotated:
            rotated.append(writer.file)
            writer.rotate(b"30\n")
            rotated[0].unlink()
            raise FileNotFoundError
        return look(there)

    data.folder._update = late  # type: ignore[assignment, method-assign]
    writer.append(b"25\n")
    assert data.folder.refresh().name == f"{STREAM}-9"


def test_work_in_steps_goes_a_step_at_a_time() -> None:
    """Requests are served between the steps."""
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
