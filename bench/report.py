"""How figures are shown: a median with its range, a Markdown table, the machine in a line."""

import os
import platform
import statistics
import sys
from collections.abc import Sequence


def number(value: float) -> str:
    """Two or more significant digits: 0.25, 2.5, 25, 2,500."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def spread(values: Sequence[float], unit: str) -> str:
    """The median, and from where to where the values went."""
    middle = f"{number(statistics.median(values))} {unit}".strip()
    return middle if len(values) == 1 else f"{middle} ({number(min(values))} to {number(max(values))})"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head, in columns that line up."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def machine(*more: str) -> str:
    """Cores, memory and kernel, and what else matters."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [f"{os.cpu_count()} cores", f"{memory:.0f} GiB", f"{platform.system()} {platform.release()}", *more]
    return "Machine: " + ", ".join(parts)


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
