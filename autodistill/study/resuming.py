"""Continue a study: its kept record, and the kept results of its runs.

A command of another study is refused, teachers may join, and only runs without a kept result are trained.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autodistill.config import Space
from autodistill.errors import StoreError
from autodistill.executors import Executor, LogitsTask, OnEvent, Task, TrainTask
from autodistill.methods import OWN, code_of
from autodistill.records import (
    FoundRun,
    JoinRecord,
    KeptResult,
    PlanRecord,
    RunResult,
    RunSpec,
    SpecRecord,
    StudyRecord,
    TrialRecord,
    run_ended,
)
from autodistill.searching import audited_trials
from autodistill.store import StudyFolder, copy_from_sibling, differences, digest, read_result
from autodistill.study.resolve import RESULT_VERSION, StudySpec

MOST_DIFFERENCES = 12
"""Differences between two studies that an error lists."""


def identity(spec: StudySpec) -> str:
    """Return what tells studies of one name in one database apart; teachers may join a study."""
    return digest(spec.student.name, spec.data.fingerprint, _compared(spec.space))


def continued(spec: StudySpec, kept: StudyRecord | None) -> StudyRecord | None:
    """Return the record of the study that is continued, with the teachers that join it.

    Raises:
        StoreError: It is another study; the message lists the differences.
    """
    if kept is None:
        return None
    assert kept.spec is not None
    joining = [name for name in spec.teachers if name not in kept.spec.teachers]
    there, asked = _specifications(spec, kept, kept.spec)
    edited = [name for name, code in kept.spec.methods.items() if spec.record.methods.get(name, code) != code]
    for document in (there, asked):
        document["methods"] = _without(document["methods"], *edited)
    lines = [
        f"method {name}: the code of {name.removeprefix(OWN).rpartition(':')[0]}, or of a module beside it that it "
        "imports, has changed since the study began"
        for name in edited
    ]
    lines += differences(there, asked)
    if kept.spec.student_fingerprint != spec.record.student_fingerprint:
        lines.insert(0, "the student's code, weights, library or preprocessing changed since the study began")
    if lines:
        more = [f"and {len(lines) - MOST_DIFFERENCES} more"] if len(lines) > MOST_DIFFERENCES else []
        shown = "\n  ".join(lines[:MOST_DIFFERENCES] + more)
        hint = "repeat the command that started it, or give this study another name with --study"
        if kept.plan.settings is not None:
            hint += ": equal runs of this study are found there and not trained again"
        raise StoreError(f"{spec.folder.path}: holds another study:\n  {shown}", hint)
    if not joining:
        return kept
    if kept.plan.settings is not None:
        raise StoreError(
            f"{spec.folder.path}: the teachers of a method grid stay the same ({', '.join(joining)} would join)",
            "give the larger grid another name with --study: runs of this one are found and not trained again",
        )
    trials = tuple(_ended_trials(kept))
    join = JoinRecord(teachers=tuple(spec.teachers), trials=len(trials))
    return kept.model_copy(update={"joins": (*kept.joins, join), "trials": trials, "state": "running"})


def _specifications(spec: StudySpec, kept: StudyRecord, known: SpecRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the kept specification and that of the command, as far as they must agree.

    Teachers may join. A file of a folder that was left out may have been removed.
    """
    asked = {**spec.record.model_dump(mode="json"), "space": _compared(spec.space)}
    # Validated: the space of an older study lacks settings that exist today.
    there = {**known.model_dump(mode="json"), "space": _compared(Space.model_validate(kept.space))}
    joining = [name for name in spec.teachers if name not in known.teachers]
    removed = [name for name in kept.left_out if name not in spec.teachers]
    for key in ("teachers", "fingerprints"):
        asked[key], there[key] = _without(asked[key], *joining), _without(there[key], *removed)
    if known.data == spec.data.fingerprint:  # the same images and labels, moved
        for document in (asked, there):
            document["space"]["data"] = _without(document["space"]["data"], "name", "root")
    return there, asked


def _compared(space: Space) -> dict[str, Any]:
    """Return a space without what changes no result: purpose, teachers, wave and budget.

    Whether values followed from the data changes no result either. Older studies lack the metric: it was `top1`. The
    settings of adapted teachers are part of the keys of these teachers, which the specification holds.
    """
    excluded: dict[str, Any] = {"purpose": True, "teachers": True, "fit_to_data": True, "adapt": True}
    excluded["search"] = {"wave", "budget"} | ({"metric"} if space.search.metric == "top1" else set())
    return space.model_dump(mode="json", exclude_none=True, exclude=excluded)


def _without(document: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in keys}


def _ended_trials(kept: StudyRecord) -> list[TrialRecord]:
    """Return the trials that a joining teacher finds: ended; trials without any result are asked anew."""
    found = []
    for trial in kept.trials:
        if trial.state == "running" and trial.rung is None:
            break
        if trial.state == "running":
            reason = "it had no full run yet when a teacher joined the study"
            update = {"state": "pruned", "reason": reason, "out_of_budget": True, "sampler_attrs": {}}
            trial = trial.model_copy(update=update)
        found.append(trial)
    return found


def is_finished(spec: StudySpec, kept: StudyRecord) -> bool:
    """Return whether a kept study is complete and has spent the budget that is asked for."""
    audited = bool(kept.audit) or not spec.options.audit_pruning or not audited_trials(kept.trials)
    return kept.state == "complete" and _same_budget(spec, kept) and audited


