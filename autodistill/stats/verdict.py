"""The verdict about the teachers of a study, with its sentences: a pure function of the study's record.

Test accuracies of confirm runs decide. Before any of them has ended, search scores give a provisional answer.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autodistill import stats
from autodistill.formatting import contrast_words, count, listed, percent, plural, points, recipe, short, sure
from autodistill.records import Basis, RankRow, Recommendation, RunResult, SeedsToSettle, StudyRecord, TrialParams
from autodistill.stats.evidence import Evidence, all_failed, collect
from autodistill.stats.methods import ALONE_FAILED, judge_grid
from autodistill.stats.methods import FAILED as METHODS_FAILED
from autodistill.stats.tuning import control_gain

THRESHOLD = 0.002
"""Default for the smallest difference in accuracy that matters: 0.2 points."""
UNCONFIRMED_REASONS = (
    "No teacher has a finished confirm run, so nothing was measured on test over several seeds.",
    "A search score is one run on validation and tends to be too high, because the best of many was chosen.",
)
RESUME = "run the same command again to resume the study and confirm"
FAILED = "its confirm runs failed: mend what is listed under Failures, and start a new study with --study"
MAX_PAIRS = 5


def recommend(record: StudyRecord, *, threshold: float = THRESHOLD) -> Recommendation:
    """Name the teacher that the student should learn from, or say that none can be named.

    Args:
        record: the study. Its confirm runs decide; its search scores count only if there is no confirm run.
        threshold: the smallest difference in accuracy that matters, a fraction.
    """
    evidence = collect(record, threshold=threshold)
    if not evidence.teachers:
        return unconfirmed(record, threshold=threshold)
    decision = _decide(evidence)
    taken = None if decision.verdict == "no_teacher" else decision.teacher
    settle = decision.to_settle()
    return Recommendation(
        verdict=decision.verdict,
        basis=decision.basis(),
        versus_no_teacher=evidence.answer(decision.teacher),
        teacher=taken,
        params=evidence.finalists[taken].record.params if taken in evidence.finalists else TrialParams(),
        sentence=decision.sentence(),
        reasons=tuple(decision.reasons(settle)),
        ranking=(
            *evidence.ranking(),
            *(
                _row_without_runs(one.teacher, one.params, one.search_val_top1)
                for one in record.finalists
                if one.teacher not in evidence.finalists
            ),
        ),
        contrasts=evidence.contrasts(),
        seed_std=evidence.seed_noise[0] if evidence.seed_noise else None,
        seeds_to_settle=tuple(settle),
        label_smoothing=evidence.label_smoothing_row,
        versus_label_smoothing=evidence.versus_label_smoothing(decision.teacher),
        threshold=threshold,
    )


def unconfirmed(record: StudyRecord, *, threshold: float) -> Recommendation:
    """Recommend from the search's validation scores, and say how much they are worth."""
    full = list(best_full_runs(record).values())
    params, sentence = _guess(record, full)
    return Recommendation(
        verdict="unconfirmed",
        versus_no_teacher="cannot_tell",
        teacher=params.teacher,
        params=params,
        sentence=sentence,
        reasons=UNCONFIRMED_REASONS,
        ranking=tuple(_row_without_runs(run.params.teacher, run.params, run.val_top1) for run in full),
        threshold=threshold,
    )


def is_undecided(record: StudyRecord) -> bool:
    """Return whether a study has ended and nothing is decided because runs failed."""
    if record.state == "running" or all(run.state != "failed" for run in record.runs()):
        return False
    if record.grid is not None:
        return judge_grid(record, threshold=threshold_of(record)).sentence in (METHODS_FAILED, ALONE_FAILED)
    return not collect(record, threshold=threshold_of(record)).teachers


