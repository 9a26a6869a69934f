"""Sections on the settings: their importance, rung scores against single settings, and the most important pair."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autodistill.formatting import percent, plural
from autodistill.records import StudyRecord, TrialRecord
from autodistill.report.parts import (
    MAX_ROWS,
    Cell,
    Figure,
    Row,
    Table,
    number_columns,
    row,
    setting_name,
    spread_out,
    teacher_names,
    text_columns,
)

MIN_SCORED = 30
"""Scored trials in the study that slices and the pair take; with fewer they would show chance."""
MIN_PER_SETTING = 10
MAX_SLICES = 4
MAX_DRAWN = 80
THIRDS = ("lowest", "middle", "highest")
FIFTHS = ("best", "second", "third", "fourth", "worst")
WEIGHT = "soft_weight"


@dataclass(frozen=True)
class Share:
    setting: str
    mean: float
    """Share of the variance of the rung scores, in [0, 1]."""
    std: float | None
    """Standard deviation over the evaluator's seeds; None for a single forest."""


@dataclass(frozen=True)
class ImportanceInfo:
    n: int
    shares: tuple[Share, ...]
    """Largest first."""
    within: tuple[Table, ...]
    note: str
    figure: Figure | None


@dataclass(frozen=True)
class Point:
    teacher: str | None
    x: float
    y: float


@dataclass(frozen=True)
class Slice:
    name: str
    """Name of the setting, preceded by its method if it belongs to one."""
    log: bool
    points: tuple[Point, ...]
    """Value and rung score; at most 80 points, evenly spaced by number of trial."""


@dataclass(frozen=True)
class SlicesInfo:
    slices: tuple[Slice, ...]
    """Most important first, at most four."""
    floor: float
    """Lower scores are drawn here, so that a single failure does not flatten the chart."""
    teachers: tuple[str, ...]
    figure: Figure | None
    note: str


@dataclass(frozen=True)
class PairInfo:
    names: tuple[str, str]
    logs: tuple[bool, bool]
    fifths: tuple[tuple[Point, ...], ...]
    """Values of the two settings in the trials, by fifths of the score, best first; at most 16 points each."""
    teachers: tuple[str, ...]
    figure: Figure | None
    note: str


@dataclass(frozen=True)
class _Setting:
    method: str | None
    """None: a setting of every method."""
    name: str
    weight: float
    """Importance, for sorting."""
    trials: tuple[TrialRecord, ...]
    """Trials with this setting, by number."""

    @property
    def label(self) -> str:
        return f"{self.method.upper()}: {setting_name(self.name)}" if self.method else setting_name(self.name)


def importance_info(record: StudyRecord) -> ImportanceInfo:
    """Return the importance of each setting for the rung scores."""
    found = record.importance
    if found is None:
        return ImportanceInfo(0, (), (), "Importance was not computed.", None)
    shares = _shares(found.shares, found.shares_std)
    within = tuple(
        _share_table(
            f"Within {method.upper()} (n = {found.within_method_n.get(method, 0)})",
            _shares(inner, found.within_method_std.get(method, {})),
        )
        for method, inner in sorted(found.within_method.items())
        if inner
    )
    figure = None
    if shares:
        figure = Figure(
            finding=_importance_finding(shares, found.n),
            alt=f"Bars: the share of variance that each of {plural(len(shares), 'setting')} explains.",
            table=_share_table("Shares of the variance of the rung scores", shares),
        )
    note = found.note
    if found.evaluator_seeds > 1 and shares:
        forests = (
            f"Means over {found.evaluator_seeds} random forests of different seeds, {plural(found.n, 'trial')} each"
        )
        note = f"{forests}; \N{PLUS-MINUS SIGN} is their standard deviation. {note}".strip()
    return ImportanceInfo(found.n, shares, within, note, figure)


def _shares(means: Mapping[str, float], spread: Mapping[str, float]) -> tuple[Share, ...]:
    ordered = sorted(means.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Share(name, mean, spread.get(name)) for name, mean in ordered)


