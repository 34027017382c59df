"""/healthz: echo is alive. /readyz: there are numbers, and the newest is fresh."""

import time
from typing import TYPE_CHECKING

from echo.endpoints.data import Data
from echo.http.request import Request
from echo.http.response import Response, Text
from echo.settings import Settings
from echo.store import NotReady

if TYPE_CHECKING:
    from echo.mirror import Mirror


class Health:
    """Both endpoints."""

    def __init__(self, settings: Settings, data: Data, mirror: "Mirror | None") -> None:
        self.settings, self.data, self.mirror = settings, data, mirror

    def alive(self, request: Request) -> Response:
        """Answer 200. Any answer shows that echo is alive."""
        return Text(200, "alive")

    def ready(self, request: Request) -> Response:
        """Answer 200 if the numbers are fresh and echo is not stopping. Raises NotReady."""
        segment = self.data.folder.refresh()
        if self.data.followers.stopping:
            raise NotReady("stopping")
        age = max(0.0, time.time() - segment.modified)
        newest = f"the newest number is {age:.1f} s old"
        if self.mirror and (problem := self.mirror.status.problem):
            newest += f", and the source is away: {problem}"
        if self.mirror and not self.mirror.status.caught_up and not self.mirror.status.problem:
            raise NotReady(f"catching up with the source: {newest}")
        if self.settings.stale and age > self.settings.stale:
            raise NotReady(f"stale: {newest}, more than {self.settings.stale:g} s")
        return Text(200, f"ready: {newest}")
