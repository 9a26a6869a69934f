"""Sections on the answer: recommendation, leaderboard, controls, capacity mismatch, and the choice of a student."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from urllib.parse import quote

import numpy as np

from autodistill import stats
from autodistill.formatting import (
    COSTS,
    EMPTY,
    amount,
    contrast_interval,
    contrast_words,
    count,
    excess_words,
    interval,
    limits_words,
    maybe,
    percent,
    plural,
    points,
    probability,
    quantity,
    recipe,
    short,
    sure,
)
from autodistill.records import (
    ComparisonRecord,
    Contrast,
    ControlRecord,
    RankRow,
    Recommendation,
    RunResult,
    StudentChoice,
    StudentRow,
    StudyRecord,
    TargetSummary,
    TeacherRecord,
    latency_of,
)
from autodistill.report.charts import mismatch_chart, pareto_chart, recommendation_chart
from autodistill.report.parts import (
    Answer,
    Cell,
    Column,
    Figure,
    Row,
    Section,
    accuracy_cell,
    mean_test_top1,
    plain_kd_confirmed,
    rank_correlation,
    row,
    table,
    teacher_names,
    verdict_of,
)
from autodistill.stats.tuning import common_settings
from autodistill.stats.verdict import best_full_runs, full_runs, score

HEADLINES = {
    "winner": "A clear winner",
    "no_clear_difference": "No clear difference",
    "only_one": "One teacher to judge",
    "no_teacher": "No teacher helps",
    "unconfirmed": "Unconfirmed",
}
ANSWERS = {"helps": "It helps", "does_not_help": "It does not help", "cannot_tell": "Cannot be told yet"}
REGIMES = {"default": "Prior", "shared": "Shared configuration", "own": "Own best configuration"}


def answer_info(record: StudyRecord) -> Answer:
    """Return the recommendation."""
    verdict = verdict_of(record)
    headline = HEADLINES[verdict.verdict]
    if verdict.verdict == "winner" and verdict.basis == "configurations":
        headline = "A clear winner among configurations"
    if verdict.verdict == "no_teacher" and verdict.versus_no_teacher == "cannot_tell":
        headline = "No teacher was ahead of labels alone"
    return Answer(verdict.verdict, headline, verdict.sentence, tuple(_facts(verdict)))


def why_info(record: StudyRecord) -> Section:
    """Return the reasons, and the confirmed differences to no teacher."""
    verdict = verdict_of(record)
    figure = None
    if contrasts := [one for one in verdict.contrasts if one.versus is None]:
        best = max(contrasts, key=lambda one: one.difference)
        rows = (row(short(one.teacher), points(one.difference), contrast_interval(one)) for one in contrasts)
        columns = ("Teacher", ">Difference, points", ">95 % interval")
        figure = Figure(
            "recommendation",
            finding=f"{short(best.teacher)}: {contrast_words(best)}.",
            alt=f"Dots with interval bars: {plural(len(contrasts), 'teacher')} against no teacher, on test.",
            table=table("Confirmed difference to no teacher", columns, rows),
            draw=partial(recommendation_chart, contrasts, verdict.threshold, teacher_names(record)),
        )
    return Section("Why", points=verdict.reasons, figure=figure)


def _facts(verdict: Recommendation) -> Iterator[tuple[str, str, str]]:
    settings = recipe(verdict.params) if verdict.teacher else ""
    yield "Learn from", short(verdict.teacher or "no teacher"), settings
    confirmed = next((one for one in verdict.ranking if one.teacher == verdict.teacher), None)
    if confirmed is not None and confirmed.confirmed_test_top1 is not None:
        yield "Test accuracy", percent(confirmed.confirmed_test_top1), f"mean of {plural(confirmed.seeds, 'seed')}"
    elif confirmed is not None and confirmed.search_val_top1 is not None:
        yield "Validation accuracy", percent(confirmed.search_val_top1), "one run, not confirmed"
    named = verdict.teacher or next((one.teacher for one in verdict.ranking if one.teacher), None)
    if gain := _contrast(verdict, named):
        label = "Over no teacher" if verdict.teacher else f"Best teacher, {short(named or '', 24)}"
        yield label, f"{points(gain.difference)} points", contrast_interval(gain)
    threshold = f"threshold {100 * verdict.threshold:.1f} points"
    yield "Does a teacher help?", ANSWERS[verdict.versus_no_teacher], threshold


def _contrast(verdict: Recommendation, teacher: str | None) -> Contrast | None:
    return next((one for one in verdict.contrasts if one.teacher == teacher and one.versus is None), None)


def leaderboard_info(record: StudyRecord) -> Section:
    """Return a row for every teacher with its cost and its student's scores, confirmed first, then the baselines."""
    verdict = verdict_of(record)
    ranked = {one.teacher: one for one in verdict.ranking if one.confirmed_test_top1 is not None}
    place = {name: rank for rank, name in enumerate(ranked)}
    best = best_full_runs(record)
    teachers = sorted(
        record.teachers, key=lambda one: (place.get(one.name, len(place)), -score(best.get(one.name)), one.name)
    )
    rows = [_teacher_row(record, verdict, one, ranked.get(one.name), best.get(one.name)) for one in teachers]
    rows += _baseline_rows(record, verdict, ranked.get(None))
    columns: list[str | Column] = [
        *("Teacher", ">Its own accuracy", ">Params", ">Trials", ">Best in search", ">Confirmed on test"),
        *(">Mean over classes", ">P(best)", ">Points over no teacher", Column("Settings", long=True)),
    ]
    if all(one.confirmed_test_balanced_top1 is None for one in verdict.ranking):
        place_of_mean = columns.index(">Mean over classes")
        del columns[place_of_mean]
        rows = [replace(one, cells=one.cells[:place_of_mean] + one.cells[place_of_mean + 1 :]) for one in rows]
    note = (
        "Search scores are single runs on validation and tend to be too high, because the best of many was chosen. "
        "Confirmed values are means over new seeds on test. Small figures are 95 % intervals. P(best) is the "
        "probability of being the best finalist; the verdict does not use it."
    )
    return Section("Leaderboard", table=table("Teachers by the accuracy of their students", columns, rows, note))


