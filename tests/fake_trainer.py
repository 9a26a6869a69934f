"""A worker's work without torch: scores follow from (params, seed), files are real, misbehaviour is told by data.

Give `work` to any executor: `LocalExecutor(2, setup, work=fake_trainer.work)`. Runs write checkpoints, results and
weights (a line of text) into the study folder, as the real work does, so that killed and stopped runs continue.

    behave({"trials/*": Behaviour(epoch_s=0.1), "confirm/0001/*": Behaviour(dies_at=2, deaths=1)})
    ...
    assert trained("confirm/0001/3") == [1, 2, 2, 3]

`behave` writes into the cache folder (`cache_root()`, unless the test's setup names another), where workers of any
process find it at each task. A pattern (of `fnmatch`) is matched against the label of a task:

- the name of the run, and also `teacher NAME` for all runs with this teacher,
- `train URI`, `check NAME`, `profile NAME`, `logits NAME`, `measure NAME`, `measure student`, `agreement`.

Fields of all patterns that match are merged; later patterns win.
"""

import fnmatch
import json
import math
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from record_parts import profile

from autodistill.errors import StudyError
from autodistill.executors import (
    AgreementTask,
    CheckTask,
    Line,
    LogitsTask,
    MeasureStudentTask,
    MeasureTeacherTask,
    Profiled,
    ProfileTask,
    Refusal,
    Result,
    Stopped,
    StudentTimes,
    Task,
    TeacherTimes,
    TrainTask,
    TrainTeacherTask,
    WorkerContext,
)
from autodistill.records import (
    AgreementRecord,
    EpochEvent,
    EpochRecord,
    KeptResult,
    Record,
    RunResult,
    RunSpec,
    TaskProgress,
    TeacherCostRecord,
    TeacherRecord,
    run_ended,
)
from autodistill.store import cache_root, digest, read_result, write_result, write_text
from autodistill.teachers.ladder import path_of


class Behaviour(Record):
    """What a task does beside its work. Not for `dies_at` in a `SerialExecutor`: it kills the test's process."""

    epoch_s: float = 0.0
    """Sleep in each epoch; tasks other than runs sleep once."""
    gain: float = 0.0
    """Is added to the accuracy of a run."""
    dies_at: int = 0
    """The worker kills itself in this epoch, before the epoch's checkpoint; tasks other than runs: at any value > 0."""
    deaths: int = 1
    """How often it does that before the task succeeds."""
    diverges_at: int = 0
    """The loss becomes NaN in this epoch: a failed run whose result is kept."""
    fails_at: int = 0
    """An error of torch in this epoch: a failed run whose result is not kept."""
    error: str = ""
    """The task raises a `StudyError` with this message."""


def behave(rules: Mapping[str, Behaviour], *, cache: Path | None = None) -> None:
    """Replace the rules of all workers that use a cache folder."""
    plain = {pattern: rule.model_dump(exclude_unset=True) for pattern, rule in rules.items()}
    write_text(_folder(cache) / "rules.json", json.dumps(plain))


def trained(run: str, *, cache: Path | None = None) -> list[int]:
    """Return the epochs of a run in which a worker trained, in their order over all workers."""
    return [epoch for name, epoch in all_trained(cache=cache) if name == run]


def all_trained(*, cache: Path | None = None) -> list[tuple[str, int]]:
    """Return (run, epoch) for each epoch in which a worker trained."""
    return [(run, int(epoch)) for run, _, epoch in (line.rpartition("\t") for line in _lines(_folder(cache), "epochs"))]


def done(*, cache: Path | None = None) -> list[str]:
    """Return the labels of the tasks that workers have begun, in their order."""
    return [label for label, _ in begun(cache=cache)]


def begun(*, cache: Path | None = None) -> list[tuple[str, int]]:
    """Return label and process number of each task that a worker has begun, in their order."""
    return [(label, int(pid)) for label, _, pid in (line.rpartition("\t") for line in _lines(_folder(cache), "tasks"))]


