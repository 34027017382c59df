"""/status: what there is, as JSON."""

import json
import socket
from datetime import UTC, datetime

from echo import VERSION
from echo.endpoints.data import Data
from echo.http.request import Request
from echo.http.response import Response
from echo.settings import Settings
from echo.source import Feed


class Status:
    """What cannot be known is null, and `problem` says why."""

    def __init__(self, settings: Settings, data: Data, feed: Feed) -> None:
        self.settings, self.data, self.feed = settings, data, feed
        self.started = datetime.now(UTC)

    async def __call__(self, request: Request) -> Response:
        state = await self.data.state()
        status = {
            "version": VERSION,
            "host": socket.gethostname(),
            "source": str(self.settings.source),
            "generation": state.generation,
            "size": state.size,
            "numbers": state.numbers,
            "age": state.age,
            "rate": state.rate,
            "followers": len(self.data.followers),
            "watching": self.feed.how,
            "started": self.started.isoformat(timespec="milliseconds"),
            "mirror": self.feed.report(),
            "problem": state.problem,
        }
        text = json.dumps(status, indent=2) + "\n"
        return Response(200, [("content-type", "application/json"), ("cache-control", "no-store")], text.encode())
