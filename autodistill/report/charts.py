"""Charts as SVG bytes. Each chart draws the data of one section, and equal data give equal bytes."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from autodistill.formatting import COSTS
from autodistill.records import CostKind
from autodistill.report.canvas import (
    ALMOST_WHITE,
    COLOURS,
    INK,
    INK_ON_COLOUR,
    LINE,
    MAX_BARS,
    MAX_NAMED,
    MUTED,
    SHADES,
    blank,
    canvas,
    log_sizes,
    look,
    named,
)
from autodistill.report.importance import FIFTHS, ImportanceInfo, PairInfo, Point, Slice, SlicesInfo
from autodistill.report.method import BudgetInfo
from autodistill.report.parts import setting_name
from autodistill.report.students import StudentsInfo
from autodistill.report.teachers import (
    QUANTITIES,
    AgreementInfo,
    Histogram,
    KnowledgeInfo,
    Line,
    TemperaturesInfo,
)
from autodistill.report.trials import Curve, CurvesInfo
from autodistill.report.verdict import MismatchInfo, MismatchPoint, RecommendationInfo

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.lines import Line2D

PANELS_IN_A_ROW = 4
SHORT_NAME, LEGEND_NAME = 14, 22
TITLES = {"DA": "mean (DA)", "IV": "inherent variance (IV)", "DV": "derived variance (DV)"}
NEIGHBOURS = 5
MIN_CONTOURED = 20
CONTOURS = (1.0, 2.0, 3.0)
"""Mean ranks of fifths; 0 is the best fifth, 4 the worst."""
MAX_STUDENTS_NAMED = 12
COST_LABELS = {
    "params": "parameters",
    "macs": "MACs per image",
    "size_bytes": "bytes of weights",
    "latency_ms": "latency, ms",
}


def recommendation_chart(info: RecommendationInfo) -> bytes:
    """Draw the confirmed differences to no teacher and their intervals. The grey band is the threshold."""
    contrasts = info.contrasts[:MAX_BARS]
    with canvas(height=1.25 + 0.42 * len(contrasts)) as (axes, done):
        axes.axvspan(-100 * info.threshold, 100 * info.threshold, color="#eaeef2", lw=0)
        axes.axvline(0, color=MUTED, lw=1)
        for place, one in enumerate(contrasts):
            colour, marker = look(one.teacher, info.teachers)
            if one.low is not None and one.high is not None:
                axes.plot([100 * one.low, 100 * one.high], [place, place], color=colour, lw=3, solid_capstyle="round")
            axes.plot(100 * one.difference, place, marker=marker, ms=9, color=colour, mec="white", mew=1.2)
        axes.set_yticks(range(len(contrasts)), [named(one.teacher) for one in contrasts])
        axes.set_ylim(len(contrasts) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("points of test accuracy over no teacher, 95 % interval")
    return done()


def mismatch_chart(info: MismatchInfo) -> bytes:
    """Draw the best student's accuracy against the teacher's accuracy and size."""
    few = len(info.points) <= MAX_NAMED
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


def _draw_student(axes: "Axes", x: int | float, one: MismatchPoint, info: MismatchInfo, *, number: int | None) -> None:
    """Draw a point with its noise, either numbered or named in the legend."""
    colour, marker = look(one.teacher, info.teachers)
    y = 100 * one.student_top1
    noise = 200 * (info.seed_std or 0.0)
    axes.plot([x, x], [y - noise, y + noise], color=colour, lw=1.6)
    label = named(one.teacher, LEGEND_NAME) if number is None else None
    axes.plot(x, y, marker=marker, ms=9, color=colour, mec="white", mew=1.2, ls="none", label=label)
    if number is not None:
        axes.annotate(str(number), (x, y), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=9)


def knowledge_chart(info: KnowledgeInfo) -> bytes:
    """Draw DA, IV and DV against temperature, one line per teacher."""
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


def temperatures_chart(info: TemperaturesInfo) -> bytes:
    """Draw a histogram of tau_other with its median for each teacher."""
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


def _draw_histogram(axes: "Axes", one: Histogram, info: TemperaturesInfo) -> None:
    colour, _ = look(one.teacher, info.teachers)
    axes.stairs([100 * share for share in one.shares], info.edges, fill=True, color=colour)
    if one.median is not None:
        axes.axvline(one.median, color=INK, lw=1.2, ls=(0, (4, 3)))
    axes.set_title(named(one.teacher) if len(info.histograms) < 3 else named(one.teacher, 19), fontsize=9, loc="left")
    _log_taus(axes, (1.0, 4.0, 16.0))
    axes.set_xlim(info.edges[0], info.edges[-1])


def _log_taus(axes: "Axes", ticks: tuple[float, ...]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tau:g}" for tau in ticks])
    axes.minorticks_off()


def agreement_chart(info: AgreementInfo) -> bytes:
    """Draw a heat map: Spearman below the diagonal, Kendall above."""
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


def _draw_cell(axes: "Axes", left: int, right: int, value: float | None) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    shade = LinearSegmentedColormap.from_list("agreement", [COLOURS[4], ALMOST_WHITE, COLOURS[5]])
    shown = left != right and value is not None
    face: Any = shade((value + 1) / 2) if value is not None and shown else LINE
    axes.fill([right, right + 1, right + 1, right], [left, left, left + 1, left + 1], color=face, ec="white")
    if value is not None and shown:
        axes.text(right + 0.5, left + 0.5, f"{value:.2f}", ha="center", va="center", color=INK_ON_COLOUR, fontsize=9)


def curves_chart(info: CurvesInfo) -> bytes:
    """Draw the learning curves. A cross ends a pruned trial, a hollow circle a failed one."""
    drawn = {curve.teacher for curve in info.curves}
    shown = [teacher for teacher in (*info.teachers, None) if teacher in drawn]
    with canvas(height=4.4) as (axes, done):
        for curve in reversed(info.curves):
            _draw_curve(axes, curve, info.teachers)
        if len(shown) <= MAX_NAMED:
            for teacher in shown:
                colour, marker = look(teacher, info.teachers)
                axes.plot([], [], color=colour, marker=marker, ms=6, label=named(teacher or "no teacher"))
            axes.legend(loc="lower right", fontsize=9)
        axes.margins(x=0.04)
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation accuracy, %")
    return done()


def _draw_curve(axes: "Axes", curve: Curve, teachers: tuple[str, ...]) -> None:
    colour, marker = look(curve.teacher, teachers)
    epochs = [epoch for epoch, _ in curve.points]
    values = [100 * value for _, value in curve.points]
    finished = curve.end == "finished"
    axes.plot(
        epochs,
        values,
        color=colour,
        lw=1.8 if finished else 1.1,
        alpha=1 if finished else 0.6,
        ls=(0, (4, 3)) if curve.teacher is None else "-",
    )
    end = {"finished": marker, "pruned": "x", "failed": "o"}[curve.end]
    face = "white" if curve.end == "failed" else colour
    axes.plot(
        epochs[-1],
        values[-1],
        marker=end,
        ms=6,
        color=colour,
        mfc=face,
        mec=colour if end == "x" or not finished else "white",
    )


def importance_chart(info: ImportanceInfo) -> bytes:
    """Draw the shares of variance as bars with their spread over the forests."""
    shares = info.shares[:MAX_BARS]
    with canvas(height=0.9 + 0.42 * len(shares)) as (axes, done):
        axes.barh(range(len(shares)), [100 * one.mean for one in shares], height=0.62, color=COLOURS[0])
        for place, one in enumerate(shares):
            spread = 100 * (one.std or 0.0)
            end = 100 * one.mean + spread
            if spread:
                axes.plot([end - 2 * spread, end], [place, place], color=INK, lw=1.6, solid_capstyle="butt")
            axes.annotate(
                f"{100 * one.mean:.0f}",
                (end, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        axes.set_yticks(range(len(shares)), [named(setting_name(one.setting)) for one in shares])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 105)
        axes.set_xlabel(f"share of the variance of rung scores, % (n = {info.n})")
    return done()


def slices_chart(info: SlicesInfo) -> bytes:
    """Draw the rung score against each setting, one panel per setting."""
    columns = min(2, len(info.slices))
    rows = -(-len(info.slices) // columns)
    with blank(height=0.7 + 2.3 * rows) as (figure, done):
        for place, one in enumerate(info.slices):
            axes = figure.add_subplot(rows, columns, place + 1, sharey=figure.axes[0] if place else None)
            _draw_slice(axes, one, info)
            axes.tick_params(labelsize=9, labelleft=place % columns == 0)
        figure.supylabel("rung score, % of validation", fontsize=10, color=MUTED)
        drawn = [name for name in (*info.teachers, None) if any(name in _teachers(one) for one in info.slices)]
        if len(drawn) <= MAX_NAMED:
            handles = [_key(figure.axes[0], name, info.teachers) for name in drawn]
            figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=9)
    return done()


def _draw_slice(axes: "Axes", one: Slice, info: SlicesInfo) -> None:
    for teacher in dict.fromkeys(point.teacher for point in one.points):
        colour, marker = look(teacher, info.teachers)
        own = [point for point in one.points if point.teacher == teacher]
        axes.plot(
            [point.x for point in own],
            [100 * max(point.y, info.floor) for point in own],
            ls="none",
            marker=marker,
            ms=5.5,
            color=colour,
            mec="white",
            mew=0.6,
        )
    axes.set_xscale("log" if one.log else "linear")
    _plain_numbers(axes.xaxis, log=one.log)
    axes.set_xlabel(one.name, fontsize=9)


def _teachers(one: Slice) -> set[str | None]:
    return {point.teacher for point in one.points}


def _key(axes: "Axes", name: str | None, teachers: tuple[str, ...]) -> "Line2D":
    colour, marker = look(name, teachers)
    return axes.plot([], [], ls="none", marker=marker, color=colour, ms=6, label=named(name or "no teacher", 22))[0]


def pair_chart(info: PairInfo) -> bytes:
    """Draw two settings against each other. Shades show the fifth of the score, contours join equal mean fifths."""
    with canvas(height=4.4) as (axes, done):
        for fifth, shade in reversed(list(zip(info.fifths, SHADES, strict=True))):
            for marker, points in _by_marker(fifth, info.teachers).items():
                places = [point.x for point in points], [point.y for point in points]
                axes.plot(*places, marker=marker, ms=7.5, ls="none", color=shade, mec=MUTED, mew=0.7)
        axes.set(xlabel=info.names[0], ylabel=info.names[1])
        for place, log in enumerate(info.logs):
            axes.set(**{f"{'xy'[place]}scale": "log" if log else "linear"})
            _plain_numbers((axes.xaxis, axes.yaxis)[place], log=log)
        limits = axes.get_xlim(), axes.get_ylim()
        _draw_contours(axes, info)
        axes.set(xlim=limits[0], ylim=limits[1])  # contours shrink the axes, which would cut markers
        keys = [
            axes.plot([], [], marker="o", ms=7.5, ls="none", color=shade, mec=MUTED, mew=0.7, label=f"{name} fifth")[0]
            for name, shade in zip(FIFTHS, SHADES, strict=True)
        ]
        figure = axes.get_figure(root=True)
        assert figure is not None
        figure.legend(handles=keys, loc="outside upper left", ncols=len(keys), fontsize=9)
    return done()


def _by_marker(points: Sequence[Point], teachers: tuple[str, ...]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(look(point.teacher, teachers)[1], []).append(point)
    return found


def _draw_contours(axes: "Axes", info: PairInfo) -> None:
    """Draw contours of the score, averaged over each point's neighbourhood because single runs are noisy."""
    from matplotlib.tri import Triangulation

    places = [(point.x, point.y, rank) for rank, fifth in enumerate(info.fifths) for point in fifth]
    found = np.array(places, dtype=float).reshape(-1, 3)
    spread = np.where(info.logs, np.log(np.where(info.logs, found[:, :2], 1.0)), found[:, :2])
    spread = (spread - spread.mean(axis=0)) / np.maximum(spread.std(axis=0), 1e-12)
    if len(found) < MIN_CONTOURED or np.linalg.matrix_rank(spread, tol=1e-6) < 2:
        return
    distances = np.square(spread[:, None] - spread[None]).sum(axis=-1)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBOURS]
    triangles = Triangulation(*spread.T).triangles
    grid = Triangulation(found[:, 0], found[:, 1], triangles)
    axes.tricontour(grid, found[nearest, 2].mean(axis=1), levels=CONTOURS, colors=MUTED, linewidths=0.9, zorder=0.5)


