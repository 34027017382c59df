"""Tests of what the application promises over HTTP in each coupling; see couplings.py."""

import contextlib
import re
from collections.abc import Iterator

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from support import wait_until
from support.couplings import COUPLINGS, NEEDS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test in each coupling, and at the address that --url gives."""
    given: str | None = metafunc.config.getoption("--url")
    params = [pytest.param(name, id=name, marks=[pytest.mark.coupling(name), *needs(name)]) for name in COUPLINGS]
    if given:
        params.append(pytest.param(given, id="url", marks=[pytest.mark.coupling("url")]))
    metafunc.parametrize("url", params, indirect=True, scope="module")


def needs(coupling: str) -> list[pytest.MarkDecorator]:
    return [getattr(pytest.mark, mark) for mark in NEEDS.get(coupling, [])]


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    launch = COUPLINGS.get(request.param)
    given = request.param.rstrip("/")
    with launch(tmp_path_factory.mktemp(given)) if launch else contextlib.nullcontext(given) as address:
        wait_until(lambda: requests.get(f"{address}/readyz").status_code == 200)
        yield address


def grown(url: str, etag: str) -> requests.Response:
    """Wait until the data have another ETag, and return the response."""

    def get() -> requests.Response | None:
        response = requests.get(f"{url}/data", headers={"If-None-Match": etag})
        return response if response.status_code == 200 else None

    response = wait_until(get)
    assert response
    return response


def test_numbers_one_a_line(url: str) -> None:
    response = requests.get(f"{url}/data")
    assert response.headers["content-type"].startswith("text/plain")
    assert response.content.endswith(b"\n")
    assert all(0 <= int(line) <= 32767 for line in response.text.splitlines())


def test_the_numbers_are_only_ever_appended_to(url: str) -> None:
    first = requests.get(f"{url}/data")
    second = grown(url, first.headers["etag"])
    assert second.content.startswith(first.content)
    assert len(second.content) > len(first.content)


def test_head_is_get_without_a_body(url: str) -> None:
    response = requests.head(f"{url}/data")
    assert response.status_code == 200
    assert int(response.headers["content-length"]) > 0
    assert response.content == b""


def test_a_download_is_resumed_by_range_and_if_range(url: str) -> None:
    """The earlier ETag still works when the file has grown."""
    first = requests.get(f"{url}/data")
    grown(url, first.headers["etag"])
    headers = {"Range": f"bytes={len(first.content)}-", "If-Range": first.headers["etag"]}
    rest = requests.get(f"{url}/data", headers=headers)
    assert rest.status_code == 206
    whole = requests.get(f"{url}/data").content
    assert whole.startswith(first.content + rest.content)


def test_if_range_with_another_segments_etag_is_200(url: str) -> None:
    response = requests.get(f"{url}/data", headers={"Range": "bytes=2-", "If-Range": '"00000000-0-2"'})
    assert response.status_code == 200


def test_content_location_is_an_address_to_resume_from(url: str) -> None:
    """It names the segment. The ETag is the segment's name and size."""
    first = requests.get(f"{url}/data")
    address = first.headers["content-location"]
    assert re.fullmatch("/data/[0-9a-f]{8}-[0-9]+", address)
    assert first.headers["etag"] == f'"{address.removeprefix("/data/")}-{len(first.content)}"'
    grown(url, first.headers["etag"])
    rest = requests.get(f"{url}{address}", headers={"Range": f"bytes={len(first.content)}-"})
    assert rest.status_code == 206
    assert requests.get(f"{url}{address}").content.startswith(first.content + rest.content)


def test_a_live_range_sends_each_number_as_it_is_written(url: str) -> None:
    """RFC 8673, as with curl -N -r N-9007199254740991."""
    first = requests.get(f"{url}/data")
    start, came = len(first.content), b""
    headers = {"Range": f"bytes={start}-9007199254740991"}
    with requests.get(f"{url}/data", headers=headers, stream=True, timeout=20) as response:
        assert response.status_code == 206
        assert response.headers["content-range"] == f"bytes {start}-9007199254740991/*"
        assert response.headers["incremental"] == "?1"
        for chunk in response.iter_content(None):
            came += chunk
            if came.count(b"\n") >= 3:
                break
    assert requests.get(f"{url}/data").content.startswith(first.content + came)


def test_a_suffix_range_is_the_end_of_the_data(url: str) -> None:
    response = requests.get(f"{url}/data", headers={"Range": "bytes=-1"})
    assert (response.status_code, response.content) == (206, b"\n")


