"""How long a study will go on: what was planned, held against what it has taken so far."""

import time
from collections.abc import Callable, Generator
from typing import TypeVar

from autodistill.formatting import about
from autodistill.records import EpochEvent, Event, PhaseStarted, RunEnded, TaskProgress, TimeLeft, TimePlanned

T = TypeVar("T")

ENOUGH_S = 3.0
ENOUGH_SHARE = 0.02
"""Of all that is planned. What was measured over less says more about how a phase begins than about its pace."""
TELL_EVERY_S = 1.0
APART = ("teachers", "profiles", "report")
"""Phases that have a pace of their own; in all others students are trained."""


class Pace:
    """Seconds left, phase by phase: the plan's, times what the same work has taken for each second planned."""

    def __init__(self, planned: TimePlanned) -> None:
        self._planned = planned.phases_s
        self._coming = list(planned.phases_s)
        self._took: dict[str, tuple[float, float]] = {}
        """Seconds taken and planned of the phases that are over, by kind of work."""
        self._phase, self._begun, self._epochs, self._done = "", 0.0, 0, 0

    def note(self, event: Event, now: float) -> None:
        """Hear of an event at a time in seconds."""
        if isinstance(event, PhaseStarted):
            if self._phase:
                self._took[_kind(self._phase)] = self._measured(now)
            self._phase, self._begun, self._epochs, self._done = event.phase, now, event.epochs, 0
            self._coming = [it for it in self._coming if it != event.phase]
        elif isinstance(event, EpochEvent | TaskProgress):
            self._done += 1
        elif isinstance(event, RunEnded) and event.reused:
            self._epochs -= event.record.spent_epochs

    def left_s(self, now: float) -> float | None:
        """Seconds left; None as long as too little was measured."""
        taken, planned = self._measured(now)
        if not self._phase or taken < ENOUGH_S or planned < ENOUGH_SHARE * sum(self._planned.values()):
            return None
        kind = _kind(self._phase)
        ratios = {it: took / meant for it, (took, meant) in self._took.items() if meant > 0}
        ratios[kind] = taken / planned
        here = (1 - self._share()) * self._planned.get(self._phase, 0.0) * ratios[kind]
        return here + sum(ratios.get(_kind(it), 1.0) * self._planned[it] for it in self._coming)

    def _measured(self, now: float) -> tuple[float, float]:
        """Seconds taken and planned of all work of this phase's kind so far."""
        took, planned = self._took.get(_kind(self._phase), (0.0, 0.0))
        return took + now - self._begun, planned + self._share() * self._planned.get(self._phase, 0.0)

    def _share(self) -> float:
        """Of the phase that is done; what has no epochs is as good as over."""
        return min(1.0, self._done / self._epochs) if self._epochs > 0 else 1.0


def paced(
    events: Generator[Event, None, T], planned: TimePlanned | None, *, clock: Callable[[], float] = time.monotonic
) -> Generator[Event, None, T]:
    """Pass a study's events on, and say now and then what is left; returns what they return."""
    pace, told = Pace(planned) if planned else None, clock()
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            found: T = end.value
            return found
        if pace is not None:
            now = clock()
            pace.note(event, now)
            left = pace.left_s(now) if now - told >= TELL_EVERY_S or isinstance(event, PhaseStarted) else None
            if left is not None:
                told = now
                yield TimeLeft(wall_s=left)
        yield event


def words(planned: TimePlanned) -> str:
    """A plan of time as one line: `about 4 min: teachers 2 min, search 50 s; teacher logits 12 s of it`."""
    phases = ", ".join(f"{phase} {about(seconds)}" for phase, seconds in planned.phases_s.items() if seconds >= 0.5)
    logits = f"; teacher logits are {about(planned.logits_s)} of it" if planned.logits_s >= 0.5 else ""
    return f"about {about(planned.wall_s)}: {phases or 'nothing to train'}{logits}"


def _kind(phase: str) -> str:
    return phase if phase in APART else "students"
