"""The numbers: /data, its parts, and the stream of those to come."""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable
from dataclasses import dataclass

from echo.datafile import BLOCK, NotReady, Snapshot, tail_offset
from echo.endpoints.follow import EVENTS, LINES, Follower, Followers, Format, Position
from echo.endpoints.query import BadQuery, Query, parse_position, parse_query
from echo.endpoints.stats import Rate
from echo.endpoints.steps import run_steps
from echo.http.fields import best_match, format_date
from echo.http.preconditions import CONDITIONS, select
from echo.http.request import Request
from echo.http.response import MAX_BUFFERED_BYTES, Body, FilePart, Response, Text
from echo.source import Feed, Source

NUMBERS = [
    ("content-type", "text/plain; charset=utf-8"),
    ("cache-control", "no-cache"),
    ("x-content-type-options", "nosniff"),
]
PULSE = 2.5  # seconds: so often, who was told nothing for as long is sent a heartbeat; a mirror relies on it


@dataclass(frozen=True)
class DataState:
    """What there is; None is what cannot be known, and `problem` says why."""

    problem: str | None = None
    generation: str | None = None
    size: int | None = None  # bytes
    numbers: int | None = None  # in this generation
    age: float | None = None  # seconds since the newest number
    rate: float | None = None  # numbers per second over the last minute


