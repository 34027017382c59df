"""A file by which others see that echo lives, and where it answers."""

import asyncio
import contextlib
import os
from pathlib import Path

HEARTBEAT_SECONDS = 1.0


def begin(path: Path, url: str) -> None:
    """Write the URL to the file. Raises ValueError."""
    try:
        path.write_text(f"{url}\n")
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror} (--heartbeat, ECHO_HEARTBEAT)") from None


async def beat(path: Path, url: str) -> None:
    """Touch the file once a second, and write it again if somebody removed it."""
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        with contextlib.suppress(OSError, ValueError):  # an old file says enough
            os.utime(path) if path.exists() else begin(path, url)
