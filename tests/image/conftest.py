"""The hardened way to run a container."""

from collections.abc import Iterator

import pytest

from support import engine


@pytest.fixture
def hardened() -> Iterator[list[str]]:
    """Options that take everything away that can be, with a volume for the data."""
    with engine.volume() as volume:
        yield [*engine.HARDENED, "--volume", f"{volume}:/data"]