def _teacher_row(
    record: StudyRecord,
    verdict: Recommendation,
    teacher: TeacherRecord,
    ranked: RankRow | None,
    best: RunResult | None,
) -> Row:
    name, picked = teacher.name, teacher.name == verdict.teacher
    params = ranked.params if ranked else best.params if best else None
    means = (record.search_score(run.params) for run in full_runs(record) if run.params.teacher == name)
    runs = [run for one in record.finalists if one.teacher == name for run in one.runs] + [best]
    targets = next((run.targets for run in runs if run is not None and run.targets is not None), None)
    gain = _contrast(verdict, name)
    return row(
        Cell(short(name), "recommended" if picked else ""),
        Cell(percent(teacher.val_top1), "below no teacher" if _is_poor(teacher, record) else ""),
        Cell(count(teacher.cost.params), f"{count(teacher.cost.macs)} MACs"),
        str(sum(trial.params.teacher == name for trial in record.trials)),
        maybe(max((mean for mean in means if mean is not None), default=None)),
        *_confirmed_cells(ranked),
        probability(ranked.p_best if ranked else None),
        Cell(points(gain.difference), contrast_interval(gain)) if gain else EMPTY,
        Cell(recipe(params) if params else EMPTY, _in_use(targets)),
        mark="pick" if picked else "",
    )


def _is_poor(teacher: TeacherRecord, record: StudyRecord) -> bool:
    """Return whether a teacher is less accurate on validation than the student that was trained without a teacher."""
    alone = record.no_teacher
    return alone is not None and alone.val_top1 is not None and teacher.score(alone.metric) < alone.val_top1


def _baseline_rows(record: StudyRecord, verdict: Recommendation, ranked: RankRow | None) -> Iterator[Row]:
    blank = (EMPTY,) * 3
    if record.no_teacher is not None or ranked is not None:
        picked = verdict.teacher is None and verdict.verdict == "no_teacher"
        yield row(
            Cell("no teacher", "recommended" if picked else "baseline"),
            *blank,
            maybe(record.no_teacher.val_top1 if record.no_teacher else None),
            *_confirmed_cells(ranked),
            probability(ranked.p_best if ranked else None),
            EMPTY,
            "labels alone",
            mark="pick" if picked else "baseline",
        )
    if verdict.label_smoothing is not None:
        yield row(
            Cell("label smoothing", "baseline"),
            *blank,
            EMPTY,
            *_confirmed_cells(verdict.label_smoothing),
            EMPTY,
            EMPTY,
            "labels alone, smoothing 0.1",
            mark="baseline",
        )
    kd = record.plain_kd
    if kd is not None:
        confirmed = "confirmed above: its teacher's best" if plain_kd_confirmed(record) else "unconfirmed, 1 run"
        yield row(
            Cell("plain KD", f"from {short(kd.params.teacher or EMPTY, 32)}"),
            *blank,
            maybe(kd.val_top1),
            Cell(EMPTY, confirmed),
            *blank,
            Cell(recipe(kd.params), _in_use(kd.targets)),
            mark="baseline",
        )


