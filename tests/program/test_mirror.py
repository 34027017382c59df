"""Mirrors as processes: they serve the same bytes under the same names as their source, whatever happens to it."""

import contextlib
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from support import wait_until
from support.replicas import Relay, Replica, Truth, clients, echo_at, generating, started, status_of, temporary_folder
from support.wire import Echo, serving

SPEEDY = ("--interval", "0.002", "--segment-size", "4096")  # a rotation every 1.4 s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "data"


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


@contextlib.contextmanager
def still(path: Path, *flags: str) -> Iterator[Echo]:
    """Run an echo on 1000 numbers; the generator has ended."""
    with generating(path, "--interval", "0", "--count", "1000", "--seed", "1") as generator:
        generator.ended()
    with serving(path, *flags) as echo:
        yield echo


def url(echo: Echo | Replica) -> str:
    return f"http://127.0.0.1:{echo.port}/data"


def wait_for_same(mirror: Echo | Replica, source: Echo | Replica) -> None:
    """Wait until both serve the same bytes under the same names."""

    def same() -> bool:
        here, there = (requests.get(url(each), timeout=5) for each in (mirror, source))
        names = ("ETag", "Content-Location", "Content-Type", "Accept-Ranges")
        return here.status_code == 200 and all(
            (here.content == there.content, *(here.headers.get(name) == there.headers.get(name) for name in names))
        )

    wait_until(same)


def readiness(echo: Echo | Replica) -> str:
    return requests.get(f"http://127.0.0.1:{echo.port}/readyz", timeout=5).text


def mirror_status(echo: Echo | Replica) -> dict[str, object]:
    status = status_of(echo.port)["mirror"]
    assert isinstance(status, dict)
    return status


def check(truth: Truth) -> None:
    assert not truth.faults, truth.faults[:5]


# Equality with the source


def test_a_mirror_serves_the_same_bytes_under_the_same_names(path: Path) -> None:
    with still(path) as source, serving(url(source)) as mirror:
        wait_for_same(mirror, source)
        name = source.get().fields["content-location"]
        here, there = mirror.get(name), source.get(name)
        assert (here.status, here.body, here.fields["etag"]) == (200, there.body, there.fields["etag"])
        assert status_of(mirror.port)["offset"] == status_of(source.port)["offset"]
        part = mirror.get("/data", "Range: bytes=0-99", f"If-Range: {there.fields['etag']}")
        assert (part.status, part.body) == (206, there.body[:100])


def test_a_chain_serves_the_same_and_lists_its_path(path: Path) -> None:
    with still(path) as source, serving(url(source)) as mirror, serving(url(mirror)) as chain:
        wait_for_same(chain, source)
        assert not source.get().fields.get("via")
        assert chain.get().fields["via"].count("1.1 ") == 2
        paths = [mirror_status(each)["via"] for each in (mirror, chain)]
        assert paths[0] == paths[1][:1] and len(paths[1]) == 2  # type: ignore[index, arg-type]


def test_a_loop_is_refused_with_a_message() -> None:
    first = echo_at("http://127.0.0.1:1/data")
    second = echo_at(first.url)
    first.command = ("echo", "--source", second.url, *first.command[3:])
    with started([first, second]):
        for each in (first, second):
            each.echo.program.wait_for_log(r"is a loop: it mirrors this echo through .*; trying again")
            assert each.echo.get().status == 503


def test_followers_hop_between_replicas_without_loss(path: Path) -> None:
    truth = Truth()
    with (
        generating(path, *SPEEDY) as generator,
        serving(path) as source,
        serving(url(source)) as mirror,
        serving(url(mirror)) as chain,
    ):
        wait_for_any(chain)
        with clients(truth, [source.port, mirror.port, chain.port], 6) as hoppers:
            wait_until(lambda: truth.faults or all(hopper.received > 3000 for hopper in hoppers), 60)
            generator.signal(signal.SIGTERM)
            generator.ended()
            end = (status_of(source.port)["stream"], status_of(source.port)["offset"])
            wait_until(lambda: truth.faults or all(hopper.last == end for hopper in hoppers))
        assert not [hopper.gones for hopper in hoppers if hopper.gones]
    check(truth)


