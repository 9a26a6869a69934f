"""Distillation losses against loops in float64, numbers of the public implementations, and properties."""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from loss_oracles import ORACLES, smoothed_loop, ts_loop, z_score_loop
from method_oracles import teacher
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from autodistill.methods.decoupled import dkd, prepare_dkd
from autodistill.methods.loss import Loss, distillation_loss, hard_loss
from autodistill.methods.normalised import nkd, prepare_nkd
from autodistill.methods.relational import dist
from autodistill.methods.standardisation import standardise
from autodistill.methods.temperature_scaling import ts_loss
from autodistill.methods.transformed import prepare_ttm, prepare_wttm, ttm, wttm


class Method(NamedTuple):
    loss: Callable[..., Loss]
    prepare: Callable[..., dict[str, Tensor]] | None


LOSSES = {
    "dkd": Method(dkd, prepare_dkd),
    "dist": Method(dist, None),
    "nkd": Method(nkd, prepare_nkd),
    "ttm": Method(ttm, prepare_ttm),
    "wttm": Method(wttm, prepare_wttm),
}

CASES: list[tuple[str, dict[str, float | str]]] = [
    ("dkd", {}),
    ("dkd", {"tau": 1.0, "alpha": 0.5, "beta": 2.0}),
    ("dkd", {"tau": 0.5, "alpha": 3.0, "beta": 0.0}),
    ("dkd", {"tau": 2.0, "alpha": 9.0, "beta": 72.0, "logits": "standardised"}),
    ("dist", {}),
    ("dist", {"tau": 2.0, "beta": 1.0, "gamma": 0.5}),
    ("dist", {"tau": 2.0, "beta": 0.5, "gamma": 3.0, "scaling": "none"}),
    ("nkd", {}),
    ("nkd", {"tau": 1.0, "gamma": 1.5}),
    ("ttm", {}),
    ("ttm", {"tau": 0.7, "beta": 1.0}),
    ("wttm", {}),
    ("wttm", {"tau": 2.0, "beta": 1.0}),
]

# Input and output of the public implementations, in float64: value, and gradient of the second sample's logits.
STUDENT = [
    [1.2, -0.7, 0.4, 2.1, -1.5],
    [0.3, 0.9, -2.2, 0.1, 1.7],
    [-1.1, 2.4, 0.6, -0.8, 0.2],
    [3, -0.4, -0.9, 1.3, 0.5],
]
TEACHER = [
    [2.5, -1, 0.8, 3.1, -2],
    [-0.6, 4.2, -1.3, 0.7, 2.9],
    [0.4, 5.5, -0.2, -1.9, 1.1],
    [1.4, 0.2, -2.7, 2.2, -0.5],
]
LABELS = [3, 4, 1, 0]

MDISTILLER = "megvii-research/mdistiller a08d46f, mdistiller/distillers/DKD.py, dkd_loss"
STANDARDISED = "sunshangquan/logit-standardization-KD f6e5aa5, mdistiller/distillers/DKD.py, dkd_loss"
SOTA = "hunto/image_classification_sota 6f7a70a, lib/models/losses/dist_kd.py, DIST"
SEGMENTATION = "hunto/DIST_KD 2418f18, segmentation/losses/dist_kd.py, DIST, which has no temperature"
CLS_KD = "yzd-v/cls_KD 1e5d48f, mmcls/models/dis_losses/nkd.py, NKDLoss"
TRANSFORMED = "zkxufo/TTM fe457b3, distiller_zoo/ttm.py and wttm.py; value and gradient times beta"

