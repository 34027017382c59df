"""echo behind Debian's nginx, haproxy and caddy: its promises hold through these proxies."""

import contextlib
import dataclasses
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import free_port, need, running, wait_until
from support.replicas import generating
from support.wire import Echo, get, numbers, serving

WHOLE = numbers(1000)
NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr; {user}
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream echo {{ server 127.0.0.1:{echo}; keepalive 8; }}
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://echo; {options} }} }}
}}
"""
HAPROXY = """
global
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen echo
    bind 127.0.0.1:{port}
    http-reuse always
    server echo 127.0.0.1:{echo}
"""
CADDY = """
{{
    admin off
    auto_https off
    storage file_system {folder}
}}
:{port} {{
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:{echo}
}}
"""
KEPT = 'proxy_http_version 1.1; proxy_set_header Connection "";'
PROXIES = {
    "nginx": (["nginx", "-c"], NGINX, ""),  # it sends requests in HTTP/1.0
    "nginx with kept connections": (["nginx", "-c"], NGINX, KEPT),
    "nginx that drops ranges": (["nginx", "-c"], NGINX, f'{KEPT} proxy_set_header Range "";'),
    "haproxy": (["haproxy", "-db", "-f"], HAPROXY, ""),
    "caddy": (["caddy", "run", "--adapter", "caddyfile", "--config"], CADDY, ""),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(WHOLE)
    return path


@pytest.fixture
def echo(data: Path) -> Iterator[Echo]:
    with serving(data) as echo:
        yield echo


RANGES = [kind for kind in PROXIES if "drops" not in kind]


@pytest.fixture(params=RANGES)
def proxy(request: pytest.FixtureRequest, echo: Echo, tmp_path: Path) -> Iterator[Echo]:
    with behind(request.param, echo, tmp_path) as proxy:
        yield proxy


@contextlib.contextmanager
def behind(kind: str, echo: Echo, tmp_path: Path) -> Iterator[Echo]:
    """Run a proxy; yield the same echo at the proxy's port."""
    (name, *options), template, words = PROXIES[kind]
    need(name)
    port, config = free_port(), tmp_path / "proxy.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(template.format(folder=tmp_path, user=user, echo=echo.port, port=port, options=words))
    with running([name, *options, config]):
        proxy = dataclasses.replace(echo, port=port)
        wait_until(lambda: proxy.get("/healthz").status == 200)
        yield proxy


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


@pytest.mark.parametrize(("accept", "line"), [("text/plain", b"%d\n"), ("text/event-stream", b"data: %d\n")])
def test_numbers_arrive_at_once_and_a_stop_ends_the_stream(proxy: Echo, data: Path, accept: str, line: bytes) -> None:
    """Each number arrives before the next one is written."""
    with proxy.connect() as client:
        client.send(get("/data?follow&tail=0", f"Accept: {accept}"))
        status, fields = client.head()
        assert (status, fields.get("transfer-encoding")) == (200, "chunked")
        received = b""
        for number in range(10, 15):
            append(data, b"%d\n" % number)
            while line % number not in received:
                received += client.chunk()
        proxy.program.signal(signal.SIGTERM)
        assert client.chunk() == b""
        assert proxy.program.ended() == 0


def test_a_follower_that_leaves_the_proxy_leaves_echo(proxy: Echo, echo: Echo, data: Path) -> None:
    """echo notices at the next number at the latest, because haproxy treats a closed client as half-closed."""

    def nobody_follows() -> bool:
        append(data, b"11111\n")
        return b'"followers": 0,' in echo.get("/status").body

    with proxy.connect() as client:
        client.send(get("/data?follow&tail=0"))
        assert client.head()[0] == 200
        assert not nobody_follows()
    wait_until(nobody_follows)


