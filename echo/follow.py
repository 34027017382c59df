"""The stream that never ends: where each follower is, what it is sent, and how many there may be."""

import asyncio
import contextlib
import time
from collections.abc import Iterator

from echo.datafile import Generation
from echo.query import BadQuery


class Full(Exception):
    """There are as many followers as there may be."""


class Format:
    """The stream as text: the lines of the file and nothing else."""

    content_type = "text/plain; charset=utf-8"
    most = 2**18  # bytes of the file at a time
    opening = heartbeat = b""

    def numbers(self, name: str, offset: int, lines: bytes) -> bytes:
        """Whole lines of generation `name` that begin at `offset`."""
        return lines

    def begins(self, name: str) -> bytes:
        """Another generation goes on where the last one ended; nothing is lost."""
        return b""

    def gone(self, name: str) -> bytes:
        """The rest of generation `name` can no longer be had; the one of now follows from its beginning."""
        return b""


class Events(Format):
    """The stream as server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

    content_type = "text/event-stream"
    most = 2**15  # eight times as large as events
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
        self.pieces: dict[tuple[str, int, int, Format], tuple[int, bytes]] = {}

    def get(self, generation: Generation, offset: int, format: Format) -> tuple[int, bytes]:
        """Where the lines from `offset` on end, as far as they are there, and what to send for them."""
        key = (generation.name, offset, generation.size, format)
        if key not in self.pieces:
            lines = generation.lines(offset, format.most)
            while len(self.pieces) >= self.kept:
                del self.pieces[next(iter(self.pieces))]
            self.pieces[key] = offset + len(lines), format.numbers(generation.name, offset, lines)
        return self.pieces[key]


class Position:
    """A place in the stream: all that a follower costs."""

    def __init__(self, generation: Generation, offset: int) -> None:
        self.generation, self.offset = generation, offset
        while self.offset > self.generation.size and self.generation.next:
            self._turn()

    def __str__(self) -> str:
        return f"{self.generation.name}-{self.offset}"

    def check(self) -> None:
        """Raises BadQuery if no line begins here; one that is yet to come may."""
        if self.offset < self.generation.size:
            try:
                self.generation.lines(self.offset, 0)
            except ValueError:
                raise BadQuery(f"offset {self.offset} is inside a line: no number begins there") from None

    def take(self, format: Format, pieces: Pieces) -> bytes:
        """What comes next, to be sent; nothing at the end of what there is. Raises ValueError inside a line."""
        while True:
            generation = self.generation
            if self.offset < generation.size and not generation.overwritten:
                self.offset, data = pieces.get(generation, self.offset, format)
                return data
            if generation.next is None:
                return b""
            lost = self.offset < generation.size
            self._turn()
            if said := format.gone(generation.name) if lost else format.begins(self.generation.name):
                return said

    def _turn(self) -> None:
        """On to the next generation. A client that counts bytes of text may be in it already."""
        assert self.generation.next
        self.offset = max(0, self.offset - self.generation.size)
        self.generation = self.generation.next


class Follower:
    """One who waits for numbers."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.told = time.monotonic()  # when it was sent something


class Followers:
    """Those who wait, `limit` at most."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting: set[Follower] = set()

    def __len__(self) -> int:
        return len(self.waiting)

    @contextlib.contextmanager
    def join(self) -> Iterator[Follower]:
        """One more, while the context lasts. Raises Full."""
        if len(self.waiting) >= self.limit:
            raise Full(f"there are {self.limit} followers already, which is the limit: try again later")
        follower = Follower()
        self.waiting.add(follower)
        try:
            yield follower
        finally:
            self.waiting.remove(follower)

    def wake(self, quiet: float = 0) -> None:
        """All of them, or those who were not told anything for so many seconds."""
        before = time.monotonic() - quiet
        for follower in self.waiting:
            if follower.told <= before:
                follower.wake.set()
