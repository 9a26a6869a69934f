"""Record real training runs, so that `replay.py` can repeat searches without training.

    python tests/bench/record.py fashion-mnist [--workers 2] [--to tests/bench/recorded/fashion-mnist.jsonl]
    python tests/bench/record.py cifar10       # in a folder that holds `cifar10/` and the four checkpoints
    python tests/bench/record.py cifar10-isats # the same, as `cifar10-ramp`

`fashion-mnist`: six ladder teachers with eight configurations each, and no teacher, over four seeds. The configurations
are a grid inside the shipped space that contains the prior and plain KD. Every cell is trained on the full schedule.
Seeds 0 and 1, which a replayed search may use, are also trained on the complete short schedule. Seed 0 is also trained
on the schedule of variant (b) of `replay.py`: warm-up as in the full run, constant rate, linear decay over the last
quarter, which is a decay branch off a constant-rate trunk.

`cifar10`: the four published CIFAR-10 ResNets of akamaster/pytorch_resnet_cifar10 as teachers (`resnet20.th`,
`resnet32.th`, `resnet44.th`, `resnet56.th`), nine configurations of three methods and three soft weights for each, bad
configurations included, and no teacher, over three seeds. `cifar10/` holds `train` and `test` with class folders.

`cifar10-isats`: ISATS with other student temperatures, its literal form, and a schedule of twice the length, beside ATS
and TS, with one or two of these teachers over three seeds.

`cifar10-ramp`: ISATS with a soft weight that rises over the first third of the epochs, and without, with two of these
teachers over three seeds.

One line is appended as each run ends. Started again, the script goes on after the last whole line. A file that was
recorded with another space or another torch is refused. The file's first line says what it was recorded with.
"""

import argparse
import contextlib
import json
import multiprocessing
import queue
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from autodistill.executors import (
    CheckTask,
    Executor,
    LocalExecutor,
    Setup,
    TrainTask,
    TrainTeacherTask,
    WorkerContext,
    perform,
)
from autodistill.executors.local import keep_freed_memory
from autodistill.methods import METHODS
from autodistill.records import KeptResult, RunSpec, TeacherRecord, TrialParams
from autodistill.store import digest, write_text
from autodistill.study import SearchOptions, StudySpec, resolve
from autodistill.teachers import ladder

RECORDED = Path(__file__).parent / "recorded"
Points = dict[str, dict[str, tuple[float, ...]]]


LADDER = ("resnet8:0.25", "resnet8:0.5", "resnet8", "resnet8:2", "vgg8:0.5", "resnet20")


class Plan(NamedTuple):
    """What is recorded."""

    options: dict[str, Any]
    """Of the search whose space it is."""
    grid: Points
    """Values of each parameter, by method."""
    soft_weights: tuple[float, ...]
    seeds: int
    search_seeds: int = 0
    """Seeds that are also trained on the complete short schedule."""
    further: tuple[tuple[TrialParams, int], ...] = ()
    """Configurations outside the grid, each with the length of its schedule in full schedules."""


CIFAR10: dict[str, Any] = {
    "student": "mobilenetv2:0.25",
    "space": "fashion-mnist",
    "data": "folder:cifar10",
    "teachers": tuple(f"file:resnet{depth}.th?norm=imagenet" for depth in (20, 32, 44, 56)),
    "overrides": (
        "data.pool=1",
        "data.train=4000",
        "data.validation=2000",
        "data.test=10000",
        "student.stem_stride=1",
    ),
}


def _isats(teacher: str, *, tau_student: float, soft_weight: float, **params: float | str) -> TrialParams:
    params = {"target_ratio": 5 / 3, **params}
    return TrialParams(
        teacher=teacher, method="isats", method_params=params, tau_student=tau_student, soft_weight=soft_weight
    )


