"""Sections on the teachers alone: dark knowledge, ISATS temperatures, rank agreement, scores that take no training.

These sections take a study, or teachers that were inspected without one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from autodistill.formatting import EMPTY, count, parameter, percent, plural, recipe, short
from autodistill.records import (
    InspectionRecord,
    ProfileRecord,
    SpreadRecord,
    StudyRecord,
    TauOtherRecord,
    TeacherRecord,
)
from autodistill.report.charts import QUANTITIES, Matrix, agreement_chart, knowledge_chart, temperatures_chart
from autodistill.report.parts import (
    MAX_ROWS,
    Cell,
    Column,
    Figure,
    Row,
    Section,
    Table,
    cut_note,
    rank_correlation,
    row,
    spread_out,
    table,
    teacher_names,
)
from autodistill.stats.tuning import common_settings

Teachers = StudyRecord | InspectionRecord

MAX_SHOWN = 8
"""Teachers in a chart: lines, histograms, or cells on a side of the heat map."""
TAU = 4.0
"""Temperature of single figures: that of plain KD."""
TABLE_TAUS = (1.0, 2.0, 4.0, 8.0, 16.0)
AT_BOUND = 0.5
"""Share of samples at a bound of the tau_other search from which the report warns."""
AGREES, DISAGREES = 0.7, 0.4
"""Mean Spearman correlations from which teachers agree, and below which they do not."""
MIN_TRUSTED = 10
"""Number of teachers from which an order of scores can be trusted."""
MORE, LESS = 1, -1
SCORES: tuple[tuple[str, int, Callable[[TeacherRecord], float | None]], ...] = (
    ("accuracy", MORE, lambda one: one.val_top1),
    ("NLL", LESS, lambda one: one.val_nll),
    ("calibration error", LESS, lambda one: one.val_ece),
    ("label's probability on train", LESS, lambda one: profile_of(one).train.target_probability),
    ("ratio of the two largest probabilities", LESS, lambda one: profile_of(one).train.top_two_log_ratio),
    ("inherent variance at tau 4", MORE, lambda one: at(one).inherent_variance),
    ("derived variance at tau 4", MORE, lambda one: at(one).derived_variance),
    ("parameters", MORE, lambda one: one.cost.params),
    ("parameters", LESS, lambda one: one.cost.params),
)
"""Figures of a teacher that are said to predict the better student, and whether more or less is said to be better.

