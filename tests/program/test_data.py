"""/data and /data/STREAM-BASE of a running echo, its settings, signals and stop."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path

import pytest
import requests

from echo.store import MAX_LINE_BYTES
from echo.store.segment import CACHE_BYTES
from support import free_port, need, running, wait_until
from support.disk import fill, small_disk
from support.echo_program import (
    EVENTS,
    Echo,
    Stream,
    append,
    body,
    generating,
    numbers,
    read_all,
    replace,
    serving,
)
from support.segments import OTHER, STREAM, Writer
from support.writer import segments

FIVE_DIGITS = re.compile(rb"(?:[0-9]{5}\n)*")
MEGABYTES = b"12345\n" * 4_000_000  # more than fits into buffers on the way
STOPS = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]


FINISHED, CURRENT = f"/data/{STREAM}-0", f"/data/{STREAM}-600"
LIVE = "9007199254740991"
LIVE_FIELDS = {"incremental": "?1", "x-accel-buffering": "no", "cache-control": "no-store"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def writer(data: Path) -> Writer:
    return Writer(data)


@pytest.fixture(scope="module", params=[1000, CACHE_BYTES], ids=["small", "large"])
def whole(request: pytest.FixtureRequest) -> bytes:
    """The current segment."""
    return numbers(request.param)


@pytest.fixture(scope="module")
def echo(whole: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Echo]:
    """An echo with two segments that do not change."""
    folder = tmp_path_factory.mktemp("static")
    writer = Writer(folder / "data")
    writer.append(numbers(100))
    writer.rotate(whole)
    (folder / "secret").write_bytes(b"1\n")
    os.utime(writer.file, (1e9, 1e9))
    with serving(folder / "data", "--stale", "0") as echo:
        yield echo


# What is answered


def test_get_is_the_whole_file(echo: Echo, whole: bytes) -> None:
    response = echo.get()
    assert response.status_code == 200
    assert response.content == whole
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["content-length"] == str(len(whole))
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-location"] == CURRENT
    assert response.headers["etag"] == f'"{STREAM}-600-{len(whole)}"'
    assert parsedate_to_datetime(response.headers["last-modified"]).timestamp() == 1e9
    assert abs(parsedate_to_datetime(response.headers["date"]).timestamp() - time.time()) < 5
    assert "server" not in response.headers


def test_head_has_the_headers_of_get_and_no_body(echo: Echo) -> None:
    head, get = requests.head(f"{echo.url}/data"), echo.get()
    assert (head.status_code, head.content) == (200, b"")
    for response in (head, get):
        del response.headers["date"]
    assert head.headers == get.headers


@pytest.mark.parametrize("path", ["/data", "/data?tail=3", "/data?x", "/healthz", "/readyz", "/nothing"])
def test_head_never_has_a_body(echo: Echo, path: str) -> None:
    """Read the raw bytes, because a client library would hide a body."""
    headers = 'Host: x\r\nIf-Match: "x"\r\nConnection: close\r\n\r\n'
    answer = echo.raw(f"HEAD {path} HTTP/1.1\r\n{headers}".encode())
    assert answer.startswith(b"HTTP/1.1 ")
    assert b"\r\ncontent-length: " in answer
    assert answer.endswith(b"\r\n\r\n")


def test_head_ignores_a_range(echo: Echo, whole: bytes) -> None:
    """RFC 9110, 14.2: ranges are defined for GET only."""
    head = requests.head(f"{echo.url}/data", headers={"Range": "bytes=0-1"})
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(whole)))


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("0-0", 0, 1),
        ("0-", 0, None),
        ("7-1000", 7, 1001),
        ("100-99999999999", 100, None),
        ("-1", -1, None),
        ("-600", -600, None),
        ("-99999999999", 0, None),
        ("3-5999", 3, 6000),
    ],
)
def test_a_range_is_these_bytes(echo: Echo, whole: bytes, asked: str, start: int, stop: int | None) -> None:
    response = echo.get(range=f"bytes={asked}")
    expected = whole[start:stop]
    first = len(whole) + start if start < 0 else start
    assert response.status_code == 206
    assert response.content == expected
    assert response.headers["content-length"] == str(len(expected))
    assert response.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/{len(whole)}"


def test_a_range_after_the_end_is_416_with_the_size(echo: Echo, whole: bytes) -> None:
    response = echo.get(range=f"bytes={len(whole)}-")
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{len(whole)}"
    assert response.text == f"there are {len(whole)} bytes\n"


@pytest.mark.parametrize("asked", ["bytes=5-4", "bytes=0-1,3-4", "lines=0-1", "bytes=x"])
def test_a_range_that_is_not_for_it_is_ignored(echo: Echo, whole: bytes, asked: str) -> None:
    response = echo.get(range=asked)
    assert (response.status_code, response.content) == (200, whole)


def test_what_the_client_has_already_is_not_modified(echo: Echo) -> None:
    first = echo.get()
    for headers in (
        {"if_none_match": first.headers["etag"]},
        {"if_none_match": f'"x", W/{first.headers["etag"]}'},
        {"if_none_match": "*"},
        {"if_modified_since": first.headers["last-modified"]},
    ):
        response = echo.get(**headers)
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == first.headers["etag"]
    assert echo.get(if_none_match='"x"').status_code == 200
    assert echo.get(if_modified_since=formatdate(1e9 - 1, usegmt=True)).status_code == 200


def test_a_precondition_that_fails_is_412_with_the_etag_of_now(echo: Echo) -> None:
    etag = echo.get().headers["etag"]
    for headers in ({"if_match": '"x"'}, {"if_unmodified_since": formatdate(1e9 - 1, usegmt=True)}):
        response = echo.get(**headers)
        assert (response.status_code, response.headers["etag"]) == (412, etag)
        assert response.text == f"the ETag is {etag} now\n"
    assert echo.get(if_match=etag).status_code == 200


@pytest.mark.parametrize("count", [0, 1, 3, 999, 1000, 500_000, 10**16 - 1])
def test_tail_is_the_last_lines(echo: Echo, whole: bytes, count: int) -> None:
    response = echo.get(f"/data?tail={count}")
    assert response.status_code == 200
    assert response.content == (whole[-6 * count :] if count else b"")
    assert "etag" not in response.headers


@pytest.mark.parametrize("query", ["tail=", "tail=-1", "tail=x", "tail=1&tail=2", "lines=3", "%FF", "tail=%00"])
def test_an_unknown_query_is_400_and_says_what_there_is(echo: Echo, query: str) -> None:
    response = echo.get(f"/data?{query}")
    assert response.status_code == 400
    assert "tail=" in response.text


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE"])
@pytest.mark.parametrize("path", ["/data", "/healthz", "/readyz"])
def test_other_methods_are_405_with_allow(echo: Echo, method: str, path: str) -> None:
    response = requests.request(method, echo.url + path, data="1" * 100)
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(
    "path",
    [
        *("/secret", "/../secret", "/data.1", "//data", "/DATA"),
        *("/%2e%2e/secret", "/..%2fsecret", "/data%00", "/./data", "/data;x", "/favicon.ico", "/a%0d%0ab"),
    ],
)
def test_nothing_else_is_served(echo: Echo, path: str) -> None:
    answer = echo.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert body(answer).startswith(b"unknown path '")
    assert body(answer).endswith(b": use one of /, /data, /status, /metrics, /healthz, /readyz\n")


MALFORMED = {
    "no HTTP": b"HELLO\r\n\r\n",
    "a method alone": b"GET\r\n\r\n",
    "an unknown method": b"FETCH /data HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown version": b"GET /data HTTP/9.9\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
    "zeros": bytes(100),
    "a header without a colon": b"GET /data HTTP/1.1\r\nHost x\r\n\r\n",
    "a space in a header's name": b"GET /data HTTP/1.1\r\nHo st: x\r\n\r\n",
    "a length that is none": b"GET /data HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
    "two lengths": b"GET /data HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a path that is no ASCII": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "a chunk that is none": b"POST /data HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("request_", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_request_is_refused_and_echo_lives_on(echo: Echo, request_: bytes) -> None:
    answer = echo.raw(request_)
    assert re.match(rb"HTTP/1\.1 (400|501|505) ", answer)
    assert echo.get("/healthz").status_code == 200


def test_a_head_without_end_is_not_read_for_ever(echo: Echo) -> None:
    with echo.connect() as client, pytest.raises(OSError):
        client.sendall(b"GET /data HTTP/1.1\r\nHost: x\r\nX: ")
        for _ in range(10_000):
            client.sendall(b"1" * 10_000)
    assert echo.get("/healthz").status_code == 200


def test_a_header_that_comes_twice_is_one_list(echo: Echo) -> None:
    """RFC 9110, 5.3."""
    etag = echo.get().headers["etag"].encode()
    for first, second in ((etag, b'"x"'), (b'"x"', etag)):
        lists = b"If-None-Match: %s\r\nIf-None-Match: %s\r\n" % (first, second)
        answer = echo.raw(b"GET /data HTTP/1.1\r\nHost: x\r\n%sConnection: close\r\n\r\n" % lists)
        assert answer.startswith(b"HTTP/1.1 304 ")


def test_pipelined_requests_are_answered_in_order(echo: Echo, whole: bytes) -> None:
    row = b"".join(b"GET /data HTTP/1.1\r\nHost: x\r\nRange: bytes=%d-%d\r\n\r\n" % (n, n + 9) for n in range(50))
    answers = echo.raw(row + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    places = [answers.find(b"\r\n\r\n" + whole[n : n + 10]) for n in range(50)]
    assert -1 not in places
    assert places == sorted(places)
    assert answers.endswith(b"\r\n\r\nalive\n")


@pytest.mark.serial
def test_answers_do_not_wait_for_acknowledgements(echo: Echo) -> None:
    """With Nagle's algorithm and delayed acknowledgements each would take 40 ms."""
    taken = []
    with requests.Session() as session:
        for _ in range(50):
            began = time.monotonic()
            session.get(f"{echo.url}/data?tail=10")
            taken.append(time.monotonic() - began)
    assert sorted(taken)[25] < 0.03


