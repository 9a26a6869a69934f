"""Every section, over studies of every shape: made, pure, and placed in both templates."""

import dataclasses
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from factories import STUDIES

from autodistill.records import StudyRecord
from autodistill.report import SECTIONS
from autodistill.report.parts import MAX_ROWS, Table
from autodistill.stats.verdict import recommend

pytestmark = pytest.mark.slow

SECTION_NAMES = list(SECTIONS)


@pytest.fixture(scope="module", params=list(STUDIES))
def record(request: pytest.FixtureRequest) -> StudyRecord:
    made = STUDIES[request.param]()
    return made.model_copy(update={"recommendation": recommend(made)})


def tables(value: Any) -> Iterator[Table]:
    if isinstance(value, Table):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tables(getattr(value, field.name))
    elif isinstance(value, tuple):
        for one in value:
            yield from tables(one)


@pytest.mark.parametrize("name", SECTION_NAMES)
def test_a_section_is_a_pure_function_of_the_record(name: str, record: StudyRecord) -> None:
    assert SECTIONS[name](record) == SECTIONS[name](record)


@pytest.mark.parametrize("name", SECTION_NAMES)
def test_tables_are_whole(name: str, record: StudyRecord) -> None:
    for table in tables(SECTIONS[name](record)):
        assert table.caption
        assert len(table.rows) <= MAX_ROWS
        assert all(len(row.cells) == len(table.columns) for row in table.rows)
        assert all(row.cells[0].text.strip() for row in table.rows)


@pytest.mark.parametrize("name", SECTION_NAMES)
def test_a_figure_has_words_and_numbers(name: str, record: StudyRecord) -> None:
    info = SECTIONS[name](record)
    if info.figure is None:
        return
    assert info.figure.finding.endswith(".")
    assert info.figure.alt.endswith(".")
    assert info.figure.table.rows


@pytest.mark.parametrize("template", ["report.html.j2", "report.md.j2"])
@pytest.mark.parametrize("name", SECTION_NAMES)
def test_section_is_placed(name: str, template: str) -> None:
    text = files("autodistill.report").joinpath("templates", template).read_text(encoding="utf-8")
    assert f"{name}." in text
