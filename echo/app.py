"""The endpoints, as an ASGI application."""

import asyncio
import importlib
import json
import socket
import time
from datetime import UTC, datetime
from typing import Any

from echo import VERSION
from echo.access import Access
from echo.data import Data
from echo.datafile import NotReady
from echo.exchange import Exchange, say
from echo.figures import Figures
from echo.follow import Full
from echo.query import BadQuery
from echo.settings import Settings
from echo.source import Feed

INDEX = """\
numbers, as they are generated, from a file that grows

/data               all of them; ranges and ETags: curl -C - goes on where it was
/data?tail=10       the last ten
/data?follow        all of them and each one that comes: curl -N; as server-sent events where those are accepted
/status             what there is, how fast it grows, who follows: JSON
/metrics            the same for Prometheus
/healthz, /readyz   whether this server is alive; whether the newest number is fresh
/                   a page to watch it, for browsers
"""


class App:
    """Serves a data file over HTTP. `verbose` logs each request."""

    def __init__(self, settings: Settings, data: Data, feed: Feed, access: Access) -> None:
        self.settings = settings
        self.data = data
        self.feed = feed
        self.access = access
        self.figures = Figures()
        self.started = datetime.now(UTC)
        self.verbose = False
        self.routes = {
            "/": self.index,
            "/data": self.data.answer,
            "/status": self.status,
            "/metrics": self.metrics,
            "/healthz": self.healthz,
            "/readyz": self.readyz,
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        exchange = Exchange(scope, receive, send, self.figures, self.feed.via)
        endpoint = self.routes.get(exchange.path)
        try:
            if not self.access.admits(exchange.path, exchange.headers.get("authorization", "")):
                challenge = ("www-authenticate", 'Bearer realm="echo"')
                await exchange.text(401, "a token is asked for: the header Authorization: Bearer TOKEN", [challenge])
            elif endpoint is None:
                exchange.route = "other"
                await exchange.text(404, f"no {exchange.path!a} here: there is {', '.join(self.routes)}")
            elif exchange.method not in ("GET", "HEAD"):
                await exchange.text(405, f"{exchange.path} takes GET and HEAD", [("allow", "GET, HEAD")])
            else:
                await endpoint(exchange)
        except (NotReady, Full) as error:
            await exchange.text(503, str(error), [("retry-after", "1")])
        except BadQuery as error:
            await exchange.text(400, str(error))
        except asyncio.CancelledError:  # at the end of the stop, when the client was cut off already
            return
        except Exception as error:
            say(f"{exchange.client} {exchange.method} {exchange.path!a}: {error!r}")
            if not exchange.status:
                await exchange.text(500, "that should not have happened: see the log")
        if self.verbose:
            say(f"{exchange.client} {exchange.method} {exchange.path!a} {exchange.status}")

    async def index(self, exchange: Exchange) -> None:
        """A page for browsers, a few words for everybody else."""
        vary = ("vary", "accept")
        if exchange.accepts("text/plain", "text/html") == "text/html":
            from echo.page import load

            page, policy = load()
            html = ("content-type", "text/html; charset=utf-8")
            await exchange.answer(200, page, [html, vary, ("content-security-policy", policy)])
        else:
            await exchange.text(200, INDEX.rstrip(), [vary])

    async def healthz(self, exchange: Exchange) -> None:
        """Alive: this answer is the proof."""
        await exchange.text(200, "alive")

    async def readyz(self, exchange: Exchange) -> None:
        """Ready: the file is there and fresh, and echo is not about to end."""
        age = max(0.0, time.time() - self.data.source.look().changed)
        if self.data.stopping:
            raise NotReady("stopping")
        newest = f"the newest number is {age:.1f} s old{self.feed.remark()}"
        if unready := self.feed.unready():
            raise NotReady(f"{unready}: {newest}")
        if self.settings.stale and age > self.settings.stale:
            raise NotReady(f"stale: {newest}, more than {self.settings.stale:g} s")
        await exchange.text(200, f"ready: {newest}")

    async def status(self, exchange: Exchange) -> None:
        """What there is, as JSON; what cannot be known is null, and `problem` says why."""
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
        await exchange.answer(200, text.encode(), [("content-type", "application/json")])

    async def metrics(self, exchange: Exchange) -> None:
        """The figures, for Prometheus."""
        # In a thread, for it takes longer to load than all of echo, and most echos are never asked.
        metrics = await asyncio.to_thread(importlib.import_module, "echo.metrics")
        state = await self.data.state()
        content_type, page = metrics.render(self, state, exchange.headers.get("accept", ""))
        await exchange.answer(200, page, [("content-type", content_type), ("vary", "accept")])
