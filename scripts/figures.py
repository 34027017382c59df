"""scripts/figures.py NAME [options]: run bench/run NAME, and put what it prints into the document that shows it."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> int:
    bench = sys.argv[1] if len(sys.argv) > 1 else ""
    place = re.compile(rf"(?<=<!-- bench/run {re.escape(bench)} -->\n\n).*?(?=\n\n<!-- end -->)", re.DOTALL)
    found = [path for path in (ROOT / "docs").glob("*.md") if place.search(path.read_text())]
    if len(found) != 1:
        print(f"cannot find the place of bench {bench!r} in docs/: give the name of a bench", file=sys.stderr)
        return 2
    done = subprocess.run([ROOT / "bench" / "run", *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return done.returncode
    found[0].write_text(place.sub(lambda _: done.stdout.strip(), found[0].read_text()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
