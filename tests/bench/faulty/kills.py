"""Random kills over one small study after another."""

import os
import random
import time
from collections import Counter
from functools import partial
from pathlib import Path

from postgres import Postgres

from autodistill.records import read_study
from autodistill.study import running
from faulty.processes import ended, forked, kill
from faulty.studies import Study, coordinate, reference, results, work, wrong

GAP = 0.4
"""Mean time between two kills, of the time that the study takes undisturbed in one process, which tells how fast this
machine is."""
PER_STUDY = 12
"""Most kills of one study: on a slow machine a coordinator could be killed for ever before it has begun."""
SHARES = {"worker": 0.6, "coordinator": 0.3, "database": 0.1}
LIMIT_S = 600.0


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
        self.coordinator = self._coordinator()
        self.workers = [self._worker() for _ in range(workers)]
        self.seen: dict[Path, str] = {}

    def to_the_end(self, toll: Toll, most: int) -> None:
        begun, next_kill = time.monotonic(), time.monotonic() + self._gap()
        while self._goes_on(toll):
            self.seen = results(self.study.place) | self.seen
            if time.monotonic() - begun > LIMIT_S:
                toll.wrong.append(f"{self.study.name}: not over after {LIMIT_S:g} s")
                break
            for number, worker in enumerate(self.workers):
                if ended(worker) is not None:
                    self.workers[number] = self._worker()
            if time.monotonic() > next_kill and self.kills < PER_STUDY and toll.kills.total() < most:
                toll.kills[self._kill()] += 1
                self.kills += 1
                next_kill = time.monotonic() + self._gap()
            time.sleep(0.02)
        self._end(toll)

    def _coordinator(self) -> int:
        return forked(partial(coordinate, self.study), self.study.place, "coordinate")

    def _worker(self) -> int:
        return forked(partial(work, self.study), self.study.place, "work")

    def _goes_on(self, toll: Toll) -> bool:
        """Whether the coordinator has more to do; one that could not reach the database gets its command again."""
        code = ended(self.coordinator)
        if code in (1, 2) and toll.resumed < toll.kills["database"]:
            toll.resumed += 1
            self.coordinator = self._coordinator()
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
            kill(self.coordinator)
            self.coordinator = self._coordinator()
        else:
            number = self.chance.randrange(len(self.workers))
            kill(self.workers[number])
            self.workers[number] = self._worker()
        return kind

    def _end(self, toll: Toll) -> None:
        """Workers leave by themselves when the study is complete."""
        until = time.monotonic() + 15
        left = list(self.workers)
        while left and time.monotonic() < until:
            left = [pid for pid in left if ended(pid) is None]
            time.sleep(0.02)
        for pid in left:
            toll.wrong.append(f"{self.study.name}: a worker stayed when the study was over")
            kill(pid)
        kill(self.coordinator)


def fault_test(
    root: Path, *, kills: int, seed: int, workers: int, postgres: Postgres | None, most_studies: int = 1000
) -> Toll:
    """Kill processes of one study after another until `kills` are done."""
    toll, chance = Toll(), random.Random(seed)
    for number in range(most_studies):
        if toll.kills.total() >= kills or toll.wrong:
            break
        place, calm = root / str(number), root / "calm" / str(number)
        url = postgres.url if postgres else f"sqlite:///{place}/kd.db"
        study = Study(f"faults-{seed}-{number}", chance.randrange(1000), url, place)
        begun = time.monotonic()
        undisturbed(study, calm)
        run = Run(study, workers, postgres, gap_s=GAP * (time.monotonic() - begun))
        run.to_the_end(toll, kills)
        _judge(study, calm, run, toll)
        print(f"{study.name} seed {study.seed}: kills so far {dict(toll.kills)}, wrong {len(toll.wrong)}", flush=True)
        if toll.wrong:
            print("".join(path.read_text()[-3000:] for path in place.glob("*.log")))
    return toll


def undisturbed(study: Study, place: Path) -> None:
    calm = forked(partial(reference, study), place, "reference")
    while ended(calm) is None:
        time.sleep(0.02)


def _judge(study: Study, calm: Path, run: Run, toll: Toll) -> None:
    expected = read_study(calm / "runs" / study.name / "study.json")
    found = wrong(study, expected, run.seen)
    toll.wrong += [f"{study.name} (seed {study.seed}): {line}" for line in found]
    if study.record.exists():
        record = read_study(study.record)
        toll.runs, toll.trials = toll.runs + len(list(record.runs())), toll.trials + len(record.trials)


def warmed(root: Path) -> None:
    """Import here what forked processes need."""
    os.environ["AUTODISTILL_CACHE"] = str(root / "cache")
    here = Path.cwd()
    os.chdir(root)
    pool = running.Pool
    reference(Study("first", 0, "", root))
    running.Pool = pool  # type: ignore[misc]
    os.chdir(here)
