"""The endpoints, as an ASGI application."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl

from echo import conditional
from echo.datafile import DataFile, NotReady, Snapshot, tail_offset

CHUNK = 2**18  # bytes sent at a time, and kept for a reader that stalls; 64 KiB took five times as long
TEXT = ("content-type", "text/plain; charset=utf-8")
Headers = Iterable[tuple[str, str]]


def say(text: str) -> None:
    """A line on stderr; nobody reading it is no reason to end."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class BadQuery(Exception):
    """The query is not one that the endpoint knows; the message says why."""


class Exchange:
    """One request and the answering of it."""

    def __init__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        self.client: str = scope["client"][0] if scope["client"] else "-"
        self.headers: dict[str, str] = {}
        for name, value in scope["headers"]:  # one that comes again goes on (RFC 9110, 5.3)
            before = self.headers.get(name.decode("latin-1"))
            self.headers[name.decode("latin-1")] = f"{before}, " * bool(before) + value.decode("latin-1")
        self.receive, self.send = receive, send
        self.status = 0

    async def start(self, status: int, headers: Headers) -> None:
        self.status = status
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})

    async def body(self, data: bytes, more: bool = False) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def text(self, status: int, text: str, headers: Headers = ()) -> None:
        """A line in words."""
        data = f"{text}\n".encode(errors="backslashreplace")
        length = ("content-length", str(len(data)))
        await self.start(status, [TEXT, length, ("cache-control", "no-store"), *headers])
        await self.body(data)

    async def gone(self) -> None:
        """Returns when the client has gone."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


class App:
    """Serves a data file. `stopping` turns readiness off; `verbose` logs each request."""

    def __init__(self, file: DataFile, stale: float) -> None:
        self.file = file
        self.stale = stale
        self.stopping = False
        self.verbose = False
        self.routes = {"/data": self.data, "/healthz": self.healthz, "/readyz": self.readyz}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        exchange = Exchange(scope, receive, send)
        endpoint = self.routes.get(exchange.path)
        try:
            if endpoint is None:
                await exchange.text(404, f"no {exchange.path!a} here: there is {', '.join(self.routes)}")
            elif exchange.method not in ("GET", "HEAD"):
                await exchange.text(405, f"{exchange.path} takes GET and HEAD", [("allow", "GET, HEAD")])
            else:
                await endpoint(exchange)
        except NotReady as error:
            await exchange.text(503, str(error), [("retry-after", "1")])
        except BadQuery as error:
            await exchange.text(400, str(error))
        if self.verbose:
            say(f"{exchange.client} {exchange.method} {exchange.path!a} {exchange.status}")

    async def healthz(self, exchange: Exchange) -> None:
        """Alive: this answer is the proof."""
        await exchange.text(200, "alive")

    async def readyz(self, exchange: Exchange) -> None:
        """Ready: the file is there and fresh, and echo is not about to end."""
        age = time.time() - self.file.look().changed
        if self.stopping:
            raise NotReady("stopping")
        if self.stale and age > self.stale:
            raise NotReady(f"stale: the newest number is {age:.1f} s old, more than {self.stale:g} s")
        await exchange.text(200, f"ready: the newest number is {max(age, 0):.1f} s old")

    async def data(self, exchange: Exchange) -> None:
        """The numbers, or the part of them that was asked for."""
        lines = parse_tail(exchange.query)
        if exchange.method == "HEAD":
            exchange.headers.pop("range", None)  # it is for GET alone: RFC 9110, 14.2
        snapshot = self.file.look()
        modified = last_modified(snapshot.changed, time.time())
        headers = [TEXT, ("cache-control", "no-cache"), ("x-content-type-options", "nosniff")]
        if lines is None:
            headers += [("etag", f'"{snapshot.etag}"'), ("accept-ranges", "bytes")]
            if modified:
                headers.append(("last-modified", format_datetime(modified, usegmt=True)))
            part = conditional.select(exchange.headers, snapshot.generation, snapshot.size, modified)
        else:
            start = await asyncio.to_thread(tail_offset, snapshot.read, snapshot.size, lines)
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
        await send_part(exchange, snapshot, part)


async def send_part(exchange: Exchange, snapshot: Snapshot, part: conditional.Part) -> None:
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
    finally:
        if gone:
            gone.cancel()


def parse_tail(query: bytes) -> int | None:
    """N of `tail=N`, or None for no query. Raises BadQuery."""
    if not query:
        return None
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    if [name for name, value in pairs] != ["tail"]:
        raise BadQuery("the query is not known: there is tail=N, the last N numbers")
    number = pairs[0][1]
    if not (number.isascii() and number.isdecimal() and len(number) <= 18):
        raise BadQuery(f"tail={number[:20]!a} is not a whole number from 0 to 18 digits: as tail=10")
    return int(number)


def last_modified(changed: float, now: float) -> datetime | None:
    """The second in which the file changed, once it is over: before, the next change may be in it too."""
    second = int(changed)
    return datetime.fromtimestamp(second, UTC) if second < int(now) else None
