"""What a study will take: a few steps measured on its workers, and a simulated study made of them."""

import random
import shutil
from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from autodistill.errors import StudyError
from autodistill.logit_cache import estimated_bytes
from autodistill.records import CostRecord, Event, PlanRecord, RunRequest, TeacherRecord, TimePlanned
from autodistill.search import Question, certain_runs, copy_study, make_plan, parse_budget
from autodistill.store import RunFolder, digest, read_result
from autodistill.study.changing import carried
from autodistill.study.measuring import TAU_STUDENT_FROM, kept_costs, measure
from autodistill.study.preparing import Prepared, identity
from autodistill.study.simulating import (
    NONE_CERTAIN,
    Clock,
    Costs,
    certain_of,
    fitting_beside,
    simulate,
)
from autodistill.workers import Pool, StandBy


class Estimate(NamedTuple):
    plan: PlanRecord
    time: TimePlanned | None
    """Of what is left; None: a worker could not tell."""
    cache_bytes: int


def estimate(prepared: Prepared, *, standby: StandBy | None = None) -> Estimate:
    """Measure a few steps of the student and its teachers, on workers as a study has them; writes nothing."""
    costs = kept_costs(prepared)
    if costs is None:
        with Pool(prepared.expected_workers, prepared.setup, data=prepared.data, standby=standby) as pool:
            costs = _returned(measure(prepared, pool.run))
    plan = plan_for(prepared, costs)
    return Estimate(plan, time_left(prepared, plan, costs), cache_size(prepared))


def plan_for(prepared: Prepared, costs: Costs | None) -> PlanRecord:
    """The plan; a budget of time becomes the epochs that the workers train in it.

    Raises:
        ConfigError: the budget does not hold it.
        StudyError: a budget of time, and no worker could tell how long an epoch takes.
    """
    if costs is None and parse_budget(prepared.budget).unit == "seconds":
        raise StudyError(
            f"--budget {prepared.budget}: how long an epoch takes could not be measured",
            "see the warning above; --budget 20 is the cost of 20 full trainings",
        )
    return make_plan(
        prepared.space,
        teachers=len(prepared.teachers),
        requested=prepared.budget,
        epochs_per_s=prepared.expected_workers / epoch_s(costs) if costs else None,
        max_trials=prepared.request.max_trials,
        asynchronous=prepared.request.asynchronous,
    )


def epoch_s(costs: Costs) -> float:
    """Seconds of a student epoch on one worker, its share of the validations included."""
    return costs.epoch_s + costs.targets_s + costs.validation_s / costs.evaluate_every


def time_left(prepared: Prepared, plan: PlanRecord, costs: Costs | None) -> TimePlanned | None:
    """Seconds of what is left of the study, by phase."""
    if costs is None:
        return None
    question, folder = question_of(prepared, plan, _stand_ins(prepared)), prepared.folder
    with TemporaryDirectory() as place:
        order = order_file(folder, joined=question.joined)
        if order.exists():
            shutil.copy(order, place)
        database = Path(place) / folder.database.name
        if prepared.request.storage:
            copy_study(question, prepared.request.storage, database)
        for path in () if prepared.request.storage else folder.database.parent.glob(f"{folder.database.name}*"):
            shutil.copy(path, place)
        return simulate(
            question,
            costs,
            prepared.expected_workers,
            kept=lambda request: read_result(folder, request.run),
            database=database if database.exists() else None,
            order=Path(place) / order.name,
            beside=runs_beside(prepared, plan, costs),
            # Nobody knows how many workers have joined a study of many machines.
            certain=NONE_CERTAIN if prepared.request.storage else certain_of(question),
        )


def order_file(folder: RunFolder, *, joined: int) -> Path:
    """Where a study keeps what it did in which order, since teachers joined for the last time."""
    return folder.path / f"order{f'+{joined}' if joined else ''}.jsonl"


def runs_beside(prepared: Prepared, plan: PlanRecord, costs: Costs | None) -> tuple[RunRequest, ...]:
    """Runs that the study needs in any case, as many as workers have time for while its teachers are made ready."""
    if costs is None:
        return ()
    left = [
        it
        for it in certain_runs(question_of(prepared, plan, _stand_ins(prepared)))
        if read_result(prepared.folder, it.run) is None
    ]
    if not left:
        return ()
    workers = prepared.expected_workers
    run_s = Clock(costs, workers, random.Random(0)).run_s(left[0])
    confirm = round(plan.confirm)
    return tuple(left[: fitting_beside(costs, run_s, most=len(left), confirm=confirm, workers=workers)])


def question_of(prepared: Prepared, plan: PlanRecord, teachers: tuple[TeacherRecord, ...]) -> Question:
    """What the study wants to know, with what it knew before a teacher joined it."""
    before = carried(prepared.folder)
    return Question(
        prepared.folder.path.name,
        prepared.space,
        plan,
        teachers,
        TAU_STUDENT_FROM,
        prepared.request.audit_pruning,
        digest(identity(prepared)) if prepared.request.storage else "",
        before.joined,
        before.trials,
    )


def cache_size(prepared: Prepared) -> int:
    """Bytes of the study's teacher logits."""
    return estimated_bytes(
        teachers=len(prepared.teachers),
        views=prepared.views,
        examples=len(prepared.data.train.labels),
        classes=prepared.data.num_classes,
    )


def spelt(plan: PlanRecord) -> str:
    """The plan as one line: `20 = no teacher 1 + plain KD 1 + priors 4 + search 6 + confirm 8`."""
    parts = {
        "no teacher": plan.no_teacher,
        "plain KD": plan.plain_kd,
        "priors": plan.priors,
        "search": plan.search,
        **({"second looks": plan.second_looks} if plan.second_looks else {}),
        "confirm": plan.confirm,
        **({"controls": plan.controls} if plan.controls else {}),
    }
    return f"{plan.equivalents:.4g} full trainings = " + " + ".join(f"{name} {it:.3g}" for name, it in parts.items())


def _stand_ins(prepared: Prepared) -> tuple[TeacherRecord, ...]:
    # A ladder grows, and its last is likely to be the most accurate.
    names = tuple(prepared.teachers)
    return tuple(_stand_in(name, place / len(names)) for place, name in enumerate(names))


def _stand_in(name: str, val_top1: float) -> TeacherRecord:
    """A teacher as far as a simulated search looks at it."""
    cost = CostRecord(params=0, macs=0, size_bytes=0)
    facts = dict.fromkeys(("uri", "architecture", "fingerprint", "normalisation"), "")
    return TeacherRecord(name=name, cost=cost, val_top1=val_top1, val_nll=0.0, val_ece=0.0, **facts)


def _returned(events: Generator[Event, None, Costs | None]) -> Costs | None:
    while True:
        try:
            next(events)
        except StopIteration as end:
            found: Costs | None = end.value
            return found
