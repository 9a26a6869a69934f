"""Sections on the answer: recommendation, leaderboard, capacity mismatch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autodistill.formatting import (
    EMPTY,
    contrast_words,
    count,
    interval,
    maybe,
    percent,
    plural,
    points,
    probability,
    recipe,
    short,
)
from autodistill.records import Contrast, RankRow, Recommendation, RunResult, StudyRecord, TargetSummary
from autodistill.report.parts import (
    Cell,
    Column,
    Fact,
    Figure,
    Mark,
    Row,
    Table,
    best_full_runs,
    full_runs,
    number_columns,
    plain_kd_confirmed,
    row,
    score,
    teacher_names,
    text_columns,
    verdict_of,
)

VERDICTS = {
    "winner": "A clear winner",
    "no_clear_difference": "No clear difference",
    "only_one": "One teacher to judge",
    "no_teacher": "No teacher helps",
    "unconfirmed": "Unconfirmed",
}
NOT_AHEAD = "No teacher beats labels alone"
ANSWERS = {"helps": "It helps", "does_not_help": "It does not help", "cannot_tell": "Cannot be told yet"}


@dataclass(frozen=True)
class RecommendationInfo:
    verdict: str
    headline: str
    sentence: str
    running: bool
    facts: tuple[Fact, ...]
    reasons: tuple[str, ...]
    command: str
    contrasts: tuple[Contrast, ...]
    """Teachers against no teacher, best first."""
    threshold: float
    teachers: tuple[str, ...]
    figure: Figure | None


@dataclass(frozen=True)
class LeaderboardInfo:
    table: Table


@dataclass(frozen=True)
class MismatchPoint:
    teacher: str
    teacher_top1: float
    student_top1: float
    macs: int
    params: int


@dataclass(frozen=True)
class MismatchInfo:
    points: tuple[MismatchPoint, ...]
    """Teachers with a full run, ordered by their own accuracy."""
    teachers: tuple[str, ...]
    spearman: float | None
    """Correlation of the teachers' accuracy with the students'."""
    spearman_params: float | None
    """Correlation of the teachers' size with the students' accuracy."""
    regret: float | None
    """Validation accuracy lost by taking the most accurate teacher."""
    no_teacher: float | None
    seed_std: float | None
    """Standard deviation of the seed noise of one run; None: not measured."""
    figure: Figure | None
    note: str


def recommendation_info(record: StudyRecord) -> RecommendationInfo:
    """Return the verdict, its reasons and the command that reproduces it."""
    verdict = verdict_of(record)
    contrasts = tuple(contrast for contrast in verdict.contrasts if contrast.versus is None)
    return RecommendationInfo(
        verdict=verdict.verdict,
        headline=_headline(verdict),
        sentence=verdict.sentence,
        running=record.state == "running",
        facts=tuple(_facts(verdict)),
        reasons=verdict.reasons,
        command=record.command,
        contrasts=contrasts,
        threshold=verdict.threshold,
        teachers=teacher_names(record),
        figure=_contrast_figure(contrasts),
    )


def _headline(verdict: Recommendation) -> str:
    open_question = verdict.verdict == "no_teacher" and verdict.versus_no_teacher == "cannot_tell"
    return NOT_AHEAD if open_question else VERDICTS[verdict.verdict]


def _facts(verdict: Recommendation) -> Iterator[Fact]:
    settings = recipe(verdict.params) if verdict.teacher else ""
    yield Fact("Learn from", short(verdict.teacher or "no teacher"), settings)
    confirmed = next((one for one in verdict.ranking if one.teacher == verdict.teacher), None)
    if confirmed is not None and confirmed.confirmed_test_top1 is not None:
        seeds = plural(confirmed.seeds, "seed")
        yield Fact("Test accuracy", percent(confirmed.confirmed_test_top1), f"mean of {seeds}")
    elif confirmed is not None and confirmed.search_val_top1 is not None:
        yield Fact("Validation accuracy", percent(confirmed.search_val_top1), "one run, not confirmed")
    named = verdict.teacher or next((one.teacher for one in verdict.ranking if one.teacher), None)
    gain = _contrast(verdict, named)
    if gain is not None:
        label = "Over no teacher" if verdict.teacher else f"Best teacher, {short(named or '', 24)}"
        yield Fact(label, f"{points(gain.difference)} points", interval(gain.low, gain.high))
    yield Fact(
        "Does a teacher help?", ANSWERS[verdict.versus_no_teacher], f"threshold {100 * verdict.threshold:.1f} points"
    )


def _contrast(verdict: Recommendation, teacher: str | None) -> Contrast | None:
    return next((one for one in verdict.contrasts if one.teacher == teacher and one.versus is None), None)


def _contrast_figure(contrasts: Sequence[Contrast]) -> Figure | None:
    if not contrasts:
        return None
    best = max(contrasts, key=lambda one: one.difference)
    columns = (Column("Teacher"), *number_columns("Difference, points", "95 % interval"))
    rows = tuple(row(short(one.teacher), points(one.difference), interval(one.low, one.high)) for one in contrasts)
    return Figure(
        finding=f"{short(best.teacher)}: {contrast_words(best)}.",
        alt=f"Dots with interval bars: {plural(len(contrasts), 'teacher')} against no teacher, on test.",
        table=Table("Confirmed difference to no teacher", columns, rows),
    )


def leaderboard_info(record: StudyRecord) -> LeaderboardInfo:
    """Return a row for every teacher with its cost and its student's scores, confirmed first, then the baselines."""
    verdict = verdict_of(record)
    ranked = {one.teacher: one for one in verdict.ranking if one.confirmed_test_top1 is not None}
    place = {name: rank for rank, name in enumerate(ranked)}
    best = best_full_runs(record)
    names = sorted(
        (teacher.name for teacher in record.teachers),
        key=lambda name: (place.get(name, len(place)), -score(best.get(name)), name),
    )
    rows = [_teacher_row(record, verdict, name, ranked.get(name), best.get(name)) for name in names]
    note = (
        "Search scores are single runs on validation and tend to be too high, because the best of many was chosen. "
        "Confirmed values are means over new seeds on test. Small figures are 95 % intervals. P(best) is the "
        "probability of being the best finalist; the verdict does not use it."
    )
    columns = (
        Column("Teacher"),
        *number_columns("Its own accuracy", "Params", "Trials", "Best in search", "Confirmed on test", "P(best)"),
        *number_columns("Points over no teacher"),
        Column("Settings", long=True),
    )
    caption = "Teachers by the accuracy of their students"
    return LeaderboardInfo(Table(caption, columns, (*rows, *_baseline_rows(record, verdict)), note))


