"""Two finished studies, made once: one with real training, one without; a clock; studies without a database."""

import shutil

import fake_trainer
import pytest
from small_studies import Reference, drive, fake, options, placed

from autodistill.records import StudyRecord
from autodistill.searching import Mirror
from autodistill.study import recorder
from autodistill.study.run import local_executor


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A study with real training by two processes, with a cold cache."""
    place = tmp_path_factory.mktemp("reference")
    with placed(place):
        record = drive(options(workers=2), executor_for=local_executor)
    return Reference(record, place / "cache", place)


@pytest.fixture
def warm(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that holds the teachers and all their logits."""
    monkeypatch.setenv("AUTODISTILL_CACHE", str(reference.cache))


@pytest.fixture
def finished(reference: Reference, warm: None) -> StudyRecord:
    """The finished reference study in this folder."""
    shutil.copytree(reference.place / "runs", "runs")
    return reference.record


@pytest.fixture(scope="session")
def faked(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A study without training."""
    place = tmp_path_factory.mktemp("faked")
    with placed(place):
        record = fake(options())
    return Reference(record, place / "cache", place)


@pytest.fixture
def done(faked: Reference) -> StudyRecord:
    """The finished study without training in this folder, with a cold cache."""
    shutil.copytree(faked.place / "runs", "runs")
    return faked.record


class Clock:
    """Stands for the module `time`: sleeping takes no time, and nothing else takes any."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of a study without training in this process, which only the fake trainer moves."""
    clock = Clock()
    for module in (recorder, fake_trainer):
        monkeypatch.setattr(module, "time", clock)
    return clock


class NoCopy(Mirror):
    """Writes nothing: writing to the database takes most of the time of a study without training."""

    def write(self, _: object) -> None:
        return None

    def close(self, _: object) -> None:
        return None


@pytest.fixture
def uncopied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies write no copy of their trials to a database."""
    monkeypatch.setattr("autodistill.study.run.Mirror", NoCopy)
