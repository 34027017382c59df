"""The generator as a process: numbers, pace, signals, end and wrong settings."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from generator.numbers import Numbers
from support import ROOT, Program, running, wait_until
from support.disk import PAGE, fill, small_disk
from support.writer import content, lines, segments

NEWLINE = b"\n"
LINES = re.compile(rb"(?:[0-9]{1,5}\n)*")
FIVE_DIGITS = re.compile(rb"(?:[0-9]{5}\n)*")  # joined lines do not match
# Root can write anywhere, so the generator becomes `nobody`, after its imports: `nobody` may not be able to read them.
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
    written = data.read_text()
    assert re.fullmatch(r"(?:-?[0-9]+\n){20000}", written)
    assert {int(line) for line in written.splitlines()} == set(range(-3, 13))


def test_the_first_number_comes_at_once(data: Path) -> None:
    with generator(data, "--interval", "3600") as program:
        program.wait_for_log(f"^writing numbers from 0 to 32767 to {re.escape(str(data))} every 3600 s$")
        wait_until(lambda: length(data), within=1)
        assert re.fullmatch(rb"[0-9]{1,5}\n", data.read_bytes())


@pytest.mark.serial
def test_a_hundred_intervals_of_50_ms_take_5_seconds(data: Path) -> None:
    """The error is under 1 %, because the schedule does not add the time of a write to the interval."""
    width = 6  # bytes per line
    with generator(data, "--interval", "0.05", "--min", "10000", "--max", "99999"):
        wait_until(lambda: length(data) >= width)
        first = data.stat()
        wait_until(lambda: length(data) >= first.st_size + 100 * width)
        last = data.stat()
    intervals = (last.st_size - first.st_size) / width
    took = (last.st_mtime_ns - first.st_mtime_ns) / 1e9  # independent of this test's own delays
    assert 0.0495 < took / intervals < 0.0505


@pytest.mark.serial
def test_the_generator_ends_promptly_after_its_count(data: Path) -> None:
    """It does not wait for another interval."""
    with generator(data, "--interval", "0.2", "--count", "3") as program:
        program.wait_for_log("^writing")
        started = time.monotonic()
        assert program.ended() == 0
        took = time.monotonic() - started
    assert program.lines[-1].startswith("done: 3 numbers written")
    assert data.read_bytes().count(b"\n") == 3
    assert 0.3 < took < 0.58


def test_the_same_seed_gives_the_same_file(data: Path) -> None:
    with generator(data, "--interval", "0", "--count", "10000", "--seed", "5", "--fsync") as program:
        assert program.ended() == 0
    assert data.read_bytes() == Numbers(0, 32767, 5).lines(10_000)


def test_environment_variables_are_settings_too(data: Path) -> None:
    environment = {"GENERATOR_FILE": str(data), "GENERATOR_INTERVAL": "0", "GENERATOR_COUNT": "5"}
    with running([sys.executable, "-m", "generator", "--count", "3"], environment) as program:
        assert program.ended() == 0
    assert data.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("limit", [4096, 2**16])
def test_a_new_segment_begins_before_the_size_limit(data: Path, limit: int) -> None:
    flags = ["--interval", "0", "--count", "50000", "--segment-size", str(limit), "--keep", "3", "--seed", "1"]
    with generator(data, *flags) as program:
        assert program.ended() == 0
    kept = list(segments(data).values())
    assert Numbers(0, 32767, 1).lines(50_000).endswith(content(data))
    assert len(kept) == 4
    assert all(limit / 2 < len(segment) <= limit for segment in kept[:-1])
    assert {"data", "data.lock"} < set(names(data.parent))


@pytest.mark.serial
@pytest.mark.parametrize("interval", ["0", "0.01", "60"])
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_is_prompt_and_between_lines(data: Path, stop: signal.Signals, interval: str) -> None:
    """A stop takes less than 0.3 s, which leaves room for a slow machine."""
    with generator(data, "--interval", interval, "--segment-size", "0") as program:
        wait_until(lambda: length(data))
        began = time.monotonic()
        program.signal(stop)
        assert program.ended() == 0
        took = time.monotonic() - began
    written, segment = data.read_bytes(), data.resolve()
    status = f"{written.count(NEWLINE)} numbers written, {segment} has {len(written)} bytes"
    assert program.lines[-1] == f"stopped by {stop.name}: {status}"
    assert LINES.fullmatch(written)
    assert took < 0.3


def test_a_stop_before_the_first_number_is_not_lost(data: Path) -> None:
    """A signal at any moment of the start ends the generator, by the signal or with status 0."""
    for _ in range(10):
        with generator(data, "--interval", "60") as program:
            wait_until(lambda program=program: Path(f"/proc/{program.pid}/cmdline").read_bytes())  # type: ignore[misc]
            program.signal(signal.SIGTERM)
            assert program.ended() in (0, -signal.SIGTERM)


def test_hup_reopens_the_segment(data: Path) -> None:
    """The segment is closed at once. If it was moved, it is not written again."""
    with generator(data, "--interval", "0.01") as program:
        wait_until(lambda: length(data))
        first, moved = data.resolve(), data.with_name("moved")
        program.signal(signal.SIGHUP)
        program.wait_for_log(f"^SIGHUP: reopening {re.escape(str(data))}$")
        first.rename(moved)
        wait_until(lambda: data.exists() and data.resolve() != first)
        kept = moved.read_bytes()
        size = length(data)
        wait_until(lambda: length(data) > size)
    assert kept and moved.read_bytes() == kept
    assert int(data.resolve().name[-16:]) == len(kept)


def test_hup_closes_the_segment_before_the_next_number(data: Path) -> None:
    with generator(data, "--interval", "60") as program:
        wait_until(lambda: length(data))
        held, segment = Path(f"/proc/{program.pid}/fd"), data.resolve()
        assert segment in [fd.readlink() for fd in held.iterdir()]
        program.signal(signal.SIGHUP)
        wait_until(lambda: segment not in [fd.readlink() for fd in held.iterdir()])


@pytest.mark.parametrize("interval", ["0", "0.01", "60"])
def test_stop_and_continue_by_signals_is_survived(data: Path, interval: str) -> None:
    """CPython's sigtimedwait returns garbage after SIGCONT, so the generator must not use it."""
    with generator(data, "--interval", interval) as program:
        wait_until(lambda: length(data))
        for _ in range(3):
            program.signal(signal.SIGSTOP)
            wait_until(lambda: "T (stopped)" in Path(f"/proc/{program.pid}/status").read_text())
            paused = time.monotonic()
            wait_until(lambda paused=paused: time.monotonic() > paused + 2)  # type: ignore[misc]  # longer than any wait
            program.signal(signal.SIGCONT)
            program.signal(signal.SIGUSR1)
            answers = program.output.count("SIGUSR1")
            wait_until(lambda answers=answers: program.output.count("SIGUSR1") > answers)  # type: ignore[misc]
        program.signal(signal.SIGTERM)
        assert program.ended() == 0


