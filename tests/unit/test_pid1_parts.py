"""Tests of pid1's parts: settings, the graph of dependencies, the output buffer and checks."""

import os
from pathlib import Path

import pytest

from pid1.checks import FileCheck, Watch
from pid1.launch import conf_path
from pid1.order import stop_turns
from pid1.output import BUFFER_BYTES, NO_READER_SECONDS, Format, Stream
from pid1.settings import PROGRAM, parse, read_env_file


def test_programs_without_dependants_stop_first() -> None:
    graph = {"db": [], "cache": [], "api": ["db", "cache"], "web": ["api", "db"], "log": []}
    assert stop_turns(graph) == {"db": 2, "cache": 2, "api": 1, "web": 0, "log": 0}


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"a": ["b"]}, "depends_on of a: unknown program b"),
        ({"a": ["a"]}, "depends_on has a cycle: a -> a"),
        ({"a": ["b"], "b": ["c"], "c": ["a"]}, "depends_on has a cycle: "),
    ],
)
def test_unknown_names_and_cycles_are_refused(graph: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stop_turns(graph)


def test_a_dense_graph_is_sorted_at_once() -> None:
    graph = {str(number): [str(other) for other in range(number)] for number in range(50)}
    assert stop_turns(graph)["0"] == 49


@pytest.mark.parametrize(
    ("key", "right", "wrong"),
    [
        ("depends_on", "a:ready, b:exited", "a, b"),
        ("ready", "http://127.0.0.1:80/x?y", "http:///x"),
        ("ready", "tcp://[::1]:5432", "tcp://localhost"),
        ("ready", "log:listening on [0-9]+", "log:("),
        ("ready", "notify", "relative/file"),
        ("alive", "exec:true", "exec:"),
        ("alive", "/run/x", "notify"),
        ("restart_delay", "0.25", "0"),
        ("give_up_on", "2,78", "2,x"),
    ],
)
def test_an_error_names_the_wrong_setting(key: str, right: str, wrong: str) -> None:
    assert key in parse(PROGRAM, {key: right})
    with pytest.raises(ValueError, match=f"^{key} = "):
        parse(PROGRAM, {key: wrong})


def test_an_env_file_has_quotes_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("A=1\n\n# no\nexport B='x y' # yes\nC=\"a=b\"\nD=\n")
    assert read_env_file(str(path)) == {"A": "1", "B": "x y", "C": "a=b", "D": ""}


@pytest.mark.parametrize(
    "words", [["-c", "{0}"], ["-c{0}"], ["-nc", "{0}"], ["--configuration={0}"], ["-n", "--configuration", "{0}"]]
)
def test_the_conf_is_found_among_the_arguments(tmp_path: Path, words: list[str]) -> None:
    conf = tmp_path / "supervisord.conf"
    conf.touch()
    assert conf_path([word.format(conf) for word in words]) == str(conf)


# Streams


def pipe_stream() -> tuple[int, Stream]:
    """Return the reading end of a pipe, and a stream that writes to it."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    return reader, Stream(writer, Format(False, False))


def test_lines_are_dropped_only_after_5_s_without_a_reader() -> None:
    """Each line is kept or counted, in order. The notice is where the lines are missing."""
    reader, stream = pipe_stream()
    line, added, now = b"x" * 99 + b"\n", 0, 100.0
    stream.drain(now)
    while not stream.full():
        stream.add([line])
        added += 1
        stream.drain(now)
    stream.drain(now + NO_READER_SECONDS - 0.1)
    assert not stream.dropping
    stream.drain(now + NO_READER_SECONDS)
    assert stream.dropping
    stream.add([line * 1000])
    read = b""
    while stream.chunks:
        read += os.read(reader, 65536)
        stream.drain(now + 60)
    stream.add([b"last\n"])
    stream.drain(now + 60)
    read += os.read(reader, 2**20)
    *kept, notice, last = read.splitlines()
    assert len(kept) == added
    assert notice == b"supervisord | WARN dropped 1000 lines of output: no reader for 5 s"
    assert (last, stream.dropped) == (b"last", 1000)
    for fd in (reader, stream.fd):
        os.close(fd)


def test_a_slow_reader_loses_no_line() -> None:
    reader, stream = pipe_stream()
    stream.add([b"x\n" * BUFFER_BYTES])
    for second in range(20):
        os.read(reader, 8192) if second else None
        stream.drain(float(second * 4))
        assert not stream.dropping
    for fd in (reader, stream.fd):
        os.close(fd)


def test_a_reader_that_closed_the_pipe_does_no_harm() -> None:
    reader, stream = pipe_stream()
    os.close(reader)
    stream.add([b"x\n"])
    stream.drain(1.0)
    assert not stream.chunks and not stream.size
    os.close(stream.fd)


# Checks


def test_a_file_check_passes_on_change_not_by_age(tmp_path: Path) -> None:
    passed: list[int] = []
    path = tmp_path / "beat"
    path.touch()
    check = FileCheck(str(path), lambda *_: passed.append(1))
    check.start()
    assert not passed  # an earlier process left the file
    os.utime(path, (2**32, 2**32))
    check.start()
    check.start()
    assert len(passed) == 1  # a time in the future counts as one change


class Check:
    """A check that never passes, and counts how often it runs."""

    def __init__(self) -> None:
        self.starts = 0

    def start(self) -> None:
        self.starts += 1

    def reset(self) -> None:
        pass


@pytest.mark.parametrize(("limit", "eager", "most"), [(60, True, 90), (10, False, 5)])
def test_a_watch_is_late_exactly_at_its_limit(limit: float, eager: bool, most: int) -> None:
    check = Check()
    watch = Watch(limit, lambda passed: check, eager)
    now = 0.0
    while not watch.late() and now < 100:
        now += watch.turn("process", now) or 1e-6
    assert now == pytest.approx(limit, abs=0.01)
    assert 3 <= check.starts <= most


def test_a_watch_without_a_process_runs_no_check() -> None:
    check = Check()
    watch = Watch(10, lambda passed: check, False)
    for now in range(100):
        assert watch.turn(None, float(now)) == 10
    assert not check.starts
    assert not watch.late()