def wait_for_any(echo: Echo | Replica) -> None:
    wait_until(lambda: requests.get(url(echo), timeout=5).status_code == 200)


def test_fast_rotations_lose_nothing_without_gone(path: Path) -> None:
    """The generator runs at full speed: one segment every few milliseconds."""
    truth = Truth()
    with (
        generating(path, "--interval", "0", "--segment-size", "65536") as generator,
        serving(path) as source,
        serving(url(source)) as mirror,
    ):
        wait_for_any(mirror)
        with clients(truth, [source.port, mirror.port], 4) as hoppers:
            deadline = time.monotonic() + 4
            wait_until(lambda: truth.faults or time.monotonic() > deadline)
            generator.signal(signal.SIGTERM)
            generator.ended()
            wait_for_same(mirror, source)
            end = (status_of(source.port)["stream"], status_of(source.port)["offset"])
            wait_until(lambda: truth.faults or all(hopper.last == end for hopper in hoppers))
        print(f"{sum(len(hopper.gones) for hopper in hoppers)} gones, {len(truth.contents)} segments")
    check(truth)


# Sources that are away or change


def test_a_mirror_serves_on_while_its_source_is_away(path: Path) -> None:
    source = echo_at(path)
    with generating(path, "--interval", "0.01"), started([source]), serving(source.url) as mirror:
        wait_for_any(mirror)
        assert wait_until(lambda: "ready: the newest number is" in readiness(mirror))
        source.kill()
        wait_until(lambda: "the source is away: Connection refused" in readiness(mirror))
        before = mirror.get()
        assert before.status == 200 and mirror_status(mirror)["state"] == "away"
        source.start()
        wait_until(lambda: "away" not in readiness(mirror))
        wait_until(lambda: len(mirror.get().body) > len(before.body))
        assert mirror.get().body.startswith(before.body)
        refusals = [line for line in mirror.program.lines if "Connection refused; trying again" in line]
        assert len(refusals) == 1


def test_a_source_that_is_silent_is_asked_again(path: Path) -> None:
    with generating(path, *SPEEDY), serving(path) as source, Relay(source.port) as relay, serving(relay.url) as mirror:
        wait_for_any(mirror)
        relay.flows.clear()
        mirror.program.wait_for_log("does not answer; trying again")
        relay.flows.set()
        wait_until(lambda: mirror_status(mirror)["state"] == "following")
        wait_until(lambda: mirror.get().fields["content-location"] == source.get().fields["content-location"])


def test_rotations_while_the_link_was_cut_lose_nothing(path: Path) -> None:
    """The source keeps all these segments."""
    with (
        generating(path, *SPEEDY, "--keep", "4") as generator,
        serving(path) as source,
        Relay(source.port) as relay,
        serving(relay.url) as mirror,
    ):
        wait_for_any(mirror)
        began = mirror.get().fields["content-location"]
        relay.flows.clear()
        relay.cut()
        wait_until(lambda: source.get().fields["content-location"] != began)
        middle = source.get().fields["content-location"]
        wait_until(lambda: source.get().fields["content-location"] != middle)
        generator.signal(signal.SIGTERM)
        generator.ended()
        relay.flows.set()
        relay.cut()
        wait_for_same(mirror, source)
        kept = [str(name) for name in status_of(mirror.port)["segments"]]  # type: ignore[attr-defined]
        assert {began.rpartition("/")[2], middle.rpartition("/")[2]} <= set(kept)
        for name in kept:
            assert mirror.get(f"/data/{name}").body == source.get(f"/data/{name}").body
        assert mirror.get(f"/data/{kept[0]}").fields["link"] == f'</data/{kept[1]}>; rel="next"'


