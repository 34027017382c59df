"""The stream that never ends: where each follower is, what it is sent, and how many there may be."""

import time

from echo.datafile import Generation
from echo.endpoints.query import BadQuery
from echo.http.response import Stream, frame


class TooManyFollowers(Exception):
    """There are as many followers as the limit allows."""


class Format:
    """The stream as text: the lines of the file and nothing else."""

    content_type = "text/plain; charset=utf-8"
    most = 2**14  # bytes of the file at a time, which is what a client that stops reading costs
    counted = True  # by clients, who know no other way to say where they are, whatever the generation
    opening = heartbeat = b""

    def numbers(self, name: str, offset: int, lines: bytes) -> bytes:
        """Whole lines of generation `name` that begin at `offset`."""
        return lines

    def begins(self, name: str) -> bytes:
        """Another generation goes on where the last one ended; nothing is lost."""
        return b""

    def gone(self, name: str) -> bytes:
        """The rest of generation `name` can no longer be had; what follows is another from its beginning.

        Raises ValueError where there is no way to say so.
        """
        raise ValueError(f"generation {name} is gone")


class Events(Format):
    """The stream as server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

    content_type = "text/event-stream"
    most = 2**11  # eight times as large as events
    counted = False
    opening = b"retry: 1000\n\n"
    heartbeat = b":\n\n"

    def numbers(self, name: str, offset: int, lines: bytes) -> bytes:
        generation, events = name.encode(), []
        for line in lines.split(b"\n")[:-1]:
            offset += len(line) + 1
            # A carriage return would end the field.
            events.append(b"id: %b-%d\ndata: %b\n\n" % (generation, offset, line.rstrip().replace(b"\r", b" ")))
        return b"".join(events)

    def begins(self, name: str) -> bytes:
        return f"id: {name}-0\nevent: generation\ndata: {name}\n\n".encode()

    def gone(self, name: str) -> bytes:
        return f"event: gone\ndata: {name}\n\n".encode()


LINES, EVENTS = Format(), Events()


class Pieces:
    """The last pieces that were sent, for all who are at the same offset."""

    def __init__(self, kept: int = 16) -> None:
        self.kept = kept
        self.pieces: dict[tuple[int, int, int, Format], tuple[int, bytes]] = {}

    def get(self, generation: Generation, offset: int, format: Format) -> tuple[int, bytes]:
        """Where the lines from `offset` on end, as far as they are there, and what to send for them."""
        key = (generation.serial, offset, min(offset + format.most, generation.size), format)
        if key not in self.pieces:
            lines = generation.lines(offset, format.most)
            while len(self.pieces) >= self.kept:
                del self.pieces[next(iter(self.pieces))]
            self.pieces[key] = offset + len(lines), format.numbers(generation.name, offset, lines)
        return self.pieces[key]


class Position:
    """A place in the stream: all that a follower costs."""

    def __init__(self, generation: Generation, offset: int, format: Format) -> None:
        self.generation, self.offset, self.format = generation, offset, format
        if format.counted:
            while self.offset > self.generation.size and self.generation.next and not self.generation.cut:
                self._turn()

    def __str__(self) -> str:
        return f"{self.generation.name}-{self.offset}"

    @property
    def behind(self) -> bool:
        """Whether there is more of this generation."""
        return self.offset < self.generation.size

    @property
    def gone(self) -> bool:
        """Whether what comes next can no longer be had."""
        generation = self.generation
        return generation.lost or (generation.cut and bool(generation.next) and not self.behind)

    def check(self) -> None:
        """Raises BadQuery if no line begins here; one that is yet to come may."""
        if self.behind and not self.gone:
            try:
                self.generation.lines(self.offset, 0)
            except ValueError:
                raise BadQuery(f"offset {self.offset} is inside a line: no number begins there") from None

    def take(self, pieces: Pieces) -> bytes:
        """What comes next, to be sent; nothing at the end of what there is.

        Raises ValueError or OSError if the file is not what it was.
        """
        while self.behind or self.generation.next:
            generation, behind = self.generation, self.behind
            if behind and not generation.lost:
                self.offset, data = pieces.get(generation, self.offset, self.format)
                return data
            self._turn()
            lost = behind or generation.cut
            if said := self.format.gone(generation.name) if lost else self.format.begins(self.generation.name):
                return said
        return b""

    def _turn(self) -> None:
        """On to the next generation, in which a client that counts bytes may be already."""
        assert self.generation.next
        self.offset = max(0, self.offset - self.generation.size) if self.format.counted else 0
        self.generation = self.generation.next


class Followers:
    """The followers, and those of them that have all there is."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.pieces = Pieces()
        self.open: set[Follower] = set()
        self.at_end: set[Follower] = set()
        self.stopping = False

    def __len__(self) -> int:
        return len(self.open)

    def check_room(self) -> None:
        """Raises TooManyFollowers."""
        if len(self.open) >= self.limit:
            raise TooManyFollowers(f"there are {self.limit} followers already, which is the limit: try again later")

    def publish(self) -> None:
        """Send what is new to all who had everything before it."""
        for follower in list(self.at_end):
            follower.resume()

    def stop(self) -> None:
        """End every stream, once its client has what there is."""
        self.stopping = True
        self.publish()

    def send_heartbeats(self, seconds: float) -> None:
        """Send a heartbeat to those who were sent nothing for this long."""
        before = time.monotonic() - seconds
        for follower in list(self.at_end):
            if follower.sent_at <= before:
                follower.send_heartbeat()


class Follower:
    """The body of a stream: a position, and a place in a set while there is nothing to send."""

    __slots__ = ("cursor", "followers", "opening", "sent_at", "stream")

    length = None  # it ends when echo stops

    def __init__(self, followers: Followers, cursor: Position, opening: bytes) -> None:
        self.followers = followers
        self.cursor = cursor
        self.opening = opening
        self.stream: Stream | None = None
        self.sent_at = 0.0  # seconds of the monotonic clock
        followers.open.add(self)

    def send(self, stream: Stream) -> bool:
        """Send the next piece. Raises ValueError or OSError if the file is not what it was."""
        self.stream = stream
        if self.opening:
            self.write(self.opening)
            self.opening = b""
        if data := self.cursor.take(self.followers.pieces):
            self.write(data)
            if self.followers.stopping and self.cursor.behind and len(data) > self.cursor.format.most // 2:
                self.finish()  # who is far behind goes on elsewhere
                return False
        if self.cursor.behind or self.cursor.generation.next:
            self.followers.at_end.discard(self)
            return True
        if self.followers.stopping:
            self.finish()
        else:
            self.followers.at_end.add(self)
        return False

    def resume(self) -> None:
        assert self.stream
        self.stream.resume()

    def write(self, data: bytes) -> None:
        assert self.stream
        self.sent_at = time.monotonic()
        self.stream.write(frame(data) if self.stream.chunked else data)

    def send_heartbeat(self) -> None:
        if self.cursor.format.heartbeat and self.stream and not self.stream.blocked:
            self.write(self.cursor.format.heartbeat)

    def finish(self) -> None:
        assert self.stream
        self.stream.finish()

    def close(self) -> None:
        self.followers.open.discard(self)
        self.followers.at_end.discard(self)
        self.stream = None
