"""Sections on the teachers alone: dark knowledge, ISATS temperatures, rank agreement.

These sections take a study, or teachers that were inspected without one.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from autodistill.formatting import EMPTY, count, percent, plural, short
from autodistill.records import (
    InspectionRecord,
    ProfileRecord,
    SpreadRecord,
    StudyRecord,
    TauOtherRecord,
    TeacherRecord,
)
from autodistill.report.parts import (
    MAX_ROWS,
    Cell,
    Column,
    Figure,
    Row,
    Table,
    cut_note,
    number_columns,
    row,
    spread_out,
    teacher_names,
)

Teachers = StudyRecord | InspectionRecord

MAX_SHOWN = 8
"""Teachers in a chart: lines, histograms, or cells on a side of the heat map."""
TAU = 4.0
"""Temperature of single figures: that of plain KD."""
TABLE_TAUS = (1.0, 2.0, 4.0, 8.0, 16.0)
QUANTITIES = {"DA": "derived_average", "IV": "inherent_variance", "DV": "derived_variance"}
AT_BOUND = 0.5
"""Share of samples at a bound of the tau_other search from which the report warns."""
AGREES, DISAGREES = 0.7, 0.4
"""Mean Spearman correlations from which teachers agree, and below which they do not."""

Matrix = Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper about teachers in general, and what was measured for these teachers."""

    said: str
    found: str


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
    """Ordered by size of the teacher."""
    teachers: tuple[str, ...]
    figure: Figure | None
    note: str


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


@dataclass(frozen=True)
class AgreementInfo:
    names: tuple[str, ...]
    spearman: tuple[tuple[float | None, ...], ...]
    kendall: tuple[tuple[float | None, ...], ...]
    figure: Figure | None
    note: str


def knowledge_info(record: Teachers) -> KnowledgeInfo:
    """Return the profiles of the teachers and the two claims of the ISATS paper about them."""
    teachers = by_size(record)
    lines = tuple(Line(one.name, profile_of(one).spread) for one in spread_out(teachers, MAX_SHOWN))
    return KnowledgeInfo(
        claims=(_variance_claim(teachers), _order_claim(record)) if teachers else (),
        table=_profile_table(teachers) if teachers else None,
        lines=lines,
        teachers=teacher_names(record),
        figure=_spread_figure(lines) if lines else None,
        note=_shown_note(len(lines), len(teachers)),
    )


def by_size(record: Teachers) -> list[TeacherRecord]:
    """Return the teachers with a profile, ordered by number of parameters."""
    return sorted((one for one in record.teachers if one.profile), key=lambda one: (one.cost.params, one.name))


def profile_of(teacher: TeacherRecord) -> ProfileRecord:
    assert teacher.profile is not None
    return teacher.profile


def at(spread: Sequence[SpreadRecord], tau: float) -> SpreadRecord:
    """Return the spread at the temperature of the grid that is nearest to `tau`."""
    return min(spread, key=lambda one: abs(math.log(one.tau / tau)))


def course(means: Sequence[float], errors: Sequence[float]) -> str:
    """Return the directions in which a quantity moves along the teachers.

    Steps within two standard errors do not count.

    Returns:
        One sign for each run of steps in one direction: `+-` means that it rises, then falls.
    """
    signs, last = "", 0
    for place in range(1, len(means)):
        step, noise = means[place] - means[last], math.hypot(errors[place], errors[last])
        if abs(step) > 2 * noise:
            sign, last = "+" if step > 0 else "-", place
            signs += "" if signs.endswith(sign) else sign
    return signs


def _shown_note(shown: int, total: int) -> str:
    if shown == total:
        return ""
    return f"{shown} of {total:,} teachers shown, evenly spread by size; the rest is in the record."


def _profile_table(teachers: Sequence[TeacherRecord]) -> Table:
    columns = (
        Column("Teacher"),
        *number_columns("Params", "Accuracy", "NLL", "Calibration error", "Scaled", "Label's probability"),
        *number_columns("Accuracy on train", "IV", "DV"),
    )
    first = profile_of(teachers[0])
    note = (
        f"On {first.validation.examples:,} validation samples. Figures on train are from {first.train.examples:,} "
        "samples of view 0, and so are the inherent and the derived variance (IV, DV) of the other classes at tau "
        f"{TAU:g}. Scaling divides the logits by the temperature that minimises the validation NLL."
    )
    cut = cut_note(teachers[:MAX_ROWS], len(teachers), "teachers")
    rows = tuple(_profile_row(one) for one in teachers[:MAX_ROWS])
    return Table("Teachers by size, before any student is trained", columns, rows, f"{note} {cut}".strip())


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
        return Claim(said, f"Checking this takes three teachers; there are {plural(len(teachers), 'profile')}.")
    spreads = [at(profile_of(one).spread, TAU) for one in teachers]
    derived = [one.derived_variance for one in spreads]
    inherent = [one.inherent_variance for one in spreads]
    derived_course = course(derived, [one.derived_variance_error for one in spreads])
    inherent_course = course(inherent, [one.inherent_variance_error for one in spreads])
    seen = {"+-": "Seen here", "+": "Only the rise is seen here", "-": "Only the fall is seen here"}
    top = teachers[derived.index(max(derived))]
    return Claim(
        said,
        f"{seen.get(derived_course, 'Not seen here')}: over {len(teachers)} teachers from "
        f"{count(teachers[0].cost.params)} to {count(teachers[-1].cost.params)} parameters the derived variance at "
        f"tau 4 {_course_words(derived_course)}, with its largest value at {short(top.name)} "
        f"({count(top.cost.params)}); the inherent variance {_course_words(inherent_course)}.",
    )


