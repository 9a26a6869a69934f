"""`show`, `report` and `env`: commands that only read. `show` and `report` do without torch."""

import csv
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from autodistill.cli import console
from autodistill.cli.tables import (
    STUDENT_COLUMNS,
    STUDENT_KEYS,
    TEACHER_COLUMNS,
    TEACHER_KEYS,
    TRIAL_COLUMNS,
    chosen_students,
    chosen_teachers,
    student_csv,
    student_rows,
    teacher_lines,
    teacher_rows,
    trial_csv,
    trial_rows,
    trial_score,
)
from autodistill.errors import ConfigError, StoreError, near
from autodistill.formatting import amount, count, excess_words
from autodistill.records import ComparisonRecord, StudyRecord, read_record, read_study
from autodistill.report.trials import curves_info
from autodistill.stats.students import judged_students
from autodistill.stats.verdict import judged
from autodistill.store import StudyFolder, cache_root

RUNS = Path("runs")
REPORTS = Path("reports")
SHOWN_TRIALS = 20


def folder_of(run: str) -> StudyFolder:
    """Return the folder of a study, given its name or path.

    Raises:
        ConfigError: No such study; the message lists similar names.
    """
    for path in (Path(run), RUNS / run):
        if (path / "study.json").exists():
            return StudyFolder(path)
    known = sorted(path.parent.name for path in RUNS.glob("*/study.json")) or ["(none yet)"]
    raise ConfigError(
        f"no study {run!r} here ({near(run, known)})", "name a study, or its folder with study.json in it"
    )


def write_report(run: str, to: Path | None) -> Path:
    """Render the report of a study and print the path of its page."""
    record = read_record(folder_of(run).record)
    page = rendered(record, to or REPORTS / record.name)
    console.show_text(str(page))
    return page


def rendered(record: StudyRecord | ComparisonRecord, to: Path) -> Path:
    """Render the report of one student or of several; return the path of its page."""
    from autodistill.report import render, render_comparison

    return render(record, to) if isinstance(record, StudyRecord) else render_comparison(record, to)


def study_of(run: str) -> tuple[StudyFolder, StudyRecord]:
    """Return the folder and record of a study; for a comparison, those of the student that it recommends.

    Raises:
        ConfigError: No such study.
        StoreError: The study is damaged, or the comparison is not complete.
    """
    folder = folder_of(run)
    record = _judged(read_record(folder.record))
    if isinstance(record, StudyRecord):
        return folder, record
    if record.choice is None or record.state != "complete":
        raise StoreError(f"{run}: not all students are searched yet", f"finish the study first: {record.command}")
    chosen_folder = folder_of(str(folder.path.parent / record.choice.study))
    chosen = _judged(read_study(chosen_folder.record))
    assert isinstance(chosen, StudyRecord)
    return chosen_folder, chosen


def show(run: str, *, output: str, everything: bool = False, pareto: bool = False, sort: str = "test") -> None:
    """Print a study, or a comparison of students, as tables, JSON or CSV.

    Raises:
        ConfigError: No such study, or `--pareto` or `--sort` with a format that prints everything.
    """
    if output != "table" and (pareto or sort != "test"):
        raise ConfigError(f"--pareto and --sort are for tables; --format {output} prints everything")
    record = _judged(read_record(folder_of(run).record))
    if output == "json":
        console.show_json(record.model_dump(mode="json"))
    elif output == "csv":
        rows = record.choice.rows if isinstance(record, ComparisonRecord) and record.choice else ()
        table = trial_csv(record.trials) if isinstance(record, StudyRecord) else student_csv(rows)
        csv.writer(sys.stdout, lineterminator="\n").writerows(table)
    else:
        show_record(record, pareto=pareto, sort=sort)
        if isinstance(record, StudyRecord):
            show_trials(record, everything=everything)


def watch(run: str, *, output: str = "table", every_s: float = 2.0, **how: Any) -> None:
    """Print a study whenever its record changes, until the study is complete; `how` as for `show`."""
    if output != "table":
        raise ConfigError(f"--watch --format {output}: --watch prints tables only", "remove one of the two options")
    folder, seen = folder_of(run), 0
    while True:
        written = folder.record.stat().st_mtime_ns
        if written != seen:
            seen = written
            console.clear()
            show(run, output=output, **how)
            if read_record(folder.record).state == "complete":
                return
        time.sleep(every_s)


