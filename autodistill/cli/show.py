"""`show`, `report` and `env`: commands that only read. `show` and `report` do without torch."""

import csv
import importlib.util
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path

from autodistill import console
from autodistill.console import percent
from autodistill.errors import ConfigError, StoreError, near
from autodistill.formatting import (
    COSTS,
    amount,
    count,
    excess_words,
    interval,
    method_label,
    parameter,
    probability,
    quantity,
)
from autodistill.records import (
    ComparisonRecord,
    CostKind,
    RunResult,
    ScoreRow,
    StudentRow,
    StudyRecord,
    TrialRecord,
    read_record,
)
from autodistill.report.methods import grid_of
from autodistill.report.trials import curves_info
from autodistill.store import cache_root
from autodistill.studies import REPORTS, TeacherLine, folder_of, judged_record, rendered, teacher_lines, trial_score

SHOWN_TRIALS = 20
WATCH_EVERY_S = 2.0
TEACHER_KEYS = ("test", "val", "own", "params", "macs")
STUDENT_KEYS: dict[str, CostKind] = {name.lower(): kind for kind, name in COSTS.items()}
"""Costs by their name for `--sort`."""


def write_report(run: str, to: Path | None) -> None:
    """Render the report of a study and print the path of its page.

    A warning names data and teachers that have changed since the study ran, or are not on this machine.
    """
    folder = folder_of(run)
    record = read_record(folder.record)
    if isinstance(record, StudyRecord) and folder.space.exists() and importlib.util.find_spec("torch"):
        from autodistill.shipping import changes

        for change in changes(folder, record):
            console.show_note(f"warning: {change}")
    console.show_text(str(rendered(record, to or REPORTS / record.name)))


def show(
    run: str, *, output: str, watch: bool = False, everything: bool = False, pareto: bool = False, sort: str = "test"
) -> None:
    """Print a study, or a comparison of students, as tables, JSON or CSV.

    Args:
        run: Name or folder of the study.
        output: `table`, `json` or `csv`; the other arguments are for tables.
        watch: Print again whenever the record changes, until the study is complete.
        everything: Print all trials.
        pareto: Print only the Pareto front of accuracy and cost.
        sort: `test`, another of `TEACHER_KEYS`, or one of `STUDENT_KEYS` for a comparison.

    Raises:
        ConfigError: No such study, or an option does not fit the format.
    """
    if output != "table":
        if watch:
            raise ConfigError(f"--watch --format {output}: --watch prints tables only", "remove one of the two options")
        if pareto or sort != "test":
            raise ConfigError(f"--pareto and --sort are for tables; --format {output} prints everything")
    path, seen, record = folder_of(run).record, 0, None
    while record is None or (watch and record.state != "complete"):
        written = path.stat().st_mtime_ns
        if written == seen:
            time.sleep(WATCH_EVERY_S)
            continue
        if watch:
            console.out().clear()
        seen, record = written, read_record(path)
        show_record(record, output=output, pareto=pareto, sort=sort)
        if output == "table" and isinstance(record, StudyRecord):
            ranked = sorted(record.trials, key=trial_score, reverse=True)
            shown = ranked if everything else ranked[:SHOWN_TRIALS]
            left = f" ({len(shown)} of {len(ranked)}; --all shows all)" if len(shown) < len(ranked) else ""
            console.show_rows(f"Trials{left}", TRIAL_COLUMNS, shown)


def show_record(
    record: StudyRecord | ComparisonRecord, *, output: str = "table", pareto: bool = False, sort: str = "test"
) -> None:
    """Print the recommendation and the teachers or students that it was chosen from; as JSON or CSV, everything."""
    record = judged_record(record)
    if output == "json":
        console.show_json(record.model_dump(mode="json"))
    elif output == "csv":
        table = _trial_csv(record) if isinstance(record, StudyRecord) else _student_csv(record)
        csv.writer(sys.stdout, lineterminator="\n").writerows(table)
    elif isinstance(record, StudyRecord) and record.plan.settings is not None:
        _check_key(sort, ("test",))
        if pareto:
            raise ConfigError("--pareto: a method grid has no Pareto front", "leave --pareto out")
        _show_grid(record)
    elif isinstance(record, StudyRecord):
        _show_study(record, pareto=pareto, sort=sort)
    else:
        _show_comparison(record, pareto=pareto, sort=sort)


