"""/: a page that shows the numbers in a browser, and a short text for other clients."""

import functools
import re
from pathlib import Path

from echo.http.fields import best_match
from echo.http.request import Request
from echo.http.response import Response, Text

INDEX = """\
random numbers from a growing file

/data               the current segment, with ranges and ETags; Content-Location names it
/data/STREAM-BASE   a segment by its name: the address for curl -C -
/data?tail=10       the last ten numbers
/data?follow        all numbers and each new one: curl -N; server-sent events on request
/status             the segments, their growth and the followers, as JSON
/metrics            the same for Prometheus
/healthz, /readyz   whether this server is alive; whether the newest number is fresh
/                   a page to watch the numbers, for browsers"""


def index(request: Request) -> Response:
    """Answer with the page, or with a list of the endpoints."""
    vary = ("vary", "accept")
    if best_match(request.headers.get("accept"), ("text/plain", "text/html")) == "text/plain":
        return Text(200, INDEX, [vary])
    page, policy = load()
    html = [("content-type", "text/html; charset=utf-8"), ("cache-control", "no-store")]
    return Response(200, [*html, vary, ("content-security-policy", policy)], page)


@functools.cache
def load() -> tuple[bytes, str]:
    """Return the page, and a Content-Security-Policy that allows only its own script and style."""
    page = Path(__file__).with_name("page.html").read_bytes()
    policy = (
        f"default-src 'none'; script-src {digest(page, b'script')}; style-src {digest(page, b'style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def digest(page: bytes, tag: bytes) -> str:
    """Return the hash source of the page's only element of this name: https://www.w3.org/TR/CSP3/#grammardef-hash-source"""
    import base64  # here, because few requests ask for the page
    import hashlib

    (content,) = re.findall(b"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
