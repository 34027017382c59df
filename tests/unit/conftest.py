"""A fixture that makes fake supervisords."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from supervisor import events
from supervisor.states import SupervisorStates

from support.fake_supervisord import Clock, FakeSupervisord, Make


@pytest.fixture
def supervise(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Return a function that makes a fake supervisord. Its keyword arguments are the programs."""
    clock = Clock()
    monkeypatch.setattr(time, "time", clock.time)
    made: list[FakeSupervisord] = []

    def make(**programs: dict[str, Any]) -> FakeSupervisord:
        made.append(FakeSupervisord(clock, **programs))
        return made[-1]

    yield make
    monkeypatch.undo()
    for each in made:
        each.plugin.output.streams.clear()
        # During a shutdown, close_logger would end the test process.
        each.plugin.verdict, each.options.mood = "", SupervisorStates.RUNNING
        each.plugin.close_logger()
    events.clear()
