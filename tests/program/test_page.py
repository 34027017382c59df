"""Tests of the page at /, with a real browser, echo and generator."""

import contextlib
import json
import os
import random
import re
import signal
import statistics
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from support import Program, free_port, running, wait_until
from support.browser import Visit, launched, visiting
from support.writer import content as kept
from support.writer import opened

SIX = {"GENERATOR_MIN": "10000", "GENERATOR_MAX": "99998"}  # bytes per line
HISTORY = b"".join(b"%d\n" % number for number in range(10_000, 10_050))
NEARLY_FULL = b"".join(b"%d\n" % number for number in range(10_000, 10_652))  # 30 more fit into 4096 bytes
ROTATING = {"GENERATOR_COUNT": "80", "GENERATOR_SEGMENT_SIZE": "4096"}
BEFORE = "Before: 240 from before this page was opened."
PHONE = {"width": 360, "height": 740}

CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const light = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data]
      .map((part) => part / 255).map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = getComputedStyle(document.body).backgroundColor;
  const ratio = (colour) => {
    const [dark, bright] = [light(colour), light(paper)].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  const own = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const words = [...document.body.querySelectorAll('*')].filter((element) => element.checkVisibility() && own(element));
  const states = ['connecting', 'live', 'reconnecting', 'paused'].map((state) => {
    document.querySelector('#state').dataset.state = state;
    return ratio(getComputedStyle(document.querySelector('#state')).color);
  });
  const root = getComputedStyle(document.documentElement);
  return {
    paper,
    words: words.map((element) => ratio(getComputedStyle(element).color)).concat(states),
    marks: ['--mark', '--past', '--fair', '--edge'].map((name) => ratio(root.getPropertyValue(name))),
  };
}"""

# Returns whether something is drawn in one of the style's colours.
DRAWN = """([id, name]) => {
  const style = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const wanted = style.match(/[0-9a-f]{2}/g).map((part) => parseInt(part, 16));
  const canvas = document.querySelector(id);
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] === 255 && wanted.every((part, index) => part === data[at + index])) return true;
  }
  return false;
}"""

FRAMES = """() => new Promise((done) => {
  const began = performance.now();
  let frames = 0;
  const next = () => (frames += 1) < 150 ? requestAnimationFrame(next) : done(150_000 / (performance.now() - began));
  requestAnimationFrame(next);
})"""

CHANGES = """() => new Promise((done) => {
  const times = [];
  new MutationObserver(() => times.push(performance.now()) === 5 && done(times.slice(1).map((t, n) => t - times[n])))
    .observe(document.querySelector('#newest'), { childList: true, characterData: true, subtree: true });
})"""

# Makes the first connection open and then stay silent for ever.
SILENT = """
const Real = window.EventSource;
let first = true;
window.EventSource = class extends Real {
  constructor(address) {
    if (!first) return new Real(address);
    first = false;
    const silent = { close() {}, addEventListener() {}, readyState: Real.OPEN };
    setTimeout(() => silent.onopen());
    return silent;
  }
};
"""


class Site:
    """A data folder and an address, for a generator and an echo that a test starts and ends."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def echo(self, **settings: str) -> Iterator[Program]:
        where = {"ECHO_SOURCE": str(self.data), "ECHO_LISTEN": f"127.0.0.1:{self.port}"}
        with running([sys.executable, "-m", "echo"], where | settings) as program:
            program.wait_for_log("^serving ")
            yield program

    def generator(self, interval: float, **settings: str) -> contextlib.AbstractContextManager[Program]:
        what = {"GENERATOR_FILE": str(self.data), "GENERATOR_INTERVAL": str(interval)}
        return running([sys.executable, "-m", "generator"], what | SIX | settings)

    def write(self, content: bytes) -> None:
        """Write a segment, as a stopped generator leaves it."""
        with opened(self.data) as folder:
            folder.append(content)

    def append(self, content: bytes) -> None:
        with self.data.open("ab") as file:
            file.write(content)

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/status") as response:
            status: dict[str, Any] = json.load(response)
            return status