def test_http_1_0_is_spoken(echo: Echo, whole: bytes) -> None:
    assert body(echo.raw(b"GET /data HTTP/1.0\r\n\r\n")) == whole


# A file that comes, grows and goes


def test_before_the_first_number_it_is_503_with_retry_after(data: Path) -> None:
    with serving(data) as echo:
        for content, words in ((None, "does not exist yet"), (b"", "has no number yet"), (b"12", "has no number yet")):
            if content is not None:
                data.write_bytes(content)
            for path in ("/data", "/data?tail=1", "/readyz"):
                response = echo.get(path)
                assert (response.status_code, response.headers["retry-after"]) == (503, "1")
                assert response.text == f"{data} {words}\n"
            assert echo.get("/healthz").status_code == 200
        append(data, b"\n")
        assert echo.get().content == b"12\n"
        assert echo.get("/readyz").status_code == 200


def test_a_name_that_is_no_utf_8_is_told_all_the_same(tmp_path: Path) -> None:
    with serving(tmp_path / "\udcff") as echo:
        assert echo.get().status_code == 503


def test_ready_is_fresh(data: Path) -> None:
    data.write_bytes(b"1\n")
    with serving(data, "--stale", "60") as echo:
        response = echo.get("/readyz")
        assert response.status_code == 200
        assert re.fullmatch(r"ready: the newest number is \d+\.\d s old\n", response.text)
        os.utime(data, (time.time() - 61, time.time() - 61))
        response = echo.get("/readyz")
        assert response.status_code == 503
        assert re.fullmatch(r"stale: the newest number is 6\d\.\d s old, more than 60 s\n", response.text)
        assert echo.get("/data").status_code == 200
        assert echo.get("/healthz").text == "alive\n"
        append(data, b"2\n")
        assert echo.get("/readyz").status_code == 200
        data.unlink()
        assert echo.get("/readyz").text == f"{data} does not exist yet\n"


