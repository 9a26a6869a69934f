"""How near to W times one worker's work W workers come in `search --async`.

    python tests/bench/scaling.py [--check] [--workers 1 4 16 64] [--epoch-s 20] [--rounds 3]
    python tests/bench/scaling.py --real [--check]

Whole search stages over one PostgreSQL of its own: coordinator, queue, sampler, record and order of events are the
real ones at their default pace; only the trainer sleeps: a trial's short run one epoch, the rest of it two. Start-up
is excluded: the clock starts when all workers have begun a trial. It stops when the budget refuses a further one;
what is left then is told as "to the end", where workers run out of work one by one.

`--real` trains: the same runs by one and by two processes of the local pool, on two cores.
Ends only what it started.

23 November 2026, 2 cores of an AMD EPYC, load 1 to 3: 1 worker 0.999 W, 0.03 s between its runs (n = 15 runs); 4
workers 0.999 W, 0.04 s (n = 30); 16 workers 0.998 W, 0.05 s (n = 88); 64 workers 0.983 W, 0.44 s (n = 381), before
that 0.996 W, 0.11 s (n = 376); the coordinator took 0.03, 0.04, 0.06 and 0.29 of a core. With trials suggested on
the database: 0.885 W, 0.83 s and 0.56 of a core with 64. `--real`: 2.36 times one (best of 2 turns of 12 runs).
"""

import argparse
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from postgres import Postgres
from simulated import Simulated
from small_studies import request

from autodistill.queue.messages import Message, Setup
from autodistill.queue.serving import Tools, serve
from autodistill.queue.terms import longest_first
from autodistill.records import PhaseStarted, RunRequest, TrialParams
from autodistill.search import plan_epochs, streaming
from autodistill.study import prepare, run_study
from autodistill.workers import Pool, ProbeTask

TEACHERS = 2
FULL = 3
PROMISED, PROMISED_REAL = 0.95, 1.6
"""Of W times one worker's throughput; of one worker's."""


class Span(NamedTuple):
    worker: int
    begun: float
    ended: float


class Slept(Simulated):
    """Sleeps searched trials only, and writes down when."""

    def __init__(self, setup: Setup, *, epoch_s: float, log: Path) -> None:
        super().__init__(setup)
        self._trial_s, self._log = epoch_s, log

    def _run(self, request: RunRequest) -> Iterator[Message]:
        kind, _, rest = request.run.partition("/")
        searched = kind == "trials" and int(rest[:4]) >= TEACHERS
        self.epoch_s = self._trial_s if searched else 0.0
        begun = time.monotonic()
        yield from super()._run(request)
        if searched:
            with self._log.open("a") as file:
                file.write(json.dumps([os.getpid(), begun, time.monotonic()]) + "\n")


def work(url: str, name: str, epoch_s: float, log: Path) -> None:
    tools = Tools(
        furnish=lambda setup: Slept(setup, epoch_s=epoch_s, log=log),
        adapt=lambda setup: setup,
        say=lambda _: None,
        stop=threading.Event(),
    )
    serve(url, name, tools)


def forked(url: str, name: str, epoch_s: float, log: Path) -> int:
    """A worker process. Forked, for 64 that import everything by themselves would take minutes to start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        work(url, name, epoch_s, log)
    finally:
        os._exit(0)


class Clock:
    """Notes when the budget first refuses a trial."""

    def __init__(self) -> None:
        self.refused: float | None = None
        following = streaming._Stream.following

        def noting(stream: streaming._Stream) -> RunRequest | None:
            found = following(stream)
            if found is None and self.refused is None:
                self.refused = time.monotonic()
            return found

        streaming._Stream.following = noting  # type: ignore[method-assign]
        self.restore = lambda: setattr(streaming._Stream, "following", following)


class Found(NamedTuple):
    share: float
    """Of W times the work of one worker that does nothing else."""
    to_the_end: float
    overhead_s: float
    """Between the end of a worker's run and the begin of its next, mean."""
    runs: int
    coordinator: float
    """Of a core."""