PUBLISHED = [
    (MDISTILLER, "dkd", {}, 5.7974722473, [0.966989627, -1.515165158, 0.145692526, 0.390700167, 0.011782838]),
    (
        MDISTILLER,
        "dkd",
        {"tau": 1.0, "alpha": 0.5, "beta": 2.0},
        0.7576538212,
        [0.11980888, -0.254111871, 0.008198451, 0.086839836, 0.039264704],
    ),
    (
        STANDARDISED,
        "dkd",
        {"tau": 2.0, "alpha": 9.0, "beta": 72.0, "logits": "standardised"},
        9.0246914169,
        [2.723096439, -3.141395307, -0.716661747, 0.934851289, 0.200109326],
    ),
    (SOTA, "dist", {}, 10.2392153259, [1.926385968, -2.568171906, -0.313653659, 0.489269266, 0.466170331]),
    (
        SOTA,
        "dist",
        {"tau": 2.0, "beta": 1.0, "gamma": 0.5},
        1.2734094668,
        [0.153271846, -0.403077541, -0.001357581, 0.075893431, 0.175269845],
    ),
    (
        SEGMENTATION,
        "dist",
        {"tau": 1.0, "beta": 1.0, "gamma": 0.5, "scaling": "none"},
        0.4750356429,
        [0.026468051, -0.139709026, 0.001367918, 0.020146893, 0.091726164],
    ),
    (CLS_KD, "nkd", {}, 41.0571875884, [0.420802532, -0.664020168, 0.067360156, 0.200656031, -0.02479855]),
    (
        CLS_KD,
        "nkd",
        {"tau": 1.0, "gamma": 1.5},
        1.5989985745,
        [0.104427713, -0.164033713, 0.007344903, 0.077059647, -0.02479855],
    ),
    (TRANSFORMED, "ttm", {}, 25.4271805326, [-0.395977943, -0.341914982, -1.599061951, -0.913928043, 3.250882919]),
    (TRANSFORMED, "wttm", {}, 4.6724969325, [0.00063394, -0.285054349, -0.285322104, -0.172820696, 0.742563209]),
    (
        TRANSFORMED,
        "wttm",
        {"tau": 2.0, "beta": 1.0},
        0.4040803171,
        [0.03208798, -0.123502216, -0.009679348, 0.004579683, 0.096513902],
    ),
]


def compute(name, student, given, labels, ramp=None, **params) -> Loss:
    """The loss of a batch; what is prepared per view is computed for this batch."""
    loss, prepare = LOSSES[name]
    prepared = prepare(given, labels, **params) if prepare else {}
    return loss(student, given, labels, prepared, ramp, **params)


