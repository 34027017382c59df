"""`python -m generator` from outside: its numbers, its pace, its signals, its end, and what it refuses."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from generator.rounds import Numbers
from generator.settings import parse
from support import ROOT, Program, running, wait_until

LINES = re.compile(rb"(?:[0-9]{1,5}\n)*")
FIVE_DIGITS = re.compile(rb"(?:[0-9]{5}\n)*")  # two lines that were joined would not match
# Root may write anywhere, and nobody might not be let at Python: so it is loaded first.
AS_NOBODY = """
import os, sys, generator.__main__
generator.__main__.parse()
if os.geteuid() == 0:
    os.seteuid(65534)
sys.exit(generator.__main__.main())
"""


def generator(data: Path, *flags: str | Path) -> AbstractContextManager[Program]:
    return running([sys.executable, "-m", "generator", "--file", data, *flags])


def length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_numbers_come_one_a_line_within_their_range(data: Path) -> None:
    with generator(data, "--interval", "0", "--count", "20000", "--min", "-3", "--max", "12") as program:
        assert program.ended() == 0
    content = data.read_text()
    assert re.fullmatch(r"(?:-?[0-9]+\n){20000}", content)
    assert {int(line) for line in content.splitlines()} == set(range(-3, 13))


def test_the_first_number_comes_at_once(data: Path) -> None:
    with generator(data, "--interval", "3600") as program:
        program.said(f"^writing numbers from 0 to 32767 to {re.escape(str(data))} every 3600 s$")
        wait_until(lambda: length(data), within=1)
        assert re.fullmatch(rb"[0-9]{1,5}\n", data.read_bytes())


def test_a_hundred_intervals_of_50_ms_take_5_seconds(data: Path) -> None:
    """Within 1 %: the time that a write takes is not added to the interval."""
    width = 6  # bytes a line
    with generator(data, "--interval", "0.05", "--min", "10000", "--max", "99999"):
        wait_until(lambda: length(data) >= width)
        first = time.monotonic()
        wait_until(lambda: length(data) >= 101 * width)
        took = time.monotonic() - first
    assert 4.95 < took < 5.05


def test_a_count_ends_by_itself_and_promptly(data: Path) -> None:
    """Not an interval later."""
    with generator(data, "--interval", "0.2", "--count", "3") as program:
        program.said("^writing")
        started = time.monotonic()
        assert program.ended() == 0
        took = time.monotonic() - started
    assert program.lines[-1].startswith("done: 3 numbers written")
    assert data.read_bytes().count(b"\n") == 3
    assert 0.3 < took < 0.58


def test_the_same_seed_gives_the_same_file(data: Path) -> None:
    with generator(data, "--interval", "0", "--count", "10000", "--seed", "5", "--fsync") as program:
        assert program.ended() == 0
    assert data.read_bytes() == Numbers(parse(["--seed", "5"], {})).lines(10_000)


def test_environment_variables_are_settings_too(data: Path) -> None:
    environment = {"GENERATOR_FILE": str(data), "GENERATOR_INTERVAL": "0", "GENERATOR_COUNT": "5"}
    with running([sys.executable, "-m", "generator", "--count", "3"], environment) as program:
        assert program.ended() == 0
    assert data.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("limit", [4096, 2**16])
def test_the_file_rotates_before_its_size_limit(data: Path, limit: int) -> None:
    with generator(data, "--interval", "0", "--count", "50000", "--max-size", str(limit), "--seed", "1") as program:
        assert program.ended() == 0
    old, new = data.with_name("data.1").read_bytes(), data.read_bytes()
    assert Numbers(parse(["--seed", "1"], {})).lines(50_000).endswith(old + new)
    assert limit / 2 < len(old) <= limit
    assert len(new) <= limit
    assert names(data.parent) == ["data", "data.1", "data.lock"]


@pytest.mark.parametrize("interval", ["0", "0.01", "60"])
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_is_prompt_and_between_lines(data: Path, stop: signal.Signals, interval: str) -> None:
    """Ends with status 0 within a tenth of a second, give or take the machine's own pace."""
    with generator(data, "--interval", interval, "--max-size", "0") as program:
        wait_until(lambda: length(data))
        began = time.monotonic()
        program.signal(stop)
        assert program.ended() == 0
        took = time.monotonic() - began
    content = data.read_bytes()
    written = content.count(b"\n")
    assert program.lines[-1] == f"stopped by {stop.name}: {written} numbers written, {data} has {len(content)} bytes"
    assert LINES.fullmatch(content)
    assert took < 0.3