def _show_study(record: StudyRecord, *, pareto: bool, sort: str) -> None:
    _check_key(sort, TEACHER_KEYS)
    student, recommendation = record.student, record.recommendation
    cost = f"{count(student.cost.params)} params, {count(student.cost.macs)} MACs"
    what = student.name if student.foreign else f"{student.architecture} width {student.width:g}"
    console.show_text(f"{what} ({cost}) on {record.data.name}")
    if recommendation is not None:
        _show_answer(recommendation.sentence, recommendation.reasons)
    lines = chosen_teachers(teacher_lines(record), pareto=pareto, sort=sort)
    title = "Teachers (test: confirm runs; val: the search's value, inflated by choice; own: the teacher's)"
    console.show_rows(title, TEACHER_COLUMNS, lines)
    if record.audit:
        console.show_text(curves_info(record).text)


def _show_grid(record: StudyRecord) -> None:
    """Print the verdict about the methods, the methods and the cells."""
    _, verdict = grid_of(record)
    console.show_text(f"{record.student.name} on {record.data.name}: methods x teachers")
    _show_answer(verdict.sentence, verdict.reasons)
    title = "Methods, mean over the teachers, and training without a teacher"
    console.show_rows(title, SCORE_COLUMNS, [*verdict.methods, *verdict.baselines])
    console.show_rows("Cells", CELL_COLUMNS, sorted(verdict.cells, key=lambda it: -(it.test_top1 or 0.0)))


def _show_comparison(record: ComparisonRecord, *, pareto: bool, sort: str) -> None:
    """Print the recommended student, all students, and the choice under each limit."""
    _check_key(sort, ("test", *STUDENT_KEYS))
    choice = record.choice
    if choice is None:
        raise StoreError(f"{record.name}: no student is compared yet", f"finish the study first: {record.command}")
    _show_answer(choice.sentence, choice.reasons)
    rows = [row for row in choice.rows if row.front or not pareto]
    if sort != "test":  # the rows of a choice are in this order
        rows.sort(key=lambda row: row.costs.get(STUDENT_KEYS[sort], math.inf))
    console.show_rows("Students, each with its recommended teacher", STUDENT_COLUMNS, rows)
    lines = [
        (amount(line.kind, line.limit), line.student, line.teacher or "no teacher", percent(line.test_top1))
        for line in choice.lines
    ]
    console.show_table("Under a limit", ("up to", "student", "teacher", ">test %"), lines)
    for excluded in record.left_out:
        console.show_text(f"left out: {excluded.student.name} has {excess_words(excluded, record.limits)}")


def _show_answer(sentence: str, reasons: Sequence[str]) -> None:
    console.show_text("\n".join(["", sentence, *(f"- {reason}" for reason in reasons), ""]))


def _check_key(sort: str, allowed: Sequence[str]) -> None:
    if sort not in allowed:
        raise ConfigError(f"--sort {sort}: unknown here ({near(sort, allowed)})")


def show_environment(*, output: str) -> None:
    """Print versions, device and folders."""
    import torch

    from autodistill.study import environment

    facts = environment("cuda" if torch.cuda.is_available() else "cpu")
    facts["cache"] = str(cache_root())
    if output == "json":
        console.show_json({"schema_version": 1, **facts})
    else:
        console.show_table("Environment", ("", ""), facts.items())


def chosen_teachers(lines: Sequence[TeacherLine], *, pareto: bool, sort: str) -> list[TeacherLine]:
    """Return the rows of the leaderboard, sorted.

    Args:
        lines: Rows of the leaderboard.
        pareto: Return only the Pareto front of test accuracy against the teacher's MACs. Teachers without confirm runs
            are left out.
        sort: One of `TEACHER_KEYS`. Scores descend, costs ascend, unknown values keep their order at the end.
    """
    if pareto:
        confirmed = [(line, _macs(line), line.test) for line in lines if line.test is not None]
        lines = [
            line
            for line, macs, test in confirmed
            if not any(m <= macs and t >= test and (m, t) != (macs, test) for _, m, t in confirmed)
        ]
    sign = 1 if sort in ("params", "macs") else -1

    def place(line: TeacherLine) -> float:
        value = getattr(line, sort)
        return math.inf if value is None else sign * value

    return sorted(lines, key=place)


def _macs(line: TeacherLine) -> int | float:
    """Return the MACs of a line's teacher: none without a teacher, infinitely many where they are unknown."""
    if line.macs is not None:
        return line.macs
    return 0 if line.own is None else math.inf


def _val(run: RunResult | None) -> float | None:
    return run.val_top1 if run else None


