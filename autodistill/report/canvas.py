"""What all charts share: the canvas, its style, how teachers look and what they are called."""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from autodistill.report.slim import slim
from autodistill.report.words import clean, count, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette without yellow, too pale on white, and black, kept for "no teacher". Six colours and seven
# markers have no common factor: 42 teachers look different.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, MUTED, LINE = "#1f2328", "#59636e", "#d8dee4"
"""These, white and the grid's grey change in a dark page (`slim.DARK`)."""
INK_ON_COLOUR, ALMOST_WHITE = "#1f2329", "#fefefe"
"""These do not: they stand on, or are, colours of the data."""
MOST_NAMED = 8
MOST_BARS = 12
MOST_TICKS = 5

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


@contextmanager
def canvas(*, height: float) -> Iterator[tuple["Axes", Callable[[], bytes]]]:
    """Axes of 7.2 x `height` inches, and what turns them into bytes once they are drawn."""
    with blank(height=height) as (figure, done):
        yield figure.add_subplot(), done


@contextmanager
def blank(*, height: float) -> Iterator[tuple["Figure", Callable[[], bytes]]]:
    """A figure of 7.2 x `height` inches without axes, and what turns it into bytes once they are drawn."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        # The reader's fonts set the text, so a glyph that Matplotlib's own font lacks is no loss.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(7.2, height), layout="constrained")
        written = io.BytesIO()
        yield figure, written.getvalue
        # `savefig` would draw everything once more to lay it out, which drawing does by itself.
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(written, metadata=metadata)
        svg = slim(written.getvalue())
        written.seek(0)
        written.truncate()
        written.write(svg)


def look(teacher: str | None, teachers: tuple[str, ...]) -> tuple[str, str]:
    if teacher is None or teacher not in teachers:
        return INK, "o"
    place = teachers.index(teacher)
    return COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]


def named(text: str, longest: int = 26) -> str:
    return " ".join(clean(short(text, longest)).split())


def log_sizes(axes: "Axes", sizes: Sequence[int | float]) -> None:
    """A log axis marked at 1, 3, 10, 30 and so on, closer where few would show, spelled as sizes are elsewhere."""
    low, high = min(sizes) / 1.5, max(sizes) * 1.5
    for steps in ((1, 3), (1, 2, 3, 5, 7)):
        marks = [step * 10.0**power for power in range(-4, 16) for step in steps]
        shown = [mark for mark in marks if low <= mark <= high]
        if len(shown) > 1:
            break
    every = -(-len(shown) // MOST_TICKS) or 1
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(shown[::every], [count(mark) for mark in shown[::every]])
    axes.minorticks_off()
