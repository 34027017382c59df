"""Followers of the data. Each is a connection and a position, without a task or a queue."""

import asyncio
import contextlib
import time
from collections import deque

from echo.http.response import Stream, frame

SENDS_PER_PASS = 64  # to followers in one pass of the event loop; requests are answered between passes


class TooManyFollowers(Exception):
    """The limit of followers is reached."""


class Followers:
    """All followers, and those at the end of the data."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open: set[Follower] = set()
        self.at_end: set[Follower] = set()
        self.due: deque[Follower] = deque()  # waiting for new numbers to be sent
        self.stopping = False
        self.change = asyncio.Event()

    def __len__(self) -> int:
        return len(self.open)

    def check_room(self) -> None:
        """Raises TooManyFollowers."""
        if len(self.open) >= self.limit:
            raise TooManyFollowers(f"the limit of {self.limit} followers is reached: try again later")

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
        """Send to some of the followers due, and to the others in later passes of the event loop."""
        now = [self.due.popleft() for _ in range(min(SENDS_PER_PASS, len(self.due)))]
        if self.due:  # scheduled first, so that a fault in one follower does not hold up the others
            asyncio.get_running_loop().call_soon(self.send_due)
        for follower in now:
            follower.resume()

    async def wait_for_change(self, deadline: float) -> None:
        """Return at the next change, or at `deadline` of the monotonic clock."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.change.wait(), max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """End each stream after its last number."""
        self.stopping = True
        self.publish()

    def send_heartbeats(self, seconds: float) -> None:
        """Send a heartbeat to followers that were idle for this many seconds."""
        before = time.monotonic() - seconds
        for follower in list(self.at_end):
            if follower.sent_at <= before:
                follower.send_heartbeat()


class Follower:
    """A body of unknown length that waits for the data to grow."""

    __slots__ = ("followers", "heartbeat", "sent_at", "stream")

    length = None

    def __init__(self, followers: Followers) -> None:
        self.followers = followers
        self.stream: Stream | None = None
        self.sent_at = 0.0  # seconds of the monotonic clock
        self.heartbeat = b""
        followers.open.add(self)

    def send(self, stream: Stream) -> bool:
        """Send a piece; return whether there is more now (see `Body`)."""
        raise NotImplementedError

    def wait(self) -> bool:
        """Wait for the data to grow, or end the stream if echo stops. Always return False: nothing more now."""
        if self.followers.stopping:
            self.finish()
        else:
            self.followers.at_end.add(self)
        return False

    def resume(self) -> None:
        if self.stream:
            self.stream.resume()

    def write(self, data: bytes, framed: bytes = b"") -> None:
        """Send bytes, in the frame given or a new one if the response is chunked."""
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
