"""/data and /data/STREAM-BASE: segments, ranges of them, and the stream of numbers."""

import asyncio
import re
import time
from collections.abc import Awaitable

from echo.endpoints.follow import EVENTS, LINES, ChunkCache, Cursor, FollowBody
from echo.endpoints.followers import Followers
from echo.endpoints.live import LiveRange
from echo.endpoints.query import BadQuery, Query, parse_event_id, parse_query
from echo.endpoints.steps import run_steps
from echo.http.fields import best_match, format_date
from echo.http.preconditions import Part, select
from echo.http.request import Request
from echo.http.response import MAX_BUFFERED_BYTES, Body, FilePart, Response, Text
from echo.store import DataFolder, NotReady, Place, Segment, parse

HEARTBEAT_SECONDS = 2.5  # a stream that was idle for this long is sent a heartbeat
AHEAD_SECONDS = 10.0  # to wait for a position that this replica has not received yet
MAX_ANSWERS = 64  # responses cached for repeated requests
SEGMENT_PREFIX = "/data/"

NUMBERS = [("content-type", "text/plain; charset=utf-8"), ("x-content-type-options", "nosniff")]
REVALIDATE, FOR_GOOD = "no-cache", "max-age=31536000, immutable"  # Cache-Control
# These fields ask proxies not to buffer: Incremental (RFC 10036), and nginx's own.
UNBUFFERED = [("cache-control", "no-store"), ("incremental", "?1"), ("x-accel-buffering", "no")]


class Representation:
    """A segment at one size. Its responses share their header fields and are cached."""

    def __init__(self, segment: Segment, modified: int | None, fields: list[tuple[str, str]]) -> None:
        self.segment, self.size, self.modified = segment, segment.size, modified
        self.etag = f'"{segment.etag_at(self.size)}"'
        date = [("last-modified", format_date(modified))] if modified else []
        self.live_fields = [*NUMBERS, *fields, ("etag", self.etag), ("accept-ranges", "bytes"), *date]
        self.fields = [*self.live_fields, ("cache-control", FOR_GOOD if segment.next else REVALIDATE)]
        self.answers: dict[Request, Response] = {}  # with small bodies

    def is_current(self, segment: Segment, modified: int | None) -> bool:
        return self.segment is segment and self.size == segment.size and self.modified == modified

    def extends(self, older: str) -> bool:
        """Return whether `older` is the ETag of this segment at a smaller size."""
        match = re.fullmatch('"([0-9a-f]+-[0-9]+)-([0-9]{1,16})"', older)
        return match is not None and match[1] == self.segment.name and int(match[2]) <= self.size

    def select(self, request: Request) -> Part:
        """Return the part of the segment that a request asks for."""
        headers = request.headers
        if request.method == "HEAD" and "range" in headers:
            headers = {name: value for name, value in headers.items() if name != "range"}  # RFC 9110, 14.2
        return select(headers, self.etag, self.size, self.modified, self.extends)

    def respond(self, request: Request, part: Part) -> Response:
        """Return the response with a part. Raises NotReady if the segment can no longer be read."""
        fields = self.fields
        if part.status == 412:
            response: Response = Text(412, f"the ETag is {self.etag} now", [("etag", self.etag)])
        elif part.status == 416 or part.start > self.size:
            response = Text(416, f"there are {self.size} bytes", [("content-range", f"bytes */{self.size}")])
        else:
            if part.status == 206:
                fields = [*fields, ("content-range", f"bytes {part.start}-{part.stop - 1}/{self.size}")]
            response = Response(part.status, fields, part_body(self.segment, part.start, part.stop))
        if isinstance(response.body, bytes) and len(self.answers) < MAX_ANSWERS:
            self.answers[request] = response
        return response


