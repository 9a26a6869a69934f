"""Commands that only read: reports, tables of a study, shipped spaces. No torch."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from autodistill import console
from autodistill.errors import ConfigError, StoreError, near
from autodistill.recommend.words import count, interval, probability
from autodistill.records import StudyRecord, TrialRecord, read_study
from autodistill.space import shipped
from autodistill.store import RunFolder, write_text

RUNS = Path("runs")
REPORTS = Path("reports")
SHOWN_TRIALS = 20
TRIAL_COLUMNS = (
    "number",
    "kind",
    "teacher",
    "rule",
    "params",
    "soft weight",
    "short val",
    "full val",
    "state",
    "reason",
)


def folder_of(run: str) -> RunFolder:
    """A study's folder by name or path.

    Raises:
        ConfigError: there is none; near names are listed.
    """
    for path in (Path(run), RUNS / run):
        if (path / "study.json").exists():
            return RunFolder(path)
    known = sorted(path.parent.name for path in RUNS.glob("*/study.json")) or ["(none yet)"]
    raise ConfigError(
        f"no study {run!r} here ({near(run, known)})", "name a study, or its folder with study.json in it"
    )


def write_report(run: str, to: Path | None) -> Path:
    """Render a study's report and say where it lies."""
    from autodistill.report import render

    folder = folder_of(run)
    record = read_study(folder.record)
    page = render(record, to or REPORTS / record.name)
    console.show_text(str(page))
    return page


def show(run: str, *, output: str, everything: bool) -> None:
    """Print a study as tables, JSON, or its trials as CSV."""
    record = read_study(folder_of(run).record)
    if output == "json":
        console.show_json(record.model_dump(mode="json"))
    elif output == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([TRIAL_COLUMNS, *map(trial_row, record.trials)])
    else:
        show_study(record)
        show_trials(record, everything=everything)


def show_study(record: StudyRecord) -> None:
    """Print the recommendation and the leaderboard."""
    student, found = record.student, record.recommendation
    cost = f"{count(student.cost.params)} params, {count(student.cost.macs)} MACs"
    console.show_text(f"{student.architecture} width {student.width:g} ({cost}) on {record.data.name}")
    if found is not None:
        console.show_text("")
        console.show_text(found.sentence)
        for reason in found.reasons:
            console.show_text(f"- {reason}")
        console.show_text("")
    columns = (
        "teacher",
        "rule",
        ">soft",
        ">test %",
        "95 % interval",
        ">P(best)",
        ">seeds",
        ">val %",
        ">own %",
        ">params",
    )
    title = "Teachers (test: confirm runs; val: the search's value, inflated by choice; own: the teacher's)"
    console.show_table(title, columns, _leaderboard(record))


def show_trials(record: StudyRecord, *, everything: bool) -> None:
    """Print the trials, best first."""
    ranked = sorted(record.trials, key=_score, reverse=True)
    shown = ranked if everything else ranked[:SHOWN_TRIALS]
    left = f" ({len(shown)} of {len(ranked)}; --all shows all)" if len(shown) < len(ranked) else ""
    columns = (">#", "kind", "teacher", "rule", "params", ">soft", ">short val %", ">full val %", "state", "reason")
    console.show_table(f"Trials{left}", columns, map(trial_row, shown))


def trial_row(trial: TrialRecord) -> tuple[object, ...]:
    own = " ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in trial.params.rule_params.items()
    )
    return (
        trial.number,
        trial.kind if trial.replicate_of is None else f"replicate of {trial.replicate_of}",
        trial.params.teacher,
        trial.params.rule,
        own,
        f"{trial.params.soft_weight:.2f}",
        console.percent(trial.short.val_top1 if trial.short else None),
        console.percent(trial.full.val_top1 if trial.full else None),
        trial.state,
        trial.reason,
    )


def list_spaces() -> None:
    import tomllib

    rows = [(name, tomllib.loads(text).get("purpose", "")) for name, text in sorted(shipped().items())]
    console.show_table("Search spaces", ("name", "purpose"), rows)


def show_space(name: str) -> None:
    console.show_text(_space_text(name).rstrip())


def copy_space(name: str, file: Path) -> None:
    if file.exists():
        raise StoreError(f"{file}: exists already", "name a new file, or remove it first")
    write_text(file, _space_text(name))
    console.show_note(f"{file} written. Next: autodistill spaces check {file}")


def _space_text(name: str) -> str:
    spaces = shipped()
    if name not in spaces:
        raise ConfigError(f"unknown space {name!r} ({near(name, spaces)})")
    return spaces[name]


def _score(trial: TrialRecord) -> tuple[float, float]:
    full = trial.full.val_top1 if trial.full else None
    short = trial.short.val_top1 if trial.short else None
    return (full if full is not None else -1.0, short if short is not None else -1.0)


def _leaderboard(record: StudyRecord) -> Iterator[tuple[object, ...]]:
    """Confirmed finalists in their order, then the teachers that were not confirmed, by accuracy."""
    known = {teacher.name: teacher for teacher in record.teachers}
    ranking = record.recommendation.ranking if record.recommendation else ()
    for row in ranking:
        teacher = known.get(row.teacher or "")
        yield (
            row.teacher or "no teacher",
            row.params.rule,
            f"{row.params.soft_weight:.2f}" if row.params.rule else None,
            console.percent(row.confirmed_test_top1),
            None if row.confirmed_test_top1 is None else interval(row.low, row.high, lambda it: f"{100 * it:.1f}"),
            None if row.p_best is None else probability(row.p_best),
            row.seeds,
            console.percent(row.search_val_top1),
            console.percent(teacher.val_top1) if teacher else None,
            count(teacher.cost.params) if teacher else None,
        )
    ranked = {row.teacher for row in ranking}
    for teacher in sorted(record.teachers, key=lambda it: it.val_top1, reverse=True):
        if teacher.name not in ranked:
            own = [trial for trial in record.trials if trial.params.teacher == teacher.name]
            best = max(own, key=_score, default=None)
            yield (
                teacher.name,
                best.params.rule if best else None,
                f"{best.params.soft_weight:.2f}" if best else None,
                None,
                None,
                None,
                0,
                console.percent(best.full.val_top1 if best and best.full else None),
                console.percent(teacher.val_top1),
                count(teacher.cost.params),
            )
