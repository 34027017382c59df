"""Chaos: under kills, cuts and stalls no client receives a number twice or misses one without a `gone` event."""

import contextlib
import random
import signal
import time
from pathlib import Path

import pytest

from support import wait_until
from support.replicas import Relay, Replica, Truth, clients, echo_at, started, status_of, temporary_folder
from support.writer import end_of

CLIENTS = 20
SEED = 10
# Intervals and segment sizes: from about one rotation per second to one per millisecond.
PACES = [("0.002", "4096"), ("0.0002", "4096"), ("0.0005", "65536"), ("0", "65536"), ("0", "4096")]


def disturb(replicas: list[Replica], relays: list[Relay], generator: Replica, rng: random.Random, until: float) -> None:
    """Kill, cut and stall until a time of the monotonic clock; then let everything run again."""
    paces = list(PACES)
    rng.shuffle(paces)
    stalled: list[tuple[float, Relay]] = []
    while time.monotonic() < until:
        act = rng.choice(["kill", "kill", "cut", "stall", "pace"])
        if act == "kill":
            replica = rng.choice(replicas)
            replica.kill()
            time.sleep(rng.choice([0, 0, 0.3, 1]))
            replica.start()
        elif act == "cut":
            rng.choice(relays).cut()
        elif act == "stall":
            relay = rng.choice(relays)
            relay.flows.clear()
            stalled.append((time.monotonic() + rng.choice([0.2, 1, 6]), relay))
        else:
            generator.kill()
            paces.append(paces.pop(0))
            interval, size = paces[0]
            generator.command = (*generator.command[:3], "--interval", interval, "--segment-size", size)
            generator.start()
        time.sleep(rng.uniform(0.05, 0.7))
        for due, relay in list(stalled):
            if due < time.monotonic():
                relay.flows.set()
                stalled.remove((due, relay))
    for relay in relays:
        relay.flows.set()


@pytest.mark.timeout(400)
def test_chaos_loses_and_mixes_nothing(tmp_path: Path, effort: int) -> None:
    """Every client ends with the last number, and every `gone` event is true at its replica."""
    path, truth, rng = tmp_path / "folder" / "data", Truth(), random.Random(SEED)
    spools = [tmp_path / name for name in ("folder", "spool", "chain")]
    for folder in spools:
        folder.mkdir()
    environment = temporary_folder(tmp_path / "temporary")
    with contextlib.ExitStack() as stack:
        generator = Replica("generator", "--file", path, "--interval", "0.002", "--segment-size", "4096")
        source = echo_at(path)
        relays = [stack.enter_context(Relay(source.port)) for _ in range(2)]
        spooled = echo_at(relays[0].url, "--spool", spools[1])
        private = echo_at(relays[1].url, env=environment)
        relays.append(stack.enter_context(Relay(spooled.port)))
        chain = echo_at(relays[2].url, "--spool", spools[2])
        echos = [source, spooled, private, chain]
        replicas = [generator, *echos]
        stack.enter_context(started(replicas))
        hoppers = stack.enter_context(clients(truth, [echo.port for echo in echos], CLIENTS, SEED))
        wait_until(lambda: all(hopper.received for hopper in hoppers))
        disturb(replicas, relays, generator, rng, time.monotonic() + 18 * effort)
        assert generator.program
        generator.program.signal(signal.SIGTERM)
        assert generator.program.ended() == 0
        end = end_of(path)
        for echo in echos:
            wait_until(lambda echo=echo: (status_of(echo.port)["stream"], status_of(echo.port)["offset"]) == end, 30)  # type: ignore[misc]
        for hopper in hoppers:
            wait_until(lambda hopper=hopper: truth.faults or hopper.last == end, 30)  # type: ignore[misc]
        gones = sum(len(hopper.gones) for hopper in hoppers)
        unverified = sum(hopper.unverified for hopper in hoppers)
        received, hops = (sum(getattr(hopper, name) for hopper in hoppers) for name in ("received", "hops"))
        print(f"{received} events, {hops} hops, {len(truth.hashes)} ETags; {gones} gones, {unverified} not verified")
        assert not truth.faults, f"{len(truth.faults)} faults, first: {truth.faults[:5]}"