Sources. Accuracy: common practice. NLL: Menon et al., ICML 2021. Label's probability (less certain teachers): Cho
and Hariharan, ICCV 2019. Ratio of the two largest probabilities (less confident teachers): Gosal et al., CVPR
workshops 2026, arXiv 2605.15689, whose code divides logits; a ratio of probabilities does not change when a constant is
added to all logits. Variances: Li et al., NeurIPS 2022, Fan et al. 2026. Size: both directions are claimed.
"""


def knowledge_info(record: Teachers) -> Section:
    """Return the profiles of the teachers and the two claims of the ISATS paper, each with what was measured."""
    teachers = by_size(record)
    if not teachers:
        return Section()
    parts = (spread_info(record), temperatures_info(record), agreement_info(record), scores_info(record))
    return Section(
        "Dark knowledge",
        "Measured on the teachers' logits before any student is trained. Dark knowledge is what the logits say about "
        "the classes that a sample does not belong to. The paper behind ISATS makes two claims about it, shown here "
        "with the measurement for these teachers.",
        points=(_variance_claim(teachers), _order_claim(record)),
        table=_profile_table(teachers),
        parts=parts,
    )


def notes_info(record: Teachers) -> Section:
    """Return what the user should know about how the teachers were read and checked."""
    rows = [row(short(one.name), note) for one in record.teachers for note in one.notes]
    if isinstance(record, StudyRecord):
        rows += [row(short(name), f"left out: {reason}") for name, reason in record.left_out.items()]
        rows += [row(short(name), f"not tried: {reason}") for name, reason in record.screened_out.items()]
    columns = ("Teacher", Column("Note", long=True))
    if not rows:
        return Section()
    return Section("Notes on the teachers", table=table("How the teachers were read", columns, rows[:MAX_ROWS]))


def by_size(record: Teachers) -> list[TeacherRecord]:
    """Return the teachers with a profile, ordered by number of parameters, those of unknown size last."""

    profiled = (one for one in record.teachers if one.profile)
    return sorted(profiled, key=lambda one: (math.inf if one.cost.params is None else one.cost.params, one.name))


def profile_of(teacher: TeacherRecord) -> ProfileRecord:
    assert teacher.profile is not None
    return teacher.profile


def at(teacher: TeacherRecord, tau: float = TAU) -> SpreadRecord:
    """Return the spread at the temperature of the grid that is nearest to `tau`."""
    return min(profile_of(teacher).spread, key=lambda one: abs(math.log(one.tau / tau)))


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
    note = f"{shown} of {total:,} teachers shown, evenly spread by size; the rest is in the record."
    return "" if shown == total else note


def _profile_table(teachers: Sequence[TeacherRecord]) -> Table:
    columns = (
        *("Teacher", ">Params", ">Accuracy", ">NLL", ">Calibration error", ">Scaled", ">Label's probability"),
        *(">Accuracy on train", ">IV", ">DV"),
    )
    rows = [_profile_row(teacher) for teacher in teachers[:MAX_ROWS]]
    first = profile_of(teachers[0])
    note = (
        f"On {first.validation.examples:,} validation samples. Figures on train are from {first.train.examples:,} "
        "samples of view 0, and so are the inherent and the derived variance (IV, DV) of the other classes at tau "
        f"{TAU:g}. Scaling divides the logits by the temperature that minimises the validation NLL."
    )
    note = f"{note} {cut_note(rows, len(teachers), 'teachers')}".strip()
    return table("Teachers by size, before any student is trained", columns, rows, note)


def _profile_row(teacher: TeacherRecord) -> Row:
    found, spread = profile_of(teacher), at(teacher)
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
        f"{spread.inherent_variance:#.2g}",
        f"{spread.derived_variance:#.2g}",
    )


def _variance_claim(teachers: Sequence[TeacherRecord]) -> tuple[str, str]:
    said = "The variance of the other classes rises, then falls, as teachers grow."
    of_known_size = "" if all(one.cost.params is not None for one in teachers) else " of known size"
    teachers = [one for one in teachers if one.cost.params is not None]
    if len(teachers) < 3:
        there = plural(len(teachers), "profile")
        return said, f"Checking this takes three teachers{of_known_size}; there are {there}{of_known_size}."
    spreads = [at(one) for one in teachers]
    derived = course([one.derived_variance for one in spreads], [one.derived_variance_error for one in spreads])
    inherent = course([one.inherent_variance for one in spreads], [one.inherent_variance_error for one in spreads])
    seen = {"+-": "Seen here", "+": "Only the rise is seen here", "-": "Only the fall is seen here"}
    top = max(teachers, key=lambda one: at(one).derived_variance)
    return (
        said,
        f"{seen.get(derived, 'Not seen here')}: over {len(teachers)} teachers from "
        f"{count(teachers[0].cost.params)} to {count(teachers[-1].cost.params)} parameters the derived variance at "
        f"tau 4 {_course_words(derived)}, with its largest value at {short(top.name)} "
        f"({count(top.cost.params)}); the inherent variance {_course_words(inherent)}.",
    )


def _course_words(signs: str) -> str:
    words = {
        "": "does not change beyond its error",
        "+": "rises",
        "-": "falls",
        "+-": "rises, then falls",
        "-+": "falls, then rises",
    }
    return words.get(signs, f"goes up and down, with {len(signs) - 1} turns")


def _order_claim(record: Teachers) -> tuple[str, str]:
    said = "Teachers of different capacity order the other classes alike."
    found = record.agreement
    pairs = _pairs(found.teachers, found.spearman, found.kendall) if found else []
    if not pairs:
        return said, "There is no pair of teachers to compare."
    rho = [one.spearman for one in pairs]
    mean, tau = math.fsum(rho) / len(rho), math.fsum(one.kendall for one in pairs) / len(pairs)
    verdict = "Seen here" if mean >= AGREES else "Seen in part" if mean >= DISAGREES else "Not seen here"
    low = min(pairs, key=lambda one: one.spearman)
    names = f"{short(low.right, 32)} and {short(low.left, 32)}"
    least = f", from {low.spearman:.2f} ({names}) to {max(rho):.2f}" if len(pairs) > 1 else ""
    return (
        said,
        f"{verdict}: over {plural(len(pairs), 'pair')} the mean Spearman correlation is {mean:.2f}{least}, and "
        f"Kendall's {tau:.2f}. A Spearman correlation of {AGREES} or more counts as agreement, a correlation below "
        f"{DISAGREES} as no agreement.",
    )


class _Pair(NamedTuple):
    left: str
    right: str
    spearman: float
    kendall: float


def _pairs(names: Sequence[str], spearman: Matrix, kendall: Matrix) -> list[_Pair]:
    """Return the pairs of teachers that have a correlation, the left one after the right one."""
    return [
        _Pair(names[left], names[right], rho, tau)
        for left in range(len(names))
        for right in range(left)
        if (rho := spearman[left][right]) is not None and (tau := kendall[left][right]) is not None
    ]


def spread_info(record: Teachers) -> Section:
    """Return DA, IV and DV of teachers with a profile against temperature."""
    teachers = by_size(record)
    shown = spread_out(teachers, MAX_SHOWN)
    rows = (
        row(f"{short(one.name)}, {name}", *(f"{getattr(at(one, tau), key):.3g}" for tau in TABLE_TAUS))
        for one in shown
        for name, key in QUANTITIES.items()
    )
    ranked = sorted(shown, key=lambda one: at(one).derived_variance)
    low, high = ranked[0], ranked[-1]
    largest, smallest = (f"{at(one).derived_variance:#.3g}" for one in (high, low))
    finding = f"At tau 4 the targets of {short(high.name)} have a derived variance of {largest}"
    if len(shown) > 1:
        finding += f", the largest, and those of {short(low.name)} of {smallest}, the smallest"
    columns = ("Teacher, quantity", *(f">tau {tau:g}" for tau in TABLE_TAUS))
    figure = Figure(
        "knowledge",
        finding=f"{finding}.",
        alt=f"Three panels against temperature, {plural(len(shown), 'line')} each: mean, inherent variance and "
        "derived variance of the other classes' probabilities.",
        table=table("Other classes under softmax(z / tau), means over the training samples", columns, rows),
        draw=partial(knowledge_chart, shown, teacher_names(record)),
    )
    note = _shown_note(len(shown), len(teachers))
    return Section("Other classes against temperature", figure=figure, note=note)


def temperatures_info(record: Teachers) -> Section:
    """Return the distribution of tau_other under ISATS with the prior's parameters, where the label is on top."""
    found = {one.name: one.profile.tau_other for one in by_size(record) if one.profile and one.profile.tau_other}
    if not found:
        return Section()
    shown = dict(spread_out(list(found.items()), MAX_SHOWN))
    first = next(iter(found.values()))
    settings = (f"{name.replace('_', ' ')} {parameter(value)}" for name, value in first.params.items())
    search = f"The prior's ISATS: tau other from {first.edges[0]:g} to {first.edges[-1]:g}"
    note = (
        f"{', '.join((search, *settings))}. Medians and bounds are over the samples whose label is on top; displaced "
        "and wrong are shares of all samples."
    )
    columns = (
        *("Teacher", ">Label on top", ">Median tau other", ">At lower bound", ">Inside", ">At upper bound"),
        *(">Label displaced", ">Teacher wrong"),
    )
    rows = (
        row(
            short(name),
            percent(one.teacher_right),
            EMPTY if one.median is None else f"{one.median:.3g}",
            percent(one.at_lower),
            EMPTY if one.median is None else percent(1 - one.at_lower - one.at_upper),
            percent(one.at_upper),
            percent(one.displaced),
            percent(1 - one.teacher_right),
        )
        for name, one in list(found.items())[:MAX_ROWS]
    )
    medians = [one.median for one in found.values() if one.median is not None]
    finding = "No teacher has a label on top"
    if medians:
        low, high = f"{min(medians):#.2g}", f"{max(medians):#.2g}"
        finding = f"The median tau other {f'is {low}' if low == high else f'lies between {low} and {high}'}"
    figure = Figure(
        "temperatures",
        finding=f"{finding}; {_most_at_bound(found)}.",
        alt=f"Histograms of tau other over the samples whose label is on top, {plural(len(found), 'teacher')}.",
        table=table("Temperatures of the other classes under ISATS", columns, rows, note),
        draw=partial(temperatures_chart, shown, teacher_names(record)),
    )
    heading = "Temperature of the other classes under ISATS"
    return Section(heading, figure=figure, note=_shown_note(len(shown), len(found)))


