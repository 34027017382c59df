"""A real browser, and what it shows and receives on echo's page."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from support import wait_until

CHROMIUM = Path("/usr/bin/chromium")
QUIET = ["background-networking", "component-update", "gpu", "quic", "sync"]
FLAGS = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]

# Runs before the page's own script, and records each event as it arrives.
NOTES = """
window.sources = [];
window.events = [];
window.EventSource = class extends EventSource {
  constructor(address) {
    super(address);
    window.sources.push(this);
    for (const type of ['message', 'gone']) {
      this.addEventListener(type, (event) => window.events.push([type, event.data, event.lastEventId]));
    }
  }
};
"""


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """Start Debian's Chromium. Skip the test where it is missing, but fail in CI."""
    if not CHROMIUM.exists():
        assert not os.environ.get("CI"), f"{CHROMIUM} is missing"
        pytest.skip(f"{CHROMIUM} is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """An open page."""

    page: Page
    requests: list[str] = field(default_factory=list)  # addresses
    errors: list[str] = field(default_factory=list)  # errors of the page and on its console

    def do(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def text(self, name: str) -> str:
        """Return the text of the element with this id."""
        return self.page.locator(f"#{name}").inner_text()

    @property
    def count(self) -> int:
        """The count of numbers that the page shows."""
        return int(self.text("count").replace(",", ""))

    @property
    def label(self) -> str:
        """The text alternative of the line chart."""
        return self.page.locator("#line").get_attribute("aria-label") or ""

    def numbers(self) -> list[str]:
        """Return the numbers that arrived as events."""
        numbers: list[str] = self.do("events.filter(([type]) => type === 'message').map(([, data]) => data)")
        return numbers

    def others(self) -> list[str]:
        """Return the types of all other events."""
        types: list[str] = self.do("events.map(([type]) => type).filter((type) => type !== 'message')")
        return types

    def fetched(self) -> int:
        """Return the offset in the file at which the events start."""
        return int(self.do("sources[0].url").rpartition("-")[2])

    def state_is(self, state: str, within: float = 20) -> None:
        def reached() -> bool:
            assert self.text("state") == state, f"{self.text('state')!r}: {self.text('notice')!r}"
            return True

        wait_until(reached, within)


@contextlib.contextmanager
def visiting(browser: Browser, address: str, **context: Any) -> Iterator[Visit]:
    """Open a page in a new context, with Playwright's settings for contexts."""
    with browser.new_context(**context) as own:
        visit = Visit(own.new_page())
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.on("console", lambda line: visit.errors.append(line.text) if line.type == "error" else None)
        visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
        visit.page.add_init_script(NOTES)
        visit.page.goto(address)
        yield visit
