"""A model of the data folder: each offset of a segment has one content, and nothing is lost without a gap."""

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as profiles
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import echo.store.folder
import echo.store.segment
import generator.folder
import generator.lock
from echo.mirror.copies import Copies, Copy
from echo.store import MAX_LINE_BYTES, DataFolder, NotReady, Place, Segment
from generator.folder import DataFolder as Writer
from support.crashes import MOMENTS, Crash, System
from support.writer import abandon

profiles.register_profile("model", derandomize=True, deadline=None)


class Follower:
    """A follower. It records each unbroken run of lines, with its stream and start."""

    def __init__(self, data: DataFolder, segment: Segment, offset: int) -> None:
        self.data, self.segment, self.offset = data, segment, offset
        self.at_a_mirror = data.path.parent.name != "folder"  # a mirror keeps fewer segments
        self.runs: list[tuple[str, int, bytes]] = [(segment.stream, segment.base + offset, b"")]

    def follow(self) -> None:
        """Read to the end."""
        while True:
            segment = self.segment
            lost = self.offset > segment.size and segment.next is not None
            while self.offset < segment.size and not lost:
                try:
                    self._take(segment.lines(self.offset, MAX_LINE_BYTES))
                except OSError:
                    lost = True
            if lost and segment.next is None:
                return  # a restored copy may make it readable again
            if segment.next is None:
                return
            self.segment, self.offset = segment.next, 0
            if lost or segment.gap:
                self.runs.append((self.segment.stream, self.segment.base, b""))

    def hop(self, data: DataFolder) -> None:
        """Continue at another replica, by stream and offset."""
        self.at_a_mirror |= data.path.parent.name != "folder"
        place = data.locate(self.segment.stream, self.segment.base + self.offset)
        if isinstance(place, Segment):
            self.data, self.segment, self.offset = data, place, self.segment.base + self.offset - place.base
        elif place is Place.GONE and data.current:
            self.data, self.segment, self.offset = data, data.current, 0
            self.runs.append((self.segment.stream, self.segment.base, b""))

    def _take(self, lines: bytes) -> None:
        assert lines.endswith(b"\n")
        stream, start, before = self.runs[-1]
        assert (stream, start + len(before)) == (self.segment.stream, self.segment.base + self.offset)
        self.runs[-1] = stream, start, before + lines
        self.offset += len(lines)


class MirrorFolder:
    """A mirror without HTTP. It copies the segments that a reader of the source sees."""

    def __init__(self, source: DataFolder) -> None:
        self.source, self.copies = source, Copies(None)
        self.copy: Copy | None = None
        self.data = DataFolder(self.copies.link)

    def step(self) -> None:
        with contextlib.suppress(NotReady, OSError):
            current = self.source.refresh()
            copy = self.copy = self.copy or self.copies.open(current.id)
            if not (segment := self.source.find(*copy.name)):
                self._go_to(current)
                return
            line = copy.last_line()
            assert segment.read(line, copy.size) == copy.read(line, copy.size)[: max(0, segment.size - line)]
            if copy.size < segment.size:
                copy.append(segment.read(copy.size, segment.size))
                self.copies.show(copy)
            if segment.next and copy.size >= segment.size:
                self._go_to(segment.next)

    def _go_to(self, segment: Segment) -> None:
        assert self.copy
        self.copy.close()
        self.copy = self.copies.open(segment.id)

    def close(self) -> None:
        if self.copy:
            self.copy.close()
        self.copies.close()


