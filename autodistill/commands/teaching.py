"""`teachers list|train|check`."""

from autodistill import console
from autodistill.commands.loading import shown_loading
from autodistill.formatting import count
from autodistill.ladder import SCHEME, path_of
from autodistill.records import Note, TaskProgress, TeacherRecord
from autodistill.store import cache_root
from autodistill.study import Prepared, Request, prepare
from autodistill.workers import CheckTask, LadderTask, Pool, Workplace


def list_teachers(request: Request, *, as_json: bool) -> None:
    """Print a space's teachers; those of the ladder that are not trained yet are marked."""
    prepared = prepared_for(request)
    place = Workplace(prepared.setup, data=prepared.data)
    missing = set(prepared.untrained)
    rows = []
    for name, uri in prepared.teachers.items():
        record = checked(place, name) if uri not in missing else None
        kept = (
            path_of(uri, root=cache_root(), data=prepared.data, space=prepared.space)
            if uri.startswith(SCHEME)
            else uri
        )
        rows.append((name, uri, record, "not trained yet" if uri in missing else str(kept)))
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


def train_teachers(request: Request) -> None:
    """Train what is missing of a space's ladder."""
    prepared = prepared_for(request)
    missing = [LadderTask(uri=uri) for uri in prepared.untrained]
    with console.Watch(quiet=False) as watch, Pool(request.workers, prepared.setup, data=prepared.data) as pool:
        for message in pool.run(missing):
            if isinstance(message, TaskProgress | Note):
                watch.show(message)
        names = [CheckTask(name=name) for name in prepared.teachers]
        records = {it.name: it for it in pool.run(names) if isinstance(it, TeacherRecord)}
    _show_teachers([(name, records[name], uri) for name, uri in prepared.teachers.items()])


def check_teachers(request: Request, *, as_json: bool) -> None:
    """Check teachers; the first that fails ends with its error."""
    prepared = prepared_for(request)
    place = Workplace(prepared.setup, data=prepared.data)
    records = [checked(place, name) for name in prepared.teachers]
    if as_json:
        console.show_json({"schema_version": 1, "teachers": [record.model_dump(mode="json") for record in records]})
    else:
        _show_teachers([(record.name, record, record.uri) for record in records])


def checked(place: Workplace, name: str) -> TeacherRecord:
    (record,) = (it for it in place.do(CheckTask(name=name)) if isinstance(it, TeacherRecord))
    return record


def prepared_for(request: Request) -> Prepared:
    """Prepare where only teachers are asked for: any student will do, and no plan is needed."""
    with shown_loading() as load_data:
        return prepare(request.model_copy(update={"student": "resnet8"}), planned=False, load_data=load_data)


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
