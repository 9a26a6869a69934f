"""How long a study takes: what is measured and kept, the plan, the time that is left."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from fake_trainer import Behaviour, behave
from hypothesis import given
from hypothesis import strategies as st
from small_studies import ISATS_FIRST, Killed, fake, fake_work, idle, kill_after, options

from autodistill.executors import (
    Line,
    MeasureStudentTask,
    MeasureTeacherTask,
    SerialExecutor,
    StudentTimes,
    Task,
    TeacherTimes,
)
from autodistill.records import (
    EpochEvent,
    EpochRecord,
    Event,
    Note,
    PhaseStarted,
    RunEnded,
    RunResult,
    StudyRecord,
    TaskProgress,
    TimeLeft,
    TimePlanned,
    TrialParams,
)
from autodistill.store import cache_root
from autodistill.study import Estimate, SearchOptions, StudySpec, describe_time, estimate, fitting, resolve
from autodistill.study.timing import Costs, Pace, TeacherCosts, forget_if_wrong, makespan, plan_for, planned_time

# Measurements


class Measuring(SerialExecutor):
    """An executor that remembers how many parts it has measured."""

    def __init__(self, spec: StudySpec) -> None:
        self.measured: list[Task] = []
        super().__init__(spec.setup, data=spec.data, work=self._work_counted)

    def _work_counted(self, task, context):
        self.measured.append(task)
        return fake_work(task, context)


def stored() -> set[Path]:
    """Return the files of measured times."""
    return set(cache_root().glob("measured/*times-*.json"))


def estimated(asked: SearchOptions) -> tuple[Estimate, int]:
    """Return an estimate, and how many tasks it took."""
    spec = resolve(asked)
    executor = Measuring(spec)
    return estimate(spec, executor, lambda _: None), len(executor.measured)


@pytest.mark.slow
def test_a_second_plan_is_the_first_and_measures_nothing():
    first, tasks = estimated(options())
    assert tasks == len(stored()) == 3, "the student and two teachers"
    again, tasks = estimated(options(budget="12", study="another"))
    assert tasks == 0
    assert again.time.phases_s["teachers"] == first.time.phases_s["teachers"]


@pytest.mark.slow
def test_the_estimate_of_a_dry_run_has_the_start_up_of_the_command():
    spec = resolve(options())
    plain, whole = (estimate(spec, Measuring(spec), lambda _: None, start_up_s=it).time for it in (0.0, 7.5))
    assert plain is not None
    assert whole is not None
    assert whole.phases_s == {"start-up": 7.5, **plain.phases_s}
    assert whole.wall_s == pytest.approx(plain.wall_s + 7.5)
    assert "start-up 8 s" in describe_time(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "flags", "measured_again"),
    [
        ((), {"student": "resnet8:0.3"}, 1),
        (("training.batch_size=20",), {}, 3),
        (("data.pool=2", "data.crop=0"), {}, 3),
        ((), {"workers": 2}, 3),
        (('ladder.architectures=["resnet8:0.25"]',), {}, 0),
        (("training.epochs=4", "data.train=80", "search.seed=5"), {}, 0),
    ],
)
def test_what_a_measurement_depends_on_is_measured_again(more, flags, measured_again):
    estimated(options())
    before = stored()
    _, tasks = estimated(options(*more, **flags))
    assert len(stored() - before) == measured_again
    assert tasks == measured_again


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "capability"])
def test_another_torch_or_instruction_set_measures_again(monkeypatch, name):
    estimated(options())
    if name == "torch":
        monkeypatch.setattr(torch, "__version__", "99.0")
    else:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    estimated(options())
    assert len(stored()) == 6


def damage(path: Path) -> None:
    path.write_text("{")


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [damage, Path.unlink])
def test_a_damaged_measurement_is_made_again(spoil: Callable[[Path], None]):
    estimated(options())
    spoil(min(stored()))
    _, tasks = estimated(options())
    assert tasks == 1
    assert len(stored()) == 3


@pytest.mark.slow
def test_all_workers_measure_the_student_at_once_and_the_mean_is_kept():
    asked = options(workers=3)
    spec = resolve(asked)
    seconds = iter([1.0, 2.0, 6.0])

    def work(task, context):
        if isinstance(task, MeasureStudentTask):
            each = next(seconds)
            steps = Line(each_s=each)
            return StudentTimes(training=steps, targets=steps, evaluation_s=0.0, build_s=each, fit_s=0.0, profile_s=0.0)
        return fake_work(task, context)

    class Three(SerialExecutor):
        workers = 3

    estimate(spec, Three(spec.setup, data=spec.data, work=work), lambda _: None)
    (student,) = cache_root().glob("measured/studenttimes-*.json")
    times = json.loads(student.read_text())
    assert times["build_s"] == times["training"]["each_s"] == 3.0


@pytest.mark.slow
def test_a_teacher_that_was_measured_untrained_is_known_when_it_is_trained(reference, warm):
    """The reference study measured its teachers before it trained them."""
    spec = resolve(options(workers=2))
    assert spec.untrained == []
    before = stored()
    assert estimate(spec, idle(spec), lambda _: None).time is not None
    assert stored() == before


@pytest.mark.slow
def test_without_a_measurement_there_is_no_plan_of_time():
    def work(task, context):
        return None if isinstance(task, MeasureTeacherTask) else fake_work(task, context)

    spec = resolve(options())
    found = estimate(spec, SerialExecutor(spec.setup, data=spec.data, work=work), lambda _: None)
    assert found.time is None
    assert found.plan.total_epochs == 33


@pytest.mark.slow
def test_the_faster_number_format_is_tried_once(monkeypatch):
    asked = []
    monkeypatch.setattr(fitting, "faster_precision", lambda *_: asked.append(1) or "bfloat16")
    for study in ("one", "two"):
        spec = resolve(options("training.precision=auto", study=study))
        assert spec.space.training.precision == "bfloat16"
    assert len(asked) == 1
    resolve(options("training.precision=auto", student="resnet8:0.3"))
    assert len(asked) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("planned", "took", "left"),
    [
        (60.0, 61.0, 3),
        (60.0, 89.0, 3),
        (60.0, 41.0, 3),
        (60.0, 91.0, 2),
        (60.0, 39.0, 2),
        (1.0, 4.0, 3),
        (640.0, 4.0, 2),
    ],
)
def test_a_measurement_that_a_study_proves_wrong_is_forgotten(planned, took, left):
    """Phases of other work do not judge the student's measurement."""
    estimated(options())
    others = {"teachers": 5.0, "report": 2.0}
    forget_if_wrong(
        resolve(options()), {"search": planned, **others}, {"search": took, "teachers": 900.0, "start-up": 9.0}
    )
    assert len(stored()) == left


