"""A study, whole, and the parts it is made of."""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from autodistill.errors import StoreError
from autodistill.records.base import Record
from autodistill.records.cost import CostRecord, StudentBudget
from autodistill.records.profile import AgreementRecord, ProfileRecord
from autodistill.records.runs import Rungs, RunRecord, TrialParams, TrialRecord
from autodistill.records.verdict import Recommendation

SCHEMA_VERSION = 1
_REWRITTEN = "run `autodistill search` again with the same command: it rewrites the record from the finished runs"

AnyRecord = TypeVar("AnyRecord", bound=Record)


class StudentRecord(Record):
    name: str
    """As asked for, width included: `mobilenetv2:0.25`."""
    architecture: str
    width: float
    stem_stride: int
    total_stride: int
    cost: CostRecord


class TeacherRecord(Record):
    """A teacher that passed its checks. Scores on the validation split."""

    name: str
    uri: str
    architecture: str
    fingerprint: str
    cost: CostRecord
    normalisation: str
    val_top1: float
    val_nll: float
    val_ece: float
    profile: ProfileRecord | None = None
    """None: made before there were profiles, or a logit does not fit into the cache."""


class DataRecord(Record):
    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    train: int
    validation: int
    test: int
    split_seed: int
    view_seed: int
    views: int
    """Size of the pool of views that the epochs cycle through."""
    fingerprint: str


class RaceRecord(Record):
    """Confirm runs that are given out one look at a time."""

    first: int
    """Seeds that every finalist is trained over before the first look."""
    seeds: int
    """Seeds for each finalist that the budget pays for; who is still in the race can have more."""


class PlanRecord(Record):
    """The budget as a plan. Parts in full-training equivalents, printed before the start."""

    requested: str
    epochs_full: int
    epochs_short: int
    total_epochs: int
    no_teacher: float
    plain_kd: float
    priors: float
    confirm: float
    controls: float = 0.0
    """At most: what the finalists have already is not trained again."""
    search: float
    second_looks: float = 0.0
    max_trials: int | None = None
    """Limit on searched trials, priors included."""
    wave: int
    asynchronous: bool = False
    """Trials are asked for whenever a worker is free, not in waves."""
    rungs: Rungs = "short runs"
    race: RaceRecord | None = None
    """None: every finalist is trained over every confirm seed. With a single teacher among them there is no race."""

    @property
    def equivalents(self) -> float:
        return self.total_epochs / self.epochs_full

    @property
    def epochs_rest(self) -> int:
        """What a trial that has had its short run still costs to be trained in full."""
        return self.epochs_full - self.epochs_short if self.rungs == "part-way" else self.epochs_full


class FinalistRecord(Record):
    """A configuration trained in full over the confirm seeds. `teacher` None is the no-teacher baseline."""

    teacher: str | None
    trial: int | None = None
    params: TrialParams
    search_val_top1: float | None = None
    """The score that made it a finalist, a mean where it has several full runs: inflated by having been chosen."""
    runs: tuple[RunRecord, ...] = ()


class ControlRecord(Record):
    """A teacher's student under one way of choosing temperatures and weight, over the first confirm seeds."""

    regime: Literal["default", "shared", "own"]
    """The prior; the best configuration of all, whosever teacher's it was; the teacher's own best."""
    teacher: str
    params: TrialParams
    runs: tuple[RunRecord, ...]


class ImportanceRecord(Record):
    """fANOVA on the short-run scores. `n` scored trials; empty `shares` and a `note` where n is too small."""

    n: int
    evaluator_seeds: int = 1
    """Forests, each grown from a seed of its own, that the shares are means over."""
    shares: dict[str, float] = {}
    shares_std: dict[str, float] = {}
    """Standard deviation of a share over the evaluator's seeds; empty where there was one."""
    within_rule: dict[str, dict[str, float]] = {}
    """Per rule: its own parameters and the soft weight, from that rule's trials alone."""
    within_rule_std: dict[str, dict[str, float]] = {}
    within_rule_n: dict[str, int] = {}
    note: str = ""


