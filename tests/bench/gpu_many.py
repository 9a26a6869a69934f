"""Several students of one architecture at once on one GPU: processes, recordings on streams, one fused network.

    python tests/bench/gpu_many.py [--check] [--rounds 5]
    python tests/bench/gpu_many.py --device cpu --tiny      # does it run? no figures

Data and settings are those of `gpu_step.py`. Seconds of an epoch per student: what all took together, divided by
their number. `alone` is one student, recorded in a CUDA graph; `processes` are K of those at the same time (what a
study does; start NVIDIA's MPS with `nvidia-cuda-mps-control -d` to let their kernels run side by side, not by turns);
`streams` are K recordings replayed in turns on K streams of one process; `fused` is one network of grouped
convolutions (`fused.py`), recorded. Fusing is for the package where it is over 1.5 times as fast as the others.

`--check` exits 1 where 8 processes, the way of a study, take longer than 0.13 s (MobileNetV2 x0.5), 0.12 s (VGG8) or
0.2 s (ResNet8x4) per student; the other ways are for comparison.

2026-11-26, H100 80GB HBM3, torch 2.11.0, CUDA 13.0, no MPS, medians of n = 2 epochs per student.
MobileNetV2 x0.5: alone 1.24 s, 8 processes 1.21 s, 8 streams 0.43 s, 8 fused 0.66 s (16 of each: not measured).
VGG8: alone 0.44 s, 8 processes 0.45 s. ResNet8x4: alone 0.73 s, 8 processes 0.74 s.
Processes take turns on the GPU, so they gain nothing without MPS.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

import numpy as np
import torch
from fused import Fused, Trial
from gpu_common import Bench, asked, epochs, finish, header, images, recipe, spelt, student, supervision, timed

from autodistill.data import Data
from autodistill.records import Mode
from autodistill.training import EAGER, Execution
from autodistill.training.step import StepRunner

MOST_S = {"mobilenetv2:0.5": 0.13, "vgg8": 0.12, "resnet8x4": 0.2}
LONGEST_S = 600
COUNTS, TINY_COUNTS = (8, 16), (2,)


def main(arguments: Sequence[str] | None = None) -> None:
    bench = asked(__doc__, arguments, ways=tuple(WAYS))
    data, short = images(bench), []
    print(f"seconds of an epoch per student, median (p99) of {bench.rounds}; {header(bench)}, batch {bench.batch}")
    print(f"{'student':16} {'way':12} {'students':>8} {'epoch':>16} {'times alone':>12}")
    for name in bench.students:
        alone = one(bench, data, name)
        print(f"{name:16} {'alone':12} {1:8} {spelt(alone):>16}", flush=True)
        best = float("inf")
        for count in TINY_COUNTS if bench.tiny else COUNTS:
            for way in bench.ways:
                if way == "processes" and count > 8:
                    continue
                found = [seconds / count for seconds in WAYS[way](bench, data, name, count)]
                times = float(np.median(alone) / np.median(found))
                print(f"{name:16} {way:12} {count:8} {spelt(found):>16} {times:12.2f}", flush=True)
                if way == "processes":
                    best = min(best, float(np.median(found)))
        if best > MOST_S.get(name, float("inf")):
            short.append(f"{name} {best:.3f} s, at most {MOST_S[name]}")
    finish(bench, short)


def mode_of(bench: Bench) -> Mode:
    return "graph" if bench.device.type == "cuda" else "eager"


def one(bench: Bench, data: Data, name: str) -> list[float]:
    run = epochs(bench, data, name, mode_of(bench))
    timed(lambda: next(run), 2)
    return timed(lambda: next(run), bench.rounds)


def processes(bench: Bench, data: Data, name: str, count: int) -> list[float]:
    """Each round begins for all at once and ends with the last."""
    context = multiprocessing.get_context("spawn")
    barrier, times = context.Barrier(count), context.Queue()
    workers = [context.Process(target=_work, args=(bench, name, seed, barrier, times)) for seed in range(count)]
    for worker in workers:
        worker.start()
    found = [times.get(timeout=LONGEST_S) for _ in workers]
    for worker in workers:
        worker.join()
    return [max(ends) - min(begins) for begins, ends in _by_round(found)]


def _by_round(found: list[list[tuple[float, float]]]) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    pairs = []
    for of_all in zip(*found, strict=True):
        begins, ends = zip(*of_all, strict=True)
        pairs.append((begins, ends))
    return pairs


def _work(bench: Bench, name: str, seed: int, barrier: Barrier, times: "Queue[list[tuple[float, float]]]") -> None:
    torch.set_num_threads(1)
    data = images(bench)
    run = epochs(bench, data, name, mode_of(bench), seed=seed)
    timed(lambda: next(run), 2)
    found = []
    for _ in range(bench.rounds):
        barrier.wait(LONGEST_S)
        begun = time.time()
        next(run)
        found.append((begun, time.time()))
    times.put(found)


def fused(bench: Bench, data: Data, name: str, count: int) -> list[float]:
    trials = [Trial(student(bench, name, seed), recipe(bench, seed), supervision(data)) for seed in range(count)]
    step = Fused(trials, data)
    execute = StepRunner(step, Execution(mode_of(bench), lambda text: print(f"  {name}: {text}")))

    def epoch() -> None:
        execute(step.begin_epoch(0))
        step.sums.tolist()

    timed(epoch, 2)
    return timed(epoch, bench.rounds)


def streams(bench: Bench, data: Data, name: str, count: int) -> list[float]:
    """Fused groups of one, so that a stream each is all that differs; every one is recorded first.

    A figure of speed alone: recordings made on one stream share cuBLAS's workspace, so that side by side their linear
    layers may disturb each other.
    """
    steps = [Fused([Trial(student(bench, name, k), recipe(bench, k), supervision(data))], data) for k in range(count)]
    execution = Execution(mode_of(bench), lambda text: print(f"  {name}: {text}"))
    runners = [StepRunner(step, execution if bench.device.type == "cuda" else EAGER) for step in steps]
    on = [torch.cuda.stream(torch.cuda.Stream(bench.device)) if bench.device.type == "cuda" else None for _ in steps]

    def epoch() -> None:
        length = min([step.begin_epoch(0) for step in steps])  # all the same
        if bench.device.type == "cuda":
            torch.cuda.synchronize(bench.device)
        for _ in range(length):
            for execute, stream in zip(runners, on, strict=True):
                _once(execute, stream)
        if bench.device.type == "cuda":
            torch.cuda.synchronize(bench.device)

    for execute, step in zip(runners, steps, strict=True):
        execute(step.begin_epoch(0))
    timed(epoch, 1)
    return timed(epoch, bench.rounds)


def _once(execute: StepRunner, stream: "torch.cuda.StreamContext | None") -> None:
    if stream is None:
        execute(1)
        return
    with stream:
        execute(1)


WAYS: dict[str, Callable[[Bench, Data, str, int], list[float]]] = {
    "processes": processes,
    "streams": streams,
    "fused": fused,
}


if __name__ == "__main__":
    main()
