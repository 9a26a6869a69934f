"""What every registered distillation method guarantees."""

import pytest
import torch

from autodistill.methods import METHODS, Method, soften, summarise
from autodistill.metrics import on_top

# A method with parameters of its own needs a line here: a space would give them.
PARAMS: dict[str, dict[str, float | str]] = {
    "ts": {"tau": 3.0},
    "ats": {"tau_target": 4.0, "tau_other": 2.0, "anchor": "mean"},
    "isats": {"target_ratio": 2.0},
}


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def method(name: str) -> Method:
    return METHODS[name]


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(50, 6, generator=generator) * 3, torch.randint(6, (50,), generator=generator)


def test_its_params_are_named_and_one_of_them_may_be_the_students_temperature(name, method):
    assert set(PARAMS[name]) <= set(method.params)
    assert method.tau_student_from in (*method.params, None)


def test_targets_are_float32_probabilities_with_temperatures_for_every_sample(name, method, batch):
    targets = method.targets(*batch, **PARAMS[name])
    assert targets.probs.dtype == torch.float32
    assert ((targets.probs >= 0) & (targets.probs <= 1)).all()
    torch.testing.assert_close(targets.probs.sum(dim=1), torch.ones(50))
    assert targets.tau_target.shape == targets.tau_other.shape == targets.displaced.shape == (50,)


def test_fitted_parameters_are_its_own_and_accepted(name, method, batch):
    fitted = method.fit(*batch, **PARAMS[name]) if method.fit else {}
    assert set(fitted) <= set(method.params) - set(PARAMS[name])
    assert method.targets(*batch, **PARAMS[name], **fitted).probs.isfinite().all()


def test_renaming_the_classes_renames_the_targets(name, method, batch):
    logits, labels = batch
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    renamed = method.targets(logits[:, order], order.argsort()[labels], **PARAMS[name]).probs
    torch.testing.assert_close(renamed, method.targets(logits, labels, **PARAMS[name]).probs[:, order])


def test_its_temperatures_give_its_targets_whole_and_batch_by_batch(name, method, batch):
    logits, labels = batch
    given, targets = (
        method.temperatures(logits, labels, **PARAMS[name]),
        method.targets(logits, labels, **PARAMS[name]),
    )
    assert torch.equal(soften(logits, labels, given), targets.probs)
    assert (given.target.tolist(), given.other.tolist()) == (targets.tau_target.tolist(), targets.tau_other.tolist())
    some = torch.tensor([31, 4, 7])
    few = given._replace(target=given.target[some], other=given.other[some])
    assert torch.equal(soften(logits[some], labels[some], few), targets.probs[some])


def test_a_sample_does_not_depend_on_its_batch(name, method, batch):
    whole = method.targets(*batch, **PARAMS[name]).probs
    part = method.targets(*(values[7:9] for values in batch), **PARAMS[name]).probs
    torch.testing.assert_close(part, whole[7:9])


def test_displaced_is_on_top_before_and_not_after(name, method, batch):
    logits, labels = batch
    targets = method.targets(logits, labels, **PARAMS[name])
    assert torch.equal(targets.displaced, on_top(logits, labels) & ~on_top(targets.probs, labels))


def test_half_precision_extremes_give_no_nan(name, method):
    rows = [[6e4, -6e4, 0.0, 6e4], [6e-8, 0.0, -6e-8, 0.0], [-6e4, -6e4, -6e4, -6e4], [0.0, 0.0, 0.0, 0.0]]
    logits = torch.tensor(rows)
    for dtype in (torch.float16, torch.bfloat16):
        narrow = logits.to(dtype).requires_grad_()
        for label in range(4):
            probs = method.targets(narrow, torch.full((4,), label), **PARAMS[name]).probs
            assert probs.isfinite().all()
            (grad,) = torch.autograd.grad(probs[:, 0].sum(), narrow)
            assert grad.isfinite().all()


def test_it_works_with_its_fewest_classes_and_is_summarised(name, method):
    count = method.min_classes
    params = {key: value for key, value in PARAMS[name].items() if key != "anchor"}
    logits, labels = torch.eye(count) * 3 + torch.arange(count), torch.arange(count)
    summary = summarise(method.targets(logits, labels, **params), logits, labels, None)
    assert 0 <= summary.displaced <= summary.teacher_right <= 1
    assert summary.tau_other > 0
