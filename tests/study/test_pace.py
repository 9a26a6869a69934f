"""What is left of a study, by hand."""

import itertools
from collections.abc import Generator, Iterator
from types import SimpleNamespace

import pytest
from small_studies import Here, request

from autodistill.records import (
    EpochEvent,
    EpochRecord,
    Event,
    Note,
    PhaseStarted,
    RunEnded,
    RunRecord,
    TaskProgress,
    TimeLeft,
    TimePlanned,
    TrialParams,
)
from autodistill.study import prepare, running
from autodistill.study.pace import Pace, paced, words

PLAN = TimePlanned(
    phases_s={"teachers": 40.0, "profiles": 2.0, "baselines and priors": 100.0, "search": 50.0, "confirm": 60.0},
    logits_s=12.0,
)
EPOCH = EpochEvent(run="a", epochs=10, record=EpochRecord(epoch=1, train_loss=1.0, hard_loss=1.0), wall_s=1.0)
STEP = TaskProgress(task="teacher", done=1, total=10)


def reused(epochs: int) -> RunEnded:
    record = RunRecord(run="kept", params=TrialParams(), seed=0, epochs=epochs, state="failed", error="it was cut")
    curve = (EPOCH.record,) * (epochs - 1)
    return RunEnded(record=record.model_copy(update={"curve": curve}), wall_s=9.0, reused=True)


def start(pace: Pace, phase: str, epochs: int, now: float) -> None:
    pace.note(PhaseStarted(phase=phase, runs=1, epochs=epochs), now)


def repeat(pace: Pace, event: Event, times: int, now: float) -> None:
    for _ in range(times):
        pace.note(event, now)


def test_in_the_first_seconds_it_says_nothing():
    pace = Pace(PLAN)
    assert pace.left_s(100.0) is None
    start(pace, "teachers", 20, 100.0)
    assert pace.left_s(110.0) is None, "not one epoch"
    repeat(pace, STEP, 1, 102.0)
    assert pace.left_s(102.0) is None, "two seconds"
    repeat(pace, STEP, 4, 108.0)
    # A quarter is done, 10 s by plan, and took 8: 30 s by plan are left of it, and 212 of other work.
    assert pace.left_s(108.0) == pytest.approx(30 * 0.8 + 212)


def test_each_kind_of_work_goes_on_at_its_own_pace():
    pace = Pace(PLAN)
    start(pace, "teachers", 20, 0.0)
    repeat(pace, STEP, 20, 20.0)
    start(pace, "profiles", 0, 20.0)
    assert pace.left_s(22.5) is None, "too short to tell"
    start(pace, "baselines and priors", 50, 24.0)
    repeat(pace, EPOCH, 25, 99.0)
    # Half of 100 s by plan took 75 s; what is left by plan: the other half, 50 and 60.
    assert pace.left_s(99.0) == pytest.approx(1.5 * (50 + 50 + 60))
    repeat(pace, EPOCH, 25, 174.0)
    start(pace, "search", 40, 174.0)
    assert pace.left_s(174.0) == pytest.approx(1.5 * (50 + 60)), "the runs before tell"
    repeat(pace, EPOCH, 40, 224.0)
    # 200 s for 150 by plan.
    assert pace.left_s(224.0) == pytest.approx(60 * 200 / 150)


def test_kept_runs_are_not_taken_for_fast_ones():
    pace = Pace(TimePlanned(phases_s={"confirm": 60.0}, logits_s=0.0))
    start(pace, "confirm", 80, 0.0)
    repeat(pace, reused(20), 1, 0.0)
    repeat(pace, EPOCH, 20, 30.0)
    # 20 of the 60 epochs that the plan is for; 20 s by plan took 30.
    assert pace.left_s(30.0) == pytest.approx(40 * 1.5)


def test_a_phase_that_was_not_planned_counts_for_nothing():
    pace = Pace(TimePlanned(phases_s={"confirm": 60.0}, logits_s=0.0))
    start(pace, "confirm", 10, 0.0)
    repeat(pace, EPOCH, 10, 30.0)
    start(pace, "audit", 10, 30.0)
    assert pace.left_s(35.0) == 0


def study() -> Generator[Event, None, str]:
    yield Note(text="plan")
    yield PhaseStarted(phase="confirm", runs=1, epochs=100)
    yield from [EPOCH] * 100
    return "the record"


def told(planned: TimePlanned | None, *, tick_s: float) -> tuple[list[Event], str]:
    events = paced(study(), planned, clock=(it * tick_s for it in itertools.count()).__next__)
    found = []
    while True:
        try:
            found.append(next(events))
        except StopIteration as end:
            return found, end.value


def test_what_is_left_is_told_now_and_then_and_every_event_passes():
    found, value = told(TimePlanned(phases_s={"confirm": 60.0}, logits_s=0.0), tick_s=0.25)
    assert value == "the record"
    assert [it for it in found if not isinstance(it, TimeLeft)] == list(study())
    lefts = [it.wall_s for it in found if isinstance(it, TimeLeft)]
    assert len(lefts) == 23, "one a second, from the third to the 25th"
    assert lefts[0] == pytest.approx(0.25 * 88)
    assert lefts == sorted(lefts, reverse=True)


def test_without_a_plan_nothing_is_said():
    found, value = told(None, tick_s=1.0)
    assert (found, value) == (list(study()), "the record")


def test_a_plan_in_words():
    assert words(PLAN) == (
        "about 4 min: teachers 40 s, profiles 2 s, baselines and priors 2 min, search 50 s, confirm 60 s; "
        "teacher logits are 10 s of it"
    )
    nothing = TimePlanned(phases_s={"teachers": 0.0, "confirm": 0.0}, logits_s=0.0)
    assert words(nothing) == "about 0 s: nothing to train"


def test_a_phase_lasts_until_the_next_one_begins_though_it_has_nothing_to_tell(monkeypatch):
    now = [0.0]

    def told(*_: object) -> Iterator[PhaseStarted]:
        for phase, seconds in (("teachers", 10.0), ("profiles", 5.0), ("search", 0.0)):
            yield PhaseStarted(phase=phase, runs=0, epochs=0)
            now[0] += seconds

    prepared = prepare(request())
    ledger = running._ledger(prepared, None, {})
    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(running, "_events", told)
    monkeypatch.setattr(running, "_write", lambda *_: None)
    list(running._recorded(prepared, Here(0, prepared.setup), ledger))
    assert ledger.phase_s == {"teachers": 10.0, "profiles": 5.0, "search": 0.0}
