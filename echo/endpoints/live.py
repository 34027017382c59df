"""Live ranges: the rest of a segment, and all bytes appended to it later (RFC 8673)."""

from echo.endpoints.followers import Follower, Followers
from echo.http.response import MAX_BUFFERED_BYTES, Stream
from echo.store import Segment


class LiveRange(Follower):
    """The body of a live range. It ends when the segment is finished."""

    __slots__ = ("chunk_left", "position", "segment")

    def __init__(self, followers: Followers, segment: Segment, position: int) -> None:
        super().__init__(followers)
        self.segment, self.position = segment, position  # bytes in the segment
        self.chunk_left = 0  # bytes of the current chunk not sent yet

    def send(self, stream: Stream) -> bool:
        """Send a piece. Raises OSError if the segment can no longer be read."""
        self.stream = stream
        if not self.chunk_left:
            available = self.segment.size - self.position
            if available > 0:
                self.begin_chunk(available)
            elif self.segment.next:
                self.finish()
                return False
            else:
                return self.wait()
        if self.chunk_left:
            stop = self.position + min(self.chunk_left, stream.piece_bytes)
            sent = stream.offer(self.segment.read(self.position, stop))
            self.position += sent
            self.chunk_left -= sent
            if not self.chunk_left and stream.chunked:
                stream.write(b"\r\n")
        return True

    def begin_chunk(self, available: int) -> None:
        """Send all available bytes as one chunk: at once if they are few, otherwise piece by piece."""
        if available <= MAX_BUFFERED_BYTES:
            self.write(self.segment.read(self.position, self.position + available))
            self.position += available
        elif self.stream:
            self.chunk_left = available
            if self.stream.chunked:
                self.stream.write(b"%x\r\n" % available)
