"""`search`: run a study with a live view, or say what it would take."""

import sys

from autodistill import console, showing
from autodistill.recommend.words import count
from autodistill.records import Event, StudyRecord
from autodistill.report import render
from autodistill.store import cache_root
from autodistill.study import Prepared, Request, cache_size, estimate, prepare, run_study, spelt


def search(request: Request, *, output: str, quiet: bool) -> None:
    """Run a study with a live view, render its report, print what it found."""
    prepared = prepare(request)
    quiet = quiet or output != "table"
    if not quiet:
        _introduce(prepared)
    try:
        with console.Watch(quiet=quiet) as watch:
            record = _driven(prepared, watch)
    except KeyboardInterrupt:
        console.show_note(f"\ninterrupted; every finished run is kept. Resume with: {prepared.request.command}")
        sys.exit(130)
    page = render(record, showing.REPORTS / record.name)
    if output == "json":
        console.show_json(record.model_dump(mode="json"))
    elif output == "csv":
        showing.show(str(prepared.folder.path), output="csv", everything=True)
    else:
        showing.show_study(record)
    if not quiet:
        following = f"autodistill train --from {record.name}" if record.state == "complete" else record.command
        console.show_note(f"Report: {page}   Next: {following}")


def dry_run(request: Request, *, as_json: bool) -> None:
    """Check everything, measure a few steps, print the plan; write nothing."""
    prepared = prepare(request)
    found = estimate(prepared)
    facts: dict[str, object] = {
        "plan": spelt(found.plan),
        "student": describe_student(prepared),
        "data": describe_data(prepared),
        "teachers": ", ".join(prepared.teachers),
        "ladder to train": ", ".join(prepared.untrained) or "none",
        "wall time": f"about {found.wall_s / 60:.1f} min on {request.workers} workers",
        "of which ladder": f"{found.ladder_s / 60:.1f} min",
        "teacher logits": f"{found.cache_bytes / 1e6:.1f} MB, {prepared.views} views",
        "run folder": str(prepared.folder.path),
    }
    if as_json:
        numbers = {"wall_s": found.wall_s, "ladder_s": found.ladder_s, "cache_bytes": found.cache_bytes}
        plan = found.plan.model_dump(mode="json")
        console.show_json({"schema_version": 1, **facts, "estimate": numbers, "plan": plan})
    else:
        console.show_table("Dry run: nothing was written", ("", ""), facts.items())
        console.show_note(f"Next: {prepared.request.command}")


def _driven(prepared: Prepared, watch: console.Watch) -> StudyRecord:
    events = run_study(prepared)
    while True:
        try:
            event: Event = next(events)
        except StopIteration as end:
            record: StudyRecord = end.value
            return record
        watch.show(event)


def _introduce(prepared: Prepared) -> None:
    console.show_note(
        f"autodistill  {describe_student(prepared)}  on {describe_data(prepared)}  {prepared.request.device}"
    )
    resuming = "resuming " if prepared.folder.record.exists() else ""
    console.show_note(f"study: {resuming}{prepared.folder.path}   teachers: {', '.join(prepared.teachers)}")
    console.show_note(f"teacher logits: up to {cache_size(prepared) / 1e6:.1f} MB in {cache_root()}")


def describe_student(prepared: Prepared) -> str:
    student = prepared.student
    cost = f"{count(student.cost.params)} params, {count(student.cost.macs)} MACs"
    return f"{student.architecture} width {student.width:g} ({cost}, stride {student.total_stride})"


def describe_data(prepared: Prepared) -> str:
    data = prepared.data
    sizes = "/".join(str(len(split.labels)) for split in (data.train, data.validation, data.test))
    channels, height, width = data.image_shape
    return f"{data.name} {channels}x{height}x{width}, {data.num_classes} classes, {sizes} train/validation/test"
