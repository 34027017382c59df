"""Reads the documents: commands with their output, tables, headings and links."""

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
STREAM = "5f3a9c21"  # the stream in the examples


@dataclass(frozen=True)
class Command:
    """A command of a `console` block and its output, in which `...` stands for any text."""

    words: str
    prints: str
    section: tuple[str, ...]  # the headings above it, the document's own first
    last: bool  # whether it is the last of its block

    @property
    def keeps_running(self) -> bool:
        """Return whether the command may still run when it has printed all the output shown."""
        return self.last and self.prints.endswith("...\n")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(path: Path) -> Iterator[Command]:
    """Yield the commands of a document, in order."""
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
    """Return a document without its code blocks."""
    return FENCE.sub("", path.read_text())


def section(path: Path, title: str) -> str:
    """Return the text below a heading, up to the next heading of its level."""
    text = prose(path)
    heading = re.search(rf"^(#+) {re.escape(title)}\n", text, re.MULTILINE)
    assert heading, f"{name(path)} has no section {title}"
    return re.split(rf"^#{{1,{len(heading[1])}}} ", text[heading.end() :], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Return the rows of all tables in a text, without header rows, as lists of cells."""
    tables = re.findall(r"^\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for table in tables for line in table.splitlines()]


def names(cell: str) -> list[str]:
    """Return the code spans of a cell."""
    return re.findall(r"`([^`]*)`", cell)


def anchors(path: Path) -> set[str]:
    """Return the fragments that GitHub gives to a document's headings."""
    titles = [title for _, title in re.findall(HEADING, prose(path), re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(path: Path) -> list[str]:
    """Return the targets of links and images that are not URLs."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)) if "://" not in target]
