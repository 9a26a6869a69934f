"""`search`: run a study with a live display, or estimate its cost and time."""

import contextlib
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from autodistill.cli import console
from autodistill.cli.flags import Family
from autodistill.cli.progress import Display, shown_loading
from autodistill.executors import Executor, OnEvent, ProcessPool, Stopped
from autodistill.formatting import about, count, excess_words, quantity
from autodistill.records import ComparisonRecord, LeftOutRecord, StudentBudget, StudyRecord
from autodistill.search.database import SQLITE, redacted
from autodistill.store import cache_root, check_folder
from autodistill.study import (
    Estimate,
    StudySpec,
    cache_size,
    describe_plan,
    describe_time,
    estimate,
    pinned,
    resolve_all,
    run_students,
    run_study,
    within,
)
from autodistill.study.run import ExecutorFor, local_executor

REPORTS = Path("reports")
INTERRUPTED = 130
"""Exit code after Ctrl-C or a signal that ends the command."""


def search(family: Family, *, output: str, quiet: bool) -> None:
    """Run a study for each student with a live display, render the report, and print the result."""
    check_folder(REPORTS)
    quiet = quiet or output != "table"
    first = family.options[0]
    with ProcessPool(0 if first.ray else first.workers) as processes, stop_on_signals() as stop:
        students, left_out = _resolved(family, quiet=quiet)
        command = command_of(family, students)
        if not quiet:
            _introduce(students, left_out, family)
        executor_for = executor_of(family, processes, stop)
        record = _searched(family, students, left_out, command, executor_for=executor_for, quiet=quiet)
    from autodistill.cli import show  # importing the report takes a third of a second

    page = show.rendered(record, REPORTS / record.name)
    if output == "table":
        show.show_record(record)
    else:
        several = len(family.options) > 1
        show.show(family.name if several else str(students[0].folder.path), output=output, everything=True)
    if not quiet:
        next_command = f"autodistill train --from {record.name}" if record.state == "complete" else record.command
        console.show_note(f"Report: {page}   Next: {next_command}")


def _searched(
    family: Family,
    students: Sequence[StudySpec],
    left_out: Sequence[LeftOutRecord],
    command: str,
    *,
    executor_for: ExecutorFor,
    quiet: bool,
) -> StudyRecord | ComparisonRecord:
    """Run the studies; on Ctrl-C or a signal, print how to continue and exit."""
    storage = family.options[0].storage
    resume = f"{command} --storage {shlex.quote(redacted(storage))}" if storage else command
    try:
        with Display(quiet=quiet) as display:
            return _run(family, students, left_out, command, display.show, executor_for)
    except KeyboardInterrupt:
        console.show_note(f"\ninterrupted; every finished run is kept. Continue with: {resume}")
    except Stopped:
        console.show_note(f"stopped by a signal, every run has a checkpoint. Continue with: {resume}")
    sys.exit(INTERRUPTED)


def _run(
    family: Family,
    students: Sequence[StudySpec],
    left_out: Sequence[LeftOutRecord],
    command: str,
    on_event: OnEvent,
    executor_for: ExecutorFor,
) -> StudyRecord | ComparisonRecord:
    if len(family.options) == 1:
        return run_study(students[0], on_event, executor_for=executor_for)
    return run_students(
        students, on_event, name=family.name, command=command, left_out=left_out, executor_for=executor_for
    )


