"""What happened when: the stream that a study yields and the console draws."""

from typing import Literal

from autodistill.records.base import Record
from autodistill.records.runs import EpochRecord, RunRecord, TrialRecord


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

    phase: Literal["teachers", "baselines and priors", "search", "confirm", "controls", "audit"]
    runs: int
    epochs: int


class Note(Record):
    """A line for the person who watches; `warning` where they should know."""

    text: str
    warning: bool = False


class TaskProgress(Record):
    """Progress of something that is no training run of the study, such as a ladder teacher."""

    task: str
    done: int
    total: int
    text: str = ""


Event = EpochEvent | RunEnded | TrialEnded | PhaseStarted | Note | TaskProgress
