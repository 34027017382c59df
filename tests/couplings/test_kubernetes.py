"""Tests of the Kubernetes couplings, on a real cluster."""

import contextlib
import functools
import json
import re
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from generator.numbers import Numbers
from support import cluster, wait_until
from support.cluster import POLL, Namespace, Signals, client, deployed, manifest
from support.couplings import Federation, federated, self_signed

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]
volume_coupling = pytest.mark.coupling("volume")
MARKS = {
    "pod": [pytest.mark.coupling("pod")],
    "pod-sidecar": [pytest.mark.coupling("pod-sidecar"), pytest.mark.sidecar],
    "services": [pytest.mark.coupling("services")],
    "volume": [volume_coupling],
    "federation": [pytest.mark.coupling("federation"), pytest.mark.federation],
}
in_pod, in_sidecar, in_services, in_volume, in_federation = (
    pytest.mark.parametrize("launched", [pytest.param(name, marks=marks)], indirect=True)
    for name, marks in MARKS.items()
)
either_pod = pytest.mark.parametrize("kind", [pytest.param(name, marks=MARKS[name]) for name in ("pod", "pod-sidecar")])
Launched = Namespace | Federation

FAST = {"GENERATOR_INTERVAL": "0.1"}
HUNG = 30  # seconds: 20 for the kubelet to replace a hung program, and 10 for a busy machine


@pytest.fixture(scope="module")
def signals() -> Iterator[Signals]:
    with cluster.signals() as sender:
        yield sender


@pytest.fixture(scope="module")
def launched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """Deploy a coupling for all tests that leave it as it was. Only one is deployed at a time."""
    if request.param == "federation":
        with federated(tmp_path_factory.mktemp("federation")) as both:
            yield both
    else:
        with deployed(request.param, FAST) as space:
            yield space


@pytest.fixture
def single(launched: Launched) -> Namespace:
    assert isinstance(launched, Namespace)
    return launched


@pytest.fixture
def federation(launched: Launched) -> Federation:
    assert isinstance(launched, Federation)
    return launched


def data(url: str) -> requests.Response:
    response = requests.get(f"{url}/data", timeout=10)
    assert response.status_code == 200, response.text
    return response


def grown(url: str, than: bytes) -> bytes:
    """Wait until echo serves more than `than`, and return the data, which begin with it."""

    def more() -> bytes:
        body = data(url).content
        assert len(body) > len(than)
        return body

    body = wait_until(more, every=POLL)
    assert body.startswith(than)
    return body


# The end of a pod

WORDS = {  # by container: the log line once it works, and the last one
    "generator": (r"^writing numbers", r"^stopped by SIGTERM: \d+ numbers written"),
    "adapter": (r"^serving ", r"^stopped: \d+ requests answered"),
    "echo": (r"^serving ", r"^stopped: \d+ requests answered"),
}


def stops_cleanly(space: Namespace, name: str) -> None:
    """Delete a pod. Assert that all its containers log their end and exit with 0, within 3/4 of the grace period."""
    with contextlib.ExitStack() as stack:
        pod = space.pods(name)[0]
        id, containers = pod["metadata"]["name"], [each["name"] for each in cluster.containers(pod["spec"])]
        states = stack.enter_context(space.watch("pod", id))
        logs = {each: stack.enter_context(space.log(id, each)) for each in containers}
        for container, log in logs.items():
            log.wait_for_log(WORDS[container][0])

        begun = time.monotonic()
        space.kubectl("delete", "pod", id, "--wait=false")
        for container, log in logs.items():
            log.wait_for_log(WORDS[container][1])
        took = time.monotonic() - begun
        for log in logs.values():
            assert log.ended() == 0  # the log ends with its container
        assert took < pod["spec"]["terminationGracePeriodSeconds"] * 3 / 4
        assert time.monotonic() - begun < pod["spec"]["terminationGracePeriodSeconds"]
        # Before 1.27, the API does not always show how a deleted pod's containers ended.
        ends = [each for line in states.lines for each in cluster.statuses(json.loads(line))]
        assert {each["state"]["terminated"]["exitCode"] for each in ends if "terminated" in each["state"]} <= {0}


# A pod


