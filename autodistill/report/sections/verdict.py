"""The answer: recommendation, leaderboard."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from autodistill.formatting import contrast_words
from autodistill.records import Contrast, RankRow, Recommendation, RunRecord, StudyRecord, TargetSummary
from autodistill.report.sections.parts import (
    Cell,
    Column,
    Figure,
    Row,
    Table,
    best_full_runs,
    full_runs,
    number_columns,
    plain_kd_confirmed,
    row,
    score,
    teacher_names,
    verdict_of,
)
from autodistill.report.words import (
    EMPTY,
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

VERDICTS = {
    "winner": "A clear winner",
    "no_clear_difference": "No clear difference",
    "only_one": "One teacher to judge",
    "no_teacher": "No teacher helps",
    "unconfirmed": "Unconfirmed",
}
ANSWERS = {"helps": "It helps", "does_not_help": "It does not help", "cannot_tell": "Cannot be told yet"}


@dataclass(frozen=True)
class Fact:
    label: str
    value: str
    below: str = ""


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
    """In the study's order, which fixes colours and markers."""
    figure: Figure | None


@dataclass(frozen=True)
class LeaderboardInfo:
    table: Table


def recommendation_info(record: StudyRecord) -> RecommendationInfo:
    """The verdict, what it rests on and how to get it again."""
    verdict = verdict_of(record)
    against_none = tuple(contrast for contrast in verdict.contrasts if contrast.versus is None)
    return RecommendationInfo(
        verdict=verdict.verdict,
        headline=_headline(verdict),
        sentence=verdict.sentence,
        running=record.state == "running",
        facts=tuple(_facts(record, verdict)),
        reasons=verdict.reasons,
        command=record.command,
        contrasts=against_none,
        threshold=verdict.threshold,
        teachers=teacher_names(record),
        figure=_contrast_figure(against_none),
    )


def leaderboard_info(record: StudyRecord) -> LeaderboardInfo:
    """Every teacher with what it cost and what the student made of it, confirmed ones first; then the baselines."""
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
        "Search scores are single runs on validation, inflated by having been chosen; confirmed values are means "
        "over new seeds on test. Small figures are 95 % intervals. P(best) is the probability of being the best "
        "finalist; it decides nothing."
    )
    columns = (
        Column("Teacher"),
        *number_columns("Its own accuracy", "Params", "Trials", "Best in search", "Confirmed on test", "P(best)"),
        *number_columns("Points over no teacher"),
        Column("Settings", long=True),
    )
    caption = "Teachers by what the student learned from them"
    return LeaderboardInfo(Table(caption, columns, (*rows, *_baseline_rows(record, verdict)), note))


def _headline(verdict: Recommendation) -> str:
    ahead = verdict.verdict == "no_teacher" and verdict.versus_no_teacher == "cannot_tell"
    return "No teacher is ahead of none" if ahead else VERDICTS[verdict.verdict]


def _facts(record: StudyRecord, verdict: Recommendation) -> Iterator[Fact]:
    yield Fact(
        "Learn from", short(verdict.teacher or "no teacher"), recipe(verdict.params) if verdict.teacher else ""
    )
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
        yield Fact(label, f"{points(gain.difference)} points", _range(gain.low, gain.high))
    yield Fact(
        "Does a teacher help?", ANSWERS[verdict.versus_no_teacher], f"threshold {100 * verdict.threshold:.1f} points"
    )


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


def _teacher_row(
    record: StudyRecord, verdict: Recommendation, name: str, ranked: RankRow | None, best: RunRecord | None
) -> Row:
    teacher = next(one for one in record.teachers if one.name == name)
    trials = [trial for trial in record.trials if trial.params.teacher == name]
    params = ranked.params if ranked else best.params if best else None
    means = (record.search_score(run.params) for run in full_runs(record) if run.params.teacher == name)
    searched = [mean for mean in means if mean is not None]
    return row(
        Cell(short(name), "recommended" if name == verdict.teacher else ""),
        percent(teacher.val_top1),
        Cell(count(teacher.cost.params), f"{count(teacher.cost.macs)} MACs"),
        str(len(trials)),
        maybe(max(searched, default=None)),
        _confirmed_cell(ranked),
        probability(ranked.p_best if ranked else None),
        _gain_cell(_contrast(verdict, name)),
        Cell(recipe(params) if params else EMPTY, _in_use(_targets(record, name, best))),
        mark="pick" if name == verdict.teacher else "",
    )


def _baseline_rows(record: StudyRecord, verdict: Recommendation) -> Iterator[Row]:
    ranked = next((one for one in verdict.ranking if one.teacher is None and one.confirmed_test_top1), None)
    blank = (EMPTY,) * 3
    if record.no_teacher is not None or ranked is not None:
        mark: Literal["pick", "baseline"] = "baseline"
        below = "baseline"
        if verdict.teacher is None and verdict.verdict == "no_teacher":
            mark, below = "pick", "recommended"
        searched = maybe(record.no_teacher.val_top1 if record.no_teacher else None)
        confirmed = _confirmed_cell(ranked)
        best = probability(ranked.p_best if ranked else None)
        yield row(Cell("no teacher", below), *blank, searched, confirmed, best, EMPTY, "labels alone", mark=mark)
    if record.plain_kd is not None:
        kd = record.plain_kd
        name = Cell("plain KD", f"from {short(kd.params.teacher or EMPTY, 32)}")
        scored = maybe(kd.val_top1)
        its_best = plain_kd_confirmed(record)
        unconfirmed = Cell(EMPTY, "confirmed above: its teacher's best" if its_best else "unconfirmed, 1 run")
        yield row(
            name,
            *blank,
            scored,
            unconfirmed,
            EMPTY,
            EMPTY,
            Cell(recipe(kd.params), _in_use(kd.targets)),
            mark="baseline",
        )


def _confirmed_cell(ranked: RankRow | None) -> Cell:
    if ranked is None or ranked.confirmed_test_top1 is None:
        return Cell(EMPTY)
    seeds = plural(ranked.seeds, "seed")
    below = interval(ranked.low, ranked.high, lambda value: f"{100 * value:.1f}")
    return Cell(percent(ranked.confirmed_test_top1), f"{below}, {seeds}")


def _gain_cell(contrast: Contrast | None) -> Cell:
    return Cell(points(contrast.difference), _range(contrast.low, contrast.high)) if contrast else Cell(EMPTY)


def _range(low: float | None, high: float | None) -> str:
    return interval(low, high)


def _contrast(verdict: Recommendation, teacher: str | None) -> Contrast | None:
    return next((one for one in verdict.contrasts if one.teacher == teacher and one.versus is None), None)


def _targets(record: StudyRecord, name: str, best: RunRecord | None) -> TargetSummary | None:
    runs = [run for one in record.finalists if one.teacher == name for run in one.runs] + [best]
    return next((run.targets for run in runs if run is not None and run.targets is not None), None)


def _in_use(targets: TargetSummary | None) -> str:
    """The medians of the temperatures that a rule put to use."""
    if targets is None:
        return ""
    wrong = "" if targets.tau_wrong is None else f", {targets.tau_wrong:.2g} where the teacher is wrong"
    return f"in use: tau target {targets.tau_target:.2g}, tau other {targets.tau_other:.2g}{wrong}"
