"""How far the teachers agree on the order of the other classes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autodistill.report.sections.parts import Column, Figure, Table, number_columns, row
from autodistill.report.sections.profiles import Claim, Teachers, by_size, cut_note, spread_out
from autodistill.report.words import EMPTY, plural, short

MOST_CELLS = 8
"""Teachers on a side of the heat map."""

AGREES, DISAGREES = 0.7, 0.4

Matrix = Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class AgreementInfo:
    names: tuple[str, ...]
    spearman: tuple[tuple[float | None, ...], ...]
    kendall: tuple[tuple[float | None, ...], ...]
    figure: Figure | None
    note: str


def agreement_info(record: Teachers) -> AgreementInfo:
    """How far the teachers agree on the order of the other classes."""
    found = record.agreement
    if found is None:
        return AgreementInfo((), (), (), None, "")
    kept = {one.name for one in spread_out(by_size(record), MOST_CELLS)}
    places = [found.teachers.index(one.name) for one in by_size(record) if one.name in kept & set(found.teachers)]
    spearman, kendall = (
        tuple(tuple(matrix[left][right] for right in places) for left in places)
        for matrix in (found.spearman, found.kendall)
    )
    names = tuple(found.teachers[place] for place in places)
    note = (
        f"Means over {found.examples:,} samples of view 0 of the training split. Two trainings of one network do not "
        "agree fully either, so less than 1 is no fault of a teacher."
    )
    note = f"{note} {cut_note(len(names), len(found.teachers))}".strip()
    return AgreementInfo(names, spearman, kendall, _agreement_figure(names, spearman, kendall), note)


def order_claim(record: Teachers) -> Claim:
    said = "Teachers of different capacity order the other classes alike."
    pairs = list(_pairs(record))
    if not pairs:
        return Claim(said, "There is no pair of teachers to compare.")
    rho = [one[2] for one in pairs]
    mean, tau = math.fsum(rho) / len(rho), math.fsum(one[3] for one in pairs) / len(pairs)
    verdict = "Seen here" if mean >= AGREES else "Seen in part" if mean >= DISAGREES else "Not seen here"
    left, right, low, _ = min(pairs, key=lambda one: one[2])
    least = f", from {low:.2f} ({short(left, 32)} and {short(right, 32)}) to {max(rho):.2f}" if len(pairs) > 1 else ""
    return Claim(
        said,
        f"{verdict}: over {plural(len(pairs), 'pair')} the mean Spearman correlation is {mean:.2f}{least}, and "
        f"Kendall's {tau:.2f}; a Spearman of {AGREES} and more counts as agreement, below {DISAGREES} as none.",
    )


def _pairs(record: Teachers) -> Iterator[tuple[str, str, float, float]]:
    """Both names, Spearman, Kendall."""
    found = record.agreement
    for left, name in enumerate(found.teachers if found else ()):
        assert found is not None
        for right in range(left):
            rho, tau = found.spearman[left][right], found.kendall[left][right]
            if rho is not None and tau is not None:
                yield found.teachers[right], name, rho, tau


def _agreement_figure(names: Sequence[str], spearman: Matrix, kendall: Matrix) -> Figure | None:
    pairs = [
        (rho, kendall[left][right], names[left], names[right])
        for left in range(len(names))
        for right in range(left)
        if (rho := spearman[left][right]) is not None
    ]
    if not pairs:
        return None
    rho, tau, one, other = min(pairs, key=lambda pair: pair[0])
    best = max(pairs, key=lambda pair: pair[0])
    pair = f"{short(one, 40)} and {short(other, 40)}"
    finding = f"{pair} agree with a Spearman correlation of {rho:.2f} and a Kendall correlation of {tau:.2f}"
    if len(pairs) > 1:
        finding = f"Least alike are {pair} (Spearman {rho:.2f}, Kendall {tau:.2f})"
        finding += f", most alike {short(best[2], 40)} and {short(best[3], 40)} ({best[0]:.2f}, {best[1]:.2f})"
    rows = tuple(
        row(short(name), *(_heat(left, right, spearman, kendall) for right in range(len(names))))
        for left, name in enumerate(names)
    )
    columns = (Column("Teacher"), *number_columns(*(short(name, 20) for name in names)))
    return Figure(
        finding=f"{finding}.",
        alt=f"Heat map of rank correlations between {len(names)} teachers.",
        table=Table("Agreement on the order of the other classes: Spearman below, Kendall above", columns, rows),
    )


def _heat(left: int, right: int, spearman: Matrix, kendall: Matrix) -> str:
    value = (spearman if right < left else kendall)[left][right]
    return EMPTY if left == right or value is None else f"{value:.2f}"
