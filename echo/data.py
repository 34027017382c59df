"""The numbers: /data, its parts, and the stream of those to come."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from echo import conditional
from echo.datafile import BLOCK, NotReady, Snapshot, tail_offset
from echo.exchange import TEXT, Exchange, say
from echo.figures import Rate
from echo.follow import EVENTS, LINES, Follower, Followers, Format, Pieces, Position, Turns
from echo.query import BadQuery, Query, parse_position, parse_query
from echo.source import Feed, Source

CHUNK = 2**18  # bytes sent at a time, and kept for a reader that stalls; 64 KiB took five times as long
PULSE = 2.5  # seconds: so often, who was told nothing for as long is sent a heartbeat; a mirror relies on it


@dataclass(frozen=True)
class State:
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
        self.pieces = Pieces()
        self.turns = Turns()
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
        self.followers.wake()
        return True

    def stop(self) -> None:
        """Be ready no longer, and end the streams."""
        self.look()
        self.stopping = True
        self.followers.wake()

    async def answer(self, exchange: Exchange) -> None:
        """The numbers, or the part of them that was asked for."""
        query = parse_query(exchange.query)
        if query.follow:
            await self.follow(exchange, query)
            return
        if exchange.method == "HEAD":
            exchange.headers.pop("range", None)  # it is for GET alone: RFC 9110, 14.2
        snapshot = self.source.look()
        modified = last_modified(snapshot.changed, time.time())
        headers = [TEXT, ("cache-control", "no-cache"), ("x-content-type-options", "nosniff")]
        if query.tail is None:
            headers += [("etag", f'"{snapshot.etag}"'), ("accept-ranges", "bytes")]
            if modified:
                headers.append(("last-modified", format_datetime(modified, usegmt=True)))
            part = conditional.select(exchange.headers, snapshot.generation, snapshot.size, modified)
        else:
            start = await self.turns.through(tail_offset(snapshot.read, snapshot.size, query.tail))
            part = conditional.Part(200, start, snapshot.size)
        if part.status == 206:
            headers.append(("content-range", f"bytes {part.start}-{part.stop - 1}/{snapshot.size}"))
        elif part.status == 416:
            await exchange.text(
                416, f"there are {snapshot.size} bytes", [("content-range", f"bytes */{snapshot.size}")]
            )
            return
        elif part.status == 412:
            await exchange.text(412, f"this is {snapshot.etag} now", [("etag", f'"{snapshot.etag}"')])
            return
        if part.status != 304:
            headers.append(("content-length", str(part.stop - part.start)))
        await exchange.start(part.status, headers)
        await self.send_part(exchange, snapshot, part)

    async def send_part(self, exchange: Exchange, snapshot: Snapshot, part: conditional.Part) -> None:
        """The bytes of a part, in chunks, each waiting for the client to have taken the last one."""
        if exchange.method == "HEAD" or part.start == part.stop:
            await exchange.body(b"")
            return
        gone = asyncio.ensure_future(exchange.gone()) if part.stop - part.start > CHUNK else None
        try:
            for start in range(part.start, part.stop, CHUNK):
                stop = min(start + CHUNK, part.stop)
                data = snapshot.read(start, stop)
                if gone and gone.done():
                    return
                if len(data) < stop - start:
                    say("the file was truncated while it was being sent: closing the connection")
                    return
                await exchange.body(data, more=stop < part.stop)
                if gone:
                    await self.turns.pause()
        finally:
            if gone:
                gone.cancel()

    async def follow(self, exchange: Exchange, query: Query) -> None:
        """The numbers, and each one that comes, for as long as client and echo are there."""
        exchange.route = "/data?follow"
        format = EVENTS if exchange.accepts("text/plain", "text/event-stream") == "text/event-stream" else LINES
        if self.stopping:
            raise NotReady("stopping")
        with self.followers.join() as follower:
            await self.stream(exchange, query, format, follower)

    async def stream(self, exchange: Exchange, query: Query, format: Format, follower: Follower) -> None:
        """From its head to its end."""
        after = exchange.headers.get("last-event-id") or query.after
        position, gone = await self.begin(after, query, format)
        if gone and format is LINES:
            await exchange.text(410, f"generation {gone} is gone, and text cannot say so on the way: begin anew")
            return
        headers = [
            ("content-type", format.content_type),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("x-accel-buffering", "no"),  # nginx, which would wait for more
            ("vary", "accept, last-event-id"),
            ("last-event-id", str(position)),  # for who counts the bytes of text from here
        ]
        if exchange.method == "HEAD":
            await exchange.start(200, headers)
            await exchange.body(b"")
            return
        await exchange.start(200, headers)
        await exchange.body(format.opening + (format.gone(gone) if gone else b""), more=True)
        await self.send_numbers(exchange, position, follower)

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
            start = await self.turns.through(tail_offset(snapshot.read, snapshot.size, query.tail))
            position = Position(current, start, format)
        else:
            position = Position(self.source.current, query.offset or 0, format)
            if position.offset > snapshot.size:
                raise BadQuery(f"offset={position.offset} is beyond the end: there are {snapshot.size} bytes")
        position.check()
        if position.gone:
            return Position(self.source.current, 0, format), position.generation.name
        return position, ""

    async def state(self) -> State:
        """As it is now."""
        try:
            snapshot = self.source.look()
        except NotReady as error:
            return State(str(error))
        current = self.source.current
        assert current
        size, numbers = await self.turns.through(current.count())
        age = round(max(0.0, time.time() - snapshot.changed), 3)
        return State(None, current.name, size, numbers, age, self.numbers_per_second(snapshot))

    def numbers_per_second(self, snapshot: Snapshot) -> float | None:
        """From the growth in bytes, and the length of the newest lines."""
        self.rate.sample(time.monotonic(), self.source.grown)
        seconds, grown = self.rate.growth()
        newest = snapshot.read(max(0, snapshot.size - max(1, min(grown, BLOCK))), snapshot.size)
        if seconds < 1 or not newest:
            return None
        return round(newest.count(b"\n") / len(newest) * grown / seconds, 3)

    async def send_numbers(self, exchange: Exchange, position: Position, follower: Follower) -> None:
        """What is there, and what comes, until the client goes or echo stops."""
        format = position.format
        gone = asyncio.ensure_future(exchange.gone())
        gone.add_done_callback(lambda _: follower.wake.set())
        try:
            while not gone.done():
                follower.wake.clear()
                if data := position.take(self.pieces):
                    await exchange.body(data, more=True)
                    follower.told = time.monotonic()
                    if self.stopping and position.behind and len(data) > format.most // 2:
                        break  # who is far behind goes on elsewhere
                    if position.behind:
                        await self.turns.pause()
                elif self.stopping:
                    break
                elif format.heartbeat and time.monotonic() - follower.told >= PULSE:
                    await exchange.body(format.heartbeat, more=True)
                    follower.told = time.monotonic()
                else:
                    await follower.wake.wait()
            await exchange.body(b"")
        except (ValueError, OSError) as error:
            say(f"the file is not what it was: {error}; closing a stream")
        finally:
            gone.cancel()

    async def pulse(self) -> None:
        """Wake the silent now and then, for a heartbeat."""
        while True:
            await asyncio.sleep(PULSE)
            self.followers.wake(PULSE)


def last_modified(changed: float, now: float) -> datetime | None:
    """The second in which the file changed, once it is over: before, the next change may be in it too."""
    second = int(changed)
    return datetime.fromtimestamp(second, UTC) if second < int(now) else None