def _confirmed_cells(ranked: RankRow | None) -> tuple[Cell, Cell]:
    """Return the confirmed accuracy, and the mean of the accuracies on each class."""
    if ranked is None:
        return Cell(EMPTY), Cell(EMPTY)
    cell = accuracy_cell(ranked.confirmed_test_top1, ranked.low, ranked.high, ranked.seeds)
    return cell, Cell(maybe(ranked.confirmed_test_balanced_top1))


def _in_use(targets: TargetSummary | None) -> str:
    """Return the medians of the temperatures that a method used."""
    if targets is None:
        return ""
    wrong = "" if targets.tau_wrong is None else f", {targets.tau_wrong:.2g} where the teacher is wrong"
    return f"in use: tau target {targets.tau_target:.2g}, tau other {targets.tau_other:.2g}{wrong}"


def controls_info(record: StudyRecord) -> Section:
    """Return each teacher's accuracy with the prior, with the best configuration of all and with its own best."""
    section = partial(Section, "The teacher, or its temperature?", nav="Teacher or temperature")
    if not record.controls:
        return section(_without_controls(record))
    controls: dict[str, dict[str, ControlRecord]] = {}  # by teacher and regime
    for one in record.controls:
        controls.setdefault(one.teacher, {})[one.regime] = one
    shared = next(one for one in record.controls if one.regime == "shared")
    note = (
        f"Test accuracy over the same confirm seeds. Shared configuration: {recipe(shared.params)}, the best of the "
        "finalists. Only the gain of a teacher's own configuration over the shared one is an effect of tuning for that "
        "teacher."
    )
    columns = ("Teacher", *(f">{name}" for name in REGIMES.values()), ">Own over shared, points")
    rows = (_control_row(teacher, found) for teacher, found in controls.items())
    return section(points=tuple(_findings(controls)), table=table("Fair controls", columns, rows, note))


def _without_controls(record: StudyRecord) -> str:
    if record.plan.controls:
        return "Fair controls are still to come."
    if verdict_of(record).basis == "teachers":
        return (
            "The finalists were compared at equal tuning: in the search, each finalist was also trained with the "
            "settings of the finalists ahead of it. With a budget of 40 or more, fair controls repeat this over the "
            "confirm seeds."
        )
    return (
        "Not measured: whether a difference comes from the teacher or from temperatures that were tuned for it. From "
        "a budget of 40 on, each finalist is also trained with the prior and with the best configuration of all."
    )


def _control_row(teacher: str, found: Mapping[str, ControlRecord]) -> Row:
    cells = (Cell(maybe(mean_test_top1(found[it].runs)), recipe(found[it].params)) for it in REGIMES)
    gain = _own_over_shared(found)
    return row(short(teacher), *cells, Cell(points(gain[0]), interval(*gain[1:])) if gain else EMPTY)


def _findings(controls: Mapping[str, Mapping[str, ControlRecord]]) -> Iterator[str]:
    for regime, words in (("default", "With the prior for all"), ("shared", "With one configuration for all")):
        found = (one[regime] for one in controls.values())
        best, *others = sorted(found, key=lambda one: mean_test_top1(one.runs) or 0.0, reverse=True)
        for other in others:
            if gain := _difference(best, other):
                pair = f"{short(best.teacher)} gives {points(gain[0])} points over {short(other.teacher)}"
                yield f"{words}, {pair} ({sure(*gain[1:])})."
    for teacher, own in controls.items():
        if gain := _own_over_shared(own):
            size = f"{points(gain[0])} points ({sure(*gain[1:])})"
            yield f"Tuning for {short(teacher)} alone changes its student by {size} against the shared configuration."