def judged(record: StudyRecord) -> StudyRecord:
    """Return the record with its verdict computed anew, so that older records follow today's method.

    The confirm runs of a study that is still running decide nothing.
    """
    threshold = threshold_of(record)
    if record.grid is not None:
        verdict = judge_grid(record, threshold=threshold)
        return record.model_copy(update={"grid": record.grid.model_copy(update={"verdict": verdict})})
    judge = unconfirmed if record.state == "running" else recommend
    return record.model_copy(update={"recommendation": judge(record, threshold=threshold)})


def threshold_of(record: StudyRecord) -> float:
    """Return the threshold of a study's verdict or, without a verdict, of its search space."""
    if record.grid is not None and record.grid.verdict is not None:
        return record.grid.verdict.threshold
    if record.recommendation is not None:
        return record.recommendation.threshold
    return float(record.space.get("confirm", {}).get("threshold", THRESHOLD))


def _decide(evidence: Evidence) -> "_Decision":
    best, *others = evidence.teachers
    tied = [best, *(name for name in others if not evidence.better(best, name))]
    useless = {name for name in tied if evidence.answer(name) == "does_not_help"}
    # Where the best teacher is behind no teacher, all are, and training without a teacher costs nothing.
    if best in useless or evidence.behind(best):
        return _Decision(evidence, tied, "no_teacher", best)
    if not others:
        return _Decision(evidence, tied, "only_one", best)
    if tied == [best]:
        return _Decision(evidence, tied, "winner", best)
    # Of the tied teachers the cheapest is taken. Left out are teachers that do not help and, as long as a better one
    # remains, those behind no teacher and those that may not help.
    able = [name for name in tied if name not in useless]
    able = [name for name in able if not evidence.behind(name)] or able
    able = [name for name in able if evidence.answer(name) == "helps"] or able
    cheapest = min(able, key=lambda name: (*_cost(evidence.record, name), name))
    return _Decision(evidence, tied, "no_clear_difference", cheapest)


def _cost(record: StudyRecord, name: str) -> tuple[int | float, int | float]:
    """Return MACs and parameters of a teacher; infinite where they are unknown."""
    costs = {one.name: (one.cost.macs, one.cost.params) for one in record.teachers}
    macs, params = costs.get(name, (None, None))
    return math.inf if macs is None else macs, math.inf if params is None else params


def _row_without_runs(teacher: str | None, params: TrialParams, searched: float | None) -> RankRow:
    return RankRow(teacher=teacher, params=params, seeds=0, confirmed_test_top1=None, search_val_top1=searched)


def _task(record: StudyRecord) -> str:
    return f"{short(record.student.name)} on {record.data.name}"