def _kind(trial: TrialRecord) -> str:
    return trial.kind if trial.replicate_of is None else f"replicate of {trial.replicate_of}"


def _test_interval(row: TeacherLine | StudentRow | ScoreRow, test: float | None) -> str | None:
    if test is None:
        return None
    return interval(row.low, row.high, lambda share: f"{100 * share:.1f}", enough=(row.seeds or 0) > 1)


def _cost(kind: CostKind) -> Callable[[StudentRow], str | None]:
    return lambda row: quantity(kind, row.costs[kind]) if kind in row.costs else None


SCORE_COLUMNS: dict[str, Callable[[ScoreRow], str | None]] = {
    "name": lambda row: method_label(row.name) if row.method else row.name,
    ">test %": lambda row: percent(row.test_top1),
    "95 % interval": lambda row: _test_interval(row, row.test_top1),
    ">seeds": lambda row: str(row.seeds),
}
CELL_COLUMNS: dict[str, Callable[[ScoreRow], str | None]] = {
    "method": lambda row: method_label(str(row.method)),
    "teacher": lambda row: row.name,
    **{name: cell for name, cell in SCORE_COLUMNS.items() if name != "name"},
}
TEACHER_COLUMNS: dict[str, Callable[[TeacherLine], object]] = {
    "teacher": lambda line: line.name,
    "method": lambda line: line.method,
    ">soft": lambda line: None if line.soft_weight is None else f"{line.soft_weight:.2f}",
    ">test %": lambda line: percent(line.test),
    "95 % interval": lambda line: _test_interval(line, line.test),
    ">balanced %": lambda line: percent(line.balanced),
    ">P(best)": lambda line: None if line.p_best is None else probability(line.p_best),
    ">seeds": lambda line: line.seeds,
    ">val %": lambda line: percent(line.val),
    ">own %": lambda line: percent(line.own),
    ">params": lambda line: None if line.params is None else count(line.params),
}
STUDENT_COLUMNS: dict[str, Callable[[StudentRow], object]] = {
    "student": lambda row: row.student,
    "teacher": lambda row: row.teacher or "no teacher",
    "method": lambda row: row.params.method,
    ">test %": lambda row: percent(row.test_top1),
    "95 % interval": lambda row: _test_interval(row, row.test_top1),
    ">seeds": lambda row: row.seeds,
    **{f">{name}": _cost(kind) for kind, name in COSTS.items()},
    "on the front by": lambda row: ", ".join(COSTS[kind] for kind in row.front) or "none",
}
TRIAL_COLUMNS: dict[str, Callable[[TrialRecord], object]] = {
    ">#": lambda trial: trial.number,
    "kind": _kind,
    "teacher": lambda trial: trial.params.teacher,
    "method": lambda trial: trial.params.method,
    ">soft": lambda trial: None if trial.params.soft_weight is None else f"{trial.params.soft_weight:.2f}",
    ">rung val %": lambda trial: percent(_val(trial.rung)),
    ">full val %": lambda trial: percent(_val(trial.full)),
    "state": lambda trial: trial.state,
    "params": lambda trial: " ".join(
        f"{name} {parameter(value)}" for name, value in trial.params.method_params.items()
    ),
    "reason": lambda trial: trial.reason or None,
}


def _trial_csv(record: StudyRecord) -> Iterator[Sequence[object]]:
    """Yield the header and the rows of a CSV file of trials: every parameter in its own column, values not rounded."""
    keys = sorted({key for trial in record.trials for key in trial.params.method_params})
    last = ("seed", "rung_val_top1", "full_val_top1", "state", "reason")
    yield ("number", "kind", "teacher", "method", *keys, "tau_student", "soft_weight", *last)
    for trial in record.trials:
        params = trial.params
        values = [params.method_params.get(key) for key in keys]
        scores = (_val(trial.rung), _val(trial.full))
        yield (
            *(trial.number, _kind(trial), params.teacher, params.method, *values),
            *(params.tau_student, params.soft_weight, trial.seed, *scores, trial.state, trial.reason),
        )


def _student_csv(record: ComparisonRecord) -> Iterator[Sequence[object]]:
    """Yield the header and the rows of a CSV file of students."""
    fields = ("student", "study", "teacher", "params.method", "test_top1", "low", "high", "seeds")
    yield (*(field.removeprefix("params.") for field in fields), *COSTS, "front")
    for row in record.choice.rows if record.choice else ():
        yield (*attrgetter(*fields)(row), *map(row.costs.get, COSTS), " ".join(row.front))
