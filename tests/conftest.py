"""Which tests can run here."""

import os
from collections.abc import Callable

import pytest

from support import cluster, compose, engine
from support.couplings import COUPLINGS, NEEDS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--coupling", action="append", choices=sorted(COUPLINGS), help="only the tests of this one; may be repeated"
    )
    parser.addoption("--slow", action="store_true", help="let chaos last for three minutes")
    parser.addoption("--url", metavar="URL", help="only the contract, of an application that runs there")
    parser.addoption("--context", default="", help="the Kubernetes cluster, by kubectl's name [the current one]")
    parser.addoption("--second-context", default="", help="another one, for a federation")
    parser.addoption("--edge", metavar="HOST", default="", help="the address of the first in the second [its node]")
    parser.addoption("--registry", metavar="PREFIX", default="", help="where it finds the images [on its nodes]")
    parser.addoption(
        "--link", metavar="COMMAND", default="", help="cuts or mends the link between the two: the word that follows"
    )


def pytest_configure(config: pytest.Config) -> None:
    cluster.context = config.getoption("--context")
    cluster.second = config.getoption("--second-context")
    cluster.edge = config.getoption("--edge")
    cluster.link = config.getoption("--link")
    cluster.registry = "".join(f"{prefix.rstrip('/')}/" for prefix in [config.getoption("--registry")] if prefix)


def coupling(item: pytest.Item) -> str:
    mark = item.get_closest_marker("coupling")
    return str(mark.args[0]) if mark else ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = {*(config.getoption("--coupling") or []), *(["url"] if config.getoption("--url") else [])}
    if wanted:
        config.hook.pytest_deselected(items=[item for item in items if coupling(item) not in wanted])
        items[:] = [item for item in items if coupling(item) in wanted]
    ci = bool(os.environ.get("CI"))
    named = {need for name in wanted for need in NEEDS.get(name, [])}
    on = (ci and bool(os.environ.get("KUBECONFIG"))) or bool(cluster.context)
    skip_where_missing(items, "docker", engine.problem, must=ci or "docker" in named)
    skip_where_missing(items, "compose", compose.problem, must=ci or "compose" in named)
    skip_where_missing(items, "kubernetes", cluster.problem, must=on or "kubernetes" in named)
    skip_where_missing(items, "sidecar", cluster.sidecar_problem, must=False)  # with the reason on an older cluster
    both = bool(cluster.second) or "federation" in named
    skip_where_missing(items, "federation", cluster.federation_problem, must=both)
    skip_where_missing(items, "link", cluster.link_problem, must=ci and both)


def skip_where_missing(items: list[pytest.Item], mark: str, problem: Callable[[], str], must: bool) -> None:
    """Tests of what does not answer are skipped with the reason; where it was asked for, that ends the run."""
    marked = [item for item in items if item.get_closest_marker(mark)]
    if marked and (reason := problem()):
        if must:
            raise pytest.UsageError(reason)
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))