def saw(visit: Visit, content: bytes, count: int | None = None) -> None:
    """Wait until the page got each number of `content` once and in order, and shows their count."""
    expected = content[visit.fetched() :].decode().split()

    def all_of_it() -> bool:
        assert visit.numbers() == expected
        assert visit.count == (content.count(b"\n") if count is None else count)
        return True

    wait_until(all_of_it)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An echo that serves a finished file."""
    site = Site(tmp_path_factory.mktemp("still"))
    site.write(HISTORY)
    with site.echo(ECHO_STALE="0"):
        yield site


# Completeness


def test_the_page_shows_exactly_the_numbers_of_the_file(browser: Browser, site: Site) -> None:
    site.write(HISTORY)
    with site.echo(), site.generator(0.05) as generator, visiting(browser, site.url) as visit:
        visit.state_is("Live")
        wait_until(lambda: len(visit.numbers()) >= 20)
        generator.signal(signal.SIGTERM)
        generator.ended()
        content = site.data.read_bytes()
        saw(visit, content)
        assert visit.fetched() >= len(HISTORY)
        assert visit.text("newest") == content.decode().split()[-1]
        assert visit.others() == []


def test_the_page_resumes_after_echo_was_killed(browser: Browser, site: Site) -> None:
    site.write(HISTORY)
    with site.generator(0.02) as generator, visiting_over_a_kill(browser, site) as visit:
        generator.signal(signal.SIGTERM)
        generator.ended()
        saw(visit, site.data.read_bytes())
        assert visit.others() == []


@contextlib.contextmanager
def visiting_over_a_kill(browser: Browser, site: Site) -> Iterator[Visit]:
    """Open a page, kill its echo, and start it again after ten more numbers."""
    with site.echo() as echo, visiting(browser, site.url) as visit:
        visit.state_is("Live")
        wait_until(lambda: len(visit.numbers()) >= 10)
        echo.signal(signal.SIGKILL)
        echo.ended()
        visit.state_is("Reconnecting")
        assert visit.text("notice")
        size = site.data.stat().st_size
        wait_until(lambda: site.data.stat().st_size >= size + 60)
        with site.echo():
            visit.state_is("Live")
            assert visit.text("notice") == ""
            yield visit


def test_no_number_is_missing_where_a_segment_ends(browser: Browser, site: Site) -> None:
    site.write(NEARLY_FULL)
    with site.echo(), visiting(browser, site.url) as visit:
        visit.state_is("Live")
        with site.generator(0.01, **ROTATING) as generator:
            assert generator.ended() == 0
        assert site.data.stat().st_size == 300
        saw(visit, kept(site.data), count=50)
        assert visit.others() == []
        assert visit.text("notice") == ""


def test_no_number_is_missing_if_it_ends_while_echo_is_down(browser: Browser, site: Site) -> None:
    site.write(NEARLY_FULL)
    with visiting_before_a_kill(browser, site) as visit:
        with site.generator(0.01, **ROTATING) as generator:
            assert generator.ended() == 0
        with site.echo():
            saw(visit, kept(site.data), count=50)
            assert visit.others() == []


@contextlib.contextmanager
def visiting_before_a_kill(browser: Browser, site: Site) -> Iterator[Visit]:
    """Open a page, and kill its echo."""
    with site.echo() as echo, visiting(browser, site.url) as visit:
        visit.state_is("Live")
        echo.signal(signal.SIGKILL)
        echo.ended()
        visit.state_is("Reconnecting")
        yield visit


def test_the_page_says_that_numbers_of_a_lost_file_are_missing(browser: Browser, site: Site) -> None:
    site.write(HISTORY)
    with visiting_before_a_kill(browser, site) as visit:
        site.data.unlink()
        site.data.write_bytes(b"7\n8\n9\n")
        with site.echo():
            visit.state_is("Live")
            wait_until(lambda: "missing" in visit.text("notice"))
            assert visit.numbers() == ["7", "8", "9"]
            wait_until(lambda: (visit.count, visit.text("newest")) == (3, "9"))


def test_the_count_is_exact_if_only_the_files_end_is_fetched(browser: Browser, site: Site) -> None:
    """Lines get longer, so that an estimate from the end would be wrong."""
    site.write(b"".join(b"%s\n" % (b"12345678901234567"[: n // 30_000 + 1]) for n in range(500_000)))
    with site.echo(), site.generator(0.01) as generator, visiting(browser, site.url) as visit:
        visit.state_is("Live")
        wait_until(lambda: len(visit.numbers()) >= 10)
        generator.signal(signal.SIGTERM)
        generator.ended()
        saw(visit, site.data.read_bytes())


# Faults


def test_the_page_waits_for_the_first_number(browser: Browser, site: Site) -> None:
    with site.echo(), visiting(browser, site.url) as visit:
        wait_until(lambda: visit.text("notice") == f"Nothing to show yet: {site.data} does not exist yet.")
        visit.state_is("Connecting")
        wait_until(lambda: visit.text("source") == str(site.data))
        site.append(b"12345\n")
        visit.state_is("Live")
        assert visit.text("notice") == ""
        wait_until(lambda: (visit.text("newest"), visit.text("count")) == ("12345", "1"))


def test_the_page_recovers_from_too_many_followers(browser: Browser, site: Site) -> None:
    site.write(HISTORY)
    with site.echo(ECHO_FOLLOWERS="1"), visiting(browser, site.url) as first:
        first.state_is("Live")
        with visiting(browser, site.url) as second:
            wait_until(lambda: "no follower just now" in second.text("notice"))
            second.state_is("Connecting")
            wait_until(lambda: second.do("sources.length") >= 2)
            site.append(b"12345\n")
            saw(first, site.data.read_bytes())
            first.page.close()
            second.state_is("Live")
            assert second.text("notice") == ""
            saw(second, site.data.read_bytes())


def test_the_page_replaces_a_silent_connection(browser: Browser, site: Site) -> None:
    site.write(HISTORY)
    with site.echo(), site.generator(0.5), visiting(browser, "about:blank") as visit:
        visit.page.add_init_script(SILENT)
        visit.page.goto(site.url)
        visit.state_is("Live")
        wait_until(lambda: visit.text("newest") not in ("\N{EN DASH}", "10049"))


def test_a_hidden_page_closes_its_connection(browser: Browser, site: Site) -> None:
    """Once visible again, it shows the numbers that came meanwhile."""
    site.write(HISTORY)
    with site.echo(), visiting(browser, site.url) as visit:
        visit.state_is("Live")
        assert site.status()["followers"] == 1
        seen = "(hidden) => { Document.prototype.__defineGetter__('hidden', () => hidden); " + (
            "document.dispatchEvent(new Event('visibilitychange')); }"
        )
        visit.do(seen, True)
        wait_until(lambda: site.status()["followers"] == 0)
        site.append(b"12345\n")
        visit.do(seen, False)
        wait_until(lambda: (visit.count, visit.text("newest")) == (51, "12345"))
        visit.state_is("Live")
        wait_until(lambda: site.status()["followers"] == 1)


# Contents


def test_a_visit_has_no_error_and_asks_no_other_host(browser: Browser, site: Site) -> None:
    site.write(HISTORY)
    with site.echo(), site.generator(0.05), visiting(browser, site.url) as visit:
        visit.state_is("Live")
        wait_until(lambda: len(visit.numbers()) >= 20)
        wait_until(
            lambda: visit.text("rate").endswith("per second") and visit.requests.count(f"{site.url}/status") >= 3
        )
        assert visit.errors == []
        assert {address for address in visit.requests if not address.startswith((f"{site.url}/", "data:,"))} == set()
        assert visit.page.title() == f"echo on {site.status()['host']}"


def test_the_page_shows_the_facts_of_status(browser: Browser, still: Site) -> None:
    os.utime(still.data, (1e9, 1e9))
    with visiting(browser, still.url) as visit:
        status = still.status()
        expected = {"count": "50", "size": "300 bytes", "host": status["host"], "source": str(still.data)}
        expected |= {"followers": "1", "rate": "0 per second"}
        wait_until(lambda: {name: visit.text(name) for name in expected} == expected)
        assert re.fullmatch(r"[0-9,]+ h [0-9]+ min", visit.text("age"))
        assert visit.text("newest") == "10049"


def test_a_die_has_six_bins(browser: Browser, site: Site) -> None:
    site.write(b"".join(b"%d\n" % random.randint(1, 6) for _ in range(6000)) + b"1\n2\n3\n4\n5\n6\n")
    with site.echo(), visiting(browser, site.url) as visit:
        histogram = visit.page.get_by_role("img", name="6,006 numbers from 1 to 6 in 6 bins")
        expect(histogram).to_have_accessible_name(re.compile("a fair generator would give 1,000 each"))
        wait_until(lambda: re.search("χ² is [0-9.]+; fair is 5 ± 3", visit.text("verdict")))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"-7\n-7\n", "2 numbers from -7 to -7 in 1 bin"),
        (b"-3\n0\n5\n", "3 numbers from -3 to 5 in 9 bins"),
        (b"-1\nx\n\n2.5\n1\n", "2 numbers from -1 to 1 in 3 bins"),
        (b"1\n40\n", "2 numbers from 1 to 40 in 20 bins"),
        (b"-999999999999999999\n999999999999999999\n", "2 numbers from -1,000,000,000,000,000,000 to 1,0.* in 32 bins"),
    ],
)
def test_any_integers_are_counted_into_bins(browser: Browser, site: Site, content: bytes, words: str) -> None:
    site.write(content)
    with site.echo(), visiting(browser, site.url) as visit:
        visit.state_is("Live")
        expect(visit.page.get_by_role("img", name=re.compile(f"Histogram of {words}:"))).to_be_visible()
        assert visit.errors == []


def test_the_histogram_is_of_the_last_100_000(browser: Browser, site: Site) -> None:
    """Older numbers of another range no longer count."""
    site.write(b"500\n" * 60_000 + b"1\n6\n" * 20_000)
    with site.echo(), visiting(browser, site.url) as visit:
        visit.state_is("Live")
        site.append(b"3\n" * 60_000)
        words = "100,000 numbers from 1 to 6 in 6 bins: the emptiest holds 0, the fullest 60,000"
        expect(visit.page.get_by_role("img", name=words)).to_be_visible(timeout=20_000)


def test_light_and_dark_schemes_have_enough_contrast(browser: Browser, still: Site) -> None:
    """WCAG 2.2, 1.4.3 and 1.4.11, level AA. A change of the scheme redraws the charts at once."""
    with visiting(browser, still.url, color_scheme="light") as visit:
        visit.state_is("Live")
        papers = []
        for scheme in ("light", "dark"):
            visit.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            wait_until(lambda: visit.do(DRAWN, ["#histogram", "--mark"]))
            contrast = visit.do(CONTRAST)
            assert min(contrast["words"]) >= 4.5
            assert len(contrast["words"]) > 30
            assert min(contrast["marks"]) >= 3
            papers.append(contrast["paper"])
        assert papers[0] != papers[1]


@pytest.mark.parametrize("number", [b"5", b"-999999999999999999"])
def test_a_phone_has_no_horizontal_scroll(browser: Browser, site: Site, number: bytes) -> None:
    """WCAG 2.2, 1.4.10."""
    site.data = site.data.with_name("a" * 200)
    site.write(HISTORY + number + b"\n")
    with site.echo(), visiting(browser, site.url, viewport=PHONE, device_scale_factor=2) as visit:
        visit.state_is("Live")
        wait_until(lambda: (visit.text("newest"), visit.text("source")) == (number.decode(), str(site.data)))
        assert visit.do("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]
        wide, density = visit.do("[document.querySelector('#line').clientWidth, devicePixelRatio]")
        assert visit.do("document.querySelector('#line').width") == wide * density
        assert wide > 180


def test_new_numbers_are_drawn(browser: Browser, still: Site, site: Site) -> None:
    """The page first draws the numbers of the file in a pale colour, because they have no times."""
    site.write(HISTORY * 6)
    with site.echo(), visiting(browser, site.url) as visit:
        visit.state_is("Live")
        wait_until(lambda: visit.do(DRAWN, ["#line", "--past"]))
        assert not visit.do(DRAWN, ["#line", "--mark"])
        assert visit.label == f"Line of the 0 numbers of the last two minutes: none came. {BEFORE}"
        site.append(b"10025\n")
        wait_until(lambda: visit.do(DRAWN, ["#line", "--mark"]))
        wait_until(lambda: "the 1 number of the last two minutes: 10025. " in visit.label)


def test_a_mirrors_page_shows_its_source_and_hops(browser: Browser, site: Site, tmp_path: Path) -> None:
    site.write(HISTORY)
    mirror = Site(tmp_path)
    with site.echo() as echo, mirror.echo(ECHO_SOURCE=f"{site.url}/data"), visiting(browser, mirror.url) as visit:
        visit.state_is("Live")
        wait_until(lambda: visit.text("behind") == "nothing")
        (hop,) = mirror.status()["mirror"]["via"]
        assert (visit.text("source"), visit.text("via")) == (f"{site.url}/data", f"1 hop: {hop}")
        echo.signal(signal.SIGKILL)
        wait_until(lambda: visit.text("notice").startswith("The source is away: "))
        wait_until(lambda: visit.text("behind") == "not known")


# Accessibility


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_keyboard_pauses_and_resumes_the_motion(browser: Browser, site: Site, key: str) -> None:
    """WCAG 2.2, 2.1.1 and 2.2.2. While paused, nothing changes and no number is lost."""
    site.write(HISTORY)
    with site.echo(), visiting(browser, site.url) as visit:
        visit.state_is("Live")
        wait_until(lambda: visit.text("newest") == "10049")
        visit.page.keyboard.press("Tab")
        focus = "[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]"
        assert visit.do(focus) == ["pause", "solid"]
        visit.page.keyboard.press(key)
        assert (visit.text("state"), visit.text("pause")) == ("Paused", "Resume")
        picture = visit.page.locator("main").screenshot()
        site.append(b"12345\n")
        wait_until(lambda: visit.numbers() == ["12345"])
        visit.do(FRAMES)
        assert visit.page.locator("main").screenshot() == picture
        visit.page.keyboard.press(key)
        assert (visit.text("state"), visit.text("pause")) == ("Live", "Pause")
        wait_until(lambda: (visit.text("newest"), visit.count) == ("12345", 51))


ACCESSIBLE = """
- banner:
  - heading "echo" [level=1]
  - status: Live
  - button "Pause"