def _importance_finding(shares: Sequence[Share], n: int) -> str:
    first = shares[0]
    finding = (
        f"The largest share of variance, {_per_cent(first)}, goes to {setting_name(first.setting)} "
        f"(n = {n} rung scores)"
    )
    if len(shares) > 1:
        second = shares[1]
        noise = math.hypot(first.std or 0.0, second.std or 0.0)
        if first.mean - second.mean < 2 * noise:
            finding += f"; {setting_name(second.setting)}, {_per_cent(second)}, is within the spread of the forests"
    return f"{finding}."


def _per_cent(share: Share) -> str:
    spread = "" if share.std is None else f" \N{PLUS-MINUS SIGN} {100 * share.std:.0f}"
    return f"{100 * share.mean:.0f}{spread} %"


def _share_table(caption: str, shares: Sequence[Share]) -> Table:
    rows = tuple(row(setting_name(one.setting), _per_cent(one)) for one in shares[:MAX_ROWS])
    return Table(caption, (*text_columns("Setting"), *number_columns("Share")), rows)


def slices_info(record: StudyRecord) -> SlicesInfo:
    """Return the rung scores against each of the most important numeric settings."""
    scored = _scored(record)
    found = _settings(record, scored)[:MAX_SLICES] if len(scored) >= MIN_SCORED else []
    if not found:
        return SlicesInfo((), 0.0, (), None, _no_slices(len(scored)))
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


def _scored(record: StudyRecord) -> list[TrialRecord]:
    return [trial for trial in record.trials if trial.rung is not None and trial.rung.val_top1 is not None]


def _score(trial: TrialRecord) -> float:
    assert trial.rung is not None
    assert trial.rung.val_top1 is not None
    return trial.rung.val_top1


def _settings(record: StudyRecord, scored: Sequence[TrialRecord]) -> list[_Setting]:
    """Return the searched numeric settings, most important first; a method's own count by its share of the trials."""
    found = record.importance
    shares, within = (found.shares, found.within_method) if found else ({}, {})
    settings = [_Setting(None, WEIGHT, shares.get(WEIGHT, 0.0), tuple(scored))]
    for method in sorted({trial.params.method or "" for trial in scored} - {""}):
        own = tuple(trial for trial in scored if trial.params.method == method)
        for name in sorted({name for trial in own for name in trial.params.method_params}):
            weight = within.get(method, {}).get(name, 0.0) * len(own) / len(scored)
            settings.append(_Setting(method, name, weight, own))
    kept = [one for one in settings if len(one.trials) >= MIN_PER_SETTING and _varies(one.trials, one.name)]
    return sorted(kept, key=lambda one: (-one.weight, one.label))


def _varies(trials: Sequence[TrialRecord], name: str) -> bool:
    """Return whether every trial has a number for the setting and the numbers differ."""
    values = [one.params.soft_weight if name == WEIGHT else one.params.method_params.get(name) for one in trials]
    return all(isinstance(one, float | int) for one in values) and len(set(values)) > 1


def _value(trial: TrialRecord, name: str) -> float:
    return trial.params.soft_weight if name == WEIGHT else float(trial.params.method_params[name])


def _is_log(space: Mapping[str, Any], method: str | None, name: str) -> bool:
    """Return whether the study's space searches a setting on a log scale; records without a space say no."""
    inner: Any = space.get("search")
    for key in ("methods", method, name) if name != WEIGHT else (WEIGHT,):
        inner = inner.get(key) if isinstance(inner, Mapping) else None
    return isinstance(inner, Mapping) and bool(inner.get("log"))


def _slice(record: StudyRecord, one: _Setting) -> Slice:
    shown = spread_out(one.trials, MAX_DRAWN)
    points = tuple(Point(trial.params.teacher, _value(trial, one.name), _score(trial)) for trial in shown)
    return Slice(one.label, _is_log(record.space, one.method, one.name), points)


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
        f"mean rung score, {percent(best[2])}; the worst third has {percent(worst[2])}.",
        alt=f"Scatters of rung scores against {plural(len(found), 'setting')}, teachers by colour and marker.",
        table=Table("Mean rung score by thirds of a setting's values", columns, tuple(map(_third_row, found))),
    )


