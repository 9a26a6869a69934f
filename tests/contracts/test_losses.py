"""What the distillation loss promises, and its value against numbers by hand and a loop."""

import math

import pytest
import torch

from autodistill.methods import distillation_loss, hard_loss


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 5, generator=generator) * 2
    return logits, torch.randint(5, (12,), generator=generator), torch.randn(12, 5, generator=generator).softmax(1)


def test_without_weight_it_is_the_hard_loss(batch):
    logits, labels, probs = batch
    got = distillation_loss(logits, labels, probs, soft_weight=0.0, tau_student=4.0)
    torch.testing.assert_close(got.total, hard_loss(logits, labels).total)


def test_total_is_the_weighted_sum_of_its_parts(batch):
    got = distillation_loss(*batch, soft_weight=0.3, tau_student=2.0)
    torch.testing.assert_close(got.total, 0.7 * got.hard + 0.3 * got.soft)


def test_a_student_that_equals_its_teacher_has_no_soft_gradient(batch):
    logits, labels, _ = batch
    leaf = logits.clone().requires_grad_()
    distillation_loss(leaf, labels, (logits / 3).softmax(dim=1), soft_weight=1.0, tau_student=3.0).total.backward()
    assert leaf.grad.abs().max() < 1e-6


def test_it_is_a_mean_over_the_batch(batch):
    once = distillation_loss(*batch, soft_weight=0.5, tau_student=1.0).total
    twice = distillation_loss(
        *(torch.cat([values, values]) for values in batch), soft_weight=0.5, tau_student=1.0
    ).total
    torch.testing.assert_close(once, twice)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_end_in_float32(batch, dtype):
    logits, labels, probs = batch
    narrow = logits.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = distillation_loss(narrow, labels, probs, soft_weight=0.5, tau_student=2.0)
    expected = distillation_loss(narrow.float(), labels, probs, soft_weight=0.5, tau_student=2.0)
    for part, whole in zip(got, expected, strict=True):
        assert part.dtype == torch.float32
        torch.testing.assert_close(part, whole, rtol=0, atol=0)


def test_extreme_logits_have_finite_losses_and_gradients():
    logits = torch.tensor([[6e4, -6e4, 0.0], [1e-7, 0.0, 0.0]], dtype=torch.float16, requires_grad=True)
    probs = torch.tensor([[0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    got = distillation_loss(logits, torch.tensor([1, 0]), probs, soft_weight=0.5, tau_student=0.5)
    got.total.backward()
    assert all(part.isfinite() for part in got)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("soft_weight", "tau_student", "words"),
    [
        (1.5, 1.0, "soft_weight is 1.5"),
        (-0.1, 1.0, "soft_weight is -0.1"),
        (float("nan"), 1.0, "soft_weight is nan"),
        (0.5, 0.0, "tau_student is 0.0"),
        (0.5, float("inf"), "tau_student is inf"),
    ],
)
def test_wrong_weights_are_refused(batch, soft_weight, tau_student, words):
    with pytest.raises(ValueError, match=words):
        distillation_loss(*batch, soft_weight=soft_weight, tau_student=tau_student)


def test_the_distillation_loss_by_hand():
    # softmax: (3/4, 1/4); at temperature 2 with logits 2 ln 3 and 0: (3/4, 1/4) again.
    hard = hard_loss(torch.tensor([[math.log(3), 0.0]]), torch.tensor([1]))
    assert hard.total.item() == pytest.approx(math.log(4))
    assert hard.hard is hard.total
    assert hard.soft.item() == 0
    got = distillation_loss(
        torch.tensor([[2 * math.log(3), 0.0]]),
        torch.tensor([0]),
        torch.tensor([[0.5, 0.5]]),
        soft_weight=0.25,
        tau_student=2.0,
    )
    soft = 4 * (0.5 * math.log(4 / 3) + 0.5 * math.log(4))
    assert got.hard.item() == pytest.approx(math.log(10 / 9))
    assert got.soft.item() == pytest.approx(soft)
    assert got.total.item() == pytest.approx(0.75 * math.log(10 / 9) + 0.25 * soft)


def test_the_distillation_loss_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(7, 5, generator=generator) * 3, torch.randint(5, (7,), generator=generator)
    probs = torch.randn(7, 5, generator=generator).softmax(dim=1)
    got = distillation_loss(logits, labels, probs, soft_weight=0.9, tau_student=4.0)
    hard = soft = 0.0
    for row, label, target in zip(logits.tolist(), labels.tolist(), probs.tolist(), strict=True):
        hard += math.log(sum(map(math.exp, row))) - row[label]
        log_sum = math.log(sum(math.exp(value / 4) for value in row))
        soft += 16 * sum(p * (log_sum - value / 4) for p, value in zip(target, row, strict=True))
    assert got.hard.item() == pytest.approx(hard / 7, rel=1e-5)
    assert got.soft.item() == pytest.approx(soft / 7, rel=1e-5)
    assert got.total.item() == pytest.approx(0.1 * hard / 7 + 0.9 * soft / 7, rel=1e-5)


def test_soft_gradients_are_tau_times_the_probability_error():
    logits = torch.tensor([[1.0, -2.0, 0.5]], requires_grad=True)
    probs = torch.tensor([[0.2, 0.3, 0.5]])
    distillation_loss(logits, torch.tensor([0]), probs, soft_weight=1.0, tau_student=3.0).total.backward()
    torch.testing.assert_close(logits.grad, 3 * ((logits.detach() / 3).softmax(dim=1) - probs))