def executor_of(family: Family, processes: ProcessPool, stop: threading.Event) -> ExecutorFor:
    """Return a function that starts the executor that the options request."""
    if not family.options[0].ray:
        return partial(local_executor, processes=processes, stop=stop)
    from autodistill.executors.ray import RayExecutor

    def on_cluster(spec: StudySpec) -> Executor:
        options = spec.options
        return RayExecutor(spec.setup, address=options.ray, workers=options.workers, per_gpu=options.per_gpu, stop=stop)

    return on_cluster


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGUSR1 set: batch systems announce the end of a job by these signals.

    Windows has no SIGUSR1. Only the main thread can handle signals.
    """
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    names = ("SIGTERM", "SIGUSR1") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _resolved(family: Family, *, quiet: bool) -> tuple[tuple[StudySpec, ...], tuple[LeftOutRecord, ...]]:
    with shown_loading(quiet=quiet) as load_data:
        specs = resolve_all(family.options, load_data=load_data)
    return within(specs, family.limits)


def dry_run(family: Family, *, as_json: bool) -> None:
    """Check everything, measure a few steps, and print the plan of each student; start no study."""
    first = family.options[0]
    with (
        ProcessPool(0 if first.ray else first.workers) as processes,
        stop_on_signals() as stop,
        Display(quiet=as_json) as display,
    ):
        students, left_out = _resolved(family, quiet=as_json)
        estimates = []
        for spec in students:
            with executor_of(family, processes, stop)(spec) as executor:
                estimates.append((spec, estimate(spec, executor, display.show)))
    command = command_of(family, students)
    if as_json:
        plans = [{**_facts(spec, result), **_numbers(result)} for spec, result in estimates]
        excluded = [student.model_dump(mode="json") for student in left_out]
        console.show_json({"schema_version": 1, "command": command, "students": plans, "left_out": excluded})
        return
    for spec, result in estimates:
        for note in spec.notes:
            console.show_note(f"warning: {note}")
        console.show_table("Dry run: no study was started", ("", ""), _facts(spec, result).items())
    _name_left_out(left_out, family.limits)
    times = [result.time for _, result in estimates if result.time]
    if len(times) == len(students) > 1:
        total = about(sum(time.wall_s for time in times))
        console.show_note(f"all {len(times)} studies: at most {total}; shared teachers and logits are computed once")
    console.show_note(f"Next: {command}")


def command_of(family: Family, students: Sequence[StudySpec]) -> str:
    """Return the command that reproduces the search on another machine.

    It sets the values that followed from this machine and are equal for all students.
    """
    first, *others = (spec.pins for spec in students)
    common = {key: value for key, value in first.items() if all(pins.get(key) == value for pins in others)}
    return pinned(family.command, common)


def _facts(spec: StudySpec, result: Estimate) -> dict[str, object]:
    return {
        "plan": describe_plan(result.plan),
        "student": describe_student(spec),
        "data": describe_data(spec),
        "teachers": ", ".join(spec.teachers),
        "ladder to train": ", ".join(spec.untrained) or "none",
        "wall time": f"{describe_time(result.time)}, on {spec.options.workers} workers" if result.time else "not known",
        "teacher logits": f"{quantity('size_bytes', result.cache_bytes)}, {spec.views} views",
        "run folder": str(spec.folder.path),
    }


def _numbers(result: Estimate) -> dict[str, object]:
    time = {"wall_s": result.time.wall_s, **result.time.model_dump()} if result.time else {}
    numbers = {**time, "cache_bytes": result.cache_bytes}
    return {"estimate": numbers, "plan": result.plan.model_dump(mode="json")}


def _introduce(students: Sequence[StudySpec], left_out: Sequence[LeftOutRecord], family: Family) -> None:
    first = students[0]
    for spec in students:
        console.show_note(f"autodistill  {describe_student(spec)}  on {describe_data(spec)}  {spec.options.device}")
        resuming = "resuming " if spec.folder.record.exists() else ""
        console.show_note(f"study: {resuming}{spec.folder.path}   teachers: {', '.join(spec.teachers)}")
    _name_left_out(left_out, family.limits)
    databases = [redacted(spec.options.storage or f"{SQLITE}{spec.folder.database}") for spec in students]
    dashboards = " or ".join(f"optuna-dashboard {database}" for database in dict.fromkeys(databases))
    console.show_note(f"watch: {dashboards}")
    console.show_note(f"teacher logits: up to {quantity('size_bytes', cache_size(first))} in {cache_root()}")


def _name_left_out(left_out: Sequence[LeftOutRecord], limits: StudentBudget) -> None:
    for excluded in left_out:
        console.show_note(f"left out: {excluded.student.name} has {excess_words(excluded, limits)}")


def describe_student(spec: StudySpec) -> str:
    student = spec.student
    cost = f"{count(student.cost.params)} params, {count(student.cost.macs)} MACs"
    return f"{student.architecture} width {student.width:g} ({cost}, stride {student.total_stride})"


def describe_data(spec: StudySpec) -> str:
    data = spec.data
    sizes = "/".join(str(len(split.labels)) for split in (data.train, data.validation, data.test))
    channels, height, width = data.image_shape
    return f"{data.name} {channels}x{height}x{width}, {data.num_classes} classes, {sizes} train/validation/test"