@either_pod
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_only_the_generator_is_restarted_and_echo_serves_on(
    signals: Signals, number: signal.Signals, kind: str
) -> None:
    with (
        deployed(kind, FAST) as space,
        space.forward("pod/appcoup") as url,
        client(space, f"http://{space.pod('appcoup')['status']['podIP']}:8000/data") as asking,
    ):
        before = data(url).content
        signals.send(space, "appcoup", "generator", number)
        space.restarted("appcoup", "generator", within=HUNG)
        grown(url, grown(url, before))
        asking.wait_for_requests()
        assert asking.failures() == []


@either_pod
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_without_echo_the_data_file_still_grows(signals: Signals, number: signal.Signals, kind: str) -> None:
    def written() -> bytes:
        return space.kubectl("exec", "appcoup", "--container=generator", "--", "cat", "/tmp/out/data").encode()

    with deployed(kind, FAST) as space, space.forward("pod/appcoup") as url:
        before = data(url).content
        signals.send(space, "appcoup", "echo", number)
        while_away = written()
        wait_until(lambda: len(written()) > len(while_away), every=POLL)
        space.restarted("appcoup", "echo", within=HUNG)
        assert while_away.startswith(before)
        wait_until(lambda: data(url), every=POLL)  # the port-forward ended with the killed program
        grown(url, while_away)


@in_pod
def test_a_deleted_pod_stops_cleanly(single: Namespace) -> None:
    stops_cleanly(single, "appcoup")


@in_sidecar
def test_a_deleted_pod_with_a_sidecar_stops_cleanly(single: Namespace) -> None:
    stops_cleanly(single, "appcoup")


# A volume


@volume_coupling
def test_a_replaced_generator_continues_the_file() -> None:
    """Its pod is deleted. No request to echo fails, and echo does not restart."""
    with deployed("volume", FAST) as space, space.forward("service/echo") as url:
        old, echo = space.pod("generator")["metadata"]["name"], space.pod("echo")["metadata"]["name"]
        with client(space, "http://echo:8000/data") as asking:
            first = data(url)
            with space.log(old, "generator") as log:
                space.kubectl("delete", "pod", old, "--wait=false")
                size = int(log.wait_for_log(r"^stopped by SIGTERM: .* has (\d+) bytes$")[1])
            left = grown(url, first.content)[:size]
            space.ready("deployment/generator")
            assert space.pod("generator")["metadata"]["name"] != old
            assert len(left) == size
            grown(url, grown(url, left))
            assert data(url).headers["content-location"] == first.headers["content-location"]
            asking.wait_for_requests()
            assert asking.failures() == []
        assert space.pod("echo")["metadata"]["name"] == echo
        assert space.restarts("echo") == {"echo": 0}


@volume_coupling
def test_a_second_generator_ends_and_writes_nothing() -> None:
    """It says that the file has a writer. All numbers are those of one generator with this seed."""
    with deployed("volume", {**FAST, "GENERATOR_SEED": "7"}) as space, space.forward("service/echo") as url:
        first = space.pod("generator")["metadata"]["name"]
        space.kubectl("scale", "deployment/generator", "--replicas=2")

        def last_words() -> str:
            (second,) = [pod for pod in space.pods("generator") if pod["metadata"]["name"] != first]
            (status,) = second["status"].get("containerStatuses") or [{"lastState": {}, "state": {}}]
            ended = status["state"].get("terminated") or status["lastState"].get("terminated")
            assert ended, second["status"]
            assert ended["exitCode"] == 1
            return str(ended["message"]).strip()

        message = wait_until(last_words, within=60, every=POLL)
        assert message == f"generator: /data/data already has a writer: generator with pid 1 on host {first}"
        body = grown(url, grown(url, data(url).content))
        numbers = Numbers(0, 32767, 7)
        assert body.splitlines() == [numbers.lines(1).strip() for _ in body.splitlines()]


@in_volume
@pytest.mark.parametrize("name", ["generator", "echo"])
def test_a_deleted_pod_with_a_volume_stops_cleanly(single: Namespace, name: str) -> None:
    stops_cleanly(single, name)


# Services


def load(space: Namespace) -> contextlib.AbstractContextManager[cluster.Client]:
    """Send 100 requests a second to the Service: nine for the last number, then one for all."""
    return client(space, *["http://echo:8000/data?tail=1"] * 9, "http://echo:8000/data", every=0.01, workers=10)