def _own_over_shared(found: Mapping[str, ControlRecord]) -> tuple[float, float | None, float | None] | None:
    own, shared = found["own"], found["shared"]
    return _difference(own, shared) if own.params != shared.params else None


def _difference(one: ControlRecord, other: ControlRecord) -> tuple[float, float | None, float | None] | None:
    """Return the paired difference over the shared seeds and its 95 % interval; None without a shared seed."""
    mine, yours = stats.scores_by_seed(one.runs), stats.scores_by_seed(other.runs)
    differences = np.array([mine[seed] - yours[seed] for seed in sorted(mine.keys() & yours.keys())])
    difference, width = stats.own_mean(differences)
    if math.isnan(difference):
        return None
    if math.isnan(width) or np.ptp(differences) == 0:
        return difference, None, None
    return difference, difference - width, difference + width


def mismatch_info(record: StudyRecord) -> Section:
    """Compare the teachers' accuracy and size with the accuracy of their students, all with the same settings."""
    common = common_settings(record)
    found = [one for one in record.teachers if common is not None and one.name in common.top1]
    if common is None or len(found) < 2:
        note = "Capacity mismatch is shown for two or more teachers that were trained in full with the same settings."
        return Section("Capacity mismatch", note=note)
    teachers = sorted(found, key=lambda one: (one.val_top1, one.name))
    students = [common.top1[one.name] for one in teachers]
    top = teachers[-1]
    place = "made the best student"
    verdict = verdict_of(record)
    if rank := sum(one > students[-1] for one in students):
        regret = max(students) - students[-1]
        place = f"made student {rank + 1} of {len(teachers)}, {100 * regret:.1f} points below the best"
        if verdict.seed_std is not None and regret <= 2 * math.sqrt(2) * verdict.seed_std:
            place += ", which is within the noise of two runs"
    rho = rank_correlation([one.val_top1 for one in teachers], students)
    by_accuracy = "" if rho is None else f" (Spearman {rho:+.2f} over {len(teachers)} teachers)"
    sizes = {one.name: one.cost.params for one in teachers if one.cost.params is not None}
    rho = rank_correlation(list(sizes.values()), [common.top1[name] for name in sizes])
    by_size = "" if rho is None else f" With the number of parameters the Spearman correlation is {rho:+.2f}."
    bars = "bars are two standard deviations of a run's seed noise either way, as measured between confirm runs"
    if verdict.seed_std is None:
        bars = "its seed noise was not measured"
    ranked = {one.teacher: one for one in verdict.ranking if one.confirmed_test_top1}
    rows = (
        row(
            short(one.name),
            percent(one.val_top1),
            percent(student),
            _confirmed_cells(ranked.get(one.name))[0],
            count(one.cost.params),
            count(one.cost.macs),
        )
        for one, student in zip(teachers, students, strict=True)
    )
    columns = ("Teacher", ">Teacher accuracy", ">Student", ">Own best settings, test", ">Params", ">Teacher MACs")
    figure = Figure(
        "mismatch",
        finding=f"With equal settings, the most accurate teacher, {short(top.name)} ({percent(top.val_top1)}), "
        f"{place}{by_accuracy}.",
        alt="Two scatters of the accuracy of students with equal settings, against their teacher's accuracy and its "
        f"size, for {len(teachers)} teachers.",
        table=table("Teacher accuracy and its student with equal settings, on validation", columns, rows),
        draw=partial(
            mismatch_chart,
            list(zip(teachers, students, strict=True)),
            record.no_teacher.val_top1 if record.no_teacher else None,
            verdict.seed_std,
            teacher_names(record),
        ),
    )
    runs = "one run" if common.runs == 1 else f"the mean of up to {common.runs} runs"
    missing = len(record.teachers) - len(teachers)
    others = f" {plural(missing, 'teacher')} had no full run with these settings." if missing else ""
    note = (
        f"All students have the same settings: {recipe(common.settings)}. Each of {len(teachers)} points "
        f"is {runs} on validation; {bars}.{others}{by_size}"
    )
    return Section("Capacity mismatch", figure=figure, note=note)


def comparison_answer(record: ComparisonRecord) -> Answer:
    """Return the choice of a student."""
    choice = record.choice
    assert choice is not None
    headline = {**HEADLINES, "only_one": "One student within the limits"}[choice.verdict]
    return Answer(choice.verdict, headline, choice.sentence, tuple(_student_facts(record, choice)))


