"""The soft-target rules against loops, hand-computed numbers and a dense grid."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_oracles import is_clear, log_dv, samples, softmax_loop, variance_loop

from autodistill.metrics import derived_variance, inherent_variance, on_top
from autodistill.rules import (
    ANCHORS,
    RULES,
    asymmetric_softmax,
    ats,
    fit_tau_wrong,
    isats,
    isats_tau_other,
    summarise,
    ts,
)

QUICK = settings(max_examples=30, deadline=None, derandomize=True)
EXTREMES = (0.0, -0.0, 1.0, -7.0, 1e-7, -1e-7, 1.4e-45, 1 + 1e-6, 6e4, -6e4, 1e20, 3e38, -3e38)
FORMS = [{"target_ratio": 5 / 3}, {"target_ratio": 0.5}, {"tau_target": 1.0}, {"tau_target": 4.0}]


def teacher(count: int = 64, classes: int = 10, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator) * 2
    labels = torch.randint(classes, (count,), generator=generator)
    logits[torch.arange(count), labels] += torch.rand(count, generator=generator) * 10 - 1
    return logits, labels


def test_ts_is_the_softmax_by_hand():
    targets = ts(torch.tensor([[2 * math.log(4), 2 * math.log(3), 0.0]]), torch.tensor([0]), tau=2.0)
    assert targets.probs.dtype == torch.float32
    torch.testing.assert_close(targets.probs, torch.tensor([[4 / 8, 3 / 8, 1 / 8]]))


def test_ats_by_hand():
    # Target: ln 9 / 2 = ln 3. Others: ln 8 / 3 = ln 2 and 0. So 3 : 2 : 1.
    logits = torch.tensor([[math.log(8), math.log(9), 0.0]])
    targets = ats(logits, torch.tensor([1]), tau_target=2.0, tau_other=3.0)
    torch.testing.assert_close(targets.probs, torch.tensor([[2 / 6, 3 / 6, 1 / 6]]))
    assert targets.tau_target.tolist() == [2.0]
    assert targets.tau_other.tolist() == [3.0]
    assert targets.at_lower is None


def test_ats_moves_the_label_off_the_top_and_says_so():
    # 3 / 6 = 0.5 against 1 / 1 = 1: displaced. The second sample keeps its label, the third never had it on top.
    logits = torch.tensor([[3.0, 1.0, 0.0], [30.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    targets = ats(logits, torch.tensor([0, 0, 0]), tau_target=6.0, tau_other=1.0)
    assert targets.displaced.tolist() == [True, False, False]


def test_isats_with_three_classes_solves_its_stationary_equation():
    # Others 0 and -g at temperature t have e = exp(-g / t), IV = ((1 - e) / (1 + e))^2 / 4; anchored at the largest
    # other, z_y = d on the ray rho: 1 - p_y = (1 + e) / (1 + e + exp(d / (rho t))). So DV is the square of
    # (1 - e) / (1 + e + w) / 2, whose largest value over t a fine scan finds.
    gap, above, ratio = 3.0, 5.0, 5 / 3
    best = max(
        (n / 10000 for n in range(5000, 300001)),
        key=lambda t: (1 - math.exp(-gap / t)) / (1 + math.exp(-gap / t) + math.exp(above / (ratio * t))),
    )
    found = isats(torch.tensor([[2.0 + above, 2.0, 2.0 - gap]]), torch.tensor([0]))
    assert found.tau_other.item() == pytest.approx(best, abs=2e-3)
    assert found.tau_target.item() == pytest.approx(ratio * found.tau_other.item())
    assert not found.at_lower.item()
    assert not found.at_upper.item()


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("form", FORMS)
def test_isats_is_the_loop_at_its_temperatures(anchor, form):
    logits, labels = teacher()
    targets = isats(logits, labels, anchor=anchor, **form)
    temperatures = zip(targets.tau_target.tolist(), targets.tau_other.tolist(), strict=True)
    for row, label, (target, other), probs in zip(
        logits.double().tolist(), labels.tolist(), temperatures, targets.probs, strict=True
    ):
        assert target == pytest.approx(form.get("tau_target", other * form.get("target_ratio", 0)))
        expected = torch.tensor(softmax_loop(row, label, target, other, anchor))
        torch.testing.assert_close(probs, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("anchor", ANCHORS)
def test_asymmetric_softmax_takes_one_temperature_or_one_for_each_sample(anchor):
    logits, labels = teacher(5)
    target, other = torch.tensor([1.0, 2, 3, 4, 5]), torch.tensor([5.0, 4, 3, 2, 1])
    probs = asymmetric_softmax(logits, labels, tau_target=target, tau_other=other, anchor=anchor)
    for n in range(5):
        row = logits[n].double().tolist()
        expected = softmax_loop(row, int(labels[n]), float(target[n]), float(other[n]), anchor)
        torch.testing.assert_close(probs[n], torch.tensor(expected), rtol=1e-5, atol=1e-7)
        alone = asymmetric_softmax(
            logits[n : n + 1],
            labels[n : n + 1],
            tau_target=float(target[n]),
            tau_other=float(other[n]),
            anchor=anchor,
        )
        torch.testing.assert_close(probs[n : n + 1], alone, rtol=0, atol=0)


@QUICK
@given(tau=st.floats(0.1, 50), shift=st.floats(-100, 100), anchor=st.sampled_from(sorted(ANCHORS)))
def test_ats_with_equal_temperatures_is_ts_and_ts_forgets_shifts(tau, shift, anchor):
    logits, labels = teacher(8)
    expected = ts(logits, labels, tau=tau).probs
    same = ats(logits, labels, tau_target=tau, tau_other=tau, anchor=anchor).probs
    torch.testing.assert_close(same, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ts(logits.double() + shift, labels, tau=tau).probs, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("anchor", ANCHORS)
def test_only_the_raw_anchor_depends_on_a_constant_added_to_all_logits(anchor):
    logits, labels = teacher()
    plain, moved = logits.double(), logits.double() + 5
    unchanged = torch.allclose(
        ats(plain, labels, tau_target=4.0, tau_other=2.0, anchor=anchor).probs,
        ats(moved, labels, tau_target=4.0, tau_other=2.0, anchor=anchor).probs,
        rtol=1e-5,
    )
    assert unchanged == (anchor != "raw")
    same = torch.allclose(
        isats_tau_other(plain, labels, anchor=anchor), isats_tau_other(moved, labels, anchor=anchor), rtol=1e-4
    )
    assert same == (anchor != "raw")


def test_a_shift_of_five_moves_the_ats_target_by_the_published_amount():
    # Others 0: p_y = 1 / (1 + n exp(c / 2 - (z + c) / 4)) at shift c.
    logits, label = torch.zeros(1, 100).double(), torch.tensor([3])
    logits[0, 3] = 8
    for shift in (-5.0, 0.0, 5.0):
        expected = 1 / (1 + 99 * math.exp(shift / 2 - (8 + shift) / 4))
        probs = ats(logits + shift, label, tau_target=4.0, tau_other=2.0).probs
        assert probs[0, 3].item() == pytest.approx(expected, rel=1e-5)


def test_a_ray_of_ratio_one_is_ts_at_the_searched_temperature_for_every_anchor():
    logits, labels = teacher()
    by_target = isats_tau_other(logits, labels, tau_target=7.0, anchor="target")
    for anchor in ANCHORS:
        targets = isats(logits, labels, target_ratio=1.0, anchor=anchor)
        torch.testing.assert_close(targets.tau_other, by_target, rtol=1e-5, atol=0)
        for n in range(4):
            alone = ts(logits[n : n + 1], labels[n : n + 1], tau=targets.tau_other[n].item())
            torch.testing.assert_close(targets.probs[n : n + 1], alone.probs, rtol=1e-5, atol=1e-7)


def test_with_the_target_anchor_a_fixed_target_temperature_does_nothing():
    logits, labels = teacher()
    low, high = (isats(logits, labels, tau_target=tau, anchor="target") for tau in (0.7, 20.0))
    torch.testing.assert_close(low.probs, high.probs, rtol=0, atol=0)


def test_derived_variance_is_the_others_share_squared_times_inherent_variance():
    logits, labels = teacher()
    for tau_target, tau_other in ((1.0, 1.0), (4.0, 2.0), (0.7, 9.0)):
        probs = asymmetric_softmax(logits, labels, tau_target=tau_target, tau_other=tau_other, anchor="raw")
        others = 1 - probs.double().gather(1, labels[:, None])[:, 0]
        product = others.square() * inherent_variance(logits, labels, tau_other=tau_other)
        torch.testing.assert_close(derived_variance(probs, labels), product, rtol=1e-4, atol=1e-12)


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
            found = isats_tau_other(
                logits, labels, target_ratio=form["ratio"], tau_target=form["fixed"], anchor=anchor
            )
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


def test_flat_variance_gives_the_geometric_mean_of_the_bounds():
    logits = torch.tensor([[9.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [-3.0, 2.0, 2.0, 2.0]])
    targets = isats(logits, torch.tensor([0, 1, 0]), tau_min=1.0, tau_max=16.0)
    torch.testing.assert_close(targets.tau_other, torch.full((3,), 4.0, dtype=torch.float64))
    assert targets.probs.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", RULES)
def test_every_float_type_gives_the_rule_of_its_exact_values(name, dtype):
    params = {"ts": {"tau": 3.0}, "ats": {"tau_target": 4.0, "tau_other": 2.0}, "isats": {}}[name]
    logits, labels = teacher()
    narrow = logits.to(dtype)
    probs = RULES[name].targets(narrow, labels, **params).probs
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs, RULES[name].targets(narrow.double(), labels, **params).probs, rtol=0, atol=0)


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("form", FORMS)
def test_extreme_logits_give_finite_targets_and_gradients(anchor, form):
    rng = random.Random(1)
    logits = torch.tensor([[rng.choice(EXTREMES) for _ in range(4)] for _ in range(200)], requires_grad=True)
    labels = torch.tensor([rng.randrange(4) for _ in range(200)])
    targets = isats(logits, labels, anchor=anchor, **form)
    assert targets.probs.isfinite().all()
    assert ((targets.tau_other >= 0.5) & (targets.tau_other <= 30)).all()
    torch.testing.assert_close(targets.probs.sum(dim=1), torch.ones(200))
    targets.probs.square().sum().backward()
    assert logits.grad.isfinite().all()


def test_a_huge_target_or_anchor_does_not_swallow_the_other_classes():
    others = torch.tensor([0.0, -1.0, -3.0])
    small = torch.cat([torch.tensor([-40.0]), others])
    huge = torch.cat([torch.tensor([-3e38]), others])
    label = torch.tensor([0])
    alone = (others / 2).softmax(0)
    for logits in (small, huge):
        probs = asymmetric_softmax(logits[None], label, tau_target=1.0, tau_other=2.0, anchor="target")
        torch.testing.assert_close(probs[0, 1:], alone, rtol=1e-5, atol=0)
    # All of DV's dependence on tau_other lies below the last digit of the target's logit.
    above = torch.cat([torch.tensor([1e6]), others - 5])[None]
    far = torch.cat([torch.tensor([1e30]), others - 5])[None]
    expected, found = (isats_tau_other(z, label, tau_target=1.0, anchor="raw") for z in (above, far))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    assert 0.6 < found.item() < 25


@pytest.mark.parametrize("anchor", ANCHORS)
def test_gradients_of_the_asymmetric_softmax_are_those_of_the_formula(anchor):
    logits, labels = teacher(6, 5)
    weights = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))

    def scalar(z):
        probs = asymmetric_softmax(z, labels, tau_target=3.0, tau_other=1.5, anchor=anchor)
        return (probs.double() * weights).sum()

    leaf = logits.double().requires_grad_()
    (grad,) = torch.autograd.grad(scalar(leaf), leaf)
    step = 1e-2
    for n, j in ((0, 0), (1, 2), (2, int(labels[2])), (3, int(labels[3]))):
        moved = torch.zeros_like(logits, dtype=torch.float64)
        moved[n, j] = step
        slope = (scalar(leaf + moved) - scalar(leaf - moved)) / (2 * step)
        assert grad[n, j].item() == pytest.approx(slope.item(), abs=2e-4)


@pytest.mark.parametrize("name", RULES)
def test_ties_are_no_harder_than_anything_else(name):
    params = {"ts": {"tau": 3.0}, "ats": {"tau_target": 4.0, "tau_other": 2.0}, "isats": {}}[name]
    logits = torch.tensor([[2.0, 2.0, 1.0, 1.0], [2.0, 2.0, 2.0, 1.0], [1.0, 2.0, 2.0, 1.0]])
    targets = RULES[name].targets(logits, torch.tensor([0, 0, 0]), **params)
    torch.testing.assert_close(targets.probs[1, 1], targets.probs[1, 2], rtol=0, atol=0)
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
    assert fit_tau_wrong(logits, labels, target_ratio=2.0) == pytest.approx(middle)
    assert RULES["isats"].fit(logits, labels, target_ratio=2.0) == {"tau_wrong": pytest.approx(middle)}
    assert RULES["isats"].fit(logits, labels, tau_wrong="literal") == {}
    assert RULES["isats"].fit(logits, labels, tau_wrong=3.0) == {}


def test_fit_without_a_right_sample_is_the_geometric_mean_of_the_bounds():
    logits, labels = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([0])
    assert fit_tau_wrong(logits, labels) == pytest.approx(math.sqrt(15))
    assert fit_tau_wrong(logits, labels, tau_min=2.0, tau_max=8.0) == pytest.approx(4)


def test_the_literal_rule_sits_at_its_lower_bound_and_the_ray_does_not():
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
    plain = summarise(ts(logits, labels, tau=4.0), logits, labels, None)
    assert (plain.tau_target, plain.tau_other, plain.at_lower, plain.at_upper) == (4, 4, 0, 0)
    assert summarise(isats(logits[1:2], labels[:1]), logits[1:2], labels[:1], "literal").at_lower == 0


def test_rows_do_not_depend_on_their_company(monkeypatch):
    logits, labels = teacher(100)
    together = isats_tau_other(logits, labels)
    monkeypatch.setattr("autodistill.rules.instance_specific.NUMBERS_IN_MEMORY", 70)
    torch.testing.assert_close(isats_tau_other(logits, labels), together, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"target_ratio": 2.0, "tau_target": 3.0}, ["target_ratio is 2.0", "tau_target is 3.0"]),
        ({"target_ratio": 0.0}, ["target_ratio is 0.0", "positive"]),
        ({"tau_target": -1.0}, ["tau_target is -1.0"]),
        ({"tau_min": 0.0}, ["tau_min is 0.0"]),
        ({"tau_max": math.inf}, ["tau_max is inf", "finite"]),
        ({"tau_min": 4.0, "tau_max": 4.0}, ["tau_min is 4.0", "tau_max is 4.0"]),
        ({"anchor": "median"}, ["median", "raw, mean, other_max, target"]),
        ({"tau_wrong": math.nan}, ["tau_wrong is nan"]),
        ({"tau_wrong": "onehot"}, ["onehot", "literal"]),
    ],
)
def test_wrong_arguments_of_isats(params, words):
    logits, labels = teacher(4)
    with pytest.raises(ValueError) as caught:
        isats(logits, labels, **params)
    for word in words:
        assert word in str(caught.value)


def test_two_classes_are_too_few_for_isats_and_it_says_what_to_use():
    with pytest.raises(ValueError, match=r"at least 3 classes, got 2.*ts or ats"):
        isats(torch.zeros(1, 2), torch.tensor([0]))
    probs = ats(torch.tensor([[2.0, 1.0]]), torch.tensor([0]), tau_target=2.0, tau_other=1.0).probs
    assert probs.tolist() == [[0.5, 0.5]]


def test_wrong_temperatures_of_ts_and_ats():
    logits, labels = teacher(4)
    with pytest.raises(ValueError, match="tau is 0"):
        ts(logits, labels, tau=0.0)
    with pytest.raises(ValueError, match="tau_other is nan"):
        ats(logits, labels, tau_target=1.0, tau_other=math.nan)
    with pytest.raises(ValueError, match="unknown anchor 'zero'"):
        ats(logits, labels, tau_target=1.0, tau_other=1.0, anchor="zero")
