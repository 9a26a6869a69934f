"""Run the searches of a command or of a call from Python, with a display of their progress."""

import contextlib
import multiprocessing
import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from autodistill import console, processes
from autodistill import data as datasets
from autodistill.data import LoadData
from autodistill.errors import ConfigError
from autodistill.executors import Executor, SerialExecutor, Stopped
from autodistill.formatting import count, excess_words, origin, quantity
from autodistill.images_table import show_images
from autodistill.machine import is_forked
from autodistill.options import StudentsToSearch
from autodistill.records import ComparisonRecord, LeftOutRecord, StudyRecord
from autodistill.searching.database import SQLITE, redacted
from autodistill.store import cache_root
from autodistill.study import SearchOptions, StudySpec, pinned, resolve_all, run_students, run_study, within
from autodistill.study.run import ExecutorFor, local_executor


def run_searches(
    asked: StudentsToSearch, *, quiet: bool = False, serial: bool = False, again: str = ""
) -> StudyRecord | ComparisonRecord:
    """Run a study for each student, or continue it; returns its record, of several students their comparison.

    Args:
        asked: Students and options.
        quiet: Whether to show no progress.
        serial: Whether to train in this process.
        again: How to continue after an interruption; empty: the command.

    Raises:
        KeyboardInterrupt, Stopped: The search was interrupted. A note says how to continue.
    """
    first = asked.options[0]
    with executors(first, serial=serial) as executor_for:
        students, left_out = resolved(asked, quiet=quiet)
        command = command_of(asked, students)
        if not quiet:
            _introduce(students, left_out, asked)
        storage = f" --storage {shlex.quote(redacted(first.storage))}" if first.storage else ""
        resume = again or f"{command}{storage}"
        try:
            with console.Display(quiet=quiet) as display:
                if len(asked.options) == 1:
                    return run_study(students[0], display.show, executor_for=executor_for)
                return run_students(
                    students,
                    display.show,
                    name=asked.name,
                    command=command,
                    left_out=left_out,
                    executor_for=executor_for,
                )
        except KeyboardInterrupt:
            console.show_note(f"\ninterrupted; every finished run is kept. Continue with: {resume}")
            raise
        except Stopped:
            console.show_note(f"stopped by a signal, every run has a checkpoint. Continue with: {resume}")
            raise


@contextlib.contextmanager
def executors(options: SearchOptions, *, serial: bool = False) -> Iterator[ExecutorFor]:
    """Yield a function that starts the executor of a study; SIGTERM and SIGUSR1 ask its executors to stop.

    Batch systems announce the end of a job by these signals. Windows has no SIGUSR1. Only the main thread can handle
    signals.
    """
    stop = threading.Event()
    names = ("SIGTERM", "SIGUSR1") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    if not options.ray and not serial:
        if multiprocessing.current_process().daemon:
            raise ConfigError(
                f"{multiprocessing.current_process().name} is a daemonic process, as in multiprocessing.Pool, and may "
                "start no worker processes",
                'train in this process with executor="serial", or start it with multiprocessing.Process or '
                "concurrent.futures.ProcessPoolExecutor",
            )
        processes.start_server()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        with one_thread_after_fork():
            yield partial(_executor, stop=stop, serial=serial)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def one_thread_after_fork() -> Iterator[None]:
    """Compute on one thread in a forked process: torch would wait for ever for threads that only its parent has."""
    if not is_forked():
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _executor(spec: StudySpec, *, stop: threading.Event, serial: bool) -> Executor:
    options = spec.options
    if serial:
        return SerialExecutor(spec.setup, data=spec.data, stop=stop)
    if not options.ray:
        return local_executor(spec, stop=stop)
    from autodistill.executors.ray import RayExecutor

    return RayExecutor(spec.setup, address=options.ray, workers=options.workers, stop=stop)


@contextlib.contextmanager
def shown_loading(*, quiet: bool = False) -> Iterator[LoadData]:
    """Yield `datasets.load` with a progress display, which ends with the context."""
    with console.Decoding(quiet=quiet) as display:
        yield partial(datasets.load, progress=display.progress, say=display.say)


def resolved(asked: StudentsToSearch, *, quiet: bool) -> tuple[tuple[StudySpec, ...], tuple[LeftOutRecord, ...]]:
    """Check everything; return the students within the limits, and the others."""
    with shown_loading(quiet=quiet) as load_data:
        specs = resolve_all(asked.options, load_data=load_data)
    return within(specs, asked.limits)


def command_of(asked: StudentsToSearch, students: Sequence[StudySpec]) -> str:
    """Return the command that reproduces the search on another machine.

    It sets the values that followed from this machine and are equal for all students.
    """
    first, *others = (spec.pins for spec in students)
    common = {key: value for key, value in first.items() if all(pins.get(key) == value for pins in others)}
    return pinned(asked.command, common)


def _introduce(students: Sequence[StudySpec], left_out: Sequence[LeftOutRecord], asked: StudentsToSearch) -> None:
    for spec in students:
        console.show_note(f"autodistill  {describe_student(spec)}  on {describe_data(spec)}  {spec.options.device}")
        resuming = "resuming " if spec.folder.record.exists() else ""
        console.show_note(f"study: {resuming}{spec.folder.path}   teachers: {', '.join(spec.teachers)}")
    show_images(students[0])
    name_left_out(left_out, asked)
    databases = [redacted(spec.options.storage or f"{SQLITE}{spec.folder.database}") for spec in students]
    dashboards = " or ".join(f"optuna-dashboard {database}" for database in dict.fromkeys(databases))
    console.show_note(f"watch: {dashboards}")
    console.show_note(f"teacher logits: up to {quantity('size_bytes', students[0].cache_size)} in {cache_root()}")


def name_left_out(left_out: Sequence[LeftOutRecord], asked: StudentsToSearch) -> None:
    """Name the students that break a limit."""
    for excluded in left_out:
        console.show_note(f"left out: {excluded.student.name} has {excess_words(excluded, asked.limits)}")


def describe_student(spec: StudySpec) -> str:
    """Return a student on one line, with its cost."""
    student = spec.student
    cost = f"{count(student.cost.params)} params, {count(student.cost.macs)} MACs"
    if student.foreign is not None:
        size = student.foreign.input_size
        return f"{student.name} ({cost}, input {size}x{size}, {origin(student)})"
    return f"{student.architecture} width {student.width:g} ({cost}, stride {student.total_stride})"


def describe_data(spec: StudySpec) -> str:
    """Return the data on one line, with the sizes of the splits."""
    data = spec.data
    sizes = "/".join(str(len(split.labels)) for split in (data.train, data.validation, data.test))
    channels, height, width = data.image_shape
    return f"{data.name} {channels}x{height}x{width}, {data.num_classes} classes, {sizes} train/validation/test"
