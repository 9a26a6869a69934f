"""Where scenarios find what they share: a folder, a database server, a real study that nothing disturbed."""

import os
import shutil
import time
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from postgres import Postgres
from small_studies import NAME, core

from autodistill.errors import AutodistillError
from autodistill.records import StudyRecord, read_study
from faulty.processes import Command, command
from faulty.studies import REAL, differences, results

WAYS = ("pool", "queue")
"""A study by processes of its own, and one over a database, with a worker of its own."""


class Calm(NamedTuple):
    record: StudyRecord
    cache: Path
    """With teachers and all logits."""


class Lab:
    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.seed = root, seed
        self._databases = 0

    @cached_property
    def postgres(self) -> Postgres:
        return Postgres()

    def database(self) -> str:
        """The address of an empty database."""
        self._databases += 1
        return self.postgres.fresh(f"kd{self._databases}")

    @cached_property
    def calm(self) -> Calm:
        cache, place = self.root / "calm-cache", self.root / "calm"
        run = command(place, "calm", REAL, before=lambda: os.environ.update(AUTODISTILL_CACHE=str(cache)))
        assert run.end() == 0, run.said
        return Calm(read_study(record_in(place)), cache)

    def place(self, name: str) -> Path:
        """An empty folder that anybody may write."""
        found = self.root / name
        found.mkdir(parents=True)
        found.chmod(0o777)
        return found

    def warm_cache(self, place: Path) -> Path:
        return Path(shutil.copytree(self.calm.cache, place / "cache"))

    def options(self, way: str) -> list[str]:
        return ["--storage", self.database()] if way == "queue" else []

    def close(self) -> None:
        if "postgres" in self.__dict__:
            self.postgres.__exit__()


def record_in(place: Path) -> Path:
    return place / "runs" / NAME / "study.json"


def unlike(calm: Calm, place: Path, seen: dict[Path, str]) -> list[str]:
    """What a real study that was disturbed has other than it should."""
    try:
        others = differences(core(calm.record), core(read_study(record_in(place))))
    except AutodistillError as error:
        return [f"no whole record: {error.message}"]
    kept = seen.items() <= results(place).items()
    return [f"another record than without faults: {line}" for line in others] + ["a kept result changed"] * (not kept)


def ill_said(run: Command, code: int, *words: str) -> list[str]:
    """What is wrong with how a command ended that could not go on: any of the words would do."""
    if code not in (1, 2) or "Traceback" in run.said or not any(word in run.said for word in words):
        return [f"ended with {code}: {run.said[-1500:]}"]
    print(f"  {run.log.stem}: {run.said[-300:]}", flush=True)
    return []


def finished(run: Command) -> list[str]:
    code = run.end()
    return [f"{run.log.stem}: ended with {code}: {run.said[-1500:]}"] * (code != 0)


def wait_for(path: Path, pattern: str, *, count: int = 1, limit_s: float = 120) -> bool:
    """Whether so many files are there before time is up."""
    until = time.monotonic() + limit_s
    while len(list(path.glob(pattern))) < count:
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
