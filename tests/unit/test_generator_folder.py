"""The generator's data folder on a real file system: segments, the symlink, the lock and disk faults."""

import errno
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as profiles
from hypothesis import strategies as st

import generator.folder
from generator.folder import DataFolder, cut_torn_line
from generator.lock import Locked, Unusable
from generator.segments import SKIP_BYTES, Segment
from support import wait_until
from support.disk import PAGE, fill
from support.disk import small_disk as mounted
from support.writer import content, opened, segments

profiles.load_profile("ci")  # the same examples each time, no deadline

RUNS = st.lists(st.tuples(st.sampled_from([b"\n", b"7", b"32767\n", b"\0"]), st.integers(0, 5000)), max_size=6)
BYTES = st.one_of(st.binary(max_size=200), RUNS.map(lambda runs: b"".join(piece * times for piece, times in runs)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path) as folder:
        yield folder


def current(path: Path) -> Path:
    return path.with_name(os.readlink(path))


def others(path: Path) -> list[str]:
    """Return the names of files in the folder that are not segments."""
    known = {segment.file_name(path.name) for segment in segments(path)}
    return sorted(set(os.listdir(path.parent)) - known)


@given(BYTES)
def test_only_a_torn_last_line_is_cut(data: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        cut = cut_torn_line(file.fileno())
        file.seek(0)
        left = file.read()
    head, newline, _ = data.rpartition(b"\n")
    assert left == head + newline
    assert cut == len(data) - len(left)


@given(st.lists(st.lists(st.integers(0, 99999), min_size=1, max_size=30), max_size=60), st.integers(0, 4))
def test_segments_keep_every_line_within_size_and_count(batches: list[list[int]], keep: int) -> None:
    limit, appended = 200, b""
    with tempfile.TemporaryDirectory() as place, opened(Path(place, "data"), limit, keep) as folder:
        for batch in batches:
            lines = b"".join(b"%d\n" % number for number in batch)
            assert folder.append(lines) == len(lines)
            appended += lines
            kept = segments(folder.path)
            assert appended.endswith(content(folder.path))
            assert current(folder.path).read_bytes().endswith(lines)
            assert all(0 < len(data) <= limit for data in kept.values())
            assert len(kept) <= keep + 1
            assert len(kept) == keep + 1 or content(folder.path) == appended
            assert others(folder.path) == ["data", "data.lock"]


def test_no_size_limit_never_begins_a_second_segment(path: Path) -> None:
    with opened(path, 0) as folder:
        for _ in range(100):
            folder.append(b"32767\n" * 1000)
    assert [len(data) for data in segments(path).values()] == [600_000]


def test_the_symlink_always_shows_a_segment_with_lines(path: Path, effort: int) -> None:
    done = threading.Event()
    sizes: set[int] = set()

    def watch() -> None:
        while not done.is_set():
            sizes.add(os.stat(path).st_size)

    with opened(path, 6, keep=2000) as folder:
        folder.append(b"10000\n")
        watcher = threading.Thread(target=watch)
        watcher.start()
        for _ in range(200 * effort):
            folder.append(b"10000\n")
        done.set()
        watcher.join()
    assert sizes == {6}


def test_a_symlink_that_fails_keeps_lines_and_is_retried(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(path, 6) as folder:
        folder.append(b"10000\n")
        with monkeypatch.context() as patch:
            patch.setattr(os, "symlink", full)
            assert folder.append(b"20000\n") == 6
            with pytest.raises(OSError, match="No space"):
                folder.append(b"7\n")
        assert current(path).read_bytes() == b"10000\n"
        folder.append(b"30000\n")
    assert content(path) == b"10000\n20000\n30000\n"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_symlinks_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(Unusable, match=r"cannot make symlinks in .*: give a file on another file system"), opened(path):
        pass
    assert segments(path) == {}


def test_a_second_writer_learns_who_the_first_one_is(path: Path) -> None:
    with opened(path, 2) as first:
        first.append(b"1\n")
        first.append(b"2\n")
        second = DataFolder(path)
        for _ in range(2):
            with pytest.raises(Locked) as locked:
                second.open()
            holder = f"generator with pid {os.getpid()} on host {os.uname().nodename}"
            assert str(locked.value) == f"{path} already has a writer: {holder}"
        first.append(b"3\n")
    assert content(path) == b"1\n2\n3\n"


@pytest.mark.parametrize("kill", [False, True])
def test_after_a_stop_or_a_kill_the_same_segment_continues(path: Path, kill: bool) -> None:
    with opened(path, kill=kill) as folder:
        folder.append(b"1\n")
    if kill:
        with current(path).open("ab") as file:
            file.write(b"2")
    with opened(path) as folder:
        folder.append(b"3\n")
    assert list(segments(path).values()) == [b"1\n3\n"]


@pytest.mark.parametrize("kill", [False, True])
def test_after_a_machine_crash_the_next_segment_leaves_a_gap(
    path: Path, monkeypatch: pytest.MonkeyPatch, kill: bool
) -> None:
    with opened(path, kill=kill) as folder:
        folder.append(b"1\n")
    monkeypatch.setattr(generator.folder, "boot_id", lambda: "another")
    with opened(path) as folder:
        folder.append(b"3\n")
    stream = folder.segment.stream
    crashed = {Segment(stream, 0): b"1\n", Segment(stream, 2 + SKIP_BYTES): b"3\n"}
    assert segments(path) == (crashed if kill else {Segment(stream, 0): b"1\n3\n"})


def trim(path: Path) -> None:
    os.truncate(path, 2)


def edit(path: Path) -> None:
    path.write_bytes(b"1\n3\n")


@pytest.mark.parametrize("change", [trim, edit])
@pytest.mark.parametrize("kill", [False, True])
def test_a_segment_changed_while_down_is_replaced(path: Path, change: Callable[[Path], None], kill: bool) -> None:
    with opened(path, kill=kill) as folder:
        folder.append(b"1\n2\n")
    change(current(path))
    with opened(path) as folder:
        folder.append(b"5\n")
    assert segments(path) == {Segment(folder.segment.stream, 4 + (SKIP_BYTES if kill else 0)): b"5\n"}


def copy_next_to(folder: Path) -> Path:
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy, symlinks=True, copy_function=shutil.copy2)
    return copy


def restore_in_place(folder: Path) -> Path:
    """Restore with the same inodes and modification times, as `cp -a` does, more than 0.1 s later."""
    copy = copy_next_to(folder)
    lock = folder / "data.lock"
    wait_until(lambda: touched_later(copy, lock))
    for file in copy.iterdir():
        if not file.is_symlink():
            (folder / file.name).write_bytes(file.read_bytes())
            shutil.copystat(file, folder / file.name)
    return folder


def touched_later(copy: Path, lock: Path) -> bool:
    """Whether the lock file's last change is more than 0.1 s ago by the file system's clock."""
    (copy / "clock").touch()
    return (copy / "clock").stat().st_ctime_ns - lock.stat().st_ctime_ns > 1.1e8


@pytest.mark.parametrize("kill", [False, True])
@pytest.mark.parametrize("restore", [copy_next_to, restore_in_place])
def test_a_restored_copy_becomes_a_stream_of_its_own(
    tmp_path: Path, restore: Callable[[Path], Path], kill: bool
) -> None:
    (tmp_path / "folder").mkdir()
    with opened(tmp_path / "folder" / "data", kill=kill) as folder:
        folder.append(b"1\n")
    with opened(restore(tmp_path / "folder") / "data") as copy:
        copy.append(b"2\n")
        assert copy.segment.stream != folder.segment.stream
        assert set(segments(copy.path).values()) == {b"1\n", b"2\n"}


def test_the_state_of_an_unfinished_start_is_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the sync, a crash of the machine could bring back the clean stop before it."""
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.pread(fd, 1024, 0)))
    with opened(path):
        (state,) = synced
        assert b'"stopped": false' in state


@pytest.mark.parametrize("name", ["data", "data.lock", "segment"])
@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "device"])
def test_an_irregular_file_is_never_written(path: Path, name: str, kind: str) -> None:
    """A start refuses it; a running generator retries until it is removed."""
    with opened(path, kill=True) as folder:
        folder.append(b"1\n")
        place = folder.file(folder.segment) if name == "segment" else path.with_name(name)
        place.unlink()
        with Obstacle(kind, place):
            for _ in range(2):
                with pytest.raises((Unusable, OSError), match="is not a regular file: remove it"):
                    folder.check()
                    folder.append(b"2\n")
            if name != "segment":
                with pytest.raises(Unusable, match=r"is not a regular file|is a directory"):
                    DataFolder(path).open()
        folder.check()
        folder.append(b"3\n")
        assert current(path).read_bytes().endswith(b"3\n")


class Obstacle:
    """An irregular file at `place`. At the end it asserts that nothing was written into it."""

    def __init__(self, kind: str, place: Path) -> None:
        self.kind, self.place = kind, place

    def __enter__(self) -> None:
        if self.kind == "fifo":
            os.mkfifo(self.place)
            self.reader = os.open(self.place, os.O_RDONLY | os.O_NONBLOCK)
        elif self.kind == "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(self.place))
        elif self.kind == "folder":
            self.place.mkdir()
        else:
            try:
                os.mknod(self.place, 0o20666, os.makedev(1, 3))
            except PermissionError:
                pytest.skip("cannot make a device: not root")

    def __exit__(self, *_: object) -> None:
        if self.kind == "fifo":
            assert os.read(self.reader, 10) == b""
            os.close(self.reader)
        self.place.rmdir() if self.kind == "folder" else self.place.unlink()


@pytest.mark.parametrize("names", [["data"], ["data", "data.lock", "segment"], ["segment"], ["data.lock"]])
def test_the_stream_continues_after_files_are_removed(path: Path, names: list[str]) -> None:
    with opened(path) as folder:
        folder.append(b"1\n")
        first = folder.segment
        for name in names:
            (folder.file(first) if name == "segment" else path.with_name(name)).unlink()
        folder.check()
        folder.append(b"2\n")
        assert folder.segment.stream == first.stream
        assert folder.end == 4
        with pytest.raises(Locked):
            DataFolder(path).open()
    assert current(path).read_bytes().endswith(b"2\n")
    assert others(path) == ["data", "data.lock"]


def test_a_moved_folder_keeps_its_stream(tmp_path: Path) -> None:
    """Another generator may continue the stream in the moved folder."""
    (tmp_path / "folder").mkdir()
    with opened(tmp_path / "folder" / "data") as folder:
        folder.append(b"1\n")
        stream = folder.segment.stream
        (tmp_path / "folder").rename(tmp_path / "away")
        with pytest.raises(FileNotFoundError):
            folder.check()
        (tmp_path / "folder").mkdir()
        folder.check()
        folder.append(b"2\n")
        assert folder.segment.stream != stream
        with opened(tmp_path / "away" / "data") as other:
            other.append(b"3\n")
            assert list(segments(other.path).values()) == [b"1\n3\n"]
    assert list(segments(folder.path).values()) == [b"2\n"]


def test_checks_leave_no_descriptor_behind(path: Path) -> None:
    with opened(path) as folder:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(50):
            folder.append(b"%d\n" % number)
            current(path).unlink()
            if number % 2:
                path.with_name("data.lock").unlink()
            folder.check()
        folder.append(b"9\n")
        assert len(os.listdir("/proc/self/fd")) == before + 1


def test_files_are_group_writable_if_the_umask_allows(path: Path) -> None:
    umask = os.umask(0o002)
    try:
        with opened(path, 2) as folder:
            folder.append(b"1\n")
            folder.append(b"2\n")
    finally:
        os.umask(umask)
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o664}


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("missing/data", "directory .* does not exist: create it"),
        ("", "is a directory: give a file in it"),
        ("file/data", "directory .* does not exist"),
        ("fifo", "is not a regular file"),
        ("n" * 300, "File name too long"),
    ],
    ids=["missing", "directory", "in-a-file", "fifo", "long"],
)
def test_a_place_that_can_never_be_written_is_refused(tmp_path: Path, place: str, words: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Unusable, match=words):
        DataFolder(tmp_path / place).open()
    assert sorted(os.listdir(tmp_path)) == ["fifo", "file"]


@pytest.mark.parametrize("fsync", [False, True])
def test_a_full_disk_keeps_whole_lines_and_resumes(disk: Path, fsync: bool) -> None:
    filler = fill(disk, 4 * PAGE)
    lines = b"".join(b"%d\n" % number for number in range(10_000))
    with opened(disk / "data", fsync=fsync) as folder:
        kept = folder.append(lines)
        assert 0 < kept < len(lines)
        assert content(folder.path) == lines[:kept]
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                folder.append(lines[kept:])
            assert content(folder.path) == lines[:kept]
            assert folder.check() == ""
        filler.unlink()
        assert folder.append(lines[kept:]) == len(lines) - kept
        assert content(folder.path) == lines


@pytest.mark.parametrize("remove", [False, True])
def test_a_full_disk_at_a_new_segment_loses_nothing(disk: Path, remove: bool) -> None:
    filler = fill(disk, 4 * PAGE)
    one, other = b"10000\n" * 2000, b"20000\n" * 2000
    with opened(disk / "data", len(one)) as folder:
        assert folder.append(one) == len(one)
        fill_rest(disk)
        for _ in range(2):
            folder.check()
            with pytest.raises(OSError, match="No space left"):
                folder.append(other)
        assert current(folder.path).read_bytes() == one
        if remove:
            for file in disk.glob("data*"):
                file.unlink()
            folder.check()
        else:
            filler.unlink()
        assert (kept := folder.append(other)) > 0
        assert folder.end == len(one) + kept
        assert current(folder.path).read_bytes() == other[:kept]


def fill_rest(disk: Path) -> None:
    (disk / "rest").write_bytes(bytes(os.statvfs(disk).f_bavail * PAGE))
