"""Kills workers, coordinators and the database of small studies; says whether anything was lost.

    python tests/bench/faults.py [--check] [--kills 100] [--seed 0] [--workers 4] [--sqlite]

Trains nothing: scores are computed, epochs slept. Processes, database (a PostgreSQL of its own behind a socket file),
run folders, checkpoints and results are real. Ends only what it started.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import optuna
import torch
from optuna.trial import TrialState
from postgres import Postgres
from simulated import Simulated
from small_studies import core, drive, request

from autodistill import showing
from autodistill.errors import AutodistillError
from autodistill.queue.board import board_name
from autodistill.queue.serving import Tools, serve
from autodistill.queue.terms import Pace
from autodistill.records import StudyRecord, read_study
from autodistill.storage import close_storage, open_storage
from autodistill.store import digest
from autodistill.study import running
from autodistill.workers import Pool, Setup, crew

EPOCH_S = 0.12
PACE = Pace(beat_s=0.3, lease_s=6.0, look_s=0.05, idle_s=0.2)
GAP = 0.4
"""Mean time between two kills, of the time that the study takes undisturbed in one process, which tells how fast this
machine is."""
PER_STUDY = 12
"""Most kills of one study: on a slow machine a coordinator could be killed for ever before it has begun."""
SHARES = {"worker": 0.6, "coordinator": 0.3, "database": 0.1}
LIMIT_S = 600.0
OVERRIDES = ("training.epochs=6", "training.short_epochs=2")


class Alone(Pool):
    """Does everything in this process, undisturbed and without sleep."""

    def __init__(self, size: int, setup: Setup) -> None:
        self.place = Simulated(setup)

    def __enter__(self) -> "Alone":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, tasks):
        for task in tasks:
            yield from self.place.do(task)


class Study(NamedTuple):
    name: str
    seed: int
    url: str
    place: Path


def asked(study: Study, **more: object):
    return request(*OVERRIDES, budget="14", study=study.name, seed=study.seed, **more)


def coordinate(study: Study) -> int:
    # Random kills hit one run three times, which outside of this script says something about the run.
    crew.PACE, crew.MOST_DEATHS = PACE, 10**6
    record = drive(asked(study, workers=0, storage=study.url))
    showing.rendered(record, Path("reports") / record.name)
    return 0 if record.state == "complete" else 1


def work(study: Study) -> int:
    stop = threading.Event()
    crew.leave_on_signals(stop)
    tools = Tools(lambda setup: Simulated(setup, epoch_s=EPOCH_S), lambda setup: setup, print, stop)
    print(serve(study.url, study.name, tools), flush=True)
    return 0


def reference(study: Study) -> int:
    """The same study undisturbed; where processes are forked from, it also imports what they will need."""
    running.Pool = Alone  # type: ignore[misc]
    showing.rendered(drive(asked(study)), Path("reports") / study.name)
    return 0


def forked(role: Callable[[Study], int], study: Study, place: Path) -> int:
    """A process of its own: forked, as each start would take seconds to import torch again."""
    place.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        _CODES.pop(pid, None)  # numbers come again
        return pid
    code = 70
    try:
        os.setpgid(0, 0)
        os.chdir(place)
        with (place / f"{role.__name__}.log").open("a", buffering=1) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            code = role(study)
    except AutodistillError as error:
        print(f"{error.message} | {error.hint}")
        code = error.exit_code
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


class Toll:
    """What was killed, and what was found afterwards."""

    def __init__(self) -> None:
        self.kills: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.runs = self.trials = self.resumed = 0


class Run:
    """One study under fire."""

    def __init__(self, study: Study, workers: int, postgres: Postgres | None, *, gap_s: float) -> None:
        self.study, self.postgres, self.gap_s = study, postgres, gap_s
        self.chance = random.Random(study.seed)
        self.kills = 0
        self.coordinator = forked(coordinate, study, study.place)
        self.workers = [forked(work, study, study.place) for _ in range(workers)]
        self.seen: dict[Path, str] = {}

    def to_the_end(self, toll: Toll, most: int) -> None:
        begun, next_kill = time.monotonic(), time.monotonic() + self._gap()
        while self._goes_on(toll):
            self._note_results()
            if time.monotonic() - begun > LIMIT_S:
                toll.wrong.append(f"{self.study.name}: not over after {LIMIT_S:g} s")
                break
            for number, worker in enumerate(self.workers):
                if _ended(worker) is not None:
                    self.workers[number] = forked(work, self.study, self.study.place)
            if time.monotonic() > next_kill and self.kills < PER_STUDY and toll.kills.total() < most:
                toll.kills[self._kill()] += 1
                self.kills += 1
                next_kill = time.monotonic() + self._gap()
            time.sleep(0.02)
        self._note_results()
        self._end(toll)

    def _goes_on(self, toll: Toll) -> bool:
        """Whether the coordinator has more to do; one that could not reach the database gets its command again."""
        code = _ended(self.coordinator)
        if code in (1, 2) and toll.resumed < toll.kills["database"]:
            toll.resumed += 1
            self.coordinator = forked(coordinate, self.study, self.study.place)
        elif code:
            toll.wrong.append(f"{self.study.name}: the coordinator ended with {code}")
        return code is None or (code in (1, 2) and not toll.wrong)

    def _gap(self) -> float:
        return self.chance.expovariate(1 / self.gap_s)

    def _kill(self) -> str:
        shares = {kind: share for kind, share in SHARES.items() if kind != "database" or self.postgres}
        (kind,) = self.chance.choices(list(shares), list(shares.values()))
        if kind == "database":
            assert self.postgres is not None
            self.postgres.stop()
            self.postgres.start()
        elif kind == "coordinator":
            _kill(self.coordinator)
            self.coordinator = forked(coordinate, self.study, self.study.place)
        else:
            number = self.chance.randrange(len(self.workers))
            _kill(self.workers[number])
            self.workers[number] = forked(work, self.study, self.study.place)
        return kind

    def _note_results(self) -> None:
        for path in self.study.place.glob("runs/*/**/result.json"):
            if path not in self.seen:
                self.seen[path] = digest(path.read_text())

    def _end(self, toll: Toll) -> None:
        """Workers leave by themselves when the study is complete."""
        until = time.monotonic() + 15
        left = list(self.workers)
        while left and time.monotonic() < until:
            left = [pid for pid in left if _ended(pid) is None]
            time.sleep(0.02)
        for pid in left:
            toll.wrong.append(f"{self.study.name}: a worker stayed when the study was over")
            _kill(pid)
        if _ended(self.coordinator) is None:
            _kill(self.coordinator)


_CODES: dict[int, int] = {}


def _ended(pid: int) -> int | None:
    """The exit code of a process that was forked here; None while it runs."""
    if pid not in _CODES:
        found, status = os.waitpid(pid, os.WNOHANG)
        if not found:
            return None
        _CODES[pid] = os.waitstatus_to_exitcode(status)
    return _CODES[pid]


def _kill(pid: int) -> None:
    if _ended(pid) is None:
        os.kill(pid, signal.SIGKILL)
        _CODES[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def check(run: Run, expected: StudyRecord, toll: Toll) -> None:
    """Whether anything is lost, double, left open or over budget."""
    study = run.study

    def demand(holds: bool, what: str) -> None:
        if not holds:
            toll.wrong.append(f"{study.name} (seed {study.seed}): {what}")

    path = study.place / "runs" / study.name / "study.json"
    if not path.exists():
        toll.wrong.append(f"{study.name}: no record")
        return
    record = read_study(path)
    runs = [it.run for it in record.runs()]
    toll.runs, toll.trials = toll.runs + len(runs), toll.trials + len(record.trials)
    demand(record.state == "complete", "the record is not complete")
    demand(core(record) == core(expected), "the record is another one than without kills")
    kept = {it: digest(it.read_text()) if it.exists() else "gone" for it in run.seen}
    demand(kept == run.seen, "a finished run was lost or written again with another result")
    demand(len(runs) == len(set(runs)), "a run counts twice")
    spent = sum(it.spent_epochs for it in record.runs())
    demand(spent == record.spent_epochs <= record.plan.total_epochs, "the budget was overrun or miscounted")
    demand(record.plan.total_epochs - spent < record.plan.epochs_short, "a short run is left unspent")
    demand((study.place / "reports" / study.name / "report.html").exists(), "no report")
    storage = open_storage(study.url)
    searched = optuna.load_study(study_name=study.name, storage=storage).trials
    tasks = optuna.load_study(study_name=board_name(study.name), storage=storage).trials
    close_storage(storage)
    demand(not [it for it in (*searched, *tasks) if it.state == TrialState.RUNNING], "a trial is left running")
    found = {it.number: it.state.name.lower().replace("fail", "failed") for it in searched}
    wanted = {it.number: it.state for it in record.trials}
    demand(found == wanted, f"Optuna holds {found}, the record {wanted}")


def fault_test(*, kills: int, seed: int, workers: int, sqlite: bool, most_studies: int = 1000) -> Toll:
    """Kill processes of one study after another until `kills` are done."""
    torch.set_num_threads(1)
    toll, chance = Toll(), random.Random(seed)
    root = Path(tempfile.mkdtemp(prefix="ad-faults-"))
    os.environ["AUTODISTILL_CACHE"] = str(root / "cache")
    here = Path.cwd()
    os.chdir(root)
    reference(Study("first", 0, "", root))
    os.chdir(here)
    postgres = None if sqlite else Postgres()
    try:
        for number in range(most_studies):
            if toll.kills.total() >= kills:
                break
            place = root / str(number)
            url = postgres.url if postgres else f"sqlite:///{place}/kd.db"
            study = Study(f"faults-{seed}-{number}", chance.randrange(1000), url, place)
            begun = time.monotonic()
            calm = forked(reference, study, root / "calm" / str(number))
            while _ended(calm) is None:
                time.sleep(0.02)
            run = Run(study, workers, postgres, gap_s=GAP * (time.monotonic() - begun))
            run.to_the_end(toll, kills)
            expected = read_study(root / "calm" / str(number) / "runs" / study.name / "study.json")
            check(run, expected, toll)
            print(
                f"{study.name} seed {study.seed}: kills so far {dict(toll.kills)}, wrong {len(toll.wrong)}",
                flush=True,
            )
            if toll.wrong:
                print("".join(path.read_text()[-3000:] for path in place.glob("*.log")))
                break
    finally:
        if postgres:
            postgres.__exit__()
        shutil.rmtree(root, ignore_errors=True)
    return toll


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--sqlite", action="store_true", help="SQLite instead of PostgreSQL; no database restarts")
    parser.add_argument("--check", action="store_true", help="fail if anything is wrong")
    args = parser.parse_args()
    begun = time.monotonic()
    toll = fault_test(kills=args.kills, seed=args.seed, workers=args.workers, sqlite=args.sqlite)
    print(
        f"seed {args.seed}: {toll.kills.total()} kills {dict(toll.kills)} "
        f"over {toll.trials} trials, {toll.runs} runs in {time.monotonic() - begun:.0f} s; wrong: {len(toll.wrong)}; "
        f"commands given again because the database was away: {toll.resumed}"
    )
    for line in toll.wrong:
        print(f"  {line}")
    if args.check and (toll.wrong or toll.kills.total() < args.kills):
        sys.exit(1)


if __name__ == "__main__":
    main()