# The plan of time


@given(st.lists(st.floats(0.1, 10.0), max_size=30), st.integers(1, 8))
def test_the_makespan_lies_between_its_bounds(durations, workers):
    """List scheduling takes at most twice the lower bound (Graham 1969)."""
    least = max([sum(durations) / workers, *durations], default=0.0)
    assert least * 0.999999 <= makespan(durations, workers) <= 2 * least * 1.000001


def test_the_makespan_by_hand():
    assert makespan([5.0, 4.0, 3.0, 3.0], 2) == 8.0
    assert makespan([3.0, 3.0, 3.0], 1) == 9.0
    assert makespan([], 3) == 0.0


def costs(teachers: Mapping[str, TeacherCosts], **changes: float) -> Costs:
    return Costs(epoch_s=1.0, test_s=0.0, run_s=0.0, teachers=teachers)._replace(**changes)


KNOWN = {name: TeacherCosts(0.0, 0.0, 0.0, frozenset()) for name in ("resnet8:0.25", "resnet8:0.5")}
UNTRAINED = {name: TeacherCosts(20.0, 2.0, 2.0, frozenset({0, 1, 2})) for name in KNOWN}


@pytest.mark.slow
@pytest.mark.parametrize(("more", "first"), [((), 2 * 3 + 2), ((ISATS_FIRST,), 3 * 3 + 2)])
def test_a_plan_of_time_by_hand(more, first):
    """33 epochs of 1 s: no teacher over two seeds, plain KD if it is no prior and two rungs first, two finalists over
    two seeds last.
    """
    spec = resolve(options(*more))
    plan = plan_for(spec, None)
    found = planned_time(plan, costs(KNOWN), 1, spec)
    students = sum(seconds for phase, seconds in found.phases_s.items() if phase not in ("teachers", "report"))
    assert plan.total_epochs - plan.epochs_rung < students <= plan.total_epochs
    assert found.phases_s["teachers"] == found.logits_s == 0.0
    assert found.phases_s["baselines and priors"] == first
    assert found.phases_s["confirm"] == 4 * 3, "two finalists, two seeds"


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("teachers", [KNOWN, UNTRAINED], ids=["known", "untrained"])
def test_a_budget_of_time_holds_the_whole_study(teachers, workers):
    """Epochs of 1 s, 60 s for teachers that are not trained, tests, and the report."""
    spec = resolve(options(budget="5min", workers=workers))
    found = costs(teachers, test_s=0.5, run_s=0.3)
    plan = plan_for(spec, found)
    assert 0.8 * 300 <= planned_time(plan, found, workers, spec).wall_s <= 300
    assert plan.requested == "5min"


