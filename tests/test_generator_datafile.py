"""The data file as its one writer sees it: mended, locked, rotated, never torn, on a real file system."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as profiles
from hypothesis import strategies as st

from generator.datafile import DataFile, Locked, Unusable, mend
from generator.rounds import Numbers
from generator.settings import parse
from support import running, wait_until

profiles.load_profile("ci")  # the same examples each time, no deadline

PAGE = 4096
RUNS = st.lists(st.tuples(st.sampled_from([b"\n", b"7", b"32767\n", b"\0"]), st.integers(0, 5000)), max_size=6)
BYTES = st.one_of(st.binary(max_size=200), RUNS.map(lambda runs: b"".join(piece * times for piece, times in runs)))


@contextlib.contextmanager
def opened(path: Path, max_size: int = 0, fsync: bool = False) -> Iterator[DataFile]:
    file = DataFile(path, max_size, fsync)
    file.open()
    try:
        yield file
    finally:
        file.close()
        file.release()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    if (mounted := subprocess.run(mount, capture_output=True, text=True)).returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def fill(disk: Path, spare: int) -> Path:
    """Leave but so many bytes free; returns the file that takes the room."""
    filler = disk / "filler"
    room = os.statvfs(disk)
    filler.write_bytes(bytes(room.f_bavail * room.f_bsize - spare))
    return filler


@given(BYTES)
def test_mend_leaves_the_longest_prefix_of_whole_lines(content: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        cut = mend(file.fileno())
        file.seek(0)
        left = file.read()
    head, newline, _ = content.rpartition(b"\n")
    assert left == head + newline
    assert cut == len(content) - len(left)


def test_open_says_what_it_cut_off_and_only_then(path: Path) -> None:
    path.write_bytes(b"1\n2\n34")
    file = DataFile(path)
    assert file.open() == f"cut a torn last line of 2 bytes off {path}"
    assert path.read_bytes() == b"1\n2\n"
    assert file.size == 4
    assert file.reopen() == ""
    file.close()
    file.release()


@given(st.lists(st.lists(st.integers(0, 99999), min_size=1, max_size=30), max_size=60))
def test_rotation_keeps_every_line_within_the_size_limit(batches: list[list[int]]) -> None:
    """FILE.1 and FILE are, joined, the end of what was appended, and neither is longer than the limit."""
    limit = 200
    appended = b""
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder, "data"), limit) as file:
        for batch in batches:
            lines = b"".join(b"%d\n" % number for number in batch)
            assert file.append(lines) == len(lines)
            appended += lines
            new = file.path.read_bytes()
            old = file.sibling(".1").read_bytes() if file.sibling(".1").exists() else b""
            assert appended.endswith(old + new)
            assert old or new == appended
            assert new.endswith(lines)
            assert file.size == len(new) <= limit
            assert len(old) <= limit
        assert not {"data.new", "data.1.new"} & set(names(Path(folder)))


def test_file_1_is_replaced_by_the_next_rotation(path: Path) -> None:
    with opened(path, 4) as file:
        for lines in (b"1\n2\n", b"3\n4\n", b"5\n6\n"):
            file.append(lines)
    assert path.with_name("data.1").read_bytes() == b"3\n4\n"
    assert path.read_bytes() == b"5\n6\n"
    assert names(path.parent) == ["data", "data.1", "data.lock"]


def test_no_limit_never_rotates(path: Path) -> None:
    with opened(path, 0) as file:
        for _ in range(100):
            file.append(b"32767\n" * 1000)
    assert path.stat().st_size == 600_000
    assert names(path.parent) == ["data", "data.lock"]


def test_at_every_moment_of_a_rotation_a_file_with_numbers_is_at_the_path(path: Path) -> None:
    done = threading.Event()
    sights: list[int] = []
    trouble: list[str] = []

    def watch() -> None:
        while not done.is_set():
            try:
                sights.append(os.stat(path).st_size)
            except OSError as error:
                trouble.append(str(error))

    with opened(path, 6) as file:
        file.append(b"10000\n")
        watcher = threading.Thread(target=watch)
        watcher.start()
        for _ in range(2000):
            file.append(b"10000\n")
        done.set()
        watcher.join()
    assert not trouble
    assert set(sights) == {6}


def test_a_file_that_cannot_have_another_link_is_rotated_all_the_same(path: Path) -> None:
    """As on a file system without links."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, opened(path, 6) as file:
        file.append(b"10000\n")
        try:
            for number in range(70_000):
                os.link(path, f"{folder}/{number}")
        except OSError:
            file.append(b"20000\n")
        else:
            pytest.skip("this file system has no end of links")
    assert path.with_name("data.1").read_bytes() == b"10000\n"
    assert path.read_bytes() == b"20000\n"
    assert names(path.parent) == ["data", "data.1", "data.lock"]


