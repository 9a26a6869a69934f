"""The canvas of all charts: style, colours and markers of teachers, compact SVG with a dark variant.

Text stays text in the reader's own fonts, ids are salted with a constant and no date is written, so equal charts are
equal bytes. Matplotlib is imported when the first chart is drawn.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import chain
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from autodistill.formatting import clean, count, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

# Okabe and Ito's palette without yellow, too pale on white, and black, kept for "no teacher". Six colours and seven
# markers have no common factor: 42 teachers look different.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, MUTED, LINE = "#1f2328", "#59636e", "#d8dee4"
"""These colours, white and the grid's grey change on a dark page (`DARK`)."""
INK_ON_COLOUR, ALMOST_WHITE = "#1f2329", "#fefefe"
"""These do not change on a dark page: they are colours of the data, or lie on them."""
MAX_NAMED = 8
MAX_BARS = 12
MAX_TICKS = 5

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "autodistill",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eaeef2",
    "grid.linewidth": 1,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "path.simplify": False,
}

FONTS = b"system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
DARK = {
    b"#ffffff": b"#1c2026",
    b"#1f2328": b"#e9ecef",
    b"#59636e": b"#a3adb8",
    b"#d8dee4": b"#434b55",
    b"#eaeef2": b"#2c323a",
}
"""Colours on a dark page, by colour on white: ground, ink, muted ink, lines and grid."""
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
_ID_OR_REFERENCE = re.compile(rb'(?<= id=")[^"]*|(?<=#)\w+(?=[")])')
_COLOUR = re.compile(rb"#[0-9a-f]{6}")
_GROUP = re.compile(rb"<g>\n?|<g [^>]*[^/]>|</g>\n?")


def chart(paint: Callable[Concatenate["Figure", P], None]) -> Callable[P, bytes]:
    """Decorate a function that draws on a figure 7.2 inches wide, so that it returns the SVG of the figure."""

    @wraps(paint)
    def draw(*args: P.args, **kwargs: P.kwargs) -> bytes:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        with mpl.rc_context(), warnings.catch_warnings():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE)
            # Readers see their own fonts, so a glyph that Matplotlib's font lacks does no harm.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure = Figure(figsize=(7.2, 4.4), layout="constrained")
            paint(figure, *args, **kwargs)
            written = io.BytesIO()
            # Drawing computes the layout. `savefig` would draw everything once more for it.
            metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            FigureCanvasSVG(figure).print_svg(written, metadata=metadata)
        return slim(written.getvalue())

    return draw


def look(teacher: str | None, teachers: tuple[str, ...]) -> tuple[str, str]:
    """Return the colour and the marker of a teacher; None stands for no teacher."""
    if teacher is None or teacher not in teachers:
        return INK, "o"
    place = teachers.index(teacher)
    return COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]


def named(text: str, longest: int = 26) -> str:
    """Return a name that fits into a chart."""
    return " ".join(clean(short(text, longest)).split())


def log_sizes(axes: "Axes", sizes: Sequence[int | float]) -> None:
    """Make x a log axis with ticks at 1, 3, 10, 30 and so on, or denser where fewer than two would show."""
    low, high = min(sizes) / 1.5, max(sizes) * 1.5
    for steps in ((1, 3), (1, 2, 3, 5, 7)):
        marks = [step * 10.0**power for power in range(-4, 16) for step in steps]
        shown = [mark for mark in marks if low <= mark <= high]
        if len(shown) > 1:
            break
    every = -(-len(shown) // MAX_TICKS) or 1
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(shown[::every], [count(mark) for mark in shown[::every]])
    axes.minorticks_off()


def slim(svg: bytes) -> bytes:
    """Shrink Matplotlib's SVG to about half of its bytes, without a visible change, and add a dark variant.

    Text gets the reader's own fonts, ids become short, coordinates keep one decimal, and styles become classes. Only
    tags change, never the text between them, which may come from a user.
    """
    svg = _INDENT.sub(b"", _PROLOGUE.sub(b"", svg))
    svg = svg.replace(b'<style type="text/css">', b"<style>text{font-family:%s}" % FONTS)
    svg = _in_tags(svg, lambda tag: _PLACES.sub(_short_places, _NEEDLESS.sub(b"", _FONT.sub(b"", tag))))
    svg = _with_classes(_with_short_ids(svg)).replace(b"<g/>\n", b"")
    # Groups without attributes have no effect. They go, with their end tags.
    kept: list[bool] = []

    def without_bare(tag: re.Match[bytes]) -> bytes:
        end = tag[0].startswith(b"</")
        if not end:
            kept.append(tag[0].startswith(b"<g "))
        return tag[0] if (kept.pop() if end else kept[-1]) else b""

    return _GROUP.sub(without_bare, svg)


def _in_tags(svg: bytes, change: Callable[[bytes], bytes]) -> bytes:
    return _TAG.sub(lambda tag: change(tag[0]), svg)


def _short_places(attribute: re.Match[bytes]) -> bytes:
    """Round to a tenth of a point, which is below the resolution of a screen."""
    value = _DECIMAL.sub(lambda number: b"%g" % round(float(number[0]), 1), attribute[0])
    return _SPACE.sub(b"", value) if value.startswith(b"d=") else value


def _with_classes(svg: bytes) -> bytes:
    """Replace inline styles by classes, and add the classes of the dark variant."""
    found = dict.fromkeys(chain.from_iterable(_STYLE.findall(tag) for tag in _TAG.findall(svg)))
    names = {style: b"c%d" % place for place, style in enumerate(found)}
    light = {b".%s" % name: style.replace(b": ", b":").replace(b"; ", b";") for style, name in names.items()}
    every = {**light, b'rect[fill="#ffffff"]': b"fill:#ffffff"}
    dark = {name: _COLOUR.sub(lambda colour: DARK.get(colour[0], colour[0]), style) for name, style in every.items()}
    changed = {name: style for name, style in dark.items() if style != light.get(name)}
    rules, dark_rules = (b"".join(b"%s{%s}" % rule for rule in one.items()) for one in (light, changed))
    rules += b"@media(prefers-color-scheme:dark){%s}" % dark_rules
    svg = _in_tags(svg, lambda tag: _STYLE.sub(lambda style: b' class="%s"' % names[style[1]], tag))
    return svg.replace(b"</style>", rules + b"</style>", 1)


def _with_short_ids(svg: bytes) -> bytes:
    found = chain.from_iterable(_ID.findall(tag) for tag in _TAG.findall(svg))
    names = {name: b"i%d" % place for place, name in enumerate(dict.fromkeys(found))}
    return _in_tags(svg, lambda tag: _ID_OR_REFERENCE.sub(lambda name: names.get(name[0], name[0]), tag))