def _course_words(signs: str) -> str:
    words = {"": "does not change beyond its error", "+": "rises", "-": "falls"}
    words |= {"+-": "rises, then falls", "-+": "falls, then rises"}
    return words.get(signs, f"goes up and down, with {len(signs) - 1} turns")


def _spread_figure(lines: Sequence[Line]) -> Figure:
    rows = tuple(
        row(f"{short(line.teacher)}, {name}", *(f"{getattr(at(line.spread, tau), key):.3g}" for tau in TABLE_TAUS))
        for line in lines
        for name, key in QUANTITIES.items()
    )
    ranked = sorted(lines, key=_derived_variance)
    low, high = ranked[0], ranked[-1]
    largest, smallest = (f"{_derived_variance(line):#.3g}" for line in (high, low))
    finding = f"At tau 4 the targets of {short(high.teacher)} have a derived variance of {largest}"
    if len(lines) > 1:
        finding += f", the largest, and those of {short(low.teacher)} of {smallest}, the smallest"
    columns = (Column("Teacher, quantity"), *number_columns(*(f"tau {tau:g}" for tau in TABLE_TAUS)))
    return Figure(
        finding=f"{finding}.",
        alt=f"Three panels against temperature, {plural(len(lines), 'line')} each: mean, inherent variance and "
        "derived variance of the other classes' probabilities.",
        table=Table("Other classes under softmax(z / tau), means over the training samples", columns, rows),
    )


def _derived_variance(line: Line) -> float:
    return at(line.spread, TAU).derived_variance


def temperatures_info(record: Teachers) -> TemperaturesInfo:
    """Return the distribution of tau_other under ISATS with the prior's parameters, where the label is on top."""
    found = {one.name: one.profile.tau_other for one in by_size(record) if one.profile and one.profile.tau_other}
    shown = spread_out(list(found.items()), MAX_SHOWN)
    return TemperaturesInfo(
        histograms=tuple(Histogram(name, one.shares, one.median) for name, one in shown),
        edges=shown[0][1].edges if shown else (),
        teachers=teacher_names(record),
        figure=_temperatures_figure(found) if found else None,
        note=_shown_note(len(shown), len(found)),
    )


def _temperatures_figure(found: Mapping[str, TauOtherRecord]) -> Figure:
    columns = (
        Column("Teacher"),
        *number_columns("Label on top", "Median tau other", "At lower bound", "Inside", "At upper bound"),
        *number_columns("Label displaced", "Teacher wrong"),
    )
    rows = tuple(_temperatures_row(name, one) for name, one in list(found.items())[:MAX_ROWS])
    note = (
        f"{_isats_settings(next(iter(found.values())))}. Medians and bounds are over the samples whose label is on "
        "top; displaced and wrong are shares of all samples."
    )
    return Figure(
        finding=f"{_medians(found.values())}; {_most_at_bound(found)}.",
        alt=f"Histograms of tau other over the samples whose label is on top, {plural(len(found), 'teacher')}.",
        table=Table("Temperatures of the other classes under ISATS", columns, rows, note),
    )


def _isats_settings(found: TauOtherRecord) -> str:
    own = (
        f"{name.replace('_', ' ')} {value if isinstance(value, str) else f'{value:.3g}'}"
        for name, value in found.params.items()
    )
    search = f"tau other from {found.edges[0]:g} to {found.edges[-1]:g}"
    return ", ".join(("The prior's ISATS: " + search, *own))


def _medians(found: Iterable[TauOtherRecord]) -> str:
    medians = [one.median for one in found if one.median is not None]
    if not medians:
        return "No teacher has a label on top"
    low, high = f"{min(medians):#.2g}", f"{max(medians):#.2g}"
    return f"The median tau other is {low}" if low == high else f"The median tau other lies between {low} and {high}"