def final_top1(spec: RunSpec, *, gain: float = 0.0) -> float:
    """Return the accuracy after a whole schedule. The teacher matters most, then the weight, then parameters, seed."""
    params = spec.params
    weight = 0.5 if params.soft_weight is None else params.soft_weight
    taught = 0.03 + 0.04 * _share(params.teacher) - 0.1 * (weight - 0.5) ** 2 if params.teacher else 0.0
    own = 0.02 * _share(params.model_dump()) * bool(params.teacher) + 0.005 * _share(params.model_dump(), spec.seed)
    return 0.7 + taught + own + 0.02 * (1 - math.exp(-spec.epochs / 10)) + gain


def epoch_record(spec: RunSpec, epoch: int, *, gain: float = 0.0) -> EpochRecord:
    """Return an epoch of a run."""
    top1 = final_top1(spec, gain=gain) * (1 - math.exp(-4 * epoch / spec.epochs)) / (1 - math.exp(-4))
    last, on = epoch == spec.last_epoch, spec.evaluate_on
    return EpochRecord(
        epoch=epoch,
        train_loss=2 - top1,
        hard_loss=2 - top1,
        soft_loss=1 - top1 if spec.params.teacher else None,
        val_top1=None if on == "test" else top1,
        val_nll=None if on == "test" else 1 - top1,
        test_top1=top1 - 0.01 if last and "test" in on else None,
    )


def work(task: Task, context: WorkerContext) -> Result:
    """Do a task; see the module."""
    folder, labels = _folder(Path(context.setup.cache)), _labels(task)
    _append(folder, "tasks", f"{labels[-1]}\t{os.getpid()}")
    rule = _rule(folder, labels)
    if rule.error:
        raise StudyError(rule.error, "a hint of the fake trainer")
    if isinstance(task, TrainTask):
        found = _train(task, context, rule, folder)
        context.on_event(run_ended(found))
        return found
    time.sleep(rule.epoch_s)
    if rule.dies_at:
        _die(folder, labels[-1], rule)
    return _other(task, context, folder)


def _train(task: TrainTask, context: WorkerContext, rule: Behaviour, folder: Path) -> KeptResult:
    spec, checkpoint, begun = task.spec, context.folder.checkpoint(task.key), time.monotonic()
    kept = read_result(context.folder, task.key)
    if kept is not None and (answer := kept.answer(spec)) is not None:
        return answer
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    if kept is not None and context.folder.weights(task.key).exists():  # only the test score is missing
        done = spec.last_epoch
    curve = [epoch_record(spec, epoch, gain=rule.gain) for epoch in range(1, done + 1)]
    error = _train_epochs(task, context, rule, folder, curve)
    state = "failed" if error else "complete"
    result = RunResult(**spec.kept(), key=task.key, state=state, error=error, curve=tuple(curve))
    wall_s = time.monotonic() - begun
    views = range(min(spec.last_epoch, context.setup.views) if spec.params.teacher else 0)
    computed = sum(_computed(folder, spec.params.teacher, view) for view in views)
    ended = KeptResult(result=result, wall_s=wall_s, parts_s={"student": wall_s}, views_computed=computed)
    if not error and spec.last_epoch == spec.epochs:
        write_text(context.folder.weights(task.key), "weights of the fake trainer")
    if not error or rule.diverges_at:
        write_result(context.folder, ended)
    if error or spec.until is None:
        checkpoint.unlink(missing_ok=True)
    return ended


def _train_epochs(
    task: TrainTask, context: WorkerContext, rule: Behaviour, folder: Path, curve: list[EpochRecord]
) -> str:
    """Append the epochs that are missing in `curve`; return the error of a failed run."""
    spec = task.spec
    for epoch in range(len(curve) + 1, spec.last_epoch + 1):
        time.sleep(rule.epoch_s)
        _append(folder, "epochs", f"{spec.run}\t{epoch}")
        if epoch == rule.dies_at:
            _die(folder, spec.run, rule)
        if epoch == rule.diverges_at:
            return f"the loss became nan in epoch {epoch}"
        if epoch == rule.fails_at:
            return f"an error of torch in epoch {epoch}"
        curve.append(epoch_record(spec, epoch, gain=rule.gain))
        write_text(context.folder.checkpoint(task.key), str(epoch))
        if epoch > spec.begun_epochs:
            event = EpochEvent(run=spec.run, epochs=spec.last_epoch, record=curve[-1], wall_s=rule.epoch_s)
            context.on_event(event)
        if epoch < spec.last_epoch and context.stopping():
            raise Stopped
    return ""


