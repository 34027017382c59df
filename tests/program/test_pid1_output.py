"""Tests of the log: nothing is lost with a reader; without one, whole lines are dropped and counted."""

import fcntl
import json
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from support import ROOT, wait_until
from support.supervisord import HEAD, SLEEP, Supervisord, command, kill_descendants, program, supervising

WRITER = """
import sys
lines, length = int(sys.argv[1]), int(sys.argv[2])
for number in range(lines):
    sys.stdout.write("%08d" % number + "x" * (length - 9) + "\\n")
sys.stdout.flush()
"""


def write_conf(folder: Path, programs: str, keys: str = "") -> None:
    (folder / "writer.py").write_text(WRITER)
    (folder / "conf").write_text(HEAD.format(folder=folder) + keys + "\n" + programs)


def writer(folder: Path, lines: int, length: int, *keys: str) -> str:
    """Return the section of a program that writes numbered lines of this length."""
    return program("w", f"exec {sys.executable} {folder}/writer.py {lines} {length}", "autorestart = false", *keys)


def read_all(folder: Path, python: str, reads: str = "cat") -> bytes:
    """Run supervisord with a pipe to a reader until both end. Return what the reader wrote."""
    out = folder / "out"
    with out.open("wb") as file:
        reader = subprocess.Popen(reads, shell=True, stdin=subprocess.PIPE, stdout=file)
        run = subprocess.Popen(
            command(python, folder), stdout=reader.stdin, stderr=subprocess.STDOUT, env={"PYTHONPATH": str(ROOT)}
        )
        try:
            assert reader.stdin
            reader.stdin.close()
            assert run.wait(60) == 0
            reader.wait(60)
        finally:
            kill_descendants(run.pid)
            run.kill()
            run.wait()
            reader.kill()
            reader.wait()
    return out.read_bytes()


@pytest.mark.parametrize(
    ("size", "keys"),
    [(50_000, ""), (200_000, ""), (1_000_000, ""), (1_000_000, "log_format = json"), (100_000_000, "")],
)
def test_a_burst_arrives_complete(tmp_path: Path, python: str, size: int, keys: str) -> None:
    write_conf(tmp_path, writer(tmp_path, size // 100, 100), keys)
    lines = [line for line in read_all(tmp_path, python).splitlines() if b"xxxx" in line]
    found = [int(json.loads(line)["message"][:8]) for line in lines] if keys else [int(line[4:12]) for line in lines]
    assert found == list(range(size // 100))


@pytest.mark.serial
def test_a_slow_reader_loses_nothing(tmp_path: Path, python: str) -> None:
    """The reader takes 4 KiB at a time, and in all needs longer than lines may wait for a reader."""
    write_conf(tmp_path, writer(tmp_path, 30_000, 100))
    slow = f"exec {sys.executable} -c 'import os, time\nwhile d := os.read(0, 4096): os.write(1, d); time.sleep(0.008)'"
    data = read_all(tmp_path, python, slow)
    assert data.count(b"w | ") == 30_000
    assert b"dropped" not in data


def test_ten_megabytes_without_a_line_end_arrive_complete(tmp_path: Path, python: str) -> None:
    """The lines are at most 192 KiB long."""
    script = "head -c 10000000 /dev/zero | tr '\\\\0' x"
    write_conf(tmp_path, f'[program:w]\ncommand = sh -c "{script}"\nautorestart = false\n')
    lines = [line for line in read_all(tmp_path, python).splitlines() if line.startswith(b"w | ")]
    assert sum(line.count(b"x") for line in lines) == 10_000_000
    assert max(map(len, lines)) < 200_000


def test_lines_of_two_programs_never_mix(tmp_path: Path, python: str) -> None:
    """Two programs write to stdout and stderr, which are the same pipe."""
    other = f"[program:v]\ncommand = sh -c '{sys.executable} {tmp_path}/writer.py 20000 77 >&2'\nautorestart = false\n"
    write_conf(tmp_path, writer(tmp_path, 20_000, 130) + other)
    names = re.compile(rb"(w \| \d{8}x{121}|v \| \d{8}x{68}|supervisord \| .*)")
    lines = read_all(tmp_path, python).splitlines()
    assert all(names.fullmatch(line) for line in lines)
    assert len([line for line in lines if line[0] in b"vw"]) == 40_000


def test_without_a_reader_whole_lines_are_dropped_and_counted(tmp_path: Path, python: str) -> None:
    """The lines kept and the lines counted add up to the lines written. A stop works meanwhile."""
    write_conf(tmp_path, writer(tmp_path, 50_000, 100) + program("side", SLEEP))
    run = subprocess.Popen(command(python, tmp_path), stdout=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)})
    try:
        assert run.stdout
        wait_until(lambda: Supervisord(tmp_path, python).states()["w"] == "done", 30)
        run.send_signal(signal.SIGTERM)
        lines = run.stdout.read().splitlines()
        assert run.wait(10) == 0
    finally:
        kill_descendants(run.pid)
        run.kill()
        run.wait()
        run.stdout.close()  # type: ignore[union-attr]
    kept = [line for line in lines if line.startswith(b"w | ")]
    (dropped,) = [int(line.split()[4]) for line in lines if b" dropped " in line]
    assert [int(line[4:12]) for line in kept] == list(range(len(kept)))
    assert len(kept) < 50_000 <= len(kept) + dropped <= 50_004  # including supervisord's own lines, such as `exited: w`


@pytest.mark.serial
def test_a_stop_during_a_flood_is_prompt(tmp_path: Path, python: str) -> None:
    with supervising(tmp_path, program("w", "exec yes", "stopwaitsecs = 5"), python) as run:
        wait_until(lambda: len(run.process.lines) > 10_000)
        start = time.monotonic()
        assert run.stop() == 0
        assert time.monotonic() - start < 1


def test_a_stop_without_a_reader_is_prompt(tmp_path: Path, python: str) -> None:
    """Stock supervisord blocks in the write, and does not react to signals."""
    write_conf(tmp_path, program("w", "exec yes"))
    run = subprocess.Popen(command(python, tmp_path), stdout=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)})
    try:
        assert run.stdout
        unread = run.stdout.fileno()
        wait_until(lambda: int.from_bytes(fcntl.ioctl(unread, termios.FIONREAD, bytes(4)), sys.byteorder) > 60_000)
        start = time.monotonic()
        run.terminate()
        assert run.wait(10) == 0
        assert time.monotonic() - start < 2.5
    finally:
        kill_descendants(run.pid)
        run.kill()
        run.wait()
        run.stdout.close()  # type: ignore[union-attr]


