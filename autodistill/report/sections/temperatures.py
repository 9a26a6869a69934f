"""Where ISATS puts the temperature of the other classes, teacher by teacher."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autodistill.records import TauOtherRecord
from autodistill.report.sections.parts import (
    MOST_ROWS,
    Column,
    Figure,
    Row,
    Table,
    number_columns,
    row,
    teacher_names,
)
from autodistill.report.sections.profiles import Teachers, by_size, cut_note, spread_out
from autodistill.report.words import EMPTY, percent, plural, short

MOST_HISTOGRAMS = 8
AT_BOUND = 0.5


@dataclass(frozen=True)
class Histogram:
    teacher: str
    shares: tuple[float, ...]
    median: float | None


@dataclass(frozen=True)
class TemperaturesInfo:
    histograms: tuple[Histogram, ...]
    edges: tuple[float, ...]
    teachers: tuple[str, ...]
    figure: Figure | None
    note: str


def temperatures_info(record: Teachers) -> TemperaturesInfo:
    """Where ISATS, with the parameters of the study's prior, puts tau_other where the label is on top."""
    found = {one.name: one.profile.tau_other for one in by_size(record) if one.profile and one.profile.tau_other}
    shown = spread_out(list(found.items()), MOST_HISTOGRAMS)
    return TemperaturesInfo(
        histograms=tuple(Histogram(name, one.shares, one.median) for name, one in shown),
        edges=shown[0][1].edges if shown else (),
        teachers=teacher_names(record),
        figure=_figure(found) if found else None,
        note=cut_note(len(shown), len(found)),
    )


def _figure(found: Mapping[str, TauOtherRecord]) -> Figure:
    columns = (
        Column("Teacher"),
        *number_columns("Label on top", "Median tau other", "At lower bound", "Inside", "At upper bound"),
        *number_columns("Label displaced", "Teacher wrong"),
    )
    rows = tuple(_row(name, one) for name, one in list(found.items())[:MOST_ROWS])
    note = (
        f"{_settings(next(iter(found.values())))}. Medians and bounds are over the samples whose label is on top; "
        "displaced and wrong are shares of all samples."
    )
    return Figure(
        finding=f"{_middle(found.values())}; {_stuck(found)}.",
        alt=f"Histograms of tau other over the samples whose label is on top, {plural(len(found), 'teacher')}.",
        table=Table("Where ISATS puts tau other", columns, rows, note),
    )


def _settings(found: TauOtherRecord) -> str:
    own = (
        f"{name.replace('_', ' ')} {value if isinstance(value, str) else f'{value:.3g}'}"
        for name, value in found.params.items()
    )
    bounds = f"tau other from {found.edges[0]:g} to {found.edges[-1]:g}"
    return ", ".join(("The prior's ISATS: " + bounds, *own))


def _middle(found: Iterable[TauOtherRecord]) -> str:
    medians = [one.median for one in found if one.median is not None]
    if not medians:
        return "No teacher has a label on top"
    low, high = f"{min(medians):#.2g}", f"{max(medians):#.2g}"
    return f"The median tau other is {low}" if low == high else f"The median tau other lies between {low} and {high}"


def _stuck(found: Mapping[str, TauOtherRecord]) -> str:
    bounds = {name: one.at_lower + one.at_upper for name, one in found.items()}
    worst = max(bounds, key=bounds.__getitem__)
    if bounds[worst] == 0:
        return "no sample with its label on top sits at a bound"
    warning = ", so that the bounds set its temperatures" if bounds[worst] > AT_BOUND else ""
    return f"{short(worst)} has the most samples at a bound, {percent(bounds[worst])}{warning}"


def _row(name: str, found: TauOtherRecord) -> Row:
    inside = 1 - found.at_lower - found.at_upper
    return row(
        short(name),
        percent(found.teacher_right),
        EMPTY if found.median is None else f"{found.median:.3g}",
        percent(found.at_lower),
        EMPTY if found.median is None else percent(inside),
        percent(found.at_upper),
        percent(found.displaced),
        percent(1 - found.teacher_right),
    )
