"""Every section, over studies of every shape: made and pure."""

import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest
from factories import STUDIES

from autodistill.records import StudyRecord
from autodistill.report import SECTIONS
from autodistill.report.parts import MAX_ROWS, Figure, Table
from autodistill.stats.verdict import recommend

pytestmark = pytest.mark.slow

SECTION_NAMES = list(SECTIONS)
T = TypeVar("T")


@pytest.fixture(scope="module", params=list(STUDIES))
def record(request: pytest.FixtureRequest) -> StudyRecord:
    made = STUDIES[request.param]()
    return made.model_copy(update={"recommendation": recommend(made)})


def every(kind: type[T], value: Any) -> Iterator[T]:
    """Yield the values of a type in a section, its parts included."""
    if isinstance(value, kind):
        yield value
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from every(kind, getattr(value, field.name))
    elif isinstance(value, tuple):
        for one in value:
            yield from every(kind, one)


@pytest.mark.parametrize("name", SECTION_NAMES)
def test_a_section_is_a_pure_function_of_the_record(name: str, record: StudyRecord) -> None:
    assert SECTIONS[name](record) == SECTIONS[name](record)


@pytest.mark.parametrize("name", SECTION_NAMES)
def test_tables_are_whole(name: str, record: StudyRecord) -> None:
    for table in every(Table, SECTIONS[name](record)):
        assert table.caption
        assert len(table.rows) <= MAX_ROWS
        assert all(len(row.cells) == len(table.columns) for row in table.rows)
        assert all(row.cells[0].text.strip() for row in table.rows)


@pytest.mark.parametrize("name", SECTION_NAMES)
def test_a_figure_has_words_and_numbers(name: str, record: StudyRecord) -> None:
    for figure in every(Figure, SECTIONS[name](record)):
        assert figure.finding.endswith(".")
        assert figure.alt.endswith(".")
        assert figure.table.rows


def test_figures_have_names_of_their_own(record: StudyRecord) -> None:
    names = [figure.name for section in SECTIONS.values() for figure in every(Figure, section(record))]
    assert len(set(names)) == len(names)
