"""A generator's data folder in tests: opened and always closed, and what is in it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generator.folder import DataFolder
from generator.segments import Segment, parse, whole


@contextlib.contextmanager
def opened(path: Path, segment_size: int = 0, keep: int = 2, fsync: bool = False, kill: bool = False) -> Iterator[Any]:
    """A data folder with a writer, which is stopped cleanly at the end, or leaves as a killed process does."""
    folder = DataFolder(path, segment_size, keep, fsync)
    try:
        folder.open()
        yield folder
        if not kill:
            folder.stop()
    finally:
        abandon(folder)


def abandon(folder: DataFolder) -> None:
    """Close what the system closes when a process is killed."""
    folder.close()
    folder.lock.release()


def segments(path: Path) -> dict[Segment, bytes]:
    """All segments in the folder and their content, in order."""
    found = {parse(path.name, name): path.with_name(name) for name in os.listdir(path.parent)}
    return {segment: found[segment].read_bytes() for segment in sorted(filter(None, found))}


def content(path: Path) -> bytes:
    """The bytes of the current stream that are kept, from its first segment on; asserts that there is no gap."""
    current = parse(path.name, os.readlink(path))
    assert current
    end, joined = None, b""
    for segment, data in segments(path).items():
        if segment.stream == current.stream:
            assert end in (None, segment.base), f"a gap before {segment}"
            end, joined = segment.base + len(data), joined + data
    return joined


def lines(data: bytes) -> bytes:
    """The whole lines at the start."""
    return data[: whole(data)]
