"""`search`: run a study with a live display, or estimate its cost and time."""

import sys
from pathlib import Path
from typing import Any

from autodistill import console
from autodistill.errors import INTERRUPTED, AutodistillError, ConfigError
from autodistill.executors import Stopped
from autodistill.formatting import about, command_line, quantity
from autodistill.images_table import show_images
from autodistill.machine import process_age_s
from autodistill.options import COMPARED, StudentsToSearch, students_to_search
from autodistill.records import ComparisonRecord, StudyRecord
from autodistill.running import (
    command_of,
    describe_data,
    describe_student,
    executors,
    name_left_out,
    resolved,
    run_searches,
)
from autodistill.store import check_folder
from autodistill.study import Estimate, StudySpec, describe_plan, describe_time, estimate


def compare(*, students: list[str], methods: str, **flags: Any) -> None:
    """Run a method grid: `methods` are names separated by commas; the other flags are those of `search`."""
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if methods and not names:
        raise ConfigError("--method: names no method", "name one or more, such as --method ts,isats,dkd")
    if len(students) > 1:
        raise ConfigError(f"--student {students[1]}: a grid has one student", "run compare once for each student")
    search(students=students, methods=names or COMPARED, default_methods=not names, **flags)


def search(*, dry_run: bool, output: str, quiet: bool, **flags: Any) -> None:
    """Run a study for each student, render the report, and print the result; `flags` as for `students_to_search`.

    With `dry_run`, check everything, measure a few steps, and print the plan of each student.
    """
    asked = students_to_search(**flags)
    given = {f"--{name}": flags[name] for name in ("device", "workers") if flags.get(name, "auto") != "auto"}
    as_given = "".join(f" {flag} {value}" for flag, value in given.items())  # they change no result: no part of records
    if dry_run:
        if output == "csv":
            raise ConfigError("--format csv: a dry run has no table of trials", "allowed: table, json")
        _dry_run(asked, as_json=output == "json", as_given=as_given)
        return
    check_folder(Path("reports"))
    quiet = quiet or output != "table"
    try:
        record = run_searches(asked, quiet=quiet)
    except (KeyboardInterrupt, Stopped):
        sys.exit(INTERRUPTED)
    from autodistill import studies  # importing the report takes a third of a second
    from autodistill.cli import show

    page = studies.rendered(record, studies.REPORTS / record.name)
    show.show_record(record, output=output)
    if not quiet:
        next_command = command_line(*_next(record)) if record.state == "complete" else record.command + as_given
        console.show_note(f"Report: {page}   Next: {next_command}")
    elif record.state == "running":
        console.show_note(f"--timeout: stopped before the end. Continue with: {record.command}{as_given}")
    if record.state == "running":
        sys.exit(INTERRUPTED)
    if studies.is_failure(record):
        sys.exit(AutodistillError.exit_code)


def _next(record: StudyRecord | ComparisonRecord) -> tuple[str, ...]:
    """Return the arguments of the command that usually follows a complete study."""
    is_grid = isinstance(record, StudyRecord) and record.grid is not None
    return ("show", record.name) if is_grid else ("train", "--from", record.name)


def _dry_run(asked: StudentsToSearch, *, as_json: bool, as_given: str) -> None:
    estimates = []
    with executors(asked.options[0]) as executor_for, console.Display(quiet=as_json) as display:
        students, left_out = resolved(asked, quiet=as_json)
        start_up_s = 0.0
        for spec in students:
            with executor_for(spec) as executor:
                executor.ready()
                start_up_s = start_up_s or process_age_s()
                estimates.append((spec, estimate(spec, executor, display.show, start_up_s=start_up_s)))
    command = command_of(asked, students)
    if as_json:
        plans = [{**_facts(spec, result), **_numbers(result)} for spec, result in estimates]
        excluded = [student.model_dump(mode="json") for student in left_out]
        console.show_json({"schema_version": 1, "command": command, "students": plans, "left_out": excluded})
        return
    for spec, result in estimates:
        for note in spec.notes:
            console.show_note(f"warning: {note}")
        if spec is students[0]:
            show_images(spec)
        console.show_table("Dry run: no study was started", ("", ""), _facts(spec, result).items())
    name_left_out(left_out, asked)
    times = [result.time for _, result in estimates if result.time]
    if len(times) == len(students) > 1:
        total = about(sum(time.wall_s for time in times) - (len(times) - 1) * start_up_s)
        console.show_note(f"all {len(times)} studies: at most {total}; shared teachers and logits are computed once")
    console.show_note(f"Next: {command}{as_given}")


def _facts(spec: StudySpec, result: Estimate) -> dict[str, object]:
    return {
        "plan": describe_plan(result.plan, teachers=len(spec.teachers)),
        "student": describe_student(spec),
        "data": describe_data(spec),
        "teachers": ", ".join(spec.teachers),
        "teacher check": "when the study starts, or by `autodistill teachers check`",
        "teachers to train": ", ".join(spec.untrained) or "none",
        "wall time": f"{describe_time(result.time)}, on {spec.options.workers} workers" if result.time else "not known",
        "teacher logits": f"{quantity('size_bytes', result.cache_bytes)}, {spec.views} views",
        "run folder": str(spec.folder.path),
    }


def _numbers(result: Estimate) -> dict[str, object]:
    time = {"wall_s": result.time.wall_s, **result.time.model_dump()} if result.time else {}
    numbers = {**time, "cache_bytes": result.cache_bytes}
    return {"estimate": numbers, "plan": result.plan.model_dump(mode="json")}