@contextlib.contextmanager
def each_echo(space: Namespace) -> Iterator[list[str]]:
    """Forward a port to every replica of echo. Yields the addresses."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(space.forward(f"pod/{pod['metadata']['name']}")) for pod in space.pods("echo")]


def segment(url: str) -> str:
    return data(url).headers["content-location"]


def status(url: str) -> dict[str, Any]:
    answer: dict[str, Any] = requests.get(f"{url}/status", timeout=10).json()
    return answer


def is_away(url: str) -> bool:
    return bool(status(url)["mirror"]["state"] == "away")


@in_services
def test_no_request_fails_while_echo_is_scaled_and_restarted(single: Namespace) -> None:
    single.settled("echo", 2)
    before = {pod["metadata"]["name"] for pod in single.pods("echo")}
    with load(single) as asking:
        for replicas in (3, 2):
            single.kubectl("scale", "deployment/echo", f"--replicas={replicas}")
            single.settled("echo", replicas)
        single.kubectl("rollout", "restart", "deployment/echo")
        single.settled("echo", 2)
        asking.wait_for_requests()
        assert asking.failures() == []
        assert asking.rate() > 90
        print(asking.account())
    assert before.isdisjoint(pod["metadata"]["name"] for pod in single.pods("echo"))


@in_services
def test_every_replica_has_the_same_bytes_under_the_same_etag(single: Namespace) -> None:
    """A replica that is behind reaches the other's size, and then accepts its ETag."""

    def by_its_etag(url: str, there: requests.Response) -> bytes:
        headers = {"Range": f"bytes=0-{len(there.content) - 1}", "If-Range": there.headers["etag"]}
        answer = requests.get(f"{url}/data", headers=headers, timeout=10)
        assert answer.status_code == 206
        return answer.content

    single.settled("echo", 2)
    with each_echo(single) as (one, other), single.forward("service/generator") as source:
        for asked, there in [(one, data(other)), (other, data(one)), (source, data(one)), (source, data(other))]:
            assert wait_until(functools.partial(by_its_etag, asked, there), every=POLL) == there.content


@in_services
def test_echo_serves_without_generator_then_follows_the_next(single: Namespace) -> None:
    """The generator's pod is removed, and its successor is deleted, too. No answer mixes two streams."""
    single.settled("echo", 2)
    addresses = [f"http://{pod['status']['podIP']}:8000/data" for pod in single.pods("echo")]
    with each_echo(single) as urls, client(single, *addresses, "http://echo:8000/data") as asking:

        def all_follow(former: str) -> str:
            """Wait until all replicas have the source's segment, not `former`. Return it."""

            def now() -> str:
                there = data(source)
                for url in urls:
                    assert segment(url) == segment(source) != former
                    assert there.content.startswith(data(url).content[: len(there.content)])
                return segment(source)

            with single.forward("service/generator") as source:
                return wait_until(now, within=60, every=POLL)

        first = segment(urls[0])
        single.kubectl("scale", "deployment/generator", "--replicas=0")
        single.settled("generator", 0)
        for url in urls:
            assert wait_until(functools.partial(is_away, url), every=POLL)
            assert requests.get(f"{url}/readyz", timeout=10).status_code == 200
            assert data(url).content == data(urls[0]).content
            assert segment(url) == first
        single.kubectl("scale", "deployment/generator", "--replicas=1")
        second = all_follow(first)
        single.kubectl("delete", "pod", single.pod("generator")["metadata"]["name"], "--wait=false")
        all_follow(second)
        asking.wait_for_requests()
        assert asking.failures() == []
    single.settled("generator", 1)


@in_services
@pytest.mark.parametrize("name", ["generator", "echo"])
def test_a_deleted_pod_of_a_service_stops_cleanly(single: Namespace, name: str) -> None:
    single.settled("echo", 2)
    stops_cleanly(single, name)


# A federation


