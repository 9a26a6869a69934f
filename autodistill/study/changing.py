"""Teachers that join a study: what was tried before carries over, they get their prior."""

import json
from typing import Any

from autodistill.errors import StoreError
from autodistill.records import Record, TrialRecord, to_json
from autodistill.store import RunFolder, forget_checkpoint, write_text
from autodistill.study.preparing import Prepared, identity


class Carried(Record):
    """The trials of a study as they were when the last teacher joined."""

    joined: int
    """How often teachers have joined: each time Optuna gets a study of its own, as it refuses a new choice."""
    teachers: tuple[str, ...]
    """Of the study since then."""
    trials: tuple[TrialRecord, ...]


NOTHING = Carried(joined=0, teachers=(), trials=())


def carried(folder: RunFolder) -> Carried:
    """What was carried over last.

    Raises:
        StoreError: the file is damaged.
    """
    path = folder.path / "carried.json"
    if not path.exists():
        return NOTHING
    try:
        return Carried.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise StoreError(f"{path}: damaged", "give this study its own name with --study") from error


def join_teachers(prepared: Prepared) -> tuple[str, ...]:
    """Make a kept study one of more teachers; returns those that join.

    All else must be the same: what differs is refused afterwards, as ever, by `claim`.
    """
    folder, asked = prepared.folder, _plain(identity(prepared))
    kept = _kept_identity(folder)
    joining = tuple(name for name in asked["teachers"] if kept and name not in kept["teachers"])
    if kept is None or not joining or _without(asked, joining) != _without(kept, ()):
        return ()
    before = carried(folder)
    if before.teachers != tuple(prepared.teachers):
        found = Carried(
            joined=before.joined + 1, teachers=tuple(prepared.teachers), trials=tuple(_ended(prepared, before))
        )
        write_text(folder.path / "carried.json", to_json(found))
    (folder.path / "plan.json").unlink(missing_ok=True)
    write_text(folder.identity, json.dumps(asked, indent=1, sort_keys=True) + "\n")
    return joining


def _ended(prepared: Prepared, before: Carried) -> list[TrialRecord]:
    """The trials that have ended; what has a short run but no end is ended here, what has neither is asked anew.

    Where trials are asked for as workers get free, one with neither can come before some that have ended.
    """
    record, found = prepared.kept, []
    trials = record.trials if record and len(record.trials) >= len(before.trials) else before.trials
    known = max((trial.number for trial in trials if trial.state != "running" or trial.short is not None), default=-1)
    for trial in trials[: known + 1]:
        if trial.state == "running" and trial.short is None:
            reason = "it had no result yet when a teacher joined the study"
            trial = trial.model_copy(update={"state": "failed", "reason": reason})
        elif trial.state == "running":
            reason = "it had no full run yet when a teacher joined the study"
            trial = trial.model_copy(update={"state": "pruned", "reason": reason, "out_of_budget": True})
            forget_checkpoint(prepared.folder, trial)
        found.append(trial)
    return found


def _kept_identity(folder: RunFolder) -> dict[str, Any] | None:
    try:
        found = json.loads(folder.identity.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("teachers"), dict) else None


def _plain(found: dict[str, object]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(found)))


def _without(found: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """An identity as it would be without some teachers, and without the list that they were asked for with."""
    space = {key: value for key, value in found.get("space", {}).items() if key != "teachers"}
    kept = {
        key: {name: value for name, value in found.get(key, {}).items() if name not in names}
        for key in ("teachers", "fingerprints")
    }
    return {**found, **kept, "space": space}