def _other(task: Task, context: WorkerContext, folder: Path) -> Result:
    setup = context.setup
    if isinstance(task, TrainTeacherTask):
        path = path_of(task.uri, root=Path(setup.cache), data=setup.data, space=setup.space, sources=setup.sources)
        if not path.exists():
            context.on_event(TaskProgress(task=f"teacher {task.uri}", done=1, total=1))
            write_text(path, "a teacher of the fake trainer")
        return None
    if isinstance(task, CheckTask) and task.optional and task.name.startswith("bad"):
        uri = setup.teachers[task.name]
        return Refusal(message=f"teacher {task.name} ({uri}): it is not above chance", hint="leave it out")
    if isinstance(task, CheckTask):
        return TeacherRecord(
            name=task.name,
            uri=setup.teachers[task.name],
            architecture="resnet8",
            fingerprint=setup.fingerprints.get(task.name) or digest(setup.teachers[task.name]),
            cost=TeacherCostRecord(params=1000, macs=1000, size_bytes=4000),
            normalisation="data",
            val_top1=0.8 + 0.1 * _share(task.name),
            val_nll=0.3,
            val_ece=0.02,
        )
    if isinstance(task, ProfileTask):
        found = profile(int(8 * _share(task.name)), val_top1=0.8 + 0.1 * _share(task.name))
        return Profiled(profile=found, views_computed=_computed(folder, task.name, 0))
    if isinstance(task, LogitsTask):
        return _computed(folder, task.name, task.view)
    if isinstance(task, AgreementTask):
        same = tuple(tuple(1.0 if one == other else 0.5 for one in task.names) for other in task.names)
        return AgreementRecord(examples=100, teachers=task.names, spearman=same, kendall=same)
    if isinstance(task, MeasureStudentTask):
        training, targets = Line(each_s=0.002), Line(each_s=0.001)
        return StudentTimes(
            training=training, targets=targets, evaluation_s=1e-6, build_s=0.001, fit_s=1e-6, profile_s=1e-6
        )
    assert isinstance(task, MeasureTeacherTask)
    return TeacherTimes(training=Line(each_s=0.002) if task.untrained else Line(), view_s=1e-5)


def _labels(task: Task) -> list[str]:
    """Return what patterns are matched against; the last is the task's name."""
    if isinstance(task, TrainTask):
        return [f"teacher {task.spec.params.teacher}", task.spec.run]
    verbs = {CheckTask: "check", ProfileTask: "profile", LogitsTask: "logits", MeasureTeacherTask: "measure"}
    if type(task) in verbs:
        return [f"{verbs[type(task)]} {task.name}"]  # type: ignore[union-attr]
    if isinstance(task, TrainTeacherTask):
        return [f"train {task.uri}"]
    return ["agreement" if isinstance(task, AgreementTask) else "measure student"]


def _rule(folder: Path, labels: list[str]) -> Behaviour:
    path = folder / "rules.json"
    rules = json.loads(path.read_text()) if path.exists() else {}
    found: dict[str, object] = {}
    for pattern, fields in rules.items():
        if any(fnmatch.fnmatchcase(label, pattern) for label in labels):
            found |= fields
    return Behaviour.model_validate(found)


def _die(folder: Path, label: str, rule: Behaviour) -> None:
    if _lines(folder, "deaths").count(label) < rule.deaths:
        _append(folder, "deaths", label)
        os.kill(os.getpid(), signal.SIGKILL)


def _computed(folder: Path, teacher: str | None, view: int) -> int:
    """Return 1 for the first caller that needs a view of a teacher, 0 for all later callers."""
    path = folder / "views" / digest(teacher, view)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return 0
    return 1


def _folder(cache: Path | None) -> Path:
    return (cache or cache_root()) / "fake"


def _append(folder: Path, name: str, line: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("ab", buffering=0) as file:  # one write: lines of several processes stay whole
        file.write(f"{line}\n".encode())


def _lines(folder: Path, name: str) -> list[str]:
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


def _share(*parts: object) -> float:
    """Return a number in [0, 1) that follows from plain data."""
    return int(digest(*parts), 16) / 16**16
