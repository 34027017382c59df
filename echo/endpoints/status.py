"""/status: the state of the data and of echo, as JSON."""

import socket
import time
from typing import TYPE_CHECKING

from echo import VERSION
from echo.endpoints.data import Data
from echo.endpoints.state import DataWatcher
from echo.http.request import Request
from echo.http.response import Response
from echo.settings import Settings
from echo.store import Notifier

if TYPE_CHECKING:
    from echo.mirror import Mirror


class Status:
    """The endpoint. Unknown values are null; `problem` says why."""

    def __init__(
        self, settings: Settings, data: Data, watcher: DataWatcher, notifier: Notifier, mirror: "Mirror | None"
    ) -> None:
        self.settings, self.data, self.watcher, self.notifier, self.mirror = settings, data, watcher, notifier, mirror
        self.started = time.time()

    async def __call__(self, request: Request) -> Response:
        state = await self.watcher.state()
        segment = state.segment
        status = {
            "version": VERSION,
            "host": socket.gethostname(),
            "source": str(self.settings.source),
            "stream": segment and segment.stream,
            "offset": segment and segment.end,
            "segment": segment and segment.name,
            "segments": [kept.name for kept in self.data.folder.segments()],
            "size": state.size,
            "numbers": state.numbers,
            "age": state.age,
            "rate": state.rate,
            "followers": len(self.data.followers),
            "watching": self.notifier.how,
            "started": rfc3339(self.started),
            "mirror": self.mirror_status(),
            "problem": state.problem,
        }
        import json  # here, because few requests need it

        text = json.dumps(status, indent=2) + "\n"
        return Response(200, [("content-type", "application/json"), ("cache-control", "no-store")], text.encode())

    def mirror_status(self) -> dict[str, object] | None:
        if not self.mirror:
            return None
        status = self.mirror.status
        return {
            "source": status.source,
            "state": status.link.name.lower(),
            "via": status.via,
            "behind": status.behind,
            "heard": status.heard and rfc3339(status.heard),
            "problem": status.problem,
        }


def rfc3339(seconds: float) -> str:
    """Return a Unix time in seconds as text, to the millisecond."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03}+00:00"
