"""Thousands of slow, idle and stalled clients, and one honest client."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import ROOT, wait_until
from support.wire import Echo, allow_descriptors, numbers, serving, wait_for_idle

MIB = 2**20
SLOW, IDLE, STALLED = 1000, 2000, 300
REQUESTS = 200
P99_SECONDS = 0.05
NOISE = 10  # times as long on a machine that does other things too
LINES = numbers(100_000)


def time_requests(echo: Echo) -> list[float]:
    """Return the seconds that requests took, in ascending order."""
    taken = []
    for _ in range(REQUESTS):
        began = time.monotonic()
        response = echo.get("/data?tail=10")
        taken.append(time.monotonic() - began)
        assert (response.status, response.body) == (200, LINES[-60:])
    return sorted(taken)


@pytest.mark.serial
def test_hostile_clients_in_thousands_do_no_harm(tmp_path: Path) -> None:
    """echo stays below 96 MiB and answers the honest client; afterwards its memory does not grow."""
    data = tmp_path / "data"
    with data.open("wb") as file:
        for _ in range(167):
            file.write(LINES)
    allow_descriptors(2 * (SLOW + IDLE + STALLED))
    with serving(data, "--followers", "1000") as echo:
        echo.get("/data?tail=10")
        peaks = []
        for _ in range(2):
            opened = echo.descriptors()
            command = [sys.executable, str(ROOT / "bench" / "hostile_clients.py")]
            counts = map(str, (echo.port, SLOW, IDLE, STALLED))
            with subprocess.Popen(
                [*command, *counts], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as clients:
                try:
                    assert clients.stderr and clients.stderr.readline() == "ready\n"
                    taken = time_requests(echo)
                    peaks.append(echo.peak_rss())
                    _, rest = clients.communicate("", timeout=20)
                    assert rest.startswith("0 of ")
                finally:
                    clients.kill()
            print(f"p50 {taken[REQUESTS // 2] * 1000:.1f} ms, p99 {taken[REQUESTS * 99 // 100 - 1] * 1000:.1f} ms")
            assert taken[REQUESTS * 99 // 100 - 1] < NOISE * P99_SECONDS
            wait_until(lambda opened=opened: echo.descriptors() <= opened)  # type: ignore[misc]
        assert max(peaks) < 96 * MIB
        assert peaks[1] < peaks[0] + 4 * MIB
        wait_for_idle(echo)
        assert echo.serves()
