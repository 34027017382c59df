"""Tests of programs' states with supervisord's own process classes and a fake clock, for exact times."""

import itertools

import pytest

from support.fake_supervisord import FakeSupervisord, Make

WEB = {"depends_on": "db:ready"}


def starts(run: FakeSupervisord, name: str) -> int:
    """Return how often a program was started."""
    return int(run.process(name).pid1.starts)


def test_states_from_waiting_to_ready(supervise: Make) -> None:
    run = supervise(db={}, web=WEB)
    run.run(0)
    assert run.states() == {"db": "starting", "web": "waiting"}
    run.run(1.1)
    assert run.states() == {"db": "ready", "web": "starting"}
    run.run(1.1)
    assert run.states() == {"db": "ready", "web": "ready"}


@pytest.mark.parametrize("state", ["started", "ready", "exited"])
def test_a_program_waits_for_the_state_of_its_dependency(supervise: Make, state: str) -> None:
    run = supervise(db={"ready": "/nowhere/file", "startsecs": 5}, web={"depends_on": f"db:{state}"})
    run.run(6)
    assert run.states()["web"] == ("starting" if state == "started" else "waiting")
    run.end("db", 0)
    run.run(0.1)
    assert run.states()["db"] == "done"
    assert starts(run, "web") == 1


def test_failed_starts_double_the_delay_up_to_its_maximum(supervise: Make) -> None:
    run = supervise(web={"startretries": -1})
    times = []
    for count in range(1, 10):
        run.run(0)
        while starts(run, "web") < count:
            run.run(0.01)
        times.append(run.clock.now)
        run.end("web", 1)
        run.run(0)
    pauses = [round(later - time, 1) for time, later in itertools.pairwise(times)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_good_run_resets_the_delay(supervise: Make) -> None:
    run = supervise(web={})
    run.run(0)
    for _ in range(2):
        run.end("web", 1)
        run.run(1.5)
    assert starts(run, "web") == 3
    run.run(2)
    assert run.states() == {"web": "ready"}
    run.end("web", 1)
    run.run(0)
    assert starts(run, "web") == 4


@pytest.mark.parametrize(
    ("keys", "status", "state"),
    [
        ({"autorestart": "false"}, 0, "done"),
        ({"autorestart": "unexpected"}, 0, "done"),
        ({"autorestart": "true"}, 0, "backoff"),
        ({"autorestart": "false"}, 1, "backoff"),
        ({"autorestart": "unexpected", "give_up_on": "7"}, 7, "failed"),
        ({"autorestart": "false", "exitcodes": [3]}, 3, "done"),
        ({"autorestart": "unexpected", "startretries": 0}, -9, "failed"),
    ],
)
def test_the_state_after_a_quick_end(supervise: Make, keys: dict[str, object], status: int, state: str) -> None:
    run = supervise(web=keys, side={})
    run.run(0)
    run.end("web", status)
    run.run(0)
    assert run.states()["web"] == state


@pytest.mark.parametrize(("status", "state"), [(0, "done"), (1, "failed")])
def test_a_late_end_without_autorestart_is_final(supervise: Make, status: int, state: str) -> None:
    run = supervise(web={"autorestart": "false"}, side={})
    run.run(5)
    run.end("web", status)
    run.run(0)
    assert run.states()["web"] == state
    assert run.plugin.status == status


def test_a_failure_fails_direct_and_indirect_dependants(supervise: Make) -> None:
    run = supervise(db={"give_up_on": "2"}, api={"depends_on": "db:ready"}, web={"depends_on": "api:ready"})
    run.run(0)
    run.end("db", 2)
    run.run(0)
    assert run.states() == {"db": "failed", "api": "failed", "web": "failed"}
    assert run.plugin.status == 2
    logged = [line for line in run.options.logger.calls if "cannot start" in line]
    assert logged == [
        "cannot start api: it depends on db, which failed",
        "cannot start web: it depends on api, which failed",
    ]


def test_waiting_after_the_delay_does_not_spin(supervise: Make) -> None:
    run = supervise(db={}, web={**WEB, "autorestart": "true"})
    run.run(3)
    run.process("db").stop()
    run.end("db", -15)
    run.end("web", 1)
    run.run(1)
    assert run.states() == {"db": "stopped", "web": "backoff"}
    before = run.passes
    run.run(60)
    assert run.passes - before <= 61


def test_a_stopped_program_no_longer_waits(supervise: Make) -> None:
    run = supervise(db={"ready": "/nowhere/file"}, web=WEB)
    run.run(2)
    assert run.process("web").spawnerr == "waiting for db:ready"
    run.process("web").stop()
    run.end("db", 0)
    run.run(5)
    assert run.states() == {"db": "done", "web": "stopped"}


def test_an_untested_supervisor_is_reported_once(supervise: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pid1.plugin.VERSION", "9.9")
    run = supervise(web={})
    run.run(3)
    (line,) = [line for line in run.options.logger.calls if "untested" in line]
    assert line == "supervisor 9.9 is untested; supervisor-pid1 is tested with 4.2.5 and 4.3.0"


def test_a_program_not_ready_in_time_is_killed_and_retried(supervise: Make) -> None:
    run = supervise(web={"ready": "/nowhere/file", "ready_timeout": "20", "startretries": 1})
    run.run(20.1)
    assert [(round(when - 1000, 1), number) for when, _, number in run.options.killed] == [(20, 9)]
    run.run(25)
    assert run.states() == {"web": "failed"}
    assert run.plugin.status == 137


def test_a_hung_program_is_killed_at_its_limit(supervise: Make) -> None:
    run = supervise(web={"alive": "/nowhere/file", "alive_timeout": "8", "killasgroup": True})
    run.run(8.9)
    assert not run.options.killed
    run.run(0.5)
    assert [(round(when - 1000, 1), pid, number) for when, pid, number in run.options.killed] == [(9, -100, 9)]
    assert starts(run, "web") == 2


def test_a_paused_container_kills_nothing(supervise: Make) -> None:
    run = supervise(web={"alive": "/nowhere/file", "alive_timeout": "8"})
    run.run(5)
    run.clock.now += 3600
    run.run(3)
    assert not run.options.killed


def test_deaf_programs_of_a_chain_share_one_deadline(supervise: Make) -> None:
    """Each gets SIGTERM in its turn. All are killed at the deadline, which is the longest stopwaitsecs."""
    run = supervise(
        db={"stopwaitsecs": 9}, api={"depends_on": "db:started", "stopwaitsecs": 9}, web={"depends_on": "api:started"}
    )
    run.run(10)
    began = run.clock.now
    assert 10 <= run.stop() < 10.1
    stopped = [round(when - began, 1) for when, _, number in run.options.killed if number == 15]
    killed = [round(when - began, 1) for when, _, number in run.options.killed if number == 9]
    assert stopped == [0, 3.3, 6.7]
    assert killed == [10, 10, 10]


def test_independent_programs_stop_together(supervise: Make) -> None:
    run = supervise(a={"stopwaitsecs": 2}, b={"stopwaitsecs": 3}, c={})
    run.run(5)
    began = run.clock.now
    run.stop()
    assert {round(when - began, 1) for when, _, number in run.options.killed if number == 15} == {0}


def test_a_main_programs_status_is_the_exit_status(supervise: Make) -> None:
    run = supervise(job={"main": "true", "exitcodes": [0, 4]}, side={})
    run.run(3)
    run.end("job", 4)
    run.run(0)
    assert (run.plugin.status, run.plugin.verdict) == (4, "job is done (exit status 4): ending with status 4")
