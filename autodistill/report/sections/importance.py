"""What mattered: the importance of the settings, as far as the forests agree on it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autodistill.records import StudyRecord
from autodistill.report.sections.parts import MOST_ROWS, Figure, Table, number_columns, row, text_columns
from autodistill.report.words import plural, short


@dataclass(frozen=True)
class Share:
    setting: str
    mean: float
    """In [0, 1], of the variance of the short-run scores."""
    std: float | None
    """Over the evaluator's seeds; None: one forest alone."""


@dataclass(frozen=True)
class ImportanceInfo:
    n: int
    shares: tuple[Share, ...]
    """Largest first."""
    within: tuple[Table, ...]
    note: str
    figure: Figure | None


def importance_info(record: StudyRecord) -> ImportanceInfo:
    """Which settings the short-run scores depended on."""
    found = record.importance
    if found is None:
        return ImportanceInfo(0, (), (), "Importance was not computed.", None)
    shares = _shares(found.shares, found.shares_std)
    within = tuple(
        _share_table(
            f"Within {rule.upper()} (n = {found.within_rule_n.get(rule, 0)})",
            _shares(inner, found.within_rule_std.get(rule, {})),
        )
        for rule, inner in sorted(found.within_rule.items())
        if inner
    )
    figure = None
    if shares:
        figure = Figure(
            finding=_finding(shares, found.n),
            alt=f"Bars: the share of variance that each of {plural(len(shares), 'setting')} explains.",
            table=_share_table("Shares of the variance of the short-run scores", shares),
        )
    note = found.note
    if found.evaluator_seeds > 1 and shares:
        grown = (
            f"Means over {found.evaluator_seeds} random forests of different seeds, {plural(found.n, 'trial')} each"
        )
        note = f"{grown}; \N{PLUS-MINUS SIGN} is their standard deviation. {note}".strip()
    return ImportanceInfo(found.n, shares, within, note, figure)


def setting(name: str) -> str:
    return short(name.replace("_", " "))


def _shares(means: Mapping[str, float], spread: Mapping[str, float]) -> tuple[Share, ...]:
    ordered = sorted(means.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Share(name, mean, spread.get(name)) for name, mean in ordered)


def _finding(shares: Sequence[Share], n: int) -> str:
    first = shares[0]
    told = f"The largest share of variance, {_per_cent(first)}, goes to {setting(first.setting)} (n = {n} short runs)"
    if len(shares) > 1:
        second = shares[1]
        noise = math.hypot(first.std or 0.0, second.std or 0.0)
        if first.mean - second.mean < 2 * noise:
            told += f"; {setting(second.setting)} with {_per_cent(second)} is within the forests' spread of it"
    return f"{told}."


def _per_cent(share: Share) -> str:
    spread = "" if share.std is None else f" \N{PLUS-MINUS SIGN} {100 * share.std:.0f}"
    return f"{100 * share.mean:.0f}{spread} %"


def _share_table(caption: str, shares: Sequence[Share]) -> Table:
    rows = tuple(row(setting(one.setting), _per_cent(one)) for one in shares[:MOST_ROWS])
    return Table(caption, (*text_columns("Setting"), *number_columns("Share")), rows)