def _most_at_bound(found: Mapping[str, TauOtherRecord]) -> str:
    shares = {name: one.at_lower + one.at_upper for name, one in found.items()}
    worst = max(shares, key=shares.__getitem__)
    if shares[worst] == 0:
        return "no sample with its label on top is at a bound"
    warning = ", so the bounds determine its temperatures" if shares[worst] > AT_BOUND else ""
    return f"{short(worst)} has the most samples at a bound, {percent(shares[worst])}{warning}"


def _temperatures_row(name: str, found: TauOtherRecord) -> Row:
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


def agreement_info(record: Teachers) -> AgreementInfo:
    """Return the rank correlations of the teachers' orders of the other classes."""
    found = record.agreement
    if found is None:
        return AgreementInfo((), (), (), None, "")
    kept = {one.name for one in spread_out(by_size(record), MAX_SHOWN)}
    places = [found.teachers.index(one.name) for one in by_size(record) if one.name in kept & set(found.teachers)]
    spearman, kendall = (
        tuple(tuple(matrix[left][right] for right in places) for left in places)
        for matrix in (found.spearman, found.kendall)
    )
    names = tuple(found.teachers[place] for place in places)
    note = (
        f"Means over {found.examples:,} samples of view 0 of the training split. Two trainings of the same network "
        "do not agree fully either, so a correlation below 1 is no defect of a teacher."
    )
    note = f"{note} {_shown_note(len(names), len(found.teachers))}".strip()
    return AgreementInfo(names, spearman, kendall, _agreement_figure(names, spearman, kendall), note)


def _order_claim(record: Teachers) -> Claim:
    said = "Teachers of different capacity order the other classes alike."
    pairs = list(_pairs(record))
    if not pairs:
        return Claim(said, "There is no pair of teachers to compare.")
    rho = [one[2] for one in pairs]
    mean, tau = math.fsum(rho) / len(rho), math.fsum(one[3] for one in pairs) / len(pairs)
    verdict = "Seen here" if mean >= AGREES else "Seen in part" if mean >= DISAGREES else "Not seen here"
    left, right, low, _ = min(pairs, key=lambda one: one[2])
    least = f", from {low:.2f} ({short(left, 32)} and {short(right, 32)}) to {max(rho):.2f}" if len(pairs) > 1 else ""
    return Claim(
        said,
        f"{verdict}: over {plural(len(pairs), 'pair')} the mean Spearman correlation is {mean:.2f}{least}, and "
        f"Kendall's {tau:.2f}. A Spearman correlation of {AGREES} or more counts as agreement, a correlation below "
        f"{DISAGREES} as no agreement.",
    )


def _pairs(record: Teachers) -> Iterator[tuple[str, str, float, float]]:
    """Yield the two names, Spearman's rho and Kendall's tau of each pair."""
    found = record.agreement
    for left, name in enumerate(found.teachers if found else ()):
        assert found is not None
        for right in range(left):
            rho, tau = found.spearman[left][right], found.kendall[left][right]
            if rho is not None and tau is not None:
                yield found.teachers[right], name, rho, tau


def _agreement_figure(names: Sequence[str], spearman: Matrix, kendall: Matrix) -> Figure | None:
    pairs = [
        (rho, kendall[left][right], names[left], names[right])
        for left in range(len(names))
        for right in range(left)
        if (rho := spearman[left][right]) is not None
    ]
    if not pairs:
        return None
    rho, tau, one, other = min(pairs, key=lambda pair: pair[0])
    best = max(pairs, key=lambda pair: pair[0])
    pair = f"{short(one, 40)} and {short(other, 40)}"
    finding = f"{pair} agree with a Spearman correlation of {rho:.2f} and a Kendall correlation of {tau:.2f}"
    if len(pairs) > 1:
        finding = f"Least alike are {pair} (Spearman {rho:.2f}, Kendall {tau:.2f})"
        finding += f", most alike {short(best[2], 40)} and {short(best[3], 40)} ({best[0]:.2f}, {best[1]:.2f})"
    rows = tuple(
        row(short(name), *(_agreement_cell(left, right, spearman, kendall) for right in range(len(names))))
        for left, name in enumerate(names)
    )
    columns = (Column("Teacher"), *number_columns(*(short(name, 20) for name in names)))
    return Figure(
        finding=f"{finding}.",
        alt=f"Heat map of rank correlations between {len(names)} teachers.",
        table=Table("Agreement on the order of the other classes: Spearman below, Kendall above", columns, rows),
    )


def _agreement_cell(left: int, right: int, spearman: Matrix, kendall: Matrix) -> str:
    value = (spearman if right < left else kendall)[left][right]
    return EMPTY if left == right or value is None else f"{value:.2f}"
