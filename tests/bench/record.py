"""Record real training runs of the Fashion-MNIST space, for replays: whoever repeats them trains nothing.

    python tests/bench/record.py [--workers 2] [--to tests/bench/recorded/fashion-mnist.jsonl]

Six ladder teachers, eight configurations each (a grid inside the shipped space: the prior and plain KD are points of
it), four seeds, and no teacher. Every cell is trained on the full schedule; seeds 0 and 1, which a replayed search
may use, on the complete short one too; seed 0 also on that of variant (b) of `replay.py`: warm-up as in the full run,
constant rate, linear decay over the last quarter, which is a decay branch off a constant-rate trunk. One line a run
is appended as it ends; started again, the script goes on after the last whole line. A file that was recorded with
another space or another torch is refused.

The file's first line says what it was recorded with.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import queue
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from autodistill import ladder
from autodistill.methods import RULES
from autodistill.records import RunEnded, RunRequest, TeacherRecord, TrialParams
from autodistill.store import write_text
from autodistill.study import Request, prepare
from autodistill.study.preparing import Prepared
from autodistill.workers import CheckTask, LadderTask, Pool, Workplace
from autodistill.workers.standby import ALLOCATOR

RECORDED = Path(__file__).parent / "recorded" / "fashion-mnist.jsonl"
TEACHERS = ("resnet8:0.25", "resnet8:0.5", "resnet8", "resnet8:2", "vgg8:0.5", "resnet20")
GRID: dict[str, dict[str, tuple[float, ...]]] = {"isats": {"target_ratio": (5 / 3, 3.0)}, "ts": {"tau": (2.0, 4.0)}}
SOFT_WEIGHTS = (0.5, 0.9)
SEEDS, SEARCH_SEEDS = 4, 2
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


def prepared() -> Prepared:
    """The recorded study: the shipped space with six teachers."""
    uris = tuple(ladder.SCHEME + name for name in TEACHERS)
    return prepare(
        Request(student="mobilenetv2", space="fashion-mnist", teachers=uris, budget="40", study="recorded")
    )


def configurations() -> Iterator[TrialParams]:
    """Every teacher with every point of the grid."""
    for teacher, (rule, dimensions), soft_weight in product(TEACHERS, GRID.items(), SOFT_WEIGHTS):
        for values in product(*dimensions.values()):
            own = dict(zip(dimensions, values, strict=True))
            follows = RULES[rule].tau_student_from
            tau = own[follows] if follows else 1.0
            yield TrialParams(teacher=teacher, rule=rule, rule_params=own, tau_student=tau, soft_weight=soft_weight)


def cells(full: int, short: int) -> Iterator[Cell]:
    """All runs, those that tell most first."""
    for seed in range(SEEDS):
        for params in (TrialParams(), *configurations()):
            yield Cell(params, seed, "cosine", full)
            if seed < SEARCH_SEEDS and params.teacher:
                yield Cell(params, seed, "cosine", short)
        if seed == SEARCH_SEEDS:
            yield from (Cell(it, 0, "decay", short) for it in configurations())


def decay_rate(step: int, steps: int, *, peak: float, warmup: float, full_steps: int) -> float:
    """Warm-up as long as in the full run, constant, then linear to zero over the last quarter of this run."""
    rise, fall = max(1, round(warmup * full_steps)), DECAY * steps
    return peak * min(1.0, (step + 1) / rise, (steps - step) / fall)


def train(place: Workplace, cell: Cell) -> dict[str, Any]:
    """Do one run; its scores as plain data."""
    request = RunRequest(
        run=f"{abs(hash(cell.key)):x}",
        params=cell.params,
        seed=cell.seed,
        epochs=cell.epochs,
        evaluate_on="validation+test",
    )
    full = place.setup.space.training.epochs

    def rate(step: int, steps: int, *, peak: float, warmup: float) -> float:
        return decay_rate(step, steps, peak=peak, warmup=warmup, full_steps=steps * full // cell.epochs)

    patched = (
        mock.patch("autodistill.training.step.learning_rate", rate) if cell.schedule == "decay" else mock.MagicMock()
    )
    with patched:
        ended = next(message for message in place.do(request) if isinstance(message, RunEnded))
    assert ended.record.state == "complete", ended.record.error
    curve = {str(it.epoch): round(it.val_top1, 6) for it in ended.record.curve if it.val_top1 is not None}
    return {
        "key": json.loads(cell.key),
        "val_top1": curve,
        "test_top1": ended.record.test_top1,
        "wall_s": ended.wall_s,
    }


def work(study: Prepared, tasks: "multiprocessing.Queue[Cell | None]", answers: "multiprocessing.Queue[str]") -> None:
    """A worker process: train cells until there are none."""
    place = Workplace(study.setup)
    while (cell := tasks.get()) is not None:
        answers.put(json.dumps(train(place, cell)))


def header(study: Prepared, pool: Pool) -> str:
    """What the runs rest on: versions, space, teachers as they were found."""
    list(pool.run([LadderTask(uri=uri) for uri in study.untrained]))
    found = [
        it for it in pool.run([CheckTask(name=name) for name in study.teachers]) if isinstance(it, TeacherRecord)
    ]
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
    """The next line; ends the recording where a worker died, which the same command goes on with."""
    while True:
        with contextlib.suppress(queue.Empty):
            return answers.get(timeout=LOOK_S)
        if any(worker.exitcode for worker in workers):
            sys.exit("a worker died, see above; the same command goes on")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--to", type=Path, default=RECORDED)
    args = parser.parse_args()
    os.environ.update(ALLOCATOR)
    study = prepared()
    with Pool(args.workers, study.setup) as pool:
        first = header(study, pool)
    done = known(args.to, first)
    spec = study.space.training
    missing = [cell for cell in cells(spec.epochs, spec.short) if cell.key not in done]
    context = multiprocessing.get_context("spawn")
    tasks: multiprocessing.Queue[Cell | None] = context.Queue()
    answers: multiprocessing.Queue[str] = context.Queue()
    for cell in (*missing, *[None] * args.workers):
        tasks.put(cell)
    workers = [context.Process(target=work, args=(study, tasks, answers), daemon=True) for _ in range(args.workers)]
    for worker in workers:
        worker.start()
    with args.to.open("a", encoding="utf-8") as file:
        for number in range(len(missing)):
            file.write(answered(answers, workers) + "\n")
            file.flush()
            print(f"{len(done) + number + 1} of {len(done) + len(missing)}", flush=True)


if __name__ == "__main__":
    main()
