"""The search's leaders, trained once more: who held, and who was lucky."""

from dataclasses import dataclass

from autodistill.records import RunRecord, StudyRecord
from autodistill.report.sections.parts import Row, Table, number_columns, row, text_columns
from autodistill.report.words import EMPTY, maybe, points, recipe, short


@dataclass(frozen=True)
class SecondLooksInfo:
    finding: str
    table: Table | None
    """None: there were none, or their outcome is open."""


def second_looks_info(record: StudyRecord) -> SecondLooksInfo:
    """Scores of each leader's earlier runs and of its second look, and whether it went on to the confirm runs."""
    looks = record.second_looks
    if not looks or not record.finalists:
        return SecondLooksInfo("", None)
    finalists = [one.params for one in record.finalists]
    held = sum(look.params in finalists for look in looks)
    finding = (
        f"{held} of {len(looks)} leaders of the search held when they were trained once more with another seed"
        + ("." if held == len(looks) else "; others took the place of the rest.")
    )
    searched = record.model_copy(update={"second_looks": ()})
    rows = tuple(_row(searched, look, held=look.params in finalists) for look in looks)
    columns = (
        *text_columns("Teacher", "Settings"),
        *number_columns("In the search", "Second look", "Difference, points"),
        *text_columns("Then"),
    )
    return SecondLooksInfo(finding, Table("Second looks, validation accuracy", columns, rows))


def _row(searched: StudyRecord, look: RunRecord, *, held: bool) -> Row:
    before, after = searched.search_score(look.params), look.val_top1
    return row(
        short(look.params.teacher or EMPTY, 40),
        recipe(look.params),
        maybe(before),
        maybe(after),
        points(after - before) if before is not None and after is not None else EMPTY,
        "finalist" if held else "no finalist",
    )
