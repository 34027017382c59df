"""The generator's data folder in tests: open it, close it and read its content."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generator.folder import DataFolder
from generator.segments import Segment, parse, whole


@contextlib.contextmanager
def opened(path: Path, segment_size: int = 0, keep: int = 2, fsync: bool = False, kill: bool = False) -> Iterator[Any]:
    """Open a data folder as its writer. At the end stop it cleanly or, with `kill`, leave it as a killed process."""
    folder = DataFolder(path, segment_size, keep, fsync)
    try:
        folder.open()
        yield folder
        if not kill:
            folder.stop()
    finally:
        abandon(folder)


def abandon(folder: DataFolder) -> None:
    """Close the files that the kernel closes when a process is killed."""
    folder.close()
    folder.lock.release()


def segments(path: Path) -> dict[Segment, bytes]:
    """Return all segments in the folder and their contents, in order."""
    found = {parse(path.name, name): path.with_name(name) for name in os.listdir(path.parent)}
    return {segment: found[segment].read_bytes() for segment in sorted(filter(None, found))}


def current(path: Path) -> Segment:
    """Return the segment that the symlink points to."""
    segment = parse(path.name, os.readlink(path))
    assert segment
    return segment


def end_of(path: Path) -> tuple[str, int]:
    """Return the stream and the offset after the last number."""
    segment = current(path)
    return segment.stream, segment.base + path.stat().st_size


def content(path: Path) -> bytes:
    """Return the kept bytes of the current stream. Assert that there is no gap."""
    stream = current(path).stream
    end, joined = None, b""
    for segment, data in segments(path).items():
        if segment.stream == stream:
            assert end in (None, segment.base), f"a gap before {segment}"
            end, joined = segment.base + len(data), joined + data
    return joined


def lines(data: bytes) -> bytes:
    """Return the whole lines at the start."""
    return data[: whole(data)]
