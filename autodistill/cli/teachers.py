"""`teachers list|train|adapt|check|inspect`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autodistill import console
from autodistill import data as datasets
from autodistill.console import Display, percent
from autodistill.errors import ConfigError
from autodistill.executors import CheckTask, LocalExecutor, Refusal, SerialExecutor
from autodistill.formatting import command_line, count
from autodistill.images_table import show_images
from autodistill.options import search_options
from autodistill.records import TRAINED_HERE, InspectionRecord, TeacherRecord
from autodistill.report import render_inspection
from autodistill.report.teachers import knowledge_info
from autodistill.running import shown_loading
from autodistill.study import StudySpec, leave_out, prepare_teachers, resolve
from autodistill.teachers import adaptation, with_equals
from autodistill.teachers.ladder import IMAGENET


def list_teachers(*, output: str, **flags: Any) -> None:
    """Print the teachers of a space; mark those that autodistill has still to train."""
    spec = _resolved(**flags)
    missing = spec.unready
    records, left_out = _checked(spec, [name for name in spec.teachers if name not in missing])
    places = dict(spec.teachers)
    for name, uri in spec.teachers.items():
        if name in missing:
            places[name] = "not trained yet"
        elif uri.startswith(TRAINED_HERE):
            places[name] = str(spec.path_of(uri))
        elif name in left_out:
            places[name] = f"{uri}: left out"
    if output == "json":
        teachers = []
        for name, uri in spec.teachers.items():
            record = records[name].model_dump(mode="json") if name in records else {}
            teachers.append({"name": name, "uri": uri, "place": places[name], **record})
        console.show_json({"schema_version": 1, "teachers": teachers})
    else:
        _show(records, places)


def train_teachers(**flags: Any) -> None:
    """Train missing teachers: all teachers of a space, or the named teachers only."""
    _train_missing(_resolved(**flags))


def adapt_teachers(*, source: Sequence[str], **flags: Any) -> None:
    """Adapt pretrained networks to the classes of the data; adapted ones are only shown."""
    uris = [uri if uri == IMAGENET or uri.startswith(adaptation.SCHEME) else adaptation.SCHEME + uri for uri in source]
    spec = _resolved(teachers=uris, **flags)
    _train_missing(spec)
    search = command_line("search", "--student", "mobilenetv2", **_data_options(flags), teacher=uris)
    console.show_note(f"Next: {search}")


def _data_options(flags: Mapping[str, Any]) -> dict[str, str | Sequence[str] | None]:
    """Return the options that name data and space again in another command."""
    return {"data": flags.get("data"), "space": flags.get("space"), "set": flags.get("overrides")}


def _train_missing(spec: StudySpec) -> None:
    show_images(spec)
    missing = spec.training_of(list(reversed(spec.teachers)))
    if missing:
        with Display() as display, LocalExecutor(spec.options.workers, spec.setup, data=spec.data) as executor:
            executor.run(missing, display.show)
    records, _ = _checked(spec, list(spec.teachers))
    _show(records, spec.teachers)


def check_teachers(*, teacher: Sequence[str], output: str, **flags: Any) -> None:
    """Check teachers; the first error ends the command, unless the teacher is a file of a folder with others."""
    spec = _resolved(teachers=teacher, **flags)
    checked, left_out = _checked(spec, list(spec.teachers))
    if output == "json":
        records = [record.model_dump(mode="json") for record in checked.values()]
        console.show_json({"schema_version": 1, "teachers": records, "left_out": left_out})
    else:
        _show(checked, {name: record.uri for name, record in checked.items()})


def _resolved(**flags: Any) -> StudySpec:
    """Resolve the flags of a command about teachers, with an arbitrary student and no plan."""
    options = search_options(student="resnet8", **flags)
    with shown_loading() as load_data:
        spec = resolve(options, planned=False, load_data=load_data)
    for note in spec.notes:
        console.show_note(f"warning: {note}")
    return spec


def _checked(spec: StudySpec, names: Sequence[str]) -> tuple[dict[str, TeacherRecord], dict[str, str]]:
    """Check teachers in this process; return their records, and the reasons for files left out, by name."""
    with Display() as display, SerialExecutor(spec.setup, data=spec.data) as executor:
        records = executor.run([CheckTask(name=name, optional=name in spec.optional) for name in names], display.show)
        refused = {name: it for name, it in zip(names, records, strict=True) if isinstance(it, Refusal)}
        reasons = leave_out(spec, refused, display.show)
    checked = with_equals([record for record in records if isinstance(record, TeacherRecord)])
    return {record.name: record for record in checked}, {**spec.left_out, **reasons}


def _show(records: Mapping[str, TeacherRecord], places: Mapping[str, str]) -> None:
    """Print the table of the teachers in `places`, which says where each teacher is, and the notes of their checks."""
    rows: list[Sequence[object]] = []
    for name, place in places.items():
        facts: Sequence[object] = [None] * 8
        if (record := records.get(name)) is not None:
            balanced = percent(record.val_balanced_top1)
            scores = (percent(record.val_top1), balanced, f"{record.val_nll:.3f}", percent(record.val_ece))
            cost = record.cost
            sizes = tuple(None if it is None else count(it) for it in (cost.params, cost.macs, cost.size_bytes))
            facts = (*scores, *sizes, record.normalisation)
        rows.append((name, *facts, place))
    columns = ("name", ">val %", ">balanced %", ">NLL", ">ECE %", ">params", ">MACs", ">size", "normalisation", "where")
    console.show_table("Teachers", columns, rows)
    for name in places:
        for note in records[name].notes if name in records else ():
            console.show_note(f"teacher {name}: {note}")


def inspect_teachers(*, output: str, to: Path | None, teacher: Sequence[str] | None = None, **flags: Any) -> None:
    """Print the profiles of teachers; render them as a page in the folder `to`.

    Raises:
        ConfigError: No teacher is trained. Only a note names the missing teachers if another is trained.
    """
    spec = _resolved(teachers=teacher, **flags)
    unready = spec.unready
    names = [name for name in spec.teachers if name not in unready]
    same = _data_options({**flags, "space": spec.options.space})
    adapted = [uri for uri in spec.untrained if teacher and uri.startswith(adaptation.SCHEME)]
    commands = [command_line("teachers", "adapt", *adapted, **same)] if adapted else []
    if len(adapted) < len(spec.untrained):
        commands.append(command_line("teachers", "train", **same, teacher=teacher))
    train = " && ".join(commands)
    if not names:
        raise ConfigError(f"none of the teachers is trained yet: {', '.join(spec.teachers)}", train)
    if missing := [name for name in spec.teachers if name not in names]:
        console.show_note(f"left out, not trained yet: {', '.join(missing)}. To train them: {train}")
    size = min(spec.options.workers, len(names))
    with Display() as display, LocalExecutor(size, spec.setup, data=spec.data) as executor:
        prepared = prepare_teachers(names, executor, display.show, optional=spec.optional)
        left_out = {**spec.left_out, **leave_out(spec, prepared.refused, display.show)}
    data = datasets.record(spec.data, spec=spec.space.data, views=spec.views)
    record = InspectionRecord(data=data, teachers=prepared.teachers, left_out=left_out, agreement=prepared.agreement)
    if output == "json":
        console.show_json(record.model_dump(mode="json"))
    else:
        show_inspection(record)
    if to is not None:
        console.show_note(f"Page: {render_inspection(record, to)}")


def show_inspection(record: InspectionRecord) -> None:
    """Print the tables of the report's sections, including those of its charts, then the claims."""
    knowledge = knowledge_info(record)
    for table in (knowledge.table, *(part.figure.table for part in knowledge.parts if part.figure)):
        if table is not None:
            columns = [f">{column.label}" if column.number else column.label for column in table.columns]
            cells = [
                [f"{cell.text} ({cell.below})" if cell.below else cell.text for cell in row.cells] for row in table.rows
            ]
            console.show_table(table.caption, columns, cells)
    for said, found in knowledge.points:
        console.show_text(f"{said} {found}")
