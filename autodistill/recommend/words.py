"""A verdict in plain English. Figures to 0.1 points."""

import math
from collections.abc import Callable, Iterator, Sequence

from autodistill.recommend.evidence import Evidence, seed_noise, seeds_to_settle
from autodistill.records import Contrast, CostKind, LeftOutRecord, StudentBudget, StudyRecord, TrialParams, costs_of

MOST_PAIRS = 5
LONGEST = 64
COSTS: dict[CostKind, str] = {"params": "params", "macs": "MACs", "size_bytes": "size", "latency_ms": "latency"}


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def points(difference: float) -> str:
    """A signed difference in points of accuracy; never a minus zero."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


def count(number: int | float) -> str:
    """A large number as people say it: `1.25 M`."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:g}"


def amount(kind: CostKind, number: int | float) -> str:
    """A cost in its unit: `2.5 M params`, `100 M MACs`, `10 MB`, `5 ms`."""
    if kind == "size_bytes":
        return f"{count(number)}B"
    return f"{number:.3g} ms" if kind == "latency_ms" else f"{count(number)} {COSTS[kind]}"


def limits_words(limits: StudentBudget) -> str:
    """Limits as one phrase: `2.5 M params and 5 ms`."""
    return " and ".join(amount(kind, limit) for kind, limit in limits.given.items())


def excess_words(left_out: LeftOutRecord, limits: StudentBudget) -> str:
    """What a student has of what a limit allows less of: `3.5 M params (limit 2.5 M params)`."""
    costs = costs_of(left_out.student.cost, left_out.latency)
    return ", ".join(
        f"{amount(kind, costs[kind])} (limit {amount(kind, limits.given[kind])})" for kind in left_out.excess
    )


def quantity(kind: CostKind, number: int | float) -> str:
    """A cost under a heading that names it: `2.5 M`, `10 MB`, `5 ms`."""
    return amount(kind, number).removesuffix(f" {COSTS[kind]}")


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def short(text: str, longest: int = LONGEST) -> str:
    """Put a name on one line and cut a long one in its middle: both ends tell names apart."""
    text = " ".join(text.split())
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail - 1]}\N{HORIZONTAL ELLIPSIS}{text[-tail:]}"


def interval(low: float | None, high: float | None, text: Callable[[float], str] = points) -> str:
    """`+0.8 to +2.2`, or why there is none."""
    return "no interval" if low is None or high is None else f"{text(low)} to {text(high)}"


def recipe(params: TrialParams) -> str:
    """A configuration in words: `ISATS (target ratio 1.67), soft weight 0.5`."""
    if params.teacher is None:
        return "no teacher"
    settings = [f"{key.replace('_', ' ')} {_number(value)}" for key, value in sorted(params.rule_params.items())]
    if params.tau_student != 1:
        settings.append(f"tau student {_number(params.tau_student)}")
    inside = f" ({', '.join(settings)})" if settings else ""
    return f"{(params.rule or 'no rule').upper()}{inside}, soft weight {_number(params.soft_weight)}"


def contrast_words(contrast: Contrast) -> str:
    """`+1.5 points over no teacher (95 % interval +0.8 to +2.2)`."""
    size = f"{points(contrast.difference)} points"
    if contrast.versus is None:
        size += " over no teacher" if (contrast.low or 0) > 0 else " against no teacher"
    if contrast.low is None:
        return f"{size} (interval unknown: fewer than two paired seeds)"
    return f"{size} (95 % interval {interval(contrast.low, contrast.high)})"


def sentence(record: StudyRecord, evidence: Evidence, *, verdict: str, teacher: str, tied: list[str]) -> str:
    """The recommendation, for a study with confirmed teachers; `teacher` is the one to talk about."""
    of = f"{short(record.student.name)} on {record.data.name}"
    best = evidence.of(teacher)
    assert best is not None
    recipe_words = f"teacher {short(teacher)} with {recipe(best.record.params)}"
    if verdict == "no_teacher":
        alone = f"train it without one, {_result(evidence, None)}"
        return f"No teacher helps {of}: {alone}; {_no_gain(evidence, teacher)}."
    result = f"{_result(evidence, teacher)}, {_gain(evidence, teacher)}"
    if verdict == "winner":
        return f"For {of}, take {recipe_words}: {result}."
    if verdict == "only_one":
        which = "the only one tried" if len(record.teachers) < 2 else "the only one confirmed"
        return f"For {of}, take {recipe_words} ({which}): {result}."
    names = " and ".join(short(name) for name in tied) if len(tied) < 4 else f"the {len(tied)} best"
    take = f"take the cheaper one, {recipe_words}"
    return f"No clear difference between teachers {names} for {of}: {take}: {result}."


def reasons(
    record: StudyRecord, evidence: Evidence, *, verdict: str, teacher: str, tied: list[str], threshold: float
) -> Iterator[str]:
    """What the sentence rests on, one short statement each."""
    yield from _pair_reasons(evidence, tied, threshold)
    if verdict == "no_clear_difference":
        yield _cost_reason(record, teacher, tied)
    yield from _settling(evidence, teacher, tied if verdict == "no_clear_difference" else [])
    yield noise_words(evidence)
    yield from _target_reason(evidence, teacher)
    yield from _selection_reason(evidence, teacher)
    yield from _failure_reasons(record, evidence)


