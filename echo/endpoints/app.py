"""The application: routes, authentication, errors, statistics."""

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from echo.auth import Auth
from echo.endpoints.data import SEGMENT_PREFIX, Data
from echo.endpoints.followers import TooManyFollowers
from echo.endpoints.health import Health
from echo.endpoints.metrics import metrics_endpoint
from echo.endpoints.page import index
from echo.endpoints.query import BadQuery
from echo.endpoints.state import DataWatcher
from echo.endpoints.stats import Stats
from echo.endpoints.status import Status
from echo.http.request import BadRequest, Request
from echo.http.response import Response, Text
from echo.log import log
from echo.settings import Settings
from echo.store import Notifier, NotReady

if TYPE_CHECKING:
    from echo.mirror import Mirror

Endpoint = Callable[[Request], Response | Awaitable[Response]]

READS = ("GET", "HEAD")
ALLOW = [("allow", "GET, HEAD, OPTIONS")]
RETRY = [("retry-after", "1")]
CHALLENGE = [("www-authenticate", 'Bearer realm="echo"')]


class App:
    """Answers requests. It logs each of them if `verbose` is set."""

    def __init__(
        self,
        settings: Settings,
        data: Data,
        watcher: DataWatcher,
        notifier: Notifier,
        mirror: "Mirror | None",
        auth: Auth,
    ) -> None:
        self.settings = settings
        self.auth = auth
        self.mirror = mirror
        self.stats = Stats()
        self.verbose = False
        health = Health(settings, data, mirror)
        self.segment = data.segment
        self.routes: dict[str, Endpoint] = {
            "/": index,
            "/data": data,
            "/status": Status(settings, data, watcher, notifier, mirror),
            "/metrics": metrics_endpoint(self.stats, data, watcher),
            "/healthz": health.alive,
            "/readyz": health.ready,
        }

    def __call__(self, request: Request, client: str) -> Response | Awaitable[Response]:
        began = time.perf_counter()
        endpoint = self.routes.get(request.path)
        if endpoint is None or self.auth.secret or request.method not in READS:
            endpoint = self.find(request)
        try:
            answer = endpoint(request)
        except Exception as error:
            answer = self.error_response(request, client, error)
        if isinstance(answer, Response):
            return self.complete(request, client, answer, began)
        return self.complete_later(request, client, answer, began)

    async def complete_later(
        self, request: Request, client: str, answer: Awaitable[Response], began: float
    ) -> Response:
        """Wait for a response, and complete it."""
        try:
            response = await answer
        except Exception as error:
            response = self.error_response(request, client, error)
        return self.complete(request, client, response, began)

    def complete(self, request: Request, client: str, response: Response, began: float) -> Response:
        """Count and log a response, and add the Via field of a mirror."""
        path = request.path
        route = path if path in self.routes and not request.query else self.route_name(request)
        self.stats.answered(route, response.status, time.perf_counter() - began)
        if self.verbose:
            log(f"{client} {request.method} {request.path!a} {response.status}")
        if self.mirror:
            return response.with_header("via", ", ".join(f"1.1 {name}" for name in self.mirror.status.via))
        return response

    def route_name(self, request: Request) -> str:
        """Return the name of a request's route in the metrics."""
        if request.path == "/data" and "follow" in request.query:
            return "/data?follow"
        if request.path in self.routes:
            return request.path
        return "/data/SEGMENT" if request.path.startswith(SEGMENT_PREFIX) else "other"

    def refuse(self, client: str, error: BadRequest) -> Response:
        """Answer a malformed request."""
        self.stats.answered("other", error.status, 0.0)
        if self.verbose:
            log(f"{client} {error.status} {error}")
        return Text(error.status, str(error))

    def find(self, request: Request) -> Endpoint:
        """Return the endpoint for a request, or one that refuses it."""
        if not self.auth.admits(request.path, request.headers.get("authorization", "")):
            return ask_for_token
        endpoint = self.routes.get(request.path)
        if endpoint is None and request.path.startswith(SEGMENT_PREFIX):
            endpoint = self.segment
        if request.method == "OPTIONS" and (endpoint or request.path == "*"):
            return options
        if endpoint is None:
            return self.not_found
        return endpoint if request.method in READS else refuse_method

    def not_found(self, request: Request) -> Response:
        return Text(404, f"unknown path {request.path!a}: use one of {', '.join(self.routes)}")

    def error_response(self, request: Request, client: str, error: Exception) -> Response:
        """Return the response for an error in an endpoint."""
        if isinstance(error, NotReady | TooManyFollowers):
            source = self.mirror.status if self.mirror else None
            away = f"; {source.source}: {source.problem}" if source and source.problem else ""
            return Text(503, f"{error}{away}", RETRY)
        if isinstance(error, BadQuery):
            return Text(400, str(error))
        log(f"cannot answer {client} {request.method} {request.path!a}: {error!r}")
        return Text(500, "internal error: see echo's log")


def options(request: Request) -> Response:
    return Response(204, ALLOW)


def refuse_method(request: Request) -> Response:
    return Text(405, f"{request.path} accepts GET and HEAD only", ALLOW)


def ask_for_token(request: Request) -> Response:
    return Text(401, "a token is required: send the header Authorization: Bearer TOKEN", CHALLENGE)