def test_usr1_logs_the_status_in_one_line(data: Path) -> None:
    with generator(data, "--interval", "60") as program:
        wait_until(lambda: length(data))
        program.signal(signal.SIGUSR1)
        program.wait_for_log(f"^SIGUSR1: 1 numbers written, {re.escape(str(data.resolve()))} has {length(data)} bytes$")
        program.signal(signal.SIGTERM)
        assert program.ended() == 0
    assert len(program.lines) == 3


def test_usr2_begins_and_ends_logging_every_number(data: Path) -> None:
    with generator(data, "--interval", "0.01") as program:
        wait_until(lambda: length(data))
        program.signal(signal.SIGUSR2)
        program.wait_for_log("^SIGUSR2: logging every number$")
        number = program.wait_for_log("^wrote ([0-9]+)$")[1]
        program.signal(signal.SIGUSR2)
        program.wait_for_log("^SIGUSR2: no longer logging every number$")
        size = length(data)
        wait_until(lambda: length(data) > size)
        program.signal(signal.SIGTERM)
        assert program.ended() == 0
    assert number in data.read_text().split()
    assert program.lines[-2] == "SIGUSR2: no longer logging every number"


def test_many_signals_do_not_change_the_pace(data: Path) -> None:
    with generator(data, "--interval", "0.5", "--min", "10000") as program:
        wait_until(lambda: length(data))
        started = time.monotonic()
        while length(data) < 4 * 6:
            program.signal(signal.SIGUSR1)
            assert time.monotonic() - started < 10
        took = time.monotonic() - started
    assert 1.4 < took < 3  # for a loaded machine; a pace that signals change is far off


