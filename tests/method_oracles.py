"""Logits of made-up teachers, and independent oracles for soft targets: loops over scalars, ln DV at temperatures."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

ANCHOR_OF: dict[str, Callable[[list[float], int], float]] = {
    "raw": lambda row, label: 0.0,
    "mean": lambda row, label: sum(row) / len(row),
    "other_max": lambda row, label: max(v for j, v in enumerate(row) if j != label),
    "target": lambda row, label: row[label],
}


def softmax_loop(row: list[float], label: int, tau_target: float, tau_other: float, anchor: str) -> list[float]:
    """The asymmetric softmax of one sample."""
    shift = ANCHOR_OF[anchor](row, label)
    scores = [(v - shift) / (tau_target if j == label else tau_other) for j, v in enumerate(row)]
    largest = max(scores)
    powers = [math.exp(score - largest) for score in scores]
    return [power / sum(powers) for power in powers]


def teacher(count: int = 64, classes: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and labels; the label is on top in most rows."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator) * 2
    labels = torch.randint(classes, (count,), generator=generator)
    logits[torch.arange(count), labels] += torch.rand(count, generator=generator) * 10 - 1
    return logits, labels


def variance_loop(values: list[float]) -> float:
    """Population variance."""
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


def log_dv(
    logits: Tensor, labels: Tensor, taus: Tensor, *, anchor: str, ratio: float | None, fixed: float | None
) -> Tensor:
    """ln DV of each sample (rows) at each of its temperatures (columns), by two passes about the mean.

    Deviations are taken from exp(gap) - 1, so that close logits keep their differences.
    """
    wide = logits.double()
    count, classes = wide.shape
    is_other = torch.ones_like(wide, dtype=torch.bool)
    is_other[torch.arange(count), labels] = False
    others = wide[is_other].reshape(count, classes - 1)
    target, top = wide[~is_other], others.amax(1)
    shift = {"raw": torch.zeros_like(top), "mean": wide.mean(1), "other_max": top, "target": target}[anchor]
    powers = torch.expm1((others - top[:, None])[:, None, :] / taus[:, :, None])
    log_sum = (powers.sum(2) + classes - 1).log()
    log_iv = (powers - powers.mean(2, keepdim=True)).square().mean(2).log() - 2 * log_sum
    tau_target = taus * ratio if fixed is None else torch.full_like(taus, fixed)
    odds = (top - shift)[:, None] / taus + log_sum - (target - shift)[:, None] / tau_target
    return 2 * torch.nn.functional.logsigmoid(odds) + log_iv


def is_clear(curve: Tensor, log_grid: Tensor) -> Tensor:
    """One hump, and DV at 0.1 in log tau to each side of its top at least 1e-3 lower (inside the bounds)."""
    step = curve.diff(dim=1)
    step = torch.where(step.abs() < 1e-11 * (1 + curve[:, 1:].abs()), 0.0, step).sign()
    single = ~((step.cummin(dim=1).values < 0) & (step > 0)).any(dim=1)
    best, place = curve.max(dim=1)
    reach = round(0.1 / float(log_grid[1] - log_grid[0]))
    lowest = torch.full_like(curve[:, :reach], -torch.inf)
    padded = torch.cat([lowest, curve, lowest], dim=1)
    beside = torch.stack([padded.gather(1, (place + shift)[:, None])[:, 0] for shift in (0, 2 * reach)])
    return single & (best - beside > 1e-3).all(dim=0)


def samples(family: str, count: int, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Logits that are hard on a search, and labels that are often, not always, on top."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def spread(low: float, high: float, *shape: int) -> Tensor:
        uniform = torch.rand(*shape, generator=generator, dtype=torch.float64)
        return (uniform * math.log(high / low) + math.log(low)).exp()

    labels = torch.randint(classes, (count,), generator=generator)
    gaps = torch.cat([torch.zeros(count, 1, dtype=torch.float64), spread(0.05, 300, count, 3)], dim=1)
    groups = -gaps.gather(1, torch.randint(4, (count, classes), generator=generator) ** 2 // 3)
    logits = {
        "normal": normal(count, classes) * spread(0.01, 1000, count, 1),
        "heavy tails": normal(count, classes) / normal(count, classes),
        "groups": groups + normal(count, 1) * spread(0.01, 100, count, 1),
        "ties": normal(count, classes).round() * spread(0.1, 20, count, 1),
        "log-softmax": (normal(count, classes) * spread(0.1, 50, count, 1)).log_softmax(1),
        "huge": normal(count, classes) * 2e4,
        "tiny": normal(count, classes) * 1e-7,
    }[family]
    if family not in ("huge", "tiny"):
        top = logits.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True)
        sign = torch.where(torch.rand(count, 1, generator=generator) < 0.8, 1.0, -1.0)
        logits = logits.scatter(1, labels[:, None], top + sign * spread(0.01, 300, count, 1))
    return logits.clamp(-6e4, 6e4), labels
