"""Where a study ran, how long it took, and what reproduces it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import tomli_w

from autodistill.records import Phase, StudyRecord
from autodistill.report.sections.parts import MOST_ROWS, Table, row, shown_of, text_columns
from autodistill.report.words import duration, plural, short

PHASES = ("start-up", *get_args(Phase))
PARTS = {
    "teacher": "teachers over views that were not cached",
    "cache": "cached logits, read or waited for",
    "targets": "temperatures of soft targets",
    "student": "the student's training",
    "evaluation": "evaluation of the student",
}
"""What the runs' time is made of."""
LONGEST_SPACE, LONGEST_VALUE = 12_000, 300

CITATIONS = (
    "ISATS: Fan, Li, Zhan. Frontiers of Computer Science, 2026. doi:10.1007/s11704-025-41434-w, arXiv:2405.13078.",
    "ATS: Li et al. Asymmetric temperature scaling makes larger networks teach well again. NeurIPS 2022.",
    "KD: Hinton, Vinyals, Dean. Distilling the knowledge in a neural network. 2015. arXiv:1503.02531.",
    "Optuna: Akiba, Sano, Yanase, Ohta, Koyama. Optuna: a next-generation hyperparameter optimization framework. "
    "KDD 2019.",
)


@dataclass(frozen=True)
class EnvironmentInfo:
    environment: Table | None
    timing: Table | None
    space: str
    """The resolved search space as TOML."""
    study: str
    citations: tuple[str, ...]


def environment_info(record: StudyRecord) -> EnvironmentInfo:
    """Where it ran, how long it took, and what reproduces it."""
    return EnvironmentInfo(
        environment=_listing("Environment", record.environment),
        timing=_timing(record.timing),
        space=_toml(record.space),
        study=record.name,
        citations=CITATIONS,
    )


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted keys, in the order of the keys."""
    for key, value in sorted(values.items()):
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _listing(caption: str, values: Mapping[str, Any]) -> Table | None:
    found = list(flatten(values))
    if not found:
        return None
    rows = tuple(row(short(key.replace("_", " ")), _value(value)) for key, value in found[:MOST_ROWS])
    return Table(caption, text_columns("What", "Value"), rows, shown_of(rows, len(found), "entries"))


def _timing(timing: Mapping[str, Any]) -> Table | None:
    """Wall time by phase; the runs' own times only as sums, one by one they are in study.json."""
    phases, runs, parts, planned = (timing.get(it, {}) for it in ("phases_s", "runs_s", "parts_s", "planned_s"))
    if not phases:
        return None
    total, planned_s, runs_s = (math.fsum(it.values()) for it in (phases, planned, runs))
    rows = [*(row(it, duration(phases[it])) for it in PHASES if it in phases), row("all phases", duration(total))]
    if planned:
        took_s, planned_s = total - phases.get("start-up", 0.0), planned_s - planned.get("report", 0.0)
        rows.append(row("planned before the first run", f"{duration(planned_s)}; took {duration(took_s)}"))
    rows.append(row(f"{plural(len(runs), 'training run')}, summed over the workers", duration(runs_s)))
    rows += [row(f"of it: {words}", duration(parts[part])) for part, words in PARTS.items() if part in parts]
    views = row("teacher runs over a view of the data, all others cached", f"{timing.get('views_computed', 0)}")
    return Table("Time by phase", text_columns("What", "Wall time"), (*rows, views))


def _value(value: Any) -> str:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return f"{value:g}"
    return short(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value), LONGEST_VALUE)


def _toml(space: Mapping[str, Any]) -> str:
    text = tomli_w.dumps(_without_none(space))
    if len(text) <= LONGEST_SPACE:
        return text.strip()
    return f"{text[:LONGEST_SPACE]}\n# cut here; the whole space is in study.json"


def _without_none(value: Any) -> Any:
    """TOML has no null: a key without a value is a key left out. Sorted, as in study.json."""
    if isinstance(value, Mapping):
        return {str(key): _without_none(one) for key, one in sorted(value.items()) if one is not None}
    if isinstance(value, list | tuple):
        return [_without_none(one) for one in value if one is not None]
    return value