def kept_plan(spec: StudySpec, kept: StudyRecord | None) -> PlanRecord | None:
    """Return the plan of an earlier process where it is still the plan: a budget of time stays the same epochs."""
    if kept is None or set(spec.teachers) != set(kept.spec.teachers if kept.spec else ()):
        return None
    return kept.plan if _same_budget(spec, kept) else None


def kept_screening(spec: StudySpec, kept: StudyRecord | None) -> dict[str, str] | None:
    """Return the teachers that an earlier process left out, with the reasons; None if it had not begun a trial.

    The choice stays when the budget changes or a teacher joins: the recorded trials rest on it.
    """
    if kept is None or not kept.trials:
        return None
    return {name: reason for name, reason in kept.screened_out.items() if name in spec.teachers}


def _same_budget(spec: StudySpec, kept: StudyRecord) -> bool:
    return (kept.plan.requested, kept.plan.max_trials) == (spec.budget, spec.options.max_trials)


def kept_failures(kept: StudyRecord | None) -> dict[str, RunResult]:
    """Return the failed runs of recorded trials: later decisions rest on them."""
    runs = [run for trial in (kept.trials if kept else ()) for run in (trial.rung, trial.full) if run is not None]
    return {run.run: run for run in runs if run.state == "failed"}


def run_key(spec: StudySpec, fingerprints: Mapping[str, str], run: RunSpec) -> str:
    """Return the key of a run: equal keys have equal results.

    Rung, `evaluate_on`, device, threads and version of torch are not part of the key; the kept result records them.
    `fingerprints` are those of the teachers by name; that of a ladder teacher is known once it is trained.
    """
    data = spec.space.data
    common = {
        "data": spec.data.fingerprint,
        "student": spec.student.key,
        "training": spec.space.training.model_dump(mode="json", exclude={"epochs", "rung_epochs"}),
        "loss": "soft_cross_entropy",  # keys of older studies hold it
        "view": (data.view_seed, data.crop, data.flip),
        "views": spec.views,
    }
    teacher = fingerprints[run.params.teacher] if run.params.teacher else ""
    params = run.params.model_dump(mode="json", exclude={"teacher"})
    # The code of a user's method decides its results; the name of its file does not.
    code = code_of(run.params.method) if run.params.method else ""
    if code:
        params["method"] = code
    return digest(RESULT_VERSION, common, teacher, params, run.seed, run.epochs)


class RunStore:
    """The runs of a study.

    Args:
        folder: The study's.
        key_of: Returns the key of a run.
        views: Size of the pool of views that epochs cycle through.
        failures: Failed runs of the study's record, by name. They stay failures, because decisions rest on them.
        on_found: Is called with each run whose result was copied from another study.
    """

    def __init__(
        self,
        folder: StudyFolder,
        key_of: Callable[[RunSpec], str],
        *,
        views: int,
        failures: Mapping[str, RunResult],
        on_found: Callable[[FoundRun], object] = lambda _: None,
    ) -> None:
        self._folder, self._key_of, self._views = folder, key_of, views
        self._failures, self._on_found = failures, on_found

    def find(self, spec: RunSpec) -> KeptResult | None:
        """Return the result of a run, from this study or from another study in the same folder; None: train it."""
        if (failure := self._failures.get(spec.run)) is not None:
            return KeptResult(result=failure, wall_s=0.0)
        key = self._key_of(spec)
        kept = read_result(self._folder, key)
        if kept is None or kept.answer(spec) is None:
            kept = copy_from_sibling(self._folder, key, spec)
        answer = kept.answer(spec) if kept is not None else None
        if answer is not None and answer.study:
            self._on_found(FoundRun(run=spec.run, key=key, study=answer.study))
        return answer

    def tasks(self, specs: Sequence[RunSpec]) -> list[TrainTask]:
        """Return a task for each run that is not there."""
        return [TrainTask(spec=spec, key=self._key_of(spec)) for spec in specs if self.find(spec) is None]

    def train(self, specs: Sequence[RunSpec], executor: Executor, on_event: OnEvent) -> list[RunResult]:
        """Train the runs that are not there yet; return the results of all in their order."""
        results: dict[str, RunResult] = {}
        missing: dict[str, TrainTask] = {}
        again: list[RunSpec] = []
        for spec in specs:
            key, kept = self._key_of(spec), self.find(spec)
            if kept is not None:
                results[spec.run] = kept.result
                on_event(run_ended(kept, reused=True))
            elif key in missing:  # the same checkpoint under two names
                again.append(spec)
            else:
                missing[key] = TrainTask(spec=spec, key=key)
        tasks = list(missing.values())
        for found in executor.run(tasks, on_event, meanwhile=logits_ahead(tasks, views=self._views)):
            assert isinstance(found, KeptResult)
            results[found.result.run] = found.result
        if again:
            results |= {result.run: result for result in self.train(again, executor, on_event)}
        return [results[spec.run] for spec in specs]


def logits_ahead(tasks: Sequence[TrainTask], *, views: int) -> list[Task]:
    """Return tasks that compute the logits which runs will need, in the order in which their epochs need them."""
    needed: dict[str, int] = {}
    for task in tasks:
        name = task.spec.params.teacher
        if name is not None:
            needed[name] = max(needed.get(name, 0), min(task.spec.last_epoch, views))
    return [
        LogitsTask(name=name, view=view)
        for view in range(max(needed.values(), default=0))
        for name, count in needed.items()
        if view < count
    ]