@dataclass(frozen=True)
class _Decision:
    """A verdict from confirm runs, which can be stated in plain English: one sentence and the reasons behind it."""

    evidence: Evidence
    tied: list[str]
    """The best teacher and those that are not told apart from it."""
    verdict: Literal["winner", "no_clear_difference", "only_one", "no_teacher"]
    teacher: str
    """The recommended teacher, or the best one if training without a teacher is recommended."""

    @property
    def record(self) -> StudyRecord:
        return self.evidence.record

    def to_settle(self) -> list[SeedsToSettle]:
        """List the open questions: the best teacher against the tied ones, and whether `teacher` helps."""
        best, *others = self.tied if self.verdict == "no_clear_difference" else self.tied[:1]
        open_pairs: list[tuple[str, str | None]] = [(best, other) for other in others]
        if self.evidence.answer(self.teacher) == "cannot_tell":
            open_pairs.append((self.teacher, None))
        return [found for pair in open_pairs if (found := self.evidence.seeds_to_settle(*pair)) is not None]

    def basis(self) -> Basis | None:
        """Return what the comparisons that decide the verdict are evidence about."""
        best, *others = self.evidence.teachers if self.verdict == "winner" else self.tied
        if self.verdict not in ("winner", "no_clear_difference"):
            return None
        return "configurations" if any(self._unequal_tuning(best, other) for other in others) else "teachers"

    def _unequal_tuning(self, best: str, other: str) -> bool:
        """Return whether two teachers were not compared at equal tuning."""
        return self.evidence.contrast(best, other).basis == "configurations"

    def sentence(self) -> str:
        task, teacher = _task(self.record), self.teacher
        named = f"{short(teacher)} with {recipe(self.evidence.finalists[teacher].record.params)}"
        if self.verdict == "no_teacher":
            gain = f"the best teacher, {named}, gave {contrast_words(self.evidence.contrast(teacher, None))}"
            alone = f"train it without a teacher, {self._result(None)}; {gain}"
            if self.evidence.answer(teacher) == "does_not_help":
                return f"No teacher helps {task}: {alone}."
            return (
                f"No teacher was ahead of training on labels alone for {task} in these runs: {alone}, so whether a "
                "teacher helps cannot be told yet."
            )
        result = f"{self._result(teacher)}, {self._gain()}"
        if self.verdict == "winner":
            text = f"For {task}, take teacher {named}: {result}."
            return text + "".join(self._tuning_sentences())
        if self.verdict == "only_one":
            which = "the only one tried" if len(self.record.teachers) < 2 else "the only one confirmed"
            return f"For {task}, take teacher {named} ({which}): {result}."
        tied = self.tied
        names = " and ".join(short(name) for name in tied) if len(tied) < 4 else f"the {len(tied)} best"
        take = f"take {self._cheap_words()}, teacher {named}"
        text = f"No clear difference between teachers {names} for {task}: {take}: {result}."
        if self.basis() == "configurations":
            text += " They were compared with different settings."
        return text

    def _tuning_sentences(self) -> Iterator[str]:
        """Name the teachers over which the winner's lead comes from its settings, or may come from them."""
        best = short(self.teacher)
        open_pairs = [name for name in self.evidence.teachers[1:] if self._unequal_tuning(self.teacher, name)]
        better = [name for name in open_pairs if self._control_gain(self.teacher, name) is not None]
        untried = [name for name in open_pairs if name not in better]
        if better:
            yield (
                f" Part of its lead over {_names(better)} comes from its settings: with them, "
                f"{_names(better)} did better than with {'its' if len(better) == 1 else 'their'} own."
            )
        if untried:
            yield (
                f" These settings of {best} beat those of {_names(untried)}; these teachers were not compared "
                "with equal settings."
            )

    def _control_gain(self, best: str, other: str) -> float | None:
        return control_gain(self.record, self.evidence.finalists[best].record, self.evidence.finalists[other].record)

    def reasons(self, settle: Sequence[SeedsToSettle]) -> list[str]:
        """Return the reasons for the verdict, one short statement each."""
        costs = list[str]()
        if self.verdict == "no_clear_difference":
            macs = {one.name: count(one.cost.macs) for one in self.record.teachers}
            each = [f"{short(name)} {macs.get(name, 'unknown')}" for name in self.tied[: MAX_PAIRS + 1]]
            costs.append(f"{short(self.teacher)} is {self._cheap_words()} (MACs per image: {', '.join(each)}).")
        return [
            *self._pair_reasons(),
            *costs,
            self._label_smoothing_reason(),
            *self._settle_reasons(settle),
            self._noise_reason(),
            *self._race_reason(),
            *self._target_reason(),
            *self._selection_reasons(),
            self._sampling_reason(),
            *self._failure_reasons(),
        ]

    def _result(self, teacher: str | None) -> str:
        one = self.evidence.finalists[teacher]
        return f"{percent(one.mean)} test accuracy ({plural(len(one.scores), 'seed')})"

    def _gain(self) -> str:
        if None not in self.evidence.finalists:
            return "with no confirmed run without a teacher to compare it with"
        gain = contrast_words(self.evidence.contrast(self.teacher, None))
        told = self.evidence.answer(self.teacher) == "helps"
        return gain if told else f"{gain}, so whether it helps cannot be told yet"

    def _cheap_words(self) -> str:
        """Say which of the tied teachers is taken. It is not always the cheapest."""
        macs = {name: _cost(self.record, name)[0] for name in self.tied}
        unknown = macs[self.teacher] == math.inf
        if unknown and all(other == math.inf for other in macs.values()):
            return "one of them, because their costs are unknown"
        cheapest = "teacher" if unknown else "cheapest teacher"
        if not unknown and all(macs[self.teacher] <= other for other in macs.values()):
            if math.inf in macs.values():
                return "the cheapest one of known cost"
            return "the cheaper one" if len(self.tied) == 2 else "the cheapest one"
        helping = [name for name in self.tied if self.evidence.answer(name) == "helps"]
        if self.teacher in helping:
            return f"the {'only teacher' if len(helping) == 1 else cheapest} that is known to help"
        level = [name for name in self.tied if not self.evidence.behind(name)]
        if self.teacher in level and len(level) < len(self.tied):
            which = "only teacher" if len(level) == 1 else cheapest
            return f"the {which} whose students were on average no worse than without a teacher"
        return f"the {cheapest} that may help"

    def _least(self) -> str:
        return f"{100 * self.evidence.threshold:.1f} points that count"

    def _pair_reasons(self) -> Iterator[str]:
        best, *others = self.evidence.teachers
        for other in others[:MAX_PAIRS]:
            contrast = self.evidence.contrast(best, other)
            told = "not told apart" if other in self.tied else "told apart"
            if other in self.tied and (contrast.low or 0) > 0:
                told = f"a difference, but not certain to reach the {self._least()}: not told apart"
            pair = f"{short(best)} against {short(other)}"
            if contrast.basis == "teachers":
                yield f"{pair}: {contrast_words(contrast)}: {told}."
                continue
            yield f"{pair}, each with its own settings: {contrast_words(contrast)}: {told}."
            yield self._tuning_reason(*((best, other) if contrast.difference >= 0 else (other, best)))

    def _tuning_reason(self, best: str, other: str) -> str:
        """Say why a difference is not evidence about teachers, and which runs would give such evidence."""
        settings = recipe(self.evidence.finalists[best].record.params)
        if self._control_gain(best, other) is not None:
            return (
                f"With the settings of {short(best)}, {settings}, {short(other)} was better than with its own (fair "
                "controls): part of the difference comes from the settings."
            )
        shared = self.evidence.finalists[best].record.params.model_copy(update={"teacher": other})
        if any(run.state == "failed" and run.params == shared for run in self.record.runs()):
            return f"{short(other)} failed with {settings}, so the teachers cannot be compared with these settings."
        seeds = plural(len(self.evidence.finalists[best].scores), "more run")
        planned = "" if self.record.controls else "; from a budget of 40 on they are part of the study"
        return (
            f"{short(other)} was not trained in full with {settings}, so the difference may come from the settings. To "
            f"compare the teachers with equal settings takes {seeds} over the confirm seeds{planned}."
        )

    def _label_smoothing_reason(self) -> str:
        """Compare the teacher with label smoothing, which costs nothing, or say how to have it tried."""
        contrast = self.evidence.versus_label_smoothing(self.teacher)
        if contrast is None:
            untried = "Label smoothing, a control that needs no teacher, was not tried"
            if self.record.space.get("confirm", {}).get("label_smoothing") is False:
                return f"{untried}, because the space excludes it."
            if self.record.plan.label_smoothing:
                return f"{untried} to its end: all its runs failed."
            return (
                f"{untried}: a budget that has room for it, 23 in most studies, includes it, and so does "
                "--set confirm.label_smoothing=true."
            )
        size = f"{points(contrast.difference)} points ({sure(contrast.low, contrast.high)})"
        better = (contrast.low or 0) > 0
        is_better = "is better than" if better else "is not shown to be better than"
        return f"{short(self.teacher)} {is_better} label smoothing, which needs no teacher: {size}."

    def _settle_reasons(self, settle: Sequence[SeedsToSettle]) -> Iterator[str]:
        """Say how many confirm seeds would decide what is open, if difference and noise stay as measured."""
        if not self.evidence.members:
            yield "One confirm seed gives no interval: confirm over at least two seeds to get one."
            return
        for one in settle[:MAX_PAIRS]:
            difference = self.evidence.contrast(one.teacher, one.versus).difference
            pair = f"{short(one.teacher)} from {short(one.versus or 'no teacher')}"
            if one.seeds is None and one.versus is not None and abs(difference) <= self.evidence.threshold:
                within = f"it lies within the {self._least()}"
                yield f"No number of seeds would tell {pair} at the measured difference: {within}."
            else:
                seeds = "more than 50" if one.seeds is None else f"about {one.seeds}"
                yield f"To tell {pair} would take {seeds} seeds, at the measured difference and noise."

    def _noise_reason(self) -> str:
        """Say whether the students differ by more than seed noise."""
        if self.evidence.seed_noise is None:
            return "Seed noise is unknown: measuring it takes two finalists that share two confirm seeds."
        deviation, p = self.evidence.seed_noise
        finalists, seeds = self.evidence.table.shape
        means = [one.mean for one in self.evidence.members]
        gap = f"their means lie {100 * (max(means) - min(means)):.1f} points apart"
        gaps = int(np.isnan(self.evidence.table).sum())
        missing = f", {plural(gaps, 'run')} missing" if gaps else ""
        test = f"F test over {finalists} finalists x {seeds} seeds{missing}, p = {p:.2g}"
        noise = f"one run has a standard deviation of {100 * deviation:.1f}"
        claim = "The students differ" if p < 0.05 else "The students do not differ"
        return f"{claim} by more than seed noise: {gap}, {noise} ({test})."

    def _race_reason(self) -> Iterator[str]:
        race = self.evidence.race
        if race is None:
            return
        saved = f"{race.left} of {race.runs} runs were not needed" if race.left else f"all {race.runs} runs went"
        level = f"{100 * (1 - 0.05 * race.share):.2f} %"
        yield (
            f"Confirm seeds were raced: after the first seeds, only finalists that were still undecided got another; "
            f"{saved}. Because the study looked at its results more than once, it decided by {level} intervals; the "
            "intervals shown are 95 %."
        )

    def _target_reason(self) -> Iterator[str]:
        runs = self.evidence.finalists[self.teacher].record.runs
        targets = next((run.targets for run in runs if run.targets), None)
        if targets is not None:
            wrong = targets.tau_wrong
            aside = "" if wrong is None else f"; samples that the teacher gets wrong have {wrong:.2g}"
            medians = f"tau target {targets.tau_target:.2g}, tau other {targets.tau_other:.2g}"
            over = f"medians over the training samples{aside}"
            yield f"Temperatures in use with {short(self.teacher)}: {medians} ({over})."

    def _selection_reasons(self) -> Iterator[str]:
        """Compare the search score that chose each finalist with its confirmed mean."""
        for teacher in self.evidence.teachers[: MAX_PAIRS + 1]:
            record = self.evidence.finalists[teacher].record
            searched, confirmed = record.search_val_top1, stats.mean(run.val_top1 for run in record.runs)
            if searched is None or confirmed is None:
                continue
            cause = "so choosing did not inflate it"
            if round(100 * (searched - confirmed), 1) > 0:
                cause = "inflated by choosing the best of many noisy scores"
            yield (
                f"On validation, {short(teacher)} had {percent(searched)} in the search and {percent(confirmed)} over "
                f"the confirm seeds: {points(searched - confirmed)} points, {cause}."
            )

    def _sampling_reason(self) -> str:
        """State the error that the size of the test set causes. Seeds do not show it: all students share the images."""
        images = self.record.data.test
        error = stats.accuracy_error(self.evidence.finalists[self.teacher].mean, images=images)
        text = (
            f"A test set of {plural(images, 'image')} gives one accuracy a standard error of {100 * error:.1f} points"
        )
        sampling = self.evidence.contrast(self.teacher, None).sampling if None in self.evidence.finalists else None
        if sampling is not None:
            text += (
                f", and the difference between {short(self.teacher)} and no teacher a standard error of "
                f"{100 * sampling[0]:.1f} to {100 * sampling[1]:.1f}, depending on how many errors they share"
            )
        return f"{text}; the intervals do not include it."

    def _failure_reasons(self) -> Iterator[str]:
        for teacher in self.record.teachers:
            trials = [trial for trial in self.record.trials if trial.params.teacher == teacher.name]
            yield from all_failed(short(teacher.name), trials)
        for finalist in self.record.finalists:
            name = short(finalist.teacher or "no teacher")
            failed = sum(run.state == "failed" for run in finalist.runs)
            if failed:
                yield f"{failed} of {plural(len(finalist.runs), 'confirm run')} of {name} failed."
            found = finalist.teacher in self.evidence.finalists
            if found and self.evidence.members and finalist.teacher not in self.evidence.rows:
                yield f"{name} has a single confirm run and therefore no interval."
        if None not in self.evidence.finalists:
            yield "No run without a teacher was confirmed, so whether a teacher helps cannot be told."


