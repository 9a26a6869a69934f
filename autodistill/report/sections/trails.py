"""What each trial was decided on, in a study that asks whenever a worker is free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autodistill.records import AuditTrail, StudyRecord
from autodistill.report.sections.parts import MOST_ROWS, Column, Table, number_columns, row, shown_of
from autodistill.report.words import EMPTY, percent

MOST_NAMED = 8
"""Trials that a cell names; all of them are in study.json."""


@dataclass(frozen=True)
class TrailsInfo:
    table: Table | None
    """None: the study asked in waves."""


def trails_info(record: StudyRecord) -> TrailsInfo:
    """The audit trails of the first hundred trials that have one, by number."""
    found = [(trial.number, trial.audit_trail) for trial in record.trials if trial.audit_trail is not None]
    if not found:
        return TrailsInfo(None)
    rows = tuple(
        row(str(number), str(trail.sampler_seed), _known(trail), _running(trail), _rivals(trail.rivals))
        for number, trail in found[:MOST_ROWS]
    )
    columns = (
        *number_columns("Trial", "Sampler seed"),
        Column("Ended when it was asked for", long=True),
        Column("Running then", long=True),
        Column("Rivals that it was judged by, best first", long=True),
    )
    note = shown_of(rows, len(found), "audit trails")
    return TrailsInfo(Table("Audit trails: what each trial was decided on", columns, rows, note))


def _known(trail: AuditTrail) -> str:
    spans = [f"{first}" if first == last else f"{first} to {last}" for first, last in trail.known]
    return _listed(spans, "rows of numbers")


def _running(trail: AuditTrail) -> str:
    return _listed([str(number) for number in trail.running], "trials")


def _rivals(rivals: Mapping[int, float] | None) -> str:
    if rivals is None:
        return EMPTY
    best = sorted(rivals.items(), key=lambda it: (-it[1], it[0]))
    return _listed([f"{number} ({percent(score)})" for number, score in best], "trials")


def _listed(parts: Sequence[str], noun: str) -> str:
    more = len(parts) - MOST_NAMED
    return ", ".join(parts[:MOST_NAMED]) + (f" and {more} more {noun}" if more > 0 else "") or "none"
