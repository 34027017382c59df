"""The data file as echo sees it: whole lines only, a generation that changes exactly when served bytes may have."""

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as profiles
from hypothesis import strategies as st

from echo.datafile import LONGEST, SMALL, DataFile, Descriptor, Generation, NotReady, Snapshot
from echo.endpoints.follow import EVENTS, Pieces, Position
from generator.datafile import DataFile as Writer
from support import wait_until

profiles.load_profile("ci")  # the same examples each time, no deadline


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def writer(path: Path) -> Iterator[Writer]:
    """The file as the generator writes it."""
    file = Writer(path, max_size=6)
    file.open()
    yield file
    file.close()
    file.release()


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def content(snapshot: Snapshot) -> bytes:
    return snapshot.read(0, snapshot.size)


def now(folder: Path) -> int:
    """The time as the file system has it, which goes in steps of some milliseconds."""
    clock = folder / "clock"
    clock.write_bytes(b"")
    return clock.stat().st_mtime_ns


def reason(file: DataFile) -> str:
    with pytest.raises(NotReady) as refused:
        file.look()
    return str(refused.value)


def test_a_snapshot_is_the_whole_lines_of_the_file(path: Path) -> None:
    path.write_bytes(b"1\n22\n333\n")
    snapshot = DataFile(path).look()
    assert content(snapshot) == b"1\n22\n333\n"
    assert snapshot.changed == path.stat().st_mtime
    assert snapshot.etag == f"{snapshot.generation}-9"


def test_a_torn_end_is_not_served_until_it_is_a_line(path: Path) -> None:
    path.write_bytes(b"1\n22\n33")
    file = DataFile(path)
    assert content(file.look()) == b"1\n22\n"
    append(path, b"3")
    assert content(file.look()) == b"1\n22\n"
    append(path, b"\n")
    assert content(file.look()) == b"1\n22\n333\n"


