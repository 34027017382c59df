"""A generator killed before, in or after any system call: the next one loses and repeats nothing."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings as profiles
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import generator.folder
import generator.lock
from generator.folder import DataFolder
from generator.segments import Segment
from support.crashes import MOMENTS, Crash, System
from support.writer import abandon, content, lines, opened, segments

profiles.load_profile("ci")  # the same examples each time, no deadline

Work = Callable[[DataFolder], None]


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept a lock file that a busy machine writes late. Restored ones here have another inode."""
    monkeypatch.setattr(generator.lock, "ORIGINAL_NS", 10**12)


def run(monkeypatch: pytest.MonkeyPatch, system: System, folder: DataFolder, work: Work) -> bool:
    """Run `work` with a fake `os` module. Return whether it was killed."""
    with monkeypatch.context() as patch:
        patch.setattr(generator.folder, "os", system)
        patch.setattr(generator.lock, "os", system)
        try:
            work(folder)
        except Crash:
            return True
        finally:
            abandon(folder)
    return False


def start(folder: DataFolder) -> None:
    folder.open()
    folder.append(b"10\n")


def rotate(folder: DataFolder) -> None:
    folder.open()
    for number in range(20, 25):
        folder.append(b"%d\n" % number)
    folder.stop()


def damage(folder: DataFolder) -> None:
    folder.open()
    folder.append(b"30\n")
    os.truncate(folder.file(folder.segment), 1)
    folder.check()
    folder.append(b"31\n")


def moments() -> Iterator[tuple[int, str]]:
    return ((call, moment) for call in range(200) for moment in MOMENTS)


@pytest.mark.parametrize("fsync", [False, True])
@pytest.mark.parametrize("work", [start, rotate])
def test_a_kill_at_any_system_call_loses_and_repeats_nothing(
    monkeypatch: pytest.MonkeyPatch, work: Work, fsync: bool
) -> None:
    for call, moment in moments():
        with tempfile.TemporaryDirectory() as place:
            path = Path(place, "data")
            with opened(path, 9, fsync=fsync) as folder:
                for number in (b"1\n", b"2\n", b"3\n"):
                    folder.append(number)
            before = content(path)
            killed = run(monkeypatch, System(call, moment), DataFolder(path, 9, 5, fsync), work)
            after = lines(b"".join(segments(path).values()))
            with opened(path, 9, 5) as folder:
                folder.append(b"99\n")
            now = content(path)
            assert now.startswith(before) and now.startswith(after) and now == after + b"99\n", (call, moment)
            assert len({segment.stream for segment in segments(path)}) == 1
            assert set(os.listdir(place)) == {"data", "data.lock", *(s.file_name("data") for s in segments(path))}
        if not killed:
            return
    raise AssertionError("the work never ends")


@pytest.mark.parametrize("old", [{"data": b"1\n2\n34"}, {"data.1": b"1\n2\n", "data": b"3\n4"}, {"data.1": b"1\n"}])
def test_a_kill_during_the_takeover_of_version_one_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, old: dict[str, bytes]
) -> None:
    expected = b"".join(lines(data) for _, data in sorted(old.items(), reverse=True))
    for call, moment in moments():
        with tempfile.TemporaryDirectory() as place:
            path = Path(place, "data")
            for name, data in old.items():
                path.with_name(name).write_bytes(data)
            path.with_name("data.lock").write_text("generator with pid 1 on host one\n")
            killed = run(monkeypatch, System(call, moment), DataFolder(path), start)
            with opened(path) as folder:
                folder.append(b"99\n")
            assert content(path) in (expected + b"99\n", expected + b"10\n99\n"), (call, moment)
            names = {segment.file_name("data") for segment in segments(path)}
            assert set(os.listdir(place)) == {"data", "data.lock", *names}
        if not killed:
            return
    raise AssertionError("the work never ends")


