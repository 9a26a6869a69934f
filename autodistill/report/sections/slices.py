"""How the short-run scores go with the numeric settings: one by one, and the most important two together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autodistill.records import StudyRecord, TrialRecord
from autodistill.report.sections.importance import setting
from autodistill.report.sections.parts import (
    Cell,
    Figure,
    Row,
    Table,
    number_columns,
    row,
    teacher_names,
    text_columns,
)
from autodistill.report.sections.profiles import spread_out
from autodistill.report.words import percent, plural

LEAST_SCORED = 30
"""Scored trials in the study; below, a slice shows chance."""
LEAST_OF_A_SETTING = 10
MOST_SLICES = 4
MOST_DRAWN = 80
THIRDS = ("lowest", "middle", "highest")
FIFTHS = ("best", "second", "third", "fourth", "worst")
WEIGHT = "soft_weight"


@dataclass(frozen=True)
class Point:
    teacher: str | None
    x: float
    y: float


@dataclass(frozen=True)
class Slice:
    name: str
    """Of the setting, its rule first where it belongs to one."""
    log: bool
    points: tuple[Point, ...]
    """Value and short-run score; at most 80, evenly by number of trial."""


@dataclass(frozen=True)
class SlicesInfo:
    slices: tuple[Slice, ...]
    """Most important first, at most four."""
    floor: float
    """Scores below are drawn here: one failure would flatten all others."""
    teachers: tuple[str, ...]
    """In the study's order, which fixes colours and markers."""
    figure: Figure | None
    note: str


@dataclass(frozen=True)
class PairInfo:
    names: tuple[str, str]
    logs: tuple[bool, bool]
    fifths: tuple[tuple[Point, ...], ...]
    """The trials by their score, best fifth first, each at most 16 of them: the two settings' values."""
    teachers: tuple[str, ...]
    figure: Figure | None
    note: str


@dataclass(frozen=True)
class _Setting:
    rule: str | None
    """None: of every rule."""
    name: str
    weight: float
    """Importance, for order."""
    trials: tuple[TrialRecord, ...]
    """Those that have it, by number."""

    @property
    def label(self) -> str:
        return f"{self.rule.upper()}: {setting(self.name)}" if self.rule else setting(self.name)


def slices_info(record: StudyRecord) -> SlicesInfo:
    """Short-run score against each numeric setting that mattered, teachers told apart."""
    scored = _scored(record)
    found = _settings(record, scored)[:MOST_SLICES] if len(scored) >= LEAST_SCORED else []
    if not found:
        return SlicesInfo((), 0.0, (), None, _too_few(len(scored)))
    scores = [_score(trial) for trial in scored]
    low, high = (float(one) for one in np.quantile(scores, (0.25, 0.75)))
    floor = max(min(scores), low - 1.5 * (high - low))
    below = sum(score < floor for score in scores)
    return SlicesInfo(
        slices=tuple(_slice(record, one) for one in found),
        floor=floor,
        teachers=teacher_names(record),
        figure=_slices_figure(found),
        note=_slices_note(found, below, floor),
    )


def pair_info(record: StudyRecord) -> PairInfo:
    """The two most important settings of the rule with the most trials, by fifths of the score."""
    scored = _scored(record)
    within = record.importance.within_rule if record.importance else {}
    for rule in sorted(within, key=lambda one: -sum(trial.params.rule == one for trial in scored)):
        trials = tuple(trial for trial in scored if trial.params.rule == rule)
        names = [name for name in sorted(within[rule], key=lambda one: -within[rule][one]) if _varies(trials, name)]
        if len(names) > 1 and len(trials) >= LEAST_OF_A_SETTING and len(scored) >= LEAST_SCORED:
            return _pair(record, rule, (names[0], names[1]), trials)
    return PairInfo(("", ""), (False, False), (), (), None, "")