def test_head_has_the_fields_of_get(proxy: Echo) -> None:
    with proxy.connect() as client:
        client.send(get("/data", method="HEAD") + get("/data"))
        head, whole = client.response("HEAD"), client.response()
    assert (head.status, whole.status, whole.body) == (200, 200, WHOLE)
    for field in ("content-length", "content-type", "etag", "last-modified", "accept-ranges", "cache-control"):
        assert head.fields.get(field) == whole.fields.get(field)
    assert whole.fields["content-length"] == str(len(WHOLE))


def test_an_unchanged_file_is_304(proxy: Echo) -> None:
    etag = proxy.get().fields["etag"]
    response = proxy.get("/data", f"If-None-Match: {etag}")
    assert (response.status, response.fields["etag"]) == (304, etag)
    assert proxy.get("/data", 'If-None-Match: "x"').status == 200
    assert proxy.get("/data", 'If-Match: "x"').status == 412


@pytest.mark.parametrize(
    ("range", "status", "body"),
    [
        ("bytes=10-19", 206, WHOLE[10:20]),
        ("bytes=-5", 206, WHOLE[-5:]),
        ("bytes=5990-", 206, WHOLE[5990:]),
        ("bytes=6000-", 416, None),
        ("bytes=-0", 416, None),
        ("lines=1-2", 200, WHOLE),
    ],
)
def test_a_range_is_these_bytes(proxy: Echo, range: str, status: int, body: bytes | None) -> None:
    response = proxy.get("/data", f"Range: {range}")
    assert response.status == status
    assert body in (None, response.body)
    if status == 206:
        assert response.fields["content-range"].endswith(f"/{len(WHOLE)}")


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 405)])
def test_expect_100_continue_is_answered(proxy: Echo, method: str, status: int) -> None:
    with proxy.connect() as client:
        client.send(get("/data", "Content-Length: 5", "Expect: 100-continue", method=method))
        if (response := client.response()).status == 100:
            client.send(b"12345")
        while response.status == 100:  # caddy forwards echo's 100 and adds its own (RFC 9110, section 15.2)
            response = client.response()
        assert response.status == status


def test_a_hundred_requests_share_few_connections(proxy: Echo) -> None:
    """The requests follow each other on one connection to the proxy, whatever their responses."""
    targets = [("/data", 200), ("/nothing", 404), ("/data?tail=3", 200), ("/data?tail=x", 400), ("/healthz", 200)]
    with proxy.connect() as client:
        for _ in range(20):
            for target, status in targets:
                client.send(get(target))
                assert client.response().status == status


def test_curl_follows_a_live_range(proxy: Echo, data: Path) -> None:
    """Each number arrives before the next one is written."""
    address = f"http://127.0.0.1:{proxy.port}/data"
    command = [need("curl"), "-sN", "-r", f"{len(WHOLE)}-9007199254740991", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
        try:
            assert curl.stdout
            for number in range(10, 15):
                append(data, b"%d\n" % number)
                assert curl.stdout.readline() == b"%d\n" % number
        finally:
            curl.kill()


@pytest.mark.parametrize("kind", PROXIES)
def test_a_mirror_behind_a_proxy_has_every_number(kind: str, tmp_path: Path) -> None:
    """Rotations lose nothing, even if the proxy answers 200 with the whole segment, not a live range."""
    path = tmp_path / "folder" / "data"
    path.parent.mkdir()
    with (
        generating(path, "--interval", "0.002", "--segment-size", "4096") as generator,
        serving(path) as echo,
        behind(kind, echo, tmp_path) as proxy,
        serving(f"http://127.0.0.1:{proxy.port}/data") as mirror,
    ):
        wait_until(lambda: mirror.get().status == 200)
        first = mirror.get().fields["content-location"]
        wait_until(lambda: mirror.get().fields["content-location"] != first)
        generator.signal(signal.SIGTERM)
        generator.ended()
        names = {first, echo.get().fields["content-location"]}
        for name in names:
            wait_until(lambda name=name: mirror.get(name).body == echo.get(name).body)  # type: ignore[misc]
            here, there = mirror.get(name), echo.get(name)
            assert (here.status, here.fields["etag"]) == (200, there.fields["etag"])
        assert " is not a range of numbers" not in mirror.program.output
