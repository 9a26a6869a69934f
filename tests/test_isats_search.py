"""The search for tau_other against loops over temperatures; what a study takes from it once."""

import math
import random

import pytest
import torch
from method_oracles import is_clear, log_dv, samples, softmax_loop, teacher, variance_loop
from torch import Tensor

from autodistill.methods import ANCHORS, METHODS, summarise
from autodistill.metrics import on_top

isats, fit = METHODS["isats"].targets, METHODS["isats"].fit


def isats_tau_other(logits: Tensor, labels: Tensor, **params: object) -> Tensor:
    return METHODS["isats"].temperatures(logits, labels, **params).other


def test_the_searched_target_has_the_largest_variance_of_a_loop_over_temperatures():
    logits, labels = teacher(6)
    targets = isats(logits, labels)
    for row, label, probs in zip(logits.double().tolist(), labels.tolist(), targets.probs, strict=True):

        def dv(tau, row=row, label=label):
            q = softmax_loop(row, label, tau * 5 / 3, tau, "other_max")
            return variance_loop(q[:label] + q[label + 1 :])

        best = max(dv(0.5 * 60 ** (n / 400)) for n in range(401))
        got = variance_loop([p for j, p in enumerate(probs.double().tolist()) if j != label])
        assert got >= best * (1 - 1e-4)


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("family", ["normal", "heavy tails", "groups", "ties", "log-softmax", "huge", "tiny"])
def test_no_point_of_a_dense_grid_beats_the_search(family, anchor):
    """4096 points; 1e-4 relative in DV everywhere, 0.01 in log tau where the optimum is clear."""
    rng = random.Random(f"{family} {anchor}")
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    clear_seen = 0
    for classes, count in ((3, 30), (4, 30), (10, 20), (60, 3)):
        for form in ({"ratio": rng.uniform(0.5, 5), "fixed": None}, {"ratio": None, "fixed": rng.uniform(0.5, 8)}):
            logits, labels = samples(family, count, classes, generator)
            logits = logits.to(rng.choice([torch.float16, torch.bfloat16, torch.float32]))
            found = isats_tau_other(logits, labels, target_ratio=form["ratio"], tau_target=form["fixed"], anchor=anchor)
            log_grid = torch.linspace(math.log(0.5), math.log(30), 4096, dtype=torch.float64)
            curve = log_dv(logits, labels, log_grid.exp().expand(count, -1), anchor=anchor, **form)
            best = curve.amax(dim=1)
            flat = best == -torch.inf
            reached = log_dv(logits, labels, found[:, None], anchor=anchor, **form)[:, 0]
            assert (reached >= best + math.log1p(-1e-4))[~flat].all()
            clear = is_clear(curve, log_grid) & ~flat
            tops = torch.where(curve >= best[:, None] - 1e-11, log_grid, torch.inf)
            away = (tops - found.log()[:, None]).abs().amin(dim=1)
            assert (away <= 0.01)[clear].all()
            clear_seen += int(clear.sum())
    assert clear_seen > 20


