"""A real browser, and what it saw on a page of echo's."""

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

# Before the page's own script: each event is noted as it comes, whatever the page makes of it.
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
    """Chromium as Debian has it; where it is missing the test is skipped, but not in CI."""
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
    """A page that is looked at."""

    page: Page
    requests: list[str] = field(default_factory=list)  # addresses
    errors: list[str] = field(default_factory=list)  # of the page and on its console

    def do(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def text(self, name: str) -> str:
        """Of the element with this id."""
        return self.page.locator(f"#{name}").inner_text()

    @property
    def count(self) -> int:
        """As the page tells it."""
        return int(self.text("count").replace(",", ""))

    @property
    def label(self) -> str:
        """What the line is for those who do not see it."""
        return self.page.locator("#line").get_attribute("aria-label") or ""

    def numbers(self) -> list[str]:
        """That came as events."""
        numbers: list[str] = self.do("events.filter(([type]) => type === 'message').map(([, data]) => data)")
        return numbers

    def others(self) -> list[str]:
        """Types of the events that are no numbers."""
        types: list[str] = self.do("events.map(([type]) => type).filter((type) => type !== 'message')")
        return types

    def fetched(self) -> int:
        """Bytes of the file that were there before the first event."""
        return int(self.do("sources[0].url").rpartition("-")[2])

    def state_is(self, state: str, within: float = 20) -> None:
        def told() -> bool:
            assert self.text("state") == state, f"{self.text('state')!r}: {self.text('notice')!r}"
            return True

        wait_until(told, within)


@contextlib.contextmanager
def visiting(browser: Browser, address: str, **context: Any) -> Iterator[Visit]:
    """Look at a page in a context of its own, with Playwright's settings for one."""
    with browser.new_context(**context) as own:
        visit = Visit(own.new_page())
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.on("console", lambda said: visit.errors.append(said.text) if said.type == "error" else None)
        visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
        visit.page.add_init_script(NOTES)
        visit.page.goto(address)
        yield visit
