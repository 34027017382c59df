"""`/status`, `/metrics` and `/` of a running echo."""

import os
import platform
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
import requests
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from echo import VERSION
from support import running, wait_until
from support.echo_program import Echo, serving
from support.segments import OTHER, STREAM, Writer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def writer(data: Path) -> Writer:
    """A writer whose data folder has three numbers."""
    writer = Writer(data)
    writer.append(b"10\n20\n30\n")
    return writer


@pytest.fixture
def echo(data: Path, writer: Writer) -> Iterator[Echo]:
    with serving(data, "--stale", "0") as echo:
        yield echo


# Status

APPEND = """import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
for _ in range(200_000):
    os.write(file, b"54321\\n")
"""


def test_status_has_all_documented_fields(echo: Echo, data: Path) -> None:
    response = echo.get("/status")
    assert (response.headers["content-type"], response.headers["cache-control"]) == ("application/json", "no-store")
    status = response.json()
    assert datetime.now(UTC) - datetime.fromisoformat(status.pop("started")) < timedelta(seconds=20)
    assert 0 <= status.pop("age") < 20
    assert status.pop("watching") in ("inotify", "polling")  # it begins in a moment
    assert status.pop("rate") in (None, 0)
    assert status == {
        "version": VERSION,
        "host": platform.node(),
        "source": str(data),
        "stream": STREAM,
        "offset": 9,
        "segment": f"{STREAM}-0",
        "segments": [f"{STREAM}-0"],
        "size": 9,
        "numbers": 3,
        "followers": 0,
        "mirror": None,
        "problem": None,
    }


def test_status_before_the_first_number_says_why_there_is_none(data: Path) -> None:
    with serving(data) as echo:
        status = echo.get("/status").json()
        assert status["problem"] == f"{data} does not exist yet"
        assert {status[name] for name in ("stream", "offset", "segment", "size", "numbers", "age", "rate")} == {None}
        families = {family.name for family in parse(echo.get("/metrics").text)}
        assert "echo_data_available" in families and "echo_data_bytes" not in families


def test_size_and_numbers_are_those_of_the_segment(echo: Echo, data: Path, writer: Writer) -> None:
    for more in (b"40\n", b"5", b"0\n", b"60\n" * 1000):
        writer.append(more)
        assert echo.status()["numbers"] == data.read_bytes().count(b"\n")
    offset = writer.end
    writer.rotate(b"1\n2\n")
    status = echo.status()
    assert (status["numbers"], status["size"]) == (2, 4)
    assert (status["segment"], status["offset"]) == (f"{STREAM}-{offset}", offset + 4)
    assert status["segments"] == [f"{STREAM}-0", f"{STREAM}-{offset}"]
    writer.rotate(b"3\n", stream=OTHER)
    status = echo.status()
    assert (status["stream"], status["offset"], status["numbers"]) == (OTHER, 2, 1)


def test_a_damaged_segment_is_a_problem_until_the_next(echo: Echo, writer: Writer) -> None:
    assert echo.status()["problem"] is None
    os.truncate(writer.file, 3)
    assert "was truncated or overwritten" in str(echo.status()["problem"])
    writer.rotate(b"1\n")
    assert echo.status()["problem"] is None


def test_size_and_numbers_are_of_the_same_moment(data: Path) -> None:
    """While the file grows as fast as it can."""
    lines = b"".join(b"%05d\n" % number for number in range(50_000))
    data.write_bytes(lines)
    with serving(data) as echo, running([sys.executable, "-c", APPEND, data]) as writer:
        while writer.process.poll() is None:
            status = echo.get("/status").json()
            assert status["size"] == status["numbers"] * 6


def test_age_is_that_of_the_newest_number(data: Path, writer: Writer) -> None:
    os.utime(data, (1e9, 1e9))
    with serving(data) as echo:
        assert echo.get("/status").json()["age"] > 1e8
        writer.append(b"40\n")
        assert echo.get("/status").json()["age"] < 20


def test_rate_is_numbers_per_second_over_what_was_seen(echo: Echo, writer: Writer) -> None:
    """Across segments, and for numbers of any length."""
    assert echo.get("/status").json()["rate"] in (None, 0)
    writer.append(b"100000000\n" * 30)
    assert echo.get("/status").json()["numbers"] == 33
    writer.rotate(b"100000000\n" * 30)

    def rate() -> float | None:
        status = echo.get("/status").json()
        seen = (datetime.now(UTC) - datetime.fromisoformat(status["started"])).total_seconds()
        assert status["rate"] is None or 50 < status["rate"] * seen < 70
        value: float | None = status["rate"]
        return value

    wait_until(rate)