def comparison_sections(record: ComparisonRecord) -> dict[str, Section]:
    """Return the sections of the page that compares students."""
    choice = record.choice
    assert choice is not None
    figure = _pareto_figure(record, choice) if any(one.test_top1 is not None for one in choice.rows) else None
    limits = [
        row(amount(one.kind, one.limit), short(one.student), short(one.teacher or "no teacher"), percent(one.test_top1))
        for one in choice.lines
    ]
    note = (
        "The most accurate student within the limit, by confirmed mean; a row for each limit at which the answer "
        "changes."
    )
    left_out = [row(short(one.student.name), excess_words(one, record.limits)) for one in record.left_out]
    students = {
        f"student-{number}": Section(
            study.student.name,
            verdict_of(study).sentence,
            table=leaderboard_info(study).table,
            link=f"students/{quote(study.name)}/report.html",
        )
        for number, study in enumerate(record.studies, 1)
    }
    equivalents = count(record.studies[0].plan.equivalents)
    method = (
        f"Each student had a budget of its own: {equivalents} full trainings of that student.",
        "Students are compared by paired intervals over their shared confirm seeds, each with the teacher that its "
        "own study recommends. The intervals include neither the choice of that teacher nor split and view noise.",
    )
    columns = ("Up to", "Student", "Teacher", ">Test accuracy")
    return {
        "why": Section("Why", points=choice.reasons),
        "pareto": Section("Accuracy against cost", table=figure.table if figure else None, figure=figure),
        "limits": Section(
            "Under a limit",
            "" if limits else "No student is confirmed yet.",
            table=table("The answer under a limit", columns, limits, note) if limits else None,
            tables=(table("Not trained: over a limit", ("Student", "Cost over the limit"), left_out),),
        ),
        **students,
        "method": Section("Method and limits", points=method),
    }


def _student_facts(record: ComparisonRecord, choice: StudentChoice) -> Iterator[tuple[str, str, str]]:
    chosen = next(one for one in choice.rows if one.student == choice.student)
    yield "Ship", short(chosen.student), ", ".join(amount(kind, cost) for kind, cost in chosen.costs.items())
    yield "Taught by", short(chosen.teacher or "no teacher"), recipe(chosen.params) if chosen.teacher else ""
    if chosen.test_top1 is not None:
        precision = interval(chosen.low, chosen.high, percent, enough=chosen.seeds > 1)
        yield "Test accuracy", percent(chosen.test_top1), f"{precision}, {plural(chosen.seeds, 'seed')}"
    if record.limits.given:
        broken = f"{plural(len(record.left_out), 'student')} left out" if record.left_out else "all students meet them"
        yield "Limits", limits_words(record.limits), broken


def _pareto_figure(record: ComparisonRecord, choice: StudentChoice) -> Figure:
    on = ", ".join(short(one.student) for one in choice.rows if one.front)
    off = ", ".join(short(one.student) for one in choice.rows if one.test_top1 is not None and not one.front)
    others = f"on no front: {off}" if off else "every confirmed student is on a front"
    devices = {latency.device for study in record.studies if (latency := latency_of(study)) is not None}
    note = f"Latency: one image, batch 1, median, on {' and '.join(sorted(devices))}." if devices else ""
    columns = ("Student", "Teacher", ">Test accuracy", ">Params", ">MACs", ">Size", ">Latency", "On the front by")
    rows = (_student_row(one, pick=one.student == choice.student) for one in choice.rows)
    return Figure(
        "students",
        finding=f"On the Pareto front: {on}; {others}.",
        alt=f"Panels of test accuracy with its interval against each cost, for {plural(len(choice.rows), 'student')}.",
        table=table("Students, each with its recommended teacher", columns, rows, note),
        draw=partial(pareto_chart, choice.rows, record.limits.given),
    )


def _student_row(one: StudentRow, *, pick: bool) -> Row:
    accuracy = Cell(maybe(one.test_top1), interval(one.low, one.high, percent) if one.low is not None else "")
    teacher = Cell(short(one.teacher or "no teacher"), recipe(one.params) if one.teacher else "")
    costs = (quantity(kind, one.costs[kind]) if kind in one.costs else EMPTY for kind in COSTS)
    front = ", ".join(COSTS[kind] for kind in one.front) or "none"
    return row(short(one.student), teacher, accuracy, *costs, front, mark="pick" if pick else "")
