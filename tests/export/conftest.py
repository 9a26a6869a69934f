"""The study that the tests export, and what was written."""

import pytest
from small_exports import SMALL, STUDENT, write_study

from autodistill.export import chosen, export_student
from autodistill.records import (
    read_study,
)
from autodistill.study import Request, prepare


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of two confirmed finalists, trained for real: its prepared request and its run folder."""
    place = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTODISTILL_CACHE", str(place / "cache"))
        request = Request(student=STUDENT, space="smoke", study="digits-small", runs=str(place), overrides=SMALL)
        prepared = prepare(request.model_copy(update={"command": "autodistill search --student resnet8:0.25"}))
        write_study(prepared)
    return prepared, place / "cache"


@pytest.fixture
def folder(study, monkeypatch):
    prepared, cache = study
    monkeypatch.setenv("AUTODISTILL_CACHE", str(cache))
    return prepared.folder


@pytest.fixture
def record(folder):
    return read_study(folder.record)


@pytest.fixture(scope="module")
def exported(study, tmp_path_factory):
    """What `export` made of the study, in every format that can be had here."""
    prepared, _ = study
    place = tmp_path_factory.mktemp("export") / "student"
    record = read_study(prepared.folder.record)
    found = export_student(record, prepared.folder, space=prepared.space, to=place, formats=chosen(""))
    return place, found