def _plain_numbers(axis: "Axis", *, log: bool) -> None:
    """Use plain numbers, on a log axis with ticks at 1, 2, 5, 10."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    if log:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())


def budget_chart(info: BudgetInfo) -> bytes:
    """Draw the planned and the spent budget of each part."""
    with canvas(height=3.1) as (axes, done):
        places = range(len(info.parts))
        axes.barh(
            [place - 0.19 for place in places],
            [one.planned for one in info.parts],
            height=0.34,
            color="white",
            edgecolor=MUTED,
            hatch="////",
            label="planned",
        )
        axes.barh(
            [place + 0.19 for place in places],
            [one.spent for one in info.parts],
            height=0.34,
            color=COLOURS[0],
            label="spent",
        )
        axes.set_yticks(places, [one.name for one in info.parts])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=9)
        axes.set_xlabel("full-training equivalents")
    return done()


def pareto_chart(info: StudentsInfo) -> bytes:
    """Draw test accuracy and its interval against each cost. Steps show the Pareto front, a dashed line a limit."""
    rows = [row for row in info.rows if row.test_top1 is not None]
    kinds = [kind for kind in COSTS if any(kind in row.costs for row in rows)]
    lines = math.ceil(len(kinds) / 2)
    with blank(height=2.9 * lines + 0.5) as (figure, done):
        for place, kind in enumerate(kinds, 1):
            axes = figure.add_subplot(lines, 2, place)
            _draw_panel(axes, kind, info)
        if len(rows) <= MAX_STUDENTS_NAMED:
            students = tuple(row.student for row in info.rows)
            for row in rows:
                colour, marker = look(row.student, students)
                figure.axes[0].plot([], [], marker=marker, color=colour, ls="", label=named(row.student))
            figure.legend(loc="outside upper center", ncols=3, fontsize=9)
    return done()


def _draw_panel(axes: "Axes", kind: CostKind, info: StudentsInfo) -> None:
    students = tuple(row.student for row in info.rows)
    front = []
    for row in info.rows:
        if kind not in row.costs or row.test_top1 is None:
            continue
        colour, marker = look(row.student, students)
        cost, score = row.costs[kind], 100 * row.test_top1
        if row.low is not None and row.high is not None:
            axes.plot([cost, cost], [100 * row.low, 100 * row.high], color=colour, lw=2, alpha=0.6)
        axes.plot(cost, score, marker=marker, ms=9, color=colour, mec="white", ls="")
        if kind in row.front:
            front.append((cost, score))
    if len(front) > 1:
        axes.step(*zip(*sorted(front), strict=True), where="post", color=MUTED, lw=1, zorder=0)
    if kind in info.limits:
        axes.axvline(info.limits[kind], color=INK, ls="--", lw=1.2)
    known = [row.costs[kind] for row in info.rows if kind in row.costs]
    log_sizes(axes, [*known, info.limits.get(kind, known[0])])
    axes.set_xlabel(COST_LABELS[kind])
    axes.set_ylabel("test accuracy, %")
    axes.margins(y=0.12)


def _columns(labels: Sequence[str]) -> int:
    """Return the number of legend columns: short names leave room for more."""
    return 4 if max(map(len, labels), default=0) <= SHORT_NAME else 3


CHARTS: dict[str, Callable[[Any], bytes]] = {
    "recommendation": recommendation_chart,
    "mismatch": mismatch_chart,
    "knowledge": knowledge_chart,
    "temperatures": temperatures_chart,
    "agreement": agreement_chart,
    "curves": curves_chart,
    "importance": importance_chart,
    "slices": slices_chart,
    "pair": pair_chart,
    "budget": budget_chart,
}
