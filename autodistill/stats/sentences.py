"""The verdict of a study in plain English: one sentence and the reasons behind it."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from autodistill.formatting import contrast_words, count, percent, plural, points, recipe, short
from autodistill.records import FinalistRecord, SeedsToSettle, StudyRecord
from autodistill.stats.evidence import Evidence, seed_noise
from autodistill.stats.intervals import accuracy_error

MAX_PAIRS = 5
MAX_REASON = 120


def sentence(record: StudyRecord, evidence: Evidence, *, verdict: str, teacher: str, tied: list[str]) -> str:
    """Return the recommendation of a study with confirmed teachers.

    Args:
        teacher: the recommended teacher, or the best one if training without a teacher is recommended.
        tied: the best teacher and those that are not told apart from it.
    """
    task = f"{short(record.student.name)} on {record.data.name}"
    best = evidence.finalist(teacher)
    assert best is not None
    named = f"teacher {short(teacher)} with {recipe(best.record.params)}"
    if verdict == "no_teacher":
        alone = f"train it without a teacher, {_result(evidence, None)}; {_no_gain(evidence, teacher)}"
        if evidence.answer(teacher) == "does_not_help":
            return f"No teacher helps {task}: {alone}."
        return (
            f"No teacher beats training on labels alone for {task}: {alone}, so whether a teacher helps cannot be "
            "told yet."
        )
    result = f"{_result(evidence, teacher)}, {_gain(evidence, teacher)}"
    if verdict == "winner":
        return f"For {task}, take {named}: {result}."
    if verdict == "only_one":
        which = "the only one tried" if len(record.teachers) < 2 else "the only one confirmed"
        return f"For {task}, take {named} ({which}): {result}."
    names = " and ".join(short(name) for name in tied) if len(tied) < 4 else f"the {len(tied)} best"
    take = f"take {_cheap_words(record, evidence, teacher, tied)}, {named}"
    return f"No clear difference between teachers {names} for {task}: {take}: {result}."


def reasons(
    record: StudyRecord,
    evidence: Evidence,
    *,
    verdict: str,
    teacher: str,
    tied: list[str],
    settle: Sequence[SeedsToSettle],
) -> Iterator[str]:
    """Yield the reasons for a verdict, one short statement each."""
    yield from _pair_reasons(evidence, tied)
    if verdict == "no_clear_difference":
        yield _cost_reason(record, evidence, teacher, tied)
    yield from _settle_reasons(evidence, settle)
    yield noise_words(evidence)
    yield from _race_reason(evidence)
    yield from _target_reason(evidence, teacher)
    yield from _selection_reasons(evidence)
    yield _sampling_reason(evidence, teacher)
    yield from _failure_reasons(record, evidence)


def noise_words(evidence: Evidence) -> str:
    """Say whether the students differ by more than seed noise."""
    noise = seed_noise(evidence)
    if noise is None:
        return "Seed noise is unknown: measuring it takes two finalists that share two confirm seeds."
    deviation, p = noise
    finalists, seeds = evidence.table.shape
    means = [one.mean for one in evidence.members]
    gap = f"their means lie {100 * (max(means) - min(means)):.1f} points apart"
    gaps = int(np.isnan(evidence.table).sum())
    missing = f", {plural(gaps, 'run')} missing" if gaps else ""
    test = f"F test over {finalists} finalists x {seeds} seeds{missing}, p = {p:.2g}"
    claim = "The students differ" if p < 0.05 else "The students do not differ"
    return (
        f"{claim} by more than seed noise: {gap}, one run has a standard deviation of {100 * deviation:.1f} ({test})."
    )


def _result(evidence: Evidence, teacher: str | None) -> str:
    one = evidence.finalist(teacher)
    assert one is not None
    return f"{percent(one.mean)} test accuracy ({plural(len(one.scores), 'seed')})"


def _gain(evidence: Evidence, teacher: str) -> str:
    contrast = evidence.contrast(teacher, None)
    if contrast is None:
        return "with no confirmed run without a teacher to compare it with"
    if evidence.answer(teacher) == "helps":
        return contrast_words(contrast)
    return f"{contrast_words(contrast)}, so whether it helps cannot be told yet"


def _no_gain(evidence: Evidence, teacher: str) -> str:
    contrast, one = evidence.contrast(teacher, None), evidence.finalist(teacher)
    assert contrast is not None
    assert one is not None
    return f"the best teacher, {short(teacher)} with {recipe(one.record.params)}, gave {contrast_words(contrast)}"


def _pair_reasons(evidence: Evidence, tied: list[str]) -> Iterator[str]:
    best, *others = evidence.teachers
    for other in others[:MAX_PAIRS]:
        contrast = evidence.contrast(best, other)
        assert contrast is not None
        told = "not told apart" if other in tied else "told apart"
        if other in tied and (contrast.low or 0) > 0:
            least = f"{100 * evidence.threshold:.1f} points that count"
            told = f"a difference, but not certain to reach the {least}: not told apart"
        yield f"{short(best)} against {short(other)}: {contrast_words(contrast)}: {told}."


def _cheap_words(record: StudyRecord, evidence: Evidence, teacher: str, tied: list[str]) -> str:
    """Say which of the tied teachers is taken. It is not always the cheapest."""
    macs = {one.name: one.cost.macs for one in record.teachers}
    if all(macs.get(teacher, math.inf) <= macs.get(name, math.inf) for name in tied):
        return "the cheaper one" if len(tied) == 2 else "the cheapest one"
    helping = [name for name in tied if evidence.answer(name) == "helps"]
    if teacher in helping:
        return "the one that is known to help" if len(helping) == 1 else "the cheapest one that is known to help"
    if any(evidence.behind(name) for name in tied) and not evidence.behind(teacher):
        return "the cheapest one that is not behind training without a teacher"
    return "the cheapest one that may help"


def _cost_reason(record: StudyRecord, evidence: Evidence, teacher: str, tied: list[str]) -> str:
    macs = {one.name: count(one.cost.macs) for one in record.teachers}
    costs = [f"{short(name)} {macs.get(name, 'unknown')}" for name in tied[: MAX_PAIRS + 1]]
    which = _cheap_words(record, evidence, teacher, tied)
    return f"{short(teacher)} is {which} (MACs per image: {', '.join(costs)})."


def _settle_reasons(evidence: Evidence, settle: Sequence[SeedsToSettle]) -> Iterator[str]:
    """Say how many confirm seeds would decide what is open, if difference and noise stay as measured."""
    if not evidence.members:
        yield "One confirm seed gives no interval: confirm over at least two seeds to get one."
        return
    for one in settle[:MAX_PAIRS]:
        contrast = evidence.contrast(one.teacher, one.versus)
        assert contrast is not None
        pair = f"{short(one.teacher)} from {short(one.versus or 'no teacher')}"
        if one.seeds is not None:
            yield f"To tell {pair} would take about {one.seeds} seeds, at the measured difference and noise."
        elif one.versus is not None and abs(contrast.difference) <= evidence.threshold:
            least = f"{100 * evidence.threshold:.1f} points that count"
            yield f"No number of seeds would tell {pair} at the measured difference: it lies within the {least}."
        else:
            yield f"To tell {pair} would take more than 50 seeds, at the measured difference and noise."


def _race_reason(evidence: Evidence) -> Iterator[str]:
    race = evidence.race
    if race is None:
        return
    saved = f"{race.left} of {race.runs} runs were not needed" if race.left else f"all {race.runs} runs went"
    level = f"{100 * (1 - 0.05 * race.share):.2f} %"
    yield (
        f"Confirm seeds were raced: after the first seeds, only finalists that were still undecided got another; "
        f"{saved}. Because the study looked at its results more than once, it decided by {level} intervals; the "
        "intervals shown are 95 %."
    )


def _target_reason(evidence: Evidence, teacher: str) -> Iterator[str]:
    one = evidence.finalist(teacher)
    targets = next((run.targets for run in one.record.runs if run.targets), None) if one else None
    if targets is None:
        return
    wrong = "" if targets.tau_wrong is None else f"; samples that the teacher gets wrong have {targets.tau_wrong:.2g}"
    medians = f"tau target {targets.tau_target:.2g}, tau other {targets.tau_other:.2g}"
    yield f"Temperatures in use with {short(teacher)}: {medians} (medians over the training samples{wrong})."


def _selection_reasons(evidence: Evidence) -> Iterator[str]:
    """Compare the search score that chose each finalist with its confirmed mean."""
    for teacher in evidence.teachers[: MAX_PAIRS + 1]:
        one = evidence.finalist(teacher)
        assert one is not None
        yield from _selection_reason(teacher, one.record)


def _selection_reason(teacher: str, record: FinalistRecord) -> Iterator[str]:
    scores = [run.val_top1 for run in record.runs if run.val_top1 is not None]
    if not scores or record.search_val_top1 is None:
        return
    confirmed = math.fsum(scores) / len(scores)
    searched = record.search_val_top1
    inflated = round(100 * (searched - confirmed), 1) > 0
    cause = "inflated by choosing the best of many noisy scores" if inflated else "so choosing did not inflate it"
    yield (
        f"On validation, {short(teacher)} had {percent(searched)} in the search and {percent(confirmed)} over the "
        f"confirm seeds: {points(searched - confirmed)} points, {cause}."
    )


def _sampling_reason(evidence: Evidence, teacher: str) -> str:
    """State the error that the size of the test set causes. Seeds do not show it: all students share the images."""
    one = evidence.finalist(teacher)
    assert one is not None
    error = f"{100 * accuracy_error(one.mean, images=evidence.images):.1f} points"
    text = f"A test set of {plural(evidence.images, 'image')} gives one accuracy a standard error of {error}"
    contrast = evidence.contrast(teacher, None)
    if contrast is not None and contrast.sampling is not None:
        least, most = (f"{100 * end:.1f}" for end in contrast.sampling)
        text += (
            f", and the difference between {short(teacher)} and no teacher a standard error of {least} to {most}, "
            "depending on how many errors they share"
        )
    return f"{text}; the intervals do not include it."


def _failure_reasons(record: StudyRecord, evidence: Evidence) -> Iterator[str]:
    for teacher in record.teachers:
        trials = [trial for trial in record.trials if trial.params.teacher == teacher.name]
        if trials and all(trial.state == "failed" for trial in trials):
            first = short(trials[0].reason or "no reason recorded", MAX_REASON)
            yield f"Every trial of {short(teacher.name)} failed ({len(trials)}), the first with: {first}."
    for finalist in record.finalists:
        name = short(finalist.teacher or "no teacher")
        failed = sum(run.state == "failed" for run in finalist.runs)
        if failed:
            yield f"{failed} of {plural(len(finalist.runs), 'confirm run')} of {name} failed."
        found = evidence.finalist(finalist.teacher)
        if found and evidence.members and evidence.row(finalist.teacher) is None:
            yield f"{name} has a single confirm run and therefore no interval."
    if evidence.finalist(None) is None:
        yield "No run without a teacher was confirmed, so whether a teacher helps cannot be told."