@in_federation
@pytest.mark.link
def test_a_cut_link_is_reported_and_the_mirror_catches_up(federation: Federation) -> None:
    """For 20 s, the second cluster still serves, is ready, and says how old its data are."""
    first, second = federation.first, federation.second
    second.settled("echo", 2)
    with (
        first.forward("service/echo") as source,
        each_echo(second) as urls,
        client(second, "http://echo:8000/data") as asking,
    ):
        before = data(urls[0]).content
        with cluster.link_cut():
            for url in urls:
                found = wait_until(functools.partial(stale_status, url), within=60, every=POLL)
                assert found["problem"] is None
                assert found["mirror"]["problem"] == "does not answer"
                ready = requests.get(f"{url}/readyz", timeout=10)
                assert ready.status_code == 200
                assert re.match(
                    r"ready: the newest number is \d\d\.\d s old, and the source is away: does not answer", ready.text
                )
        there, mended = data(source), time.monotonic()
        assert len(there.content) > len(before)

        def caught_up() -> bool:
            for url in urls:
                assert data(url).content.startswith(there.content)
                assert not is_away(url)
            return True

        wait_until(caught_up, within=6, every=POLL)
        print(f"caught up {time.monotonic() - mended:.1f} s after the link was mended")
        assert there.content.startswith(before)
        asking.wait_for_requests()
        assert asking.failures() == []
        print(asking.account())


def stale_status(url: str) -> dict[str, Any]:
    """Return the status. Assert that the newest number is over 20 s old, and the source away for about as long."""
    response = requests.get(f"{url}/status", timeout=10)
    found: dict[str, Any] = response.json()
    assert found["age"] > 20
    heard = datetime.fromisoformat(found["mirror"]["heard"])
    away = (parsedate_to_datetime(response.headers["date"]) - heard).total_seconds()
    assert abs(away - found["age"]) < 2.5
    return found


@in_federation
@pytest.mark.parametrize(
    "wrong, words",
    [
        ("token", r"401: the token is missing or wrong: .*"),
        ("ca.crt", r"self[- ]signed certificate.*|unable to get local issuer certificate"),
    ],
    ids=["token", "authority"],
)
def test_a_wrong_secret_is_one_log_line_and_can_be_replaced(
    federation: Federation, tmp_path: Path, wrong: str, words: str
) -> None:
    """The right secret needs no restart."""
    refusal = rf"^{federation.source}: (?:{words}); trying again$"
    other = {"token": "wrong", "ca.crt": self_signed(tmp_path, cluster.address())[0]}
    with cluster.namespace(cluster.second) as space, contextlib.ExitStack() as stack:
        federation.couple(space, **{wrong: other[wrong]})
        space.ask_for(*manifest("federation"))
        pods = wait_until(lambda: running_pods(space), every=POLL)
        logs = [stack.enter_context(space.log(pod, "echo")) for pod in pods]
        for log in logs:
            log.wait_for_log(refusal)
        for pod in pods:
            with space.forward(f"pod/{pod}") as url:
                assert requests.get(f"{url}/healthz", timeout=10).status_code == 200
                refused = requests.get(f"{url}/readyz", timeout=10)
                assert (refused.status_code, bool(re.search(words, refused.text))) == (503, True)
                assert requests.get(f"{url}/data", timeout=10).status_code == 503
        space.ask_for(cluster.secret("upstream", **federation.secrets))
        for pod in pods:  # else the kubelet takes a minute to notice
            space.kubectl("annotate", "pod", pod, "secret=right")
        space.ready("deployment/echo")
        for pod, log in zip(pods, logs, strict=True):
            log.wait_for_log(f"^following {federation.source}$")
            assert len(re.findall(refusal, log.output, re.MULTILINE)) == 1
            (container,) = space.get(f"pod/{pod}")["status"]["containerStatuses"]
            assert container["restartCount"] == 0


def running_pods(space: Namespace) -> list[str]:
    """Return the names of echo's pods once both run, else an empty list."""
    pods = [pod for pod in space.pods("echo") if pod["status"]["phase"] == "Running"]
    return [pod["metadata"]["name"] for pod in pods] if len(pods) == 2 else []


@in_federation
def test_a_deleted_pod_of_the_edge_stops_cleanly(federation: Federation) -> None:
    stops_cleanly(federation.first, "edge")


@in_federation
def test_a_deleted_pod_of_the_second_cluster_stops_cleanly(federation: Federation) -> None:
    stops_cleanly(federation.second, "echo")