def test_a_mirror_misses_only_what_its_source_dropped(path: Path) -> None:
    with (
        generating(path, *SPEEDY, "--keep", "2") as generator,
        serving(path) as source,
        Relay(source.port) as relay,
        serving(relay.url) as mirror,
    ):
        wait_for_any(mirror)
        relay.flows.clear()
        relay.cut()
        began = mirror.get().fields["content-location"]
        wait_until(lambda: source.get(began).status == 410)
        generator.signal(signal.SIGTERM)
        generator.ended()
        relay.flows.set()
        relay.cut()
        wait_for_same(mirror, source)
        wait_until(lambda: status_of(mirror.port)["segments"] == status_of(source.port)["segments"])


def test_a_new_stream_is_followed_after_gone(path: Path) -> None:
    truth = Truth()
    source = echo_at(path)
    with started([source]), serving(source.url) as mirror:
        with generating(path, *SPEEDY):
            wait_for_any(mirror)
            stream = status_of(mirror.port)["stream"]
        with clients(truth, [mirror.port], 3) as hoppers:
            wait_until(lambda: all(hopper.received for hopper in hoppers))
            shutil.rmtree(path.parent)
            path.parent.mkdir()
            with generating(path, *SPEEDY):
                wait_until(lambda: status_of(mirror.port)["stream"] not in (stream, None))
                new = status_of(mirror.port)["stream"]
                wait_until(lambda: truth.faults or all(hopper.last[0] == new for hopper in hoppers if hopper.last))
            assert [{position[0] for position in hopper.gones} for hopper in hoppers] == [{stream}] * 3
        wait_for_same(mirror, source)
    check(truth)


# The mirror's folder


def test_a_restarted_mirror_keeps_numbers_and_age(path: Path, spool: Path) -> None:
    with still(path) as source:
        mirror = echo_at(url(source), "--spool", spool)
        with started([mirror]):
            wait_for_same(mirror, source)
    with started([mirror]):
        before = wait_until(lambda: status_of(mirror.port))
        wait_until(lambda: mirror_status(mirror)["state"] == "away")
        assert mirror.echo.get().body == path.read_bytes()
        age = time.time() - path.stat().st_mtime
        assert abs(float(str(status_of(mirror.port)["age"])) - age) < 2
        assert before["offset"] == path.stat().st_size
        assert "the source is away" in readiness(mirror)


def test_a_folder_is_for_one_mirror(path: Path, spool: Path) -> None:
    with still(path) as source, serving(url(source), "--spool", str(spool)) as mirror:
        wait_for_same(mirror, source)
        other = echo_at(url(source), "--spool", spool)
        with started([other]):
            assert other.program and other.program.ended() == 2
            assert other.program.lines == [f"echo: --spool (ECHO_SPOOL): {spool} is in use by another echo"]
        assert mirror.serves()


