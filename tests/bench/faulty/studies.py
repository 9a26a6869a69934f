"""The studies under fire: one that trains nothing, for what concerns the queue; a real one for files."""

import threading
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.trial import TrialState
from simulated import Simulated
from small_studies import TINY, core, drive, request

from autodistill import showing
from autodistill.queue.board import board_name
from autodistill.queue.serving import Tools, serve
from autodistill.queue.terms import Pace, longest_first
from autodistill.records import Event, Note, StudyRecord, read_study
from autodistill.storage import close_storage, open_storage
from autodistill.store import digest
from autodistill.study import running
from autodistill.workers import Pool, Setup, crew
from autodistill.workers.joining import leave_on_signals

EPOCH_S = 0.12
PACE = Pace(beat_s=0.3, lease_s=6.0, look_s=0.05, idle_s=0.2)
PINNED = "training.precision=float32"
"""Which number format is the faster one is measured, and may come out one way or the other on a busy machine."""
OVERRIDES = ("training.epochs=6", "training.short_epochs=2", PINNED)
REAL = (
    *("search", "--student", "resnet8:0.25", "--space", "smoke", "--budget", "11", "--workers", "1"),
    *(part for override in (*TINY, PINNED) for part in ("--set", override)),
)
"""A study that trains, by its command line; its name is `NAME`."""


class Alone(Pool):
    """Does everything in this process, undisturbed and without sleep."""

    def __init__(self, size: int, setup: Setup, **_: object) -> None:
        self.place = Simulated(setup)

    def __enter__(self) -> "Alone":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, tasks):
        source = tasks if callable(tasks) else longest_first(tasks)
        while (task := source()) is not None:
            yield from self.place.do(task)


class Study(NamedTuple):
    """One that trains nothing: scores are computed, epochs slept."""

    name: str
    seed: int
    url: str
    place: Path

    @property
    def record(self) -> Path:
        return self.place / "runs" / self.name / "study.json"


def asked(study: Study, **more: object):
    return request(*OVERRIDES, budget="14", study=study.name, seed=study.seed, **more)


def told(event: Event) -> None:
    if isinstance(event, Note):
        print(event.text, flush=True)


def coordinate(study: Study, *, pace: Pace = PACE) -> int:
    # Random kills hit one run three times, which outside of this script says something about the run.
    crew.PACE, crew.MOST_DEATHS = pace, 10**6
    record = drive(asked(study, workers=0, storage=study.url), told)
    showing.rendered(record, Path("reports") / record.name)
    return 0 if record.state == "complete" else 1


def work(study: Study, *, epoch_s: float = EPOCH_S) -> int:
    stop = threading.Event()
    leave_on_signals(stop)
    tools = Tools(lambda setup: Simulated(setup, epoch_s=epoch_s), lambda setup: setup, print, stop)
    print(serve(study.url, study.name, tools), flush=True)
    return 0


def reference(study: Study) -> int:
    """The same study undisturbed; where processes are forked from, it also imports what they will need."""
    running.Pool = Alone  # type: ignore[misc]
    showing.rendered(drive(asked(study)), Path("reports") / study.name)
    return 0


def results(place: Path) -> dict[Path, str]:
    """The kept results below a folder, and what they hold."""
    return {path: digest(path.read_text()) for path in place.glob("runs/*/**/result.json")}


def wrong(study: Study, expected: StudyRecord, seen: dict[Path, str]) -> list[str]:
    """What is lost, double, left open or over budget.

    Args:
        seen: results that were there on the way.
    """
    if not study.record.exists():
        return ["no record"]
    record = read_study(study.record)
    runs = [it.run for it in record.runs()]
    spent = sum(it.spent_epochs for it in record.runs())
    held = {
        "the record is not complete": record.state == "complete",
        "a finished run was lost or written again with another result": seen.items() <= results(study.place).items(),
        "a run counts twice": len(runs) == len(set(runs)),
        "the budget was overrun or miscounted": spent == record.spent_epochs <= record.plan.total_epochs,
        "a short run is left unspent": record.plan.total_epochs - spent < record.plan.epochs_short,
        "no report": (study.place / "reports" / study.name / "report.html").exists(),
    }
    lines = [f"another record than without faults: {line}" for line in differences(core(expected), core(record))]
    return lines + [what for what, holds in held.items() if not holds] + wrong_in_database(study.url, record)


def differences(expected: object, found: object, key: str = "") -> list[str]:
    """Where two records differ; the first few."""
    if isinstance(expected, dict) and isinstance(found, dict):
        names = dict.fromkeys((*expected, *found))
        pairs = [(f"{key}.{name}", expected.get(name), found.get(name)) for name in names]
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = [(f"{key}[{number}]", *both) for number, both in enumerate(zip(expected, found, strict=True))]
    else:
        return [] if expected == found else [f"{key}: {expected!r:.200} became {found!r:.200}"]
    return [line for name, one, other in pairs for line in differences(one, other, name)][:5]


def wrong_in_database(url: str, record: StudyRecord) -> list[str]:
    storage = open_storage(url)
    searched = optuna.load_study(study_name=record.name, storage=storage).trials
    tasks = optuna.load_study(study_name=board_name(record.name), storage=storage).trials
    close_storage(storage)
    found = {it.number: it.state.name.lower().replace("fail", "failed") for it in searched}
    wanted = {it.number: it.state for it in record.trials}
    left = [it for it in (*searched, *tasks) if it.state == TrialState.RUNNING]
    lines = [f"a trial is left running: {it.params or it.user_attrs}" for it in left]
    return lines + [f"Optuna holds {found}, the record {wanted}"] * (found != wanted)