@pytest.mark.parametrize("obstacle", ["data.new", "data.1.new", "data.1"])
def test_a_failed_rotation_loses_nothing_and_can_be_tried_again(path: Path, obstacle: str) -> None:
    with opened(path, 6) as file:
        file.append(b"10000\n")
        path.with_name(obstacle).mkdir()
        for _ in range(2):
            with pytest.raises(OSError, match=obstacle):
                file.append(b"20000\n")
            assert path.read_bytes() == b"10000\n"
            assert file.changed() == ""
        path.with_name(obstacle).rmdir()
        file.append(b"20000\n")
        assert file.changed() == ""
    assert path.with_name("data.1").read_bytes() == b"10000\n"
    assert path.read_bytes() == b"20000\n"
    assert names(path.parent) == ["data", "data.1", "data.lock"]


def test_a_rotation_that_ended_half_way_is_done_again(path: Path) -> None:
    """FILE.1 is FILE already, as a crash between the two renames leaves it."""
    path.write_bytes(b"10000\n")
    os.link(path, path.with_name("data.1"))
    path.with_name("data.new").write_bytes(b"20000\n")
    with opened(path, 6) as file:
        file.append(b"30000\n")
    assert path.with_name("data.1").read_bytes() == b"10000\n"
    assert path.read_bytes() == b"30000\n"
    assert names(path.parent) == ["data", "data.1", "data.lock"]


def test_leftovers_of_a_crash_are_removed(path: Path) -> None:
    path.write_bytes(b"1\n")
    path.with_name("data.new").write_bytes(b"2\n")
    os.link(path, path.with_name("data.1.new"))
    with opened(path):
        assert names(path.parent) == ["data", "data.lock"]
    assert path.read_bytes() == b"1\n"


def test_a_second_writer_is_told_who_the_first_one_is(path: Path) -> None:
    with opened(path) as first:
        first.append(b"1\n")
        second = DataFile(path)
        for _ in range(2):
            with pytest.raises(Locked) as locked:
                second.open()
            holder = f"generator with pid {os.getpid()} on host {os.uname().nodename}"
            assert str(locked.value) == f"{path} has a writer already: {holder}"
        first.append(b"2\n")
        assert path.read_bytes() == b"1\n2\n"
    with opened(path) as third:
        third.append(b"3\n")
    assert path.read_bytes() == b"1\n2\n3\n"


def test_a_rotated_file_has_still_but_one_writer(path: Path) -> None:
    with opened(path, 2) as first:
        first.append(b"1\n")
        first.append(b"2\n")
        with pytest.raises(Locked):
            DataFile(path).open()


def test_what_was_done_to_the_file_is_seen(path: Path) -> None:
    with opened(path) as file:
        file.append(b"1\n2\n")
        assert file.changed() == ""
        os.truncate(path, 2)
        assert file.changed() == "was truncated from 4 to 2 bytes"
        path.unlink()
        assert file.changed() == "was replaced or removed"
        path.write_bytes(b"1\n2\n")
        assert file.changed() == "was replaced or removed"
        file.reopen()
        assert file.changed() == ""
        file.close()
        assert file.changed() == "is closed"


def test_a_file_put_in_place_of_the_old_one_is_mended_and_gone_on_with(path: Path) -> None:
    with opened(path) as file:
        file.append(b"1\n")
        path.with_name("other").write_bytes(b"5\n6\n78")
        os.replace(path.with_name("other"), path)
        assert "torn" in file.reopen()
        file.append(b"9\n")
        assert file.size == 6
    assert path.read_bytes() == b"5\n6\n9\n"


def test_renew_goes_on_in_a_new_file_with_the_same_content(path: Path) -> None:
    """For readers: bytes at an offset they have been served must not become others in one file."""
    with opened(path) as file:
        file.append(b"10000\n" * 500_000)
        os.truncate(path, 2_400_003)
        before = path.stat().st_ino
        held = os.open(path, os.O_RDONLY)  # as a reader, so that the inode is not free to be taken again
        file.renew()
        os.close(held)
        assert path.stat().st_ino != before
        assert file.changed() == ""
        file.append(b"2\n")
    assert path.read_bytes() == b"10000\n" * 400_000 + b"2\n"
    assert names(path.parent) == ["data", "data.lock"]


