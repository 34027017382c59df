"""Followers of the data: a connection and a position each, no task and no queue."""

import asyncio
import contextlib
import time
from collections import deque

from echo.http.response import Stream, frame

SENDS_PER_PASS = 64  # to followers in one pass of the event loop, so that a request need not wait for all of them


class TooManyFollowers(Exception):
    """There are as many followers as the limit allows."""


class Followers:
    """The followers, and those of them that have received everything."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open: set[Follower] = set()
        self.at_end: set[Follower] = set()
        self.due: deque[Follower] = deque()  # that are about to be sent new numbers
        self.stopping = False
        self.change = asyncio.Event()

    def __len__(self) -> int:
        return len(self.open)

    def check_room(self) -> None:
        """Raises TooManyFollowers."""
        if len(self.open) >= self.limit:
            raise TooManyFollowers(f"there are {self.limit} followers already, which is the limit: try again later")

    def publish(self) -> None:
        """Send new numbers to all followers at the end of the data."""
        self.change.set()
        self.change = asyncio.Event()
        idle = not self.due
        self.due.extend(self.at_end)
        self.at_end.clear()
        if idle:
            self.send_due()

    def send_due(self) -> None:
        """Send to some of those that are due; to the others in the next pass of the event loop."""
        for _ in range(min(SENDS_PER_PASS, len(self.due))):
            self.due.popleft().resume()
        if self.due:
            asyncio.get_running_loop().call_soon(self.send_due)

    async def wait_for_change(self, deadline: float) -> None:
        """Return at the next change, or at a time of the monotonic clock."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.change.wait(), max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """End every stream once its client has received everything."""
        self.stopping = True
        self.publish()

    def send_heartbeats(self, seconds: float) -> None:
        """Send a heartbeat to those who were sent nothing for this long."""
        before = time.monotonic() - seconds
        for follower in list(self.at_end):
            if follower.sent_at <= before:
                follower.send_heartbeat()


class Follower:
    """A body of unknown length that waits, with all others, for the data to grow."""

    __slots__ = ("followers", "heartbeat", "sent_at", "stream")

    length = None

    def __init__(self, followers: Followers) -> None:
        self.followers = followers
        self.stream: Stream | None = None
        self.sent_at = 0.0  # seconds of the monotonic clock
        self.heartbeat = b""
        followers.open.add(self)

    def send(self, stream: Stream) -> bool:
        """Send a piece; return whether there is more now."""
        raise NotImplementedError

    def wait(self) -> bool:
        """Wait for the data to grow, or end the stream if echo stops. Return False: there is no more now."""
        if self.followers.stopping:
            self.finish()
        else:
            self.followers.at_end.add(self)
        return False

    def resume(self) -> None:
        if self.stream:
            self.stream.resume()

    def write(self, data: bytes, framed: bytes = b"") -> None:
        """Send bytes, which may be framed already."""
        if self.stream:
            self.sent_at = time.monotonic()
            self.stream.write(framed or frame(data) if self.stream.chunked else data)

    def send_heartbeat(self) -> None:
        if self.heartbeat and self.stream and not self.stream.blocked:
            self.write(self.heartbeat)

    def finish(self) -> None:
        if self.stream:
            self.stream.finish()

    def close(self) -> None:
        self.followers.open.discard(self)
        self.followers.at_end.discard(self)
        self.stream = None