def _teacher_row(
    record: StudyRecord, verdict: Recommendation, name: str, ranked: RankRow | None, best: RunResult | None
) -> Row:
    teacher = next(one for one in record.teachers if one.name == name)
    trials = [trial for trial in record.trials if trial.params.teacher == name]
    params = ranked.params if ranked else best.params if best else None
    means = (record.search_score(run.params) for run in full_runs(record) if run.params.teacher == name)
    searched = [mean for mean in means if mean is not None]
    gain = _contrast(verdict, name)
    return row(
        Cell(short(name), "recommended" if name == verdict.teacher else ""),
        percent(teacher.val_top1),
        Cell(count(teacher.cost.params), f"{count(teacher.cost.macs)} MACs"),
        str(len(trials)),
        maybe(max(searched, default=None)),
        _confirmed_cell(ranked),
        probability(ranked.p_best if ranked else None),
        Cell(points(gain.difference), interval(gain.low, gain.high)) if gain else EMPTY,
        Cell(recipe(params) if params else EMPTY, _in_use(_targets(record, name, best))),
        mark="pick" if name == verdict.teacher else "",
    )


def _baseline_rows(record: StudyRecord, verdict: Recommendation) -> Iterator[Row]:
    ranked = next((one for one in verdict.ranking if one.teacher is None and one.confirmed_test_top1), None)
    blank = (EMPTY,) * 3
    if record.no_teacher is not None or ranked is not None:
        picked = verdict.teacher is None and verdict.verdict == "no_teacher"
        mark: Mark = "pick" if picked else "baseline"
        yield row(
            Cell("no teacher", "recommended" if picked else "baseline"),
            *blank,
            maybe(record.no_teacher.val_top1 if record.no_teacher else None),
            _confirmed_cell(ranked),
            probability(ranked.p_best if ranked else None),
            EMPTY,
            "labels alone",
            mark=mark,
        )
    kd = record.plain_kd
    if kd is not None:
        confirmed = "confirmed above: its teacher's best" if plain_kd_confirmed(record) else "unconfirmed, 1 run"
        yield row(
            Cell("plain KD", f"from {short(kd.params.teacher or EMPTY, 32)}"),
            *blank,
            maybe(kd.val_top1),
            Cell(EMPTY, confirmed),
            EMPTY,
            EMPTY,
            Cell(recipe(kd.params), _in_use(kd.targets)),
            mark="baseline",
        )