@pytest.mark.parametrize("lines", [1, SMALL // 8, SMALL // 8 + 1, SMALL])
def test_any_part_can_be_read_whether_the_file_is_small_or_large(path: Path, lines: int) -> None:
    path.write_bytes(b"".join(b"%07d\n" % number for number in range(lines)))
    snapshot = DataFile(path).look()
    assert content(snapshot) == path.read_bytes()
    assert snapshot.read(snapshot.size - 8, snapshot.size) == b"%07d\n" % (lines - 1)
    assert snapshot.read(2, 5) == b"000"


def test_a_file_that_did_not_change_is_looked_at_but_once(path: Path) -> None:
    path.write_bytes(b"1\n")
    file = DataFile(path)
    assert file.look() is file.look()


def test_a_snapshot_stays_as_it_was_when_the_file_grows_or_goes(path: Path) -> None:
    path.write_bytes(b"10000\n" * SMALL)
    file = DataFile(path)
    snapshot = file.look()
    append(path, b"2\n")
    file.look()
    path.unlink()
    path.write_bytes(b"3\n")
    file.look()
    assert content(snapshot) == b"10000\n" * SMALL


@given(st.lists(st.binary(max_size=3).map(lambda data: data.hex().encode()), max_size=30))
def test_bytes_of_one_generation_are_only_ever_added_to(pieces: list[bytes]) -> None:
    """However the lines come, in what pieces; f stands for their ends here."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data")
        path.write_bytes(b"1\n")
        file = DataFile(path)
        seen = file.look()
        for piece in pieces:
            append(path, piece.replace(b"f", b"\n"))
            now = file.look()
            assert now.generation == seen.generation
            assert content(now).startswith(content(seen))
            assert content(now) == path.read_bytes()[: path.read_bytes().rfind(b"\n") + 1]
            seen = now


def test_a_generation_is_the_same_for_everyone_who_looks(path: Path) -> None:
    path.write_bytes(b"1\n")
    one = DataFile(path)
    early = one.look()
    append(path, b"2\n")
    other = DataFile(path)
    assert other.look().etag == one.look().etag
    assert other.look().generation == early.generation


def test_a_generation_outlives_reopen_and_a_move_away_and_back(path: Path) -> None:
    path.write_bytes(b"1\n")
    file = DataFile(path)
    before = file.look()
    file.reopen()
    assert file.look().etag == before.etag
    path.rename(path.with_name("away"))
    assert reason(file) == f"{path} is not there yet"
    path.with_name("away").rename(path)
    append(path, b"2\n")
    assert file.look().generation == before.generation
    assert content(file.look()) == b"1\n2\n"


def test_a_file_put_in_place_of_another_is_another_generation(path: Path) -> None:
    """Even one with the same content."""
    path.write_bytes(b"1\n")
    file = DataFile(path)
    before = file.look()
    path.with_name("new").write_bytes(b"1\n")
    os.replace(path.with_name("new"), path)
    assert file.look().generation != before.generation
    assert file.look().etag == DataFile(path).look().etag


def test_a_file_removed_and_made_anew_is_another_generation_each_time(path: Path) -> None:
    """A hundred times in a row, with the same first line."""
    file = DataFile(path)
    generations = set()
    for number in range(100):
        path.write_bytes(b"1\n%d\n" % number)
        generations.add(file.look().generation)
        path.unlink()
    assert len(generations) == 100


def test_the_birth_tells_a_file_from_its_predecessor_that_had_the_same_inode(path: Path) -> None:
    """Also for an echo that never saw the predecessor, if the clock of the file system has ticked in between."""
    generations = set()
    for _ in range(100):
        born = now(path.parent)
        path.write_bytes(b"1\n")
        generations.add(DataFile(path).look().generation)
        path.unlink()
        wait_until(lambda born=born: now(path.parent) > born + 10**7)  # type: ignore[misc]
    assert len(generations) == 100


def test_each_rotation_is_another_generation_and_never_an_empty_file(path: Path, writer: Writer) -> None:
    file = DataFile(path)
    generations = []
    for number in range(10000, 10100):
        writer.append(b"%d\n" % number)
        assert content(file.look()) == b"%d\n" % number
        generations.append(file.look().generation)
    assert len(set(generations)) == 100
    assert DataFile(path.with_name("data.1")).look().generation == generations[-2]  # the name is the file's own


def test_a_truncated_file_is_another_generation(path: Path) -> None:
    path.write_bytes(b"1\n2\n3\n")
    file = DataFile(path)
    before = file.look()
    os.truncate(path, 4)
    after = file.look()
    assert after.generation != before.generation
    assert content(after) == b"1\n2\n"
    append(path, b"4\n5\n")
    assert file.look().generation == after.generation
    assert content(file.look()) == b"1\n2\n4\n5\n"


@given(
    st.lists(st.tuples(st.integers(0, 24), st.sampled_from([b"", b"1\n", b"22\n1\n22\n"]), st.booleans()), max_size=20)
)
def test_what_was_served_under_a_name_is_so_whatever_is_cut_off_and_appended(
    changes: list[tuple[int, bytes, bool]],
) -> None:
    """Also if it was both before echo looked again, and the file is longer than it was; as far as it is known again."""
    served: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data"
        path.write_bytes(b"1\n1\n1\n")
        file = DataFile(path)
        for moment, (size, more, look) in enumerate(changes):
            os.truncate(path, min(size, path.stat().st_size))
            append(path, more)
            os.utime(path, (moment, moment))  # what is of one tick of the clock and of one size cannot be told apart
            with contextlib.suppress(NotReady):
                if look:
                    snapshot = file.look()
                    generation = served.get(snapshot.generation, b"")
                    assert content(snapshot).startswith(generation)
                    served[snapshot.generation] = content(snapshot)


def test_what_was_filled_anew_in_the_midst_of_a_look_shows_at_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between whichever two reads of it."""
    reads = Descriptor.read
    for moment in range(1, 8):
        path.unlink(missing_ok=True)
        path.write_bytes(b"10\n20\n30\n")
        file = DataFile(path)
        before = file.look()
        append(path, b"40\n")
        count = itertools.count(1)

        def read(descriptor: Descriptor, start: int, stop: int) -> bytes:
            data = reads(descriptor, start, stop)
            if next(count) == moment:  # noqa: B023
                path.write_bytes(b"10\n99\n98\n97\n96\n")
            return data

        with monkeypatch.context() as patches:
            patches.setattr(Descriptor, "read", read)
            file.look()
        if next(count) > moment:
            os.utime(path, (moment, moment))
            assert file.look().generation != before.generation


def test_a_file_replaced_between_two_steps_of_a_look_has_its_own_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"1\n2\n")
    file = DataFile(path)
    file.look()
    file.reopen()
    append(path, b"3\n")
    opens = Descriptor.of

    def replaced(there: Path) -> Descriptor:
        if there == path and not path.with_name("old").exists():
            path.rename(path.with_name("old"))
            path.write_bytes(b"4\n5\n")
        return opens(there)

    monkeypatch.setattr(Descriptor, "of", replaced)
    assert file.look().etag == DataFile(path).look().etag


def test_what_was_lost_by_a_truncation_just_before_a_turn_is_said(path: Path) -> None:
    """As by a generator that goes on in another file for it."""
    path.write_bytes(b"1\n2\n3\n4\n")
    file = DataFile(path)
    file.look()
    assert file.current
    ahead, behind = Position(file.current, 8, EVENTS), Position(file.current, 2, EVENTS)
    os.truncate(path, 4)
    path.with_name("new").write_bytes(b"1\n2\n5\n")
    os.replace(path.with_name("new"), path)
    file.look()
    assert behind.take(Pieces()).startswith(b"event: gone\n")
    assert b"event: generation\n" in ahead.take(Pieces())
    for position in (ahead, behind):
        assert position.take(Pieces()).count(b"data: ") == 3


def test_a_file_that_was_seen_as_truncated_keeps_its_name_when_it_is_rotated(path: Path) -> None:
    path.write_bytes(b"10\n20\n30\n")
    file = DataFile(path)
    first = file.look().generation
    os.truncate(path, 3)
    second = file.look().generation
    append(path, b"21\n")
    path.rename(path.with_name("data.1"))
    path.write_bytes(b"40\n")
    file.look()
    assert not file.find(first)
    rotated = file.find(second)
    assert rotated and rotated.lines(0, 100) == b"10\n21\n"
    assert b"event: generation\n" in Position(rotated, 6, EVENTS).take(Pieces())


def test_a_generation_that_is_gone_between_the_rotated_one_and_the_one_of_now_is_said(path: Path) -> None:
    path.write_bytes(b"1\n")
    file = DataFile(path)
    first = file.look().generation
    path.rename(path.with_name("data.1"))
    path.write_bytes(b"2\n")
    file.look()
    rotated = file.find(first)
    assert rotated and b"event: generation\n" in Position(rotated, 2, EVENTS).take(Pieces())
    del rotated
    path.with_name("new").write_bytes(b"3\n")
    os.replace(path.with_name("new"), path)
    file.look()
    rotated = file.find(first)
    assert rotated and Position(rotated, 2, EVENTS).take(Pieces()).startswith(b"event: gone\n")


def test_a_truncation_does_not_show_in_the_name_of_the_next_file(path: Path) -> None:
    """For others, who did not see it, must give that file the same name."""
    path.write_bytes(b"1\n2\n")
    file = DataFile(path)
    file.look()
    os.truncate(path, 2)
    file.look()
    path.with_name("new").write_bytes(b"3\n")
    os.replace(path.with_name("new"), path)
    assert file.look().etag == DataFile(path).look().etag


def test_a_torn_end_that_is_cut_off_is_no_truncation(path: Path) -> None:
    """Its bytes were never served."""
    path.write_bytes(b"1\n2\n34")
    file = DataFile(path)
    before = file.look()
    os.truncate(path, 4)
    assert file.look().etag == before.etag
    append(path, b"5\n")
    assert file.look().generation == before.generation


def test_a_file_truncated_to_nothing_is_not_served_from_memory(path: Path) -> None:
    """And what comes after is another generation, even if it is longer and begins with the same line."""
    path.write_bytes(b"1\n2\n")
    file = DataFile(path)
    before = file.look()
    os.truncate(path, 0)
    for _ in range(3):
        assert reason(file) == f"{path} has no number yet"
    append(path, b"1\n3\n4\n")
    assert file.look().generation != before.generation
    assert content(file.look()) == b"1\n3\n4\n"


def test_what_became_no_file_of_numbers_is_not_served_from_memory(path: Path) -> None:
    path.write_bytes(b"1\n")
    file = DataFile(path)
    before = file.look()
    append(path, b"7" * LONGEST)
    for _ in range(3):
        assert "not a file of numbers" in reason(file)
    os.truncate(path, 2)
    assert file.look().etag == before.etag


def test_no_file_is_not_ready_until_it_has_a_number(path: Path) -> None:
    file = DataFile(path)
    assert reason(file) == f"{path} is not there yet"
    path.write_bytes(b"")
    assert reason(file) == f"{path} has no number yet"
    append(path, b"12")
    assert reason(file) == f"{path} has no number yet"
    append(path, b"\n")
    assert content(file.look()) == b"12\n"
    path.unlink()
    assert reason(file) == f"{path} is not there yet"


def test_a_folder_is_not_ready(path: Path) -> None:
    path.mkdir()
    assert reason(DataFile(path)) == f"{path} is not a file"


def test_a_line_longer_than_a_piece_is_refused_not_waited_for(path: Path) -> None:
    path.write_bytes(b"1\n" + b"7" * 1000 + b"\n2\n")
    generation = Generation("", Descriptor.of(path), path.stat().st_size)
    assert generation.lines(0, 100) == b"1\n"
    with pytest.raises(ValueError, match="no line ends in 100 bytes from 2 on"):
        generation.lines(2, 100)
    assert generation.lines(1003, 100) == b"2\n"


def test_a_fifo_is_not_ready_and_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    assert reason(DataFile(path)) == f"{path} is not a file"


def test_a_file_in_a_file_is_not_ready(path: Path) -> None:
    path.write_bytes(b"1\n")
    assert reason(DataFile(path / "data")) == f"{path / 'data'} cannot be read: Not a directory"


def test_a_file_without_line_ends_is_not_ready(path: Path) -> None:
    path.write_bytes(b"7" * LONGEST * 2)
    assert reason(DataFile(path)) == f"its last {LONGEST} bytes have no line end: it is not a file of numbers"


def test_an_unreadable_file_is_not_ready_until_it_can_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"1\n")
    path.chmod(0)
    path.parent.chmod(0o755)
    monkeypatch.chdir(path.parent)  # so that the folders above do not matter
    user = os.geteuid()
    file = DataFile(Path("data"))
    try:
        if user == 0:
            os.seteuid(65534)  # root may read anything
        assert reason(file) == "data cannot be read: Permission denied"
    finally:
        os.seteuid(user)
    path.chmod(0o600)
    assert content(file.look()) == b"1\n"


def test_descriptors_are_closed_with_the_last_snapshot(path: Path) -> None:
    file = DataFile(path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        path.write_bytes(b"1\n")
        file.look()
        path.unlink()
    assert len(os.listdir("/proc/self/fd")) <= before + 2
