"""The chart of several students: accuracy against each cost."""

import math
from typing import TYPE_CHECKING

from autodistill.formatting import COSTS
from autodistill.records import CostKind
from autodistill.report.canvas import INK, MUTED, blank, log_sizes, look, named
from autodistill.report.sections.students import StudentsInfo

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMED_STUDENTS = 12
LABELS = {
    "params": "parameters",
    "macs": "MACs per image",
    "size_bytes": "bytes of weights",
    "latency_ms": "latency, ms",
}


def pareto_chart(info: StudentsInfo) -> bytes:
    """Test accuracy with its interval against each cost; the step line is the front, the dashed line a limit."""
    rows = [row for row in info.rows if row.test_top1 is not None]
    kinds = [kind for kind in COSTS if any(kind in row.costs for row in rows)]
    lines = math.ceil(len(kinds) / 2)
    with blank(height=2.9 * lines + 0.5) as (figure, done):
        for place, kind in enumerate(kinds, 1):
            axes = figure.add_subplot(lines, 2, place)
            _draw_panel(axes, kind, info)
        if len(rows) <= MOST_NAMED_STUDENTS:
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
    axes.set_xlabel(LABELS[kind])
    axes.set_ylabel("test accuracy, %")
    axes.margins(y=0.12)