def gaps(beat: Path, times: int) -> list[float]:
    """Return the seconds between changes of a file's modification time."""
    seen = []
    for _ in range(times):
        last = beat.stat().st_mtime_ns
        wait_until(lambda last=last: beat.stat().st_mtime_ns > last)  # type: ignore[misc]
        seen.append((beat.stat().st_mtime_ns - last) / 1e9)
    return seen


def test_heartbeats_continue_between_rare_numbers(data: Path, tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    with generator(data, "--interval", "60", "--heartbeat", beat):
        wait_until(lambda: length(data))
        assert max(gaps(beat, 2)) < 1.5
    assert data.read_bytes().count(b"\n") == 1


def test_the_generator_waits_for_a_folder_that_vanishes(tmp_path: Path) -> None:
    """Meanwhile heartbeats continue, the error is logged once, and no number is lost."""
    folder, beat = tmp_path / "folder", tmp_path / "beat"
    folder.mkdir()
    with generator(folder / "data", "--interval", "0.01", "--seed", "3", "--heartbeat", beat) as program:
        wait_until(lambda: length(folder / "data"))
        folder.rename(tmp_path / "away")
        program.wait_for_log("^cannot write, trying again every 1 s: .*: No such file or directory$")
        assert max(gaps(beat, 2)) < 1.5
        program.signal(signal.SIGUSR1)
        program.wait_for_log("^SIGUSR1: .*, cannot write: .*: No such file or directory$")
        assert program.output.count("trying again") == 1
        folder.mkdir()
        program.wait_for_log("^writing again$")
        wait_until(lambda: length(folder / "data"))
        program.signal(signal.SIGTERM)
        assert program.ended() == 0
    written = content(tmp_path / "away" / "data") + content(folder / "data")
    assert Numbers(0, 32767, 3).lines(10_000).startswith(written)


def test_a_truncated_segment_is_replaced_by_the_next(data: Path) -> None:
    with generator(data, "--interval", "0.01") as program:
        wait_until(lambda: length(data) > 20)
        first = data.resolve()
        os.truncate(first, 0)
        count = int(program.wait_for_log("was truncated from ([0-9]+) to")[1])
        wait_until(lambda: data.exists() and length(data))
        assert int(data.resolve().name[-16:]) == count
        assert not first.exists()


@pytest.mark.parametrize("size", ["0", "4096"])
def test_kill_9_at_any_moment_loses_and_tears_nothing(data: Path, size: str, effort: int) -> None:
    """Every other time the test adds a torn line, as a kill in a write does; the next start removes it."""
    seen: dict[int, bytes] = {}
    stream = ""
    for turn in range(12 * effort):
        with generator(data, "--interval", "0", "--min", "10000", "--max", "99999", "--segment-size", size) as program:
            start, more = (data.resolve(), length(data)), random.randrange(100_000)
            wait_until(lambda a=start, m=more: data.resolve() != a[0] or length(data) > a[1] + m)  # type: ignore[misc]
            program.process.kill()
            program.ended()
        found = segments(data)
        stream = stream or next(iter(found)).stream
        for segment, written in found.items():
            assert segment.stream == stream
            assert FIVE_DIGITS.fullmatch(lines(written))
            assert written.startswith(seen.get(segment.base, b"")), segment
            seen[segment.base] = lines(written)
        assert lines(content(data))
        if turn % 2:
            with max(data.parent.glob("data.*.*")).open("ab") as file:
                file.write(b"123")


def test_a_second_generator_ends_and_names_the_first(data: Path) -> None:
    with generator(data, "--interval", "60") as first:
        wait_until(lambda: length(data))
        written = data.read_bytes()
        with generator(data, "--interval", "0") as second:
            assert second.ended() == 1
        holder = f"generator with pid {first.pid} on host {os.uname().nodename}"
        assert second.lines == [f"generator: {data} already has a writer: {holder}"]
        assert data.read_bytes() == written


def test_a_killed_generator_leaves_no_lock_behind(data: Path) -> None:
    with generator(data) as first:
        wait_until(lambda: length(data))
        first.signal(signal.SIGKILL)
        first.ended()
    with generator(data, "--count", "1") as second:
        assert second.ended() == 0


def test_a_closed_stderr_does_not_end_the_generator(data: Path) -> None:
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
    """Run a generator that must fail with status 2, one line and no files. Return the line."""
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
        (["--file", "missing/data"], "--file (GENERATOR_FILE): directory missing does not exist"),
        (["--file", "folder"], "--file (GENERATOR_FILE): folder is a directory"),
    ],
)
def test_wrong_flags_are_refused(tmp_path: Path, flags: list[str], words: str) -> None:
    (tmp_path / "folder").mkdir()
    assert words in refusal(tmp_path, "-m", "generator", *flags)
    assert names(tmp_path / "folder") == []


