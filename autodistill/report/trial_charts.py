"""Charts of the searched settings: slices, and the most important pair."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from autodistill.report.canvas import MOST_NAMED, MUTED, blank, canvas, look, named
from autodistill.report.sections.slices import FIFTHS, PairInfo, Point, Slice, SlicesInfo
from autodistill.report.slim import SHADES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.lines import Line2D


NEIGHBOURS = 5
LEAST_CONTOURED = 20
CONTOURS = (1.0, 2.0, 3.0)
"""Mean ranks of fifths, from the best, 0, to the worst, 4."""


def slices_chart(info: SlicesInfo) -> bytes:
    """A panel for each setting: short-run score against its value."""
    columns = min(2, len(info.slices))
    rows = -(-len(info.slices) // columns)
    with blank(height=0.7 + 2.3 * rows) as (figure, done):
        for place, one in enumerate(info.slices):
            axes = figure.add_subplot(rows, columns, place + 1, sharey=figure.axes[0] if place else None)
            _draw_slice(axes, one, info)
            axes.tick_params(labelsize=9, labelleft=place % columns == 0)
        figure.supylabel("short run, % of validation", fontsize=10, color=MUTED)
        drawn = [name for name in (*info.teachers, None) if any(name in _teachers(one) for one in info.slices)]
        if len(drawn) <= MOST_NAMED:
            handles = [_key(figure.axes[0], name, info.teachers) for name in drawn]
            figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=9)
    return done()


def pair_chart(info: PairInfo) -> bytes:
    """Two settings against each other, the better the stronger; contours join places of equal fifths."""
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
        axes.set(xlim=limits[0], ylim=limits[1])  # contours pull the axes tight, and markers would be cut
        keys = [
            axes.plot([], [], marker="o", ms=7.5, ls="none", color=shade, mec=MUTED, mew=0.7, label=f"{name} fifth")[
                0
            ]
            for name, shade in zip(FIFTHS, SHADES, strict=True)
        ]
        figure = axes.get_figure(root=True)
        assert figure is not None
        figure.legend(handles=keys, loc="outside upper left", ncols=len(keys), fontsize=9)
    return done()


def _draw_contours(axes: "Axes", info: PairInfo) -> None:
    """Lines of equal score, each point's taken as the mean of its neighbourhood's: single runs are noisy."""
    from matplotlib.tri import Triangulation

    places = [(point.x, point.y, rank) for rank, fifth in enumerate(info.fifths) for point in fifth]
    found = np.array(places, dtype=float).reshape(-1, 3)
    spread = np.where(info.logs, np.log(np.where(info.logs, found[:, :2], 1.0)), found[:, :2])
    spread = (spread - spread.mean(axis=0)) / np.maximum(spread.std(axis=0), 1e-12)
    if len(found) < LEAST_CONTOURED or np.linalg.matrix_rank(spread, tol=1e-6) < 2:
        return
    distances = np.square(spread[:, None] - spread[None]).sum(axis=-1)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBOURS]
    triangles = Triangulation(*spread.T).triangles
    grid = Triangulation(found[:, 0], found[:, 1], triangles)
    axes.tricontour(grid, found[nearest, 2].mean(axis=1), levels=CONTOURS, colors=MUTED, linewidths=0.9, zorder=0.5)


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


def _by_marker(points: Sequence[Point], teachers: tuple[str, ...]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(look(point.teacher, teachers)[1], []).append(point)
    return found


def _teachers(one: Slice) -> set[str | None]:
    return {point.teacher for point in one.points}


def _key(axes: "Axes", name: str | None, teachers: tuple[str, ...]) -> "Line2D":
    colour, marker = look(name, teachers)
    return axes.plot([], [], ls="none", marker=marker, color=colour, ms=6, label=named(name or "no teacher", 22))[0]


def _plain_numbers(axis: "Axis", *, log: bool) -> None:
    """A log axis marked at 1, 2, 5, 10 instead of powers of ten."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    if log:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())