def test_a_private_folder_is_removed_with_the_mirror(path: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    with still(path) as source:
        mirror = echo_at(url(source), env=temporary_folder(temporary))
        with started([mirror]):
            wait_for_same(mirror, source)
            assert list(temporary.iterdir())
            assert mirror.program
            mirror.program.signal(signal.SIGTERM)
            assert mirror.program.ended() == 0
    assert not list(temporary.iterdir())


# Tokens and certificates


def test_a_token_is_sent_and_read_again_after_sighup(path: Path, tmp_path: Path) -> None:
    token, shown = tmp_path / "token", tmp_path / "shown"
    token.write_text("right\n")
    shown.write_text("wrong\n")
    with (
        generating(path, "--interval", "0.01"),
        serving(path, "--token-file", str(token)) as source,
        serving(url(source), "--source-token-file", str(shown)) as mirror,
    ):
        mirror.program.wait_for_log(r"401: the token is missing or wrong: .*ECHO_SOURCE_TOKEN_FILE.*; trying again")
        assert (source.get().status, mirror.get().status) == (401, 503)
        shown.write_text("right\n")
        mirror.program.signal(signal.SIGHUP)
        wait_for_any(mirror)
        token.write_text("other\n")
        source.program.signal(signal.SIGHUP)
        wait_until(lambda: source.get("/data", "Authorization: Bearer other").status == 200)
        shown.write_text("other\n")
        mirror.program.signal(signal.SIGHUP)
        size = len(mirror.get().body)
        wait_until(lambda: len(mirror.get().body) > size and mirror_status(mirror)["state"] == "following")


def certificate(folder: Path, name: str) -> tuple[str, str]:
    """Make a self-signed certificate for 127.0.0.1. Return its path and its key's."""
    cert, key = str(folder / f"{name}.crt"), str(folder / f"{name}.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def test_the_mirror_verifies_the_source_s_certificate(path: Path, tmp_path: Path) -> None:
    """The authority is wrong at first and right after SIGHUP."""
    cert, key = certificate(tmp_path, "source")
    authority = tmp_path / "authority"
    shutil.copy(certificate(tmp_path, "other")[0], authority)
    with still(path, "--tls-cert", cert, "--tls-key", key) as source:
        secure = f"https://127.0.0.1:{source.port}/data"
        with serving(secure) as stranger, serving(secure, "--source-ca", str(authority)) as mirror:
            for each in (stranger, mirror):
                each.program.wait_for_log("self-signed certificate; trying again")
                assert each.get().status == 503
            shutil.copy(cert, authority)
            mirror.program.signal(signal.SIGHUP)
            wait_for_any(mirror)
            assert mirror.get().body == requests.get(secure, verify=cert, timeout=5).content
            assert stranger.get().status == 503


# Sources that are not echos

PLAIN = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
ANSWERS = {
    "503": ("HTTP/1.1 503 x\r\nContent-Length: 14\r\n\r\nno number yet\n", "503: no number yet"),
    "page": ("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>", "names no segment"),
    "redirect": (
        "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n",
        "302: cannot follow redirects: set --source (ECHO_SOURCE) to the echo's own address",
    ),
    "400": ("HTTP/1.1 400 x\r\nContent-Length: 0\r\n\r\n", "400: not an echo's /data"),
    "no HTTP": ("220 mail.example.org ESMTP\r\n", "the connection was closed or is not HTTP"),
    "text": (f"{PLAIN}Content-Length: 2\r\n\r\n7\n", "names no segment"),
    "no numbers": (
        f'{PLAIN}Content-Location: /data/5f3a9c21-0\r\nETag: "5f3a9c21-0-6"\r\nContent-Length: 6\r\n\r\n12x\n5\n',
        "the data is not one number per line",
    ),
    "endless line": (
        f"{PLAIN}Content-Location: /data/5f3a9c21-0\r\nContent-Length: 9000\r\n\r\n{'7' * 9000}",
        "a line has more than 4096 bytes",
    ),
    "endless head": (f"{PLAIN}X: {'x' * 70_000}\r\n\r\n", "is not HTTP"),
}


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Run a server that sends `answer` to each request and closes; yield its URL and the requests."""
    asked: list[bytes] = []

    def answer_all() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with contextlib.suppress(OSError), client:
                    asked.append(client.recv(65536))
                    client.sendall(answer)
                    client.shutdown(socket.SHUT_WR)
                    client.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_all, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/data", asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_source_that_is_not_an_echo_is_logged_once(kind: str) -> None:
    answer, words = ANSWERS[kind]
    with answering(answer.encode()) as (address, asked), serving(address) as mirror:
        wait_until(lambda: len(asked) >= 4)
        refusals = [line for line in mirror.program.lines if line.endswith("; trying again")]
        assert len(refusals) == 1 and words in refusals[0] and refusals[0].startswith(f"{address}: ")
        assert mirror.get().status == 503
        assert mirror.serves()