def test_a_name_that_is_not_utf_8_is_logged_unchanged(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "generator", "--file", f"{tmp_path}/\udcff/data"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.endswith(b"/\xff does not exist: create it or give a file elsewhere\n")


def test_a_wrong_variable_is_refused(tmp_path: Path) -> None:
    words = "unknown environment variable GENERATOR_INTERVALL: use one of GENERATOR_COUNT,"
    assert words in refusal(tmp_path, "-m", "generator", environment={"GENERATOR_INTERVALL": "1"})


@pytest.mark.parametrize("mode", [0o555, 0o444])
def test_a_folder_without_permission_is_refused(tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # this user cannot write the figures, and says so
    tmp_path.chmod(0o755)
    (tmp_path / "folder").mkdir(mode)
    line = refusal(tmp_path, "-c", AS_NOBODY, "--file", "folder/data")
    assert re.search("permission denied for user [1-9][0-9]*, group", line)
    assert names(tmp_path / "folder") == []


def test_a_heartbeat_without_permission_is_refused(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    beat.mkdir()
    with generator(tmp_path / "data", "--heartbeat", beat) as program:
        assert program.ended() == 2
    assert program.lines == [f"generator: --heartbeat (GENERATOR_HEARTBEAT): {beat}: Is a directory"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path) as folder:
        yield folder


@pytest.mark.parametrize("interval", ["0", "0.001"])
@pytest.mark.parametrize("remove", [False, True])
def test_a_full_disk_is_survived_and_logged_once(disk: Path, tmp_path: Path, interval: str, remove: bool) -> None:
    """The generator continues when there is space, and no number is lost or torn."""
    filler = fill(disk, 2 * PAGE)  # one page is for the lock file
    data, beat = disk / "data", tmp_path / "beat"
    flags: list[str | Path] = ["--interval", interval, "--seed", "7", "--segment-size", "0", "--heartbeat", beat]
    with generator(data, *flags) as program:
        program.wait_for_log("^cannot write, trying again every 1 s: .*: No space left on device$")
        full = data.read_bytes()
        assert max(gaps(beat, 2)) < 1.5
        assert program.output.count("cannot write") == 1
        if remove:
            for file in disk.glob("data*"):
                file.unlink()
        else:
            os.truncate(filler, filler.stat().st_size - PAGE)
        program.wait_for_log("^writing again$")
        wait_until(lambda: length(data) if remove else length(data) > len(full))
        program.signal(signal.SIGTERM)
        assert program.ended() == 0
    assert content(data).endswith(NEWLINE)
    assert Numbers(0, 32767, 7).lines(5000).startswith((full if remove else b"") + content(data))


def test_a_disk_full_from_the_start_is_survived(disk: Path) -> None:
    fill(disk, 0)
    with generator(disk / "data", "--interval", "0") as program:
        program.wait_for_log("^cannot write")
        (disk / "filler").unlink()
        program.wait_for_log("^writing again$")
        wait_until(lambda: length(disk / "data") > PAGE)


def test_a_restored_copy_begins_another_stream(tmp_path: Path) -> None:
    streams: set[str] = set()
    for place in ("one", "two"):
        if streams:
            shutil.copytree(tmp_path / "one", tmp_path / place, symlinks=True)
        (tmp_path / place).mkdir(exist_ok=True)
        with generator(tmp_path / place / "data", "--count", "1") as program:
            assert program.ended() == 0
        streams.add((tmp_path / place / "data").resolve().name[:13])
    assert len(streams) == 2


def test_version_one_is_taken_over(data: Path) -> None:
    data.with_name("data.1").write_bytes(b"1\n2\n")
    data.write_bytes(b"3\n4")
    with generator(data, "--count", "1") as program:
        program.wait_for_log("renamed the data file of version one to")
        assert program.ended() == 0
    assert next(iter(segments(data).values())) == b"1\n2\n"
    assert content(data).startswith(b"1\n2\n3\n")
