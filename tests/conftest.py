"""Which tests can run here, and the fixtures that many files use."""

import os
from collections.abc import Iterator

import pytest

import engine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Container tests are skipped with the reason where no Docker engine answers; in CI they fail there."""
    marked = [item for item in items if item.get_closest_marker("docker")]
    if marked and (problem := engine.problem()) and not os.environ.get("CI"):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=problem))


@pytest.fixture(params=[(), engine.HARDENED], ids=["plain", "hardened"])
def options(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """How the container is run: as it comes, and with everything taken away that can be."""
    with engine.volume() as volume:
        yield [*request.param, "--volume", f"{volume}:/data"]
