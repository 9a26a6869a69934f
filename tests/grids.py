"""Records of method grids, built from a table of scores."""

import random
from collections.abc import Mapping, Sequence

from factories import bare
from record_parts import EPOCHS_FULL, failed_run, run

from autodistill.records import CellRecord, MethodGrid, RunResult, StudyRecord, TrialParams, TrialRecord

Table = Mapping[tuple[str, str], Sequence[float | None]]
"""Test accuracies over the seeds by method and teacher; None: the run failed."""
SETTINGS: dict[str, TrialParams] = {
    "ts": TrialParams(method="ts", method_params={"tau": 4.0}, tau_student=4.0, soft_weight=0.9),
    "isats": TrialParams(method="isats", method_params={"target_ratio": 1.67}, tau_student=4.0, soft_weight=0.5),
    "dkd": TrialParams(method="dkd", method_params={"tau": 4.0, "alpha": 1.0, "beta": 8.0}, soft_weight=None),
    "python:my.py:focal": TrialParams(method="python:my.py:focal", method_params={"gamma": 2.0}, soft_weight=None),
}


def runs_of(name: str, params: TrialParams, scores: Sequence[float | None]) -> tuple[RunResult, ...]:
    return tuple(
        failed_run(f"{name}-{seed}", params, seed=seed)
        if score is None
        else run(f"{name}-{seed}", params, val=score, test=score, seed=seed)
        for seed, score in enumerate(scores, 1000)
    )


def grid(
    table: Table,
    *,
    no_teacher: Sequence[float | None],
    label_smoothing: Sequence[float | None],
    shared: Table | None = None,
    state: str = "complete",
) -> StudyRecord:
    """A grid whose teachers grow fourfold in MACs from one to the next, in the order of the table."""
    teachers = list(dict.fromkeys(teacher for _, teacher in table))
    methods = tuple(dict.fromkeys(method for method, _ in table))
    record = bare({name: 0.8 + place / 100 for place, name in enumerate(teachers)})
    trials, cells = [], []
    for number, ((method, teacher), scores) in enumerate(table.items()):
        params = SETTINGS[method].model_copy(update={"teacher": teacher})
        full = run(f"trials/{number:04d}/full", params, val=0.7)
        trials.append(
            TrialRecord(
                number=number, kind="prior", wave=0, params=params, seed=0, state="complete", rung=full, full=full
            )
        )
        cells.append(
            CellRecord(
                method=method,
                teacher=teacher,
                trial=number,
                params=params,
                search_val_top1=0.7,
                runs=runs_of(f"confirm/{number:04d}", params, scores),
            )
        )
    others = [
        CellRecord(
            method=method,
            teacher=teacher,
            trial=None,
            params=SETTINGS[method].model_copy(update={"teacher": teacher, "soft_weight": 0.3}),
            runs=runs_of(f"controls/shared-{place}-0", SETTINGS[method], scores),
        )
        for place, ((method, teacher), scores) in enumerate((shared or {}).items())
    ]
    smoothing = TrialParams(method_params={"label_smoothing": 0.1})
    alone = runs_of("baselines/no-teacher", TrialParams(), no_teacher)
    smoothed = runs_of("baselines/label-smoothing", smoothing, label_smoothing)
    space = {"search": {"methods": {name: {} for name in methods}, "eta": 3.0}, "confirm": {"threshold": 0.002}}
    plan = record.plan.model_copy(update={"settings": 1, "plain_kd": 0.0, "label_smoothing": float(len(smoothed))})
    return record.model_copy(
        update={
            "state": state,
            "command": "autodistill compare --student mobilenetv2:0.25",
            "plan": plan,
            "space": space,
            "no_teacher": alone[0] if alone else None,
            "plain_kd": None,
            "trials": tuple(trials),
            "label_smoothing": smoothed,
            "spent_epochs": EPOCHS_FULL * 10,
            "recommendation": None,
            "grid": MethodGrid(
                methods=methods,
                settings=1,
                cells=tuple(cells),
                no_teacher=alone,
                label_smoothing=smoothed,
                shared=tuple(others),
            ),
        }
    )


def table_of(
    means: Mapping[str, Mapping[str, float]], *, seeds: int = 3, noise: float = 0.001, seed: int = 0
) -> dict[tuple[str, str], list[float | None]]:
    """A table of scores about the means of methods with teachers."""
    draw = random.Random(seed)
    return {
        (method, teacher): [mean + draw.gauss(0, noise) for _ in range(seeds)]
        for method, cells in means.items()
        for teacher, mean in cells.items()
    }
