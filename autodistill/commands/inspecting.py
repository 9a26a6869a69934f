"""`teachers inspect`: the teachers' dark knowledge, without a search."""

from collections.abc import Generator, Iterator
from pathlib import Path

from autodistill import console
from autodistill import data as datasets
from autodistill.commands.teaching import prepared_for
from autodistill.errors import ConfigError
from autodistill.records import Event, InspectionRecord
from autodistill.report import render_inspection
from autodistill.report.sections.agreement import agreement_info
from autodistill.report.sections.knowledge import knowledge_info
from autodistill.report.sections.parts import Cell, Table
from autodistill.report.sections.temperatures import temperatures_info
from autodistill.study import Prepared, Request, checked, compared_teachers
from autodistill.workers import Pool


def inspect_teachers(request: Request, *, as_json: bool, to: Path | None) -> None:
    """Print the teachers' dark knowledge, and render it as a page in the folder `to`; trains nothing."""
    prepared = prepared_for(request)
    names = _trained(prepared)
    size, data = min(request.workers, len(names)), prepared.data
    with console.Watch(quiet=False) as watch, Pool(size, prepared.setup, data=data) as pool:
        record = watch.follow(_inspected(prepared, names, pool))
    if as_json:
        console.show_json(record.model_dump(mode="json"))
    else:
        show_inspection(record)
    if to is not None:
        console.show_note(f"Page: {render_inspection(record, to)}")


def _trained(prepared: Prepared) -> list[str]:
    """Names of the teachers that can be looked at; says which cannot.

    Raises:
        ConfigError: none can.
    """
    untrained = set(prepared.untrained)
    names = [name for name, uri in prepared.teachers.items() if uri not in untrained]
    missing = [name for name in prepared.teachers if name not in names]
    train = f"autodistill teachers train --space {prepared.request.space}"
    if not names:
        raise ConfigError(f"none of the teachers is trained yet: {', '.join(prepared.teachers)}", train)
    if missing:
        console.show_note(f"left out, not trained yet: {', '.join(missing)}. To train them: {train}")
    return names


def _inspected(prepared: Prepared, names: list[str], pool: Pool) -> Generator[Event, None, InspectionRecord]:
    teachers, _ = yield from checked(names, run=pool.run)
    agreement = yield from compared_teachers(teachers, run=pool.run)
    data = datasets.record(prepared.data, spec=prepared.space.data, views=prepared.views)
    return InspectionRecord(data=data, teachers=teachers, agreement=agreement)


def show_inspection(record: InspectionRecord) -> None:
    """Print the tables of the report's sections, then the claims."""
    knowledge = knowledge_info(record)
    for table in _tables(record):
        columns = [f">{column.label}" if column.number else column.label for column in table.columns]
        console.show_table(table.caption, columns, [[_text(cell) for cell in row.cells] for row in table.rows])
    for claim in knowledge.claims:
        console.show_text(f"{claim.said} {claim.found}")


def _tables(record: InspectionRecord) -> Iterator[Table]:
    """The tables of the report's sections, those behind its charts included."""
    infos = (knowledge_info(record), temperatures_info(record), agreement_info(record))
    found = (infos[0].table, *(info.figure.table for info in infos if info.figure))
    yield from (table for table in found if table is not None)


def _text(cell: Cell) -> str:
    return f"{cell.text} ({cell.below})" if cell.below else cell.text
