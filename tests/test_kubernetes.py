"""What the looser couplings promise, on a real cluster."""

import contextlib
import json
import signal
import time
from collections.abc import Iterator

import pytest
import requests

import cluster
from cluster import POLL, Signals, client, deployed
from generator.rounds import Numbers
from generator.settings import parse
from support import wait_until

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]
pod_coupling = pytest.mark.coupling("pod")
services_coupling = pytest.mark.coupling("services")
volume_coupling = pytest.mark.coupling("volume")

FAST = {"GENERATOR_INTERVAL": "0.1"}
HUNG = 30  # seconds: 20 for the kubelet to replace who hangs, and what a busy machine adds


@pytest.fixture(scope="module")
def signals() -> Iterator[Signals]:
    with cluster.signals() as sender:
        yield sender


def data(url: str) -> requests.Response:
    response = requests.get(f"{url}/data", timeout=10)
    assert response.status_code == 200, response.text
    return response


def grown(url: str, than: bytes) -> bytes:
    """The data once they are more than these, which they begin with."""

    def more() -> bytes:
        body = data(url).content
        assert len(body) > len(than)
        return body

    body = wait_until(more, every=POLL)
    assert body.startswith(than)
    return body


# A pod


@pod_coupling
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_generator_is_restarted_alone_and_no_request_to_echo_fails(signals: Signals, number: signal.Signals) -> None:
    with (
        deployed("pod", FAST) as space,
        space.forward("pod/appcoup") as url,
        client(space, f"http://{space.pod('appcoup')['status']['podIP']}:8000/data") as asking,
    ):
        before = data(url).content
        signals.send(space, "appcoup", "generator", number)
        space.restarted("appcoup", "generator", within=HUNG)
        grown(url, grown(url, before))
        asking.goes_on()
        assert asking.failures() == []


@pod_coupling
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_without_echo_the_data_file_goes_on_growing(signals: Signals, number: signal.Signals) -> None:
    def written() -> bytes:
        return space.kubectl("exec", "appcoup", "--container=generator", "--", "cat", "/tmp/out/data").encode()

    with deployed("pod", FAST) as space, space.forward("pod/appcoup") as url:
        before = data(url).content
        signals.send(space, "appcoup", "echo", number)
        while_away = written()
        wait_until(lambda: len(written()) > len(while_away), every=POLL)
        space.restarted("appcoup", "echo", within=HUNG)
        assert while_away.startswith(before)
        wait_until(lambda: data(url), every=POLL)  # a port-forward ends with the program that it reached
        grown(url, while_away)


# A volume


@volume_coupling
def test_a_replaced_generator_goes_on_with_the_file_and_echo_is_undisturbed() -> None:
    with deployed("volume", FAST) as space, space.forward("service/echo") as url:
        old, echo = space.pod("generator")["metadata"]["name"], space.pod("echo")["metadata"]["name"]
        with client(space, "http://echo:8000/data") as asking:
            first = data(url)
            with space.log(old, "generator") as log:
                space.kubectl("delete", "pod", old, "--wait=false")
                size = int(log.said(r"^stopped by SIGTERM: .* has (\d+) bytes$")[1])
            left = grown(url, first.content)[:size]
            space.ready("deployment/generator")
            assert space.pod("generator")["metadata"]["name"] != old
            assert len(left) == size
            grown(url, grown(url, left))
            assert data(url).headers["etag"].partition("-")[0] == first.headers["etag"].partition("-")[0]
            asking.goes_on()
            assert asking.failures() == []
        assert space.pod("echo")["metadata"]["name"] == echo
        assert space.restarts("echo") == {"echo": 0}


@volume_coupling
def test_a_second_generator_says_that_the_file_has_a_writer_and_nothing_is_interleaved() -> None:
    """The numbers are those of one generator with this seed, from the first on."""
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

        said = wait_until(last_words, within=60, every=POLL)
        assert said == f"generator: /data/data has a writer already: generator with pid 1 on host {first}"
        body = grown(url, grown(url, data(url).content))
        numbers = Numbers(parse(["--seed", "7"], {}))
        assert body.splitlines() == [numbers.lines(1).strip() for _ in body.splitlines()]


# The end of a pod

WORDS = {  # when it works, and its last ones
    "generator": (r"^writing numbers", r"^stopped by SIGTERM: \d+ numbers written"),
    "adapter": (r"^serving ", r"^stopped: \d+ requests answered"),
    "echo": (r"^serving ", r"^stopped: \d+ requests answered"),
}


@pytest.mark.parametrize(
    "coupling, name",
    [
        pytest.param("pod", "appcoup", marks=pod_coupling),
        pytest.param("services", "generator", marks=services_coupling),
        pytest.param("services", "echo", marks=services_coupling),
        pytest.param("volume", "generator", marks=volume_coupling),
        pytest.param("volume", "echo", marks=volume_coupling),
    ],
)
def test_a_deleted_pod_stops_cleanly_well_inside_its_grace_period(coupling: str, name: str) -> None:
    """Every program in it says its last words and ends with status 0, in less than three quarters of the time."""
    with deployed(coupling, FAST) as space, contextlib.ExitStack() as stack:
        pod = space.pods(name)[0]
        id, containers = pod["metadata"]["name"], [each["name"] for each in pod["spec"]["containers"]]
        states = stack.enter_context(space.watch("pod", id))
        logs = {each: stack.enter_context(space.log(id, each)) for each in containers}
        for container, log in logs.items():
            log.said(WORDS[container][0])

        begun = time.monotonic()
        space.kubectl("delete", "pod", id, "--wait=false")
        for container, log in logs.items():
            log.said(WORDS[container][1])
        took = time.monotonic() - begun
        for log in logs.values():
            assert log.ended() == 0  # with its container
        assert took < pod["spec"]["terminationGracePeriodSeconds"] * 3 / 4
        assert time.monotonic() - begun < pod["spec"]["terminationGracePeriodSeconds"]
        # Before 1.27 the end of a deleted pod's containers is not always told.
        told = [each for line in states.lines for each in json.loads(line)["status"]["containerStatuses"]]
        assert {each["state"]["terminated"]["exitCode"] for each in told if "terminated" in each["state"]} <= {0}
