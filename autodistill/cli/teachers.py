"""`teachers list|train|check|inspect`."""

from collections.abc import Iterator
from pathlib import Path

from autodistill import data as datasets
from autodistill.cli import console
from autodistill.cli.progress import Display, shown_loading
from autodistill.errors import ConfigError
from autodistill.executors import CheckTask, LocalExecutor, SerialExecutor, TrainTeacherTask
from autodistill.formatting import count
from autodistill.records import InspectionRecord, TeacherRecord
from autodistill.report import render_inspection
from autodistill.report.parts import Cell, Table
from autodistill.report.teachers import agreement_info, knowledge_info, temperatures_info
from autodistill.store import cache_root
from autodistill.study import SearchOptions, StudySpec, prepare_teachers, resolve
from autodistill.teachers.ladder import SCHEME, path_of


def list_teachers(options: SearchOptions, *, as_json: bool) -> None:
    """Print the teachers of a space; mark those of the default ladder that are not trained yet."""
    spec = resolved_for(options)
    missing = set(spec.untrained)
    records = checked(spec, [name for name, uri in spec.teachers.items() if uri not in missing])
    rows = []
    for name, uri in spec.teachers.items():
        record = records.get(name)
        where = uri
        if uri in missing:
            where = "not trained yet"
        elif uri.startswith(SCHEME):
            where = str(path_of(uri, root=cache_root(), data=spec.data.fingerprint, space=spec.space))
        rows.append((name, uri, record, where))
    if as_json:
        console.show_json(
            {
                "schema_version": 1,
                "teachers": [
                    {"name": name, "uri": uri, "place": where, **(record.model_dump(mode="json") if record else {})}
                    for name, uri, record, where in rows
                ],
            }
        )
        return
    _show_teachers([(name, record, where) for name, _, record, where in rows])


def train_teachers(options: SearchOptions) -> None:
    """Train the missing teachers of a space's default ladder."""
    spec = resolved_for(options)
    missing = [TrainTeacherTask(uri=uri) for uri in spec.untrained]
    with Display() as display, LocalExecutor(options.workers, spec.setup, data=spec.data) as executor:
        executor.run(missing, display.show)
    records = checked(spec, list(spec.teachers))
    _show_teachers([(name, records[name], uri) for name, uri in spec.teachers.items()])


def check_teachers(options: SearchOptions, *, as_json: bool) -> None:
    """Check teachers; the first error ends the command."""
    spec = resolved_for(options)
    records = list(checked(spec, list(spec.teachers)).values())
    if as_json:
        console.show_json({"schema_version": 1, "teachers": [record.model_dump(mode="json") for record in records]})
    else:
        _show_teachers([(record.name, record, record.uri) for record in records])


def checked(spec: StudySpec, names: list[str]) -> dict[str, TeacherRecord]:
    """Check teachers in this process; return their records by name."""
    with Display() as display, SerialExecutor(spec.setup, data=spec.data) as executor:
        records = executor.run([CheckTask(name=name) for name in names], display.show)
    return {record.name: record for record in records if isinstance(record, TeacherRecord)}


def resolved_for(options: SearchOptions) -> StudySpec:
    """Resolve the options of a command about teachers, with an arbitrary student and no plan."""
    with shown_loading() as load_data:
        return resolve(options.model_copy(update={"student": "resnet8"}), planned=False, load_data=load_data)


def _show_teachers(rows: list[tuple[str, TeacherRecord | None, str]]) -> None:
    columns = ("name", ">val %", ">NLL", ">ECE %", ">params", ">MACs", ">size", "normalisation", "where")
    table: list[tuple[object, ...]] = []
    for name, record, where in rows:
        if record is None:
            table.append((name, None, None, None, None, None, None, None, where))
            continue
        cost = record.cost
        scores = (console.percent(record.val_top1), f"{record.val_nll:.3f}", console.percent(record.val_ece))
        sizes = (count(cost.params), count(cost.macs), count(cost.size_bytes) + "B")
        table.append((name, *scores, *sizes, record.normalisation, where))
    console.show_table("Teachers", columns, table)


def inspect_teachers(options: SearchOptions, *, as_json: bool, to: Path | None) -> None:
    """Print the profiles of teachers; render them as a page in the folder `to`."""
    spec = resolved_for(options)
    names = _trained(spec)
    size = min(options.workers, len(names))
    with Display() as display, LocalExecutor(size, spec.setup, data=spec.data) as executor:
        teachers, agreement, _ = prepare_teachers(names, executor, display.show)
    data = datasets.record(spec.data, spec=spec.space.data, views=spec.views)
    record = InspectionRecord(data=data, teachers=teachers, agreement=agreement)
    if as_json:
        console.show_json(record.model_dump(mode="json"))
    else:
        show_inspection(record)
    if to is not None:
        console.show_note(f"Page: {render_inspection(record, to)}")


def _trained(spec: StudySpec) -> list[str]:
    """Return the names of the trained teachers; print a note about the others.

    Raises:
        ConfigError: No teacher is trained.
    """
    untrained = set(spec.untrained)
    names = [name for name, uri in spec.teachers.items() if uri not in untrained]
    missing = [name for name in spec.teachers if name not in names]
    train = f"autodistill teachers train --space {spec.options.space}"
    if not names:
        raise ConfigError(f"none of the teachers is trained yet: {', '.join(spec.teachers)}", train)
    if missing:
        console.show_note(f"left out, not trained yet: {', '.join(missing)}. To train them: {train}")
    return names


def show_inspection(record: InspectionRecord) -> None:
    """Print the tables of the report's sections, then the claims."""
    for table in _tables(record):
        columns = [f">{column.label}" if column.number else column.label for column in table.columns]
        console.show_table(table.caption, columns, [[_text(cell) for cell in row.cells] for row in table.rows])
    for said, found in knowledge_info(record).points:
        console.show_text(f"{said} {found}")


def _tables(record: InspectionRecord) -> Iterator[Table]:
    """Yield the tables of the report's sections, including those of its charts."""
    infos = (knowledge_info(record), temperatures_info(record), agreement_info(record))
    tables = (infos[0].table, *(info.figure.table for info in infos if info.figure))
    yield from (table for table in tables if table is not None)


def _text(cell: Cell) -> str:
    return f"{cell.text} ({cell.below})" if cell.below else cell.text
