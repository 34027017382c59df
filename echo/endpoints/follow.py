"""/data?follow: the stream across segments, as text or as server-sent events."""

from typing import NamedTuple

from echo.endpoints.followers import Follower, Followers
from echo.endpoints.query import BadQuery
from echo.http.response import Stream, frame
from echo.store import MAX_LINE_BYTES, Segment

CACHED_CHUNKS = 16  # formatted once for all followers at the same position


class CannotSay(ValueError):
    """The format cannot express what happened; the message tells it."""


class Lines:
    """The stream as text: only numbers."""

    content_type = "text/plain; charset=utf-8"
    chunk_bytes = 2**14  # read at a time; this much is buffered for a client that stops reading
    opening = heartbeat = b""

    def numbers(self, stream: str, offset: int, lines: bytes) -> bytes:
        """Format whole lines; `offset` is the position of the first in the stream."""
        return lines

    def gone(self, position: str) -> bytes:
        """Format the message that numbers after this position are gone. Raises CannotSay."""
        raise CannotSay(f"numbers after {position} are gone, and text cannot show that: ending the stream")


class Events(Lines):
    """The stream as server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

    content_type = "text/event-stream"
    chunk_bytes = 2**11  # events are eight times as large
    opening = b"retry: 1000\n\n"
    heartbeat = b":\n"  # a comment without an empty line, which would make some clients emit an empty event

    def numbers(self, stream: str, offset: int, lines: bytes) -> bytes:
        name, events = stream.encode(), []
        for line in lines.split(b"\n")[:-1]:
            offset += len(line) + 1
            # A carriage return would end the field.
            events.append(b"id: %b-%d\ndata: %b\n\n" % (name, offset, line.rstrip().replace(b"\r", b" ")))
        return b"".join(events)

    def gone(self, position: str) -> bytes:
        return f"event: gone\ndata: {position}\n\n".encode()


LINES, EVENTS = Lines(), Events()


class Chunk(NamedTuple):
    """Formatted data, the same framed, and the position in the segment after it."""

    data: bytes
    framed: bytes
    stop: int


class ChunkCache:
    """The last formatted chunks."""

    def __init__(self) -> None:
        self.chunks: dict[tuple[Segment, int, int, Lines], Chunk] = {}

    def get(self, segment: Segment, start: int, format: Lines) -> Chunk:
        """Return the next chunk from a position on. Raises ValueError and OSError as `Segment.lines` does."""
        key = (segment, start, min(start + format.chunk_bytes, segment.size), format)
        chunk = self.chunks.get(key)
        if chunk is None:
            lines = segment.lines(start, max(format.chunk_bytes, MAX_LINE_BYTES))
            lines = lines[: lines.rfind(b"\n", 0, format.chunk_bytes) + 1 or lines.find(b"\n") + 1]
            data = format.numbers(segment.stream, segment.base + start, lines)
            if len(self.chunks) >= CACHED_CHUNKS:
                del self.chunks[next(iter(self.chunks))]
            chunk = self.chunks[key] = Chunk(data, frame(data), start + len(lines))
        return chunk

    def clear(self) -> None:
        """Drop references to segments, whose files may have been removed."""
        self.chunks.clear()


class Cursor:
    """A position in the stream that moves from segment to segment."""

    __slots__ = ("position", "segment")

    def __init__(self, segment: Segment, position: int) -> None:
        self.segment, self.position = segment, position  # bytes in the segment

    def __str__(self) -> str:
        """STREAM-OFFSET, as in the ids of events."""
        return f"{self.segment.stream}-{self.segment.base + self.position}"

    @property
    def at_end(self) -> bool:
        """Whether there is nothing to read now."""
        return self.segment.next is None and (self.position >= self.segment.size or not self.segment.is_readable)

    def check(self) -> None:
        """Raises BadQuery if the position is inside a line."""
        if 0 < self.position < self.segment.size and self.segment.read(self.position - 1, self.position) != b"\n":
            raise BadQuery(f"offset {self.segment.base + self.position} is inside a line: no number begins there")

    def skip(self) -> str:
        """Move to the next segment; return the position after which numbers are gone (empty if none are)."""
        segment, before = self.segment, str(self)
        assert segment.next
        lost = segment.gap or self.position != segment.size
        self.segment, self.position = segment.next, 0
        return before if lost else ""


class FollowBody(Follower):
    """The body of a stream. It ends when echo stops."""

    __slots__ = ("cache", "cursor", "format", "opening")

    def __init__(self, followers: Followers, cursor: Cursor, format: Lines, opening: bytes, cache: ChunkCache) -> None:
        super().__init__(followers)
        self.cursor, self.format, self.opening, self.cache = cursor, format, opening, cache
        self.heartbeat = format.heartbeat

    def send(self, stream: Stream) -> bool:
        """Send the next chunk. Raises CannotSay and ValueError, which end the stream."""
        self.stream = stream
        if self.opening:
            self.write(self.opening)
            self.opening = b""
        cursor = self.cursor
        if cursor.position < cursor.segment.size and cursor.segment.is_readable:
            try:
                chunk = self.cache.get(cursor.segment, cursor.position, self.format)
            except OSError:  # the segment was damaged or closed just now
                return self.wait()
            cursor.position = chunk.stop
            self.write(chunk.data, chunk.framed)
        elif cursor.segment.next and (lost := cursor.skip()):
            self.write(self.format.gone(lost))
        if cursor.at_end:
            return self.wait()
        if self.followers.stopping and cursor.segment.size - cursor.position > self.format.chunk_bytes:
            self.finish()  # far behind: the client resumes on another replica
            return False
        return True