def test_a_stop_before_the_first_number_is_not_lost(data: Path) -> None:
    """Whenever in its start the signal comes, generator ends: by it, or with status 0."""
    for _ in range(10):
        with generator(data, "--interval", "60") as program:
            wait_until(lambda program=program: Path(f"/proc/{program.pid}/cmdline").read_bytes())  # type: ignore[misc]
            program.signal(signal.SIGTERM)
            assert program.ended() in (0, -signal.SIGTERM)


def test_hup_reopens_a_file_that_was_moved_away(data: Path) -> None:
    moved = data.with_name("moved")
    with generator(data, "--interval", "0.01") as program:
        wait_until(lambda: length(data))
        program.signal(signal.SIGHUP)
        program.said(f"^SIGHUP: reopening {re.escape(str(data))}$")
        data.rename(moved)
        wait_until(lambda: length(data))
        kept = moved.read_bytes()
        program.signal(signal.SIGHUP)
        size = length(data)
        wait_until(lambda: length(data) > size)
        program.signal(signal.SIGTERM)
        assert program.ended() == 0
    assert kept and moved.read_bytes() == kept
    assert LINES.fullmatch(kept)
    assert LINES.fullmatch(data.read_bytes())


def test_hup_lets_go_of_the_file_before_the_next_number(data: Path) -> None:
    """So that what moves files away may do with them as it likes at once."""
    with generator(data, "--interval", "60") as program:
        wait_until(lambda: length(data))
        held = Path(f"/proc/{program.pid}/fd")
        assert data in [fd.readlink() for fd in held.iterdir()]
        program.signal(signal.SIGHUP)
        wait_until(lambda: data not in [fd.readlink() for fd in held.iterdir()])


def test_usr1_tells_the_status_in_one_line(data: Path) -> None:
    with generator(data, "--interval", "60") as program:
        wait_until(lambda: length(data))
        program.signal(signal.SIGUSR1)
        program.said(f"^SIGUSR1: 1 numbers written, {re.escape(str(data))} has {length(data)} bytes$")
        program.signal(signal.SIGTERM)
        assert program.ended() == 0
    assert len(program.lines) == 3


def test_usr2_begins_and_ends_to_tell_every_number(data: Path) -> None:
    with generator(data, "--interval", "0.01") as program:
        wait_until(lambda: length(data))
        program.signal(signal.SIGUSR2)
        program.said("^SIGUSR2: telling every number$")
        number = program.said("^wrote ([0-9]+)$")[1]
        program.signal(signal.SIGUSR2)
        program.said("^SIGUSR2: no longer telling every number$")
        size = length(data)
        wait_until(lambda: length(data) > size)
        program.signal(signal.SIGTERM)
        assert program.ended() == 0
    assert number in data.read_text().split()
    assert program.lines[-2] == "SIGUSR2: no longer telling every number"


def test_many_signals_do_not_change_the_pace(data: Path) -> None:
    with generator(data, "--interval", "0.5", "--min", "10000") as program:
        wait_until(lambda: length(data))
        started = time.monotonic()
        while length(data) < 4 * 6:
            program.signal(signal.SIGUSR1)
            assert time.monotonic() - started < 10
        took = time.monotonic() - started
    assert 1.4 < took < 1.6


def gaps(beat: Path, times: int) -> list[float]:
    """How long the file's modification time stood still, so many times, in seconds."""
    seen = []
    for _ in range(times):
        last = beat.stat().st_mtime_ns
        wait_until(lambda last=last: beat.stat().st_mtime_ns > last)  # type: ignore[misc]
        seen.append((beat.stat().st_mtime_ns - last) / 1e9)
    return seen


