"""Write docs/page.png, a screenshot of the page with a running generator. Run it with the Python of the tests."""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support import free_port, running, wait_until  # noqa: E402
from support.browser import launched, visiting  # noqa: E402


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data, port = Path(folder, "data"), free_port()
        program = [sys.executable, "-m", "generator", "--file", str(data)]
        with running([*program, "--interval", "0", "--count", "20000"]) as history:
            assert history.ended() == 0
        echo = [sys.executable, "-m", "echo", "--source", "data", "--listen", f"127.0.0.1:{port}"]
        with running([*program, "--interval", "0.5"]), running(echo, cwd=data.parent) as served:
            served.wait_for_log("^serving ")
            size = {"width": 1200, "height": 860}
            with launched() as browser, visiting(browser, f"http://127.0.0.1:{port}", viewport=size) as visit:
                visit.state_is("Live")
                wait_until(lambda: len(visit.numbers()) >= 60, 60)
                visit.page.screenshot(path=ROOT / "docs" / "page.png")


main()
