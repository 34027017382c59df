"""The notifier reports changes at once, also where inotify does not; FUSE loses nothing."""

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from echo.store import DataFolder, Notifier, NotReady, Segment, notifier
from generator.folder import DataFolder as Writer
from support import need, wait_until
from support.writer import opened


class Watched:
    """A data folder with a notifier, and the states that the notifier found."""

    def __init__(self, path: Path) -> None:
        self.data = DataFolder(path)
        self.notifier = Notifier(path)
        self.seen: list[tuple[str, int]] = []
        self.ready = threading.Event()

    def refresh(self) -> bool:
        with contextlib.suppress(NotReady):
            self.data.refresh()
        self.ready.set()
        current = self.data.current
        now = (current.name, current.size) if current else ("", 0)
        if self.seen[-1:] == [now]:
            return False
        self.seen.append(now)
        return True


@contextlib.contextmanager
def watched(path: Path) -> Iterator[Watched]:
    found = Watched(path)
    loop = asyncio.new_event_loop()
    task = loop.create_task(found.notifier.run(found.refresh))

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        assert found.ready.wait(10)
        yield found
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
        loop.close()


def change_append(writer: Writer) -> None:
    writer.append(b"2\n")


def change_rotate(writer: Writer) -> None:
    writer.segment_size = 1
    writer.append(b"2\n")


@pytest.mark.parametrize("change", [change_append, change_rotate])
def test_a_change_is_noticed_without_polling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Writer], None]
) -> None:
    monkeypatch.setattr(notifier, "CHECK_SECONDS", 3600)
    with opened(tmp_path / "data") as writer:
        writer.append(b"1\n")
        with watched(tmp_path / "data") as found:
            wait_until(lambda: found.notifier.how == "inotify" and found.seen)
            for _ in range(5):
                change(writer)
                end = writer.end
                wait_until(lambda end=end: found.data.current and found.data.current.end == end)  # type: ignore[misc]


@pytest.mark.parametrize("missing", ["instances", "watches"])
def test_without_inotify_it_polls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(notifier, "CHECK_SECONDS", 0.05)
    if missing == "instances":
        monkeypatch.setattr("inotify_simple.INotify.__init__", refuse)
    else:
        monkeypatch.setattr("inotify_simple.INotify.add_watch", refuse)
    with opened(tmp_path / "data") as writer:
        writer.append(b"1\n")
        with watched(tmp_path / "data") as found:
            for _ in range(3):
                writer.append(b"2\n")
                end = writer.end
                wait_until(lambda end=end: found.data.current and found.data.current.end == end)  # type: ignore[misc]
            assert found.notifier.how == "polling"


@contextlib.contextmanager
def bound(folder: Path, mount: Path) -> Iterator[None]:
    """Show a folder through FUSE, which caches sizes and names for a second."""
    mount.mkdir()
    mounted = subprocess.run([need("bindfs"), folder, mount], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount with bindfs: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


def test_fuse_loses_nothing_when_the_writer_is_behind_it(tmp_path: Path) -> None:
    (tmp_path / "behind").mkdir()
    written = b""
    with bound(tmp_path / "behind", tmp_path / "mount"), opened(tmp_path / "behind" / "data", 2000, 100) as writer:
        writer.append(b"0\n")
        with watched(tmp_path / "mount" / "data") as found:
            wait_until(lambda: found.data.current)
            first = found.data.current
            assert first
            for number in range(20_000):
                line = b"%d\n" % number
                writer.append(line)
                written += line

            def followed() -> bytes:
                place: Segment | None = first
                text = b""
                while place:
                    text += place.read(0, place.size)
                    assert not place.gap
                    place = place.next
                return text

            wait_until(lambda: followed() == b"0\n" + written)
            for _ in range(20):  # until the notifier detects that inotify is silent here
                writer.append(b"9\n")
                end = writer.end
                wait_until(lambda end=end: found.data.current and found.data.current.end == end)  # type: ignore[misc]
                if found.notifier.how == "polling":
                    break
            else:
                raise AssertionError("the notifier still trusts inotify")
