"""The GPU path without a GPU.

Fake CUDA tensors find mixed devices and reads of values; the meta device shows that gradients need no values. The
optimiser, CUDA graphs and numbers are left to the tests marked `gpu`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from autodistill import metrics
from autodistill.data import Data, Split
from autodistill.data.views import View, draw, take_drawn
from autodistill.methods import METHODS, hard_loss
from autodistill.models import MODELS, build
from autodistill.records import TrialParams
from autodistill.teachers import Normalisation, Teacher
from autodistill.training import Supervision, TeacherView, supervise
from autodistill.training.step import predict

EXAMPLES, BATCH, CLASSES, SIZE, CROP = 12, 4, 5, 32, 4
MEAN, STD = (0.501, 0.502, 0.503), (0.251, 0.252, 0.253)
"""Unlike those of any other test: the product keeps them on the device, which is fake here."""
FITTED = {"isats": {"tau_wrong": 4.0}}
"""Parameters that are fitted to values."""
SEARCHED = ("isats",)
"""Methods whose preparation looks at values, once a view. It is left to the tests on a GPU."""
DEEP = ("resnet56", "resnet110", "resnet50", "wrn_40_2", "wrn_28_10")
"""They differ from their shallower kin in the number of blocks alone."""


def marks(name: str) -> Any:
    return pytest.mark.slow if name.removesuffix("_option_a") in DEEP else ()


FAKE = FakeTensorMode()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fake tensors, and an autocast that takes their CUDA device for a real one."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    with FAKE:
        try:
            torch.zeros(2, device="cuda")[torch.arange(2, device="cuda")]
        except RuntimeError as error:  # torch 2.9: indexing asks the driver
            pytest.skip(f"torch {torch.__version__} indexes fake CUDA tensors with a driver only: {error}"[:120])
        yield


def data_on(device: str) -> Data:
    images = torch.empty(EXAMPLES, 3, SIZE, SIZE, dtype=torch.uint8, device=device)
    split = Split(images.contiguous(memory_format=torch.channels_last), torch.zeros(EXAMPLES, device=device).long())
    return Data("made up", tuple("abcde"), split, split, split, MEAN, STD, "made up")


def network(name: str, device: str) -> nn.Module:
    with torch.device(device):
        return build(name, num_classes=CLASSES, in_channels=3, image_size=SIZE, seed=0)


def supervision(method: str, logits: Tensor) -> Supervision:
    """The supervision of a run with the settings of the registry."""
    settings = {**METHODS[method].settings, **FITTED.get(method, {})}
    common = {name: settings.pop(name) for name in ("soft_weight", "tau_student") if name in settings}
    params = TrialParams(teacher="t", method=method, method_params=settings, **common)
    return supervise(params, logits=lambda _: logits, labels=torch.zeros(EXAMPLES).long())


def taught_on(device: str, method: str) -> tuple[TeacherView, Supervision]:
    """A view as the step reads it, and the supervision that made it."""
    logits = torch.zeros(EXAMPLES, CLASSES, dtype=torch.float16, device=device)
    given = supervision(method, logits)
    if method in SEARCHED:
        each = torch.ones(EXAMPLES, dtype=torch.float64, device=device)
        return TeacherView(logits, {"tau_target": each, "tau_other": each}), given
    return TeacherView(logits, given.method.prepared(logits, data_on(device).train.labels, given.settings)), given


def batch_losses(model: nn.Module, data: Data, taught: TeacherView | None, given: Supervision | None) -> Tensor:
    """What a training step computes before its backward pass, from the gather on."""
    device = data.train.labels.device
    everything, view = torch.arange(EXAMPLES, device=device), View(3, CROP, True)
    draws = draw(everything, view=view, epoch=1).to(torch.uint8)
    order = torch.zeros(2, BATCH, dtype=torch.int32, device=device)
    batch = order.index_select(0, torch.zeros(1, dtype=torch.int64, device=device))[0]
    seen = take_drawn(data.train.images, batch, draws[batch], crop=CROP)
    logits = predict(model, seen, data, "auto")
    labels = data.train.labels[batch]
    if taught is None or given is None:
        return torch.stack(tuple(hard_loss(logits, labels)))
    rows = taught.rows(batch)
    return torch.stack(tuple(given.loss(logits, rows.logits, labels, rows.prepared, torch.ones((), device=device))))


@contextmanager
def refused(reason: str) -> Iterator[None]:
    with pytest.raises((RuntimeError, DataDependentOutputException), match=reason):
        yield


def test_fake_tensors_refuse_mixed_devices_and_reads_of_values(fake):
    here, there = torch.zeros(4), torch.zeros(4, device="cuda")
    with refused("device"):
        here + there
    with refused("device"):
        there[torch.arange(2)] + here[:2]
    with refused("_local_scalar_dense"):
        float(there.sum())


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in sorted(MODELS)])
def test_every_network_trains_on_labels_up_to_the_backward_pass(name, fake):
    found = batch_losses(network(name, "cuda"), data_on("cuda"), None, None)
    assert (found.device.type, found.dtype, tuple(found.shape)) == ("cuda", torch.float32, (3,))


def test_a_gpu_computes_in_bfloat16_and_scores_in_float32(fake):
    model, kinds = network("resnet8", "cuda"), set()
    model[0].register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
    images = data_on("cuda").validation.images
    assert predict(model, images, data_on("cuda"), "auto").dtype == torch.float32
    assert kinds == {torch.bfloat16}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_loss_of_every_method_is_computed_on_the_device(method, fake):
    taught, given = taught_on("cuda", method)
    found = batch_losses(network("resnet8:0.25", "cuda"), data_on("cuda"), taught, given)
    assert (found.device.type, tuple(found.shape)) == ("cuda", (3,))


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {*SEARCHED}))
def test_a_view_is_prepared_on_the_device(method, fake):
    taught, given = taught_on("cuda", method)
    view = given.view(0, data_on("cuda").train.labels)
    assert {it.device.type for it in view.tensors} == {"cuda"}
    assert {it.shape[0] for it in view.tensors} == {EXAMPLES}
    assert view.prepared.keys() == taught.prepared.keys()


@pytest.mark.parametrize("input_size", [None, 48])
def test_a_teacher_is_run_on_the_device(input_size, fake):
    teacher = Teacher(
        name="t",
        uri="t",
        architecture="wrn_16_2",
        module=network("wrn_16_2", "cuda").eval(),
        normalisation=Normalisation("stated", MEAN, STD),
        fingerprint="made up",
        channels=3,
        input_size=input_size,
    )
    logits = teacher(data_on("cuda").train.images)
    assert (logits.device.type, logits.dtype, tuple(logits.shape)) == ("cuda", torch.float32, (EXAMPLES, CLASSES))


def test_scores_are_computed_on_the_device_until_they_are_read(fake):
    data = data_on("cuda")
    logits = predict(network("mobilenetv2:0.25", "cuda").eval(), data.validation.images, data, "auto")
    scores = [metrics.top1(logits, data.validation.labels), metrics.nll(logits, data.validation.labels)]
    assert [it.device.type for it in scores] == ["cuda", "cuda"]


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *(pytest.param(name, "isats", marks=marks(name)) for name in sorted(MODELS)),
        *(("vgg8", method) for method in sorted(METHODS.keys() - {"isats"})),
    ],
)
def test_the_backward_pass_needs_no_value(name, method):
    """Tensors on the meta device have no values that could be read."""
    model, (taught, given) = network(name, "meta").train(), taught_on("meta", method)
    batch_losses(model, data_on("meta"), taught, given)[0].backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert (parameter.grad.device.type, parameter.grad.shape) == ("meta", parameter.shape), key