def test_stale_0_is_never_stale(data: Path) -> None:
    data.write_bytes(b"1\n")
    os.utime(data, (0, 0))
    with serving(data, "--stale", "0") as echo:
        assert echo.get("/readyz").status_code == 200


def test_an_older_etag_is_resumed_until_the_next_segment(data: Path, writer: Writer) -> None:
    writer.append(numbers(1000))
    with serving(data) as echo:
        older = echo.get().headers["etag"]
        writer.append(b"1\n2\n")
        response = echo.get(range="bytes=6000-", if_range=older)
        assert (response.status_code, response.content) == (206, b"1\n2\n")
        assert response.headers["etag"] == older.replace("-6000", "-6004")
        writer.rotate(numbers(2000))
        response = echo.get(range="bytes=6000-", if_range=older)
        assert (response.status_code, response.content) == (200, numbers(2000))
        response = echo.get(FINISHED, range="bytes=6000-", if_range=older)
        assert (response.status_code, response.content) == (206, b"1\n2\n")


def test_a_plain_file_is_another_stream_once_it_was_changed(data: Path) -> None:
    """A plain file keeps its name only while it grows."""
    data.write_bytes(numbers(1000))
    with serving(data) as echo:
        names = [echo.get().headers["content-location"]]
        assert re.fullmatch("/data/[0-9a-f]{8}-0", names[0])
        for change in ("replace", "truncate"):
            older = echo.get().headers["etag"]
            append(data, b"1\n2\n")
            response = echo.get(range="bytes=600-", if_range=older)
            assert response.status_code == 206
            assert response.headers["content-location"] == names[-1]
            if change == "replace":
                replace(data, numbers(2000))
            else:
                os.truncate(data, 600)
            response = echo.get(range="bytes=600-", if_range=older)
            assert (response.status_code, response.content) == (200, data.read_bytes())
            names.append(response.headers["content-location"])
        assert len(set(names)) == 3
        assert echo.get(names[0]).status_code == 410


