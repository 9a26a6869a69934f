"""The teachers' profiles, the paper's two claims beside what they did, and the spread of the other classes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autodistill.records import SpreadRecord, TeacherRecord
from autodistill.report.sections.agreement import order_claim
from autodistill.report.sections.parts import (
    MOST_ROWS,
    Cell,
    Column,
    Figure,
    Row,
    Table,
    number_columns,
    row,
    shown_of,
    teacher_names,
)
from autodistill.report.sections.profiles import TAU, Claim, Teachers, at, by_size, cut_note, profile_of, spread_out
from autodistill.report.words import count, percent, plural, short

MOST_LINES = 8
TABLE_TAUS = (1.0, 2.0, 4.0, 8.0, 16.0)
QUANTITIES = {"DA": "derived_average", "IV": "inherent_variance", "DV": "derived_variance"}


@dataclass(frozen=True)
class Line:
    teacher: str
    spread: tuple[SpreadRecord, ...]


@dataclass(frozen=True)
class KnowledgeInfo:
    claims: tuple[Claim, ...]
    table: Table | None
    """None: no teacher has a profile, and the section is left out."""
    lines: tuple[Line, ...]
    """At most eight, by rising size."""
    teachers: tuple[str, ...]
    """In the study's order, which fixes colours and markers."""
    figure: Figure | None
    note: str


def knowledge_info(record: Teachers) -> KnowledgeInfo:
    """What the teachers' logits tell before any student is trained."""
    teachers = by_size(record)
    lines = tuple(Line(one.name, profile_of(one).spread) for one in spread_out(teachers, MOST_LINES))
    return KnowledgeInfo(
        claims=(_variance_claim(teachers), order_claim(record)) if teachers else (),
        table=_profile_table(teachers) if teachers else None,
        lines=lines,
        teachers=teacher_names(record),
        figure=_spread_figure(lines) if lines else None,
        note=cut_note(len(lines), len(teachers)),
    )


def course(means: Sequence[float], errors: Sequence[float]) -> str:
    """The way of a quantity along the teachers: steps within two standard errors are none.

    Returns:
        One sign for each run of steps in one direction: `+-` rises, then falls.
    """
    signs, last = "", 0
    for place in range(1, len(means)):
        step, noise = means[place] - means[last], math.hypot(errors[place], errors[last])
        if abs(step) > 2 * noise:
            sign, last = "+" if step > 0 else "-", place
            signs += "" if signs.endswith(sign) else sign
    return signs


def _profile_table(teachers: Sequence[TeacherRecord]) -> Table:
    columns = (
        Column("Teacher"),
        *number_columns("Params", "Accuracy", "NLL", "Calibration error", "Scaled", "Label's probability"),
        *number_columns("Accuracy on train", "IV", "DV"),
    )
    sizes = profile_of(teachers[0])
    note = (
        f"On {sizes.validation.examples:,} validation samples, those on train on {sizes.train.examples:,} of view 0; "
        f"there, too, the inherent and the derived variance (IV, DV) of the other classes at tau {TAU:g}. "
        "Scaling divides the logits by the one temperature that suits the validation samples best."
    )
    left = shown_of(teachers[:MOST_ROWS], len(teachers), "teachers")
    rows = tuple(_profile_row(one) for one in teachers[:MOST_ROWS])
    return Table("Teachers by size, before any student is trained", columns, rows, f"{note} {left}".strip())


def _profile_row(teacher: TeacherRecord) -> Row:
    found = profile_of(teacher)
    held, train = found.validation, found.train
    return row(
        short(teacher.name),
        count(teacher.cost.params),
        percent(held.top1),
        Cell(f"{held.nll:.3f}", f"{found.calibrated_nll:.3f} scaled"),
        percent(held.ece),
        Cell(percent(found.calibrated_ece), f"temperature {found.temperature:.3g}"),
        Cell(f"{held.target_probability:.3f}", f"{train.target_probability:.3f} on train"),
        percent(train.top1),
        *(f"{getattr(at(found.spread, TAU), QUANTITIES[name]):#.2g}" for name in ("IV", "DV")),
    )


def _variance_claim(teachers: Sequence[TeacherRecord]) -> Claim:
    said = "The variance of the other classes rises, then falls, as teachers grow."
    if len(teachers) < 3:
        return Claim(said, f"This takes three teachers; {plural(len(teachers), 'profile')} here.")
    spreads = [at(profile_of(one).spread, TAU) for one in teachers]
    derived = [one.derived_variance for one in spreads]
    inherent = [one.inherent_variance for one in spreads]
    ways = course(derived, [one.derived_variance_error for one in spreads])
    other = course(inherent, [one.inherent_variance_error for one in spreads])
    seen = {"+-": "Seen here", "+": "The rise alone is seen here", "-": "The fall alone is seen here"}
    top = teachers[derived.index(max(derived))]
    return Claim(
        said,
        f"{seen.get(ways, 'Not seen here')}: over {len(teachers)} teachers from {count(teachers[0].cost.params)} to "
        f"{count(teachers[-1].cost.params)} parameters the derived variance at tau 4 {_way(ways)}, with its largest "
        f"value at {short(top.name)} ({count(top.cost.params)}); the inherent variance {_way(other)}.",
    )


def _way(signs: str) -> str:
    words = {"": "does not change beyond its error", "+": "rises", "-": "falls"}
    words |= {"+-": "rises, then falls", "-+": "falls, then rises"}
    return words.get(signs, f"goes up and down, with {len(signs) - 1} turns")


def _spread_figure(lines: Sequence[Line]) -> Figure:
    rows = tuple(
        row(f"{short(line.teacher)}, {name}", *(f"{getattr(at(line.spread, tau), key):.3g}" for tau in TABLE_TAUS))
        for line in lines
        for name, key in QUANTITIES.items()
    )
    ranked = sorted(lines, key=lambda line: at(line.spread, TAU).derived_variance)
    low, high = ranked[0], ranked[-1]
    finding = f"At tau 4 the targets of {short(high.teacher)} have a derived variance of {_dv(high)}"
    if len(lines) > 1:
        finding += f", the largest, those of {short(low.teacher)} of {_dv(low)}, the smallest"
    columns = (Column("Teacher, quantity"), *number_columns(*(f"tau {tau:g}" for tau in TABLE_TAUS)))
    return Figure(
        finding=f"{finding}.",
        alt=f"Three panels against temperature, {plural(len(lines), 'line')} each: mean, inherent variance and "
        "derived variance of the other classes' probabilities.",
        table=Table("Other classes under softmax(z / tau), means over the training samples", columns, rows),
    )


def _dv(line: Line) -> str:
    return f"{at(line.spread, TAU).derived_variance:#.3g}"