def test_json_lines_with_time_for_programs_and_supervisord(tmp_path: Path, python: str) -> None:
    conf = "log_format = json\nlog_time = true\n" + program(
        "w", 'echo "a \\"b\\""; printf "\\n\\377"; echo c >&2', "autorestart = false"
    )
    with supervising(tmp_path, conf, python) as run:
        assert run.process.ended() == 0
        rows = [json.loads(line) for line in run.process.lines]
    assert sorted((row["stream"], row["message"]) for row in rows if row["program"] == "w") == [
        ("stderr", "c"),
        ("stdout", ""),
        ("stdout", 'a "b"'),
        ("stdout", "\N{REPLACEMENT CHARACTER}"),
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["time"]) for row in rows)
    assert {row["level"] for row in rows if row["program"] == "supervisord"} <= {"INFO", "WARN", "CRIT"}


def test_each_line_of_text_begins_with_the_time(tmp_path: Path, python: str) -> None:
    with supervising(tmp_path, "log_time = true\n" + program("w", "echo a", "autorestart = false"), python) as run:
        assert run.process.ended() == 0
        assert all(re.match(r"20\d\d-\d\d-\d\dT[\d:]{8}\.\d{3}Z \w+ \| ", line) for line in run.process.lines)


def test_the_first_line_has_the_same_format_as_the_others(tmp_path: Path, python: str) -> None:
    """As root and without `user`, supervisord logs a warning before it imports a plugin."""
    head = HEAD.replace("user = root\n", "")
    with supervising(tmp_path, program("w", "echo a", "autorestart = false"), python, head=head) as run:
        assert run.process.ended() == 0
        assert run.process.lines[0].startswith("supervisord | ")


@pytest.mark.parametrize("target", ["/dev/stdout", "/dev/fd/1", "AUTO"])
def test_the_usual_ways_to_log_to_stdout_get_names(tmp_path: Path, python: str, target: str) -> None:
    keys = (
        f"stdout_logfile = {target}",
        "stdout_logfile_maxbytes = 0",
        "redirect_stderr = true",
        "autorestart = false",
    )
    with supervising(tmp_path, program("w", "echo a; echo b >&2", *keys), python) as run:
        assert run.process.ended() == 0
        assert run.lines("w") == ["a", "b"]


def test_supervisord_still_writes_a_programs_own_log_file(tmp_path: Path, python: str) -> None:
    keys = (f"stdout_logfile = {tmp_path}/log", "autorestart = false")
    with supervising(tmp_path, program("w", "echo a; echo b >&2", *keys), python) as run:
        assert run.process.ended() == 0
        assert run.lines("w") == ["b"]
        assert (tmp_path / "log").read_text() == "a\n"


def test_a_last_line_without_a_line_end_is_logged(tmp_path: Path, python: str) -> None:
    with supervising(tmp_path, program("w", "printf boom", "autorestart = false"), python) as run:
        assert run.process.ended() == 0
        assert run.lines("w") == ["boom"]