class Data:
    """Answers what is asked of a data file."""

    def __init__(self, source: Source, feed: Feed, followers: int) -> None:
        self.source = source
        self.feed = feed
        self.followers = Followers(followers)
        self.whole: tuple[Snapshot, int | None, Response] | None = None  # the last complete response
        self.told = ""  # up to where the followers were woken for
        self.stopping = False
        self.rate = Rate()
        self.rate.sample(time.monotonic(), 0)

    def look(self) -> bool:
        """Look at the file, and wake the followers if there is something new."""
        with contextlib.suppress(NotReady):
            self.source.look()
        self.rate.sample(time.monotonic(), self.source.grown)
        current = self.source.current
        there = f"{current.name}-{current.size}" if current else ""
        if there == self.told:
            return False
        self.told = there
        self.followers.publish()
        return True

    def stop(self) -> None:
        """Be ready no longer, and end the streams."""
        self.look()
        self.stopping = True
        self.followers.stop()

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        """Answer with the numbers, the part of them that was asked for, or the stream."""
        query = parse_query(request.query)
        if query.follow:
            return self.follow(request, query)
        snapshot = self.source.look()
        if query.tail is not None:
            return self.tail(snapshot, query.tail)
        modified = last_modified(snapshot.changed, time.time())
        headers = request.headers
        if self.whole and self.whole[:2] == (snapshot, modified) and CONDITIONS.isdisjoint(headers):
            return self.whole[2]
        if request.method == "HEAD" and "range" in headers:
            headers = {name: value for name, value in headers.items() if name != "range"}  # RFC 9110, 14.2
        etag, size = f'"{snapshot.etag}"', snapshot.size
        part = select(headers, etag, size, modified, lambda older: extends(older, snapshot.generation, size))
        if part.status == 416:
            return Text(416, f"there are {size} bytes", [("content-range", f"bytes */{size}")])
        if part.status == 412:
            return Text(412, f"this is {snapshot.etag} now", [("etag", etag)])
        fields = [*NUMBERS, ("etag", etag), ("accept-ranges", "bytes")]
        if modified:
            fields.append(("last-modified", format_date(modified)))
        if part.status == 206:
            fields.append(("content-range", f"bytes {part.start}-{part.stop - 1}/{size}"))
        body = b"" if part.status == 304 else part_body(snapshot, part.start, part.stop)
        response = Response(part.status, fields, body)
        if part.status == 200 and isinstance(body, bytes):
            self.whole = snapshot, modified, response
        return response

    async def tail(self, snapshot: Snapshot, lines: int) -> Response:
        start = await run_steps(tail_offset(snapshot.read, snapshot.size, lines))
        return Response(200, NUMBERS, part_body(snapshot, start, snapshot.size))

    async def follow(self, request: Request, query: Query) -> Response:
        """Answer with the numbers and each new one, for as long as client and echo are there."""
        wanted = best_match(request.headers.get("accept"), ("text/plain", "text/event-stream"))
        format = EVENTS if wanted == "text/event-stream" else LINES
        if self.stopping:
            raise NotReady("stopping")
        self.followers.check_room()
        after = request.headers.get("last-event-id") or query.after
        position, gone = await self.begin(after, query, format)
        if gone and format is LINES:
            return Text(410, f"generation {gone} is gone, and text cannot say so on the way: begin anew")
        headers = [
            ("content-type", format.content_type),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("x-accel-buffering", "no"),  # else nginx waits for more
            ("vary", "accept, last-event-id"),
            ("last-event-id", str(position)),  # for clients that count the bytes of text from here
        ]
        self.followers.check_room()
        return Response(200, headers, Follower(self.followers, position, opening(format, gone)))

    async def begin(self, after: str | None, query: Query, format: Format) -> tuple[Position, str]:
        """Where a stream begins, and the generation that was asked for if it is gone. Raises BadQuery, NotReady."""
        generation_and_offset = parse_position(after) if after else None
        snapshot = self.source.look()
        assert self.source.current
        if generation_and_offset:
            name, offset = generation_and_offset
            generation = self.source.find(name) or await self.feed.awaited(name)
            if not generation or generation.lost:
                return Position(self.source.current, 0, format), name
            position = Position(generation, offset, format)
        elif query.tail is not None:
            current = self.source.current
            start = await run_steps(tail_offset(snapshot.read, snapshot.size, query.tail))
            position = Position(current, start, format)
        else:
            position = Position(self.source.current, query.offset or 0, format)
            if position.offset > snapshot.size:
                raise BadQuery(f"offset={position.offset} is beyond the end: there are {snapshot.size} bytes")
        position.check()
        if position.gone:
            return Position(self.source.current, 0, format), position.generation.name
        return position, ""

    async def state(self) -> DataState:
        """As it is now."""
        try:
            snapshot = self.source.look()
        except NotReady as error:
            return DataState(str(error))
        current = self.source.current
        assert current
        size, numbers = await run_steps(current.count())
        age = round(max(0.0, time.time() - snapshot.changed), 3)
        return DataState(None, current.name, size, numbers, age, self.numbers_per_second(snapshot))

    def numbers_per_second(self, snapshot: Snapshot) -> float | None:
        """From the growth in bytes, and the length of the newest lines."""
        self.rate.sample(time.monotonic(), self.source.grown)
        seconds, grown = self.rate.growth()
        newest = snapshot.read(max(0, snapshot.size - max(1, min(grown, BLOCK))), snapshot.size)
        if seconds < 1 or not newest:
            return None
        return round(newest.count(b"\n") / len(newest) * grown / seconds, 3)

    async def pulse(self) -> None:
        """Wake the silent now and then, for a heartbeat."""
        while True:
            await asyncio.sleep(PULSE)
            self.followers.send_heartbeats(PULSE)


def last_modified(changed: float, now: float) -> int | None:
    """Return the second in which the file changed, once it is over: before, the next change may be in it too."""
    return int(changed) if int(changed) < int(now) else None


def extends(older: str, generation: str, size: int) -> bool:
    """Return whether `older` is the entity tag of the beginning of a generation that is `size` bytes long now."""
    match = re.fullmatch('"([0-9a-f]+)-([0-9]{1,18})"', older)
    return match is not None and match[1] == generation and int(match[2]) <= size


def opening(format: Format, gone: str) -> bytes:
    return format.opening + (format.gone(gone) if gone else b"")


def part_body(snapshot: Snapshot, start: int, stop: int) -> bytes | Body:
    """Return a part of the file: its bytes if they are few."""
    if stop - start <= MAX_BUFFERED_BYTES:
        return snapshot.read(start, stop)
    return FilePart(snapshot.descriptor.fd, start, stop, owner=snapshot.descriptor)
