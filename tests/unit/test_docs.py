"""The documents are complete and right: settings, endpoints, metrics, couplings, modules, versions, links."""

import ast
import re
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

import echo.settings
import generator.settings
from echo.auth import Auth
from echo.endpoints.app import App
from echo.endpoints.data import SEGMENT_PREFIX, Data
from echo.endpoints.followers import Followers
from echo.endpoints.metrics import Echo
from echo.endpoints.state import DataState, DataWatcher
from echo.endpoints.stats import Stats
from echo.store import DataFolder, Notifier
from support import ROOT, cluster
from support.couplings import COUPLINGS
from support.docs import DOCUMENTS, FENCE, anchors, commands, links, name, names, rows, section

README, DOCS = ROOT / "README.md", ROOT / "docs"
API, OPERATIONS, COUPLINGS_PAGE = DOCS / "http-api.md", DOCS / "operations.md", DOCS / "couplings.md"
ARCHITECTURE, BENCHMARKS = DOCS / "architecture.md", DOCS / "benchmarks.md"
MAX_README_LINES = 130
VARIABLE = r"\b(?:GENERATOR|ECHO|APPCOUP)_[A-Z_]*[A-Z]\b"
PAST = {"GENERATOR_MAX_SIZE"}  # of version one
INTERNAL = {"APPCOUP_RESTART"}  # from app.sh to supervisord.conf
ELSEWHERE = {  # files that have the version, and how
    "echo/__init__.py": 'VERSION = "(.*)"',
    "pid1/__init__.py": '__version__ = "(.*)"',
    **dict.fromkeys(("Dockerfile", "echo/Dockerfile", "generator/Dockerfile"), 'image.version="(.*?)"'),
}
every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=name)


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= MAX_README_LINES


@every_document
def test_links_lead_somewhere(path: Path) -> None:
    for link in links(path):
        file, _, fragment = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not fragment or fragment in anchors(target), link


@every_document
def test_every_command_is_tested(path: Path) -> None:
    """Commands stand in `console` blocks, which other tests run; pid1's own README has tests of its own."""
    allowed = {"console", "mermaid", "text"} | ({"", "ini", "dockerfile"} if path.parent.name == "pid1" else set())
    assert {language for language, _ in FENCE.findall(path.read_text())} <= allowed


# Settings


PROGRAMS: dict[str, Any] = {"generator": generator.settings.Settings, "echo": echo.settings.Settings}


@pytest.mark.parametrize("program", PROGRAMS)
def test_settings_are_the_programs_own_table(program: str) -> None:
    assert f"\n{PROGRAMS[program].table()}\n" in section(OPERATIONS, program)


@every_document
def test_variables_exist(path: Path) -> None:
    known = {setting.variable for program in PROGRAMS.values() for setting in program.declared}
    assert set(re.findall(VARIABLE, path.read_text())) <= known | PAST | ours()


def ours() -> set[str]:
    """The variables of app.sh and compose.yaml alone."""
    return {
        variable
        for file in ("app.sh", "compose.yaml", "Dockerfile")
        for variable in re.findall(r"\bAPPCOUP_[A-Z_]*[A-Z]\b", (ROOT / file).read_text())
    } - INTERNAL


def test_variables_of_app_sh_and_compose_are_explained() -> None:
    table = rows(section(OPERATIONS, "Variables of app.sh and Compose"))
    assert ours() == {variable for cell, *_ in table for variable in names(cell)} - {"BASE"}


# What echo serves


@pytest.fixture
def app(tmp_path: Path) -> App:
    settings = echo.settings.parse(["--source", str(tmp_path / "data")], {})
    folder = DataFolder(tmp_path / "data")
    data = Data(folder, Followers(1))
    return App(settings, data, DataWatcher(folder), Notifier(folder.path), None, Auth(settings))


def test_endpoints_are_those_of_echo(app: App) -> None:
    (first, *_) = section(API, "HTTP API").split("\n## ")
    documented = {endpoint for cell, *_ in rows(first) for endpoint in names(cell)}
    assert documented == {*app.routes, f"{SEGMENT_PREFIX}SEGMENT"}


@every_document
def test_addresses_in_commands_are_endpoints(path: Path, app: App) -> None:
    for command in commands(path):
        for endpoint in re.findall(r"localhost:\d+(/[\w/-]*)", command.words):
            assert endpoint in app.routes or endpoint.startswith(SEGMENT_PREFIX), command.words


