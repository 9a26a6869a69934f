"""The study that the tests export, and what was written."""

import pytest
from small_exports import SMALL, STUDENT, write_study

from autodistill.export import chosen, export_student
from autodistill.records import read_study
from autodistill.study import SearchOptions, resolve


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of two confirmed finalists, trained for real: its specification and the cache."""
    place = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTODISTILL_CACHE", str(place / "cache"))
        asked = SearchOptions(student=STUDENT, space="smoke", study="digits-small", runs=str(place), overrides=SMALL)
        spec = resolve(asked.model_copy(update={"command": "autodistill search --student resnet8:0.25"}))
        write_study(spec)
    return spec, place / "cache"


@pytest.fixture
def folder(study, monkeypatch):
    spec, cache = study
    monkeypatch.setenv("AUTODISTILL_CACHE", str(cache))
    return spec.folder


@pytest.fixture
def record(folder):
    return read_study(folder.record)


@pytest.fixture(scope="module")
def exported(study, tmp_path_factory):
    """What `export` made of the study, in every format that can be had here."""
    spec, _ = study
    place = tmp_path_factory.mktemp("export") / "student"
    record = read_study(spec.folder.record)
    found = export_student(record, spec.folder, space=spec.space, to=place, formats=chosen(""))
    return place, found
