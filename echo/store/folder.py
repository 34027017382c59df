"""The data folder: its segments, the current one, and the segment of a position."""

import contextlib
import os
import stat
import time
import weakref
from collections import deque
from collections.abc import Iterable
from enum import Enum, auto
from pathlib import Path

from echo.store.names import SegmentName, parse_file_name, successor
from echo.store.segment import Damaged, NotReady, Segment, State

REMOVED_SEGMENTS = 8  # kept open after their files were removed, for the readers in them
RELEASE_SECONDS = 5.0  # close removed files after this time without a current segment, to free disk space
SCAN_SECONDS = 1.0  # between listings of an unchanged folder
SETTLE_POLL_SECONDS = 0.05  # between listings while a segment is SETTLING
MAX_ATTEMPTS = 3  # to open the symlink's target, which the writer may just have removed
KNOWN_STREAMS = 1000  # streams whose names are remembered


class Place(Enum):
    """The reason why no kept segment holds a position."""

    AHEAD = auto()  # the folder has not received it yet
    GONE = auto()  # it is in a removed segment, a gap or an unknown stream


class DataFolder:
    """The segments next to the symlink at `path`. A plain file at `path` is the only segment of its own stream."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._path = str(path)  # os.stat is faster with a string
        self.current: Segment | None = None
        self.grown = 0  # bytes received since the first refresh
        self.segment_changes = 0
        self._segments: list[Segment] = []  # by stream and offset; the last one is current
        self._removed: list[weakref.ref[Segment]] = []
        self._streams: deque[str] = deque(maxlen=KNOWN_STREAMS)
        self._seen: tuple[int, int, int, int] | None = None  # the result of stat(2) at the last successful refresh
        self._scan_due = 0.0
        self._lost_since: float | None = None
        self._plain = False  # `path` is a plain file
        self._refreshed = False

    def refresh(self) -> Segment:
        """Return the current segment; this costs one stat(2) while the folder is unchanged. Raises NotReady."""
        for _ in range(MAX_ATTEMPTS):
            try:
                return self._refresh()
            except FileNotFoundError:  # the writer may have removed the segment after the symlink was read
                pass
        self._lose()
        raise NotReady(f"{self.path} does not exist yet")

    def _refresh(self) -> Segment:
        """Do one attempt of `refresh`. Raises NotReady and FileNotFoundError."""
        try:
            there = os.stat(self._path)
            seen = (there.st_ino, there.st_size, there.st_mtime_ns, there.st_dev)
            if seen == self._seen and time.monotonic() < self._scan_due and self.current:
                return self.current
            self._seen = None
            if not stat.S_ISREG(there.st_mode):
                raise NotReady(f"{self.path} is not a regular file")
            segment = self._update(there)
            self._seen = seen
            return segment
        except FileNotFoundError:
            raise
        except OSError as error:
            self._lose()
            raise NotReady(f"cannot read {self.path}: {error.strerror}") from None
        finally:
            self._refreshed = True

    def segments(self) -> list[Segment]:
        """Return the kept segments, the current one last."""
        return list(self._segments)

    def find(self, stream: str, base: int) -> Segment | None:
        """Return a kept segment, or None."""
        return next((segment for segment in self._segments if segment.id == (stream, base)), None)

    def is_gone(self, stream: str, base: int) -> bool:
        """Whether a segment may have been removed: its stream is known, and its kept segments begin later."""
        kept = [segment.base for segment in self._segments if segment.stream == stream]
        return stream in self._streams and base < min(kept, default=base + 1)

    def after(self, stream: str, offset: int) -> Segment | None:
        """Return the first readable segment after a position that is gone, or None."""
        kept = [segment for segment in self._segments if segment.is_readable]
        later = [segment for segment in kept if segment.stream == stream and segment.base > offset]
        if not later and self.current and self.current.stream != stream:
            later = [segment for segment in kept if segment.stream == self.current.stream]
        return later[0] if later else None

    def locate(self, stream: str, offset: int) -> Segment | Place:
        """Return the segment that holds a position or ends there; where two meet, the later one."""
        for segment in reversed(self._segments):
            if segment.stream == stream and segment.base <= offset:
                if offset <= segment.end:
                    return segment
                return Place.AHEAD if segment.next is None else Place.GONE
        return Place.GONE

    def reopen(self) -> None:
        """Open the current segment again at the next refresh. A damaged one is then served as it is."""
        self._seen, self._scan_due = None, 0.0
        current = self.current
        if current and current.state is State.DAMAGED:
            current.close()
            self._segments.remove(current)
            self._removed.append(weakref.ref(current))
            self.current = None
        elif current and not self._plain:
            current.close()

    def _update(self, there: os.stat_result) -> Segment:
        """Update the segments and return the current one. Raises NotReady and OSError."""
        current = self.current
        if not current or not current.is_file(there) or time.monotonic() >= self._scan_due:
            current = self._scan(there)
        try:
            grown = current.refresh(there)
        except Damaged:
            if not self._plain:
                raise
            current = self._scan()
            grown = current.refresh(there)
        self.grown += grown if self._refreshed else 0
        self._lost_since = None
        return current

    def _scan(self, there: os.stat_result | None = None) -> Segment:
        """List the folder, update the segments, and return the current one.

        A plain file keeps its name while it is the file that `there` describes.
        """
        file, current = Path(os.path.realpath(self.path)), self.current
        link, name = parse_file_name(file.name) or ("", None)
        if not name and there and self._plain and current and current.path == file and current.is_file(there):
            name = current.id
        name, self._plain = name or new_stream(), not link
        names = {name}
        if link:
            found = [parse_file_name(entry) for entry in os.listdir(file.parent)]
            names |= {other[1] for other in found if other and other[0] == link and not is_later(other[1], name)}
        known = {segment.id: segment for segment in self._segments}
        added = sorted(names - known.keys())
        for other in added:
            known[other] = Segment(file.with_name(other.file_name(link)) if link else file, other)
            if other.stream not in self._streams:
                self._streams.append(other.stream)
        current = known[name]
        self.segment_changes += self.current is not None and self.current is not current
        self.current = current
        for segment in [*known.values(), *self._readable()]:
            if segment is not current and segment.next is None:
                grown = segment.finish(known[successor(segment.id, names, name)])
                self.grown += grown if self._refreshed else 0
        if self._refreshed:
            for other in added[-REMOVED_SEGMENTS:]:
                with contextlib.suppress(OSError):
                    known[other].open()  # before the writer removes its file
        self._keep(names, known.values(), current.stream)
        settling = any(segment.state is State.SETTLING for segment in self._segments)
        self._scan_due = time.monotonic() + (SETTLE_POLL_SECONDS if settling else SCAN_SECONDS)
        return current

    def _keep(self, names: set[SegmentName], segments: Iterable[Segment], stream: str) -> None:
        """Keep the segments that are in the folder or not finished yet; remove the others."""
        kept = []
        for segment in segments:
            if segment.id in names or segment.next is None:
                kept.append(segment)
            else:
                segment.remove()
                self._removed.append(weakref.ref(segment))
        self._segments = sorted(kept, key=lambda s: (s.stream == stream, self._streams.index(s.stream), s.base))
        readable = self._readable()
        for segment in readable[:-REMOVED_SEGMENTS]:
            segment.close()
        self._removed = [weakref.ref(segment) for segment in readable[-REMOVED_SEGMENTS:]]

    def _readable(self) -> list[Segment]:
        """Return the removed segments that readers still use, the oldest first."""
        return [segment for reference in self._removed if (segment := reference())]

    def _lose(self) -> None:
        """Close removed files once there was no current segment for RELEASE_SECONDS."""
        now = time.monotonic()
        self._lost_since = self._lost_since or now
        if now - self._lost_since >= RELEASE_SECONDS:
            for segment in [*self._segments, *self._readable()]:
                if not segment.path.exists():
                    segment.close()


def new_stream() -> SegmentName:
    """Return a new name for a plain file."""
    return SegmentName(os.urandom(4).hex(), 0)


def is_later(name: SegmentName, current: SegmentName) -> bool:
    """Whether the writer is preparing a segment that is not current yet."""
    return name.stream == current.stream and name.base > current.base
