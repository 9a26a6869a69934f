"""The metrics against hand-computed numbers, loops and SciPy."""

import itertools
import math

import pytest
import torch
from scipy import stats

from autodistill import metrics

THIRDS = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
LABELS = torch.tensor([0, 1])


def test_top1_and_nll_by_hand():
    logits = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    labels = torch.tensor([0, 1, 2, 2])
    assert metrics.top1(logits, labels).item() == 0.5
    first = math.log(math.e + 2) - 1
    assert metrics.nll(logits, labels).item() == pytest.approx(
        (2 * first + math.log(math.exp(5) + 2) + math.log(3)) / 4
    )
    assert metrics.nll(logits.half(), labels).dtype == torch.float64


def test_calibration_error_by_hand():
    # Two samples of confidence 0.9, one right; two of 0.6, both right: (2 * |0.9 - 0.5| + 2 * |0.6 - 1|) / 4.
    probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]], dtype=torch.float64)
    got = metrics.expected_calibration_error(probs.log(), torch.tensor([0, 1, 0, 0]))
    assert got.item() == pytest.approx(0.4)


def test_calibration_error_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(500, 7, generator=generator) * 2, torch.randint(7, (500,), generator=generator)
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    right = (predicted == labels).tolist()
    expected = 0.0
    for edge in range(15):
        inside = [n for n, c in enumerate(confidence.tolist()) if edge / 15 < c <= (edge + 1) / 15]
        expected += abs(sum(confidence[n].item() - right[n] for n in inside)) / 500
    assert metrics.expected_calibration_error(logits, labels).item() == pytest.approx(expected)


def test_the_surest_confidences_have_a_bin():
    sure = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    assert metrics.expected_calibration_error(sure, torch.tensor([0, 1])).item() == 0
    assert metrics.expected_calibration_error(sure, torch.tensor([1, 0])).item() == 1


def test_other_probabilities_by_hand():
    torch.testing.assert_close(metrics.derived_average(THIRDS, LABELS), torch.tensor([0.25, 0.45]).double())
    torch.testing.assert_close(metrics.derived_variance(THIRDS, LABELS), torch.tensor([0.05**2, 0.35**2]).double())
    assert metrics.mean_target_probability(THIRDS, LABELS).item() == pytest.approx(0.3)


def test_inherent_variance_by_hand():
    # Others: ln 3 and 0 at temperature 1 are 3/4 and 1/4; 2 ln 3 and 0 at temperature 2 likewise.
    logits = torch.tensor([[9.0, math.log(3), 0.0], [2 * math.log(3), -9.0, 0.0]])
    got = metrics.inherent_variance(logits, LABELS, tau_other=torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(got, torch.tensor([1 / 16, 1 / 16]).double(), rtol=1e-6, atol=0)
    assert metrics.inherent_variance(logits[:1], LABELS[:1], tau_other=1.0).item() == pytest.approx(1 / 16)


@pytest.mark.parametrize("spread", [1e-12, 1e-6, 1e-2])
def test_inherent_variance_keeps_its_digits_for_close_logits(spread):
    # To first order q_j - mean = gap_j / (n tau): here gaps 0, -1, -2 have variance 2/3.
    logits = torch.tensor([[5.0, 0.0, -spread, -2 * spread]], dtype=torch.float64)
    expected = 2 / 3 * (spread / 3 / 4) ** 2
    got = metrics.inherent_variance(logits, torch.tensor([0]), tau_other=4.0).item()
    assert got == pytest.approx(expected, rel=max(1e-9, spread))


def test_inherent_variance_of_equal_logits_is_zero_and_of_huge_ones_that_of_one_hot():
    assert metrics.inherent_variance(torch.zeros(1, 5), torch.tensor([0]), tau_other=1.0).item() == 0
    huge = torch.tensor([[0.0, 6e4, -6e4, 0.0, 0.0]], dtype=torch.float16)
    assert metrics.inherent_variance(huge, torch.tensor([0]), tau_other=1.0).item() == pytest.approx(3 / 16)


def test_on_top_counts_ties_as_right():
    logits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float16)
    assert metrics.on_top(logits, torch.tensor([1, 2])).tolist() == [True, False]


@pytest.mark.parametrize("tied", [False, True])
def test_rank_agreements_are_the_means_of_scipys(tied, monkeypatch):
    monkeypatch.setattr(metrics, "PAIRS_IN_MEMORY", 1000)  # 4 samples at a time
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 40, 9, generator=generator).cumsum(0), torch.randint(9, (40,), generator=generator)
    if tied:
        logits = (logits * 2).round()
    got = metrics.rank_agreements(logits, labels)
    others = metrics.fill_target(torch.ones(40, 9), labels, 0.0).bool()
    for left, right in itertools.product(range(3), repeat=2):
        pairs = [(logits[left, n, row], logits[right, n, row]) for n, row in enumerate(others)]
        rho = sum(stats.spearmanr(*pair).statistic for pair in pairs) / 40
        tau = sum(stats.kendalltau(*pair).statistic for pair in pairs) / 40
        assert got.spearman[left, right].item() == pytest.approx(rho)
        assert got.kendall[left, right].item() == pytest.approx(tau)


def test_rank_agreements_ignore_the_target_and_scale_and_leave_out_samples_without_an_order():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 1.0, 1.0]])
    other = torch.tensor([[9.0, 10.0, 20.0, 300.0], [0.0, 1.0, 2.0, 3.0]])
    teachers, labels = torch.stack([logits, other, -other]), torch.tensor([0, 0])
    for matrix in metrics.rank_agreements(teachers, labels):
        assert matrix[0].tolist() == [1, 1, -1]
    assert metrics.rank_agreements(teachers[:, 1:], labels[1:]).kendall[0].isnan().all()


def test_rank_agreements_need_two_other_classes():
    with pytest.raises(ValueError, match="at least 3 classes, got 2"):
        metrics.rank_agreements(torch.zeros(2, 1, 2), torch.tensor([0]))