def test_runs_with_label_smoothing_are_part_of_the_planned_time():
    """They are trained beside the confirm runs, over the same two seeds, of 3 epochs each."""
    planned = {}
    for wanted in ("false", "true"):
        spec = resolve(options(f"confirm.label_smoothing={wanted}", budget="20"))
        planned[wanted] = planned_time(plan_for(spec, None), costs(KNOWN), 1, spec).phases_s["confirm"]
    assert planned["true"] == planned["false"] + 2 * 3


@pytest.mark.slow
def test_each_part_of_the_costs_is_in_the_plan():
    spec = resolve(options())
    plan = plan_for(spec, None)
    plain = planned_time(plan, costs(KNOWN), 1, spec).wall_s
    for part in ("epoch_s", "test_s", "run_s"):
        more = costs(KNOWN, **{part: getattr(costs(KNOWN), part) + 0.5})
        assert planned_time(plan, more, 1, spec).wall_s > plain + 0.4, part
    profiled = {name: cost._replace(profile_s=0.5) for name, cost in KNOWN.items()}
    assert planned_time(plan, costs(profiled), 1, spec).wall_s == plain + 2 * 0.5
    untrained = planned_time(plan, costs(UNTRAINED), 1, spec)
    # Training, the validation split of each teacher and all of their views.
    assert untrained.wall_s == pytest.approx(plain + 2 * 20 + 2 * 2 + 2 * 3 * 2, abs=2 * 2)
    assert untrained.logits_s == pytest.approx(2 * 3 * 2, abs=2 * 2)


@pytest.mark.slow
def test_more_workers_need_less_time_and_never_more_than_their_share_less():
    spec = resolve(options(budget="30"))
    plan = plan_for(spec, None)
    found = [planned_time(plan, costs(KNOWN), workers, spec).wall_s - 2.0 for workers in (1, 2, 4, 8)]
    assert found == sorted(found, reverse=True)
    for workers, seconds in zip((1, 2, 4, 8), found, strict=True):
        assert seconds >= found[0] / workers


@pytest.mark.slow
def test_what_is_spent_is_not_planned_again(done):
    spec = resolve(options())
    plan = plan_for(spec, None)
    whole = planned_time(plan, costs(KNOWN), 1, spec).wall_s
    lefts = []
    for spent in range(0, 34, 3):
        kept = done.model_copy(update={"spent_epochs": spent})
        lefts.append(planned_time(plan, costs(KNOWN), 1, spec, kept=kept).wall_s)
    assert lefts[0] == whole
    assert lefts == sorted(lefts, reverse=True)
    assert lefts[-1] == pytest.approx(2.0, abs=1.0), "the report"


