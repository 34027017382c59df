"""Write k8s/*.yaml from k8s/source: a line `{{ part argument... }}` stands for that part of parts.in."""

import re
import sys
import textwrap
from pathlib import Path

K8S = Path(__file__).parent.parent / "k8s"
Parts = dict[str, tuple[list[str], str]]  # the names of the parameters and the text, by the part's name


def read_parts(text: str) -> Parts:
    """Return the parts, each of which begins with a line `=== name parameter...`."""
    parts = {}
    for block in re.split(r"^=== ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = block.partition("\n")
        name, *parameters = heading.split()
        parts[name] = parameters, body
    return parts


def expand(text: str, parts: Parts) -> str:
    """Put parts in place of the lines that name them, with their indentation; also inside of parts."""

    def part(line: re.Match[str]) -> str:
        name, *arguments = line[2].split()
        parameters, body = parts[name]
        for parameter, argument in zip(parameters, arguments, strict=True):
            body = body.replace(f"${parameter}", argument)
        return textwrap.indent(expand(body, parts), line[1])

    return re.sub(r"^( *)\{\{ (.+) \}\}\n", part, text, flags=re.MULTILINE)


def main(folder: Path) -> None:
    parts = read_parts((K8S / "source" / "parts.in").read_text())
    for source in (K8S / "source").glob("*.yaml.in"):
        header, first, rest = source.read_text().partition("apiVersion")
        header += f"# Generated: edit k8s/source/{source.name} and run scripts/manifests.py.\n"
        (folder / source.stem).write_text(expand(header + first + rest, parts))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else K8S)
