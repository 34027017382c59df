"""The documents as their readers see them: commands with what they print, tables, headings, links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support import ROOT

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "pid1/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STREAM = "5f3a9c21"  # of the examples


@dataclass(frozen=True)
class Command:
    """A command of a `console` block, and what it prints: `...` is any text."""

    words: str
    prints: str
    section: tuple[str, ...]  # the headings that it stands below, the document's own first
    last: bool  # of its block

    @property
    def goes_on(self) -> bool:
        """Whether it may go on when all that is shown has been printed."""
        return self.last and self.prints.endswith("...\n")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(path: Path) -> Iterator[Command]:
    """The commands of a document, in their order."""
    text = path.read_text()
    for match in FENCE.finditer(text):
        if match[1] != "console":
            continue
        section = tuple(sections(text[: match.start()]))
        parts = re.split(r"^\$ ", match[2], flags=re.MULTILINE)[1:]
        for index, part in enumerate(parts):
            words, _, prints = part.partition("\n")
            yield Command(words, prints, section, index == len(parts) - 1)


def sections(text: str) -> list[str]:
    """The headings that the end of a text stands below."""
    below: list[str] = []
    for level, title in re.findall(r"^(#+) (.*)$", FENCE.sub("", text), re.MULTILINE):
        below = [*below[: len(level) - 1], title]
    return below


def section(path: Path, *titles: str) -> str:
    """The text below the headings of these titles, each within the one before."""
    text = FENCE.sub("", path.read_text())
    for title in titles:
        match = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,6}} |\Z)", text, re.MULTILINE | re.DOTALL)
        assert match, f"{name(path)} has no section {title}"
        level = len(match[1])
        rest = text[match.start(2) :]
        end = re.search(rf"^#{{1,{level}}} ", rest, re.MULTILINE)
        text = rest[: end.start()] if end else rest
    return text


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, without their heads and rules."""
    lines = text.splitlines()
    tables = [
        line for line, after in zip(lines, [*lines[1:], ""], strict=True) if line.startswith("|") and "---" not in after
    ]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in tables if not line.startswith("|--")]


def names(cell: str) -> list[str]:
    """The words of a cell that are set as code."""
    return re.findall(r"`([^`]*)`", cell)


def anchors(path: Path) -> set[str]:
    """The fragments by which GitHub finds a document's headings."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(path: Path) -> list[str]:
    """The targets of links and pictures that are no URLs."""
    targets = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text()))
    return [target for target in targets if "://" not in target]
