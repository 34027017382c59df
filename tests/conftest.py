"""Decides which tests can run here, how often they repeat, and which ones run alone."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Generator

import pytest
from hypothesis import settings as profiles

from support import cluster, compose, engine, locked
from support.couplings import COUPLINGS, NEEDS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--coupling", action="append", choices=sorted(COUPLINGS), help="run only this coupling's tests; may be repeated"
    )
    parser.addoption("--slow", action="store_true", help="repeat random tests ten times as often")
    parser.addoption("--url", metavar="URL", help="run only the contract tests, on an application that runs there")
    parser.addoption("--context", default="", help="kubectl's context for the Kubernetes cluster [the current one]")
    parser.addoption("--second-context", default="", help="kubectl's context for the second cluster of a federation")
    parser.addoption(
        "--edge", metavar="HOST", default="", help="the first cluster's address in the second one [its node's]"
    )
    parser.addoption(
        "--registry", metavar="PREFIX", default="", help="the registry of the images [none: they are on the nodes]"
    )
    parser.addoption(
        "--link", metavar="COMMAND", default="", help="takes `cut` or `mend`, for the link between the clusters"
    )


def pytest_configure(config: pytest.Config) -> None:
    cluster.context = config.getoption("--context")
    cluster.second = config.getoption("--second-context")
    cluster.edge = config.getoption("--edge")
    cluster.link = config.getoption("--link")
    cluster.registry = "".join(f"{prefix.rstrip('/')}/" for prefix in [config.getoption("--registry")] if prefix)
    profiles.register_profile("quick", deadline=None, max_examples=100)
    profiles.register_profile("slow", deadline=None, max_examples=1000)
    profiles.load_profile("slow" if config.getoption("--slow") else "quick")


@pytest.fixture(scope="session")
def effort(request: pytest.FixtureRequest) -> int:
    """Return the factor for repetitions of random tests: 10 with --slow, else 1."""
    return 10 if request.config.getoption("--slow") else 1


def coupling(item: pytest.Item) -> str:
    mark = item.get_closest_marker("coupling")
    return str(mark.args[0]) if mark else ""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
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
    skip_where_missing(items, "sidecar", cluster.sidecar_problem, must=False)  # an older cluster only skips the tests
    both = bool(cluster.second) or "federation" in named
    skip_where_missing(items, "federation", cluster.federation_problem, must=both)
    skip_where_missing(items, "link", cluster.link_problem, must=ci and both)

    items.sort(key=lambda item: not serial(item))
    for item in items:
        if group := coupling(item) or ("serial" if serial(item) else ""):
            item.add_marker(pytest.mark.xdist_group(group))  # each coupling is launched once, by one worker


def serial(item: pytest.Item | None) -> bool:
    return bool(item and item.get_closest_marker("serial"))


kept: contextlib.ExitStack | None = None  # the locks of a worker whose next test is serial, too


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Run a serial test while no other worker runs a test. The wait does not count towards the test's time."""
    global kept
    locks = kept or take_turn(serial(item))
    try:
        return (yield)
    finally:
        kept = locks if serial(item) and serial(nextitem) else None
        if not kept:
            locks.close()


def take_turn(alone: bool) -> contextlib.ExitStack:
    """Wait for permission to run a test, alone or not. A worker that waits to be alone goes before the others."""
    with contextlib.ExitStack() as locks, locked("next"):
        locks.enter_context(locked("machine", fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
        return locks.pop_all()


def skip_where_missing(items: list[pytest.Item], mark: str, problem: Callable[[], str], must: bool) -> None:
    """Skip the tests that need something missing, with the reason. With `must`, end the run instead."""
    marked = [item for item in items if item.get_closest_marker(mark)]
    if marked and (reason := problem()):
        if must:
            raise pytest.UsageError(reason)
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))
