"""Draw the pictures of the couplings: docs/pictures/NAME.svg for each, and overview.svg with all of them.

A picture is a row of things, and arrows between them along which the numbers go. Light and dark follow the reader's
colour scheme. Look at the pictures after a change.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "docs" / "pictures"

STYLE = """
text { font: 14px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328; text-anchor: middle }
.note { font-size: 12px } .name { font-weight: 700 }
.frame-label { font-size: 12px; text-anchor: start }
rect, path { fill: none; stroke: #59636e; stroke-width: 1.5 }
.program { fill: #ddf4ff; stroke: #0969da } .data { fill: #fff8c5; stroke: #9a6700 }
.frame { fill: #818b981a } .thin { stroke-dasharray: 5 4 } .head { fill: #59636e; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } rect, path { stroke: #9198a1 } .head { fill: #9198a1 }
  .program { fill: #0d2d52; stroke: #4493f8 } .data { fill: #3b2f0b; stroke: #d29922 }
}
"""

CHARACTER = 7.2  # pixels of 14 px text, on average
PAD, LABEL = 12, 18  # around what is in a frame; the height of its label
MIN_GAP = 30  # between two things
SCALE, COLUMN, GAP = 0.85, 330, 16  # of the picture with all of them


def text(x: float, y: float, words: str, kind: str = "", title: str = "") -> str:
    bold = f'<tspan class="name">{escape(title)}:</tspan> ' if title else ""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{bold}{escape(words)}</text>'


@dataclass
class Thing:
    """A program, the data or a client: a word in a shape. `axis` is the height at which arrows meet it."""

    words: str
    kind: str = "program"
    note: str = ""
    height: float = 44

    @property
    def width(self) -> float:
        return max(CHARACTER * len(self.words), 6.4 * len(self.note)) + 24

    @property
    def axis(self) -> float:
        return self.height / 2

    def ports(self, x: float) -> tuple[float, float]:
        """Return where arrows arrive and leave, if the thing is drawn at `x`."""
        return x, x + self.width

    def draw(self, x: float, y: float) -> list[str]:
        middle, width, height = x + self.width / 2, self.width, self.height
        if self.kind == "data":  # a cylinder
            shape = (
                f'<path class="data" d="M{x:g} {y + 6:g}v{height - 12:g}a{width / 2:g} 6 0 0 0 {width:g} 0'
                f'v-{height - 12:g}a{width / 2:g} 6 0 0 0 -{width:g} 0a{width / 2:g} 6 0 0 0 {width:g} 0"/>'
            )
            return [shape, text(middle, y + height / 2 + 9, self.words)]
        shape = f'<rect class="{self.kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>'
        if not self.note:
            return [shape, text(middle, y + height / 2 + 5, self.words)]
        return [shape, text(middle, y + 19, self.words), text(middle, y + 35, self.note, "note")]


@dataclass
class Frame:
    """Things in a row, within a frame that has a label; without a label there is no frame. `arrows` have words too."""

    label: str
    things: Sequence["Thing | Frame"]
    arrows: Sequence[str] = ()
    kind: str = "frame"
    title: str = ""  # before the label, in bold

    @property
    def pad(self) -> float:
        return PAD if self.label else 0

    @property
    def top(self) -> float:
        return LABEL + PAD / 2 if self.label else 0

    @property
    def gaps(self) -> list[float]:
        words = [*self.arrows, *[""] * len(self.things)][: len(self.things) - 1]
        return [max(MIN_GAP, 6.2 * len(each) + 18) for each in words]

    @property
    def width(self) -> float:
        inside = sum(thing.width for thing in self.things) + sum(self.gaps)
        return max(inside, 6.4 * len(self.title + self.label)) + 2 * self.pad

    @property
    def axis(self) -> float:
        return self.top + max(thing.axis for thing in self.things)

    @property
    def height(self) -> float:
        below = max(thing.height - thing.axis for thing in self.things)
        return self.axis + below + self.pad

    def places(self, x: float) -> list[float]:
        inside = sum(thing.width for thing in self.things) + sum(self.gaps)
        places = [x + (self.width - inside) / 2]
        for thing, gap in zip(self.things, self.gaps, strict=False):
            places.append(places[-1] + thing.width + gap)
        return places

    def ports(self, x: float) -> tuple[float, float]:
        places = self.places(x)
        return self.things[0].ports(places[0])[0], self.things[-1].ports(places[-1])[1]

    def draw(self, x: float, y: float) -> list[str]:
        parts = []
        if self.label:
            size = f'width="{self.width:g}" height="{self.height:g}"'
            parts = [f'<rect class="{self.kind}" x="{x:g}" y="{y:g}" {size} rx="8"/>']
            parts.append(text(x + PAD, y + LABEL - 1, self.label, "frame-label", self.title))
        places = self.places(x)
        for thing, place in zip(self.things, places, strict=True):
            parts += thing.draw(place, y + self.axis - thing.axis)
        for index, words in enumerate([*self.arrows, *[""] * len(self.things)][: len(self.things) - 1]):
            start = self.things[index].ports(places[index])[1] + 2
            end = self.things[index + 1].ports(places[index + 1])[0] - 2
            between = (places[index] + self.things[index].width + places[index + 1]) / 2
            parts += arrow(start, end, y + self.axis, words, between)
        return parts


def arrow(start: float, end: float, y: float, words: str, middle: float) -> list[str]:
    head = f'<path class="head" d="M{end:g} {y:g}l-9 -5v10z"/>'
    return [f'<path d="M{start:g} {y:g}H{end - 8:g}"/>', head, text(middle, y - 6, words, "note")]


def svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<title>{escape(title)}</title>'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>\n"])


CLIENT = Thing("curl", "client")
WRITER, READER = Thing("generator"), Thing("echo")


def thin(label: str, *things: Thing | Frame, arrows: Sequence[str] = ()) -> Frame:
    return Frame(label, things, arrows, "frame thin")


def data(words: str = "data") -> Thing:
    return Thing(words, "data")


def pair(label: str, kind: str = "frame") -> Frame:
    """Both programs and the file between them."""
    return Frame(label, (WRITER, data(), READER), ("appends", "reads"), kind)


def two_containers(label: str, between: str, first: str = "container", second: str = "container") -> Frame:
    """A container or pod for each program, and a volume between them."""
    return Frame(label, (thin(first, WRITER), data(between), thin(second, READER)), ("appends", "reads"))


ADAPTER = thin("pod: two containers", WRITER, data(), Thing("echo", note="the adapter"))
MIRRORS = thin("2 to 5 pods", Thing("echo", note="mirrors"))
EDGE = thin("2 pods", Thing("echo", note="the edge"))

COUPLINGS = {
    "process": ("Two processes of one machine", Frame("machine", (pair("supervisord", "frame thin"),))),
    "container": (
        "Two processes of one container",
        Frame("machine", (pair("container, supervisord is PID 1", "frame thin"),)),
    ),
    "compose": ("Two containers of one host", two_containers("host", "volume")),
    "pod": ("Two containers of one pod", two_containers("one pod on one node", "emptyDir")),
    "pod-sidecar": (
        "A pod whose generator is a native sidecar",
        two_containers("one pod on one node", "emptyDir", "1: sidecar", "2: container"),
    ),
    "volume": ("Two Deployments, one volume", two_containers("cluster", "claim", "pod", "pods")),
    "services": (
        "Two Deployments, an API between them",
        Frame("cluster", (ADAPTER, MIRRORS), ("HTTP",)),
    ),
    "federation": (
        "Two clusters",
        Frame(
            "",
            (Frame("first cluster", (ADAPTER, EDGE), ("HTTP",)), Frame("second cluster", (MIRRORS,))),
            ("HTTPS, token",),
        ),
    ),
}


def draw_one(title: str, frame: Frame) -> str:
    whole = Frame("", (frame, CLIENT), ("GET /data",))
    return svg(whole.width + 4, whole.height + 4, title, whole.draw(2, 2))


def draw_all() -> str:
    """Return a picture with all couplings, the tightest first, two in a row, each with its name."""
    parts, y, widest = [], 2.0, 0.0
    for row in zip(*[iter(COUPLINGS.items())] * 2, strict=True):
        x = 2.0
        for name, (_, frame) in row:
            if frame.label:
                named = replace(frame, title=name)
            else:
                named = replace(frame, things=(replace(frame.things[0], title=name), *frame.things[1:]))
            parts.append(f'<g transform="translate({x:g} {y:g}) scale({SCALE})">{"".join(named.draw(0, 0))}</g>')
            x += max(COLUMN, named.width * SCALE + GAP)
            widest = max(widest, x - GAP)
        y += GAP + SCALE * max(frame.height for _, (_, frame) in row)
    return svg(widest + 2, y - GAP + 2, "The couplings, from the tightest to the loosest", parts)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (title, frame) in COUPLINGS.items():
        (FOLDER / f"{name}.svg").write_text(draw_one(title, frame))
    (FOLDER / "overview.svg").write_text(draw_all())


if __name__ == "__main__":
    main()
