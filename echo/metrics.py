"""The figures as Prometheus reads them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from echo.figures import BOUNDS

if TYPE_CHECKING:
    from echo.app import App
    from echo.data import State


class Echo(Collector):
    """echo's own figures, read when they are asked for."""

    def __init__(self, app: "App", state: "State") -> None:
        self.app, self.state = app, state

    def collect(self) -> Iterator[Metric]:
        figures, data, state = self.app.figures, self.app.data, self.state
        latency = HistogramMetricFamily(
            "echo_http_request_duration_seconds", "Time until the head of the response", labels=["route", "status"]
        )
        for (route, status), taken in figures.requests.items():
            buckets, so_far = [], 0
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), taken.counts, strict=True):
                so_far += count
                buckets.append((bound, so_far))
            latency.add_metric([route, str(status)], buckets, taken.seconds)
        yield latency
        requests = CounterMetricFamily("echo_http_requests", "Requests answered", labels=["route", "status"])
        for (route, status), taken in figures.requests.items():
            requests.add_metric([route, str(status)], sum(taken.counts))
        yield requests
        yield CounterMetricFamily("echo_http_sent_bytes", "Bytes of bodies sent", value=figures.sent)
        yield CounterMetricFamily("echo_generations", "Changes of the generation seen", value=data.source.turns)
        yield GaugeMetricFamily("echo_followers", "Streams open", value=len(data.followers))
        yield GaugeMetricFamily("echo_data_available", "1 if there are numbers to serve", value=not state.problem)
        if not state.problem:
            yield GaugeMetricFamily("echo_data_bytes", "Size of the data", value=state.size)
            yield GaugeMetricFamily("echo_data_numbers", "Numbers in the data", value=state.numbers)
            yield GaugeMetricFamily("echo_newest_number_age_seconds", "Age of the newest number", value=state.age)


def render(app: "App", state: "State", accept: str) -> tuple[str, bytes]:
    """Content type and text, in the exposition format that the client accepts."""
    registry = CollectorRegistry()
    registry.register(Echo(app, state))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return content_type, encode(registry)