def test_of_several_humps_the_highest_is_taken():
    """A fixed target temperature of 1 and spread-out logits: every fourth curve has two humps or more."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(600, 10, generator=generator) * 8, torch.zeros(600, dtype=torch.long)
    logits[:, 0] = logits[:, 1:].amax(dim=1) + torch.rand(600, generator=generator) * 10
    log_grid = torch.linspace(math.log(0.5), math.log(30), 1024, dtype=torch.float64)
    form = {"anchor": "other_max", "ratio": None, "fixed": 1.0}
    curve = log_dv(logits, labels, log_grid.exp().expand(600, -1), **form)
    padded = torch.nn.functional.pad(curve, (1, 1), value=-torch.inf)
    is_hump = (curve > padded[:, :-2] + 1e-12) & (curve > padded[:, 2:] + 1e-12)
    first, second = torch.where(is_hump, curve, -torch.inf).topk(2, dim=1).values.unbind(dim=1)
    assert (second > -torch.inf).sum() > 100
    assert ((first - second) < 0.02).sum() > 10
    found = isats_tau_other(logits, labels, tau_target=1.0)
    assert (log_dv(logits, labels, found[:, None], **form)[:, 0] >= first - 1e-4).all()


@pytest.mark.parametrize(
    "row",
    [
        # The grid's highest point lies on the lower of two humps.
        [12.34, -2.58, 4.78, 0.72, -6.8, 1.01, 2.38, -8.19, 6.43, 4.42],
        [23.96, 4.71, 18.24, 1.3, 13.59, -8.58, -5.92, -18.35, -2.65, 1.87],
        # A hump so narrow that a grid of half a unit in log tau steps over it.
        [10.9, 0.15, 0.61, -3.04, -3.83, 1.13],
        [6.37, -5.78, 0.6, -5.71, -0.84, 1.62, -1.03, -2.86, -4.41, -3.13],
    ],
)
def test_samples_on_which_a_lazier_search_fell_short(row):
    logits, label = torch.tensor([row]), torch.tensor([0])
    log_grid = torch.linspace(math.log(0.5), math.log(30), 4096, dtype=torch.float64)
    form = {"anchor": "other_max", "ratio": None, "fixed": 1.0}
    best = log_dv(logits, label, log_grid.exp()[None], **form).amax()
    found = isats_tau_other(logits, label, tau_target=1.0)
    assert log_dv(logits, label, found[:, None], **form).item() >= best.item() - 1e-4


def test_at_a_kink_the_search_stays_on_the_high_side():
    """Huge negative logits and a fixed target temperature: DV is nothing left of z_j / z_y, and falls right of it."""
    kinks = torch.linspace(1, 20, 50, dtype=torch.float64)
    logits = torch.full((50, 100), -1e6, dtype=torch.float64)
    logits[:, 3:] -= 4 * kinks[:, None]
    logits[:, 0] = -1e6 / kinks
    labels = torch.zeros(50, dtype=torch.long)
    found = isats_tau_other(logits, labels, tau_target=1.0, anchor="raw")
    just_right = (kinks * (1 + 1e-5))[:, None]
    form = {"anchor": "raw", "ratio": None, "fixed": 1.0}
    reached = log_dv(logits, labels, found[:, None], **form)[:, 0]
    assert (reached >= log_dv(logits, labels, just_right, **form)[:, 0] + math.log1p(-1e-4)).all()
    assert (found / kinks - 1).abs().max() < 1e-3


@pytest.mark.parametrize("bounds", [(0.01, 0.02), (0.5, 0.51), (1.0, 1000.0), (2.0, 3.0)])
@pytest.mark.parametrize("fixed", [None, 1.0])
def test_other_bounds_of_the_temperature(bounds, fixed):
    logits, labels = samples("normal", 100, 5, torch.Generator().manual_seed(0))
    low, high = bounds
    form = {"anchor": "other_max", "ratio": None if fixed else 5 / 3, "fixed": fixed}
    log_grid = torch.linspace(math.log(low), math.log(high), 1024, dtype=torch.float64)
    best = log_dv(logits, labels, log_grid.exp().expand(100, -1), **form).amax(dim=1)
    found = isats_tau_other(logits, labels, tau_target=fixed, tau_min=low, tau_max=high)
    assert ((found >= low) & (found <= high)).all()
    varied = best > -torch.inf
    assert (log_dv(logits, labels, found[:, None], **form)[:, 0] >= best + math.log1p(-1e-4))[varied].all()


def test_gaps_whose_squares_float32_cannot_hold_are_searched_like_larger_ones():
    """V is quadratic in 1 / tau_other and S is 4: the optimum is that of a loop, whatever the size of the gaps."""
    gaps = torch.tensor([[0.0, 0.0, -1.0, -2.0, -4.0]], dtype=torch.float64)
    logits = torch.cat([gaps * 1e-9, gaps * 1e-30, gaps * 1e-100])
    logits[:, 0] = 3.0
    label = torch.zeros(3, dtype=torch.long)
    best = max(
        (n / 1000 for n in range(500, 30001)),
        key=lambda tau: -2 * math.log(tau) - 2 * math.log(4 + math.exp(3 / (5 / 3 * tau))),
    )
    assert isats_tau_other(logits, label).tolist() == pytest.approx([best] * 3, abs=1e-3)


@pytest.mark.parametrize(
    "family", ["normal", *(pytest.param(it, marks=pytest.mark.slow) for it in ("groups", "ties", "huge"))]
)
def test_hard_rows_reach_the_same_variance_in_any_company(family):
    """On a plateau that is flat to float64's last digit the temperature itself may differ."""
    logits, labels = samples(family, 100, 10, torch.Generator().manual_seed(1))
    together = isats_tau_other(logits, labels, tau_target=1.0)
    alone = torch.cat([isats_tau_other(z[None], y[None], tau_target=1.0) for z, y in zip(logits, labels, strict=True)])
    form = {"anchor": "other_max", "ratio": None, "fixed": 1.0}
    reached, in_company = (log_dv(logits, labels, tau[:, None], **form) for tau in (alone, together))
    torch.testing.assert_close(reached, in_company, rtol=1e-10, atol=1e-10)
    assert torch.equal(isats_tau_other(logits, labels, tau_target=1.0), together)


