"""Matplotlib's SVG in half of its bytes, drawing the same: a page embeds many charts."""

import re
from collections.abc import Callable, Mapping
from itertools import chain

FONTS = b"system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SHADES = ("#08306b", "#1f6aa8", "#5b9ecb", "#a6cbe4", "#e8f1f9")
"""From strong to weak on white: each lighter than the one before it, also without colour."""
DARK = {
    b"#ffffff": b"#1c2026",
    b"#1f2328": b"#e9ecef",
    b"#59636e": b"#a3adb8",
    b"#d8dee4": b"#434b55",
    b"#eaeef2": b"#2c323a",
    **{one.encode(): other.encode() for one, other in zip(SHADES, reversed(SHADES), strict=True)},
}
"""What ground, ink, muted ink, lines, grid and shades turn into in a dark page; the teachers' colours stay."""
_TAG = re.compile(rb"<[^>]*>")
_PROLOGUE = re.compile(rb"^<\?xml.*?(?=<svg)", re.DOTALL)
_INDENT = re.compile(rb"^ +", re.MULTILINE)
_FONT = re.compile(rb"font-family: 'DejaVu Sans'[^;\"]*; ?")
_NEEDLESS = re.compile(rb' transform="rotate\(-0 [^)]*\)"|(?<=<g) id="[A-Za-z.0-9]+_\d+"')
_PLACES = re.compile(rb'(?<= )(?:d|x|y|width|height|transform)="[^"]*"')
_DECIMAL = re.compile(rb"-?\d+\.\d+")
_SPACE = re.compile(rb"\s+(?=[A-Za-z\"])|(?<=[A-Za-z])\s+")
_STYLE = re.compile(rb' style="([^"]*)"')
_ID = re.compile(rb'(?<= id=")[^"]*')
_REFERENCE = re.compile(rb'(?<=#)\w+(?=[")])')
_COLOUR = re.compile(rb"#[0-9a-f]{6}")
_GROUP = re.compile(rb"<g>\n?|<g [^>]*[^/]>|</g>\n?")


def slim(svg: bytes) -> bytes:
    """Text in the reader's own fonts, short ids, one decimal for places, styles as classes with a dark twin.

    Only tags are touched, never the text between them, which a user may have written.
    """
    svg = _INDENT.sub(b"", _PROLOGUE.sub(b"", svg))
    svg = svg.replace(b'<style type="text/css">', b"<style>text{font-family:%s}" % FONTS)
    svg = _in_tags(svg, lambda tag: _PLACES.sub(_short_places, _NEEDLESS.sub(b"", _FONT.sub(b"", tag))))
    return _without_bare_groups(_with_short_ids(_with_classes(svg)).replace(b"<g/>\n", b""))


def _in_tags(svg: bytes, change: Callable[[bytes], bytes]) -> bytes:
    return _TAG.sub(lambda tag: change(tag[0]), svg)


def _short_places(attribute: re.Match[bytes]) -> bytes:
    """A tenth of a point is below what a screen shows."""
    value = _DECIMAL.sub(lambda number: b"%g" % round(float(number[0]), 1), attribute[0])
    return _SPACE.sub(b"", value) if value.startswith(b"d=") else value


def _with_classes(svg: bytes) -> bytes:
    """Every style by a name, with a second one for readers who want it dark."""
    found = dict.fromkeys(chain.from_iterable(_STYLE.findall(tag) for tag in _TAG.findall(svg)))
    names = {style: b"c%d" % place for place, style in enumerate(found)}
    light = {b".%s" % name: style.replace(b": ", b":").replace(b"; ", b";") for style, name in names.items()}
    dark = {name: _dark(style) for name, style in {**light, b'rect[fill="#ffffff"]': b"fill:#ffffff"}.items()}
    changed = {name: style for name, style in dark.items() if style != light.get(name)}
    rules = _sheet(light) + b"@media(prefers-color-scheme:dark){%s}" % _sheet(changed)
    svg = _in_tags(svg, lambda tag: _STYLE.sub(lambda style: b' class="%s"' % names[style[1]], tag))
    return svg.replace(b"</style>", rules + b"</style>", 1)


def _dark(style: bytes) -> bytes:
    return _COLOUR.sub(lambda colour: DARK.get(colour[0], colour[0]), style)


def _sheet(rules: Mapping[bytes, bytes]) -> bytes:
    return b"".join(b"%s{%s}" % rule for rule in rules.items())


def _with_short_ids(svg: bytes) -> bytes:
    found = chain.from_iterable(_ID.findall(tag) for tag in _TAG.findall(svg))
    names = {name: b"i%d" % place for place, name in enumerate(dict.fromkeys(found))}

    def short(name: re.Match[bytes]) -> bytes:
        return names.get(name[0], name[0])

    head, end, body = svg.partition(b"</style>")
    return _REFERENCE.sub(short, head) + end + _in_tags(body, lambda tag: _REFERENCE.sub(short, _ID.sub(short, tag)))


def _without_bare_groups(svg: bytes) -> bytes:
    """A group without an attribute changes nothing; each goes with its own end."""
    kept: list[bool] = []

    def tag(found: re.Match[bytes]) -> bytes:
        if not found[0].startswith(b"</"):
            kept.append(found[0].startswith(b"<g "))
            return found[0] if kept[-1] else b""
        return found[0] if kept.pop() else b""

    return _GROUP.sub(tag, svg)