def test_no_last_modified_in_the_second_of_the_change(data: Path) -> None:
    """Later changes within the same second would get the same date."""
    data.write_bytes(b"1\n")
    with serving(data) as echo:
        ahead = time.time() + 3600
        os.utime(data, (ahead, ahead))
        assert "last-modified" not in echo.get().headers
        os.utime(data, (1e9, 1e9))
        assert "last-modified" in echo.get().headers


def test_a_file_truncated_to_nothing_is_not_served_from_memory(data: Path) -> None:
    data.write_bytes(b"1\n2\n")
    with serving(data) as echo:
        before = echo.get().headers["etag"]
        os.truncate(data, 0)
        for _ in range(2):
            assert echo.get().status_code == 503
        append(data, b"1\n2\n3\n")
        assert echo.get(range="bytes=2-", if_range=before).status_code == 200


def test_a_file_truncated_in_a_download_ends_that_download_alone(data: Path) -> None:
    data.write_bytes(MEGABYTES)
    with serving(data) as echo, echo.connect() as client:
        client.sendall(b"GET /data HTTP/1.1\r\nHost: x\r\n\r\n")
        received = client.recv(1000)
        os.truncate(data, 6)
        received += read_all(client)
        assert MEGABYTES.startswith(body(received))
        assert echo.get().content == b"12345\n"


def test_a_client_that_goes_away_does_no_harm(data: Path) -> None:
    data.write_bytes(MEGABYTES)
    with serving(data) as echo:
        for _ in range(20):
            with echo.connect() as client:
                client.sendall(b"GET /data HTTP/1.1\r\nHost: x\r\n\r\n")
                client.recv(1000)
        descriptors = f"/proc/{echo.program.pid}/fd"
        wait_until(lambda: sum("socket" in os.readlink(f"{descriptors}/{fd}") for fd in os.listdir(descriptors)) < 5)
        assert echo.get("/data?tail=1").status_code == 200
        assert "Traceback" not in echo.program.output


