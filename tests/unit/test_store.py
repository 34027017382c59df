"""The reader's side of the data folder: named segments, whole lines, and no loss without a gap."""

import contextlib
import itertools
import os
import tempfile
import time
import timeit
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as profiles
from hypothesis import strategies as st

from echo.store import MAX_LINE_BYTES, DataFolder, NotReady, Place, Segment, SegmentName, State, folder, parse, segment
from echo.store.names import parse_file_name, successor
from echo.store.segment import BLOCK_BYTES, CACHE_BYTES, tail_position, whole_lines
from support.segments import OTHER, STREAM, Writer

profiles.register_profile("store", derandomize=True, deadline=None)
profiles.load_profile("store")

NAMES = st.builds(SegmentName, st.sampled_from([STREAM, OTHER]), st.integers(0, 10**16 - 1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def writer(path: Path) -> Writer:
    return Writer(path)


@pytest.fixture
def data(path: Path) -> DataFolder:
    return DataFolder(path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that advances the clock by a number of seconds."""
    passed = [0.0]
    monotonic = time.monotonic
    monkeypatch.setattr("echo.store.folder.time.monotonic", lambda: monotonic() + passed[0])

    def wait(seconds: float) -> None:
        passed[0] += seconds

    return wait


def content(segment: Segment) -> bytes:
    return segment.read(0, segment.size)


def steps(generator: Generator[None, None, Any]) -> Any:
    while True:
        try:
            next(generator)
        except StopIteration as done:
            return done.value


def reason(data: DataFolder) -> str:
    with pytest.raises(NotReady) as refused:
        data.refresh()
    return str(refused.value)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# Names


@given(NAMES)
def test_a_name_survives_the_file_name_and_the_url(name: SegmentName) -> None:
    assert parse_file_name(name.file_name("data")) == ("data", name)
    assert parse(str(name)) == name


@pytest.mark.parametrize("text", ["data", "data.1", "data.lock", "data.5f3a9c21.7", "data.5F3A9C21.0000000000000000"])
def test_other_files_are_no_segments(text: str) -> None:
    assert parse_file_name(text) is None


@pytest.mark.parametrize(
    "text", ["", "5f3a9c21", "5f3a9c21-", "5f3a9c21-01", "5f3a9c21--1", "5f3a9c21-1\n", "5f3a9c21-²"]
)
def test_other_texts_are_no_names(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(("base", "found"), [(0, f"{STREAM}-5"), (2, f"{STREAM}-5"), (5, f"{OTHER}-0")])
def test_the_successor_is_the_next_or_begins_the_new_stream(base: int, found: str) -> None:
    names = [SegmentName(STREAM, 0), SegmentName(STREAM, 5), SegmentName(OTHER, 0), SegmentName(OTHER, 3)]
    assert str(successor(SegmentName(STREAM, base), names, names[-1])) == found
    assert successor(SegmentName(OTHER, 9), names, names[-1]) == names[-1]


# Whole lines


@given(
    st.lists(st.sampled_from([b"", b"1", b"22", b"7" * (MAX_LINE_BYTES - 1)])),
    st.sampled_from([b"", b"1", b"7" * 4095]),
)
def test_whole_lines_are_all_but_a_torn_end(lines: list[bytes], torn: bytes) -> None:
    whole = b"".join(line + b"\n" for line in lines)
    assert whole_lines(whole + torn) == len(whole)


@given(st.integers(0, 9000), st.integers(MAX_LINE_BYTES, 9000), st.sampled_from([b"", b"\n", b"\n1\n"]))
def test_a_long_line_is_refused_wherever_it_is(before: int, length: int, after: bytes) -> None:
    with pytest.raises(NotReady, match="not a file of numbers"):
        whole_lines(b"1\n" * before + b"7" * length + after)


@given(st.lists(st.integers().map(lambda n: b"%d\n" % n), min_size=1, max_size=100), st.integers(0, 110))
def test_the_tail_is_the_last_lines(lines: list[bytes], count: int) -> None:
    text = b"".join(lines)
    start = steps(tail_position(lambda start, stop: text[start:stop], len(text), count))
    assert text[start:] == b"".join(lines[max(0, len(lines) - count) :])


@given(st.integers(BLOCK_BYTES - 3, BLOCK_BYTES + 3), st.integers(0, 30), st.integers(0, 30))
def test_the_tail_is_right_across_blocks(width: int, before: int, count: int) -> None:
    lines = [b"1\n"] * before + [b"7" * width + b"\n"] + [b"22\n"] * 20
    text = b"".join(lines)
    start = steps(tail_position(lambda start, stop: text[start:stop], len(text), count))
    assert text[start:] == b"".join(lines[max(0, len(lines) - count) :])


# One segment


def test_a_segment_is_the_whole_lines_of_its_file(data: DataFolder, writer: Writer) -> None:
    writer.append(b"1\n22\n333\n")
    found = data.refresh()
    assert (found.name, found.size, found.end, found.state) == (f"{STREAM}-0", 9, 9, State.CURRENT)
    assert content(found) == b"1\n22\n333\n"
    assert found.etag_at(4) == f"{STREAM}-0-4"
    assert found.modified == writer.file.stat().st_mtime
    assert data.segments() == [found] and data.find(STREAM, 0) is found


def test_a_torn_line_is_not_served(data: DataFolder, writer: Writer) -> None:
    for more, served in [(b"1\n22\n33", 5), (b"3", 5), (b"\n", 9), (b"4", 9)]:
        writer.append(more)
        assert data.refresh().size == served
    os.truncate(writer.file, 9)
    assert data.refresh().size == 9


@pytest.mark.parametrize("lines", [1, CACHE_BYTES // 8, CACHE_BYTES // 8 + 1, CACHE_BYTES])
def test_any_part_can_be_read_of_small_and_large_files(data: DataFolder, writer: Writer, lines: int) -> None:
    text = b"".join(b"%07d\n" % number for number in range(lines))
    writer.append(text)
    found = data.refresh()
    assert content(found) == text
    assert found.read(found.size - 8, found.size) == b"%07d\n" % (lines - 1)
    assert found.read(2, 5) == b"000"
    assert steps(found.count()) == (len(text), lines)
    assert steps(found.tail(1)) == len(text) - 8


@given(st.lists(st.binary(max_size=3).map(lambda data: data.hex().encode().replace(b"f", b"\n")), max_size=30))
def test_bytes_are_only_ever_added(pieces: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        writer = Writer(Path(name, "data"))
        writer.append(b"1\n")
        data = DataFolder(writer.path)
        found, before = data.refresh(), b"1\n"
        for piece in pieces:
            writer.append(piece)
            assert data.refresh() is found
            text = writer.file.read_bytes()
            assert content(found) == text[: text.rfind(b"\n") + 1]
            assert content(found).startswith(before)
            before = content(found)
        assert data.grown == len(before) - 2
        assert steps(found.count()) == (found.size, before.count(b"\n"))


def test_lines_returns_whole_lines(data: DataFolder, writer: Writer) -> None:
    writer.append(b"1\n" + b"7" * 1000 + b"\n2\n")
    found = data.refresh()
    assert found.lines(0, 100) == b"1\n"
    assert found.lines(1003, 100) == b"2\n"
    assert found.lines(found.size, 100) == b""
    with pytest.raises(ValueError, match="no line ends in 100 bytes from 2 on"):
        found.lines(2, 100)
    with pytest.raises(ValueError, match="no line begins at 3"):
        found.lines(3, 100)


@pytest.mark.serial
def test_refreshing_an_unchanged_folder_costs_one_stat(data: DataFolder, writer: Writer) -> None:
    writer.append(b"1\n" * 5000)
    found = data.refresh()

    def seconds(call: Callable[[], object]) -> float:
        return min(timeit.repeat(call, number=500, repeat=20))

    assert seconds(data.refresh) < 2 * seconds(lambda: os.stat(writer.path))
    assert data.refresh() is found


def test_small_reads_need_no_system_call(data: DataFolder, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.append(b"1\n" * 5000)
    found = data.refresh()
    monkeypatch.setattr(os, "pread", None)
    assert len(content(found)) == 10_000


# Not ready


def test_a_folder_is_ready_once_it_has_a_number(data: DataFolder, writer: Writer, path: Path) -> None:
    assert reason(data) == f"{path} does not exist yet"
    for piece in (b"", b"12"):
        writer.append(piece)
        assert reason(data) == f"{writer.file} has no number yet"
    writer.append(b"\n")
    assert content(data.refresh()) == b"12\n"
    assert data.grown == 3
    path.unlink()
    assert reason(data) == f"{path} does not exist yet"
    writer.link()
    assert content(data.refresh()) == b"12\n"


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)], ids=["fifo", "folder", "device"]
)
def test_an_irregular_file_is_refused_at_once(data: DataFolder, path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    assert reason(data) == f"{path} is not a regular file"


def test_a_file_in_a_file_is_not_ready(path: Path) -> None:
    path.write_bytes(b"1\n")
    assert reason(DataFolder(path / "data")) == f"cannot read {path / 'data'}: Not a directory"


def test_an_unreadable_file_is_not_ready(data: DataFolder, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.append(b"1\n")
    opens = os.open

    def refuse(path: Path, *rest: int) -> int:
        raise PermissionError(13, os.strerror(13), path)

    monkeypatch.setattr(os, "open", refuse)
    assert reason(data) == f"cannot read {writer.path}: Permission denied"
    monkeypatch.setattr(os, "open", opens)
    assert content(data.refresh()) == b"1\n"


@pytest.mark.parametrize("length", [MAX_LINE_BYTES, 65536, 2 * CACHE_BYTES])
@pytest.mark.parametrize("after", [b"", b"\n2\n"])
def test_a_long_line_makes_it_no_file_of_numbers(data: DataFolder, writer: Writer, length: int, after: bytes) -> None:
    writer.append(b"1\n")
    assert data.refresh().size == 2
    writer.append(b"7" * length + after)
    for _ in range(3):
        assert "not a file of numbers" in reason(data)
    os.truncate(writer.file, 2)
    assert content(data.refresh()) == b"1\n"


@pytest.mark.parametrize("read", ["count", "lines"])
def test_a_long_line_far_from_the_end_is_found_by_reading(data: DataFolder, writer: Writer, read: str) -> None:
    writer.append(b"7" * MAX_LINE_BYTES + b"\n" + b"1\n" * CACHE_BYTES)
    found = data.refresh()
    with pytest.raises((NotReady, ValueError)):
        steps(found.count()) if read == "count" else found.lines(0, MAX_LINE_BYTES)
    writer.append(b"2\n")
    assert "not a file of numbers" in reason(data)


# Age


def test_a_failed_write_does_not_make_it_fresh(data: DataFolder, writer: Writer) -> None:
    writer.append(b"1\n")
    os.utime(writer.file, (1000, 1000))
    assert data.refresh().modified == 1000
    writer.append(b"torn")
    assert data.refresh().modified == 1000
    os.truncate(writer.file, 2)
    assert data.refresh().modified == 1000
    writer.append(b"2\n")
    assert data.refresh().modified > 1000


def test_age_follows_a_copy_that_sets_the_time_later(data: DataFolder, writer: Writer) -> None:
    writer.append(b"1\n")
    data.refresh()
    os.utime(writer.file, (1000, 1000))
    assert data.refresh().modified == 1000
    os.utime(writer.file, (2**33, 2**33))
    assert data.refresh().modified == 1000


# Lineage


def follow(position: tuple[Segment, int]) -> tuple[bytes, bool, tuple[Segment, int]]:
    """Read to the end. Return the text, whether anything was lost, and the position reached."""
    place, offset = position
    text, lost = b"", False
    while True:
        if offset < place.size:
            try:
                lines = place.lines(offset, MAX_LINE_BYTES)
                text, offset = text + lines, offset + len(lines)
                continue
            except OSError:
                offset, lost = place.size, True
        if place.next is None:
            return text, lost, (place, offset)
        lost = lost or place.gap or offset > place.size
        place, offset = place.next, 0


def test_rotations_between_two_refreshes_lose_nothing(data: DataFolder, writer: Writer) -> None:
    writer.append(b"0\n")
    position = data.refresh(), 0
    for number in range(1, 6):
        writer.rotate(b"%d\n" % number)
        writer.append(b"%d\n" % number)
    data.refresh()
    assert follow(position)[:2] == (b"0\n1\n1\n2\n2\n3\n3\n4\n4\n5\n5\n", False)
    assert data.grown == 20 and data.segment_changes == 1
    assert [s.state for s in data.segments()] == [State.FINISHED] * 5 + [State.CURRENT]


def test_a_removed_segment_is_a_gap(data: DataFolder, writer: Writer, clock: Callable[[float], None]) -> None:
    writer.append(b"0\n")
    position = data.refresh(), 0
    writer.rotate(b"1\n")
    writer.file.unlink()
    writer.rotate(b"2\n")
    data.refresh()
    clock(segment.SETTLE_SECONDS + 1)
    data.refresh()
    assert follow(position)[:2] == (b"0\n2\n", True)


def test_a_jump_of_the_writer_is_a_gap(data: DataFolder, writer: Writer, clock: Callable[[float], None]) -> None:
    """The gap counts only after a delay, because a file system may show the bytes late."""
    writer.append(b"0\n")
    position = data.refresh(), 0
    writer.rotate(b"1\n", gap=100)
    data.refresh()
    assert position[0].state is State.SETTLING and position[0].next is None
    assert data.locate(STREAM, 50) is Place.AHEAD
    clock(segment.SETTLE_SECONDS + 1)
    data.refresh()
    assert follow(position)[:2] == (b"0\n1\n", True)
    assert data.locate(STREAM, 50) is Place.GONE


def test_another_stream_is_a_gap(data: DataFolder, writer: Writer) -> None:
    writer.append(b"0\n")
    position = data.refresh(), 0
    writer.rotate(b"1\n", stream=OTHER)
    assert data.refresh().stream == OTHER
    assert follow(position)[:2] == (b"0\n1\n", True)


def test_late_bytes_are_waited_for(data: DataFolder, writer: Writer, clock: Callable[[float], None]) -> None:
    """FUSE caches sizes, so the successor's name gives the segment's end."""
    writer.append(b"0\n")
    position = data.refresh(), 0
    old = writer.file
    writer.size = 6
    writer.rotate(b"9\n")
    assert data.refresh().base == 6
    text, lost, position = follow(position)
    assert (text, lost) == (b"0\n", False)
    for more in (b"1\n", b"2\n"):
        with old.open("ab") as file:
            file.write(more)
        clock(folder.SETTLE_POLL_SECONDS)
        data.refresh()
    assert follow(position)[:2] == (b"1\n2\n9\n", False)


def test_a_segment_being_prepared_is_not_shown(data: DataFolder, writer: Writer) -> None:
    writer.append(b"0\n")
    writer.path.with_name(SegmentName(STREAM, 2).file_name("data")).write_bytes(b"1\n")
    assert data.refresh().name == f"{STREAM}-0"
    assert len(data.segments()) == 1


def test_a_reader_finishes_a_removed_segment(data: DataFolder, writer: Writer, clock: Callable[[float], None]) -> None:
    writer.append(b"0\n")
    position = data.refresh(), 0
    first = writer.file
    writer.append(b"1\n")
    writer.rotate(b"2\n")
    first.unlink()
    data.refresh()
    assert position[0].state is State.REMOVED
    assert follow(position)[:2] == (b"0\n1\n2\n", False)


def test_only_the_last_removed_segments_stay_readable(data: DataFolder, writer: Writer) -> None:
    writer.append(b"0\n")
    positions = []
    before = descriptors()
    for number in range(20):
        positions.append((data.refresh(), 0))
        old = writer.file
        writer.rotate(b"%d\n" % number)
        data.refresh()
        old.unlink()
    data.reopen()
    data.refresh()
    assert descriptors() <= before + folder.REMOVED_SEGMENTS + 2
    lost = [follow(position)[1] for position in positions]
    assert lost == [True] * (20 - folder.REMOVED_SEGMENTS) + [False] * folder.REMOVED_SEGMENTS


def test_removed_files_without_readers_are_closed(
    data: DataFolder, writer: Writer, clock: Callable[[float], None]
) -> None:
    writer.append(b"0\n")
    data.refresh()
    before = descriptors()
    for number in range(20):
        old = writer.file
        writer.rotate(b"%d\n" % number)
        data.refresh()
        old.unlink()
    clock(folder.SCAN_SECONDS)
    data.refresh()
    assert descriptors() == before


@pytest.mark.parametrize("what", ["all", "segment", "plain"])
def test_removed_files_release_their_disk_space(
    data: DataFolder, writer: Writer, clock: Callable[[float], None], what: str
) -> None:
    """The space is freed even if a follower has not read everything."""
    if what == "plain":
        writer.path.write_bytes(b"1\n")
    else:
        writer.append(b"1\n")
        writer.rotate(b"1\n")
    before = descriptors()
    position = data.refresh(), 0
    assert descriptors() > before
    (writer.path if what == "plain" else writer.file).unlink()
    if what == "all":
        writer.path.unlink()
    reason(data)
    assert position[0].lines(0, 10) == b"1\n"
    clock(folder.RELEASE_SECONDS)
    reason(data)
    assert descriptors() == before
    writer.path.unlink(missing_ok=True)
    writer.rotate(b"2\n")
    data.refresh()
    assert follow((position[0], 2))[0] == b"2\n"


def test_a_removed_finished_segment_is_closed(data: DataFolder, writer: Writer, clock: Callable[[float], None]) -> None:
    writer.append(b"1\n")
    data.refresh()
    old = writer.file
    writer.rotate(b"2\n")
    data.refresh()
    open_files = descriptors()
    old.unlink()
    clock(folder.SCAN_SECONDS)
    data.refresh()
    assert descriptors() == open_files - 1
    assert data.find(STREAM, 0) is None and data.is_gone(STREAM, 0)


def test_many_kept_segments_need_few_descriptors(data: DataFolder, writer: Writer) -> None:
    writer.append(b"0\n")
    for number in range(200):
        writer.rotate(b"%d\n" % number)
    before = descriptors()
    data.refresh()
    assert len(data.segments()) == 201
    assert descriptors() <= before + 2


# Positions


def test_each_position_has_its_place(data: DataFolder, writer: Writer) -> None:
    writer.append(b"0\n")
    old = writer.file
    writer.rotate(b"1\n2\n")
    middle = writer.file
    writer.rotate(b"3\n")
    data.refresh()
    first, second, third = data.segments()
    assert [data.locate(STREAM, n) for n in range(10)] == [
        *[first] * 2, *[second] * 4, *[third] * 3, Place.AHEAD,
    ]  # fmt: skip
    assert data.locate(OTHER, 0) is Place.GONE
    old.unlink()
    middle.unlink()
    data.reopen()
    data.refresh()
    assert [data.locate(STREAM, n) for n in (0, 2, 5, 6)] == [*[Place.GONE] * 3, third]
    assert data.is_gone(STREAM, 2) and not data.is_gone(STREAM, 7) and not data.is_gone(OTHER, 0)


def test_an_older_stream_can_be_read_while_it_is_kept(data: DataFolder, writer: Writer) -> None:
    writer.append(b"0\n")
    writer.rotate(b"1\n", stream=OTHER)
    data.refresh()
    old = data.locate(STREAM, 0)
    assert isinstance(old, Segment) and old.lines(0, 10) == b"0\n"
    assert data.locate(STREAM, 3) is Place.GONE


# Damage


def damage_shorter(file: Path) -> None:
    os.truncate(file, 2)


def damage_empty(file: Path) -> None:
    os.truncate(file, 0)


def damage_edit(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(-2, os.SEEK_END)
        opened.write(b"9")


def damage_refill(file: Path) -> None:
    file.write_bytes(b"77777\n" * 100)


def damage_replace(file: Path) -> None:
    file.with_name("new").write_bytes(b"8\n8\n8\n8\n")
    file.with_name("new").replace(file)


DAMAGES = pytest.mark.parametrize(
    "damage", [damage_shorter, damage_empty, damage_edit, damage_refill, damage_replace], ids=lambda f: f.__name__[7:]
)


@DAMAGES
def test_a_damaged_segment_is_not_read_until_the_next(
    data: DataFolder, writer: Writer, damage: Callable[[Path], None]
) -> None:
    writer.append(b"1\n2\n3\n")
    found = data.refresh()
    damage(writer.file)
    for _ in range(2):
        assert "was truncated or overwritten" in reason(data)
        with pytest.raises(OSError, match="can no longer be read"):
            content(found)
    old = writer.file
    writer.rotate(b"4\n")
    old.unlink()
    assert content(data.refresh()) == b"4\n"
    assert follow((found, 6))[:2] == (b"4\n", False)
    assert follow((found, 2))[:2] == (b"4\n", True)


@DAMAGES
def test_damage_that_no_refresh_saw_is_a_gap(data: DataFolder, writer: Writer, damage: Callable[[Path], None]) -> None:
    writer.append(b"1\n2\n3\n")
    found = data.refresh()
    damage(writer.file)
    old = writer.file
    writer.rotate(b"4\n")
    if damage is not damage_replace:  # that leaves the file that was served unchanged
        old.unlink()
        assert content(data.refresh()) == b"4\n"
        assert follow((found, 2))[:2] == (b"4\n", True)


def test_a_copy_back_continues_the_segment(data: DataFolder, writer: Writer) -> None:
    """A segment is identified by its name, not its inode."""
    writer.append(b"1\n2\n3\n")
    found = data.refresh()
    text = writer.file.read_bytes()
    writer.file.unlink()
    reason(data)
    for size in range(len(text) + 1):
        writer.file.write_bytes(text[:size])
        with contextlib.suppress(NotReady):
            assert data.refresh() is found and size == 6
    writer.append(b"4\n")
    assert data.refresh() is found
    assert content(found) == b"1\n2\n3\n4\n"


def test_reopen_serves_a_damaged_segment_as_it_is(data: DataFolder, writer: Writer) -> None:
    writer.append(b"1\n2\n3\n")
    found = data.refresh()
    writer.file.write_bytes(b"4\n5\n")
    reason(data)
    data.reopen()
    assert content(data.refresh()) == b"4\n5\n"
    assert follow((found, 6))[1]


def test_a_reopen_keeps_a_healthy_segment(data: DataFolder, writer: Writer) -> None:
    writer.append(b"1\n")
    found = data.refresh()
    data.reopen()
    assert data.refresh() is found
    assert content(found) == b"1\n"


def test_a_change_during_a_refresh_is_seen_by_the_next(
    data: DataFolder, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread = os.pread
    writer.append(b"10\n20\n30\n")
    for moment in range(1, 5):
        data = DataFolder(writer.path)
        writer.file.write_bytes(b"10\n20\n30\n")
        served = content(data.refresh())
        writer.append(b"40\n")
        count = itertools.count(1)

        def read(fd: int, size: int, start: int) -> bytes:
            text = pread(fd, size, start)
            if next(count) == moment:  # noqa: B023
                writer.file.write_bytes(b"10\n99\n98\n97\n96\n")
            return text

        with monkeypatch.context() as patches:
            patches.setattr(os, "pread", read)
            with contextlib.suppress(NotReady):
                assert content(data.refresh()).startswith(served)
        if next(count) > moment:
            os.utime(writer.file, (moment, moment))
            assert "was truncated or overwritten" in reason(data)


# A plain file


def test_a_plain_file_is_a_stream_of_its_own(data: DataFolder, path: Path) -> None:
    path.write_bytes(b"1\n")
    found = data.refresh()
    assert found.base == 0 and content(found) == b"1\n"
    with path.open("ab") as file:
        file.write(b"2\n")
    data.reopen()
    assert data.refresh() is found and content(found) == b"1\n2\n"
    assert DataFolder(path).refresh().stream != found.stream


@DAMAGES
def test_a_changed_plain_file_gets_a_new_name(data: DataFolder, path: Path, damage: Callable[[Path], None]) -> None:
    path.write_bytes(b"1\n2\n3\n")
    found = data.refresh()
    damage(path)
    with path.open("ab") as file:
        file.write(b"5\n")
    now = data.refresh()
    assert now is not found and now.stream != found.stream and content(now) == path.read_bytes()
    assert follow((found, 6))[1]
    assert data.segments() == [now] and data.is_gone(found.stream, 0)
    assert data.segment_changes == 1


def test_a_rotated_plain_file_is_read_to_its_end(data: DataFolder, path: Path) -> None:
    path.write_bytes(b"1\n")
    position = data.refresh(), 0
    with path.open("ab") as file:
        file.write(b"2\n")
    path.rename(path.with_name("data.1"))
    path.write_bytes(b"3\n")
    data.refresh()
    assert follow(position)[:2] == (b"1\n2\n3\n", True)


def test_a_plain_file_can_become_a_segment(data: DataFolder, writer: Writer, clock: Callable[[float], None]) -> None:
    writer.path.write_bytes(b"1\n")
    before = data.refresh()
    writer.path.rename(writer.file)
    writer.link()
    writer.append(b"2\n")
    clock(folder.SCAN_SECONDS)
    assert data.refresh().name == f"{STREAM}-0"
    assert before.state is not State.CURRENT


def test_a_symlink_to_the_symlink_is_followed(writer: Writer, tmp_path: Path) -> None:
    writer.append(b"1\n")
    (tmp_path / "elsewhere").symlink_to(writer.path)
    data = DataFolder(tmp_path / "elsewhere")
    assert data.refresh().name == f"{STREAM}-0"
    writer.rotate(b"2\n")
    assert data.refresh().name == f"{STREAM}-2"
