"""`search`: run a study with a live view, or say what it would take."""

import shlex
import sys
from collections.abc import Generator, Sequence

from autodistill import console, showing
from autodistill.commands.loading import shown_loading
from autodistill.commands.requests import Family
from autodistill.formatting import about, count, excess_words, quantity
from autodistill.records import ComparisonRecord, Event, LeftOutRecord, StudentBudget, StudyRecord
from autodistill.storage import SQLITE, redacted
from autodistill.store import cache_root, demand_folder
from autodistill.study import (
    Estimate,
    Prepared,
    cache_size,
    estimate,
    pinned,
    prepare_all,
    run_students,
    run_study,
    spelt,
    within,
    words,
)
from autodistill.workers import StandBy


def search(family: Family, *, output: str, quiet: bool) -> None:
    """Run one study for each student with a live view, render the report, print what was found."""
    demand_folder(showing.REPORTS)
    quiet, several = quiet or output != "table", len(family.requests) > 1
    with StandBy(family.requests[0].workers) as standby:
        students, left_out = _prepared(family, quiet=quiet)
        command = command_of(family, students)
        if not quiet:
            _introduce(students, left_out, family)
        events: Generator[Event, None, StudyRecord | ComparisonRecord] = (
            run_students(students, name=family.name, command=command, left_out=left_out, standby=standby)
            if several
            else run_study(students[0], standby=standby)
        )
        record = _followed(events, family, command, quiet=quiet)
    page = showing.rendered(record, showing.REPORTS / record.name)
    if output == "table":
        showing.show_record(record)
    else:
        showing.show(family.name if several else str(students[0].folder.path), output=output, everything=True)
    if not quiet:
        following = f"autodistill train --from {record.name}" if record.state == "complete" else record.command
        console.show_note(f"Report: {page}   Next: {following}")


def _prepared(family: Family, *, quiet: bool) -> tuple[tuple[Prepared, ...], tuple[LeftOutRecord, ...]]:
    with shown_loading(quiet=quiet) as load_data:
        prepared = prepare_all(family.requests, load_data=load_data)
    return within(prepared, family.limits)


def _followed(
    events: Generator[Event, None, StudyRecord | ComparisonRecord], family: Family, command: str, *, quiet: bool
) -> StudyRecord | ComparisonRecord:
    try:
        with console.Watch(quiet=quiet) as watch:
            return watch.follow(events)
    except KeyboardInterrupt:
        console.show_note(f"\ninterrupted; every finished run is kept. Resume with: {command}{_with_storage(family)}")
        sys.exit(130)


def dry_run(family: Family, *, as_json: bool) -> None:
    """Check everything, measure a few steps, print each student's plan; start no study."""
    with StandBy(family.requests[0].workers) as standby:
        students, left_out = _prepared(family, quiet=as_json)
        estimates = [(prepared, estimate(prepared, standby=standby)) for prepared in students]
    command = command_of(family, students)
    if as_json:
        plans = [{**_facts(prepared, found), **_numbers(found)} for prepared, found in estimates]
        broken = [one.model_dump(mode="json") for one in left_out]
        console.show_json({"schema_version": 1, "command": command, "students": plans, "left_out": broken})
        return
    for prepared, found in estimates:
        for note in prepared.notes:
            console.show_note(f"warning: {note}")
        console.show_table("Dry run: no study was started", ("", ""), _facts(prepared, found).items())
    _name_left_out(left_out, family.limits)
    times = [found.time for _, found in estimates if found.time]
    if len(times) == len(students) > 1:
        together = about(sum(it.wall_s for it in times))
        console.show_note(
            f"all {len(times)} studies: at most {together}; teachers and logits in common are paid once"
        )
    console.show_note(f"Next: {command}")


def command_of(family: Family, students: Sequence[Prepared]) -> str:
    """What reproduces the search elsewhere: with what followed from this machine for all students alike."""
    first, *others = (one.pins for one in students)
    return pinned(
        family.command, {key: first[key] for key in first if all(it.get(key) == first[key] for it in others)}
    )


def _with_storage(family: Family) -> str:
    storage = family.requests[0].storage
    return f" --storage {shlex.quote(redacted(storage))}" if storage else ""


def _facts(prepared: Prepared, found: Estimate) -> dict[str, object]:
    return {
        "plan": spelt(found.plan),
        "student": describe_student(prepared),
        "data": describe_data(prepared),
        "teachers": ", ".join(prepared.teachers),
        "ladder to train": ", ".join(prepared.untrained) or "none",
        "wall time": f"{words(found.time)}, on {prepared.request.workers} workers" if found.time else "not known",
        "teacher logits": f"{quantity('size_bytes', found.cache_bytes)}, {prepared.views} views",
        "run folder": str(prepared.folder.path),
    }


def _numbers(found: Estimate) -> dict[str, object]:
    time = {"wall_s": found.time.wall_s, **found.time.model_dump()} if found.time else {}
    numbers = {**time, "cache_bytes": found.cache_bytes}
    return {"estimate": numbers, "plan": found.plan.model_dump(mode="json")}


def _introduce(students: Sequence[Prepared], left_out: Sequence[LeftOutRecord], family: Family) -> None:
    first = students[0]
    for one in students:
        console.show_note(f"autodistill  {describe_student(one)}  on {describe_data(one)}  {one.request.device}")
        resuming = "resuming " if one.folder.record.exists() else ""
        console.show_note(f"study: {resuming}{one.folder.path}   teachers: {', '.join(one.teachers)}")
    _name_left_out(left_out, family.limits)
    places = [redacted(one.request.storage or f"{SQLITE}{one.folder.database}") for one in students]
    watched = " or ".join(f"optuna-dashboard {place}" for place in dict.fromkeys(places))
    console.show_note(f"watch: {watched}")
    console.show_note(f"teacher logits: up to {quantity('size_bytes', cache_size(first))} in {cache_root()}")


def _name_left_out(left_out: Sequence[LeftOutRecord], limits: StudentBudget) -> None:
    for one in left_out:
        console.show_note(f"left out: {one.student.name} has {excess_words(one, limits)}")


def describe_student(prepared: Prepared) -> str:
    student = prepared.student
    cost = f"{count(student.cost.params)} params, {count(student.cost.macs)} MACs"
    return f"{student.architecture} width {student.width:g} ({cost}, stride {student.total_stride})"


def describe_data(prepared: Prepared) -> str:
    data = prepared.data
    sizes = "/".join(str(len(split.labels)) for split in (data.train, data.validation, data.test))
    channels, height, width = data.image_shape
    return f"{data.name} {channels}x{height}x{width}, {data.num_classes} classes, {sizes} train/validation/test"
