"""How many workers bring how much: the Ray executor, two real local workers, and whole studies in simulated time.

    python tests/bench/scaling.py [--check] [--part ray|real|studies] [--actors 64]

- `ray`: equal runs of 5 s, four for each of 64 actors that sleep and import no torch, on a local cluster of 64 CPUs.
  The clock starts when all actors have started. The ideal is 20 s; at most 1.05 times that is asked for.
- `real`: the same real runs by one and by two local processes, best of two turns each; 1.6 times one is asked for.
- `studies`: a whole study at budgets of 20 and 200 with the fake trainer. The tasks of a study do not depend on the
  number of workers, so that each study runs once, and its tasks are then placed on 1 to 16 workers as the executors
  place them: the longest first, and idle workers take what is offered meanwhile. Epochs take equally long; teachers
  are trained already and their logits take no time.

26 November 2026, 2 cores of an AMD EPYC, load 1 to 4: 256 runs on 64 actors 20.21 s, 1.011 times the ideal, driver
0.02 of a core (load 25: 20.60 s, 1.030); two processes 1.96 times one (load 1); budget 20 in 19.7, 10.0, 7.0, 5.3 and
5.3 full trainings of time on 1, 2, 4, 8 and 16 workers; budget 200 in 185.0, 93.7, 82.8, 80.8 and 80.8 (`search.wave`
is 2).
"""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from executor_parts import setup
from idle_actor import SECONDS, IdleActor, no_work
from small_studies import LATENCY, fake_work

from autodistill.executors import LocalExecutor, OnEvent, Result, SerialExecutor, Task, TrainTask
from autodistill.executors.base import longest_first
from autodistill.executors.ray import RayExecutor
from autodistill.machine import free_memory_bytes
from autodistill.records import RunSpec, TrialParams
from autodistill.study import SearchOptions, StudySpec, resolve, run_study

RUNS_EACH = 4
"""Runs for each actor."""
ACTOR_BYTES = 100 * 2**20
"""Private memory of an actor without torch, with room to spare."""
RAY_ASKED, REAL_ASKED = 1.05, 1.6
WORKERS = (1, 2, 4, 8, 16)
BUDGETS = (20, 200)


def runs(count: int, *, epochs: int) -> list[TrainTask]:
    """Return runs without a teacher that differ in their seed."""
    specs = [RunSpec(run=f"run/{seed}", params=TrialParams(), seed=seed, epochs=epochs) for seed in range(count)]
    return [TrainTask(spec=spec, key=spec.run.replace("/", "-")) for spec in specs]


class IdleExecutor(RayExecutor):
    actor_class = IdleActor  # type: ignore[assignment]


