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
HEADING = r"^(#+) (.*)$"
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
        if match[1] == "console":
            below: list[str] = []
            for level, title in re.findall(HEADING, FENCE.sub("", text[: match.start()]), re.MULTILINE):
                below = [*below[: len(level) - 1], title]
            _, *parts = re.split(r"^\$ ", match[2], flags=re.MULTILINE)
            for part in parts:
                words, _, prints = part.partition("\n")
                yield Command(words, prints, tuple(below), part is parts[-1])


def prose(path: Path) -> str:
    """A document without its code."""
    return FENCE.sub("", path.read_text())


def section(path: Path, title: str) -> str:
    """What stands below a heading, up to the next one of its level."""
    text = prose(path)
    heading = re.search(rf"^(#+) {re.escape(title)}\n", text, re.MULTILINE)
    assert heading, f"{name(path)} has no section {title}"
    return re.split(rf"^#{{1,{len(heading[1])}}} ", text[heading.end() :], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, without their heads."""
    tables = re.findall(r"^\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for table in tables for line in table.splitlines()]


def names(cell: str) -> list[str]:
    """The words of a cell that are set as code."""
    return re.findall(r"`([^`]*)`", cell)


def anchors(path: Path) -> set[str]:
    """The fragments by which GitHub finds a document's headings."""
    titles = [title for _, title in re.findall(HEADING, prose(path), re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(path: Path) -> list[str]:
    """The targets of links and pictures that are no URLs."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)) if "://" not in target]