def searched(url: str, workers: int, *, epoch_s: float, rounds: int) -> Found:
    """A search stage by so many workers."""
    asked = request(workers=0, storage=url, asynchronous=True, study=f"scaling-{workers}")
    space = prepare(asked).space
    assert (space.training.epochs, space.training.short) == (FULL, 1)
    controls = 3 * space.confirm.seeds * FULL
    epochs = sum(plan_epochs(space, TEACHERS).values()) + controls + rounds * FULL * workers
    asked = asked.model_copy(update={"budget": f"{epochs}ep"})
    logs, clock = Path.cwd() / f"logs-{workers}", Clock()
    logs.mkdir()
    pids = [forked(url, asked.study, epoch_s, logs / str(number)) for number in range(workers)]
    used = begun = 0.0
    try:
        for event in run_study(prepare(asked)):
            if isinstance(event, PhaseStarted) and event.phase == "search":
                used, begun = time.process_time(), time.monotonic()
            if isinstance(event, PhaseStarted) and event.phase == "confirm":
                break
        used, begun = time.process_time() - used, time.monotonic() - begun
    finally:
        clock.restore()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert clock.refused is not None
    return measured(spans(logs), workers, refused=clock.refused, coordinator=used / begun)


def spans(logs: Path) -> list[Span]:
    return [Span(*json.loads(line)) for path in logs.iterdir() for line in path.read_text().splitlines()]


def measured(found: list[Span], workers: int, *, refused: float, coordinator: float) -> Found:
    own: dict[int, list[Span]] = defaultdict(list)
    for span in sorted(found, key=lambda it: it.begun):
        own[span.worker].append(span)
    # Where some worker never got a trial, as a starved coordinator can bring about, no start-up is excluded.
    begins = [spans[0].begun for spans in own.values()]
    begun, ended = (max if len(own) == workers else min)(begins), max(it.ended for it in found)
    gaps = [
        after.begun - before.ended
        for spans in own.values()
        for before, after in itertools.pairwise(spans)
        if begun <= before.ended and after.begun <= refused
    ]
    return Found(
        busy(found, begun, refused) / workers,
        busy(found, begun, ended) / workers,
        sum(gaps) / len(gaps),
        sum(begun <= it.ended <= refused for it in found),
        coordinator,
    )


def busy(found: list[Span], begun: float, ended: float) -> float:
    """Workers at work, mean over a time."""
    return sum(max(0.0, min(it.ended, ended) - max(it.begun, begun)) for it in found) / (ended - begun)


def real_s(workers: int, runs: int) -> float:
    """Seconds that the local pool takes for some equal runs of the smoke space, once its workers have started."""
    setup = prepare(request("training.epochs=12", study=f"real-{workers}", workers=workers)).setup
    with Pool(workers, setup) as pool:
        params = TrialParams(teacher=next(iter(setup.teachers)), rule="ts", rule_params={"tau": 4.0})
        list(pool.run([ProbeTask(params=params, seconds=0.0)] * workers))
        begun = time.monotonic()
        asked = [RunRequest(run=f"r{it}", params=TrialParams(), seed=it, epochs=12) for it in range(runs)]
        list(pool.run(longest_first(asked)))
        return time.monotonic() - begun


def real(check: bool) -> bool:
    took = {workers: min(real_s(workers, 12) for _ in range(2)) for workers in (1, 2)}
    ratio = took[1] / took[2]
    print(f"two workers: {ratio:.2f} times one ({took[1]:.1f} s and {took[2]:.1f} s for 12 runs, best of 2)")
    return not check or ratio >= PROMISED_REAL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--epoch-s", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3, help="full runs for each worker that the search stage pays")
    parser.add_argument("--real", action="store_true", help="train, by one and by two processes")
    parser.add_argument("--check", action="store_true", help=f"fail below {PROMISED} W, or {PROMISED_REAL}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    place, here, worst = Path(tempfile.mkdtemp(prefix="ad-scaling-")), Path.cwd(), 1.0
    os.environ["AUTODISTILL_CACHE"] = str(place / "cache")
    os.chdir(place)
    try:
        if args.real:
            sys.exit(not real(args.check))
        with Postgres() as server:
            for workers in args.workers:
                found = searched(server.url, workers, epoch_s=args.epoch_s, rounds=args.rounds)
                worst = min(worst, found.share)
                print(
                    f"{workers:3d} workers: {found.share:.3f} W, {found.overhead_s:.2f} s between a worker's runs "
                    f"(n = {found.runs} runs of {args.epoch_s:g} s and more); to the end {found.to_the_end:.3f} W; "
                    f"coordinator {found.coordinator:.2f} of a core; load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    finally:
        os.chdir(here)
        shutil.rmtree(place, ignore_errors=True)
    if args.check and worst < PROMISED:
        sys.exit(1)


if __name__ == "__main__":
    main()
