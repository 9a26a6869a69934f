"""The page that compares several students: recommendation, Pareto front, answer under each limit."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from autodistill.formatting import (
    COSTS,
    EMPTY,
    amount,
    count,
    excess_words,
    interval,
    limits_words,
    maybe,
    percent,
    plural,
    quantity,
    recipe,
    short,
)
from autodistill.records import ComparisonRecord, Costs, StudentChoice, StudentRow, latency_of
from autodistill.report.parts import Cell, Column, Fact, Figure, Row, Table, number_columns, row, text_columns
from autodistill.report.verdict import leaderboard_info

HEADLINES = {
    "winner": "A clear winner",
    "no_clear_difference": "No clear difference",
    "only_one": "One student within the limits",
    "unconfirmed": "Unconfirmed",
}


@dataclass(frozen=True)
class StudentPart:
    """A summary of one student's study."""

    student: str
    study: str
    sentence: str
    leaderboard: Table
    command: str
    page: str
    """Path of its report, relative to the comparison's page."""


@dataclass(frozen=True)
class StudentsInfo:
    verdict: str
    headline: str
    sentence: str
    running: bool
    facts: tuple[Fact, ...]
    reasons: tuple[str, ...]
    command: str
    limits: Costs
    rows: tuple[StudentRow, ...]
    figure: Figure | None
    under: Table
    left_out: Table | None
    parts: tuple[StudentPart, ...]
    notes: tuple[str, ...]


def page_of(study: str) -> str:
    """Return the path of a student's report relative to the comparison's page."""
    return f"students/{quote(study)}/report.html"


def students_info(record: ComparisonRecord, choice: StudentChoice) -> StudentsInfo:
    """Return the content of the page that compares several students."""
    return StudentsInfo(
        verdict=choice.verdict,
        headline=HEADLINES[choice.verdict],
        sentence=choice.sentence,
        running=record.state == "running",
        facts=tuple(_facts(record, choice)),
        reasons=choice.reasons,
        command=record.command,
        limits=record.limits.given,
        rows=choice.rows,
        figure=_figure(record, choice) if any(row.test_top1 is not None for row in choice.rows) else None,
        under=_under(choice),
        left_out=_left_out(record),
        parts=tuple(_parts(record)),
        notes=tuple(_notes(record)),
    )


def _facts(record: ComparisonRecord, choice: StudentChoice) -> Iterator[Fact]:
    chosen = next(one for one in choice.rows if one.student == choice.student)
    yield Fact("Ship", short(chosen.student), ", ".join(amount(kind, cost) for kind, cost in chosen.costs.items()))
    yield Fact("Taught by", short(chosen.teacher or "no teacher"), recipe(chosen.params) if chosen.teacher else "")
    if chosen.test_top1 is not None:
        seeds = plural(chosen.seeds, "seed")
        yield Fact("Test accuracy", percent(chosen.test_top1), f"{interval(chosen.low, chosen.high, percent)}, {seeds}")
    if record.limits.given:
        broken = f"{plural(len(record.left_out), 'student')} left out" if record.left_out else "all students meet them"
        yield Fact("Limits", limits_words(record.limits), broken)


def _figure(record: ComparisonRecord, choice: StudentChoice) -> Figure:
    columns = (
        Column("Student"),
        Column("Teacher"),
        *number_columns("Test accuracy", "Params", "MACs", "Size", "Latency"),
        Column("On the front by"),
    )
    rows = tuple(_student_row(one, pick=one.student == choice.student) for one in choice.rows)
    on = [short(one.student) for one in choice.rows if one.front]
    off = [short(one.student) for one in choice.rows if one.test_top1 is not None and not one.front]
    finding = f"On the Pareto front: {', '.join(on)}"
    finding += f"; on no front: {', '.join(off)}." if off else "; every confirmed student is on a front."
    alt = f"Panels of test accuracy with its interval against each cost, for {plural(len(choice.rows), 'student')}."
    devices = {latency.device for study in record.studies if (latency := latency_of(study)) is not None}
    note = f"Latency: one image, batch 1, median, on {' and '.join(sorted(devices))}." if devices else ""
    return Figure(finding, alt, Table("Students, each with its recommended teacher", columns, rows, note))


def _student_row(one: StudentRow, *, pick: bool) -> Row:
    accuracy = Cell(maybe(one.test_top1), interval(one.low, one.high, percent) if one.low is not None else "")
    teacher = Cell(short(one.teacher or "no teacher"), recipe(one.params) if one.teacher else "")
    costs = (quantity(kind, one.costs[kind]) if kind in one.costs else EMPTY for kind in COSTS)
    front = ", ".join(COSTS[kind] for kind in one.front) or "none"
    return row(short(one.student), teacher, accuracy, *costs, front, mark="pick" if pick else "")


def _under(choice: StudentChoice) -> Table:
    columns = (*text_columns("Up to", "Student", "Teacher"), *number_columns("Test accuracy"))
    rows = tuple(
        row(
            amount(line.kind, line.limit),
            short(line.student),
            short(line.teacher or "no teacher"),
            percent(line.test_top1),
        )
        for line in choice.lines
    )
    note = (
        "The most accurate student within the limit, by confirmed mean; a row for each limit at which the answer "
        "changes."
    )
    return Table("The answer under a limit", columns, rows, note)


def _left_out(record: ComparisonRecord) -> Table | None:
    rows = tuple(row(short(one.student.name), excess_words(one, record.limits)) for one in record.left_out)
    return Table("Not trained: over a limit", text_columns("Student", "Cost over the limit"), rows) if rows else None


def _parts(record: ComparisonRecord) -> Iterator[StudentPart]:
    for study in record.studies:
        found = study.recommendation
        yield StudentPart(
            student=study.student.name,
            study=study.name,
            sentence=found.sentence if found else "This student's study is not finished.",
            leaderboard=leaderboard_info(study).table,
            command=study.command,
            page=page_of(study.name),
        )


def _notes(record: ComparisonRecord) -> Iterator[str]:
    plan = record.studies[0].plan
    yield f"Each student had a budget of its own: {count(plan.equivalents)} full trainings of that student."
    yield (
        "Students are compared by paired intervals over their shared confirm seeds, each with the teacher that its "
        "own study recommends. The intervals include neither the choice of that teacher nor split and view noise."
    )
