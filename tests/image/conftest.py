"""A fixture for hardened containers."""

from collections.abc import Iterator

import pytest

from support import engine


@pytest.fixture
def hardened() -> Iterator[list[str]]:
    """Return the options of a hardened container, with a volume for the data."""
    with engine.volume() as volume:
        yield [*engine.HARDENED, "--volume", f"{volume}:/data"]
