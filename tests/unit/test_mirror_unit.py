"""The mirror copies the source's segments byte for byte, whatever is between the two."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as profiles
from hypothesis import strategies as st

from echo.mirror import Link, Mirror, mirror, upstream
from echo.mirror.copies import FINISHED_SEGMENTS, Copies, Copy, NotNumbers
from echo.mirror.mirror import MAX_PAUSE_SECONDS, MIN_PAUSE_SECONDS, pause
from echo.mirror.numbers import are_numbers
from echo.settings import Settings
from echo.store import MAX_LINE_BYTES, DataFolder, NotReady, SegmentName
from support import free_port, wait_until
from support.fake_source import Handler, Source, serving

profiles.register_profile("mirror", derandomize=True, deadline=None)
profiles.load_profile("mirror")

STREAM = "5f3a9c21"
FIRST = f"{STREAM}-0"
LINES = st.lists(st.integers(-(10**6), 10**6).map(lambda number: b"%d\n" % number)).map(b"".join)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the timeouts and pauses."""
    monkeypatch.setattr(upstream, "READ_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(mirror, "WHOLE_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(mirror, "MAX_PAUSE_SECONDS", 0.2)


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    source.append(b"1\n22\n", FIRST)
    yield source


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(mirror, "log", lines.append)
    return lines


@contextlib.contextmanager
def mirroring(url: str, spool: Path | None = None, token: Path | None = None) -> Iterator[Mirror]:
    found = Mirror(Settings(source=url, spool=spool, source_token_file=token, source_ca=None))
    found.start()
    try:
        yield found
    finally:
        found.close()
        found._thread.join(10)
        assert not found._thread.is_alive()


def copied(mirror: Mirror) -> dict[str, bytes]:
    """Return the segments that a reader of the mirror's folder sees."""
    data = DataFolder(mirror.folder)
    with contextlib.suppress(NotReady):
        data.refresh()
        return {segment.name: segment.read(0, segment.size) for segment in data.segments()}
    return {}


def wait_for_copy(mirror: Mirror, source: Source) -> None:
    def same() -> bool:
        copies = copied(mirror)
        return copies.get(source.current) == source.segments[source.current]

    wait_until(same)


# Accepted data


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_a_pause_is_random_and_within_its_bounds(failures: int, where: float) -> None:
    longest = [0.0]

    def chance(low: float, high: float) -> float:
        longest[0] = high
        return low + (high - low) * where

    assert MIN_PAUSE_SECONDS <= pause(failures, chance) <= MAX_PAUSE_SECONDS
    assert longest[0] >= min(mirror.MAX_PAUSE_SECONDS, 2 ** min(failures, 10) * MIN_PAUSE_SECONDS)


@given(LINES, st.integers(0, 100), st.integers(0, 100))
def test_any_part_of_a_file_of_numbers_is_accepted(lines: bytes, start: int, length: int) -> None:
    assert are_numbers(lines[start : start + length])


@given(LINES, st.binary(min_size=1).filter(lambda block: block.translate(None, b"0123456789-\n")), LINES)
def test_no_other_byte_is_accepted(before: bytes, other: bytes, after: bytes) -> None:
    assert not are_numbers(before + other + after)


@given(LINES, st.lists(st.integers(0, 50), max_size=20))
def test_a_copy_has_whole_lines_of_any_pieces(lines: bytes, cuts: list[int]) -> None:
    with contextlib.closing(Copies(None)) as copies:
        copy = copies.open(SegmentName(STREAM, 0))
        start = 0
        for stop in [*sorted(cuts), len(lines)]:
            copy.append(lines[start:stop])
            start = max(start, min(stop, len(lines)))
            whole = lines[:start].rfind(b"\n") + 1
            assert copy.path.read_bytes() == lines[:whole] and copy.size == whole and copy.received == start
        copy.close()


def test_a_copy_refuses_an_endless_line(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy", SegmentName(STREAM, 0))
    copy.append(b"1\n")
    with pytest.raises(NotNumbers, match="a line has more than"):
        for _ in range(MAX_LINE_BYTES):
            copy.append(b"77")
    copy.forget_torn()
    with pytest.raises(NotNumbers, match="a line has more than"):
        copy.append(b"2\n%b\n3\n" % (b"7" * MAX_LINE_BYTES))
    copy.close()
    assert copy.path.read_bytes() == b"1\n"


@pytest.mark.parametrize(
    ("left", "kept"), [(b"1\n2\n3", b"1\n2\n"), (b"1\n<html>", b""), (b"12", b""), (b"1\n", b"1\n")]
)
def test_a_copy_continues_the_numbers_that_were_left(tmp_path: Path, left: bytes, kept: bytes) -> None:
    path = tmp_path / "copy"
    path.write_bytes(left)
    copy = Copy(path, SegmentName(STREAM, 0))
    assert (path.read_bytes(), copy.size) == (kept, len(kept))
    copy.close()


# Following


def test_a_mirror_has_the_same_bytes_under_the_same_name(source: Source, log: list[str]) -> None:
    with serving(source) as url, mirroring(url) as mirror:
        wait_for_copy(mirror, source)
        for number in range(20):
            source.append(b"%d\n" % number)
            wait_for_copy(mirror, source)
        assert list(copied(mirror)) == [FIRST]
        wait_until(lambda: mirror.status.link is Link.FOLLOWING and mirror.status.behind == 0)
        assert len(source.requests) == 1
        assert mirror.status.caught_up and mirror.status.problem is None
        assert log == [f"following {url}"]


def test_a_silent_source_is_asked_again_from_the_last_line(source: Source, log: list[str]) -> None:
    with serving(source) as url, mirroring(url) as mirror:
        wait_until(lambda: len(source.requests) >= 3)
        assert source.requests[1][1:] == (f"/data/{FIRST}", f"bytes=2-{2**53 - 1}")
        source.append(b"3\n")
        wait_for_copy(mirror, source)
        assert log == [f"following {url}"]


def test_each_segment_is_copied_and_the_oldest_removed(source: Source, log: list[str]) -> None:
    with serving(source) as url, mirroring(url) as mirror:
        wait_for_copy(mirror, source)
        for number in range(5):
            source.append(b"0\n")
            source.rotate(b"%d\n" % number)
            wait_for_copy(mirror, source)
        kept = list(source.segments)[-1 - FINISHED_SEGMENTS :]
        wait_until(lambda: sorted(copied(mirror)) == sorted(kept))
        assert copied(mirror) == {name: source.segments[name] for name in kept}
        assert log == [f"following {url}"]


def test_rotations_while_the_source_is_away_lose_nothing(source: Source, tmp_path: Path) -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        with serving(source, port) as url:
            mirror = stack.enter_context(mirroring(url))
            wait_for_copy(mirror, source)
        wait_until(lambda: mirror.status.link is Link.AWAY)
        assert mirror.status.problem and mirror.status.behind is None
        source.append(b"333\n")
        source.rotate(b"4\n")
        source.rotate(b"5\n")
        with serving(source, port):
            wait_for_copy(mirror, source)
            assert copied(mirror) == source.segments
            wait_until(lambda: mirror.status.problem is None)


def test_only_what_the_source_dropped_is_missing(source: Source, log: list[str]) -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        with serving(source, port) as url:
            mirror = stack.enter_context(mirroring(url))
            wait_for_copy(mirror, source)
        source.append(b"3\n")
        source.rotate(b"4\n")
        source.rotate(b"5\n")
        source.remove(FIRST)
        with serving(source, port):
            wait_for_copy(mirror, source)
        assert copied(mirror) == {FIRST: b"1\n22\n", f"{STREAM}-7": b"4\n", f"{STREAM}-9": b"5\n"}
    assert f"{url} no longer keeps segment {FIRST}" in log


@pytest.mark.parametrize("length", [None, "5"], ids=["no length", "length cut short"])
def test_a_truncated_head_is_not_a_gap(source: Source, length: str | None) -> None:
    """A live range may end before the segment does, for example when the source stops."""
    source.segments[FIRST] = b"1\n" * 2600
    first = source.segments[FIRST]
    source.rotate(b"9\n", gap=10)
    cuts = [3]

    def cut(handler: Handler) -> bool:
        if handler.range[1] == 0 and cuts[0]:
            cuts[0] -= 1
            length_field = f"Content-Range: bytes 0-0/{length}" if length else ""
            link = f'Link: </data/{source.current}>; rel="next"'
            handler.wfile.write(f"HTTP/1.1 206 Partial\r\n{link}\r\n{length_field}".encode())
            handler.close_connection = True
            return True
        return handler.path == f"/data/{FIRST}" and cuts[0] > 0 and live(handler, b"1\n")

    with serving(source) as url:
        source.segments = {FIRST: first}
        with mirroring(url) as mirror:
            wait_for_copy(mirror, source)
            mirror.reload()
            source.answer = cut
            source.rotate(b"9\n", gap=10)
            wait_until(lambda: not cuts[0])
            wait_for_copy(mirror, source)
            assert copied(mirror) == source.segments


def test_a_new_stream_is_copied_from_its_oldest_segment(source: Source) -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        with serving(source, port) as url:
            mirror = stack.enter_context(mirroring(url))
            wait_for_copy(mirror, source)
        source.append(b"7\n", "0a0b0c0d-0")
        source.rotate(b"8\n")
        source.remove(FIRST)
        with serving(source, port):
            wait_for_copy(mirror, source)
        assert list(copied(mirror)) == [FIRST, "0a0b0c0d-0", "0a0b0c0d-2"]


def test_a_mirror_waits_for_a_source_that_is_behind(source: Source, log: list[str]) -> None:
    """The source may be a mirror that started over."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        with serving(source, port) as url:
            mirror = stack.enter_context(mirroring(url))
            wait_for_copy(mirror, source)
            last = source.rotate(b"3\n")
            wait_for_copy(mirror, source)
        later = source.segments.pop(last)
        with serving(source, port):
            wait_until(lambda: [line for line in log if f"has no segment {last}, only {FIRST}" in line])
            assert os.readlink(mirror.folder).endswith("5")
            source.append(later + b"4\n", last)
            wait_for_copy(mirror, source)


def test_a_truncated_response_is_not_a_missing_segment(source: Source, log: list[str]) -> None:
    with serving(source) as url, mirroring(url) as mirror:
        wait_for_copy(mirror, source)
        source.answer = raw(b"HTTP/1.1 410 Gone\r\nContent-Le")
        wait_until(lambda: [line for line in log if "the response was cut short" in line])
        assert not [line for line in log if "has no segment" in line]
        source.answer = lambda handler: False
        source.append(b"3\n")
        wait_for_copy(mirror, source)


def test_another_stream_is_followed(source: Source) -> None:
    with serving(source) as url, mirroring(url) as mirror:
        wait_for_copy(mirror, source)
        source.append(b"7\n", "0a0b0c0d-0")
        wait_for_copy(mirror, source)
        assert copied(mirror) == source.segments


def test_a_spool_is_continued(source: Source, tmp_path: Path) -> None:
    with serving(source) as url:
        with mirroring(url, tmp_path) as mirror:
            wait_for_copy(mirror, source)
        source.append(b"3\n")
        source.rotate(b"4\n")
        source.requests.clear()
        with mirroring(url, tmp_path) as mirror:
            wait_for_copy(mirror, source)
            assert copied(mirror) == source.segments
            assert source.requests[0] == ("GET", f"/data/{FIRST}", f"bytes=2-{2**53 - 1}")


def test_a_spool_has_one_mirror_a_private_folder_is_removed(source: Source, tmp_path: Path) -> None:
    with serving(source) as url, mirroring(url, tmp_path), pytest.raises(OSError, match="in use by another echo"):
        Mirror(Settings(source=url, spool=tmp_path, source_token_file=None, source_ca=None))
    with serving(source) as url, mirroring(url) as mirror:
        wait_for_copy(mirror, source)
        folder = mirror.folder.parent
        assert folder.exists()
    assert not folder.exists()


def test_the_age_of_old_numbers_is_copied(source: Source) -> None:
    source.modified = "Thu, 01 Jan 2015 00:00:00 GMT"
    with serving(source) as url, mirroring(url) as mirror:
        wait_for_copy(mirror, source)
        wait_until(lambda: DataFolder(mirror.folder).refresh().modified == 1420070400)
        source.append(b"3\n")
        wait_for_copy(mirror, source)
        assert DataFolder(mirror.folder).refresh().modified > 1420070400


def test_without_ranges_the_mirror_compares_and_continues(source: Source) -> None:
    def whole(handler: Handler) -> bool:
        handler.serve(ranges=False)
        return True

    source.answer = whole
    with serving(source) as url, mirroring(url) as mirror:
        for number in range(3):
            source.append(b"%d\n" % number)
            wait_for_copy(mirror, source)
        source.rotate(b"9\n")
        wait_for_copy(mirror, source)
        assert copied(mirror) == source.segments


@pytest.mark.parametrize("less", [b"1\n", b"1\n22\n"])
def test_a_mirror_waits_for_a_source_that_has_less(source: Source, log: list[str], less: bytes) -> None:
    """The source may have been restored from an older copy."""
    port = free_port()
    source.append(b"3\n")
    with contextlib.ExitStack() as stack:
        with serving(source, port) as url:
            mirror = stack.enter_context(mirroring(url))
            wait_for_copy(mirror, source)
        source.segments[FIRST] = less
        with serving(source, port):
            wait_until(lambda: len(source.requests) > 5)
            assert copied(mirror) == {FIRST: b"1\n22\n3\n"}
            source.append(b"9\n", "0a0b0c0d-0")
            wait_for_copy(mirror, source)
            assert copied(mirror)[FIRST] == b"1\n22\n3\n"


@pytest.mark.parametrize("where", ["source", "copy"])
def test_a_changed_segment_is_copied_again(source: Source, tmp_path: Path, log: list[str], where: str) -> None:
    with serving(source) as url:
        with mirroring(url, tmp_path) as mirror:
            wait_for_copy(mirror, source)
        if where == "source":
            source.segments[FIRST] = b"1\n99\n3\n"
        else:
            mirror.folder.write_bytes(b"7\n77\n")
        with mirroring(url, tmp_path) as mirror:
            wait_for_copy(mirror, source)
    assert any("sent other bytes than before" in line for line in log)


def test_each_broken_connection_makes_progress(source: Source) -> None:
    text = b"".join(b"%d\n" % number for number in range(20_000))
    source.segments[FIRST] = text

    def cut(handler: Handler) -> bool:
        start, last = handler.range
        if last == 0:
            return False
        handler.begin(206, FIRST)
        handler.send_header("Content-Range", f"bytes {start}-{2**53 - 1}/*")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n" % 100_000 + text[start : start + 9_999])
        handler.close_connection = True
        return True

    source.answer = cut
    with serving(source) as url, mirroring(url) as mirror:
        wait_for_copy(mirror, source)


def test_a_token_is_sent_and_read_again(source: Source, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    with serving(source) as url, mirroring(url, token=token) as mirror:
        wait_until(lambda: source.tokens[-1:] == ["Bearer one"])
        token.write_text("two\n")
        mirror.reload()
        wait_until(lambda: source.tokens[-1:] == ["Bearer two"])
    token.write_text("t o\n")
    with pytest.raises(ValueError, match="holds no token"):
        Mirror(Settings(source=url, spool=None, source_token_file=token, source_ca=None))


# Refused responses


def live(handler: Handler, body: bytes, start: int | None = None) -> bool:
    """Answer with a live range that ends after `body`."""
    if handler.range[1] == 0:
        return False
    first = start if start is not None else handler.range[0]
    handler.begin(206, FIRST)
    handler.send_header("Content-Range", f"bytes {first}-{2**53 - 1}/*")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n")
    return True


def page(handler: Handler) -> bool:
    body = b"<html>hello</html>"
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
    return True


def text(status: int, words: bytes = b"no\n", *headers: tuple[str, str]) -> Callable[[Handler], bool]:
    def answer(handler: Handler) -> bool:
        handler.text(status, words, headers)
        return True

    return answer


def raw(content: bytes) -> Callable[[Handler], bool]:
    def answer(handler: Handler) -> bool:
        handler.wfile.write(content)
        handler.close_connection = True
        return True

    return answer


def silent(handler: Handler) -> bool:
    handler.rfile.read(1)
    return True


REFUSED: dict[str, tuple[Callable[[Handler], bool], str]] = {
    "page": (page, "names no segment"),
    "text": (text(200), "names no segment"),
    "redirect": (text(302, b"", ("Location", "/elsewhere")), "cannot follow redirects"),
    "not found": (text(404), "404: not an echo's /data"),
    "bad request": (text(400), "400: not an echo's /data"),
    "token": (text(401), "401: the token is missing or wrong"),
    "not ready": (text(503, b"no number yet\n"), "503: no number yet"),
    "no words": (text(503, b"\x1b\x07\n"), "503: not ready"),
    "no http": (raw(b"220 ready\r\n"), "the connection was closed or is not HTTP"),
    "cut head": (raw(b"HTTP/1.1 206 Par"), "names no segment"),
    "silence": (silent, "does not answer"),
    "no number": (lambda handler: live(handler, b"<html>\n"), "the data is not one number per line"),
    "endless line": (lambda handler: live(handler, b"7" * 70_000), "a line has more than 4096 bytes"),
    "empty": (lambda handler: live(handler, b""), "closed the stream without sending data"),
    "another part": (lambda handler: live(handler, b"1\n", 1000), "sent other bytes than before"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_servers_are_logged_once_and_not_copied(source: Source, log: list[str], kind: str) -> None:
    answer, words = REFUSED[kind]
    count = [0]

    def counted(handler: Handler) -> bool:
        count[0] += 1
        return answer(handler)

    source.answer = counted
    with serving(source) as url, mirroring(url) as mirror:
        wait_until(lambda: count[0] >= 3)
        assert [line for line in log if words in line] == log and len(log) == 1
        assert not copied(mirror)
        assert mirror.status.link is Link.AWAY and words in (mirror.status.problem or "")
        source.answer = lambda handler: False
        wait_for_copy(mirror, source)
        wait_until(lambda: mirror.status.link is Link.FOLLOWING and not mirror.status.problem)


def test_only_numbers_before_other_data_are_copied(source: Source, log: list[str]) -> None:
    source.segments[FIRST] = b"1\n2\n3\nx\n4\n"
    with serving(source) as url, mirroring(url) as mirror:
        wait_until(lambda: len(source.requests) >= 4)
        assert not copied(mirror) or copied(mirror)[FIRST] == b"1\n2\n3\n"
        assert len(log) == 1


def test_a_loop_is_refused(source: Source, log: list[str]) -> None:
    with serving(source) as url, mirroring(url) as mirror:
        wait_for_copy(mirror, source)
        source.headers["Via"] = f"1.1 other, 1.1 {mirror.status.via[-1]}"
        wait_until(lambda: mirror.status.link is Link.AWAY)
        assert "is a loop" in (mirror.status.problem or "")
    source.headers["Via"] = "1.1 other"
    with serving(source) as url, mirroring(url) as mirror:
        wait_until(lambda: mirror.status.via[:1] == ("other",))


def test_a_full_disk_is_logged_once_and_survived(
    source: Source, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    full = [True]

    def write(fd: int, lines: bytes, offset: int) -> int:
        return pwrite(fd, b"1" if full[0] else lines, offset)

    monkeypatch.setattr(os, "pwrite", write)
    with serving(source) as url, mirroring(url) as mirror:
        wait_until(lambda: len(source.requests) >= 3)
        assert len(log) == 1 and "No space left on device" in log[0] and "ECHO_SPOOL" in log[0]
        assert not copied(mirror)
        full[0] = False
        wait_for_copy(mirror, source)
        wait_until(lambda: mirror.status.problem is None)


def test_a_removed_copy_is_fetched_again(source: Source, tmp_path: Path) -> None:
    with serving(source) as url, mirroring(url, tmp_path) as mirror:
        wait_for_copy(mirror, source)
        mirror.folder.resolve().unlink()
        source.append(b"3\n")
        wait_for_copy(mirror, source)


@pytest.mark.serial
def test_one_hop_is_quick(source: Source) -> None:
    """Half of the numbers reach the file within 5 ms, which leaves ample room."""
    with serving(source) as url, mirroring(url) as mirror:
        wait_for_copy(mirror, source)
        times = []
        for number in range(100):
            size = os.stat(mirror.folder).st_size
            source.append(b"%d\n" % number)
            start = time.perf_counter()
            while os.stat(mirror.folder).st_size == size:
                time.sleep(0)
            times.append(time.perf_counter() - start)
        assert sorted(times)[50] < 0.005