def _names(names: Sequence[str]) -> str:
    """List names; more than `MAX_PAIRS` are counted."""
    more = [f"{len(names) - MAX_PAIRS} more"] if len(names) > MAX_PAIRS else []
    return listed([*(short(name) for name in names[:MAX_PAIRS]), *more])


def score(run: RunResult | None) -> float:
    """Return the validation accuracy for sorting; a run without one sorts last."""
    return -1.0 if run is None or run.val_top1 is None else run.val_top1


def best_per_teacher(runs: Sequence[RunResult | None]) -> dict[str | None, RunResult]:
    """Return each teacher's best run with a score, best first; the earlier run wins a tie."""
    best: dict[str | None, RunResult] = {}
    for run in sorted((run for run in runs if run and run.val_top1 is not None), key=score, reverse=True):
        best.setdefault(run.params.teacher, run)
    return best


def full_runs(record: StudyRecord) -> list[RunResult]:
    """Return the full runs with a teacher and a score: those of the trials, then plain KD."""
    runs = (*(trial.full for trial in record.trials), record.plain_kd)
    return [run for run in runs if run is not None and run.val_top1 is not None]


def best_full_runs(record: StudyRecord) -> dict[str | None, RunResult]:
    """Return each teacher's best full run, best first."""
    return best_per_teacher(full_runs(record))


