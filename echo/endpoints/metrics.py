"""/metrics: statistics in the format of Prometheus."""

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from echo.endpoints.data import Data
from echo.endpoints.state import DataState, DataWatcher
from echo.endpoints.stats import BOUNDS, Stats
from echo.http.request import Request
from echo.http.response import Response

if TYPE_CHECKING:
    from prometheus_client import Metric


def metrics_endpoint(stats: Stats, data: Data, watcher: DataWatcher) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint."""

    async def metrics(request: Request) -> Response:
        # In a thread and only now, because this import takes longer than the rest of echo.
        await asyncio.to_thread(importlib.import_module, "prometheus_client.exposition")
        state = await watcher.state()
        content_type, page = render(stats, data, state, request.headers.get("accept", ""))
        headers = [("content-type", content_type), ("vary", "accept"), ("cache-control", "no-store")]
        return Response(200, headers, page)

    return metrics


def render(stats: Stats, data: Data, state: DataState, accept: str) -> tuple[str, bytes]:
    """Return the content type and the text, in the exposition format that the client accepts."""
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry()
    registry.register(Echo(stats, data, state))
    ProcessCollector(registry=registry)
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # prometheus_client fails on a malformed version
        encode, content_type = choose_encoder("")
    return content_type, encode(registry)


class Echo:
    """A collector of echo's own metrics."""

    def __init__(self, stats: Stats, data: Data, state: DataState) -> None:
        self.stats, self.data, self.state = stats, data, state

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        stats, data, state = self.stats, self.data, self.state
        latency = HistogramMetricFamily(
            "echo_http_request_duration_seconds", "Time until the head of the response", labels=["route", "status"]
        )
        for (route, status), taken in stats.requests.items():
            buckets, so_far = [], 0
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), taken.counts, strict=True):
                so_far += count
                buckets.append((bound, so_far))
            latency.add_metric([route, str(status)], buckets, taken.seconds)
        yield latency
        requests = CounterMetricFamily("echo_http_requests", "Requests answered", labels=["route", "status"])
        for (route, status), taken in stats.requests.items():
            requests.add_metric([route, str(status)], sum(taken.counts))
        yield requests
        yield CounterMetricFamily("echo_http_sent_bytes", "Bytes of bodies sent", value=stats.bytes_sent())
        yield CounterMetricFamily(
            "echo_segment_changes", "Changes of the current segment", value=data.folder.segment_changes
        )
        yield GaugeMetricFamily("echo_followers", "Live responses open", value=len(data.followers))
        yield GaugeMetricFamily("echo_data_available", "1 if there are numbers to serve", value=not state.problem)
        if not state.problem:
            yield from newest(state)


def newest(state: DataState) -> "Iterator[Metric]":
    from prometheus_client.core import GaugeMetricFamily

    values: dict[tuple[str, str], Any] = {
        ("echo_data_bytes", "Size of the current segment"): state.size,
        ("echo_data_numbers", "Numbers in the current segment"): state.numbers,
        ("echo_newest_number_age_seconds", "Age of the newest number"): state.age,
    }
    for (name, text), value in values.items():
        yield GaugeMetricFamily(name, text, value=value)
