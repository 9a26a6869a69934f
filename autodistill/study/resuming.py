"""Continue an existing study: refuse a command of another study, let teachers join, read the recorded results."""

from collections.abc import Sequence
from typing import Any

from autodistill.errors import StoreError
from autodistill.records import JoinRecord, PlanRecord, RunResult, StudyRecord, TrialRecord
from autodistill.search import audited_trials
from autodistill.store import differences, digest
from autodistill.study.resolve import StudySpec

MOST_DIFFERENCES = 12
"""Differences between two studies that an error lists."""


def identity(spec: StudySpec) -> str:
    """Return what tells studies of one name in one database apart; teachers may join a study."""
    space = compared_space(spec.space.model_dump(mode="json"))
    return digest(spec.student.name, spec.data.fingerprint, space)


def kept_failures(kept: StudyRecord | None) -> dict[str, RunResult]:
    """Return the failed runs of recorded trials: later decisions rest on them."""
    runs = [run for trial in (kept.trials if kept else ()) for run in (trial.rung, trial.full) if run is not None]
    return {run.run: run for run in runs if run.state == "failed"}


def continued(spec: StudySpec, kept: StudyRecord | None) -> StudyRecord | None:
    """Return the record of the study that is continued, with the teachers that join it.

    Raises:
        StoreError: it is another study; with the differences.
    """
    if kept is None:
        return None
    asked_space = compared_space(spec.space.model_dump(mode="json"))
    assert kept.spec is not None
    joining = [name for name in spec.teachers if name not in kept.spec.teachers]
    asked = {**_without(spec.record.model_dump(mode="json"), joining), "space": asked_space}
    there = {**kept.spec.model_dump(mode="json"), "space": compared_space(kept.space)}
    if kept.spec.data == spec.data.fingerprint:  # the same images and labels, moved
        for document in (asked, there):
            document["space"]["data"] = {
                k: v for k, v in document["space"]["data"].items() if k not in ("name", "root")
            }
    lines = list(differences(there, asked))
    if lines:
        more = [f"and {len(lines) - MOST_DIFFERENCES} more"] if len(lines) > MOST_DIFFERENCES else []
        shown = "\n  ".join(lines[:MOST_DIFFERENCES] + more)
        raise StoreError(
            f"{spec.folder.path}: holds another study:\n  {shown}",
            "repeat the command that started it, or give this study another name with --study",
        )
    if not joining:
        return kept
    trials = tuple(_ended_trials(kept))
    join = JoinRecord(teachers=tuple(spec.teachers), trials=len(trials))
    return kept.model_copy(update={"joins": (*kept.joins, join), "trials": trials, "state": "running"})


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


def compared_space(space: dict[str, Any]) -> dict[str, Any]:
    """Return a space without what changes no result: purpose, budget, wave, and the list of teachers."""
    found = {key: value for key, value in space.items() if key not in ("purpose", "teachers")}
    found["search"] = {key: value for key, value in space["search"].items() if key not in ("wave", "budget")}
    kept: dict[str, Any] = _without_none(found)
    return kept


def _without_none(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _without_none(value) for key, value in found.items() if value is not None}
    return list(found) if isinstance(found, tuple) else found


def _without(record: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a specification as it would be without some teachers."""
    kept = {
        key: {name: value for name, value in record[key].items() if name not in names}
        for key in ("teachers", "fingerprints")
    }
    return {**record, **kept}


def is_finished(spec: StudySpec, kept: StudyRecord) -> bool:
    """Return whether a kept study is complete and has spent the budget that is asked for."""
    same = (kept.plan.requested, kept.plan.max_trials) == (spec.budget, spec.options.max_trials)
    audited = bool(kept.audit) or not spec.options.audit_pruning or not audited_trials(kept.trials)
    return kept.state == "complete" and same and audited


def kept_plan(spec: StudySpec, kept: StudyRecord | None) -> PlanRecord | None:
    """Return the plan of an earlier process where it is still the plan: a budget of time stays the same epochs."""
    if kept is None or set(spec.teachers) != set(kept.spec.teachers if kept.spec else ()):
        return None
    same = (kept.plan.requested, kept.plan.max_trials) == (spec.budget, spec.options.max_trials)
    return kept.plan if same else None