def test_a_range_beyond_the_end_is_416_with_the_size(url: str) -> None:
    response = requests.get(f"{url}/data", headers={"Range": "bytes=999999999-"})
    assert response.status_code == 416
    assert response.headers["content-range"].startswith("bytes */")


def test_tail_is_the_last_lines(url: str) -> None:
    lines = requests.get(f"{url}/data", params={"tail": "2"}).text.splitlines()
    assert len(lines) == 2
    assert "\n".join(lines) in requests.get(f"{url}/data").text


@pytest.mark.parametrize("query", ["tail=-1", "tail=x", "tail=", "tail=1&tail=2", "tial=1", "tail=" + "9" * 5000])
def test_a_wrong_query_is_400_and_says_why(url: str, query: str) -> None:
    response = requests.get(f"{url}/data?{query}")
    assert response.status_code == 400
    assert "tail" in response.text
    assert len(response.text.splitlines()) == 1


@pytest.mark.parametrize(
    "path", ["/data/", "/data/00000000-0", "/data.lock", "/../data", "/etc/passwd", "//data", "/%2e%2e/data"]
)
def test_nothing_else_is_served(url: str, path: str) -> None:
    session = requests.Session()
    prepared = session.prepare_request(requests.Request("GET", url))
    prepared.url = url + path  # the path as it is, not normalized
    with session:
        assert session.send(prepared).status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_405_with_allow(url: str, method: str) -> None:
    response = requests.request(method, f"{url}/data", data=b"1\n")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD, OPTIONS"


def test_healthz_and_readyz_are_200(url: str) -> None:
    assert requests.get(f"{url}/healthz").status_code == 200
    assert requests.get(f"{url}/readyz").status_code == 200


# The stream


def test_a_stream_has_the_last_lines_and_then_new_ones(url: str) -> None:
    with requests.get(f"{url}/data?follow&tail=3", stream=True, timeout=20) as response:
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        lines = response.iter_lines()
        assert all(re.fullmatch(b"[0-9]{1,5}", next(lines)) for _ in range(6))


def test_events_resume_after_a_download_or_an_event(url: str) -> None:
    """Together they are the numbers of the file: none is missing and none comes twice."""
    start = requests.get(f"{url}/data")
    stream, base, size = start.headers["etag"].strip('"').split("-")
    seen, position = start.content, f"{stream}-{int(base) + int(size)}"
    for _ in range(3):
        headers = {"Accept": "text/event-stream", "Last-Event-ID": position}
        with requests.get(f"{url}/data?follow", headers=headers, stream=True, timeout=20) as response:
            assert response.headers["content-type"] == "text/event-stream"
            fields = (line.decode().partition(": ") for line in response.iter_lines())
            for _ in range(2):
                id = next(value for name, _, value in fields if name == "id")
                number = next(value for name, _, value in fields if name == "data")
                seen, position = seen + number.encode() + b"\n", id
    assert int(position.partition("-")[2]) == int(base) + len(seen)
    assert requests.get(f"{url}/data", headers={"Range": f"bytes=0-{len(seen) - 1}"}).content == seen


@pytest.mark.parametrize("query", ["offset=-1", "offset=1e3", "last-event-id=x", "tail=1&offset=0"])
def test_a_stream_from_a_wrong_position_is_400_and_says_why(url: str, query: str) -> None:
    response = requests.get(f"{url}/data?follow&{query}")
    assert response.status_code == 400
    assert len(response.text.splitlines()) == 1


# Status, metrics and the page


def test_status_agrees_with_data(url: str) -> None:
    before = requests.get(f"{url}/data")
    status = requests.get(f"{url}/status").json()
    after = requests.get(f"{url}/data")
    segment = after.headers["etag"].strip('"').rpartition("-")[0]
    assert status["segment"] == segment == status["segments"][-1]
    assert segment == f"{status['stream']}-{status['offset'] - status['size']}"
    assert len(before.content) <= status["size"] <= len(after.content)
    assert before.content.count(b"\n") <= status["numbers"] <= after.content.count(b"\n")
    assert 0 <= status["age"] < 10
    assert status["problem"] is None
    assert status["watching"] in ("inotify", "polling")


def test_prometheus_own_parser_reads_the_metrics(url: str) -> None:
    families = {family.name for family in text_string_to_metric_families(requests.get(f"{url}/metrics").text)}
    assert {"echo_http_requests", "echo_http_request_duration_seconds", "echo_followers", "echo_data_bytes"} <= families


def test_a_browser_gets_a_page_and_other_clients_text(url: str) -> None:
    page = requests.get(url, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    words = requests.get(url)
    assert words.headers["content-type"] == "text/plain; charset=utf-8"
    assert "/data?follow" in words.text
