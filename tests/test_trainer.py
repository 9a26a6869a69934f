"""One run against a plain loop: schedule, averaged weights, scores, order, failures."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from method_oracles import log_dv, softmax_loop
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode
from toy_runs import CLASSES, dropping, linear, recipe, same, supervision, teacher, toy, watched

from autodistill import data as datasets
from autodistill.config import DataSpec
from autodistill.data import Data, Split, views
from autodistill.data.views import View
from autodistill.errors import TrialError
from autodistill.methods import distillation_loss, temperature_scaling
from autodistill.models import build
from autodistill.records import EpochRecord, TrialParams
from autodistill.training import Recipe, Supervision, evaluate, supervise, train
from autodistill.training import step as step_module
from autodistill.training.step import inputs_of, learning_rate


def test_the_rate_rises_linearly_and_falls_along_a_cosine_to_zero():
    rates = [learning_rate(step, 10, peak=0.4, warmup=0.2) for step in range(11)]
    by_hand = [0.2, 0.4, 0.4, 0.384776, 0.341421, 0.276537, 0.2, 0.123463, 0.058579, 0.015224, 0.0]
    assert rates == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
def test_every_schedule_reaches_its_peak_and_stays_positive(steps, warmup):
    rates = [learning_rate(step, steps, peak=0.4, warmup=warmup) for step in range(steps)]
    assert max(rates) == pytest.approx(0.4)
    assert min(rates) > 0


def schedule(steps: int) -> list[float]:
    """0.1 at most, a warm-up over a tenth: the rates of `recipe`, spelled out."""
    rise = max(1, round(0.1 * steps))
    up = [0.1 * (step + 1) / rise for step in range(rise)]
    down = [0.05 * (1 + math.cos(math.pi * step / (steps - rise))) for step in range(steps - rise)]
    return up + down


@pytest.mark.parametrize(
    ("ramp", "factors"), [({}, [1, 1, 1, 1]), ({"ramp_epochs": 2.5}, [0.4, 0.8, 1, 1]), ({"ramp_epochs": 0.0}, [1] * 4)]
)
def test_a_distilled_run_is_the_plain_loop(ramp, factors):
    """SGD with Nesterov momentum (Sutskever et al. 2013, in torch's form), the gradient by hand, all in float64."""
    data, model, taught = toy(), linear(), supervision(soft_weight=0.7, tau=2.0, **ramp)
    weight, bias = (parameter.detach().double().clone() for parameter in model.parameters())
    seen = watched(model)
    curve = list(train(model, data, recipe(averaging=2.0), supervision=taught))
    inputs = ((data.train.images.double() / 255 - 0.3) / 0.25).flatten(1)
    onehot, tau, decay = torch.eye(CLASSES).double()[data.train.labels], 2.0, 5e-4
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    averaged, keep = [weight.clone(), bias.clone()], math.exp(-1 / (2.0 * 3))
    losses = []
    for step, (batch, rate) in enumerate(zip(seen, schedule(12), strict=True)):
        soft = 0.7 * factors[step // 3]
        probs = (teacher(step // 3).double() / tau).softmax(1)[batch]
        logits = inputs[batch] @ weight.T + bias
        hard = -(onehot[batch] * logits.log_softmax(1)).sum(1).mean()
        blurred = -(probs * (logits / tau).log_softmax(1)).sum(1).mean() * tau**2
        losses.append((float((1 - soft) * hard + soft * blurred), float(hard), float(blurred)))
        slope = (1 - soft) * (logits.softmax(1) - onehot[batch]) + soft * tau * ((logits / tau).softmax(1) - probs)
        gradients = [slope.T @ inputs[batch] / len(batch), slope.mean(0)]
        for place, parameter in enumerate((weight, bias)):
            pull = gradients[place] + decay * parameter
            velocity[place] = 0.9 * velocity[place] + pull
            parameter -= rate * (pull + 0.9 * velocity[place])
            averaged[place] = keep * averaged[place] + (1 - keep) * parameter
    for found, expected in zip(model.parameters(), averaged, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
    assert [len(batch) for batch in seen] == [8] * 12
    for epoch, record in enumerate(curve):
        means = [sum(column) / 3 for column in zip(*losses[3 * epoch : 3 * epoch + 3], strict=True)]
        assert [record.train_loss, record.hard_loss, record.soft_loss] == pytest.approx(means, rel=1e-5)


@pytest.mark.parametrize(
    ("method", "settings", "epochs", "factors"),
    [
        ("dkd", {}, 240, {1: 1 / 20, 10: 1 / 2, 20: 1.0, 240: 1.0}),  # as in the code of the authors
        ("dkd", {}, 12, {1: 1.0, 12: 1.0}),
        ("dkd", {}, 30, {1: 0.4, 2: 0.8, 3: 1.0}),
        ("dkd", {"ramp_epochs": 4.0}, 30, {1: 0.25, 4: 1.0, 30: 1.0}),
        ("dkd", {"ramp_epochs": 0.0}, 30, {1: None, 30: None}),
        ("ts", {"tau": 2.0}, 30, {1: None, 30: None}),
        ("ts", {"tau": 2.0, "ramp_epochs": 40.0}, 20, {1: 1 / 40, 20: 1 / 2}),
    ],
)
def test_the_soft_term_rises_over_the_epochs_of_the_setting_or_the_share_of_the_method(
    method, settings, epochs, factors
):
    params = TrialParams(teacher="t", method=method, method_params=settings, soft_weight=0.5)
    taught = Supervision(teacher, params, {})
    found = {epoch: taught.ramp(epoch, epochs=epochs) for epoch in factors}
    assert found == {epoch: factor if factor is None else pytest.approx(factor) for epoch, factor in factors.items()}


def test_label_smoothing_is_distillation_from_equal_probabilities():
    """(1 - s) CE(label) + s CE(uniform): TS with a teacher that knows nothing, and the soft weight s."""
    params = TrialParams(teacher="t", method="ts", method_params={"tau": 1.0}, soft_weight=0.1)
    blank = supervise(params, logits=lambda _: torch.zeros(24, CLASSES), labels=toy().train.labels)
    models = linear(), linear(), linear()
    smoothed = list(train(models[0], toy(), recipe()._replace(label_smoothing=0.1)))
    taught = list(train(models[1], toy(), recipe(), supervision=blank))
    plain = list(train(models[2], toy(), recipe()))
    for found, expected in zip(smoothed, taught, strict=True):
        assert (found.train_loss, found.hard_loss) == pytest.approx((expected.train_loss, expected.hard_loss), rel=1e-5)
        assert found.soft_loss is None
        assert found.train_loss > found.hard_loss
    for found, expected in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert plain[-1].train_loss < smoothed[-1].train_loss
    assert not same(models[0], models[2])


def test_the_weights_kept_are_the_exponential_average_of_all_steps():
    model, epochs, steps = dropping(), 3, 3
    keep = math.exp(-1 / (0.75 * steps))
    average = {key: value.double().clone() for key, value in model.state_dict().items()}

    def follow(*_: object) -> None:
        for key, value in model.state_dict().items():
            average[key] = keep * average[key] + (1 - keep) * value.double()

    handle = register_optimizer_step_post_hook(follow)
    curve = list(train(model, toy(), recipe(epochs=epochs)))
    handle.remove()
    kept = model.state_dict()
    assert int(kept.pop("1.num_batches_tracked")) == epochs * steps
    for key, value in kept.items():
        torch.testing.assert_close(value.double(), average[key], rtol=1e-5, atol=1e-7)
    last = curve[-1]
    assert (last.val_top1, last.val_nll, last.val_balanced_top1) == evaluate(model, toy().validation, toy())


def test_the_score_is_that_of_the_averaged_weights_in_every_epoch():
    short, long = (list(train(linear(), toy(), recipe(averaging=horizon))) for horizon in (0.01, 50.0))
    assert [it.train_loss for it in short] == [it.train_loss for it in long]
    untrained = evaluate(linear(), toy().validation, toy())[1]
    assert short[-1].val_nll < 0.5 * untrained
    assert long[-1].val_nll > 0.8 * untrained


def test_one_record_an_epoch_and_the_loss_falls():
    curve = list(train(dropping(), toy(), recipe(epochs=12)))
    assert [record.epoch for record in curve] == list(range(1, 13))
    assert curve[-1].train_loss < 0.6 * curve[0].train_loss
    assert all(record.soft_loss is None and record.train_loss == record.hard_loss for record in curve)
    assert curve[-1].val_top1 > 0.6


def poisoned() -> Data:
    """Data whose test images no model can be run on."""
    data = toy()
    return Data(**{**vars(data), "test": Split(torch.zeros(16, 1, 7, 7, dtype=torch.uint8), data.test.labels)})


def test_the_test_set_is_touched_when_asked_in_the_last_epoch_alone():
    assert all(it.test_top1 is None for it in train(linear(), poisoned(), recipe()))
    tested = list(train(linear(), toy(), recipe(), evaluate_on="validation+test"))
    assert [record.test_top1 is None for record in tested] == [True, True, True, False]
    epochs = train(linear(), poisoned(), recipe(), evaluate_on="validation+test")
    assert len(list(itertools.islice(epochs, 3))) == 3
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        next(epochs)


def test_validation_comes_every_few_epochs_and_last():
    curve = list(train(linear(), toy(), recipe(epochs=5, evaluate_every=2)))
    assert [record.epoch for record in curve if record.val_top1 is not None] == [2, 4, 5]
    assert [record.epoch for record in curve if record.val_nll is not None] == [2, 4, 5]


def orders(model: nn.Module, recipe: Recipe, taught: Supervision | None = None) -> list[list[int]]:
    seen = watched(model)
    list(train(model, toy(), recipe, supervision=taught))
    return [[*itertools.chain(*seen[start : start + 3])] for start in range(0, len(seen), 3)]


def test_the_order_of_the_batches_depends_on_seed_and_epoch_alone():
    first = orders(linear(), recipe())
    assert first == orders(dropping(7), recipe(lr=0.01, averaging=3.0), supervision())
    assert all(sorted(order) == list(range(24)) for order in first)
    assert len({tuple(order) for order in first}) == 4
    assert first[:2] == orders(linear(), recipe(epochs=2))
    assert not set(map(tuple, first)) & set(map(tuple, orders(linear(), recipe(seed=1))))


def test_what_is_left_over_of_an_epoch_waits_for_another():
    seen = watched(model := linear())
    list(train(model, toy(), recipe(epochs=30, batch_size=7)))
    assert {len(batch) for batch in seen} == {7}
    assert set().union(*seen) == set(range(24))


@pytest.mark.parametrize("taught", [False, True])
def test_equal_runs_are_equal_to_the_bit_and_another_seed_is_another_run(taught):
    def run(seed: int) -> tuple[list[EpochRecord], nn.Module]:
        given = supervision(method="isats", target_ratio=5 / 3) if taught else None
        model = dropping()
        return list(train(model, toy(), recipe(seed=seed, view=View(3, 1, True)), supervision=given)), model

    (first, one), (second, two), (third, three) = run(0), run(0), run(1)
    assert first == second
    assert same(one, two)
    assert [it.train_loss for it in first] != [it.train_loss for it in third]
    assert not same(one, three)


def test_a_loss_that_is_not_finite_names_its_epoch():
    with pytest.raises(TrialError, match=r"the loss became (nan|inf) in epoch 2"):
        list(train(linear(), toy(), recipe(epochs=5, batch_size=24, lr=1e38, evaluate_every=5)))


def test_weights_that_the_last_step_broke_are_a_failure_too():
    with pytest.raises(TrialError, match=r"the validation loss became nan in epoch 1"):
        list(train(linear(), toy(), recipe(epochs=1, batch_size=24, lr=1e38, warmup=1.0)))


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for _ in train(dropping(), toy(), recipe(), supervision=supervision(method="isats", target_ratio=1.0)):
        assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    first = list(train(dropping(), toy(), recipe()))
    torch.manual_seed(7)
    assert list(train(dropping(), toy(), recipe())) == first


class Syncs(TorchDispatchMode):
    """Counts values that travel from a tensor to Python."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device_inside_an_epoch(monkeypatch):
    """More batches, as many values read: those at the end of the epoch."""
    monkeypatch.setattr(Tensor, "numpy", None)
    counts = []
    for size in (24, 24, 2):
        plan = recipe(epochs=2, batch_size=size, view=View(0, 1, True))
        with Syncs() as syncs:
            list(train(dropping(), toy(), plan, supervision=supervision()))
        counts.append(syncs.count)
    assert counts[1] == counts[2] > 0


def test_a_cpu_computes_in_float32():
    model, kinds = dropping(), set()

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kinds.update((inputs[0].dtype, output.dtype, module.weight.dtype if hasattr(module, "weight") else None))

    for module in model:
        module.register_forward_hook(note)
    list(train(model, toy(), recipe(epochs=1), supervision=supervision()))
    assert kinds - {None} == {torch.float32}


def test_what_a_method_takes_from_the_teacher_once_is_in_the_targets_and_in_the_summary():
    taught = supervision(method="isats", target_ratio=5 / 3)
    labels = toy().train.labels
    right = teacher(0).argmax(1) == labels
    assert 0 < int((~right).sum()) < 24, "the made-up teacher must err, and not always"
    found, summary = taught.view(0, labels).prepared["tau_other"], taught.summary(labels)
    median = float(found[right].quantile(0.5))
    assert found[~right].tolist() == pytest.approx([median] * int((~right).sum()))
    assert summary.tau_wrong == pytest.approx(median)
    assert summary.teacher_right == pytest.approx(float(right.double().mean()))


def test_a_pool_of_views_is_cycled_through():
    asked: list[int] = []

    def logits(number: int) -> Tensor:
        asked.append(number)
        return teacher(number)

    params = TrialParams(teacher="t", method="ts", method_params={"tau": 2.0}, tau_student=2.0, soft_weight=0.5)
    taught = supervise(params, logits=logits, labels=toy().train.labels)
    list(train(linear(), toy(), recipe(epochs=5, views=2), supervision=taught))
    assert asked == [0, 1, 0, 1, 0]


def located(inputs: Tensor, data: Data, *, crop: int) -> list[int]:
    """Numbers of the training images whose zero-padded images hold the normalised `inputs` at some offset."""
    size = inputs.shape[-1]
    padded = nn.functional.pad(data.train.images.double(), (crop,) * 4)
    pixels = ((inputs.double() * data.std[0] + data.mean[0]) * 255).round()
    windows = padded.unfold(2, size, 1).unfold(3, size, 1).flatten(2, 3)  # examples, 1, offsets, size, size
    matches = (windows[None, :, 0] == pixels[:, :, None]).all(-1).all(-1).any(-1)
    assert (matches.sum(1) == 1).all(), "each input is a view of exactly one training image"
    return matches.double().argmax(1).tolist()


def isats_targets(logits: Tensor, labels: Tensor, ratio: float) -> Tensor:
    """ISATS soft targets in float64 by a grid over tau_other; samples that the teacher gets wrong take the median."""
    low, high = (torch.full((len(labels), 1), math.log(bound)).double() for bound in (0.5, 30))
    for _ in range(4):  # each grid covers two intervals of the one before
        grid = low + (high - low) * torch.linspace(0, 1, 401, dtype=torch.float64)
        best = log_dv(logits, labels, grid.exp(), anchor="other_max", ratio=ratio, fixed=None).argmax(1, keepdim=True)
        low, high = grid.gather(1, (best - 1).clamp(min=0)), grid.gather(1, (best + 1).clamp(max=400))
    tau_other = grid.gather(1, best)[:, 0].exp()
    right = logits.argmax(1) == labels
    tau_other[~right] = tau_other[right].quantile(0.5)
    rows = zip(logits.double().tolist(), labels.tolist(), tau_other.tolist(), strict=True)
    return torch.tensor([softmax_loop(row, y, ratio * tau, tau, "other_max") for row, y, tau in rows]).double()


def plain_loop(
    model: nn.Module, inputs: list[Tensor], batches: list[list[int]], labels: Tensor, targets: Tensor, *, keep: float
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of every step of torch's own SGD in float64, and the exponential average of the weights."""
    model = model.double().train()
    optimiser = torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, weight_decay=5e-4)
    averaged = {name: value.detach().clone() for name, value in model.named_parameters()}
    losses = []
    for seen, batch, rate in zip(inputs, batches, schedule(len(batches)), strict=True):
        optimiser.param_groups[0]["lr"] = rate
        log_probs = model(seen.double()).log_softmax(1)
        soft = -(targets[batch] * log_probs).sum(1).mean()
        loss = 0.5 * nn.functional.nll_loss(log_probs, labels[batch]) + 0.5 * soft
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        for name, value in model.named_parameters():
            averaged[name] = keep * averaged[name] + (1 - keep) * value.detach()
    return losses, averaged


def test_a_distilled_convolutional_run_is_a_plain_loop_in_float64(monkeypatch):
    """A ResNet on real images with ISATS targets: the losses of every step and the averaged weights."""
    seen: list[Tensor] = []
    losses: list[float] = []
    normalise, loss_function = step_module.normalise, distillation_loss

    def noted_inputs(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(normalise(*args, **kwargs))
        return seen[-1]

    def noted_loss(*args: Any, **kwargs: Any) -> Any:
        loss = loss_function(*args, **kwargs)
        losses.append(float(loss.total.detach()))
        return loss

    data = datasets.load(DataSpec(name="digits", train=100, validation=100, test=100))
    labels = data.train.labels.long()
    logits = torch.randn(100, 10, generator=torch.Generator().manual_seed(0)) + 2 * nn.functional.one_hot(labels, 10)
    assert 0 < int((logits.argmax(1) != labels).sum()) < 50, "the made-up teacher must err, and not always"
    params = TrialParams(teacher="t", method="isats", method_params={"target_ratio": 5 / 3}, soft_weight=0.5)
    taught = supervise(params, logits=lambda _: logits, labels=data.train.labels)
    model = build("resnet8:0.25", num_classes=10, in_channels=1, image_size=8, seed=0)
    twin, plan = copy.deepcopy(model), recipe(epochs=3, batch_size=25, view=View(0, 1, False))
    with monkeypatch.context() as patch:
        patch.setattr(step_module, "normalise", noted_inputs)
        patch.setattr(temperature_scaling, "distillation_loss", noted_loss)
        list(train(model, data, plan, supervision=taught))
    inputs = [batch for batch in seen if len(batch) == 25]  # the others are evaluations
    batches = [located(batch, data, crop=1) for batch in inputs]
    epochs = [sorted(itertools.chain(*batches[start : start + 4])) for start in (0, 4, 8)]
    assert epochs == [list(range(100))] * 3
    targets, keep = isats_targets(logits, labels, 5 / 3), math.exp(-1 / (plan.spec.averaging * 4))
    expected, averaged = plain_loop(twin, inputs, batches, labels, targets, keep=keep)
    assert losses == pytest.approx(expected, rel=1e-5)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.double(), averaged[name], rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_trains_in_bfloat16_to_about_the_same():
    data, model, kinds = toy().to("cuda"), dropping().to("cuda"), set()
    model[0].register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
    before = torch.cuda.get_rng_state()
    curve = list(train(model, data, recipe(epochs=12), supervision=supervision()))
    assert kinds == {torch.bfloat16}
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert curve[-1].train_loss < curve[0].train_loss
    assert curve[-1].val_top1 > 0.5


@pytest.mark.parametrize(("crop", "kind"), [(127, torch.uint8), (128, torch.int32)])
def test_what_an_epoch_reads_is_kept_in_as_few_bits_as_hold_it(crop, kind):
    held = inputs_of(toy(), recipe()._replace(view=View(5, crop, True)), 3)
    wide = views.draw(torch.arange(24), view=View(5, crop, True), epoch=3 % recipe().views)
    assert (held.order.dtype, held.draws.dtype) == (torch.int32, kind)
    assert torch.equal(held.draws.long(), wide)
    assert wide.max() > crop
