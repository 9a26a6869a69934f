"""Charts as SVG bytes, each with the data of one section. Equal data give equal bytes."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from autodistill.formatting import COSTS
from autodistill.records import Contrast, CostKind, Costs, StudentRow, TauOtherRecord, TeacherRecord
from autodistill.report.canvas import (
    ALMOST_WHITE,
    COLOURS,
    INK,
    INK_ON_COLOUR,
    LINE,
    MARKERS,
    MAX_BARS,
    MAX_NAMED,
    MUTED,
    chart,
    log_sizes,
    look,
    named,
)
from autodistill.report.parts import setting_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_IN_A_ROW = 4
SHORT_NAME, LEGEND_NAME = 14, 22
QUANTITIES = {"DA": "derived_average", "IV": "inherent_variance", "DV": "derived_variance"}
TITLES = {"DA": "mean (DA)", "IV": "inherent variance (IV)", "DV": "derived variance (DV)"}
MAX_STUDENTS_NAMED = 12
COST_LABELS = {
    "params": "parameters",
    "macs": "MACs per image",
    "size_bytes": "bytes of weights",
    "latency_ms": "latency, ms",
}
DASHED = (0, (4, 3))

Teachers = tuple[str, ...]
"""All teachers of a study, by which `look` chooses colours and markers."""
Matrix = Sequence[Sequence[float | None]]


class Curve(NamedTuple):
    label: str
    teacher: str | None
    points: Sequence[tuple[int, float]]
    """Epoch and validation accuracy."""
    end: Literal["finished", "pruned", "failed"]


class Share(NamedTuple):
    setting: str
    mean: float
    """Share of the variance of the rung scores, in [0, 1]."""
    std: float | None
    """Standard deviation over the evaluator's seeds; None for a single forest."""