def _judged(record: StudyRecord | ComparisonRecord) -> StudyRecord | ComparisonRecord:
    """Return a record with the verdict that this version computes; a record without a verdict is returned as is."""
    if isinstance(record, StudyRecord):
        return judged(record) if record.recommendation is not None else record
    return judged_students(record) if record.choice is not None else record


def show_record(record: StudyRecord | ComparisonRecord, *, pareto: bool = False, sort: str = "test") -> None:
    """Print the recommendation and the teachers or students that it was chosen from."""
    record = _judged(record)
    if isinstance(record, StudyRecord):
        show_study(record, pareto=pareto, sort=sort)
    else:
        show_comparison(record, pareto=pareto, sort=sort)


def show_study(record: StudyRecord, *, pareto: bool = False, sort: str = "test") -> None:
    """Print the recommendation and the leaderboard."""
    key = _key(sort, TEACHER_KEYS)
    student, recommendation = record.student, record.recommendation
    cost = f"{count(student.cost.params)} params, {count(student.cost.macs)} MACs"
    console.show_text(f"{student.architecture} width {student.width:g} ({cost}) on {record.data.name}")
    if recommendation is not None:
        _show_answer(recommendation.sentence, recommendation.reasons)
    lines = chosen_teachers(teacher_lines(record), pareto=pareto, sort=key)
    title = "Teachers (test: confirm runs; val: the search's value, inflated by choice; own: the teacher's)"
    console.show_table(title, TEACHER_COLUMNS, teacher_rows(lines))
    if record.audit:
        console.show_text(curves_info(record).text)


def show_comparison(record: ComparisonRecord, *, pareto: bool = False, sort: str = "test") -> None:
    """Print the recommended student, all students, and the choice under each limit."""
    key = _key(sort, STUDENT_KEYS)
    choice = record.choice
    if choice is None:
        raise StoreError(f"{record.name}: no student is compared yet", f"finish the study first: {record.command}")
    _show_answer(choice.sentence, choice.reasons)
    rows = chosen_students(choice.rows, pareto=pareto, sort=key)
    console.show_table("Students, each with its recommended teacher", STUDENT_COLUMNS, student_rows(rows))
    lines = [
        (amount(line.kind, line.limit), line.student, line.teacher or "no teacher", console.percent(line.test_top1))
        for line in choice.lines
    ]
    console.show_table("Under a limit", ("up to", "student", "teacher", ">test %"), lines)
    for excluded in record.left_out:
        console.show_text(f"left out: {excluded.student.name} has {excess_words(excluded, record.limits)}")


def show_trials(record: StudyRecord, *, everything: bool) -> None:
    """Print the trials, best first."""
    ranked = sorted(record.trials, key=trial_score, reverse=True)
    shown = ranked if everything else ranked[:SHOWN_TRIALS]
    left = f" ({len(shown)} of {len(ranked)}; --all shows all)" if len(shown) < len(ranked) else ""
    console.show_table(f"Trials{left}", TRIAL_COLUMNS, trial_rows(shown))


def show_environment(*, as_json: bool) -> None:
    """Print versions, device and folders."""
    import torch

    from autodistill.study import environment

    facts = environment("cuda" if torch.cuda.is_available() else "cpu")
    try:  # another project that owns the same module and script
        foreign = f"autodistill {metadata.version('autodistill')}: create a new environment"
    except metadata.PackageNotFoundError:
        foreign = "none"
    facts |= {"cache": str(cache_root()), "foreign package": foreign}
    if as_json:
        console.show_json({"schema_version": 1, **facts})
    else:
        console.show_table("Environment", ("", ""), facts.items())


def _show_answer(sentence: str, reasons: Sequence[str]) -> None:
    console.show_text("")
    console.show_text(sentence)
    for reason in reasons:
        console.show_text(f"- {reason}")
    console.show_text("")


def _key(sort: str, allowed: Sequence[str]) -> str:
    if sort not in allowed:
        raise ConfigError(f"--sort {sort}: unknown here ({near(sort, allowed)})")
    return sort
