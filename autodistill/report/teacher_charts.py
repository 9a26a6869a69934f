"""Charts of the teachers: capacity mismatch and dark knowledge."""

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from autodistill.report.canvas import (
    ALMOST_WHITE,
    COLOURS,
    INK,
    INK_ON_COLOUR,
    LINE,
    MOST_NAMED,
    MUTED,
    blank,
    canvas,
    log_sizes,
    look,
    named,
)
from autodistill.report.sections.agreement import AgreementInfo
from autodistill.report.sections.knowledge import QUANTITIES, KnowledgeInfo, Line
from autodistill.report.sections.mismatch import MismatchInfo, MismatchPoint
from autodistill.report.sections.temperatures import Histogram, TemperaturesInfo

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS_IN_A_ROW = 4
SHORT_NAME, LEGEND_NAME = 14, 22
TITLES = {"DA": "mean (DA)", "IV": "inherent variance (IV)", "DV": "derived variance (DV)"}


def mismatch_chart(info: MismatchInfo) -> bytes:
    """The best student's accuracy against the teacher's accuracy and against its size."""
    few = len(info.points) <= MOST_NAMED
    with blank(height=4.2 if few else 3.8) as (figure, done):
        left = figure.add_subplot(1, 2, 1)
        right = figure.add_subplot(1, 2, 2, sharey=left)
        for place, one in enumerate(info.points):
            _draw_student(left, 100 * one.teacher_top1, one, info, number=None if few else place + 1)
            _draw_student(right, one.params, one, info, number=None)
        for axes in (left, right):
            if info.no_teacher is not None:
                axes.axhline(100 * info.no_teacher, color=INK, lw=1.2, ls=(0, (4, 3)), label="no teacher")
        log_sizes(right, [one.params for one in info.points])
        right.tick_params(labelleft=False)
        left.margins(0.12, 0.14)
        for axes, label in ((left, "teacher's accuracy, % of validation"), (right, "teacher's parameters")):
            axes.set_xlabel(label)
        left.set_ylabel("best student, % of validation")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=_columns(labels), fontsize=9)
    return done()


def knowledge_chart(info: KnowledgeInfo) -> bytes:
    """DA, IV and DV against temperature, a line for each teacher."""
    rows = (len(info.lines) + 2) // 3
    with blank(height=2.9 + 0.22 * rows) as (figure, done):
        for place, (name, key) in enumerate(QUANTITIES.items()):
            axes = figure.add_subplot(1, len(QUANTITIES), place + 1)
            for line in info.lines:
                _draw_line(axes, line, key, info.teachers)
            axes.set_title(TITLES[name], fontsize=10, loc="left")
            axes.set_ylim(bottom=0)
            axes.locator_params(axis="y", nbins=5)
            _log_taus(axes, (0.5, 2.0, 8.0, 32.0))
            axes.tick_params(labelsize=9)
        figure.supxlabel("temperature", fontsize=10, color=MUTED)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=_columns(labels), fontsize=9)
    return done()


def temperatures_chart(info: TemperaturesInfo) -> bytes:
    """A histogram of tau_other for each teacher, its median marked."""
    columns = min(PANELS_IN_A_ROW, len(info.histograms))
    rows = -(-len(info.histograms) // columns)
    tallest = max(share for one in info.histograms for share in one.shares)
    with blank(height=0.5 + 1.75 * rows) as (figure, done):
        for place, one in enumerate(info.histograms):
            axes = figure.add_subplot(rows, columns, place + 1)
            _draw_histogram(axes, one, info)
            axes.set_ylim(0, 108 * tallest or 1)
            axes.tick_params(labelsize=9)
            if place % columns:
                axes.tick_params(labelleft=False)
        figure.supxlabel("tau of the other classes", fontsize=10, color=MUTED)
        figure.supylabel("share of samples, %", fontsize=10, color=MUTED)
    return done()


def agreement_chart(info: AgreementInfo) -> bytes:
    """Spearman below the diagonal, Kendall above, numbers in the cells."""
    size = len(info.names)
    with canvas(height=1.1 + 0.42 * size) as (axes, done):
        for left, right in product(range(size), repeat=2):
            _draw_cell(axes, left, right, (info.spearman if right < left else info.kendall)[left][right])
        axes.set_xlim(0, size)
        axes.set_ylim(size, 0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        places = [place + 0.5 for place in range(size)]
        axes.set_xticks(places, [str(place + 1) for place in range(size)])
        axes.set_yticks(places, [f"{named(name)}  {place + 1}" for place, name in enumerate(info.names)])
        axes.set_xlabel("below the diagonal Spearman, above Kendall; teachers by size")
    return done()


def _draw_line(axes: "Axes", line: Line, key: str, teachers: tuple[str, ...]) -> None:
    colour, marker = look(line.teacher, teachers)
    axes.plot(
        [one.tau for one in line.spread],
        [getattr(one, key) for one in line.spread],
        color=colour,
        lw=1.4,
        marker=marker,
        markevery=2,
        ms=4.5,
        mec="white",
        mew=0.5,
        label=named(line.teacher, LEGEND_NAME),
    )


def _draw_student(
    axes: "Axes", x: int | float, one: MismatchPoint, info: MismatchInfo, *, number: int | None
) -> None:
    """A point with its noise; numbered, or named in the legend."""
    colour, marker = look(one.teacher, info.teachers)
    y = 100 * one.student_top1
    noise = 200 * (info.seed_std or 0.0)
    axes.plot([x, x], [y - noise, y + noise], color=colour, lw=1.6)
    label = named(one.teacher, LEGEND_NAME) if number is None else None
    axes.plot(x, y, marker=marker, ms=9, color=colour, mec="white", mew=1.2, ls="none", label=label)
    if number is not None:
        axes.annotate(str(number), (x, y), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=9)


def _draw_cell(axes: "Axes", left: int, right: int, value: float | None) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    shade = LinearSegmentedColormap.from_list("agreement", [COLOURS[4], ALMOST_WHITE, COLOURS[5]])
    shown = left != right and value is not None
    face: Any = shade((value + 1) / 2) if value is not None and shown else LINE
    axes.fill([right, right + 1, right + 1, right], [left, left, left + 1, left + 1], color=face, ec="white")
    if value is not None and shown:
        axes.text(right + 0.5, left + 0.5, f"{value:.2f}", ha="center", va="center", color=INK_ON_COLOUR, fontsize=9)


def _draw_histogram(axes: "Axes", one: Histogram, info: TemperaturesInfo) -> None:
    colour, _ = look(one.teacher, info.teachers)
    axes.stairs([100 * share for share in one.shares], info.edges, fill=True, color=colour)
    if one.median is not None:
        axes.axvline(one.median, color=INK, lw=1.2, ls=(0, (4, 3)))
    axes.set_title(named(one.teacher) if len(info.histograms) < 3 else named(one.teacher, 19), fontsize=9, loc="left")
    _log_taus(axes, (1.0, 4.0, 16.0))
    axes.set_xlim(info.edges[0], info.edges[-1])


def _columns(labels: Sequence[str]) -> int:
    """Of a legend: short names leave room for more."""
    return 4 if max(map(len, labels), default=0) <= SHORT_NAME else 3


def _log_taus(axes: "Axes", ticks: tuple[float, ...]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tau:g}" for tau in ticks])
    axes.minorticks_off()