def test_a_folder_put_back_has_but_one_writer_again(path: Path) -> None:
    folder = path.parent / "folder"
    folder.mkdir()
    with opened(folder / "data") as file:
        file.append(b"1\n")
        folder.rename(path.parent / "away")
        with pytest.raises(FileNotFoundError):
            file.reopen()
        folder.mkdir()
        file.reopen()
        with pytest.raises(Locked):
            DataFile(folder / "data").open()
        file.append(b"2\n")
    assert (folder / "data").read_bytes() == b"2\n"


def test_reopening_leaves_no_descriptor_behind(path: Path) -> None:
    with opened(path) as file:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(50):
            path.with_name("other").write_bytes(b"%d\n" % number)
            os.replace(path.with_name("other"), path)
            file.reopen()
        assert len(os.listdir("/proc/self/fd")) == before


def test_files_are_writable_for_the_group_if_the_umask_lets_them(path: Path) -> None:
    umask = os.umask(0o002)
    try:
        with opened(path, 2) as file:
            file.append(b"1\n")
            file.append(b"2\n")
    finally:
        os.umask(umask)
    for name in ("data", "data.1", "data.lock"):
        assert path.with_name(name).stat().st_mode & 0o777 == 0o664


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
def test_a_place_that_can_never_be_written_is_unusable(tmp_path: Path, place: str, words: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Unusable, match=words):
        DataFile(tmp_path / place).open()
    assert names(tmp_path) == ["fifo", "file"]


@pytest.mark.parametrize("fsync", [False, True])
def test_a_full_disk_keeps_whole_lines_and_the_rest_can_be_appended_later(small_disk: Path, fsync: bool) -> None:
    filler = fill(small_disk, 4 * PAGE)
    lines = b"".join(b"%d\n" % number for number in range(10_000))
    with opened(small_disk / "data", fsync=fsync) as file:
        kept = file.append(lines)
        assert 0 < kept < len(lines)
        assert file.path.read_bytes() == lines[:kept]
        assert lines[:kept].endswith(b"\n")
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                file.append(lines[kept:])
            assert file.path.read_bytes() == lines[:kept]
        assert file.size == kept
        filler.unlink()
        assert file.append(lines[kept:]) == len(lines) - kept
        assert file.path.read_bytes() == lines


def test_a_rotation_on_a_full_disk_loses_nothing_and_can_be_tried_again(small_disk: Path) -> None:
    filler = fill(small_disk, 4 * PAGE)
    one, other = b"10000\n" * 1000, b"20000\n" * 1000
    with opened(small_disk / "data", max_size=len(one)) as file:
        assert file.append(one) == len(one)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                file.append(other)
            assert file.path.read_bytes() == one
        filler.unlink()
        assert file.append(other) == len(other)
        assert file.sibling(".1").read_bytes() == one
        assert file.path.read_bytes() == other


@pytest.mark.parametrize("interval", ["0", "0.001"])
def test_the_generator_outlives_a_full_disk(small_disk: Path, tmp_path: Path, interval: str) -> None:
    """It says so once, stays alive, goes on when there is room, and no number is lost or torn."""
    filler = fill(small_disk, 2 * PAGE)  # one is for the lock
    data, beat = small_disk / "data", tmp_path / "beat"
    command: list[str | Path] = [sys.executable, "-m", "generator", "--file", data, "--heartbeat", beat]
    with running([*command, "--interval", interval, "--seed", "7", "--max-size", "0"]) as generator:
        generator.said("^cannot write, trying again every 1 s: .*data: No space left on device$")
        full = data.stat().st_size
        for _ in range(2):
            last = beat.stat().st_mtime_ns
            wait_until(lambda last=last: beat.stat().st_mtime_ns > last, within=3)  # type: ignore[misc]
        assert generator.output.count("cannot write") == 1
        os.truncate(filler, filler.stat().st_size - PAGE)
        generator.said("^writing again$")
        wait_until(lambda: data.stat().st_size > full)
        generator.signal(signal.SIGTERM)
        assert generator.ended() == 0
    content = data.read_bytes()
    expected = Numbers(parse(["--seed", "7"], {})).lines(5000)
    assert content.endswith(b"\n")
    assert expected.startswith(content)


def test_a_disk_full_from_the_start_does_not_end_the_generator(small_disk: Path) -> None:
    fill(small_disk, PAGE)  # for the lock
    data = small_disk / "data"
    with running([sys.executable, "-m", "generator", "--file", data, "--interval", "0"]) as generator:
        generator.said("^cannot write")
        (small_disk / "filler").unlink()
        generator.said("^writing again$")
        wait_until(lambda: data.stat().st_size > PAGE)