@chart
def recommendation_chart(figure: "Figure", contrasts: Sequence[Contrast], threshold: float, teachers: Teachers) -> None:
    """Draw the confirmed differences to no teacher and their intervals. The grey band is the threshold."""
    contrasts = contrasts[:MAX_BARS]
    figure.set_figheight(1.25 + 0.42 * len(contrasts))
    axes = figure.add_subplot()
    axes.axvspan(-100 * threshold, 100 * threshold, color="#eaeef2", lw=0)
    axes.axvline(0, color=MUTED, lw=1)
    for place, one in enumerate(contrasts):
        colour, marker = look(one.teacher, teachers)
        if one.low is not None and one.high is not None:
            axes.plot([100 * one.low, 100 * one.high], [place, place], color=colour, lw=3, solid_capstyle="round")
        axes.plot(100 * one.difference, place, marker=marker, ms=9, color=colour, mec="white", mew=1.2)
    axes.set_yticks(range(len(contrasts)), [named(one.teacher) for one in contrasts])
    axes.set_ylim(len(contrasts) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("points of test accuracy over no teacher, 95 % interval")


@chart
def mismatch_chart(
    figure: "Figure",
    students: Sequence[tuple[TeacherRecord, float]],
    no_teacher: float | None,
    seed_std: float | None,
    teachers: Teachers,
) -> None:
    """Draw the accuracy of students against their teacher's accuracy and size, with the noise of a run.

    Many teachers have numbers beside their points instead of names in the legend.
    """
    few = len(students) <= MAX_NAMED
    figure.set_figheight(4.2 if few else 3.8)
    left = figure.add_subplot(1, 2, 1)
    right = figure.add_subplot(1, 2, 2, sharey=left)
    noise = 200 * (seed_std or 0.0)
    for number, (teacher, accuracy) in enumerate(students, 1):
        colour, marker = look(teacher.name, teachers)
        y = 100 * accuracy
        for axes, x, label in (
            (left, 100 * teacher.val_top1, named(teacher.name, LEGEND_NAME) if few else None),
            (right, teacher.cost.params, None),
        ):
            if x is None:  # its size is unknown
                continue
            axes.plot([x, x], [y - noise, y + noise], color=colour, lw=1.6)
            axes.plot(x, y, marker=marker, ms=9, color=colour, mec="white", mew=1.2, ls="none", label=label)
        if not few:
            place = (100 * teacher.val_top1, y)
            left.annotate(str(number), place, xytext=(0, 9), textcoords="offset points", ha="center", fontsize=9)
    if no_teacher is not None:
        for axes in (left, right):
            axes.axhline(100 * no_teacher, color=INK, lw=1.2, ls=DASHED, label="no teacher")
    if sizes := [teacher.cost.params for teacher, _ in students if teacher.cost.params is not None]:
        log_sizes(right, sizes)
    right.tick_params(labelleft=False)
    left.margins(0.12, 0.14)
    left.set_xlabel("teacher's accuracy, % of validation")
    right.set_xlabel("teacher's parameters")
    left.set_ylabel("student, % of validation")
    _legend(figure)


@chart
def capacity_chart(
    figure: "Figure",
    lines: Mapping[str, Sequence[tuple[int | float, float]]],
    baselines: Mapping[str, float],
    half_width: float | None,
) -> None:
    """Draw the accuracy of students against the MACs of their teachers, a line and a band for each method.

    `lines` holds MACs and accuracies by rising MACs, `baselines` accuracies without a teacher, `half_width` half the
    height of the bands; None: no bands.
    """
    axes = figure.add_subplot()
    for (name, line), colour, marker in zip(lines.items(), cycle(COLOURS), cycle(MARKERS)):
        if not line:
            continue
        x, y = np.array(line).T
        if half_width is not None:
            low, high = 100 * (y - half_width), 100 * (y + half_width)
            axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        axes.plot(x, 100 * y, color=colour, marker=marker, ms=8, mec="white", mew=1, lw=1.8, label=named(name, 20))
    for (name, accuracy), style in zip(baselines.items(), (DASHED, "dotted"), strict=False):
        axes.axhline(100 * accuracy, color=INK, lw=1.2, ls=style, label=name)
    log_sizes(axes, [x for line in lines.values() for x, _ in line])
    axes.margins(y=0.1)
    axes.set_xlabel("teacher's MACs per image")
    axes.set_ylabel("student, % of test")
    _legend(figure)


def _legend(figure: "Figure") -> None:
    """Add the legend of the first panel above the figure. Short names leave room for more columns."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = 4 if max(map(len, labels), default=0) <= SHORT_NAME else 3
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=9)


@chart
def knowledge_chart(figure: "Figure", shown: Sequence[TeacherRecord], teachers: Teachers) -> None:
    """Draw DA, IV and DV of teachers with a profile against temperature."""
    figure.set_figheight(2.9 + 0.22 * ((len(shown) + 2) // 3))
    for place, (name, key) in enumerate(QUANTITIES.items(), 1):
        axes = figure.add_subplot(1, len(QUANTITIES), place)
        for teacher in shown:
            colour, marker = look(teacher.name, teachers)
            spread = teacher.profile.spread if teacher.profile else ()
            axes.plot(
                [one.tau for one in spread],
                [getattr(one, key) for one in spread],
                color=colour,
                lw=1.4,
                marker=marker,
                markevery=2,
                ms=4.5,
                mec="white",
                mew=0.5,
                label=named(teacher.name, LEGEND_NAME),
            )
        axes.set_title(TITLES[name], fontsize=10, loc="left")
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="y", nbins=5)
        _log_taus(axes, (0.5, 2.0, 8.0, 32.0))
        axes.tick_params(labelsize=9)
    figure.supxlabel("temperature", fontsize=10, color=MUTED)
    _legend(figure)


@chart
def temperatures_chart(figure: "Figure", shown: Mapping[str, TauOtherRecord], teachers: Teachers) -> None:
    """Draw a histogram of tau_other with its median for each teacher."""
    columns = min(PANELS_IN_A_ROW, len(shown))
    rows = -(-len(shown) // columns)
    tallest = max(share for one in shown.values() for share in one.shares)
    edges = next(iter(shown.values())).edges
    figure.set_figheight(0.5 + 1.75 * rows)
    for place, (name, one) in enumerate(shown.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.stairs([100 * share for share in one.shares], edges, fill=True, color=look(name, teachers)[0])
        if one.median is not None:
            axes.axvline(one.median, color=INK, lw=1.2, ls=DASHED)
        axes.set_title(named(name) if len(shown) < 3 else named(name, 19), fontsize=9, loc="left")
        _log_taus(axes, (1.0, 4.0, 16.0))
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, 108 * tallest or 1)
        axes.tick_params(labelsize=9)
        if place % columns:
            axes.tick_params(labelleft=False)
    figure.supxlabel("tau of the other classes", fontsize=10, color=MUTED)
    figure.supylabel("share of samples, %", fontsize=10, color=MUTED)


def _log_taus(axes: "Axes", ticks: tuple[float, ...]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tau:g}" for tau in ticks])
    axes.minorticks_off()


@chart
def agreement_chart(figure: "Figure", names: Sequence[str], spearman: Matrix, kendall: Matrix) -> None:
    """Draw a heat map: Spearman below the diagonal, Kendall above."""
    from matplotlib.colors import LinearSegmentedColormap

    size = len(names)
    figure.set_figheight(1.1 + 0.42 * size)
    axes = figure.add_subplot()
    shade = LinearSegmentedColormap.from_list("agreement", [COLOURS[4], ALMOST_WHITE, COLOURS[5]])
    for left, right in product(range(size), repeat=2):
        value = None if left == right else (spearman if right < left else kendall)[left][right]
        face: Any = LINE if value is None else shade((value + 1) / 2)
        axes.fill([right, right + 1, right + 1, right], [left, left, left + 1, left + 1], color=face, ec="white")
        if value is not None:
            style: Any = {"ha": "center", "va": "center", "color": INK_ON_COLOUR, "fontsize": 9}
            axes.text(right + 0.5, left + 0.5, f"{value:.2f}", **style)
    axes.set_xlim(0, size)
    axes.set_ylim(size, 0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    places = [place + 0.5 for place in range(size)]
    axes.set_xticks(places, [str(place + 1) for place in range(size)])
    axes.set_yticks(places, [f"{named(name)}  {place + 1}" for place, name in enumerate(names)])
    axes.set_xlabel("below the diagonal Spearman, above Kendall; teachers by size")


@chart
def curves_chart(figure: "Figure", curves: Sequence[Curve], teachers: Teachers) -> None:
    """Draw the learning curves. A cross ends a pruned trial, a hollow circle a failed one."""
    axes = figure.add_subplot()
    for curve in reversed(curves):
        _draw_curve(axes, curve, *look(curve.teacher, teachers))
    drawn = {curve.teacher for curve in curves}
    shown = [teacher for teacher in (*teachers, None) if teacher in drawn]
    if len(shown) <= MAX_NAMED:
        for teacher in shown:
            colour, marker = look(teacher, teachers)
            axes.plot([], [], color=colour, marker=marker, ms=6, label=named(teacher or "no teacher"))
        axes.legend(loc="lower right", fontsize=9)
    axes.margins(x=0.04)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation accuracy, %")


def _draw_curve(axes: "Axes", curve: Curve, colour: str, marker: str) -> None:
    epochs = [epoch for epoch, _ in curve.points]
    values = [100 * value for _, value in curve.points]
    finished = curve.end == "finished"
    line: Any = {"lw": 1.8, "alpha": 1} if finished else {"lw": 1.1, "alpha": 0.6}
    axes.plot(epochs, values, color=colour, ls=DASHED if curve.teacher is None else "-", **line)
    end = {"finished": marker, "pruned": "x", "failed": "o"}[curve.end]
    edge = "white" if finished else colour
    face = "white" if curve.end == "failed" else colour
    axes.plot(epochs[-1], values[-1], marker=end, ms=6, color=colour, mfc=face, mec=edge)


@chart
def importance_chart(figure: "Figure", shares: Sequence[Share], n: int) -> None:
    """Draw the shares of the variance of `n` rung scores as bars with their spread over the forests."""
    shares = shares[:MAX_BARS]
    figure.set_figheight(0.9 + 0.42 * len(shares))
    axes = figure.add_subplot()
    axes.barh(range(len(shares)), [100 * one.mean for one in shares], height=0.62, color=COLOURS[0])
    for place, one in enumerate(shares):
        spread = 100 * (one.std or 0.0)
        end = 100 * one.mean + spread
        if spread:
            axes.plot([end - 2 * spread, end], [place, place], color=INK, lw=1.6, solid_capstyle="butt")
        label: Any = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
        axes.annotate(f"{100 * one.mean:.0f}", (end, place), **label)
    axes.set_yticks(range(len(shares)), [named(setting_name(one.setting)) for one in shares])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 105)
    axes.set_xlabel(f"share of the variance of rung scores, % (n = {n})")


@chart
def budget_chart(figure: "Figure", parts: Mapping[str, tuple[float, float]]) -> None:
    """Draw the planned and the spent budget of each part."""
    figure.set_figheight(3.1)
    axes = figure.add_subplot()
    planned, spent = zip(*parts.values(), strict=True)
    places = np.arange(len(parts))
    axes.barh(places - 0.19, planned, height=0.34, color="white", edgecolor=MUTED, hatch="////", label="planned")
    axes.barh(places + 0.19, spent, height=0.34, color=COLOURS[0], label="spent")
    axes.set_yticks(places, list(parts))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=9)
    axes.set_xlabel("full-training equivalents")


@chart
def pareto_chart(figure: "Figure", rows: Sequence[StudentRow], limits: Costs) -> None:
    """Draw test accuracy and its interval against each cost. Steps show the Pareto front, a dashed line a limit."""
    students = tuple(row.student for row in rows)
    tested = [row for row in rows if row.test_top1 is not None]
    kinds = [kind for kind in COSTS if any(kind in row.costs for row in tested)]
    lines = math.ceil(len(kinds) / 2)
    figure.set_figheight(2.9 * lines + 0.5)
    for place, kind in enumerate(kinds, 1):
        _draw_panel(figure.add_subplot(lines, 2, place), kind, rows, limits, students)
    if len(tested) <= MAX_STUDENTS_NAMED:
        for row in tested:
            colour, marker = look(row.student, students)
            figure.axes[0].plot([], [], marker=marker, color=colour, ls="", label=named(row.student))
        figure.legend(loc="outside upper center", ncols=3, fontsize=9)


def _draw_panel(
    axes: "Axes", kind: CostKind, rows: Sequence[StudentRow], limits: Costs, students: tuple[str, ...]
) -> None:
    front = []
    for row in rows:
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
    if kind in limits:
        axes.axvline(limits[kind], color=INK, ls="--", lw=1.2)
    known = [row.costs[kind] for row in rows if kind in row.costs]
    log_sizes(axes, [*known, limits.get(kind, known[0])])
    axes.set_xlabel(COST_LABELS[kind])
    axes.set_ylabel("test accuracy, %")
    axes.margins(y=0.12)