def test_flat_variance_gives_the_geometric_mean_of_the_bounds():
    logits = torch.tensor([[9.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [-3.0, 2.0, 2.0, 2.0]])
    targets = isats(logits, torch.tensor([0, 1, 0]), tau_min=1.0, tau_max=16.0)
    torch.testing.assert_close(targets.tau_other, torch.full((3,), 4.0, dtype=torch.float64))
    assert targets.probs.isfinite().all()


def test_tau_wrong_replaces_the_temperature_of_samples_whose_label_is_not_on_top():
    logits = torch.tensor([[5.0, 1.0, 0.0], [1.0, 5.0, 0.0], [2.0, 2.0, 0.0]])
    labels = torch.tensor([0, 0, 0])
    literal = isats(logits, labels)
    named = isats(logits, labels, tau_wrong="literal")
    replaced = isats(logits, labels, tau_wrong=7.0)
    assert torch.equal(literal.tau_other, named.tau_other)
    assert literal.tau_other[1].item() == 0.5
    assert literal.at_lower.tolist()[:2] == [False, True]
    assert replaced.tau_other.tolist() == [literal.tau_other[0].item(), 7.0, literal.tau_other[2].item()]
    assert replaced.tau_target[1].item() == pytest.approx(7 * 5 / 3)
    assert not replaced.at_lower[1].item()


def test_fit_takes_the_median_of_the_right_samples():
    logits, labels = teacher(101)
    found = isats_tau_other(logits, labels, target_ratio=2.0)
    right = sorted(tau for tau, ok in zip(found.tolist(), on_top(logits, labels).tolist(), strict=True) if ok)
    middle = (right[(len(right) - 1) // 2] + right[len(right) // 2]) / 2
    assert len(right) < 101
    assert fit(logits, labels, target_ratio=2.0) == {"tau_wrong": pytest.approx(middle)}
    assert fit(logits, labels, tau_wrong="literal") == {}
    assert fit(logits, labels, tau_wrong=3.0) == {}


def test_fit_without_a_right_sample_is_the_geometric_mean_of_the_bounds():
    logits, labels = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([0])
    assert fit(logits, labels) == {"tau_wrong": pytest.approx(math.sqrt(15))}
    assert fit(logits, labels, tau_min=2.0, tau_max=8.0) == {"tau_wrong": pytest.approx(4)}


def test_the_literal_method_sits_at_its_lower_bound_and_the_ray_does_not():
    logits, labels = teacher(500, seed=3)
    logits = logits - logits.mean(dim=1, keepdim=True)
    right = on_top(logits, labels)
    literal = summarise(isats(logits, labels, tau_target=4.0, anchor="raw"), logits, labels, None)
    ray = summarise(isats(logits, labels), logits, labels, None)
    assert literal.at_lower > 0.95
    assert literal.displaced > 0.3
    assert ray.at_lower + ray.at_upper < 0.05
    assert ray.displaced == 0
    assert literal.teacher_right == pytest.approx(right.double().mean().item())


def test_summary_by_hand():
    logits = torch.tensor([[5.0, 1.0, 0.0], [1.0, 5.0, 0.0], [9.0, 1.0, 1.0]])
    labels = torch.tensor([0, 0, 0])
    summary = summarise(isats(logits, labels, tau_wrong=7.0), logits, labels, 7.0)
    assert summary.tau_wrong == 7.0
    assert summary.teacher_right == pytest.approx(2 / 3)
    assert summary.tau_other == pytest.approx(math.sqrt(15))  # between the searched one below and the 7 above
    assert summary.tau_target == pytest.approx(math.sqrt(15) * 5 / 3)
    assert (summary.at_lower, summary.at_upper, summary.displaced) == (0, 0, 0)
    plain = summarise(METHODS["ts"].targets(logits, labels, tau=4.0), logits, labels, None)
    assert (plain.tau_target, plain.tau_other, plain.at_lower, plain.at_upper) == (4, 4, 0, 0)
    assert summarise(isats(logits[1:2], labels[:1]), logits[1:2], labels[:1], "literal").at_lower == 0