def _confirmed_cell(ranked: RankRow | None) -> Cell:
    if ranked is None or ranked.confirmed_test_top1 is None:
        return Cell(EMPTY)
    below = interval(ranked.low, ranked.high, lambda value: f"{100 * value:.1f}")
    return Cell(percent(ranked.confirmed_test_top1), f"{below}, {plural(ranked.seeds, 'seed')}")


def _targets(record: StudyRecord, name: str, best: RunResult | None) -> TargetSummary | None:
    runs = [run for one in record.finalists if one.teacher == name for run in one.runs] + [best]
    return next((run.targets for run in runs if run is not None and run.targets is not None), None)


def _in_use(targets: TargetSummary | None) -> str:
    """Return the medians of the temperatures that a method used."""
    if targets is None:
        return ""
    wrong = "" if targets.tau_wrong is None else f", {targets.tau_wrong:.2g} where the teacher is wrong"
    return f"in use: tau target {targets.tau_target:.2g}, tau other {targets.tau_other:.2g}{wrong}"


def mismatch_info(record: StudyRecord) -> MismatchInfo:
    """Compare the teachers' accuracy and size with the accuracy of their students."""
    best = best_full_runs(record)
    found = [
        MismatchPoint(one.name, one.val_top1, score(best[one.name]), one.cost.macs, one.cost.params)
        for one in record.teachers
        if one.name in best
    ]
    found.sort(key=lambda one: (one.teacher_top1, one.teacher))
    students = [one.student_top1 for one in found]
    spearman = rank_correlation([one.teacher_top1 for one in found], students)
    by_size = rank_correlation([one.params for one in found], students)
    regret = max(students) - found[-1].student_top1 if found else None
    several = len(found) > 1 and regret is not None
    noise = verdict_of(record).seed_std
    return MismatchInfo(
        points=tuple(found),
        teachers=teacher_names(record),
        spearman=spearman,
        spearman_params=by_size,
        regret=regret,
        no_teacher=record.no_teacher.val_top1 if record.no_teacher else None,
        seed_std=noise,
        figure=_mismatch_figure(record, found, spearman, regret) if several and regret is not None else None,
        note=(
            _mismatch_note(len(found), by_size, noise)
            if several
            else "Capacity mismatch is shown for two or more teachers with a full run each."
        ),
    )


def rank_correlation(x: Sequence[int | float], y: Sequence[int | float]) -> float | None:
    """Return Spearman's rho with mean ranks for ties; None for fewer than three pairs or a constant side."""
    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: Sequence[int | float]) -> np.ndarray:
    array = np.array(values)
    below, up_to = (array[:, None] > array).sum(axis=1), (array[:, None] >= array).sum(axis=1)
    return np.asarray((below + up_to + 1) / 2)


def _mismatch_figure(
    record: StudyRecord, found: Sequence[MismatchPoint], spearman: float | None, regret: float
) -> Figure:
    top = found[-1]
    rank = sum(one.student_top1 > top.student_top1 for one in found) + 1
    place = (
        "made the best student"
        if rank == 1
        else f"made student {rank} of {len(found)}, {100 * regret:.1f} points below the best"
    )
    rho = "" if spearman is None else f" (Spearman {spearman:+.2f} over {len(found)} teachers)"
    columns = (
        *text_columns("Teacher"),
        *number_columns("Teacher accuracy", "Best student", "Confirmed on test", "Params", "Teacher MACs"),
    )
    ranked = {one.teacher: one for one in verdict_of(record).ranking if one.confirmed_test_top1}
    rows = tuple(_mismatch_row(one, ranked.get(one.teacher)) for one in found)
    return Figure(
        finding=f"The most accurate teacher, {short(top.teacher)} ({percent(top.teacher_top1)}), {place}{rho}.",
        alt="Two scatters of the best student's accuracy, against the teacher's accuracy and its size, for "
        f"{len(found)} teachers.",
        table=Table("Teacher accuracy and best student, on validation", columns, rows),
    )


def _mismatch_row(point: MismatchPoint, ranked: RankRow | None) -> Row:
    return row(
        short(point.teacher),
        percent(point.teacher_top1),
        percent(point.student_top1),
        _confirmed_cell(ranked),
        count(point.params),
        count(point.macs),
    )


def _mismatch_note(teachers: int, by_size: float | None, noise: float | None) -> str:
    size = "" if by_size is None else f" With the number of parameters the Spearman correlation is {by_size:+.2f}."
    bars = (
        "its seed noise was not measured"
        if noise is None
        else "bars are two standard deviations of a run's seed noise either way, as measured between confirm runs"
    )
    return (
        f"Each of {teachers} points is the best full run of a teacher's trials, on validation: one run; {bars}. "
        f"A teacher with more trials had more chances.{size}"
    )