ATS = TrialParams(
    teacher="resnet56",
    method="ats",
    method_params={"tau_target": 5.0, "tau_other": 3.0},
    tau_student=4.0,
    soft_weight=0.9,
)
PLAIN_KD = TrialParams(teacher="resnet56", method="ts", method_params={"tau": 4.0}, tau_student=4.0, soft_weight=0.9)
PLANS = {
    "fashion-mnist": Plan(
        options={
            "student": "mobilenetv2",
            "space": "fashion-mnist",
            "teachers": tuple(f"{ladder.SCHEME}{name}" for name in LADDER),
        },
        grid={"isats": {"target_ratio": (5 / 3, 3.0)}, "ts": {"tau": (2.0, 4.0)}},
        soft_weights=(0.5, 0.9),
        seeds=4,
        search_seeds=2,
    ),
    "cifar10": Plan(
        options=CIFAR10,
        grid={
            "isats": {"target_ratio": (5 / 3,)},
            "ts": {"tau": (4.0,)},
            "ats": {"tau_target": (5.0,), "tau_other": (3.0,)},
        },
        soft_weights=(0.25, 0.5, 0.9),
        seeds=3,
    ),
    "cifar10-isats": Plan(
        options=CIFAR10,
        grid={},
        soft_weights=(),
        seeds=3,
        further=(
            *(
                (_isats(teacher, tau_student=tau, soft_weight=weight), 1)
                for teacher, tau, weight in product(("resnet56", "resnet20"), (4.0, 2.0), (0.5, 0.9))
            ),
            (_isats("resnet56", tau_student=1.0, soft_weight=0.5), 2),
            (_isats("resnet56", tau_student=4.0, soft_weight=0.9), 2),
            (PLAIN_KD, 2),
            (_isats("resnet56", tau_student=8.0, soft_weight=0.9), 1),
            (_isats("resnet56", tau_student=4.0, soft_weight=0.9, tau_wrong="literal"), 1),
            (ATS, 1),
        ),
    ),
    "cifar10-ramp": Plan(
        options=CIFAR10,
        grid={},
        soft_weights=(),
        seeds=3,
        further=tuple(
            (_isats(teacher, tau_student=4.0, soft_weight=weight, **ramp), 1)
            for teacher, weight, ramp in product(("resnet56", "resnet20"), (0.9, 0.5), ({}, {"ramp_epochs": 4.0}))
        ),
    ),
}
LOOK_S = 5.0
"""Between two looks whether the workers are alive."""
DECAY = 0.25
"""Share of the steps over which variant (b) decays."""


class Cell(NamedTuple):
    params: TrialParams
    seed: int
    schedule: str
    epochs: int

    @property
    def key(self) -> str:
        return json.dumps([self.params.model_dump(), self.seed, self.schedule, self.epochs], sort_keys=True)


def configurations(plan: Plan, teachers: Sequence[str]) -> Iterator[TrialParams]:
    """Every teacher with every point of the grid."""
    for teacher, (method, dimensions), soft_weight in product(teachers, plan.grid.items(), plan.soft_weights):
        for values in product(*dimensions.values()):
            own = dict(zip(dimensions, values, strict=True))
            follows = METHODS[method].tau_student_from
            tau = own[follows] if follows else 1.0
            yield TrialParams(
                teacher=teacher, method=method, method_params=own, tau_student=tau, soft_weight=soft_weight
            )


def cells(plan: Plan, teachers: Sequence[str], *, full: int, short: int) -> Iterator[Cell]:
    """All runs, those that tell most first."""
    for seed in range(plan.seeds):
        yield from (Cell(params, seed, "cosine", length * full) for params, length in plan.further)
        for params in (TrialParams(), *configurations(plan, teachers)) if plan.grid else ():
            yield Cell(params, seed, "cosine", full)
            if seed < plan.search_seeds and params.teacher:
                yield Cell(params, seed, "cosine", short)
        if plan.search_seeds and seed == plan.search_seeds:
            yield from (Cell(it, 0, "decay", short) for it in configurations(plan, teachers))


def decay_rate(step: int, steps: int, *, peak: float, warmup: float, full_steps: int) -> float:
    """Warm-up as long as in the full run, constant, then linear to zero over the last quarter of this run."""
    rise, fall = max(1, round(warmup * full_steps)), DECAY * steps
    return peak * min(1.0, (step + 1) / rise, (steps - step) / fall)


