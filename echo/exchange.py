"""One request and the answering of it, over ASGI."""

import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from echo.figures import Figures

TEXT = ("content-type", "text/plain; charset=utf-8")
Headers = Iterable[tuple[str, str]]


def say(text: str) -> None:
    """A line on stderr; nobody reading it is no reason to end."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class Exchange:
    """One request and the answering of it."""

    def __init__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[Any], Awaitable[None]],
        figures: Figures,
        via: Sequence[str] = (),
    ) -> None:
        self.began = time.perf_counter()
        self.figures = figures
        self.via = via
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        self.client: str = scope["client"][0] if scope["client"] else "-"
        self.headers: dict[str, str] = {}
        for name, value in scope["headers"]:  # one that comes again goes on (RFC 9110, 5.3)
            before = self.headers.get(name.decode("latin-1"))
            self.headers[name.decode("latin-1")] = f"{before}, " * bool(before) + value.decode("latin-1")
        self.receive, self.send = receive, send
        self.route = self.path  # its template, for the figures
        self.status = 0

    def accepts(self, *types: str) -> str:
        """Which of these media types the client likes best; the first where it does not care (RFC 9110, 12.5.1)."""
        accept = self.headers.get("accept", "*/*")
        if len(accept) > 1000 or not any(kind in accept.lower() for kind in types[1:]):
            return types[0]
        from werkzeug.datastructures import MIMEAccept  # here, for it takes longer to load than all of echo
        from werkzeug.http import parse_accept_header

        return parse_accept_header(accept, MIMEAccept).best_match(types) or types[0]

    async def start(self, status: int, headers: Headers) -> None:
        self.status = status
        self.figures.answered(self.route, status, time.perf_counter() - self.began)
        if self.via:
            headers = [*headers, ("via", ", ".join(f"1.1 {name}" for name in self.via))]
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})

    async def body(self, data: bytes, more: bool = False) -> None:
        """Returns when the client can take more."""
        await self.send({"type": "http.response.body", "body": data, "more_body": more})
        self.figures.sent += len(data)

    async def answer(self, status: int, data: bytes, headers: Headers) -> None:
        """A response as a whole."""
        await self.start(status, [("content-length", str(len(data))), ("cache-control", "no-store"), *headers])
        await self.body(data)

    async def text(self, status: int, text: str, headers: Headers = ()) -> None:
        """A line in words."""
        await self.answer(status, f"{text}\n".encode(errors="backslashreplace"), [TEXT, *headers])

    async def gone(self) -> None:
        """Returns when the client has gone."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