def ray_ratio(place: Path, actors: int) -> float:
    """Return how long equal runs take on so many actors, in units of the ideal."""
    # Many processes start at a time on few cores.
    os.environ |= {"RAY_worker_register_timeout_seconds": "600"}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    import ray

    ray.init(address="local", num_cpus=actors, include_dashboard=False, log_to_driver=False)
    try:
        begun = time.monotonic()
        with IdleExecutor(setup(place), address="local", workers=actors, work=no_work) as executor:
            while executor.nodes.total() < actors:
                executor.run(runs(1, epochs=1), print)
            started_s = time.monotonic() - begun
            tasks = runs(RUNS_EACH * actors, epochs=1)
            used, begun = time.process_time(), time.monotonic()
            executor.run(tasks, lambda _: None)
            took, used = time.monotonic() - begun, time.process_time() - used
    finally:
        ray.shutdown()
    ideal = RUNS_EACH * SECONDS
    print(
        f"{len(tasks)} runs of {SECONDS:g} s on {actors} actors: {took:.2f} s, {took / ideal:.3f} times the ideal "
        f"{ideal:g} s; the driver took {used / took:.2f} of a core; the actors started within {started_s:.0f} s; "
        f"load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return took / ideal


def real_speed(place: Path) -> float:
    """Return the speed of two local processes that train, in units of one."""
    options = SearchOptions(student="resnet8:0.25", space="smoke", overrides=("data.train=800",), study="real")
    spec = resolve(options)
    took: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(2):
        for workers in took:
            folder = str(place / f"real-{turn}-{workers}")
            with LocalExecutor(workers, spec.setup.model_copy(update={"folder": folder}), data=spec.data) as executor:
                executor.run([TrainTask(spec=it.spec, key=f"warm-{it.key}") for it in runs(workers, epochs=1)], _ignore)
                begun = time.monotonic()
                executor.run(runs(8, epochs=8), _ignore)
                took[workers].append(time.monotonic() - begun)
    speed = min(took[1]) / min(took[2])
    shown = "; ".join(f"{workers}: {', '.join(f'{it:.1f}' for it in times)} s" for workers, times in took.items())
    print(f"two local workers: {speed:.2f} times one (8 runs by {shown}); load {os.getloadavg()[0]:.1f}", flush=True)
    return speed


def _ignore(event: object) -> None:
    pass


class TracingExecutor(SerialExecutor):
    """Notes the tasks that it gets."""

    def __init__(self, spec: StudySpec) -> None:
        super().__init__(spec.setup, data=spec.data, work=fake_work)
        self.trace: list[tuple[list[TrainTask], list[TrainTask]]] = []

    def run(self, tasks: Sequence[Task], on_event: OnEvent, *, meanwhile: Sequence[Task] = ()) -> list[Result]:
        ordered = [tasks[place] for place in longest_first(tasks)]
        self.trace.append((_trainings(ordered), _trainings(meanwhile)))
        return super().run(tasks, on_event, meanwhile=meanwhile)


def _trainings(tasks: Sequence[Task]) -> list[TrainTask]:
    return [task for task in tasks if isinstance(task, TrainTask)]


def wall_epochs(trace: Sequence[tuple[list[TrainTask], list[TrainTask]]], workers: int) -> int:
    """Return after how many epochs of time the last task of a study has ended."""
    free, ends, now = [0] * workers, dict[str, int](), 0

    def place(task: TrainTask) -> None:
        number = free.index(min(free))
        free[number] = max(free[number], now) + task.spec.new_epochs
        ends[task.model_dump_json()] = free[number]

    for tasks, meanwhile in trace:
        for task in tasks:
            if task.model_dump_json() not in ends:
                place(task)
        end = max([now, *(ends[task.model_dump_json()] for task in tasks)])
        for task in meanwhile:
            if task.model_dump_json() not in ends and max(now, min(free)) < end:
                place(task)
        now = end
    return now


def studies(place: Path) -> None:
    """Print how long studies take on simulated workers."""
    for budget in BUDGETS:
        begun = time.monotonic()
        options = SearchOptions(
            student="resnet8:0.25", space="digits", budget=str(budget), study=f"b{budget}", runs=str(place / "runs")
        )
        spec, traced = resolve(options)._replace(latency=LATENCY), list[TracingExecutor]()

        def executor_for(spec: StudySpec, traced: list[TracingExecutor] = traced) -> TracingExecutor:
            traced.append(TracingExecutor(spec))
            return traced[0]

        record = run_study(spec, _ignore, executor_for=executor_for)
        full, trained = spec.space.training.epochs, wall_epochs(traced[0].trace, 1)
        # Runs that are asked for under two names count twice and are trained once.
        assert 0.9 * record.spent_epochs <= trained <= record.spent_epochs
        walls = {workers: wall_epochs(traced[0].trace, workers) for workers in WORKERS}
        cells = [f"{count}: {wall / full:.1f} ({trained / wall / count:.0%})" for count, wall in walls.items()]
        print(
            f"budget {budget} (wave {spec.space.search.wave}, {len(record.trials)} trials), full trainings of time by "
            f"workers (share of the workers' time that is used): {', '.join(cells)}; the search itself took "
            f"{time.monotonic() - begun:.0f} s",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("ray", "real", "studies"), help="only this one")
    parser.add_argument("--actors", type=int, default=64)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bound is missed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    place, missed = Path(tempfile.mkdtemp(prefix="ad-scaling-")), False
    os.environ["AUTODISTILL_CACHE"] = str(place / "cache")
    try:
        with contextlib.chdir(place):
            if args.part in (None, "studies"):
                studies(place)
            if args.part in (None, "real"):
                missed |= real_speed(place) < REAL_ASKED
            if args.part in (None, "ray"):
                room = (free_memory_bytes() or sys.maxsize) // ACTOR_BYTES
                if room < args.actors:
                    print(f"{args.actors} actors do not fit into the free memory: {room} instead")
                missed |= ray_ratio(place, min(room, args.actors)) > RAY_ASKED
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return int(args.check and missed)


if __name__ == "__main__":
    sys.exit(main())