class Model(RuleBasedStateMachine):
    """A generator, readers of its folder, mirrors, their followers, and other programs that interfere."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(echo.store.folder, "SCAN_SECONDS", 0)
        self.patch.setattr(echo.store.segment, "SETTLE_SECONDS", 0)
        self.patch.setattr(generator.lock, "ORIGINAL_NS", 10**12)  # accept a lock file that a busy machine writes late
        names = itertools.count()
        self.patch.setattr("secrets.token_hex", lambda size: f"{next(names):0{2 * size}x}")
        self.place = Path(tempfile.mkdtemp())
        self.path = self.place / "folder" / "data"
        self.path.parent.mkdir()
        self.served: dict[str, bytes] = {}  # by segment
        self.offsets: dict[tuple[str, int], int] = {}  # the byte at each offset of each stream
        self.count = self.boots = self.harm = 0
        self.writer: Writer | None = None
        self.readers = [DataFolder(self.path) for _ in range(2)]
        self.mirrors = [MirrorFolder(DataFolder(self.path))]
        self.mirrors.append(MirrorFolder(self.mirrors[0].data))
        self.followers: list[Follower] = []

    @initialize(keep=st.sampled_from([1, 100]))
    def begin(self, keep: int) -> None:
        self.keep = keep
        self.append(1)
        for data in self.folders():
            self.check(data)
            self.followers += [Follower(data, data.current, 0)] if data.current else []

    # The generator

    def start(self) -> Writer:
        if not self.writer:
            self.writer = Writer(self.path, 40, self.keep)
            self.writer.boot = f"boot {self.boots}"
            self.writer.open()
        return self.writer

    def numbers(self, count: int) -> Iterator[bytes]:
        for _ in range(count):
            self.count += 1
            yield b"%d\n" % (10**6 + self.count)

    @rule(count=st.integers(1, 20))
    def append(self, count: int) -> None:
        writer = self.start()
        for line in self.numbers(count):
            writer.check()
            writer.append(line)

    @rule()
    def stop(self) -> None:
        if self.writer:
            self.writer.stop()
        self.writer = None

    @rule(call=st.integers(0, 30), moment=st.sampled_from(MOMENTS), count=st.integers(1, 10))
    def kill(self, call: int, moment: str, count: int) -> None:
        """Kill the generator at any system call of a start, an append, a rotation or a repair."""
        with self.patch.context() as patch, contextlib.suppress(Crash):
            system = System(call, moment)
            patch.setattr(generator.folder, "os", system)
            patch.setattr(generator.lock, "os", system)
            self.append(count)
        self.abandon()

    def abandon(self) -> None:
        if self.writer:
            abandon(self.writer)
        self.writer = None

    @rule(part=st.floats(0, 1))
    def crash_the_machine(self, part: float) -> None:
        """Lose the end of the segment, which never reached the disk."""
        self.harm += 1
        self.abandon()
        self.boots += 1
        if self.path.exists():
            os.truncate(self.path, int(part * os.stat(self.path).st_size))

    # Other programs

    @rule(part=st.floats(0, 1))
    def truncate(self, part: float) -> None:
        self.harm += 1
        if self.path.exists():
            os.truncate(self.path, int(part * os.stat(self.path).st_size))

    @rule(link=st.booleans(), segment=st.booleans())
    def delete(self, link: bool, segment: bool) -> None:
        self.harm += segment
        if segment and self.path.exists():
            self.path.resolve().unlink()
        if link:
            self.path.unlink(missing_ok=True)

    @rule(kind=st.sampled_from(["edit", "replace", "refill"]), numbers=st.sets(st.integers(0, 3)))
    def overwrite(self, kind: str, numbers: set[int]) -> None:
        """Overwrite the segment. Until the generator appends, only readers of the old bytes can detect it."""
        self.append(1)
        self.check_all()
        self.harm += 1
        file = self.path.resolve()
        if kind == "edit":
            with file.open("r+b") as opened:
                opened.seek(-2, os.SEEK_END)
                opened.write(b"x")
        elif kind == "refill":
            file.write_bytes(b"7777777\n" * 8)
        else:
            file.with_name("other").write_bytes(b"7777777\n" * 8)
            file.with_name("other").replace(file)
        for number in numbers:
            self.check(self.folders()[number])
        self.append(1)

    @rule()
    def save(self) -> None:
        self.saved = self.place / "saved"
        shutil.rmtree(self.saved, ignore_errors=True)
        shutil.copytree(self.path.parent, self.saved, symlinks=True)

    @rule()
    def restore(self) -> None:
        """Stop everything, restore an older copy, and start again."""
        if not hasattr(self, "saved"):
            return
        self.harm += 1
        self.stop()
        # Keep the old lock file, so that the restored one gets another inode.
        self.path.parent.rename(self.place / f"before {self.harm}")
        shutil.copytree(self.saved, self.path.parent, symlinks=True)
        self.start()
        self.append(1)
        before, self.readers = self.readers, [DataFolder(self.path) for _ in self.readers]
        for old, new in zip(before, self.readers, strict=True):
            self.reconnect(old, new)

    # Readers

    def folders(self) -> list[DataFolder]:
        return [*self.readers, *(mirror.data for mirror in self.mirrors)]

    @rule(number=st.integers(0, 3))
    def check_one(self, number: int) -> None:
        self.check(self.folders()[number])

    @rule(number=st.integers(0, 1))
    def mirror(self, number: int) -> None:
        self.mirrors[number].step()

    @rule(number=st.integers(0, 1))
    def restart_a_reader(self, number: int) -> None:
        before, self.readers[number] = self.readers[number], DataFolder(self.path)
        self.reconnect(before, self.readers[number])

    def reconnect(self, before: DataFolder, data: DataFolder) -> None:
        """Reconnect the followers of a reader that was restarted."""
        self.check(data)
        for follower in [follower for follower in self.followers if follower.data is before]:
            if data.current:
                follower.hop(data)
            if follower.data is before:  # it gives up: the reader is not ready or is behind
                self.followers.remove(follower)

    @rule(number=st.integers(0, 11), to=st.integers(0, 3))
    def hop(self, number: int, to: int) -> None:
        data = self.folders()[to]
        for follower in self.followers[number : number + 1]:
            with contextlib.suppress(NotReady):
                data.refresh()
                follower.hop(data)

    @rule(number=st.integers(0, 3), place=st.floats(0, 1))
    def join(self, number: int, place: float) -> None:
        """Add a follower that begins at a line of some segment."""
        data = self.folders()[number]
        self.check(data)
        if len(self.followers) < 12 and (kept := data.segments()):
            segment = kept[int(place * (len(kept) - 1))]
            with contextlib.suppress(OSError):
                offset = segment.read(0, int(place * segment.size)).rfind(b"\n") + 1
                self.followers.append(Follower(data, segment, offset))

    @rule(number=st.integers(0, 11))
    def follow(self, number: int) -> None:
        for follower in self.followers[number : number + 1]:
            follower.follow()

    def check_all(self) -> None:
        for mirror in self.mirrors:
            for _ in range(50):
                mirror.step()
        for data in self.folders():
            self.check(data)

    def check(self, data: DataFolder) -> None:
        """Read all segments and compare them with everything that was read under these names."""
        with contextlib.suppress(NotReady):
            data.refresh()
            for segment in data.segments():
                with contextlib.suppress(OSError):
                    text = segment.read(0, segment.size)
                    assert len(text) == segment.size and (not text or text.endswith(b"\n"))
                    before = self.served.get(segment.name, b"")
                    assert text[: len(before)] == before[: len(text)], segment
                    self.served[segment.name] = max(text, before, key=len)
                    for number, byte in enumerate(text, segment.base):
                        assert self.offsets.setdefault((segment.stream, number), byte) == byte, (segment, number)

    @invariant()
    def followers_have_what_was_served(self) -> None:
        for follower in self.followers:
            stream, start, text = follower.runs[-1]
            for number, byte in enumerate(text, start):
                assert self.offsets.setdefault((stream, number), byte) == byte

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            for mirror in self.mirrors:
                mirror.close()
            self.abandon()
            self.patch.undo()
            shutil.rmtree(self.place)

    def finish(self) -> None:
        """Assert that every follower has the last number and received every gap as a new run."""
        if not hasattr(self, "keep"):
            return
        self.append(1)
        for _ in range(3):
            self.check_all()
        for follower in self.followers:
            follower.follow()
            assert follower.segment is follower.data.current, (follower.segment, follower.data.segments())
            assert follower.runs[-1][2].endswith(b"%d\n" % (10**6 + self.count)), follower.runs
            if self.harm == 0 and self.keep == 100 and not follower.at_a_mirror:
                assert len(follower.runs) == 1, follower.runs


class TestModel(Model.TestCase):  # type: ignore[misc,valid-type]
    settings: Any = profiles(max_examples=profiles().max_examples // 2, stateful_step_count=40)
