"""Distillation methods against loops in float64, numbers by hand and properties."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_oracles import softmax_loop, teacher
from torch import Tensor

from autodistill.methods import ANCHORS, METHODS, Temperatures, soften
from autodistill.metrics import derived_variance, inherent_variance

QUICK = settings(max_examples=30, deadline=None, derandomize=True)
EXTREMES = (0.0, -0.0, 1.0, -7.0, 1e-7, -1e-7, 1.4e-45, 1 + 1e-6, 6e4, -6e4, 1e20, 3e38, -3e38)
PARAMS = {"ts": {"tau": 3.0}, "ats": {"tau_target": 4.0, "tau_other": 2.0}, "isats": {}}
FORMS = [{"target_ratio": 5 / 3}, {"target_ratio": 0.5}, {"tau_target": 1.0}, {"tau_target": 4.0}]

ts, ats, isats = (METHODS[name].targets for name in ("ts", "ats", "isats"))


def softened(logits: Tensor, labels: Tensor, target: float, other: float, anchor: str) -> Tensor:
    """Soft targets of every sample at two temperatures."""
    each = torch.ones_like(logits[:, 0], dtype=torch.float64)
    return soften(logits, labels, Temperatures(target * each, other * each, anchor))


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
def test_each_sample_is_softened_at_its_own_temperatures(anchor):
    logits, labels = teacher(5)
    target, other = torch.tensor([1.0, 2, 3, 4, 5]).double(), torch.tensor([5.0, 4, 3, 2, 1]).double()
    probs = soften(logits, labels, Temperatures(target, other, anchor))
    for row, label, to, so, found in zip(logits.double(), labels.tolist(), target, other, probs, strict=True):
        expected = softmax_loop(row.tolist(), label, float(to), float(so), anchor)
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-7)


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
        isats(plain, labels, anchor=anchor).tau_other, isats(moved, labels, anchor=anchor).tau_other, rtol=1e-4
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
    by_target = isats(logits, labels, tau_target=7.0, anchor="target").tau_other
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
        probs = softened(logits, labels, tau_target, tau_other, "raw")
        others = 1 - probs.double().gather(1, labels[:, None])[:, 0]
        product = others.square() * inherent_variance(logits, labels, tau_other=tau_other)
        torch.testing.assert_close(derived_variance(probs, labels), product, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", PARAMS)
def test_every_float_type_gives_the_targets_of_its_exact_values(name, dtype):
    logits, labels = teacher()
    narrow = logits.to(dtype)
    probs, exact = (METHODS[name].targets(z, labels, **PARAMS[name]).probs for z in (narrow, narrow.double()))
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs, exact, rtol=0, atol=0)


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
        probs = softened(logits[None], label, 1.0, 2.0, "target")
        torch.testing.assert_close(probs[0, 1:], alone, rtol=1e-5, atol=0)
    # All of DV's dependence on tau_other lies below the last digit of the target's logit.
    above = torch.cat([torch.tensor([1e6]), others - 5])[None]
    far = torch.cat([torch.tensor([1e30]), others - 5])[None]
    expected, found = (isats(z, label, tau_target=1.0, anchor="raw").tau_other for z in (above, far))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    assert 0.6 < found.item() < 25


@pytest.mark.parametrize("anchor", ANCHORS)
def test_gradients_of_the_asymmetric_softmax_are_those_of_the_formula(anchor):
    logits, labels = teacher(6, 5)
    weights = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))

    def scalar(z):
        probs = softened(z, labels, 3.0, 1.5, anchor)
        return (probs.double() * weights).sum()

    leaf = logits.double().requires_grad_()
    (grad,) = torch.autograd.grad(scalar(leaf), leaf)
    step = 1e-2
    for n, j in ((0, 0), (1, 2), (2, int(labels[2])), (3, int(labels[3]))):
        moved = torch.zeros_like(logits, dtype=torch.float64)
        moved[n, j] = step
        slope = (scalar(leaf + moved) - scalar(leaf - moved)) / (2 * step)
        assert grad[n, j].item() == pytest.approx(slope.item(), abs=2e-4)


@pytest.mark.parametrize("name", PARAMS)
def test_ties_are_no_harder_than_anything_else(name):
    logits = torch.tensor([[2.0, 2.0, 1.0, 1.0], [2.0, 2.0, 2.0, 1.0], [1.0, 2.0, 2.0, 1.0]])
    targets = METHODS[name].targets(logits, torch.tensor([0, 0, 0]), **PARAMS[name])
    torch.testing.assert_close(targets.probs[1, 1], targets.probs[1, 2], rtol=0, atol=0)
    assert targets.probs.isfinite().all()


def test_rows_do_not_depend_on_their_company(monkeypatch):
    logits, labels = teacher(100)
    together = isats(logits, labels).tau_other
    monkeypatch.setattr("autodistill.methods.instance_specific.NUMBERS_IN_MEMORY", 70)
    torch.testing.assert_close(isats(logits, labels).tau_other, together, rtol=1e-12, atol=0)


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