@pytest.mark.slow
def test_the_plan_of_a_fake_study_is_what_it_takes(clock):
    """Epochs of 0.1 s, and nothing else takes time: the phases of students are planned within 0.7 to 1.4 of that."""
    behave({"*": Behaviour(epoch_s=0.1)})

    def slow(spec):
        def work(task, context):
            if isinstance(task, MeasureStudentTask):
                epoch, none = Line(once_s=0.1), Line()
                return StudentTimes(
                    training=epoch, targets=none, evaluation_s=0.0, build_s=0.0, fit_s=0.0, profile_s=0.0
                )
            if isinstance(task, MeasureTeacherTask):
                return TeacherTimes(view_s=0.0)
            return fake_work(task, context)

        return SerialExecutor(spec.setup, data=spec.data, work=work)

    timing = fake(options(), executor_for=slow).timing
    phases = ("baselines and priors", "search", "confirm")
    planned, took = (sum(timing[kind][phase] for phase in phases) for kind in ("planned_s", "phases_s"))
    assert planned == pytest.approx(33 * 0.1, abs=0.1)
    assert planned <= 1.4 * took
    assert took <= planned / 0.7


# What is left

PLAN = TimePlanned(
    phases_s={"teachers": 40.0, "profiles": 2.0, "baselines and priors": 100.0, "search": 50.0, "confirm": 60.0},
    logits_s=12.0,
)
EPOCH = EpochEvent(run="a", epochs=10, record=EpochRecord(epoch=1, train_loss=1.0, hard_loss=1.0), wall_s=1.0)
STEP = TaskProgress(task="teacher", done=1, total=10)


def reused(epochs: int) -> RunEnded:
    record = RunResult(run="kept", params=TrialParams(), seed=0, epochs=epochs, state="failed", error="it was cut")
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


@pytest.fixture
def told(clock: object) -> tuple[list[Event], StudyRecord]:
    """The events of a study whose every task takes a while."""
    events: list[Event] = []
    behave({"*": Behaviour(epoch_s=0.2), "agreement": Behaviour(epoch_s=0.4)})
    return events, fake(options(), events.append)


@pytest.mark.slow
def test_what_is_left_is_told_now_and_then(told):
    events, record = told
    lefts = [it.wall_s for it in events if isinstance(it, TimeLeft)]
    phases = sum(isinstance(it, PhaseStarted) for it in events)
    took = sum(record.timing["phases_s"].values())
    assert 3 <= len(lefts) <= took + phases
    assert lefts[-1] < lefts[0]


@pytest.mark.slow
def test_a_phase_lasts_until_the_next_one_begins_though_it_has_nothing_to_tell(told):
    _, record = told
    assert record.timing["phases_s"]["profiles"] >= 0.4, "the agreement is computed in it, without an event"
    assert record.timing["phases_s"]["teachers"] >= 4 * 0.2, "checks and profiles"
    assert record.timing["phases_s"]["confirm"] == pytest.approx(12 * 0.2)


@pytest.mark.slow
def test_without_measurements_nothing_is_said_of_time():
    def blind(spec):
        def work(task, context):
            return None if isinstance(task, MeasureStudentTask) else fake_work(task, context)

        return SerialExecutor(spec.setup, data=spec.data, work=work)

    events: list[Event] = []
    record = fake(options(), events.append, executor_for=blind)
    assert not any(isinstance(it, TimeLeft) for it in events)
    assert not any(isinstance(it, Note) and it.text.startswith("time:") for it in events)
    assert record.timing["planned_s"] == {}


@pytest.mark.slow
def test_a_continued_study_keeps_the_plan_of_its_first_process(faked):
    planned = faked.record.timing["planned_s"]
    with pytest.raises(Killed):
        fake(options(study="mine"), kill_after(40))
    record = fake(options(study="mine"))
    assert record.timing["planned_s"].keys() == planned.keys()
    assert record.timing["planned_s"] == pytest.approx(planned, abs=0.2)


def test_a_plan_in_words():
    assert describe_time(PLAN) == (
        "about 4 min: teachers 40 s, profiles 2 s, baselines and priors 2 min, search 50 s, confirm 60 s; "
        "teacher logits are 10 s of it"
    )
    nothing = TimePlanned(phases_s={"teachers": 0.0, "confirm": 0.0}, logits_s=0.0)
    assert describe_time(nothing) == "about 0 s: nothing to train"
