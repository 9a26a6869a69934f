"""How long the search for tau_other takes, against the plain search in float64.

    python tests/bench/rules.py [--check] [--rounds 5] [--samples 50000]

The plain search evaluates the derived variance in float64 at 33 temperatures and in 24 golden-section steps around
every peak of them. Both run in turn, in one thread, on the same made-up logits (a teacher that is mostly right), so
that a busy machine slows both; the ratio is the median of the rounds' ratios.

`--check` exits 1 where the plain search is not at least 3 times as slow with 100 classes and twice with 10, or where
the search falls short of it by 1e-4 of the derived variance.

2026-11-22, one thread of an AMD EPYC, torch 2.15, n 9 (median, p99): 50,000 x 100 plain 1163, 1231 ms, search 281,
306 ms, ratio 4.1; 50,000 x 10 plain 211, 232 ms, search 70, 80 ms, ratio 3.2 (2.4 to 3.2 over busier runs).
On a GPU: not yet measured.
"""

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from autodistill.methods import METHODS

LEAST = {100: 3.0, 10: 2.0}
RATIO, LOW, HIGH = 5 / 3, math.log(0.5), math.log(30)
GOLDEN = (math.sqrt(5) - 1) / 2
AT_A_TIME = 2**18


def made_up(samples: int, classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(samples, classes, generator=generator) * 2
    labels = torch.randint(classes, (samples,), generator=generator)
    logits[torch.arange(samples), labels] += torch.rand(samples, generator=generator) * 10 + 2
    return logits, labels


def gaps_and_lead(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of the other classes (one column for each sample), and of the target, to the largest other logit."""
    wide = logits.double()
    top = wide.scatter(1, labels[:, None], -torch.inf).amax(1)
    gaps = (wide - top[:, None]).scatter(1, labels[:, None], 0.0).T.contiguous()
    return gaps, wide.gather(1, labels[:, None])[:, 0] - top


def log_dv(gaps: Tensor, lead: Tensor, log_tau: Tensor) -> Tensor:
    others, tau = len(gaps) - 1, log_tau.exp()
    excess = torch.expm1(gaps / tau)
    total = excess.sum(0)
    log_sum = (total + others).log()
    variance = (excess.square_().sum(0) - total.square() / others) / others
    return 2 * logsigmoid(log_sum - lead / tau / RATIO) + variance.log() - 2 * log_sum


def golden(gaps: Tensor, lead: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = log_dv(gaps, lead, left), log_dv(gaps, lead, right)
    for _ in range(22):
        leftward = at_left > at_right
        low, high = torch.where(leftward, low, left), torch.where(leftward, right, high)
        probe = torch.where(leftward, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        at_probe = log_dv(gaps, lead, probe)
        left, right = torch.where(leftward, probe, right), torch.where(leftward, left, probe)
        at_left, at_right = torch.where(leftward, at_probe, at_right), torch.where(leftward, at_left, at_probe)
    return torch.where(at_left > at_right, left, right), torch.maximum(at_left, at_right)


def plain_chunk(gaps: Tensor, lead: Tensor) -> Tensor:
    grid = torch.linspace(LOW, HIGH, 33, dtype=torch.float64)
    heights = torch.stack([log_dv(gaps, lead, log_tau.expand_as(lead)) for log_tau in grid])
    ends = torch.full_like(heights[:1], -torch.inf)
    is_peak = (heights > torch.cat([ends, heights[:-1]])) & (heights >= torch.cat([heights[1:], ends]))
    point, sample = is_peak.nonzero(as_tuple=True)
    before, after = grid[(point - 1).clamp(min=0)], grid[(point + 1).clamp(max=32)]
    place, height = golden(gaps[:, sample], lead[sample], before, after)
    at_point = heights[point, sample]
    place = torch.where(height > at_point, place, grid[point])
    best = torch.full_like(heights, -torch.inf).index_put((point, sample), torch.maximum(height, at_point))
    return torch.zeros_like(heights).index_put((point, sample), place).gather(0, best.argmax(0)[None])[0]


def plain(logits: Tensor, labels: Tensor) -> Tensor:
    rows = AT_A_TIME // logits.shape[1]
    chunks = zip(logits.split(rows), labels.split(rows), strict=True)
    return torch.cat([plain_chunk(*gaps_and_lead(*chunk)) for chunk in chunks]).exp()


def seconds(search: Callable[..., Tensor], *data: Tensor) -> float:
    start = time.perf_counter()
    search(*data)
    return time.perf_counter() - start


def searched(logits: Tensor, labels: Tensor) -> Tensor:
    return METHODS["isats"].temperatures(logits, labels).other


def shortfall(logits: Tensor, labels: Tensor) -> float:
    """The most that the search's ln DV lies below the plain search's."""
    of_gaps = gaps_and_lead(logits, labels)
    ours, theirs = (log_dv(*of_gaps, search(logits, labels).log()) for search in (searched, plain))
    return float((theirs - ours).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where the search is too slow or falls short")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each search")
    parser.add_argument("--samples", type=int, default=50_000, help="rows of logits")
    args = parser.parse_args()
    torch.set_num_threads(1)
    failed = False
    print(
        f"{'logits':>14}  {'n':>2}  {'plain: median, p99':>20}  {'search: median, p99':>20}  ratio  short of plain by"
    )
    for classes, least in LEAST.items():
        data = made_up(args.samples, classes)
        short = shortfall(*data)
        rounds = [[seconds(search, *data) * 1000 for search in (plain, searched)] for _ in range(args.rounds)]
        ms = np.array(rounds)
        ratio = float(np.median(ms[:, 0] / ms[:, 1]))
        cells = [f"{np.median(column):.0f} ms, {np.percentile(column, 99):.0f} ms" for column in ms.T]
        name = f"{args.samples} x {classes}"
        print(f"{name:>14}  {len(ms):>2}  {cells[0]:>20}  {cells[1]:>20}  {ratio:5.2f}  {short:.1e}")
        failed |= ratio < least or not short < 1e-4
    if args.check and failed:
        raise SystemExit(
            "the search must be 3 times as fast with 100 classes and twice with 10, and fall short nowhere"
        )


if __name__ == "__main__":
    main()