def _thirds(one: _Setting) -> list[tuple[float, float, float]]:
    """Return the lowest value, the highest value and the mean score of each third."""
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
    parts = ["Validation accuracy at the rung. The trials differ in teacher and other settings too."]
    most = max(len(one.trials) for one in found)
    if most > MAX_DRAWN:
        parts.append(f"At most {MAX_DRAWN} of {most:,} trials drawn in a panel, evenly by number; all count.")
    if below:
        parts.append(f"{plural(below, 'trial')} below {percent(floor)}, drawn at the lower edge.")
    return " ".join(parts)


def _no_slices(scored: int) -> str:
    if scored >= MIN_SCORED:
        return "No numeric setting was searched."
    return f"Slices take at least {MIN_SCORED} scored trials; there are {scored}."


def pair_info(record: StudyRecord) -> PairInfo:
    """Return the two most important settings of the method with the most trials, by fifths of the rung score."""
    scored = _scored(record)
    within = record.importance.within_method if record.importance else {}
    for method in sorted(within, key=lambda one: -sum(trial.params.method == one for trial in scored)):
        trials = tuple(trial for trial in scored if trial.params.method == method)
        ordered = sorted(within[method], key=lambda one: -within[method][one])
        names = [name for name in ordered if _varies(trials, name)]
        if len(names) > 1 and len(trials) >= MIN_PER_SETTING and len(scored) >= MIN_SCORED:
            return _pair(record, method, (names[0], names[1]), trials)
    return PairInfo(("", ""), (False, False), (), (), None, "")


def _pair(record: StudyRecord, method: str, names: tuple[str, str], trials: Sequence[TrialRecord]) -> PairInfo:
    ranked = sorted(trials, key=lambda trial: (-_score(trial), trial.number))
    fifths = [[ranked[place] for place in part] for part in np.array_split(range(len(ranked)), len(FIFTHS))]
    shown = [spread_out(part, MAX_DRAWN // len(FIFTHS)) for part in fifths]
    drawn = sum(map(len, shown))
    return PairInfo(
        names=(f"{method.upper()}: {setting_name(names[0])}", f"{method.upper()}: {setting_name(names[1])}"),
        logs=(_is_log(record.space, method, names[0]), _is_log(record.space, method, names[1])),
        fifths=tuple(
            tuple(Point(one.params.teacher, _value(one, names[0]), _value(one, names[1])) for one in part)
            for part in shown
        ),
        teachers=teacher_names(record),
        figure=_pair_figure(method, names, fifths),
        note=_pair_note(drawn, len(ranked)),
    )


def _pair_figure(method: str, names: tuple[str, str], fifths: Sequence[Sequence[TrialRecord]]) -> Figure:
    columns = (*text_columns("Fifth"), *number_columns("Trials", "Rung score", *map(setting_name, names)))
    ranges = [[_range([_value(trial, name) for trial in part]) for name in names] for part in fifths]
    first, second = map(setting_name, names)
    total = sum(map(len, fifths))
    rows = tuple(
        row(FIFTHS[place], str(len(part)), _score_range(part), *ranges[place]) for place, part in enumerate(fifths)
    )
    return Figure(
        finding=f"The best fifth of {total} {method.upper()} trials has {first} {ranges[0][0]} and "
        f"{second} {ranges[0][1]}.",
        alt=f"Scatter of {first} and {second}: the stronger a shade, the better the score.",
        table=Table(f"{method.upper()}: trials by fifths of their rung score", columns, rows),
    )


def _pair_note(drawn: int, total: int) -> str:
    cut = "" if drawn == total else f" {drawn} of {total:,} trials drawn, evenly by rank; all count."
    return (
        "Fifths of the trials by rung score. Teachers have the markers of the charts above. Lines are contours of "
        f"the mean fifth of a point's neighbourhood.{cut}"
    )


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def _score_range(trials: Sequence[TrialRecord]) -> str:
    return f"{100 * _score(trials[-1]):.1f} to {percent(_score(trials[0]))}"