def train(context: WorkerContext, cell: Cell) -> dict[str, Any]:
    """Train a cell; return its scores as plain data."""
    key = digest(cell.key)
    spec = RunSpec(run=key, params=cell.params, seed=cell.seed, epochs=cell.epochs, evaluate_on="validation+test")
    full = context.setup.space.training.epochs

    def rate(step: int, steps: int, *, peak: float, warmup: float) -> float:
        return decay_rate(step, steps, peak=peak, warmup=warmup, full_steps=steps * full // cell.epochs)

    patched = (
        mock.patch("autodistill.training.step.learning_rate", rate)
        if cell.schedule == "decay"
        else contextlib.nullcontext()
    )
    with patched:
        kept = perform(TrainTask(spec=spec, key=key), context)
    assert isinstance(kept, KeptResult)
    result = kept.result
    assert result.state == "complete", result.error
    curve = {str(it.epoch): round(it.val_top1, 6) for it in result.curve if it.val_top1 is not None}
    return {"key": json.loads(cell.key), "val_top1": curve, "test_top1": result.test_top1, "wall_s": kept.wall_s}


def work(setup: Setup, tasks: "multiprocessing.Queue[Cell | None]", answers: "multiprocessing.Queue[str]") -> None:
    """Train cells in a worker process until there are none."""
    keep_freed_memory()
    context = WorkerContext(setup)
    while (cell := tasks.get()) is not None:
        answers.put(json.dumps(train(context, cell)))


def header(study: StudySpec, executor: Executor) -> str:
    """Return what the runs rest on: versions, space, and the teachers as they were found."""
    executor.run([TrainTeacherTask(uri=uri) for uri in study.untrained], lambda _: None)
    checked = executor.run([CheckTask(name=name) for name in study.teachers], lambda _: None)
    found = [it for it in checked if isinstance(it, TeacherRecord)]
    held: dict[str, Any] = {"torch": torch.__version__, "student": study.student.name}
    held["space"] = study.space.model_dump(mode="json", include={"data", "student", "training", "ladder"})
    held["teachers"] = {it.name: it.model_dump(mode="json") for it in sorted(found, key=lambda it: it.name)}
    return json.dumps(held, sort_keys=True)


def known(path: Path, first: str) -> set[str]:
    """Keys of the whole lines that are there; a torn last line is cut off."""
    if not path.exists():
        write_text(path, first + "\n")
        return set()
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines[0] != first:
        raise SystemExit(f"{path}: recorded with another space, torch or teachers: give another file with --to")
    if lines[-1]:
        write_text(path, "\n".join(lines[:-1]) + "\n")
    return {json.dumps(json.loads(line)["key"], sort_keys=True) for line in lines[1:-1]}


def answered(answers: "multiprocessing.Queue[str]", workers: Sequence[BaseProcess]) -> str:
    """The next line; end the recording where a worker died. The same command continues it."""
    while True:
        with contextlib.suppress(queue.Empty):
            return answers.get(timeout=LOOK_S)
        if any(worker.exitcode for worker in workers):
            sys.exit("a worker died, see above; the same command goes on")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=PLANS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--to", type=Path)
    args = parser.parse_args()
    plan, path = PLANS[args.what], args.to or RECORDED / f"{args.what}.jsonl"
    study = resolve(SearchOptions(**plan.options, budget="40", study="recorded"))
    with LocalExecutor(args.workers, study.setup, data=study.data) as executor:
        first = header(study, executor)
    done = known(path, first)
    spec = study.space.training
    wanted = cells(plan, tuple(study.teachers), full=spec.epochs, short=spec.rung)
    missing = [cell for cell in wanted if cell.key not in done]
    context = multiprocessing.get_context("spawn")
    tasks: multiprocessing.Queue[Cell | None] = context.Queue()
    answers: multiprocessing.Queue[str] = context.Queue()
    for cell in (*missing, *[None] * args.workers):
        tasks.put(cell)
    workers = [
        context.Process(target=work, args=(study.setup, tasks, answers), daemon=True) for _ in range(args.workers)
    ]
    for worker in workers:
        worker.start()
    with path.open("a", encoding="utf-8") as file:
        for number in range(len(missing)):
            file.write(answered(answers, workers) + "\n")
            file.flush()
            print(f"{len(done) + number + 1} of {len(done) + len(missing)}", flush=True)


if __name__ == "__main__":
    main()
