"""How results are printed: medians with their range, percentiles, Markdown tables, a line about the machine."""

import math
import os
import platform
import statistics
import sys
from collections.abc import Sequence


def number(value: float) -> str:
    """Format a value with at least two significant digits: 0.25, 2.5, 25, 2,500."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def spread(values: Sequence[float], unit: str) -> str:
    """Format the median of the values, followed by their range if there is more than one."""
    median = f"{number(statistics.median(values))} {unit}".strip()
    return median if len(values) == 1 else f"{median} ({number(min(values))} to {number(max(values))})"


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that is not exceeded by `percent` percent of the values."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table with aligned columns. The first row is the header."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def machine(*details: str) -> str:
    """Describe the machine in one line: cores, memory, kernel, then the given details."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [f"{os.cpu_count()} cores", f"{memory:.0f} GiB", f"{platform.system()} {platform.release()}", *details]
    return "Machine: " + ", ".join(parts)


def progress(text: str) -> None:
    """Write a line to stderr, so that stdout holds the results only."""
    print(text, file=sys.stderr, flush=True)