def test_metrics_are_those_of_echo(app: App, tmp_path: Path) -> None:
    data = Data(DataFolder(tmp_path / "data"), Followers(1))
    families = list(Echo(Stats(), data, DataState()).collect()) + list(Echo(Stats(), data, DataState(size=1)).collect())
    exported = {f"{each.name}_total" if each.type == "counter" else each.name: each.type for each in families}
    table = rows(section(API, "`/metrics`"))
    assert exported == {metric: kind for cell, kind, _ in table for metric in names(cell)}


def test_fields_of_the_status_are_those_of_echo() -> None:
    """Those of a mirror are in a second table."""
    source = ast.parse((ROOT / "echo" / "endpoints" / "status.py").read_text())
    keys = [
        [str(key.value) for key in node.keys if isinstance(key, ast.Constant)]
        for node in ast.walk(source)
        if isinstance(node, ast.Dict)
    ]
    documented = [field for cell, *_ in rows(section(API, "`/status`")) for field in names(cell)]
    assert sorted(documented) == sorted(key for each in keys for key in each)


# Couplings


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_each_coupling_has_its_place(coupling: str) -> None:
    """A row in README; a section with its picture and commands."""
    text = section(COUPLINGS_PAGE, coupling)
    assert f"](pictures/{coupling}.svg)" in text
    assert "**Choose it**" in text and "**The article**" in text
    assert any(coupling in command.section for command in commands(COUPLINGS_PAGE))
    assert coupling in [cell for cell, *_ in rows(section(README, "Which coupling"))]


def test_the_pictures_are_what_their_script_draws(tmp_path: Path) -> None:
    """Draw them anew with scripts/pictures.py."""
    script = run_path(str(ROOT / "scripts" / "pictures.py"))
    script["main"].__globals__["FOLDER"] = tmp_path
    script["main"]()
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert drawn == {path.name: path.read_text() for path in (DOCS / "pictures").iterdir()}
    assert {f"{coupling}.svg" for coupling in COUPLINGS} < drawn.keys()


@every_document
def test_kubectl_is_given_what_the_manifests_have(path: Path) -> None:
    """These commands run in no test: their files, and the names in them, exist."""
    applied: dict[tuple[str, ...], set[str]] = {}
    for command in commands(path):
        objects = applied.setdefault(command.section, {"secret/edge", "secret/upstream", "configmap/upstream"})
        for manifest in re.findall(r"k8s/([\w-]+)\.yaml", command.words):
            objects |= {f"{thing['kind'].lower()}/{thing['metadata']['name']}" for thing in cluster.manifest(manifest)}
        named = re.findall(r"\b(?:deployment|service|pod|secret|configmap)/\w+", f"{command.words}\n{command.prints}")
        assert set(named) <= objects, command.words


# The house


def test_arrows_between_modules_are_imports() -> None:
    """Of echo's modules in the picture; imports for types alone do not count."""
    (picture,) = (
        body
        for language, body in FENCE.findall(ARCHITECTURE.read_text())
        if language == "mermaid" and "endpoints[" in body
    )
    modules = set(re.findall(r"^ +(\w+)\[", picture, re.MULTILINE))
    arrows = {(before, after) for before, after in re.findall(r"(\w+) --> (\w+)", picture)}
    found = {
        (path.relative_to(ROOT / "echo").parts[0].removesuffix(".py"), imported)
        for path in (ROOT / "echo").rglob("*.py")
        for imported in imports(path)
    }
    assert arrows == {
        (before, after) for before, after in found if before in modules and after in modules and before != after
    }


def imports(path: Path) -> set[str]:
    """The modules of echo that a file imports when it runs."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {module.split(".")[1] for module in found if module.startswith("echo.")}


@pytest.mark.parametrize("program, other", [("generator", "echo"), ("echo", "generator")])
def test_a_program_does_not_import_the_other(program: str, other: str) -> None:
    for path in (ROOT / program).rglob("*.py"):
        assert not re.search(rf"^\s*(?:from|import) {other}\b", path.read_text(), re.MULTILINE), path


def test_folders_at_the_top_are_explained() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] not in "._"}
    documented = {names(cell)[0].strip("/") for cell, *_ in rows(section(ARCHITECTURE, "The house")) if names(cell)}
    assert folders - {"docs", "data"} <= documented <= folders


@pytest.mark.parametrize("file, pattern", ELSEWHERE.items())
def test_the_version_is_the_changelogs(file: str, pattern: str) -> None:
    newest = re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and re.findall(pattern, (ROOT / file).read_text()) == [newest[1]]


def test_each_bench_is_explained() -> None:
    usage = (ROOT / "bench" / "run").read_text().partition("WORDS'\n")[2].partition("WORDS\n")[0]
    benches = re.findall(r"^  (\w+) ", usage, re.MULTILINE)
    assert benches == re.findall(r"^## ([a-z]\w+)$", BENCHMARKS.read_text(), re.MULTILINE)