def _most_at_bound(found: Mapping[str, TauOtherRecord]) -> str:
    shares = {name: one.at_lower + one.at_upper for name, one in found.items()}
    worst = max(shares, key=shares.__getitem__)
    if shares[worst] == 0:
        return "no sample with its label on top is at a bound"
    warning = ", so the bounds determine its temperatures" if shares[worst] > AT_BOUND else ""
    return f"{short(worst)} has the most samples at a bound, {percent(shares[worst])}{warning}"


def agreement_info(record: Teachers) -> Section:
    """Return the rank correlations of the teachers' orders of the other classes."""
    found = record.agreement
    if found is None:
        return Section()
    kept = {one.name for one in spread_out(by_size(record), MAX_SHOWN)}
    places = [found.teachers.index(one.name) for one in by_size(record) if one.name in kept & set(found.teachers)]
    spearman, kendall = (
        [[matrix[left][right] for right in places] for left in places] for matrix in (found.spearman, found.kendall)
    )
    names = [found.teachers[place] for place in places]
    pairs = _pairs(names, spearman, kendall)
    if not pairs:
        return Section()
    least, most = min(pairs, key=lambda one: one.spearman), max(pairs, key=lambda one: one.spearman)
    pair, best = (f"{short(one.left, 40)} and {short(one.right, 40)}" for one in (least, most))
    rho, tau = f"{least.spearman:.2f}", f"{least.kendall:.2f}"
    finding = f"{pair} agree with a Spearman correlation of {rho} and a Kendall correlation of {tau}."
    if len(pairs) > 1:
        finding = f"Least alike are {pair} (Spearman {rho}, Kendall {tau}), "
        finding += f"most alike {best} ({most.spearman:.2f}, {most.kendall:.2f})."
    rows = []
    for left, name in enumerate(names):
        values = [*spearman[left][:left], None, *kendall[left][left + 1 :]]
        rows.append(row(short(name), *(EMPTY if one is None else f"{one:.2f}" for one in values)))
    columns = (Column("Teacher"), *(Column(short(name, 20), number=True) for name in names))
    figure = Figure(
        "agreement",
        finding=finding,
        alt=f"Heat map of rank correlations between {len(names)} teachers.",
        table=table("Agreement on the order of the other classes: Spearman below, Kendall above", columns, rows),
        draw=partial(agreement_chart, names, spearman, kendall),
    )
    note = (
        f"Means over {found.examples:,} samples of view 0 of the training split. Two trainings of the same network "
        "do not agree fully either, so a correlation below 1 is no defect of a teacher. "
        f"{_shown_note(len(names), len(found.teachers))}"
    )
    return Section("Agreement on the order of the other classes", figure=figure, note=note.strip())