def test_rate_counts_a_file_that_came_after_echo(data: Path) -> None:
    with serving(data, "--stale", "0") as echo:
        assert echo.get("/status").json()["problem"]
        data.write_bytes(b"1\n" * 1000)
        wait_until(lambda: (echo.get("/status").json()["rate"] or 0) > 10)


# Metrics


def metric(echo: Echo, name: str, **labels: str) -> float | None:
    for family in parse(echo.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    return None


def test_requests_are_counted_by_route_and_status(echo: Echo) -> None:
    for path in (
        "/data",
        "/data?tail=1",
        "/data?tail=x",
        "/healthz",
        "/nothing",
        "/nothing/else",
        "/data?follow&tail=x",
    ):
        echo.get(path)
    requests.post(f"{echo.url}/data")
    for count, route, status in [
        *(
            (2, "/data", "200"),
            (1, "/data", "400"),
            (1, "/data?follow", "400"),
            (1, "/data", "405"),
            (1, "/healthz", "200"),
            (2, "other", "404"),
        ),
    ]:
        assert metric(echo, "echo_http_requests_total", route=route, status=status) == count
        labels = {"route": route, "status": status}
        assert metric(echo, "echo_http_request_duration_seconds_count", **labels) == count
        assert metric(echo, "echo_http_request_duration_seconds_bucket", le="+Inf", **labels) == count
        taken = metric(echo, "echo_http_request_duration_seconds_sum", **labels)
        assert taken is not None and 0 < taken < 20


def test_a_stream_is_counted_and_its_bytes_as_they_are_sent(echo: Echo, writer: Writer) -> None:
    with requests.get(f"{echo.url}/data?follow", stream=True) as stream:
        lines = stream.iter_lines()
        assert [next(lines) for _ in range(3)] == [b"10", b"20", b"30"]
        assert metric(echo, "echo_followers") == 1
        assert metric(echo, "echo_http_requests_total", route="/data?follow", status="200") == 1
        before = metric(echo, "echo_http_sent_bytes_total")
        writer.append(b"40\n" * 1_000_000)
        assert next(lines) == b"40"
        assert before is not None
        wait_until(lambda: (metric(echo, "echo_http_sent_bytes_total") or 0) > before + 100_000)
    wait_until(lambda: metric(echo, "echo_followers") == 0)


def test_the_data_are_measured(echo: Echo, writer: Writer) -> None:
    writer.append(b"40\n")
    assert metric(echo, "echo_data_bytes") == 12
    assert metric(echo, "echo_data_numbers") == 4
    assert metric(echo, "echo_segment_changes_total") == 0
    age = metric(echo, "echo_newest_number_age_seconds")
    assert age is not None and 0 <= age < 20
    writer.rotate(b"1\n")
    assert metric(echo, "echo_segment_changes_total") == 1
    assert metric(echo, "echo_data_bytes") == 2
    assert (metric(echo, "process_resident_memory_bytes") or 0) > 2**20


@pytest.mark.parametrize(
    ("accept", "kind"),
    [("", "text/plain; version="), ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text")],
)
def test_metrics_come_in_the_format_that_is_accepted(echo: Echo, accept: str, kind: str) -> None:
    response = echo.get("/metrics", Accept=accept)
    assert response.headers["content-type"].startswith(kind)
    families = list((openmetrics if "openmetrics" in kind else parse)(response.text))
    assert all(family.documentation for family in families)


# The page


class Inline(HTMLParser):
    """Inline handlers, and addresses of other hosts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.forbidden: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "style" or name.startswith("on") or (name in ("src", "href") and "//" in (value or "")):
                self.forbidden.append(f"<{tag} {name}={value}>")


def test_the_page_is_self_contained_and_its_policy_strict(echo: Echo) -> None:
    response = echo.get("/", Accept="text/html")
    policy = response.headers["content-security-policy"].split("; ")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["vary"] == "accept"
    assert {"default-src 'none'", "connect-src 'self'", "base-uri 'none'", "frame-ancestors 'none'"} <= set(policy)
    for kind in ("script", "style"):
        (source,) = (part for part in policy if part.startswith(f"{kind}-src"))
        assert re.fullmatch(rf"{kind}-src 'sha256-[A-Za-z0-9+/]{{43}}='", source)
    assert Inline(response.text).forbidden == []


@pytest.mark.parametrize("accept", ["*/*", "", "text/plain", "text/html;q=0", "application/json"])
def test_who_does_not_ask_for_html_gets_words(echo: Echo, accept: str) -> None:
    response = echo.get("/", Accept=accept)
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    for path in ("/data", "/data?tail=", "/data?follow", "/status", "/metrics", "/healthz", "/readyz"):
        assert path in response.text
