"""Slimmed SVG has the words, shapes, styles and references of the original; colours have enough contrast."""

import re
from collections.abc import Iterator
from importlib.resources import files
from xml.etree import ElementTree

import pytest

from autodistill.report.canvas import COLOURS, DARK, INK, MUTED, slim

NAMESPACE = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
WRITTEN = """<?xml version="1.0" encoding="utf-8" standalone="no"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN"
  "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9.25 9" xmlns="http://www.w3.org/2000/svg">
 <defs>
  <style type="text/css">*{stroke-linejoin: round}</style>
 </defs>
 <g id="figure_1">
  <g id="patch_1" clip-path="url(#p0123456789)">
   <path d="M 0.04 8.96
L -1.25 0.049
z
" style="fill: none; stroke: #ffffff"/>
   <g id="line2d_1"/>
   <use xlink:href="#m0123456789" x="1.26" y="3.0" style="fill: none; stroke: #ffffff"/>
  </g>
  <g id="text_1">
   <text style="font-size: 9px; font-family: 'DejaVu Sans', sans-serif; fill: #1f2328" x="7.77" y="1"
     transform="rotate(-0 7.77 1)">%s</text>
  </g>
 </g>
 <defs>
  <path id="m0123456789" d="M 0 1.5 L 2.5 0"/>
  <clipPath id="p0123456789"><rect x="0" y="0" width="9.25" height="9"/></clipPath>
 </defs>
</svg>
"""


def styles(svg: bytes, *, dark: bool = False) -> Iterator[str]:
    """Every element's own declarations, without spaces, for readers of a light or of a dark page."""
    root = ElementTree.fromstring(svg)
    sheet = root.findtext(f".//{NAMESPACE}style")
    assert sheet is not None
    light, _, night = sheet.partition("@media(prefers-color-scheme:dark){")
    rules = dict(re.findall(r"\.(\w+)\{([^}]*)\}", light + night if dark else light))
    for element in root.iter():
        style = rules.get(element.get("class", ""), element.get("style"))
        if style:
            yield style.replace(" ", "")


def test_what_is_drawn_stays() -> None:
    before, after = (WRITTEN % "one").encode(), slim((WRITTEN % "one").encode())
    assert list(styles(after)) == [
        "fill:none;stroke:#ffffff",
        "fill:none;stroke:#ffffff",
        "font-size:9px;fill:#1f2328",
    ]
    assert list(styles(after, dark=True)) == [
        "fill:none;stroke:#1c2026",
        "fill:none;stroke:#1c2026",
        "font-size:9px;fill:#e9ecef",
    ]
    root = ElementTree.fromstring(after)
    assert [path.get("d") for path in root.iter(f"{NAMESPACE}path")] == ["M0 9L-1.2 0z", "M0 1.5L2.5 0"]
    use, text = next(root.iter(f"{NAMESPACE}use")), next(root.iter(f"{NAMESPACE}text"))
    assert (use.get("x"), use.get("y"), text.get("x")) == ("1.3", "3", "7.8")
    assert len(after) < len(before)


def test_references_lead_to_their_targets() -> None:
    root = ElementTree.fromstring(slim((WRITTEN % "one").encode()))
    targets = {element.get("id"): element.tag for element in root.iter() if element.get("id")}
    use, clipped = next(root.iter(f"{NAMESPACE}use")), root.find(f".//{NAMESPACE}g[@clip-path]")
    assert targets[use.get(LINK, "")[1:]] == f"{NAMESPACE}path"
    assert clipped is not None
    assert targets[clipped.get("clip-path", "")[5:-1]] == f"{NAMESPACE}clipPath"
    assert len(list(root.iter(f"{NAMESPACE}g"))) == 1


@pytest.mark.parametrize(
    "text", ['style="fill: none; stroke: #ffffff" d="M 0.04 8.96"', 'id="m0123456789" (#m0123456789)', "1.25 0.049"]
)
def test_a_users_text_stays_to_the_letter(text: str) -> None:
    root = ElementTree.fromstring(slim((WRITTEN % text).encode()))
    assert root.findtext(f".//{NAMESPACE}text") == text


def test_dark_ink_can_be_read() -> None:
    """WCAG contrast on the dark ground: 4.5 for text, 3 for the teachers' colours."""
    ground = DARK[b"#ffffff"].decode()
    for ink in (INK, MUTED):
        assert contrast(DARK[ink.encode()].decode(), ground) >= 4.5
    for colour in COLOURS:
        assert contrast(colour, ground) >= 3


@pytest.mark.parametrize("scheme", [0, 1])
def test_contrast_is_at_least_four_and_a_half(scheme: int) -> None:
    """WCAG 2 contrast of every text colour on every background, in the light and the dark scheme."""
    css = files("autodistill.report").joinpath("templates", "style.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", css.split(":root")[1 + scheme]))
    for ink in ("ink", "muted", "accent", "good", "open"):
        for ground in ("page", "card", "faint", "pick"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