def _pair(record: StudyRecord, rule: str, names: tuple[str, str], trials: Sequence[TrialRecord]) -> PairInfo:
    ranked = sorted(trials, key=lambda trial: (-_score(trial), trial.number))
    fifths = [[ranked[place] for place in part] for part in np.array_split(range(len(ranked)), len(FIFTHS))]
    shown = [spread_out(part, MOST_DRAWN // len(FIFTHS)) for part in fifths]
    drawn = sum(map(len, shown))
    return PairInfo(
        names=(f"{rule.upper()}: {setting(names[0])}", f"{rule.upper()}: {setting(names[1])}"),
        logs=(_is_log(record.space, rule, names[0]), _is_log(record.space, rule, names[1])),
        fifths=tuple(
            tuple(Point(one.params.teacher, _value(one, names[0]), _value(one, names[1])) for one in part)
            for part in shown
        ),
        teachers=teacher_names(record),
        figure=_pair_figure(rule, names, fifths),
        note=_pair_note(drawn, len(ranked)),
    )


def _scored(record: StudyRecord) -> list[TrialRecord]:
    return [trial for trial in record.trials if trial.short is not None and trial.short.val_top1 is not None]


def _score(trial: TrialRecord) -> float:
    assert trial.short is not None
    assert trial.short.val_top1 is not None
    return trial.short.val_top1


def _settings(record: StudyRecord, scored: Sequence[TrialRecord]) -> list[_Setting]:
    """Numeric settings that were searched, most important first; a rule's own count by its part of the trials."""
    found = record.importance
    shares, within = (found.shares, found.within_rule) if found else ({}, {})
    settings = [_Setting(None, WEIGHT, shares.get(WEIGHT, 0.0), tuple(scored))]
    for rule in sorted({trial.params.rule or "" for trial in scored} - {""}):
        own = tuple(trial for trial in scored if trial.params.rule == rule)
        for name in sorted({name for trial in own for name in trial.params.rule_params}):
            weight = within.get(rule, {}).get(name, 0.0) * len(own) / len(scored)
            settings.append(_Setting(rule, name, weight, own))
    kept = [one for one in settings if len(one.trials) >= LEAST_OF_A_SETTING and _varies(one.trials, one.name)]
    return sorted(kept, key=lambda one: (-one.weight, one.label))


def _varies(trials: Sequence[TrialRecord], name: str) -> bool:
    """Every trial has it, as a number, and not all the same."""
    values = [one.params.soft_weight if name == WEIGHT else one.params.rule_params.get(name) for one in trials]
    return all(isinstance(one, float | int) for one in values) and len(set(values)) > 1


def _value(trial: TrialRecord, name: str) -> float:
    return trial.params.soft_weight if name == WEIGHT else float(trial.params.rule_params[name])


def _is_log(space: Mapping[str, Any], rule: str | None, name: str) -> bool:
    """What the study's space says of a setting; a record need not hold one."""
    inner: Any = space.get("search")
    for key in ("rules", rule, name) if name != WEIGHT else (WEIGHT,):
        inner = inner.get(key) if isinstance(inner, Mapping) else None
    return isinstance(inner, Mapping) and bool(inner.get("log"))


def _slice(record: StudyRecord, one: _Setting) -> Slice:
    shown = spread_out(one.trials, MOST_DRAWN)
    points = tuple(Point(trial.params.teacher, _value(trial, one.name), _score(trial)) for trial in shown)
    return Slice(one.label, _is_log(record.space, one.rule, one.name), points)


def _slices_figure(found: Sequence[_Setting]) -> Figure:
    columns = (
        *text_columns("Setting"),
        *number_columns("Trials", *(f"{name} third".capitalize() for name in THIRDS)),
    )
    first = _thirds(found[0])
    best, worst = max(first, key=lambda one: one[2]), min(first, key=lambda one: one[2])
    third = THIRDS[first.index(best)]
    return Figure(
        finding=f"{found[0].label}: the {third} third of its values, {best[0]:.3g} to {best[1]:.3g}, has the best "
        f"mean short run, {percent(best[2])}; the worst third has {percent(worst[2])}.",
        alt=f"Scatters of short-run scores against {plural(len(found), 'setting')}, teachers by colour and marker.",
        table=Table("Mean short-run score by thirds of a setting's values", columns, tuple(map(_third_row, found))),
    )


def _thirds(one: _Setting) -> list[tuple[float, float, float]]:
    """Lowest and highest value and mean score of each third."""
    ordered = sorted(one.trials, key=lambda trial: (_value(trial, one.name), trial.number))
    parts = [[ordered[place] for place in part] for part in np.array_split(range(len(ordered)), len(THIRDS))]
    return [
        (_value(part[0], one.name), _value(part[-1], one.name), float(np.mean([_score(trial) for trial in part])))
        for part in parts
    ]


def _third_row(one: _Setting) -> Row:
    cells = (Cell(percent(mean), f"{low:.3g} to {high:.3g}") for low, high, mean in _thirds(one))
    return row(one.label, str(len(one.trials)), *cells)


def _slices_note(found: Sequence[_Setting], below: int, floor: float) -> str:
    parts = ["Validation accuracy of short runs; the trials' teachers and other settings differ too."]
    most = max(len(one.trials) for one in found)
    if most > MOST_DRAWN:
        parts.append(f"At most {MOST_DRAWN} of {most:,} trials drawn in a panel, evenly by number; all count.")
    if below:
        parts.append(f"{plural(below, 'trial')} below {percent(floor)}, drawn at the lower edge.")
    return " ".join(parts)


def _too_few(scored: int) -> str:
    if scored >= LEAST_SCORED:
        return "No numeric setting was searched."
    return f"Slices are drawn from {LEAST_SCORED} scored trials on; here are {scored}."


def _pair_figure(rule: str, names: tuple[str, str], fifths: Sequence[Sequence[TrialRecord]]) -> Figure:
    columns = (*text_columns("Fifth"), *number_columns("Trials", "Short run", *map(setting, names)))
    ranges = [[_range([_value(trial, name) for trial in part]) for name in names] for part in fifths]
    total = sum(map(len, fifths))
    return Figure(
        finding=f"The best fifth of {total} {rule.upper()} trials has {setting(names[0])} {ranges[0][0]} and "
        f"{setting(names[1])} {ranges[0][1]}.",
        alt=f"Scatter of {setting(names[0])} and {setting(names[1])}: the stronger a shade, the better the score.",
        table=Table(
            f"{rule.upper()}: trials by fifths of their short-run score",
            columns,
            tuple(
                row(FIFTHS[place], str(len(part)), _scores(part), *ranges[place]) for place, part in enumerate(fifths)
            ),
        ),
    )


def _pair_note(drawn: int, total: int) -> str:
    cut = "" if drawn == total else f" {drawn} of {total:,} trials drawn, evenly by rank; all count."
    return (
        "Fifths of the trials by the score of their short run; each teacher has its marker of the charts above. "
        f"Lines are contours of the neighbourhoods' mean fifth.{cut}"
    )


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def _scores(trials: Sequence[TrialRecord]) -> str:
    return f"{100 * _score(trials[-1]):.1f} to {percent(_score(trials[0]))}"
