"""How near to W times one worker's work W workers come, over one PostgreSQL: the queue's own cost.

    python tests/bench/scaling.py [--check] [--workers 1 4 16 64] [--task-s 20] [--rounds 2]

Workers are processes whose trainer sleeps, a task being one run of ten epochs; each takes `rounds` tasks one after
another. Start-up is excluded: the clock starts when all of them wait. The coordinator's pace and the workers' are the
defaults. Ends only what it started.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from postgres import Postgres
from simulated import Simulated

from autodistill.queue.messages import Setup
from autodistill.queue.serving import Tools, serve
from autodistill.records import RunEnded, RunRequest, TrialParams
from autodistill.space import Space
from autodistill.workers import ProbeTask
from autodistill.workers.crew import Crew

EPOCHS = 10
PROMISED = 0.95
"""Of W times one worker's throughput."""


def work(url: str, name: str, epoch_s: float) -> None:
    tools = Tools(
        furnish=lambda setup: Simulated(setup, epoch_s=epoch_s),
        adapt=lambda setup: setup,
        say=lambda _: None,
        stop=threading.Event(),
    )
    serve(url, name, tools)


def forked(url: str, name: str, epoch_s: float) -> int:
    """A worker process. Forked, for 64 that import everything by themselves would take minutes to start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        work(url, name, epoch_s)
    finally:
        os._exit(0)


def request(number: int, epochs: int = EPOCHS) -> RunRequest:
    return RunRequest(run=f"r{number}", params=TrialParams(), seed=number, epochs=epochs)


def elapsed_s(url: str, place: Path, *, workers: int, task_s: float, rounds: int) -> float:
    """Seconds for `rounds` tasks a worker, each of `task_s` seconds of sleep."""
    runs = place / "runs" / f"scaling-{workers}"
    runs.mkdir(parents=True)
    setup = Setup(
        space=Space(), student="x", teachers={}, views=1, device="cpu", runs=str(runs), cache=str(place / "cache")
    )
    pids = [forked(url, runs.name, task_s / EPOCHS) for _ in range(workers)]
    try:
        with Crew(0, setup, url=url, study=runs.name) as crew:
            time.sleep(2)
            list(crew.run([ProbeTask(architecture=str(number)) for number in range(4 * workers)]))
            begun = time.monotonic()
            tasks = [request(number) for number in range(rounds * workers)]
            ended = [it for it in crew.run(tasks) if isinstance(it, RunEnded)]
            took = time.monotonic() - begun
            assert len(ended) == len(tasks)
            crew.complete()
            for pid in pids:
                os.waitpid(pid, 0)
            pids.clear()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--task-s", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--check", action="store_true", help=f"fail below {PROMISED} W")
    args = parser.parse_args()
    place, worst = Path(tempfile.mkdtemp(prefix="ad-scaling-")), 1.0
    try:
        with Postgres() as server:
            for workers in args.workers:
                took = elapsed_s(server.url, place, workers=workers, task_s=args.task_s, rounds=args.rounds)
                share = args.rounds * args.task_s / took
                worst = min(worst, share)
                overhead = took / args.rounds - args.task_s
                print(
                    f"{workers:3d} workers: {share:.3f} W, {overhead:.2f} s on top of a task of {args.task_s:g} s "
                    f"(n = {args.rounds * workers})",
                    flush=True,
                )
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if args.check and worst < PROMISED:
        sys.exit(1)


if __name__ == "__main__":
    main()
