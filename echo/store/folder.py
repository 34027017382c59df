"""The data folder: which segments there are, which one is current, and where a position stands."""

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

REMOVED_SEGMENTS = 8  # removed from the folder and still readable, for those who are in them
RELEASE_SECONDS = 5.0  # after the current segment was removed with no successor: a full disk may need its space
SCAN_SECONDS = 1.0  # between two listings of an unchanged folder
SETTLE_POLL_SECONDS = 0.05  # between two, while a segment is SETTLING
MAX_LOOKS = 3  # until the segment that the symlink names is there
KNOWN_STREAMS = 1000  # whose names are remembered


class Place(Enum):
    """Where a position stands that is in no segment."""

    AHEAD = auto()  # this folder has not received it yet
    GONE = auto()  # it is in another stream, older than what is kept, or in a gap


class DataFolder:
    """The segments next to the symlink at `path`; or one of a stream of its own, if that is a plain file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._path = str(path)  # os.stat takes it sooner
        self.current: Segment | None = None
        self.grown = 0  # bytes that came since the first look
        self.segment_changes = 0
        self._segments: list[Segment] = []  # by stream and offset; the current one is the last
        self._removed: list[weakref.ref[Segment]] = []
        self._streams: deque[str] = deque(maxlen=KNOWN_STREAMS)
        self._seen: tuple[int, int, int, int] | None = None  # what stat(2) said when all was well
        self._scan_due = 0.0
        self._lost_since: float | None = None
        self._plain = False  # the current one is no segment, but a file of another writer
        self._looked = False

    def refresh(self) -> Segment:
        """Look at the folder, at the cost of one stat(2) while it is unchanged. Raises NotReady."""
        for _ in range(MAX_LOOKS):
            try:
                return self._refresh()
            except FileNotFoundError:  # perhaps the writer removed the segment after the symlink was read
                pass
        self._lose()
        raise NotReady(f"{self.path} does not exist yet")

    def _refresh(self) -> Segment:
        """Raises NotReady and FileNotFoundError."""
        try:
            there = os.stat(self._path)
            seen = (there.st_ino, there.st_size, there.st_mtime_ns, there.st_dev)
            if seen == self._seen and time.monotonic() < self._scan_due and self.current:
                return self.current
            self._seen = None
            if not stat.S_ISREG(there.st_mode):
                raise NotReady(f"{self.path} is not a regular file")
            segment = self._look(there)
            self._seen = seen
            return segment
        except FileNotFoundError:
            raise
        except OSError as error:
            self._lose()
            raise NotReady(f"cannot read {self.path}: {error.strerror}") from None
        finally:
            self._looked = True

    def segments(self) -> list[Segment]:
        """Return the segments that are kept, the current one last."""
        return list(self._segments)

    def find(self, stream: str, base: int) -> Segment | None:
        """Return a segment that is kept."""
        return next((segment for segment in self._segments if segment.id == (stream, base)), None)

    def is_gone(self, stream: str, base: int) -> bool:
        """Whether a segment that is not kept may have been here: its stream was, and it is older than what is kept."""
        kept = [segment.base for segment in self._segments if segment.stream == stream]
        return stream in self._streams and base < min(kept, default=base + 1)

    def after(self, stream: str, offset: int) -> Segment | None:
        """Return the first segment that follows a position which is not kept, or None if none does."""
        kept = [segment for segment in self._segments if segment.is_readable]
        later = [segment for segment in kept if segment.stream == stream and segment.base > offset]
        if not later and self.current and self.current.stream != stream:
            later = [segment for segment in kept if segment.stream == self.current.stream]
        return later[0] if later else None

    def locate(self, stream: str, offset: int) -> Segment | Place:
        """Return the segment that holds a position or ends there, the later one if both."""
        for segment in reversed(self._segments):
            if segment.stream == stream and segment.base <= offset:
                if offset <= segment.end:
                    return segment
                return Place.AHEAD if segment.next is None else Place.GONE
        return Place.GONE

    def reopen(self) -> None:
        """Open the current segment anew at the next look; then what a damaged one has is served as it is."""
        self._seen, self._scan_due = None, 0.0
        current = self.current
        if current and current.state is State.DAMAGED:
            current.close()
            self._segments.remove(current)
            self._removed.append(weakref.ref(current))
            self.current = None
        elif current and not self._plain:
            current.close()

    def _look(self, there: os.stat_result) -> Segment:
        """Bring the segments up to date. Raises NotReady and OSError."""
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
        self.grown += grown if self._looked else 0
        self._lost_since = None
        return current

    def _scan(self, there: os.stat_result | None = None) -> Segment:
        """Compare the folder with what is known of it; return the current segment.

        A plain file goes on with its name if it is still the file of this status.
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
                self.grown += grown if self._looked else 0
        if self._looked:
            for other in added[-REMOVED_SEGMENTS:]:
                with contextlib.suppress(OSError):
                    known[other].open()  # before the writer removes it
        self._keep(names, known.values(), current.stream)
        settling = any(segment.state is State.SETTLING for segment in self._segments)
        self._scan_due = time.monotonic() + (SETTLE_POLL_SECONDS if settling else SCAN_SECONDS)
        return current

    def _keep(self, names: set[SegmentName], segments: Iterable[Segment], stream: str) -> None:
        """Keep the segments that are in the folder or about to be finished; let go of the others."""
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
        """Return the removed segments that somebody is in, the oldest first."""
        return [segment for reference in self._removed if (segment := reference())]

    def _lose(self) -> None:
        """Let go of removed files when there was no current segment for a while."""
        now = time.monotonic()
        self._lost_since = self._lost_since or now
        if now - self._lost_since >= RELEASE_SECONDS:
            for segment in [*self._segments, *self._readable()]:
                if not segment.path.exists():
                    segment.close()


def new_stream() -> SegmentName:
    """Return a name for a plain file, which has none."""
    return SegmentName(os.urandom(4).hex(), 0)


def is_later(name: SegmentName, current: SegmentName) -> bool:
    """Whether a segment is being prepared, and not current yet."""
    return name.stream == current.stream and name.base > current.base