def scores_info(record: Teachers) -> Section:
    """Return the regret of choosing the teacher of this study by each score that takes no training.

    Students are compared with equal settings. Regret is the accuracy of the best student minus that of the picked
    teacher's student. Spearman correlations are signed so that a higher score should be better.
    """
    common = None if isinstance(record, InspectionRecord) else common_settings(record)
    teachers = [one for one in by_size(record) if common and one.name in common.top1]
    if common is None or len(teachers) < 2:
        return Section()
    students = [common.top1[one.name] for one in teachers]
    regrets = [max(students) - one for one in students]
    ranked = []
    for label, sign, value in SCORES:
        found = [value(teacher) for teacher in teachers]
        values = [sign * one for one in found if one is not None]
        if len(values) < len(teachers):  # the size of a teacher is unknown
            continue
        picked = values.index(max(values))
        words = f"{label}, {'more' if sign > 0 else 'less'} is better"
        ranked.append((words, teachers[picked].name, regrets[picked], rank_correlation(values, students)))
    at_random = f"{100 * math.fsum(regrets) / len(regrets):.1f}"
    rows = [
        row(words, short(name, 40), f"{100 * regret:.1f}", EMPTY if rho is None else f"{rho:+.2f}")
        for words, name, regret, rho in sorted(ranked, key=lambda one: (one[2], -(one[3] or 0.0)))
    ]
    rows.append(row("a teacher drawn at random", EMPTY, at_random, EMPTY, mark="baseline"))
    columns = (Column("Score", long=True), "Teacher it picks", ">Regret, points", ">Spearman with the students")
    caption = f"Choosing by a score that takes no training (n = {plural(len(teachers), 'teacher')})"
    _, name, regret, _ = ranked[0]
    result = "cost nothing" if regret == 0 else f"cost {100 * regret:.1f} points"
    finding = (
        f"With equal settings, taking the most accurate teacher, {short(name)}, would have {result} against the best "
        f"choice in this study; taking a teacher at random, {at_random} points on average."
    )
    runs = "a single run" if common.runs == 1 else f"up to {common.runs} runs"
    note = (
        "Regret is measured against the best student on validation. All students have the same settings, "
        f"{recipe(common.settings)}, and {runs} each: seed noise counts as regret too."
    )
    if len(teachers) < MIN_TRUSTED:
        note = (
            f"{len(teachers)} teachers are too few to trust any of these orders: a random order is perfect with a "
            f"chance of 1 in {math.factorial(len(teachers)):,}, and {len(ranked)} scores have as many chances. {note}"
        )
    return Section("Scores that take no training", finding, table=table(caption, columns, rows), note=note)
