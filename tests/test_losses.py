"""The losses against hand-computed numbers and a loop."""

import math

import pytest
import torch

from autodistill.methods import distillation_loss, hard_loss


def test_by_hand():
    # softmax: (3/4, 1/4); at temperature 2 with logits 2 ln 3 and 0: (3/4, 1/4) again.
    hard = hard_loss(torch.tensor([[math.log(3), 0.0]]), torch.tensor([1]))
    assert hard.total.item() == pytest.approx(math.log(4))
    assert hard.hard is hard.total
    assert hard.soft is None
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


def test_against_a_loop():
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


def test_one_hot_targets_at_temperature_one_are_the_hard_loss():
    logits, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    got = distillation_loss(logits, labels, torch.eye(4)[labels], soft_weight=0.5, tau_student=1.0)
    torch.testing.assert_close(got.soft, got.hard)
