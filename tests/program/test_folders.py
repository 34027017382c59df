"""Data folders that are restored or on other file systems: each name has one content, and nothing is lost."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import need, wait_until
from support.replicas import Truth, clients, generating
from support.wire import serving
from support.writer import end_of

FLAGS = ("--interval", "0.001", "--segment-size", "4096")
COPIES = {
    "cp -r": ["cp", "-r", "--preserve=links"],
    "cp -a": ["cp", "-a"],
    "rsync": ["rsync", "--archive", "--delete"],
}


def run(path: Path, seen: Path, truth: Truth, number: int = 300) -> str:
    """Run a generator and an echo until each client has received `number` numbers. Return the stream.

    The generator writes to `path`, and echo reads `seen`. Assert that all clients receive the last number.
    """
    with generating(path, *FLAGS) as generator, serving(seen) as echo:
        generator.wait_for_log("^writing")
        wait_until(lambda: echo.get().status == 200)
        with clients(truth, [echo.port], 3) as hoppers:
            wait_until(lambda: truth.faults or all(hopper.received > number for hopper in hoppers))
            generator.signal(signal.SIGTERM)
            assert generator.ended() == 0
            end = end_of(path)
            wait_until(lambda: truth.faults or all(hopper.last == end for hopper in hoppers))
        assert not truth.faults, truth.faults[:5]
        assert not [hopper.gones for hopper in hoppers if hopper.gones]
        return end[0]


def copy(way: str, source: Path, target: Path) -> None:
    need(COPIES[way][0])
    subprocess.run([*COPIES[way], f"{source}/.", target], check=True)


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("older", [False, True], ids=["away and back", "an older copy"])
def test_a_restored_folder_never_reuses_a_name(tmp_path: Path, way: str, older: bool) -> None:
    """The folder is restored while everything is stopped. An older copy begins a new stream."""
    folder, away, truth = tmp_path / "folder", tmp_path / "away", Truth()
    folder.mkdir()
    stream = run(folder / "data", folder / "data", truth)
    away.mkdir()
    copy(way, folder, away)
    if older:
        assert run(folder / "data", folder / "data", truth) == stream
    if way != "rsync":  # rsync overwrites the files
        shutil.rmtree(folder)
        folder.mkdir()
    copy(way, away, folder)
    restored = run(folder / "data", folder / "data", truth)
    assert not older or restored != stream


@contextlib.contextmanager
def mounted(kind: str, folder: Path) -> Iterator[tuple[Path, Path]]:
    """Mount a file system; yield the generator's folder and echo's folder."""
    names = ("lower", "upper", "work", "seen")
    for name in names:
        (folder / name).mkdir()
    lower, upper, work, seen = (folder / name for name in names)
    commands: dict[str, list[str | Path]] = {
        "tmpfs": ["mount", "-t", "tmpfs", "tmpfs", seen],
        "overlay": [
            "mount",
            "-t",
            "overlay",
            "-o",
            f"lowerdir={lower},upperdir={upper},workdir={work}",
            "overlay",
            seen,
        ],
        "bindfs": ["bindfs", lower, seen],
    }
    command = commands[kind]
    if os.geteuid() != 0:
        pytest.skip("cannot mount a file system: not root")
    need(str(command[0]))
    if (made := subprocess.run(command, capture_output=True, text=True)).returncode:
        pytest.skip(f"cannot mount {kind}: {made.stderr.strip()}")
    try:
        yield lower if kind == "bindfs" else seen, seen
    finally:
        subprocess.run(["umount", seen], check=True)


@pytest.mark.parametrize("kind", ["tmpfs", "overlay", "bindfs"])
def test_followers_lose_nothing_on_other_file_systems(tmp_path: Path, kind: str) -> None:
    """With bindfs the generator writes behind the mount, as on a network file system."""
    with mounted(kind, tmp_path) as (written, seen):
        run(written / "data", seen / "data", Truth(), 2000)
