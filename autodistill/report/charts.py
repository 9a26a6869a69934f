"""Charts as SVG bytes: each draws what one section's info holds, and the same info gives the same bytes.

Text stays text, set in the reader's own fonts; ids are salted with a constant; no date is written. Matplotlib is
imported when the first chart is drawn.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from autodistill.report.canvas import COLOURS, INK, MOST_BARS, MOST_NAMED, MUTED
from autodistill.report.canvas import canvas as _canvas
from autodistill.report.canvas import look as _look
from autodistill.report.canvas import named as _name
from autodistill.report.sections.evidence import Curve, CurvesInfo
from autodistill.report.sections.importance import ImportanceInfo, setting
from autodistill.report.sections.method import BudgetInfo
from autodistill.report.sections.verdict import RecommendationInfo
from autodistill.report.teacher_charts import agreement_chart, knowledge_chart, mismatch_chart, temperatures_chart
from autodistill.report.trial_charts import pair_chart, slices_chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def recommendation_chart(info: RecommendationInfo) -> bytes:
    """Confirmed differences to no teacher, with their intervals; the grey band is what counts as no difference."""
    contrasts = info.contrasts[:MOST_BARS]
    with _canvas(height=1.25 + 0.42 * len(contrasts)) as (axes, done):
        axes.axvspan(-100 * info.threshold, 100 * info.threshold, color="#eaeef2", lw=0)
        axes.axvline(0, color=MUTED, lw=1)
        for place, one in enumerate(contrasts):
            colour, marker = _look(one.teacher, info.teachers)
            if one.low is not None and one.high is not None:
                axes.plot([100 * one.low, 100 * one.high], [place, place], color=colour, lw=3, solid_capstyle="round")
            axes.plot(100 * one.difference, place, marker=marker, ms=9, color=colour, mec="white", mew=1.2)
        axes.set_yticks(range(len(contrasts)), [_name(one.teacher) for one in contrasts])
        axes.set_ylim(len(contrasts) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("points of test accuracy over no teacher, 95 % interval")
    return done()


def curves_chart(info: CurvesInfo) -> bytes:
    """Learning curves; a cross ends a pruned trial, a hollow circle a failed one."""
    drawn = {curve.teacher for curve in info.curves}
    named = [teacher for teacher in (*info.teachers, None) if teacher in drawn]
    with _canvas(height=4.4) as (axes, done):
        for curve in reversed(info.curves):
            _draw_curve(axes, curve, info.teachers)
        if len(named) <= MOST_NAMED:
            for teacher in named:
                colour, marker = _look(teacher, info.teachers)
                axes.plot([], [], color=colour, marker=marker, ms=6, label=_name(teacher or "no teacher"))
            axes.legend(loc="lower right", fontsize=9)
        axes.margins(x=0.04)
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation accuracy, %")
    return done()


def importance_chart(info: ImportanceInfo) -> bytes:
    """Shares of variance as bars, with their spread over the forests."""
    shares = info.shares[:MOST_BARS]
    with _canvas(height=0.9 + 0.42 * len(shares)) as (axes, done):
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
        axes.set_yticks(range(len(shares)), [_name(setting(one.setting)) for one in shares])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 105)
        axes.set_xlabel(f"share of the variance of short-run scores, % (n = {info.n})")
    return done()


def budget_chart(info: BudgetInfo) -> bytes:
    """Planned and spent, part by part."""
    with _canvas(height=3.1) as (axes, done):
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


def _draw_curve(axes: "Axes", curve: Curve, teachers: tuple[str, ...]) -> None:
    colour, marker = _look(curve.teacher, teachers)
    epochs = [epoch for epoch, _ in curve.points]
    values = [100 * value for _, value in curve.points]
    finished = curve.mark == "finished"
    axes.plot(
        epochs,
        values,
        color=colour,
        lw=1.8 if finished else 1.1,
        alpha=1 if finished else 0.6,
        ls=(0, (4, 3)) if curve.teacher is None else "-",
    )
    end = {"finished": marker, "pruned": "x", "failed": "o"}[curve.mark]
    face = "white" if curve.mark == "failed" else colour
    axes.plot(
        epochs[-1],
        values[-1],
        marker=end,
        ms=6,
        color=colour,
        mfc=face,
        mec=colour if end == "x" or not finished else "white",
    )
