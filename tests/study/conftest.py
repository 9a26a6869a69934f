"""The reference study, made once, and what a test of another takes from it."""

import shutil
from collections.abc import Iterator

import pytest
from small_studies import Here, Reference, briefly, drive, request

from autodistill.records import (
    StudyRecord,
)
from autodistill.study import running as running_module


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    briefly(monkeypatch)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_module, "Pool", Here)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """A study by two processes with a cold cache."""
    place = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        briefly(patch)
        patch.setenv("AUTODISTILL_CACHE", str(place / "cache"))
        patch.chdir(place)
        record = drive(request(workers=2))
    return Reference(record, place / "cache", place)


@pytest.fixture
def warm(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that holds the teachers and all their logits."""
    monkeypatch.setenv("AUTODISTILL_CACHE", str(reference.cache))


@pytest.fixture
def finished(reference: Reference, here: None, warm: None) -> StudyRecord:
    """The finished reference study in the folder here."""
    shutil.copytree(reference.place / "runs", "runs")
    return reference.record