class StudyRecord(Record):
    """A study, whole. Equal studies differ in `timing` and `environment` only."""

    schema_version: int = SCHEMA_VERSION
    name: str
    state: Literal["running", "complete"]
    command: str
    """What reproduces the study, resume flags and worker count left out."""
    student: StudentRecord
    limits: StudentBudget = StudentBudget()
    """What the student was allowed; it keeps within."""
    data: DataRecord
    space: dict[str, Any]
    plan: PlanRecord
    spent_epochs: int = 0
    teachers: tuple[TeacherRecord, ...] = ()
    agreement: AgreementRecord | None = None
    """Between the teachers' orders of the other classes; None: nothing to compare."""
    no_teacher: RunRecord | None = None
    plain_kd: RunRecord | None = None
    trials: tuple[TrialRecord, ...] = ()
    second_looks: tuple[RunRecord, ...] = ()
    """The leaders of the search, trained once more before the finalists were chosen by the mean of their scores."""
    finalists: tuple[FinalistRecord, ...] = ()
    controls: tuple[ControlRecord, ...] = ()
    """From a budget of 40 on."""
    audit: tuple[RunRecord, ...] = ()
    """Pruned trials trained to the end, where asked for; outside the budget and the verdict."""
    importance: ImportanceRecord | None = None
    recommendation: Recommendation | None = None
    timing: dict[str, Any] = {}
    environment: dict[str, Any] = {}

    def search_score(self, params: TrialParams) -> float | None:
        """Mean validation accuracy of a configuration's full runs before the confirm runs; None: it had none."""
        runs = (*(trial.full for trial in self.trials), self.plain_kd, *self.second_looks)
        own = [run.val_top1 for run in runs if run is not None and run.params == params]
        scores = [score for score in own if score is not None]
        return sum(scores) / len(scores) if scores else None

    def runs(self) -> Iterator[RunRecord]:
        """Every training run that the study paid for, each once."""
        seen: set[str] = set()
        trial_runs = (run for trial in self.trials for run in (trial.short, trial.full))
        later = [*(one.runs for one in self.finalists), *(one.runs for one in self.controls)]
        for run in (self.no_teacher, self.plain_kd, *trial_runs, *self.second_looks, *chain.from_iterable(later)):
            if run is not None and run.run not in seen:
                seen.add(run.run)
                yield run


class InspectionRecord(Record):
    """Teachers looked at without a search."""

    schema_version: int = SCHEMA_VERSION
    data: DataRecord
    teachers: tuple[TeacherRecord, ...]
    agreement: AgreementRecord | None = None


def read_study(path: Path) -> StudyRecord:
    """Read a `study.json` of one student.

    Raises:
        StoreError: the file is missing, truncated, of a newer version or no study record.
    """
    found = read_json(path)
    if found.get("kind") == "comparison":
        names = ", ".join(study.get("name", "") for study in found.get("studies", ()))
        raise StoreError(f"{path}: compares several students", f"name the study of one: {names}")
    return parsed(path, found, StudyRecord)


def read_json(path: Path) -> dict[str, Any]:
    """Read a record's JSON as far as its version.

    Raises:
        StoreError: the file is missing, truncated, of a newer version or no record.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})", _REWRITTEN) from error
    except UnicodeDecodeError as error:
        raise StoreError(f"{path}: not text in UTF-8 (byte {error.start})", _REWRITTEN) from error
    try:
        found = json.loads(text)
        version = found.get("schema_version") if isinstance(found, dict) else None
    except json.JSONDecodeError as error:
        raise StoreError(f"{path}: not whole JSON (line {error.lineno}: {error.msg})", _REWRITTEN) from error
    if not isinstance(version, int):
        raise StoreError(f"{path}: not a study record (no schema_version)", "name a folder that `search` made")
    if version > SCHEMA_VERSION:
        newest = f"this autodistill reads up to {SCHEMA_VERSION}"
        raise StoreError(f"{path}: schema_version {version}, {newest}", "update kd-autodistill")
    return dict(found)


def parsed(path: Path, found: dict[str, Any], kind: type[AnyRecord]) -> AnyRecord:
    """Make a record of what `path` held.

    Raises:
        StoreError: a field is missing, unknown or wrong.
    """
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{path}: {where}: {first['msg']}", _REWRITTEN) from error
