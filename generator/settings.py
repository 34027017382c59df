"""The generator's settings."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from generator.options import Options, boolean, converter, natural, seconds, setting

SIZE_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
MIN_SEGMENT_BYTES = 4096

# The limit of 18 digits keeps lines short.
integer = converter("an integer of at most 18 digits", "-?[0-9]{1,18}", lambda match: int(match[0]))
size = converter(
    "a size such as 65536, 64K, 64MiB or 1G",
    "([0-9]{1,15})([KMG]?)(?:i?B)?",
    lambda match: int(match[1]) * SIZE_UNITS[match[2].upper()],
)


class Settings(Options, program="generator"):
    """Append random numbers to a data file, one a line."""

    file: Path = setting(Path, "data", "PATH", "symlink to the current segment; segments are PATH.STREAM.OFFSET")
    interval: float = setting(seconds, "2", "SECONDS", "time between two numbers; 0: no pause")
    count: int = setting(natural, "0", "NUMBERS", "end after this many numbers; 0: never")
    min: int = setting(integer, "0", "NUMBER", "smallest number")
    max: int = setting(integer, "32767", "NUMBER", "largest number")
    seed: int | None = setting(integer, None, "NUMBER", "the same seed gives the same numbers")
    segment_size: int = setting(size, "64MiB", "BYTES", "begin a new segment before this size is exceeded; 0: never")
    keep: int = setting(natural, "2", "SEGMENTS", "keep this many finished segments")
    fsync: bool = setting(boolean, "no", "YES|NO", "flush each write to the disk")
    heartbeat: Path | None = setting(Path, None, "PATH", "touch this file once a second or more often while alive")


def parse(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings, or end the program with status 2 and one line on stderr."""
    settings = Settings.parse(argv, environ)
    least, size, heartbeat = settings.min, settings.segment_size, settings.heartbeat
    if least > settings.max:
        Settings.refuse(f"--min (GENERATOR_MIN): {least} is more than --max (GENERATOR_MAX), {settings.max}")
    if 0 < size < MIN_SEGMENT_BYTES:
        Settings.refuse(
            f"--segment-size (GENERATOR_SEGMENT_SIZE): {size} is less than {MIN_SEGMENT_BYTES} bytes; 0 is no limit"
        )
    if heartbeat and not heartbeat.parent.is_dir():
        Settings.refuse(f"--heartbeat (GENERATOR_HEARTBEAT): directory {heartbeat.parent} does not exist: create it")
    return settings