- main:
  - region "Newest number":
    - heading "Newest number" [level=2]
    - paragraph: "10049"
  - region "Facts":
    - term: Age of the newest
    - definition
    - term: Rate, last minute
    - definition
    - term: Numbers in the segment
    - definition: "50"
    - term: Size of the segment
    - definition: 300 bytes
    - term: Followers
    - definition: /[0-9]+/
    - term: Served by host
    - definition
    - term: Read from
    - definition: /data/
  - region "The last two minutes":
    - heading "The last two minutes" [level=2]
    - figure /numbers from before this page/:
      - 'img /Line of the 0 numbers of the last two minutes. none came. Before. 50 from before/'
  - region "How the values spread":
    - heading "How the values spread" [level=2]
    - figure /fair generator/:
      - img /Histogram of 50 numbers from 10,000 to 10,049 in 25 bins/
- contentinfo:
  - navigation "Endpoints":
    - list:
      - listitem:
        - link "/data"
"""


def test_every_part_has_a_role_and_a_name(browser: Browser, still: Site) -> None:
    """The accessibility tree has each part."""
    with visiting(browser, still.url) as visit:
        visit.state_is("Live")
        expect(visit.page.locator("body")).to_match_aria_snapshot(ACCESSIBLE)
        assert visit.page.locator("html").get_attribute("lang") == "en"
        assert visit.page.locator("[aria-live], [role=alert], [role=log], output, [role=status]").count() == 1


def test_without_scripts_the_page_names_the_endpoints(browser: Browser, still: Site) -> None:
    with visiting(browser, still.url, java_script_enabled=False) as visit:
        words = visit.page.locator("main").inner_text()
        for endpoint in ("/data", "/data?tail=N", "/data?follow", "/status", "/metrics", "/healthz", "/readyz"):
            assert endpoint in words
        assert not visit.page.locator("#newest, #pause, canvas").filter(visible=True).count()


def test_every_link_works(browser: Browser, still: Site) -> None:
    with visiting(browser, still.url) as visit:
        links = visit.do("[...document.querySelectorAll('footer a')].map((link) => link.href)")
        assert len(links) == 7
        for link in links:
            with urllib.request.urlopen(link) as response:
                assert response.status == 200


# Speed


@pytest.mark.parametrize(("motion", "least"), [("no-preference", 90), ("reduce", 950)])
def test_the_newest_number_changes_slowly_enough_to_read(browser: Browser, site: Site, motion: Any, least: int) -> None:
    """At most ten changes a second, or one with reduced motion, even if numbers come faster."""
    with site.generator(0.005), site.echo(), visiting(browser, site.url, reduced_motion=motion) as visit:
        visit.state_is("Live")
        # The median, because a late change makes the next interval short.
        assert statistics.median(visit.do(CHANGES)) >= least


@pytest.mark.serial
def test_100_000_numbers_and_100_a_second_keep_the_page_smooth(browser: Browser, site: Site) -> None:
    """It draws at least half as many frames as an empty page."""
    site.write(b"".join(b"%d\n" % random.randint(10_000, 99_998) for _ in range(100_000)))
    with site.echo(), site.generator(0.01), visiting(browser, "about:blank") as visit:
        empty = visit.do(FRAMES)
        visit.page.goto(site.url)
        visit.state_is("Live")
        wait_until(lambda: len(visit.numbers()) >= 100)
        began = len(visit.numbers())
        assert visit.do(FRAMES) >= empty / 2
        assert len(visit.numbers()) > began + 100