class Data:
    """Both endpoints, for one data folder."""

    def __init__(self, folder: DataFolder, followers: Followers) -> None:
        self.folder = folder
        self.followers = followers
        self.chunks = ChunkCache()
        # The current segment, the bytes grown and the count of unfinished segments, as last sent to the followers.
        self.published: tuple[Segment | None, int, int] = (None, 0, 0)
        self.current: Representation | None = None

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        """Answer /data with the current segment, its last numbers, or the stream. Raises NotReady and BadQuery."""
        query = parse_query(request.query)
        if query.follow:
            return self.follow(request, query)
        segment = self.folder.refresh()
        if query.tail is not None:
            return self.tail(segment, query.tail)
        current, modified = self.current, last_modified(segment.modified, time.time())
        if not current or not current.is_current(segment, modified):
            location = ("content-location", f"{SEGMENT_PREFIX}{segment.name}")
            current = self.current = Representation(segment, modified, [location])
        return current.answers.get(request) or self.answer(request, current)

    def segment(self, request: Request) -> Response | Awaitable[Response]:
        """Answer /data/STREAM-BASE with that segment. Raises NotReady and BadQuery."""
        if request.query:
            raise BadQuery("a segment has no query: use tail and follow with /data")
        name = parse(request.path.removeprefix(SEGMENT_PREFIX))
        current = self.folder.refresh()
        segment = self.folder.find(*name) if name else None
        successor = segment.next if segment else name and self.folder.after(*name)
        link = [("link", f'<{SEGMENT_PREFIX}{successor.name}>; rel="next"')] if successor else []
        if name and not segment and self.folder.is_gone(*name):
            return Text(410, f"segment {name} is no longer kept: the oldest is {self.folder.segments()[0].name}", link)
        if not segment:
            words = f"unknown segment {request.path!a}: the current one is {SEGMENT_PREFIX}{current.name}"
            return Text(404, words, link)
        return self.answer(request, Representation(segment, last_modified(segment.modified, time.time()), link))

    def answer(self, request: Request, representation: Representation) -> Response | Awaitable[Response]:
        """Answer with a segment or a part of it. Raises NotReady."""
        part, segment = representation.select(request), representation.segment
        if not part.live or (part.start > representation.size and segment.next):
            return representation.respond(request, part)
        if part.start > representation.size:
            return self.answer_later(request, segment, part.start)
        self.check_room()
        content_range = ("content-range", f"bytes {part.start}-{part.live}/*")
        fields = [*representation.live_fields, *UNBUFFERED, content_range]
        return Response(206, fields, LiveRange(self.followers, segment, part.start))

    async def tail(self, segment: Segment, lines: int) -> Response:
        size = segment.size
        start = await run_steps(segment.tail(lines))
        return Response(200, [*NUMBERS, ("cache-control", REVALIDATE)], part_body(segment, start, size))

    async def answer_later(self, request: Request, segment: Segment, position: int) -> Response:
        """Answer a live range once this replica has received its first position. Raises NotReady."""
        deadline = time.monotonic() + AHEAD_SECONDS
        while segment.size < position and not segment.next:
            await self.wait(deadline, f"{segment.stream}-{segment.base + position}")
        answer = self(request) if request.path == "/data" else self.segment(request)
        return answer if isinstance(answer, Response) else await answer

    async def wait(self, deadline: float, position: str) -> None:
        """Wait for the data to grow. Raises NotReady at the deadline, a time of the monotonic clock."""
        if time.monotonic() >= deadline or self.followers.stopping:
            raise NotReady(f"this replica has not received {position} within {AHEAD_SECONDS:g} s")
        await self.followers.wait_for_change(deadline)

    def check_room(self) -> None:
        """Raises NotReady and TooManyFollowers."""
        if self.followers.stopping:
            raise NotReady("stopping")
        self.followers.check_room()

    async def follow(self, request: Request, query: Query) -> Response:
        """Answer with the numbers and each new one, until the client or echo stops."""
        wanted = best_match(request.headers.get("accept"), ("text/plain", "text/event-stream"))
        format = EVENTS if wanted == "text/event-stream" else LINES
        self.check_room()
        cursor, gone = await self.begin(request.headers.get("last-event-id") or query.after, query)
        if gone and format is LINES:
            return Text(410, f"numbers after {gone} are gone, and text cannot show that: begin again without an offset")
        self.check_room()
        opening = format.opening + (format.gone(gone) if gone else b"")
        headers = [
            ("content-type", format.content_type),
            *UNBUFFERED,
            ("x-content-type-options", "nosniff"),
            ("vary", "accept, last-event-id"),
            ("last-event-id", str(cursor)),  # clients of text count bytes from here
        ]
        return Response(200, headers, FollowBody(self.followers, cursor, format, opening, self.chunks))

    async def begin(self, after: str | None, query: Query) -> tuple[Cursor, str]:
        """Return where a stream begins, and the position after which numbers are gone (empty if none are).

        Raises BadQuery and NotReady.
        """
        current = self.folder.refresh()
        if query.tail is not None and not after:
            return Cursor(current, await run_steps(current.tail(query.tail))), ""
        if not after and query.offset is None:
            return Cursor(current, 0), ""
        stream, offset = parse_event_id(after) if after else (current.stream, query.offset or 0)
        deadline = time.monotonic() + AHEAD_SECONDS
        while (place := self.folder.locate(stream, offset)) is Place.AHEAD:
            await self.wait(deadline, f"{stream}-{offset}")
        if isinstance(place, Segment) and place.is_readable:
            cursor = Cursor(place, offset - place.base)
            cursor.check()
            return cursor, ""
        return Cursor(self.folder.after(stream, offset) or self.folder.refresh(), 0), f"{stream}-{offset}"

    def refresh(self) -> bool:
        """Refresh the folder, and send new numbers to the followers; return whether there were any."""
        folder = self.folder
        try:
            folder.refresh()
        except NotReady:
            self.chunks.clear()
        # A request may have refreshed the folder since the last publication.
        state = folder.current, folder.grown, sum(segment.next is None for segment in folder.segments())
        before, self.published = self.published, state
        if before == state:
            return False
        if before[0] is not folder.current:
            self.chunks.clear()
            self.current = None
        self.followers.publish()
        return True

    async def send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self.followers.send_heartbeats(HEARTBEAT_SECONDS)


def last_modified(changed: float, now: float) -> int | None:
    """Return the second of the last change, or None until it is over: another change may fall into it."""
    return int(changed) if int(changed) < int(now) else None


def part_body(segment: Segment, start: int, stop: int) -> bytes | Body:
    """Return a part of a segment as a body: bytes if it is small. Raises NotReady if it can no longer be read."""
    if stop - start > MAX_BUFFERED_BYTES:
        return FilePart(segment.view, start, stop)
    try:
        return segment.read(start, stop)
    except OSError as error:
        raise NotReady(str(error)) from None
