"""/healthz and /readyz: whether echo is alive, and whether its numbers are fresh."""

import time

from echo.datafile import NotReady
from echo.endpoints.data import Data
from echo.http.request import Request
from echo.http.response import Response, Text
from echo.settings import Settings
from echo.source import Feed


class Health:
    """Both endpoints."""

    def __init__(self, settings: Settings, data: Data, feed: Feed) -> None:
        self.settings, self.data, self.feed = settings, data, feed

    def alive(self, request: Request) -> Response:
        """Answer: that is the proof."""
        return Text(200, "alive")

    def ready(self, request: Request) -> Response:
        """Answer 200 if there are fresh numbers and echo is not stopping. Raises NotReady."""
        age = max(0.0, time.time() - self.data.source.look().changed)
        if self.data.stopping:
            raise NotReady("stopping")
        newest = f"the newest number is {age:.1f} s old{self.feed.remark()}"
        if unready := self.feed.unready():
            raise NotReady(f"{unready}: {newest}")
        if self.settings.stale and age > self.settings.stale:
            raise NotReady(f"stale: {newest}, more than {self.settings.stale:g} s")
        return Text(200, f"ready: {newest}")