def batch(count=12, classes=10, seed=0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a student and a teacher, and labels."""
    given, labels = teacher(count, classes, seed)
    return teacher(count, classes, seed + 1)[0] / 2 + given / 3, given, labels


def gradient(name, student, given, labels, **params) -> Tensor:
    leaf = student.clone().requires_grad_()
    (grad,) = torch.autograd.grad(compute(name, leaf, given, labels, **params).soft, leaf)
    return grad


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize(("name", "params"), CASES)
def test_each_loss_is_the_loop_over_the_papers_formula(name, params, classes):
    student, given, labels = batch(classes=classes)
    hard, soft = ORACLES[name](student.tolist(), given.tolist(), labels.tolist(), **params)
    loss = compute(name, student, given, labels, **params)
    assert loss.hard.item() == pytest.approx(hard, rel=1e-5)
    assert loss.soft.item() == pytest.approx(soft, rel=1e-5, abs=1e-5)
    assert loss.total.item() == pytest.approx(hard + soft, rel=1e-5)


@pytest.mark.parametrize(("source", "name", "params", "value", "grad"), PUBLISHED)
def test_each_loss_is_that_of_the_public_implementation(source, name, params, value, grad):
    student, given, labels = torch.tensor(STUDENT), torch.tensor(TEACHER), torch.tensor(LABELS)
    assert compute(name, student, given, labels, **params).soft.item() == pytest.approx(value, rel=1e-5), source
    found = gradient(name, student, given, labels, **params)
    torch.testing.assert_close(found[1], torch.tensor(grad), rtol=1e-4, atol=2e-6, msg=source)


def test_standardised_logits_are_those_of_the_public_implementation():
    # sunshangquan/logit-standardization-KD f6e5aa5, mdistiller/distillers/KD.py: normalize, and kd_loss at tau 2.
    rows = [
        [0.624789078, -0.694210086, 0.069421009, 1.249578155, -1.249578155],
        [0.09597148, 0.507277825, -1.617804956, -0.041130634, 1.055686285],
    ]
    student, given = torch.tensor(STUDENT), torch.tensor(TEACHER)
    torch.testing.assert_close(standardise(student[:2]), torch.tensor(rows))
    targets = (standardise(given) / 2).softmax(dim=1)
    loss = distillation_loss(standardise(student), torch.tensor(LABELS), targets, soft_weight=1.0, tau_student=2.0)
    entropy = -(targets * targets.log()).sum(dim=1).mean() * 4
    assert (loss.soft - entropy).item() == pytest.approx(0.1258450036, rel=1e-4)


@pytest.mark.parametrize(("name", "params"), CASES)
def test_gradients_are_the_slopes_of_the_formula(name, params):
    student, given, labels = batch(count=6, classes=4)
    grad, step = gradient(name, student, given, labels, **params), 1e-4

    def soft(rows):
        return ORACLES[name](rows, given.tolist(), labels.tolist(), **params)[1]

    for n, j in ((0, 0), (1, 2), (2, int(labels[2])), (3, int(labels[3])), (5, 1)):
        ends = []
        for sign in (1, -1):
            rows = student.double().tolist()
            rows[n][j] += sign * step
            ends.append(soft(rows))
        assert grad[n, j].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("name", "params"), CASES)
def test_every_float_type_and_autocast_give_the_loss_of_the_exact_values(name, params, dtype):
    student, given, labels = (z.to(dtype) if z.is_floating_point() else z for z in batch())
    exact = compute(name, student.float(), given.float(), labels, **params)
    with torch.autocast("cpu", torch.bfloat16):
        cast = compute(name, student, given, labels, **params)
    for found in (compute(name, student, given, labels.int(), **params), cast):
        for term, expected in zip(found, exact, strict=True):
            assert term.dtype == torch.float32
            torch.testing.assert_close(term, expected, rtol=1e-6, atol=0)


EXTREMES = {
    "huge": [[1e4, -1e4, 0.0, 1e4], [-1e4, 1e4, 1e4, 1e4], [1e4, 0.0, 0.0, 0.0], [-1e4, -1e4, 3e3, 3e3]],
    "tiny": [[1e-7, 0.0, -1e-7, 0.0], [1.4e-45, 0.0, 0.0, 0.0], [1e-20, -1e-20, 0.0, 0.0], [0.0, 3e-8, 0.0, 0.0]],
    "tied": [[2.0, 2.0, 1.0, 1.0], [1 / 3, 1 / 3, 1 / 3, 1 / 3], [1e4 / 3, 1e4 / 3, 1e4 / 3, 1e4 / 3], [0.0] * 4],
    "usual": [[2.0, -1.0, 0.5, 0.0], [0.0, 1.0, 3.0, -2.0], [-0.5, 0.25, 0.0, 1.0], [1.0, 1.5, -1.0, 2.0]],
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("own", EXTREMES)
@pytest.mark.parametrize(("name", "params"), CASES)
def test_extreme_logits_give_finite_losses_and_gradients(name, params, own, dtype):
    student = torch.tensor(EXTREMES[own], dtype=dtype)
    for given, labels in itertools.product(EXTREMES.values(), (torch.arange(4), torch.zeros(4, dtype=torch.long))):
        teacher_logits = torch.tensor(given, dtype=dtype)
        assert torch.stack(compute(name, student, teacher_logits, labels, **params)).isfinite().all()
        # Gradients in float32: those of tiny standardised logits exceed float16.
        leaf = student.float().requires_grad_()
        compute(name, leaf, teacher_logits, labels, **params).total.backward()
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize(("name", "params"), [it for it in CASES if it[0] != "dist"])
def test_huge_logits_have_the_loss_of_the_formula(name, params):
    student, given = EXTREMES["huge"], [row[::-1] for row in EXTREMES["huge"]]
    _, soft = ORACLES[name](student, given, [0, 1, 2, 3], **params)
    found = compute(name, torch.tensor(student), torch.tensor(given), torch.arange(4), **params).soft.item()
    # Terms of up to 1e5 cancel out where the soft term is small.
    assert found == pytest.approx(soft, rel=1e-5, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "params"), [("dist", {}), ("dkd", {"logits": "standardised", "tau": 2.0, "alpha": 9.0, "beta": 72.0})]
)
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4 / 3])
def test_equal_logits_of_a_student_have_moderate_gradients(name, params, value):
    # A last layer that starts at zero. The public implementations divide by 1e-7 or 1e-8 here.
    _, given, labels = batch(count=7)
    grad = gradient(name, torch.full((7, 10), value), given, labels, **params)
    assert 1e-3 < grad.abs().max() < 100


def test_dist_counts_equal_probabilities_as_uncorrelated():
    _, given, labels = batch(count=7)
    for student, logits in ((torch.full((7, 10), 0.1), given), (given, torch.full((7, 10), 0.1))):
        loss = compute("dist", student, logits, labels, tau=1.0, beta=2.0, gamma=3.0)
        assert loss.soft.item() == pytest.approx(5.0, abs=1e-5)


@pytest.mark.parametrize(("name", "params"), CASES)
def test_the_ramp_multiplies_the_soft_term_and_hard_weight_the_hard_term(name, params):
    student, given, labels = batch()
    plain = compute(name, student, given, labels, **params)
    ramped = compute(name, student, given, labels, torch.tensor(0.25), hard_weight=3.0, **params)
    torch.testing.assert_close((ramped.hard, ramped.soft), (plain.hard, plain.soft), rtol=0, atol=0)
    torch.testing.assert_close(plain.total, plain.hard + plain.soft)
    torch.testing.assert_close(ramped.total, 3 * plain.hard + plain.soft / 4)


@pytest.mark.parametrize(("name", "params"), CASES)
def test_no_value_is_read_from_the_device(name, params):
    # Tensors without values: to read a value, or a shape that depends on values, raises an error.
    with FakeTensorMode():
        student, given = torch.empty(8, 10, requires_grad=True), torch.empty(8, 10, dtype=torch.float16)
        labels, ramp = torch.empty(8, dtype=torch.int32), torch.empty(())
        compute(name, student, given, labels, ramp, **params).total.backward()
        assert student.grad.shape == (8, 10)


@pytest.mark.parametrize("name", [name for name, method in LOSSES.items() if method.prepare])
def test_what_is_prepared_is_a_number_per_example_and_the_same_in_chunks(name, monkeypatch):
    _, given, labels = batch(count=9)
    whole = LOSSES[name].prepare(given, labels)
    monkeypatch.setattr("autodistill.methods.loss.NUMBERS_AT_ONCE", 45)
    chunks = LOSSES[name].prepare(given.half().float(), labels)
    assert all(values.shape == (9,) and values.dtype == torch.float32 for values in whole.values())
    torch.testing.assert_close(chunks, whole, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(chunks, LOSSES[name].prepare(given.half(), labels))


@pytest.mark.parametrize("name", ["dkd", "nkd", "ttm", "wttm"])
def test_all_but_dist_are_means_over_samples(name):
    student, given, labels = batch()
    alone = [compute(name, student[n : n + 1], given[n : n + 1], labels[n : n + 1]).soft for n in range(12)]
    torch.testing.assert_close(compute(name, student, given, labels).soft, torch.stack(alone).mean())


@pytest.mark.parametrize(("name", "params"), [it for it in CASES if it[0] in ("dkd", "dist")])
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(name, params):
    _, given, labels = batch()
    assert compute(name, given, given, labels, **params).soft.item() == pytest.approx(0, abs=1e-3)
    grad = gradient(name, given, given, labels, **params)
    torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-4)


def test_dkd_with_the_weights_of_plain_distillation_is_plain_distillation():
    # KL = TCKD + (1 - p_y) NCKD, sample by sample.
    student, given, labels = batch(count=5)
    for n in range(5):
        row = slice(n, n + 1)
        probs = (given[row] / 3).softmax(dim=1)
        beta = 1 - probs[0, labels[n]].item()
        decoupled = compute("dkd", student[row], given[row], labels[row], tau=3.0, alpha=1.0, beta=beta).soft
        plain = distillation_loss(student[row], labels[row], probs, soft_weight=1.0, tau_student=3.0).soft
        assert decoupled.item() == pytest.approx((plain + 9 * (probs * probs.log()).sum()).item(), rel=1e-4, abs=1e-5)


def test_dkd_with_two_classes_is_plain_distillation_and_beta_does_nothing():
    student, given, labels = batch(classes=2)
    low, high = (compute("dkd", student, given, labels, beta=beta).soft for beta in (0.0, 50.0))
    torch.testing.assert_close(low, high, rtol=1e-5, atol=1e-6)


def plain_kd(student, given, labels, ramp=None, *, tau=2.0, **settings) -> Loss:
    """The loss of TS; the temperatures are what a run prepares for each example."""
    each = torch.full((len(labels),), tau, dtype=torch.float64)
    return ts_loss(student, given, labels, {"tau_target": each, "tau_other": each}, ramp, **settings)


@pytest.mark.parametrize("logits", ["raw", "standardised"])
@pytest.mark.parametrize(("tau", "tau_student", "weight"), [(2.0, 2.0, 0.989), (4.0, 1.5, 0.3)])
@pytest.mark.parametrize("classes", [3, 10])
def test_ts_is_the_loop_with_raw_and_with_standardised_logits(logits, tau, tau_student, weight, classes):
    student, given, labels = batch(classes=classes)
    settings = {"tau": tau, "tau_student": tau_student, "logits": logits}
    hard, soft = ts_loop(student.tolist(), given.tolist(), labels.tolist(), **settings)
    loss = plain_kd(student, given, labels, soft_weight=weight, **settings)
    assert (loss.hard.item(), loss.soft.item()) == pytest.approx((hard, soft), rel=1e-5)
    assert loss.total.item() == pytest.approx((1 - weight) * hard + weight * soft, rel=1e-5)
    ramped = plain_kd(student, given, labels, torch.tensor(0.25), soft_weight=weight, **settings)
    assert ramped.total.item() == pytest.approx((1 - weight / 4) * hard + weight / 4 * soft, rel=1e-5)


def test_standardised_ts_has_moderate_gradients_at_equal_logits_and_refuses_two_classes():
    _, given, labels = batch(count=7)
    leaf = torch.zeros(7, 10, requires_grad=True)
    (grad,) = torch.autograd.grad(plain_kd(leaf, given, labels, soft_weight=1.0, logits="standardised").total, leaf)
    assert 1e-3 < grad.abs().max() < 10
    student, given, labels = batch(classes=2)
    assert plain_kd(student, given, labels, soft_weight=0.5).total.isfinite()
    with pytest.raises(ValueError, match=r"logits = 'standardised' needs at least 3 classes"):
        plain_kd(student, given, labels, soft_weight=0.5, logits="standardised")
    with pytest.raises(ValueError, match=r"unknown logits 'zscore'; allowed: raw, standardised"):
        plain_kd(student, given, labels, soft_weight=0.5, logits="zscore")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_label_smoothing_is_the_loop_and_the_hard_term_stays_the_cross_entropy(share):
    student, _, labels = batch()
    loss = hard_loss(student.half(), labels, label_smoothing=share)
    rows = student.half().tolist()
    assert loss.total.item() == pytest.approx(smoothed_loop(rows, labels.tolist(), share), rel=1e-5)
    assert loss.hard.item() == pytest.approx(smoothed_loop(rows, labels.tolist(), 0.0), rel=1e-5)
    assert loss.soft.item() == 0


def test_standardised_logits_forget_shift_and_scale_of_each_sample():
    student, given, labels = batch()
    params = {"tau": 2.0, "logits": "standardised"}
    scale, shift = torch.rand(12, 1) + 0.5, torch.randn(12, 1)
    moved = compute("dkd", student * scale + shift, given, labels, **params).soft
    torch.testing.assert_close(moved, compute("dkd", student, given, labels, **params).soft, rtol=1e-4, atol=0)


@pytest.mark.parametrize("row", [[3.0, 1.0, 2.0], [1e4, -1e4, 0.0, 5.0], [1e-3, 0.0], [1e-8, 0.0, 0.0]])
def test_standardise_is_the_loop(row):
    found = standardise(torch.tensor([row], dtype=torch.float64))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([z_score_loop(row)]), rtol=1e-5, atol=1e-6)


def test_standardise_of_equal_logits_is_zero_with_the_gradient_of_centred_logits():
    logits = torch.full((2, 4), 1e4 / 3, requires_grad=True)
    found = standardise(logits)
    torch.testing.assert_close(found, torch.zeros(2, 4), rtol=0, atol=0)
    (grad,) = torch.autograd.grad(found[:, 0].sum(), logits)
    torch.testing.assert_close(grad, torch.tensor([[0.75, -0.25, -0.25, -0.25]] * 2), rtol=1e-5, atol=1e-6)


def test_dist_depends_on_the_batch_through_the_classes_only():
    student, given, labels = batch(count=4)
    twice = [torch.cat([values, values]) for values in (student, given, labels)]
    alone = [compute("dist", student[n : n + 1], given[n : n + 1], labels[n : n + 1], gamma=0.0).soft for n in range(4)]
    torch.testing.assert_close(compute("dist", student, given, labels, gamma=0.0).soft, torch.stack(alone).mean())
    whole = compute("dist", student, given, labels).soft
    torch.testing.assert_close(compute("dist", *twice).soft, whole)
    halves = [compute("dist", student[it], given[it], labels[it]).soft for it in (slice(2), slice(2, 4))]
    assert abs(whole - torch.stack(halves).mean()) > 0.1


def test_the_scaling_of_dist_is_tau_squared_or_none():
    student, given, labels = batch()
    code, paper = (compute("dist", student, given, labels, tau=3.0, scaling=it).soft for it in ("tau_squared", "none"))
    torch.testing.assert_close(code, 9 * paper)
    torch.testing.assert_close(compute("dist", student, given, labels, tau=3.0).soft, code)


def test_wttm_is_ttm_times_a_constant_for_teachers_of_equal_power_sums():
    student, given, labels = batch(count=1)
    log_powers = given.log_softmax(dim=1) / 5
    ratio = compute("wttm", student, given, labels, tau=5.0).soft / compute("ttm", student, given, labels, tau=5.0).soft
    assert ratio.item() == pytest.approx(log_powers.exp().sum().item() * 4 / 45, rel=1e-5)


def test_hard_and_soft_target_losses_by_hand():
    logits, label = torch.tensor([[math.log(3), 0.0]]).half(), torch.tensor([0])
    hard = hard_loss(logits, label)
    assert hard.total.item() == hard.hard.item() == pytest.approx(math.log(4 / 3), rel=1e-3)
    assert hard.soft.item() == 0
    # Student at tau 0.5: 9 : 1, so CE = -ln 0.9 / 2 - ln 0.1 / 2, times 0.25.
    mixed = distillation_loss(logits, label, torch.tensor([[0.5, 0.5]]), soft_weight=0.25, tau_student=0.5)
    assert mixed.soft.item() == pytest.approx(-(math.log(0.9) + math.log(0.1)) / 8, rel=1e-3)
    assert mixed.total.item() == pytest.approx(0.75 * mixed.hard.item() + 0.25 * mixed.soft.item())


WRONG = [
    ("dkd", {"tau": 0.0}, "tau is 0.0: it must be positive"),
    ("dkd", {"alpha": -1.0}, "alpha is -1.0: a weight must be at least 0"),
    ("dkd", {"beta": math.nan}, "beta is nan"),
    ("dkd", {"logits": "centred"}, "unknown logits 'centred'; allowed: raw, standardised"),
    ("dkd", {"hard_weight": math.inf}, "hard_weight is inf"),
    ("dist", {"tau": math.inf}, "tau is inf"),
    ("dist", {"gamma": -0.5}, "gamma is -0.5"),
    ("dist", {"scaling": "paper"}, "unknown scaling 'paper'; allowed: tau_squared, none"),
    ("nkd", {"tau": -2.0}, "tau is -2.0"),
    ("nkd", {"gamma": math.inf}, "gamma is inf"),
    ("ttm", {"tau": 0.0}, "tau is 0.0"),
    ("ttm", {"hard_weight": -1.0}, "hard_weight is -1.0"),
    ("wttm", {"beta": -3.0}, "beta is -3.0"),
]


@pytest.mark.parametrize(("name", "params", "words"), WRONG)
def test_wrong_parameters_are_refused_by_loss_and_preparation(name, params, words):
    student, given, labels = batch(count=2)
    method = LOSSES[name]
    prepared = method.prepare(given, labels) if method.prepare else {}
    with pytest.raises(ValueError) as caught:
        method.loss(student, given, labels, prepared, None, **params)
    assert words in str(caught.value)
    if method.prepare:
        with pytest.raises(ValueError) as caught:
            method.prepare(given, labels, **params)
        assert words in str(caught.value)