def test_the_heart_beats_each_second_at_an_interval_of_a_minute(data: Path, tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    with generator(data, "--interval", "60", "--heartbeat", beat):
        wait_until(lambda: length(data))
        assert max(gaps(beat, 2)) < 1.5
    assert data.read_bytes().count(b"\n") == 1


def test_a_folder_that_vanishes_is_waited_for(tmp_path: Path) -> None:
    """The heart beats on meanwhile, trouble is told once, and no number is lost."""
    folder, beat = tmp_path / "folder", tmp_path / "beat"
    folder.mkdir()
    with generator(folder / "data", "--interval", "0.01", "--seed", "3", "--heartbeat", beat) as program:
        wait_until(lambda: length(folder / "data"))
        folder.rename(tmp_path / "away")
        program.said("^cannot write, trying again every 1 s: .*: No such file or directory$")
        assert max(gaps(beat, 2)) < 1.5
        program.signal(signal.SIGUSR1)
        program.said("^SIGUSR1: .*, cannot write: .*: No such file or directory$")
        assert program.output.count("trying again") == 1
        folder.mkdir()
        program.said("^writing again$")
        wait_until(lambda: length(folder / "data"))
        program.signal(signal.SIGTERM)
        assert program.ended() == 0
    content = (tmp_path / "away" / "data").read_bytes() + (folder / "data").read_bytes()
    assert Numbers(parse(["--seed", "3"], {})).lines(10_000).startswith(content)


def test_a_truncated_file_goes_on_in_another_inode(data: Path) -> None:
    """So that a reader does not take new bytes for those that it was served before."""
    with generator(data, "--interval", "0.01") as program:
        wait_until(lambda: length(data) > 20)
        old = os.open(data, os.O_RDONLY)
        os.truncate(data, 0)
        program.said("was truncated from [0-9]+ to 0 bytes")
        wait_until(lambda: length(data))
        assert not os.path.samestat(os.fstat(old), data.stat())
        os.close(old)


def start_and_kill(data: Path, *flags: str) -> bytes:
    """Run a generator until the file has grown by a random little; returns what was seen just before the kill."""
    with generator(data, "--interval", "0", "--min", "10000", "--max", "99999", *flags) as program:
        before, more = length(data), random.randrange(1, 100_000)
        inode = data.stat().st_ino if data.exists() else 0
        wait_until(lambda: length(data) > before + more or (length(data) and data.stat().st_ino != inode))
        seen = data.read_bytes()
        program.process.kill()
        assert program.ended() == -signal.SIGKILL
    return seen


def whole(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def test_kill_9_at_any_moment_tears_nothing_that_was_whole(data: Path) -> None:
    """Every other time half a line is added, as a crash of the machine would leave it: the next start cuts it off."""
    served = b""
    for round in range(150):
        seen = start_and_kill(data, "--max-size", "0")
        content = data.read_bytes()
        assert content.startswith(served)
        assert content.startswith(whole(seen))
        served = whole(content)
        assert FIVE_DIGITS.fullmatch(served)
        if round % 2:
            data.write_bytes(content + b"123")
        if len(served) > 300_000:
            data.unlink()
            served = b""
    with generator(data, "--count", "1") as program:
        assert program.ended() == 0
    content = data.read_bytes()
    assert content.startswith(served)
    assert re.fullmatch(rb"[0-9]{1,5}\n", content[len(served) :])


def test_kill_9_at_any_moment_of_a_rotation_tears_nothing(data: Path) -> None:
    for _ in range(50):
        start_and_kill(data, "--max-size", "4096")
        for path in (data, data.with_name("data.1")):
            assert FIVE_DIGITS.fullmatch(whole(path.read_bytes()))
    with generator(data, "--count", "1", "--min", "10000") as program:
        assert program.ended() == 0
    assert FIVE_DIGITS.fullmatch(data.read_bytes())
    assert names(data.parent) == ["data", "data.1", "data.lock"]


def test_a_second_generator_ends_and_names_the_first(data: Path) -> None:
    with generator(data, "--interval", "60") as first:
        wait_until(lambda: length(data))
        content = data.read_bytes()
        with generator(data, "--interval", "0") as second:
            assert second.ended() == 1
        holder = f"generator with pid {first.pid} on host {os.uname().nodename}"
        assert second.lines == [f"generator: {data} has a writer already: {holder}"]
        assert data.read_bytes() == content


def test_a_killed_generator_leaves_no_lock_behind(data: Path) -> None:
    with generator(data) as first:
        wait_until(lambda: length(data))
        first.signal(signal.SIGKILL)
        first.ended()
    with generator(data, "--count", "1") as second:
        assert second.ended() == 0


def test_nobody_reading_its_output_does_not_end_it(data: Path) -> None:
    command = [sys.executable, "-m", "generator", "--file", str(data), "--interval", "0.01"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as program:
        try:
            wait_until(lambda: length(data))
            assert program.stderr
            program.stderr.close()
            program.send_signal(signal.SIGUSR2)
            size = length(data)
            wait_until(lambda: length(data) > size + 50)
            program.send_signal(signal.SIGTERM)
            assert program.wait(20) == 0
        finally:
            program.kill()


def refusal(folder: Path, *command: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a generator that must not start: in one line, with a status, and without a trace. Returns the line."""
    before = names(folder)
    with running([sys.executable, *command], environment, folder) as program:
        assert program.ended() == 2, program.output
    assert names(folder) == before
    (line,) = program.lines
    assert line.startswith("generator: ")
    return line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--interval=-1"], "--interval (GENERATOR_INTERVAL): '-1'"),
        (["--interval", "soon"], "--interval (GENERATOR_INTERVAL): 'soon'"),
        (["--interval", "nan"], "--interval (GENERATOR_INTERVAL): 'nan'"),
        (["--interval", "inf"], "--interval (GENERATOR_INTERVAL): 'inf'"),
        (["--interval"], "--interval (GENERATOR_INTERVAL): expected one argument"),
        (["--count=-1"], "--count (GENERATOR_COUNT): '-1'"),
        (["--min", "2", "--max", "1"], "--min (GENERATOR_MIN): 2 is more than --max (GENERATOR_MAX), 1"),
        (["--max", "1.5"], "--max (GENERATOR_MAX): '1.5'"),
        (["--max-size", "big"], "--max-size (GENERATOR_MAX_SIZE): 'big'"),
        (["--max-size", "1K"], "--max-size (GENERATOR_MAX_SIZE): 1024 is less than 4096"),
        (["--fsync", "maybe"], "--fsync (GENERATOR_FSYNC): 'maybe'"),
        (["--file", "missing/data"], "--file (GENERATOR_FILE): directory missing does not exist"),
        (["--file", "folder"], "--file (GENERATOR_FILE): folder is a directory"),
        (["--file", "."], "--file (GENERATOR_FILE): . is a directory"),
        (["--file", "n" * 300], "File name too long"),
        (["--heartbeat", "missing/beat"], "--heartbeat (GENERATOR_HEARTBEAT): directory missing does not exist"),
        (["--intervall", "1"], "unrecognized arguments: --intervall"),
        (["--inter", "1"], "unrecognized arguments: --inter"),
        (["data"], "unrecognized arguments: data"),
    ],
)
def test_wrong_flags_are_refused(tmp_path: Path, flags: list[str], words: str) -> None:
    (tmp_path / "folder").mkdir()
    assert words in refusal(tmp_path, "-m", "generator", *flags)
    assert names(tmp_path / "folder") == []


def test_a_name_that_is_no_utf_8_is_told_as_it_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "generator", "--file", f"{tmp_path}/\udcff/data"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.endswith(b"/\xff does not exist: create it or give a file elsewhere\n")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("GENERATOR_INTERVAL", "soon", "--interval (GENERATOR_INTERVAL): 'soon'"),
        ("GENERATOR_MIN", "99999", "--min (GENERATOR_MIN): 99999 is more than --max"),
        ("GENERATOR_FSYNC", "perhaps", "--fsync (GENERATOR_FSYNC): 'perhaps'"),
        ("GENERATOR_FILE", "missing/data", "--file (GENERATOR_FILE): directory missing"),
        ("GENERATOR_INTERVALL", "1", "unknown environment variable GENERATOR_INTERVALL: there is GENERATOR_COUNT,"),
    ],
)
def test_wrong_variables_are_refused(tmp_path: Path, name: str, value: str, words: str) -> None:
    assert words in refusal(tmp_path, "-m", "generator", environment={name: value})


@pytest.mark.parametrize("mode", [0o555, 0o444])
def test_a_folder_that_it_may_not_write_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "folder").mkdir(mode)
    line = refusal(tmp_path, "-c", AS_NOBODY, "--file", "folder/data")
    assert re.search("is not writable by user [1-9][0-9]* with group", line)
    assert names(tmp_path / "folder") == []


def test_a_heartbeat_that_it_may_not_write_is_refused(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    beat.mkdir()
    with generator(tmp_path / "data", "--heartbeat", beat) as program:
        assert program.ended() == 2
    assert program.lines == [f"generator: --heartbeat (GENERATOR_HEARTBEAT): {beat}: Is a directory"]


def test_help_names_every_setting_with_its_variable() -> None:
    with running([sys.executable, "-m", "generator", "--help"]) as program:
        assert program.ended() == 0
    for name in ("FILE", "INTERVAL", "COUNT", "MIN", "MAX", "SEED", "MAX_SIZE", "FSYNC", "HEARTBEAT"):
        assert f"[GENERATOR_{name}," in program.output
