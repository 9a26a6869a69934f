"""How long the parts of runs take: measured quickly whatever the network, and without a trace."""

import itertools
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from executor_parts import LADDER, PARAMS, SPACE, Here, diverging
from torch import Tensor, nn

from autodistill.executors import MeasureStudentTask, MeasureTeacherTask, StudentTimes, TeacherTimes, TrainTeacherTask
from autodistill.executors import measuring as module
from autodistill.executors.measuring import line_through, measure_student
from autodistill.records import Note

slow = pytest.mark.slow


def test_the_time_of_an_epoch_follows_from_shorter_ones():
    assert line_through((8,), (2.0,)).seconds(80) == pytest.approx(20.0), "in proportion"
    assert line_through((16, 64), (26.0, 74.0)).seconds(400) == pytest.approx(410.0), "10 once, 1 a step"
    assert line_through((16, 64), (26.0, 20.0)).seconds(400) == 20.0, "noise"


@slow
def test_measuring_writes_nothing(tmp_path):
    worker = Here(tmp_path)
    student = worker.do(MeasureStudentTask(params=PARAMS, seconds=0))
    weak = worker.do(MeasureTeacherTask(name="weak", untrained=True, seconds=0))
    assert isinstance(student, StudentTimes)
    assert isinstance(weak, TeacherTimes)
    assert 0 < student.targets.seconds(4) < student.training.seconds(4)
    assert min(student.evaluation_s, student.build_s, student.fit_s, student.profile_s) > 0
    assert min(weak.training.seconds(4), weak.view_s) > 0
    assert list(tmp_path.iterdir()) == []


@slow
def test_the_training_of_an_early_stopped_teacher_and_of_an_assistant_is_measured(tmp_path):
    teachers = {"weak": LADDER, "early": f"{LADDER}@3", "taught": "assistant:resnet8:0.25?teacher=weak"}
    worker = Here(tmp_path, teachers=teachers, sources={teachers["taught"]: "s"})
    for name in ("early", "taught"):
        found = worker.do(MeasureTeacherTask(name=name, untrained=True, seconds=0))
        assert min(found.training.seconds(4), found.view_s) > 0
    assert list(tmp_path.iterdir()) == []


class Slow(nn.Module):
    """A network that says how many images it is shown."""

    def __init__(self, shown: Callable[[int], None]) -> None:
        super().__init__()
        self.shown = shown
        self.layer = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        self.shown(len(images))
        return self.layer(images.flatten(1))


def measured(tmp_path, shown: Callable[[int], None]) -> StudentTimes:
    context = Here(tmp_path).context
    context.student = lambda seed: Slow(shown)
    return measure_student(MeasureStudentTask(params=PARAMS, seconds=0.4), context)


@pytest.mark.parametrize("image_s", [pytest.param(0.0001, marks=slow), 0.01, 0.3, 20.0])
@pytest.mark.parametrize("cold_s", [0.0, 5.0])
def test_measuring_takes_as_long_for_a_slow_network_as_for_a_fast_one(monkeypatch, tmp_path, image_s, cold_s):
    """A slow network is trained three times on the two images that BatchNorm needs. First passes do not count."""
    now, batches = [0.0], set[int]()

    def shown(images: int) -> None:
        now[0] += image_s * images + (0.0 if images in batches else cold_s)
        batches.add(images)

    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    found = measured(tmp_path, shown)
    assert found.training.seconds(1) == pytest.approx(image_s * SPACE.training.batch_size)
    slow = 2 * image_s >= 0.5
    assert found.evaluation_s == pytest.approx(image_s / 3 if slow else image_s)
    assert now[0] - len(batches) * cold_s == pytest.approx(3 * 2 * image_s) if slow else now[0] < 4.0 + 10 * cold_s


def test_a_pause_of_the_machine_is_not_taken_for_a_slow_network(monkeypatch, tmp_path):
    """The second step, the first that counts, takes two seconds more than it should."""
    now, steps = [0.0], [0]

    def shown(images: int) -> None:
        steps[0] += 1
        now[0] += 0.001 * images + (2.0 if steps[0] == 2 else 0.0)

    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    found = measured(tmp_path, shown)
    assert found.training.seconds(1) == pytest.approx(0.001 * SPACE.training.batch_size)
    assert found.evaluation_s == pytest.approx(0.001)


@slow
def test_a_clock_that_ticks_seldom_is_no_division_by_zero(monkeypatch, tmp_path):
    ticks = (float(it // 41) for it in itertools.count())
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=ticks.__next__))
    context = Here(tmp_path).context
    assert measure_student(MeasureStudentTask(params=PARAMS, seconds=0.1), context).training.seconds(1) >= 0


@slow
def test_a_trained_teacher_has_no_training_to_measure(tmp_path):
    worker = Here(tmp_path)
    worker.do(TrainTeacherTask(uri=LADDER))
    weak = worker.do(MeasureTeacherTask(name="weak", seconds=0))
    assert weak.training.seconds(4) == 0
    assert weak.view_s > 0


@slow
def test_a_measurement_that_fails_is_a_warning_and_ends_nothing(tmp_path):
    worker = Here(tmp_path, space=diverging())
    assert worker.do(MeasureStudentTask(params=PARAMS, seconds=0)) is None
    (note,) = worker.events
    assert isinstance(note, Note)
    assert note.warning
    assert note.text.startswith("how long the study takes is not known: the loss became")
