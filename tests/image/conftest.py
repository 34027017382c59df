"""The two ways in which a container is run."""

from collections.abc import Iterator

import pytest

from support import engine


@pytest.fixture(params=[(), engine.HARDENED], ids=["plain", "hardened"])
def options(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """How the container is run: as it comes, and with everything taken away that can be."""
    with engine.volume() as volume:
        yield [*request.param, "--volume", f"{volume}:/data"]
