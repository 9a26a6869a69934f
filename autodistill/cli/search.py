"""`search`: run a study with a live display, or estimate its cost and time."""

import contextlib
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from autodistill import data as datasets
from autodistill.cli import console
from autodistill.cli.flags import Family, search_family
from autodistill.cli.images import show_images
from autodistill.data import LoadData
from autodistill.executors import Executor, ProcessPool, Stopped
from autodistill.formatting import about, count, excess_words, quantity
from autodistill.records import ComparisonRecord, LeftOutRecord, StudyRecord
from autodistill.search.database import SQLITE, redacted
from autodistill.store import cache_root, check_folder
from autodistill.study import (
    Estimate,
    SearchOptions,
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


def search(*, dry_run: bool, output: str, quiet: bool, **flags: Any) -> None:
    """Run a study for each student, render the report, and print the result; `flags` as for `search_family`.

    With `dry_run`, check everything, measure a few steps, and print the plan of each student.
    """
    family = search_family(**flags)
    if dry_run:
        _dry_run(family, as_json=output == "json")
        return
    check_folder(REPORTS)
    quiet = quiet or output != "table"
    first = family.options[0]
    with executors(first) as executor_for:
        students, left_out = _resolved(family, quiet=quiet)
        command = command_of(family, students)
        if not quiet:
            _introduce(students, left_out, family)
        resume = f"{command} --storage {shlex.quote(redacted(first.storage))}" if first.storage else command
        try:
            with console.Display(quiet=quiet) as display:
                record: StudyRecord | ComparisonRecord
                if len(family.options) == 1:
                    record = run_study(students[0], display.show, executor_for=executor_for)
                else:
                    record = run_students(
                        students,
                        display.show,
                        name=family.name,
                        command=command,
                        left_out=left_out,
                        executor_for=executor_for,
                    )
        except KeyboardInterrupt:
            console.show_note(f"\ninterrupted; every finished run is kept. Continue with: {resume}")
            sys.exit(INTERRUPTED)
        except Stopped:
            console.show_note(f"stopped by a signal, every run has a checkpoint. Continue with: {resume}")
            sys.exit(INTERRUPTED)
    from autodistill.cli import show  # importing the report takes a third of a second

    page = show.rendered(record, REPORTS / record.name)
    show.show_record(record, output=output)
    if not quiet:
        next_command = f"autodistill train --from {record.name}" if record.state == "complete" else record.command
        console.show_note(f"Report: {page}   Next: {next_command}")


def _dry_run(family: Family, *, as_json: bool) -> None:
    estimates = []
    with executors(family.options[0]) as executor_for, console.Display(quiet=as_json) as display:
        students, left_out = _resolved(family, quiet=as_json)
        for spec in students:
            with executor_for(spec) as executor:
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
        if spec is students[0]:
            show_images(spec)
        console.show_table("Dry run: no study was started", ("", ""), _facts(spec, result).items())
    _name_left_out(left_out, family)
    times = [result.time for _, result in estimates if result.time]
    if len(times) == len(students) > 1:
        total = about(sum(time.wall_s for time in times))
        console.show_note(f"all {len(times)} studies: at most {total}; shared teachers and logits are computed once")
    console.show_note(f"Next: {command}")


@contextlib.contextmanager
def executors(options: SearchOptions) -> Iterator[ExecutorFor]:
    """Yield a function that starts the executor of a study; SIGTERM and SIGUSR1 ask its executors to stop.

    Batch systems announce the end of a job by these signals. Windows has no SIGUSR1. Only the main thread can handle
    signals.
    """
    stop = threading.Event()
    names = ("SIGTERM", "SIGUSR1") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    with ProcessPool(0 if options.ray else options.workers) as processes:
        before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
        try:
            yield partial(_executor, processes=processes, stop=stop)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _executor(spec: StudySpec, *, processes: ProcessPool, stop: threading.Event) -> Executor:
    options = spec.options
    if not options.ray:
        return local_executor(spec, processes=processes, stop=stop)
    from autodistill.executors.ray import RayExecutor

    return RayExecutor(spec.setup, address=options.ray, workers=options.workers, per_gpu=options.per_gpu, stop=stop)


@contextlib.contextmanager
def shown_loading(*, quiet: bool = False) -> Iterator[LoadData]:
    """Yield `datasets.load` with a progress display, which ends with the context."""
    with console.Decoding(quiet=quiet) as display:
        yield partial(datasets.load, progress=display.progress, say=display.say)


def _resolved(family: Family, *, quiet: bool) -> tuple[tuple[StudySpec, ...], tuple[LeftOutRecord, ...]]:
    with shown_loading(quiet=quiet) as load_data:
        specs = resolve_all(family.options, load_data=load_data)
    return within(specs, family.limits)


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
        "data": _describe_data(spec),
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
    for spec in students:
        console.show_note(f"autodistill  {describe_student(spec)}  on {_describe_data(spec)}  {spec.options.device}")
        resuming = "resuming " if spec.folder.record.exists() else ""
        console.show_note(f"study: {resuming}{spec.folder.path}   teachers: {', '.join(spec.teachers)}")
    show_images(students[0])
    _name_left_out(left_out, family)
    databases = [redacted(spec.options.storage or f"{SQLITE}{spec.folder.database}") for spec in students]
    dashboards = " or ".join(f"optuna-dashboard {database}" for database in dict.fromkeys(databases))
    console.show_note(f"watch: {dashboards}")
    console.show_note(f"teacher logits: up to {quantity('size_bytes', cache_size(students[0]))} in {cache_root()}")


def _name_left_out(left_out: Sequence[LeftOutRecord], family: Family) -> None:
    for excluded in left_out:
        console.show_note(f"left out: {excluded.student.name} has {excess_words(excluded, family.limits)}")


def describe_student(spec: StudySpec) -> str:
    student = spec.student
    cost = f"{count(student.cost.params)} params, {count(student.cost.macs)} MACs"
    return f"{student.architecture} width {student.width:g} ({cost}, stride {student.total_stride})"


def _describe_data(spec: StudySpec) -> str:
    data = spec.data
    sizes = "/".join(str(len(split.labels)) for split in (data.train, data.validation, data.test))
    channels, height, width = data.image_shape
    return f"{data.name} {channels}x{height}x{width}, {data.num_classes} classes, {sizes} train/validation/test"