def noise_words(evidence: Evidence) -> str:
    """Say whether the students differ by more than seed noise."""
    noise = seed_noise(evidence)
    if noise is None:
        return "Seed noise is unknown: it takes two finalists that share two confirm seeds."
    deviation, p = noise
    finalists, seeds = evidence.table.shape
    means = evidence.table.mean(axis=1)
    gap = f"their means lie {100 * float(means.max() - means.min()):.1f} points apart"
    test = f"F test over {finalists} finalists x {seeds} seeds, p = {p:.2g}"
    claim = "The students differ" if p < 0.05 else "The students do not differ"
    return (
        f"{claim} by more than seed noise: {gap}, one run has a standard deviation of {100 * deviation:.1f} ({test})."
    )


def _result(evidence: Evidence, teacher: str | None) -> str:
    one = evidence.of(teacher)
    assert one is not None
    return f"{percent(one.mean)} test accuracy ({plural(len(one.scores), 'seed')})"


def _gain(evidence: Evidence, teacher: str) -> str:
    contrast = evidence.contrast(teacher, None)
    if contrast is None:
        return "with no confirmed run without a teacher to compare it with"
    told = contrast.low is not None and contrast.low > 0
    return contrast_words(contrast) + ("" if told else ", so whether it helps cannot be told yet")


def _no_gain(evidence: Evidence, teacher: str) -> str:
    contrast, one = evidence.contrast(teacher, None), evidence.of(teacher)
    assert contrast is not None
    assert one is not None
    return f"the best teacher, {short(teacher)} with {recipe(one.record.params)}, gave {contrast_words(contrast)}"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _pair_reasons(evidence: Evidence, tied: list[str], threshold: float) -> Iterator[str]:
    best, *others = evidence.teachers
    for other in others[:MOST_PAIRS]:
        contrast = evidence.contrast(best, other)
        assert contrast is not None
        told = "not told apart" if other in tied else "told apart"
        if other in tied and (contrast.low or 0) > 0:
            told = f"less than the {100 * threshold:.1f} points that count as a difference"
        yield f"{short(best)} against {short(other)}: {contrast_words(contrast)}: {told}."


def _cost_reason(record: StudyRecord, teacher: str, tied: list[str]) -> str:
    macs = {one.name: count(one.cost.macs) for one in record.teachers}
    costs = [f"{short(name)} {macs.get(name, 'unknown')}" for name in tied[: MOST_PAIRS + 1]]
    return f"{short(teacher)} is the cheaper teacher to run (MACs per image: {', '.join(costs)})."


def _settling(evidence: Evidence, teacher: str, tied: list[str]) -> Iterator[str]:
    """How many confirm seeds would settle what is open, were difference and noise to stay as measured."""
    if not evidence.layout:
        yield "One confirm seed gives no interval: confirm over at least two seeds to settle it."
        return
    best = evidence.teachers[0]
    open_pairs = [(best, other) for other in tied if other != best][:MOST_PAIRS]
    for one, other in [*open_pairs, (teacher, None)]:
        contrast = evidence.contrast(one, other)
        if contrast is None or contrast.low is None or contrast.high is None or contrast.low > 0 or contrast.high < 0:
            continue
        seeds = seeds_to_settle(evidence, contrast.difference)
        needed = f"about {seeds} seeds" if seeds else "more than 50 seeds"
        pair = f"{short(one)} from {short(other or 'no teacher')}"
        yield f"To tell {pair} would take {needed}, at the measured difference and noise."


def _target_reason(evidence: Evidence, teacher: str) -> Iterator[str]:
    one = evidence.of(teacher)
    targets = next((run.targets for run in one.record.runs if run.targets), None) if one else None
    if targets is None:
        return
    wrong = "" if targets.tau_wrong is None else f"; samples that the teacher gets wrong have {targets.tau_wrong:.2g}"
    medians = f"tau target {targets.tau_target:.2g}, tau other {targets.tau_other:.2g}"
    yield f"Temperatures in use with {short(teacher)}: {medians} (medians over the training samples{wrong})."


def _selection_reason(evidence: Evidence, teacher: str) -> Iterator[str]:
    one = evidence.of(teacher)
    assert one is not None
    scores = [run.val_top1 for run in one.record.runs if run.val_top1 is not None]
    if not scores or one.record.search_val_top1 is None:
        return
    confirmed = math.fsum(scores) / len(scores)
    searched = one.record.search_val_top1
    cause = "from having been chosen, and from luck" if searched > confirmed else "luck: nothing was inflated"
    yield (
        f"On validation, {short(teacher)} had {percent(searched)} in the search and {percent(confirmed)} over the "
        f"confirm seeds: {points(searched - confirmed)} points, {cause}."
    )


def _failure_reasons(record: StudyRecord, evidence: Evidence) -> Iterator[str]:
    for finalist in record.finalists:
        name = short(finalist.teacher or "no teacher")
        failed = sum(run.state == "failed" for run in finalist.runs)
        if failed:
            yield f"{failed} of {plural(len(finalist.runs), 'confirm run')} of {name} failed."
        found = evidence.of(finalist.teacher)
        if found and evidence.layout and finalist.teacher not in evidence.layout:
            yield f"{name} has a single confirm run and stands outside the intervals."
    if evidence.of(None) is None:
        yield "No run without a teacher was confirmed, so whether a teacher helps cannot be told."
