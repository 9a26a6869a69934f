"""What happened when: the stream that a study yields and the console draws."""

from typing import Literal

from autodistill.records.base import Record
from autodistill.records.runs import EpochRecord, RunRecord, TrialRecord

Phase = Literal[
    "teachers", "profiles", "baselines and priors", "search", "second looks", "confirm", "controls", "audit"
]


class EpochEvent(Record):
    """A worker finished one epoch. `wall_s`: seconds for that epoch."""

    run: str
    epochs: int
    record: EpochRecord
    wall_s: float


class RunEnded(Record):
    """A run is over. `reused`: its result was already on disk."""

    record: RunRecord
    wall_s: float
    parts_s: dict[str, float] = {}
    """Of `wall_s`: `teacher` (run over views that nobody had), `cache` (logits read or waited for), `targets` (what a
    rule makes of them), `evaluation`, and `student`, which is all else."""
    views_computed: int = 0
    """Times a teacher was run over the data for this run; the other views were in the cache."""
    reused: bool = False


class TrialEnded(Record):
    record: TrialRecord


class PhaseStarted(Record):
    """A phase of the study begins: `runs` training runs with `epochs` epochs in all, as far as they are known."""

    phase: Phase
    runs: int
    epochs: int


class Note(Record):
    """A line for the person who watches; `warning` where they should know."""

    text: str
    warning: bool = False


class TimePlanned(Record):
    """What is left of the study will take this long, by what a few steps took; phases in their order."""

    phases_s: dict[str, float]
    logits_s: float
    """Teacher logits that nobody has computed yet, summed over the workers; they are part of the phases."""

    @property
    def wall_s(self) -> float:
        return sum(self.phases_s.values())


class TimeLeft(Record):
    """What is left of the study, by what it has taken so far."""

    wall_s: float


class TaskProgress(Record):
    """Progress of something that is no training run of the study, such as a ladder teacher."""

    task: str
    done: int
    total: int
    text: str = ""


class LogitsComputed(Record):
    """A teacher was run over views of the data ahead of the runs that need them."""

    views_computed: int


Event = (
    EpochEvent | RunEnded | TrialEnded | PhaseStarted | Note | TaskProgress | LogitsComputed | TimePlanned | TimeLeft
)
