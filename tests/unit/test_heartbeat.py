"""echo's heartbeat file."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from echo import heartbeat

URL = "http://127.0.0.1:8000"


def test_heartbeat_names_the_url_is_touched_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "echo.alive"
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.001)

    async def until(condition: Callable[[], object]) -> None:
        while not condition():
            await asyncio.sleep(0.001)

    async def live() -> None:
        heartbeat.begin(path, URL)
        assert path.read_text() == f"{URL}\n"
        beating = asyncio.ensure_future(heartbeat.beat(path, URL))
        before = path.stat().st_mtime_ns
        await until(lambda: path.stat().st_mtime_ns > before)
        path.unlink()
        await until(path.exists)
        beating.cancel()

    asyncio.run(asyncio.wait_for(live(), 20))
    assert path.read_text() == f"{URL}\n"


def test_a_heartbeat_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as refused:
        heartbeat.begin(tmp_path, URL)
    assert str(refused.value) == f"cannot write {tmp_path}: Is a directory (--heartbeat, ECHO_HEARTBEAT)"