class Model(RuleBasedStateMachine):
    """All events of a folder in any order, and a reader that remembers each byte."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.place = tempfile.TemporaryDirectory()
        self.path = Path(self.place.name, "data")
        self.patch = pytest.MonkeyPatch()
        self.seen: dict[tuple[str, int], int] = {}
        self.number = 1000
        self.altered = False  # another program changed the segment after the generator's last check
        self.foreign = False  # another program appended lines that a reader saw and the generator did not
        self.boot = 0
        self.backup: dict[str, bytes] = {}
        self.disk: dict[str, bytes] = {}  # the bytes that survive a crash of the machine
        self.reboot()
        self.begin()

    def teardown(self) -> None:
        abandon(self.folder)
        self.stack.close()
        self.patch.undo()
        self.place.cleanup()

    def reboot(self) -> None:
        self.boot += 1
        boot = f"boot {self.boot}"
        self.patch.setattr(generator.folder, "boot_id", lambda: boot)

    def begin(self) -> None:
        self.folder = DataFolder(self.path, 15, 2)
        self.folder.open()
        self.altered = self.foreign = False

    def current(self) -> Path:
        return self.folder.file(self.folder.segment)

    @invariant()
    def the_same_offset_never_has_two_contents(self) -> None:
        if self.altered:
            return
        for segment, data in segments(self.path).items():
            for offset, byte in enumerate(lines(data), segment.base):
                assert self.seen.setdefault((segment.stream, offset), byte) == byte

    @rule(times=st.integers(1, 4))
    def append(self, times: int) -> None:
        for _ in range(times):
            self.number += 1
            self.folder.check()
            self.altered = self.foreign = False
            assert self.folder.append(b"%d\n" % self.number) == 5
            assert self.path.read_bytes().endswith(b"%d\n" % self.number)
            self.the_same_offset_never_has_two_contents()

    @rule()
    def hang_up(self) -> None:
        self.folder.close()

    @rule()
    def stop(self) -> None:
        self.folder.stop()
        self.begin()

    @rule(call=st.integers(0, 40), moment=st.sampled_from(MOMENTS))
    def kill(self, call: int, moment: str) -> None:
        def work(folder: DataFolder) -> None:
            for _ in range(4):
                self.number += 1
                folder.check()
                folder.append(b"%d\n" % self.number)

        run(self.patch, System(call, moment), self.folder, work)
        self.the_same_offset_never_has_two_contents()
        self.begin()

    @rule()
    def sync(self) -> None:
        """Write all dirty pages to the disk."""
        self.disk = self.files()

    def files(self) -> dict[str, bytes]:
        names = [name for name in os.listdir(self.place.name) if not self.path.with_name(name).is_symlink()]
        return {name: self.path.with_name(name).read_bytes() for name in names}

    @rule(share=st.floats(0, 1))
    def crash_of_the_machine(self, share: float) -> None:
        """Lose a part of all bytes written since the last sync. The lock file was synced at the start."""
        abandon(self.folder)
        for segment, data in segments(self.path).items():
            synced = len(self.disk.get(segment.file_name("data"), b""))
            if len(data) > synced:
                os.truncate(self.folder.file(segment), synced + int(share * (len(data) - synced)))
        self.reboot()
        self.begin()

    @precondition(lambda self: not self.foreign)
    @rule(size=st.integers(0, 14))
    def truncate(self, size: int) -> None:
        if self.current().exists() and size < self.current().stat().st_size:
            os.truncate(self.current(), size)
            self.altered = True

    @precondition(lambda self: not self.altered)
    @rule()
    def append_foreign_lines(self) -> None:
        if self.current().exists():
            with self.current().open("ab") as file:
                file.write(b"7\n")
            self.foreign = True

    @precondition(lambda self: not self.foreign)
    @rule(link=st.booleans(), stopped=st.booleans())
    def delete(self, link: bool, stopped: bool) -> None:
        if stopped:
            self.folder.stop()
        for path in [self.path] if link else list(self.path.parent.glob("data*")):
            path.unlink(missing_ok=True)
        if stopped:
            self.begin()

    @precondition(lambda self: not self.foreign)
    @rule(way=st.sampled_from(["replace", "edit"]), down=st.booleans())
    def alter(self, way: str, down: bool) -> None:
        if not self.current().exists() or not (data := self.current().read_bytes()):
            return
        if down:
            self.folder.stop()
        if way == "replace":
            self.current().unlink()
        self.current().write_bytes(data[:-2] + b"x\n")
        self.altered = True
        if down:
            self.begin()

    @precondition(lambda self: not self.altered)
    @rule()
    def back_up(self) -> None:
        self.folder.stop()
        self.backup = self.files()
        with contextlib.suppress(FileNotFoundError):  # no restored file can get the inode of an open one
            self.stack.enter_context(self.path.with_name("data.lock").open())
        self.begin()

    @precondition(lambda self: self.backup)
    @rule()
    def restore(self) -> None:
        """Restore a copy in place while everything is stopped. The files get new inodes."""
        self.folder.stop()
        for path in self.path.parent.glob("data*"):
            path.unlink()
        for name, data in self.backup.items():
            self.path.with_name(name).write_bytes(data)
        self.begin()


Model.TestCase.settings = profiles(max_examples=profiles().max_examples // 2, stateful_step_count=25)
TestModel = Model.TestCase


def test_the_segment_after_a_damaged_one_begins_at_its_end(tmp_path: Path) -> None:
    with opened(path := tmp_path / "data") as folder:
        folder.append(b"10\n")
        first = folder.segment
        os.truncate(folder.file(first), 1)
        assert "was truncated from 3 to 1 bytes" in folder.check()
        folder.append(b"20\n")
    assert segments(path) == {Segment(first.stream, 3): b"20\n"}