def _guess(record: StudyRecord, full: Sequence[RunResult]) -> tuple[TrialParams, str]:
    """Return a provisional answer and its sentence; parameters without a teacher advise training without one."""
    ranked = full or list(best_per_teacher([trial.rung for trial in record.trials]).values())
    if not ranked:
        failed = sum(run.state == "failed" for run in record.runs())
        text = "no run with a teacher has ended:"
        if failed:
            text = f"no run with a teacher has succeeded ({failed} failed): fix the reasons listed under Failures, then"
        return TrialParams(), f"No recommendation for {_task(record)} yet, {text} {RESUME}."
    best, then = ranked[0], FAILED if is_undecided(record) else RESUME
    scored = f"{percent(score(best))} validation accuracy"
    if not full:
        after = f"after {best.last_epoch} of {record.plan.epochs_full} epochs"
        which = f"the best score at the first rung ({scored} {after})"
    else:
        without = record.no_teacher.val_top1 if record.no_teacher else None
        if without is not None and without >= score(best):
            text = f"no teacher beat training without a teacher ({percent(without)}, best teacher {scored} in one run)"
            return TrialParams(), f"Unconfirmed for {_task(record)}: {text}; {then}."
        against = "" if without is None else f", {percent(without)} without a teacher"
        which = f"the best search score ({scored} in one run{against})"
    named = f"teacher {short(best.params.teacher or 'none')} with {recipe(best.params)}"
    return best.params, f"Unconfirmed for {_task(record)}: take {named}, which had {which}; {then}."
