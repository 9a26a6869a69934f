"""What every registered distillation method guarantees, and methods with temperatures beyond that."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from autodistill.config import Range
from autodistill.formatting import METHOD_SOURCES
from autodistill.methods import METHODS, RAMP_EPOCHS, Loss, Method, parameters_of, soften, summarise
from autodistill.metrics import on_top
from autodistill.records import TrialParams
from autodistill.training import Supervision, supervise

# Parameters of soft targets that differ from those of the registry. Another method with temperatures needs a line here.
PARAMS: dict[str, dict[str, float | str]] = {
    "ts": {"tau": 3.0},
    "ats": {"tau_target": 4.0, "tau_other": 2.0, "anchor": "mean"},
    "isats": {"target_ratio": 2.0},
}
EXAMPLES, CLASSES = 50, 6


@pytest.fixture(params=METHODS)
def any_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def any_method(any_name: str) -> Method:
    return METHODS[any_name]


@pytest.fixture(params=[name for name, method in METHODS.items() if method.temperatures])
def name(request: pytest.FixtureRequest) -> str:
    """A method with temperatures."""
    return request.param


@pytest.fixture
def method(name: str) -> Method:
    return METHODS[name]


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Logits of a teacher, and labels."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(EXAMPLES, CLASSES, generator=generator) * 3, torch.randint(
        CLASSES, (EXAMPLES,), generator=generator
    )


@pytest.fixture
def student() -> Tensor:
    """Logits of a student."""
    return torch.randn(EXAMPLES, CLASSES, generator=torch.Generator().manual_seed(1)) * 2


def supervised(name: str, logits: Tensor, labels: Tensor, **more: float) -> Supervision:
    """Return the supervision of a run with the settings of the registry."""
    settings = {**METHODS[name].settings, **more}
    common = {key: settings.pop(key) for key in ("soft_weight", "tau_student") if key in settings}
    if follows := METHODS[name].tau_student_from:
        common.setdefault("tau_student", settings[follows])
    params = TrialParams(teacher="t", method=name, method_params=settings, **common)
    return supervise(params, logits=lambda _: logits, labels=labels)


def computed(
    name: str,
    student: Tensor,
    logits: Tensor,
    labels: Tensor,
    *,
    rows: slice = slice(None),
    ramp: float | None = None,
    **more: float,
) -> Loss:
    """Return the loss of some rows, as a run computes it: what is prepared belongs to the whole view."""
    given = supervised(name, logits, labels, **more)
    view = given.view(0, labels).rows(torch.arange(len(labels))[rows])
    factor = None if ramp is None else torch.tensor(ramp)
    return given.loss(student[rows], view.logits, labels[rows], view.prepared, factor)


def test_its_settings_are_accepted_and_lie_in_its_ranges(any_name, any_method):
    accepted = any_method.accepted
    assert any_name in METHOD_SOURCES
    assert set(any_method.settings) <= set(accepted)
    assert set(any_method.ranges) <= {*any_method.settings, "tau_student"}
    assert RAMP_EPOCHS in accepted
    assert list(parameters_of(any_name)) == [name for name in accepted if name != "soft_weight"]
    assert set(any_method.params) == set(accepted) - {"soft_weight", "tau_student", RAMP_EPOCHS}
    assert any_method.tau_student_from in (*any_method.params, None)
    assert any_method.shape.is_weighted == ("soft_weight" in accepted)
    assert "soft_weight" not in any_method.ranges, "the range of the space counts"
    for name, found in any_method.ranges.items():
        assert isinstance(found, Range)
        assert found.low <= any_method.settings[name] <= found.high, name


def test_the_corners_of_its_ranges_give_finite_losses_and_gradients(any_name, any_method, batch, student):
    ends = [[(name, found.low), (name, found.high)] for name, found in any_method.ranges.items()]
    for corner in itertools.product(*ends):
        given = supervised(any_name, *batch, **dict(corner))
        view, leaf = given.view(0, batch[1]), student.clone().requires_grad_()
        loss = given.loss(leaf, view.logits, batch[1], view.prepared, None)
        (gradient,) = torch.autograd.grad(loss.total, leaf)
        assert torch.stack(loss).isfinite().all()
        assert gradient.isfinite().all()
        assert gradient.any()


def test_its_loss_is_three_float32_scalars_with_a_gradient_for_the_student_alone(any_name, any_method, batch, student):
    logits, labels = batch[0].clone().requires_grad_(), batch[1]
    given, leaf = supervised(any_name, *batch), student.clone().requires_grad_()
    prepared = any_method.prepared(batch[0], labels, given.settings)
    loss = given.loss(leaf, logits.detach(), labels, prepared, None)
    assert [(term.shape, term.dtype, term.isfinite().item()) for term in loss] == [((), torch.float32, True)] * 3
    assert not any(values.requires_grad for values in prepared.values())
    (gradient,) = torch.autograd.grad(loss.total, leaf)
    # A softmax forgets constants, so the gradient of each sample sums to zero.
    torch.testing.assert_close(gradient.sum(dim=1), torch.zeros(EXAMPLES), rtol=0, atol=1e-5)
    # What is prepared has a row per example and never the size of the logits.
    assert {values.shape for values in prepared.values()} <= {(EXAMPLES,)}


def test_the_hard_term_is_the_cross_entropy_and_the_ramp_weakens_the_soft_term(any_name, any_method, batch, student):
    logits, labels = batch
    none, zero, half, one = (computed(any_name, student, logits, labels, ramp=it) for it in (None, 0.0, 0.5, 1.0))
    hard = -student.double().log_softmax(dim=1)[torch.arange(EXAMPLES), labels].mean()
    assert none.hard.item() == pytest.approx(hard.item(), rel=1e-6)
    torch.testing.assert_close(zero.total, none.hard)
    torch.testing.assert_close(one.total, none.total)
    torch.testing.assert_close(half.total, (zero.total + one.total) / 2)
    assert not torch.isclose(one.total, zero.total)


def test_a_batch_of_a_view_has_the_loss_of_its_own_examples(any_name, batch, student):
    """What is prepared for a view belongs to its examples one by one; what is fitted belongs to the whole view."""
    some, fitted = slice(20, 33), supervised(any_name, *batch).fitted
    of_view = computed(any_name, student, *batch, rows=some)
    alone = computed(any_name, student[some], batch[0][some], batch[1][some], **fitted)
    torch.testing.assert_close(of_view, alone)


def test_its_loss_is_a_mean_over_examples_unless_it_couples_them(any_name, any_method, batch, student):
    whole = computed(any_name, student, *batch)
    parts = [computed(any_name, student, *batch, rows=slice(n, n + 10)) for n in range(0, EXAMPLES, 10)]
    mean = torch.stack([part.total for part in parts]).mean()
    assert torch.isclose(whole.total, mean, rtol=1e-5) == (not any_method.couples_batch)


def test_renaming_the_classes_does_not_change_its_loss(any_name, batch, student):
    logits, labels = batch
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    renamed = computed(any_name, student[:, order], logits[:, order], order.argsort()[labels])
    torch.testing.assert_close(renamed, computed(any_name, student, logits, labels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_extremes_give_finite_losses_and_gradients(any_name, dtype):
    rows = [[6e4, -6e4, 0.0, 6e4], [6e-8, 0.0, -6e-8, 0.0], [-6e4, -6e4, -6e4, -6e4], [0.0, 0.0, 0.0, 0.0]]
    logits = torch.tensor(rows).to(dtype)
    for label in range(4):
        labels = torch.full((4,), label)
        given = supervised(any_name, logits, labels)
        view, leaf = given.view(0, labels), logits.flip(0).float().requires_grad_()
        loss = given.loss(leaf, view.logits, labels, view.prepared, None)
        loss.total.backward()
        assert torch.stack(loss).isfinite().all()
        assert leaf.grad.isfinite().all()


def test_it_works_with_its_fewest_classes(any_name, any_method):
    count = any_method.min_classes
    logits, labels = torch.eye(count) * 3 + torch.arange(count), torch.arange(count)
    loss = computed(any_name, logits.flip(1), logits, labels)
    assert all(math.isfinite(term) for term in loss)
    assert loss.soft > 0


def test_it_reads_no_value_from_the_device(any_name, any_method):
    """Fake tensors have no values: to read a value, or a shape that depends on values, is an error."""
    given = supervised(any_name, torch.eye(CLASSES), torch.arange(CLASSES))
    with FakeTensorMode():
        student, logits = torch.empty(8, CLASSES, requires_grad=True), torch.empty(8, CLASSES, dtype=torch.float16)
        names = (
            any_method.prepared(torch.zeros(8, CLASSES), torch.zeros(8, dtype=torch.long), given.settings)
            if any_method.prepare
            else ()
        )
        kinds = dict.fromkeys(names, torch.float32)
        if any_method.temperatures:
            kinds = {"tau_target": torch.float64, "tau_other": torch.float64}
        prepared = {name: torch.empty(8, dtype=kind) for name, kind in kinds.items()}
        loss = given.loss(student, logits, torch.zeros(8, dtype=torch.long), prepared, torch.empty(()))
        loss.total.backward()
        assert [term.shape for term in loss] == [()] * 3
        assert student.grad is not None


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