CLIENTS = {
    "curl": "curl --silent --show-error --fail --noproxy * -C - -o FILE URL",
    "wget": "wget --quiet --no-proxy -c -O FILE URL",
    "aria2c": "aria2c --quiet --no-conf --no-proxy=* --allow-overwrite=false -c -x4 -k1M -d FOLDER -o NAME URL",
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_segment_is_resumed_to_its_bytes_across_a_rotation(data: Path, client: str) -> None:
    """At the segment's own address; on /data these clients would mix two segments."""
    need(client)
    copy = data.with_name("copy")
    limit = 20_000
    with generating(data, "--interval", "0.001", "--segment-size", f"{limit}B") as generator, serving(data) as echo:
        address = echo.get().headers["content-location"]
        words = {"FILE": str(copy), "URL": echo.url + address, "FOLDER": str(data.parent), "NAME": "copy"}
        command = [words.get(word, word) for word in CLIENTS[client].split()]
        size, finished = 0, False
        while not finished:
            finished = "link" in requests.head(echo.url + address).headers
            fetched = subprocess.run(command, timeout=20, capture_output=True, text=True)
            # aria2c refuses to resume a file that has grown. The bytes it has stay valid.
            assert fetched.returncode == 0 or client == "aria2c", fetched
            assert echo.get(address).content.startswith(copy.read_bytes())
            size = copy.stat().st_size
            if not finished and size > 6000 and client != "aria2c":
                os.truncate(copy, size - 100)  # as if it had been cut off within a line
        assert generator.process.poll() is None
        if fetched.returncode:
            copy.unlink()
            subprocess.run(command, timeout=20, check=True)
        expected = echo.get(address)
        assert len(expected.content) > limit // 2
        assert copy.read_bytes() == expected.content


def test_curl_does_not_fetch_what_its_etag_says_it_has(data: Path) -> None:
    need("curl")
    data.touch()
    etag, copy = str(data.with_name("etag")), data.with_name("copy")
    Path(etag).touch()
    command = ["curl", "-sf", "--noproxy", "*", "--etag-save", etag, "--etag-compare", etag, "-w", "%{http_code}"]
    with serving(data) as echo:
        for content, code in ((b"1\n", "200"), (b"1\n", "304"), (b"1\n2\n", "200"), (b"1\n2\n", "304")):
            if code == "200":
                append(data, content[data.stat().st_size :])
            last = subprocess.run([*command, "-o", copy, f"{echo.url}/data"], capture_output=True, check=True)
            assert (last.stdout.decode(), copy.read_bytes()) == (code, content)


@pytest.mark.parametrize("limit", ["0", "64K"])
def test_same_stream_and_offset_are_the_same_bytes(data: Path, limit: str) -> None:
    """The generator writes as fast as it can; no response ends inside a line."""
    flags = ["--interval", "0", "--count", "2000000", "--segment-size", limit]
    known: dict[str, bytes] = {}
    growths, ended, segment = 0, False, ""
    with serving(data) as echo, generating(data, *flags) as generator, requests.Session() as session:
        while not ended:
            ended = generator.process.poll() is not None
            before = known.get(segment, b"")
            headers = {"Range": f"bytes={len(before)}-", "If-Range": f'"{segment}-{len(before)}"'} if before else {}
            response = session.get(f"{echo.url}/data", headers=headers)
            if response.status_code != 416:
                assert FIVE_DIGITS.fullmatch(response.content)
                segment, _, size = response.headers["etag"].strip('"').rpartition("-")
                before = known.get(segment, b"")
                seen = before * (response.status_code == 206) + response.content
                assert seen.startswith(before) and len(seen) == int(size)
                growths += len(before) < len(seen)
                known[segment] = seen
            tail = session.get(f"{echo.url}/data?tail=10").content
            assert len(tail) % 6 == 0 and FIVE_DIGITS.fullmatch(tail)
        assert generator.ended() == 0
        wait_until(lambda: echo.get().content == data.read_bytes())
    assert growths >= 3
    assert len(known) == 1 if limit == "0" else len(known) >= 10


# Segments by their address


def test_a_current_segment_is_the_same_as_data(echo: Echo, whole: bytes) -> None:
    response, data = echo.get(CURRENT), echo.get()
    assert (response.status_code, response.content) == (200, whole)
    for name in ("etag", "last-modified", "content-type", "accept-ranges", "cache-control"):
        assert response.headers[name] == data.headers[name]
    assert "link" not in response.headers
    assert echo.get(CURRENT, range="bytes=6-11").content == whole[6:12]
    assert echo.get(CURRENT, if_none_match=data.headers["etag"]).status_code == 304


def test_a_finished_segment_names_the_next_and_is_cached(echo: Echo) -> None:
    response = echo.get(FINISHED)
    assert (response.status_code, response.content) == (200, numbers(100))
    assert response.headers["etag"] == f'"{STREAM}-0-600"'
    assert response.headers["link"] == f'<{CURRENT}>; rel="next"'
    assert response.headers["cache-control"] == "max-age=31536000, immutable"
    partial = echo.get(FINISHED, range="bytes=594-")
    assert (partial.status_code, partial.content) == (206, b"00099\n")
    assert partial.headers["cache-control"] == "max-age=31536000, immutable"


@pytest.mark.parametrize(
    "name",
    [
        *("", "secret", "../secret", f"{STREAM}-1", f"{STREAM}-601", f"{STREAM}-00", f"{STREAM}-", f"{OTHER}-0"),
        *(f"{STREAM.upper()}-0", f"{STREAM}-0-600", f"{STREAM}-{'9' * 17}", f"{STREAM}-0/", f"{STREAM}.{0:016}"),
    ],
)
def test_an_unknown_segment_is_404_and_names_the_current_one(echo: Echo, name: str) -> None:
    answer = echo.raw(f"GET /data/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert body(answer).endswith(f": the current one is {CURRENT}\n".encode())


@pytest.mark.parametrize("query", ["tail=1", "follow", "x"])
def test_a_segment_takes_no_query(echo: Echo, query: str) -> None:
    assert echo.get(f"{CURRENT}?{query}").status_code == 400


def test_a_segment_that_is_no_longer_kept_is_410(data: Path, writer: Writer) -> None:
    writer.append(b"1\n")
    first = writer.file
    with serving(data) as echo:
        writer.rotate(b"2\n")
        assert echo.get(FINISHED).content == b"1\n"
        first.unlink()
        wait_until(lambda: echo.get(FINISHED).status_code == 410)
        assert echo.get(FINISHED).text == f"segment {STREAM}-0 is no longer kept: the oldest is {STREAM}-2\n"


# Live ranges (RFC 8673)


@pytest.mark.parametrize("last", [LIVE, "9" * 16, "9" * 19, "9" * 40])
@pytest.mark.parametrize("path", ["/data", f"/data/{STREAM}-0"])
def test_a_live_range_is_every_byte_as_it_comes(data: Path, writer: Writer, path: str, last: str) -> None:
    writer.append(b"10\n20\n30\n")
    with serving(data) as echo, Stream(echo.url, path, {"Range": f"bytes=4-{last}"}) as stream:
        stream.has(b"0\n30\n")
        response = stream.response
        assert response.status_code == 206
        assert response.headers["content-range"] == f"bytes 4-{last}/*"
        assert response.headers["transfer-encoding"] == "chunked"
        assert LIVE_FIELDS.items() <= {name.lower(): value for name, value in response.headers.items()}.items()
        assert response.headers["etag"] == f'"{STREAM}-0-9"'
        writer.append(b"40\n5")
        stream.has(b"0\n30\n40\n")
        writer.append(b"0\n")
        stream.has(b"0\n30\n40\n50\n")
        writer.append(b"60\n")
        writer.rotate(b"70\n")
        assert stream.ended()
        assert stream.content == b"0\n30\n40\n50\n60\n"
        assert echo.status()["followers"] == 0


def test_a_live_range_of_a_finished_segment_ends_with_it(echo: Echo) -> None:
    with Stream(echo.url, FINISHED, {"Range": f"bytes=588-{LIVE}"}) as stream:
        assert stream.ended()
        assert stream.content == b"00098\n00099\n"
    with Stream(echo.url, FINISHED, {"Range": f"bytes=600-{LIVE}"}) as stream:
        assert stream.ended()
        assert (stream.response.status_code, stream.content) == (206, b"")
    response = echo.get(FINISHED, range=f"bytes=601-{LIVE}")
    assert (response.status_code, response.headers["content-range"]) == (416, "bytes */600")


def test_a_live_range_of_much_is_all_of_it(data: Path, writer: Writer) -> None:
    """It is larger than the socket's buffer, and another request is answered meanwhile."""
    writer.append(MEGABYTES)
    with serving(data) as echo, echo.ask("/data", f"Range: bytes=6-{LIVE}") as client:
        client.recv(100)
        with Stream(echo.url, "/data", {"Range": f"bytes=12-{LIVE}"}) as stream:
            wait_until(lambda: len(stream.content) == len(MEGABYTES) - 12)
            writer.append(b"99999\n")
            wait_until(lambda: len(stream.content) == len(MEGABYTES) - 6)
            writer.rotate(b"1\n")
            assert stream.ended()
            assert stream.content == MEGABYTES[12:] + b"99999\n"


def test_a_live_range_ahead_of_this_replica_is_waited_for(data: Path, writer: Writer) -> None:
    writer.append(b"10\n")
    with serving(data) as echo, echo.ask("/data", f"Range: bytes=6-{LIVE}") as client:
        assert echo.status()["offset"] == 3  # answered after the first request, which therefore waits
        writer.append(b"20\n")
        writer.append(b"30\n")
        response = http.client.HTTPResponse(client)
        response.begin()
        assert response.status == 206
        writer.rotate(b"40\n")
        assert response.read() == b"30\n"


def test_a_live_range_that_stays_ahead_is_503(data: Path, writer: Writer) -> None:
    writer.append(b"10\n")
    with serving(data) as echo:
        began = time.monotonic()
        response = echo.get(range=f"bytes=6-{LIVE}")
        assert 9.5 < time.monotonic() - began < 15
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.text == f"this replica has not received {STREAM}-6 within 10 s\n"


def test_a_live_range_over_http_1_0_has_no_chunks(data: Path, writer: Writer) -> None:
    writer.append(b"10\n20\n")
    with serving(data) as echo, echo.ask("/data", f"Range: bytes=3-{LIVE}", version="1.0") as client:
        head = client.recv(4096)
        writer.append(b"30\n")
        writer.rotate(b"40\n")
        answer = head + read_all(client)
        assert b"transfer-encoding" not in answer
        assert body(answer) == b"20\n30\n"


def test_curl_follows_a_segment_by_a_live_range(data: Path, writer: Writer) -> None:
    writer.append(b"10\n20\n")
    command = [need("curl"), "--silent", "--no-buffer", "--range", f"3-{LIVE}"]
    with serving(data) as echo, running([*command, f"{echo.url}/data"]) as curl:
        curl.wait_for_log("^20$")
        writer.append(b"30\n")
        curl.wait_for_log("^30$")
        writer.rotate(b"40\n")
        assert curl.ended() == 0
        assert curl.lines == ["20", "30"]


def test_a_stop_ends_a_live_range_cleanly(data: Path, writer: Writer) -> None:
    writer.append(b"10\n")
    with serving(data) as echo, Stream(echo.url, "/data", {"Range": f"bytes=0-{LIVE}"}) as stream:
        stream.has(b"10\n")
        echo.program.signal(signal.SIGTERM)
        assert stream.ended()
        stream.response.close()
        assert echo.program.ended() == 0


# What is no file of numbers, and a disk that is full


def test_the_longest_line_is_served_everywhere(data: Path) -> None:
    line = b"7" * (MAX_LINE_BYTES - 1)
    data.write_bytes(b"1\n" + line + b"\n")
    with serving(data) as echo:
        for path in ("/data", "/data?tail=2"):
            assert echo.get(path).content == data.read_bytes()
        with Stream(echo.url) as text, Stream(echo.url, "", EVENTS) as events:
            text.has(data.read_bytes())
            events.numbers_are(f"1 {line.decode()}")


@pytest.mark.parametrize("length", [MAX_LINE_BYTES + 1, 65536, 200_000])
@pytest.mark.parametrize("after", [b"", b"\n2\n"], ids=["torn", "whole"])
def test_a_line_that_is_too_long_is_503_everywhere(data: Path, length: int, after: bytes) -> None:
    data.write_bytes(b"1\n" + b"7" * length + after)
    with serving(data) as echo:
        for path in ("/data", "/data?tail=1", "/data?follow", "/data?follow&tail=0", "/readyz"):
            for headers in ({}, EVENTS):
                response = requests.get(echo.url + path, headers=headers)
                assert response.status_code == 503, path
                assert "this is not a file of numbers" in response.text
        assert "not a file of numbers" in str(echo.status()["problem"])


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_503_and_said(data: Path, make: object) -> None:
    """It is created after the start, because the start refuses a folder."""
    with serving(data) as echo:
        make(data)  # type: ignore[operator]
        for path in ("/data", "/data?follow", "/readyz"):
            response = echo.get(path)
            assert (response.status_code, response.text) == (503, f"{data} is not a regular file\n")


def test_a_full_disk_does_not_look_fresh_and_recovers(tmp_path: Path) -> None:
    """After the data were removed: an open descriptor would keep the disk full."""
    with (
        small_disk(tmp_path) as disk,
        generating(disk / "data", "--interval", "0.01") as generator,
        serving(disk / "data", "--stale", "0.5") as echo,
    ):
        wait_until(lambda: echo.get("/readyz").status_code == 200)
        fill(disk, 0)
        wait_until(lambda: echo.get("/readyz").status_code == 503)
        assert "stale" in echo.get("/readyz").text
        age = echo.status()["age"]
        assert isinstance(age, float) and age > 0.5
        for file in segments(disk / "data"):
            (disk / "data").with_name(file.file_name("data")).unlink()
        (disk / "data").unlink()
        wait_until(lambda: echo.get("/readyz").status_code == 200, within=30)
        assert generator.process.poll() is None


# Signals and the end


@pytest.mark.serial
@pytest.mark.parametrize("stop", STOPS)
def test_a_stop_is_prompt_and_with_status_0(data: Path, stop: signal.Signals) -> None:
    """A client holds an idle connection meanwhile."""
    data.write_bytes(b"1\n")
    with serving(data) as echo, requests.Session() as session:
        session.get(f"{echo.url}/data")
        assert echo.stop(stop) < 0.5
        assert echo.program.lines[-2:] == [f"{stop.name}: stopping", "stopped: 1 requests answered"]


def begin_download(echo: Echo) -> tuple[socket.socket, bytes]:
    client = echo.connect()
    client.sendall(b"GET /data HTTP/1.1\r\nHost: x\r\n\r\n")
    return client, client.recv(1000)


def take(client: socket.socket, received: bytes, content: bytes) -> bytes:
    """Read until the content has arrived or the connection has ended."""
    pieces = [received]
    missing = len(content) - len(body(received))
    while missing > 0 and (piece := client.recv(2**20)):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def test_downloads_in_flight_at_a_stop_arrive_whole(data: Path) -> None:
    """Fifty responses of several megabytes; /readyz says meanwhile that echo is stopping."""
    whole = numbers(CACHE_BYTES // 2)
    data.write_bytes(whole)
    with serving(data, "--stop-timeout", "60") as echo, contextlib.ExitStack() as open_clients:
        downloads = [begin_download(echo) for _ in range(50)]
        for client, _ in downloads:
            open_clients.enter_context(client)
        echo.program.signal(signal.SIGTERM)
        echo.program.wait_for_log("^SIGTERM: stopping$")

        assert (echo.get("/readyz").status_code, echo.get("/readyz").text) == (503, "stopping\n")
        assert echo.get("/data?follow").status_code == 503
        assert echo.get("/healthz").status_code == 200
        for client, beginning in downloads:
            assert body(take(client, beginning, whole)) == whole
            client.close()
        assert echo.program.ended() == 0
        assert "cut" not in echo.program.output


def test_a_stalled_download_is_cut_off_at_the_stop_timeout(data: Path) -> None:
    data.write_bytes(MEGABYTES)
    with serving(data, "--stop-timeout", "0.5") as echo:
        client, _ = begin_download(echo)
        with client:
            assert 0.5 <= echo.stop() < 1.5
        echo.program.wait_for_log(r"^cut off 1 response\(s\) after 0.5 s$")


def test_a_second_signal_ends_it_at_once(data: Path) -> None:
    data.write_bytes(MEGABYTES)
    with serving(data, "--stop-timeout", "60") as echo:
        client, _ = begin_download(echo)
        with client:
            echo.program.signal(signal.SIGTERM)
            echo.program.wait_for_log("^SIGTERM: stopping$")
            assert echo.stop(signal.SIGINT) < 1


def test_hup_usr1_and_usr2_are_answered_and_change_nothing_else(data: Path) -> None:
    data.write_bytes(b"1\n")
    with serving(data) as echo:
        etag = echo.get().headers["etag"]
        echo.program.signal(signal.SIGHUP)
        echo.program.wait_for_log(f"^SIGHUP: reopening {re.escape(str(data))}$")
        assert echo.get().headers["etag"] == etag
        echo.program.signal(signal.SIGUSR1)
        echo.program.wait_for_log("^SIGUSR1: [0-9]+ connections, 0 of them followers, 2 requests answered$")
        echo.program.signal(signal.SIGUSR2)
        echo.program.wait_for_log("^SIGUSR2: logging every request$")
        echo.get("/nothing")
        echo.program.wait_for_log("^127.0.0.1 GET '/nothing' 404$")
        echo.program.signal(signal.SIGUSR2)
        echo.program.wait_for_log("^SIGUSR2: no longer logging every request$")
        echo.get("/healthz")
        echo.stop()
        assert "/healthz" not in echo.program.output


def test_without_usr2_requests_are_not_logged(data: Path) -> None:
    with serving(data) as echo:
        for path in ("/data", "/nothing", "/healthz"):
            echo.get(path)
        echo.raw(b"HELLO\r\n\r\n")
        echo.stop()
        assert len(echo.program.lines) == 3


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
def test_both_families_are_served(data: Path) -> None:
    data.write_bytes(b"1\n")
    with serving(data, at="[::]:0") as echo:
        for host in ("127.0.0.1", "[::1]"):
            assert requests.get(f"http://{host}:{echo.port}/data").content == b"1\n"


def test_environment_variables_are_settings_too(data: Path) -> None:
    data.write_bytes(b"1\n")
    environment = {"ECHO_SOURCE": str(data), "ECHO_LISTEN": "127.0.0.1:0", "ECHO_STOP_TIMEOUT": ""}
    environment["ECHO_STALL_TIMEOUT"] = "1e308"  # more than any integer
    environment |= {"ECHO_PORT": "tcp://10.0.0.1:8000", "ECHO_SERVICE_HOST": "10.0.0.1", "ECHO_PORT_8000_TCP": "x"}
    with running([sys.executable, "-m", "echo"], environment) as program:
        port = program.wait_for_log("^serving .*:([0-9]+)/data$")[1]
        assert requests.get(f"http://127.0.0.1:{port}/data").content == b"1\n"


# What is refused


def refusal(folder: Path, status: int, *flags: str, environment: Mapping[str, str] | None = None) -> str:
    """Run an echo that refuses to start; return its one line of output."""
    before = sorted(os.listdir(folder))
    with running([sys.executable, "-m", "echo", *flags], environment, folder) as program:
        assert program.ended() == status, program.output
    (line,) = program.lines
    assert line.startswith("echo: ")
    assert sorted(os.listdir(folder)) == before
    return line


def test_a_wrong_setting_is_refused(tmp_path: Path) -> None:
    words = "unknown environment variable ECHO_STALLE: use one of ECHO_FOLLOWERS, ECHO_HEARTBEAT,"
    assert words in refusal(tmp_path, 2, environment={"ECHO_STALLE": "1"})


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        line = refusal(tmp_path, 1, "--listen", f"127.0.0.1:{port}")
    assert line == f"echo: cannot listen on 127.0.0.1:{port}: address already in use (--listen, ECHO_LISTEN)"


def test_a_host_that_is_not_known_is_said(tmp_path: Path) -> None:
    line = refusal(tmp_path, 1, "--listen", "host.invalid:8000")
    assert re.fullmatch(r"echo: cannot listen on host.invalid:8000: [a-z ]+ \(--listen, ECHO_LISTEN\)", line)


def test_an_address_of_another_machine_is_said(tmp_path: Path) -> None:
    line = refusal(tmp_path, 1, "--listen", "192.0.2.1:8000")
    assert line == "echo: cannot listen on 192.0.2.1:8000: cannot assign requested address (--listen, ECHO_LISTEN)"
