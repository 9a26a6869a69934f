"""The twin that a network is trained through: the same function of the same parameters, by other operators."""

import contextlib
import copy
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn import utils as nn_utils
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import mobilenet_v3_small, resnet18
from toy_runs import recipe, toy

from autodistill.models import MODELS, build
from autodistill.training import train
from autodistill.training.convolutions import Depthwise, Pointwise, SafeGradients, backward_pass, cpu_network
from autodistill.training.probing import faster_precision

NAMES = ["mobilenetv2:0.25", "resnet8:0.5", "vgg8:0.25", "resnet50:0.25", "wrn_16_2:0.25"]


class Functional(nn.Module):
    """Convolves by a function."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, maps: Tensor) -> Tensor:
        held = self.convolution
        return functional.conv2d(maps, held.weight, held.bias, held.stride, groups=held.groups)


class Direct(Functional):
    """Convolves by the operator itself."""

    def forward(self, maps: Tensor) -> Tensor:
        held = self.convolution
        return torch.ops.aten.convolution(
            maps, held.weight, held.bias, [held.stride[0]], [0], [1], False, [0], held.groups
        )


class Late(nn.Module):
    """Makes its convolution in its first forward pass."""

    def forward(self, maps: Tensor) -> Tensor:
        if not hasattr(self, "convolution"):
            self.convolution = strided().to(maps.dtype)
        return self.convolution(maps)


class Standardised(nn.Conv2d):
    """A convolution with a standardised weight (Qiao et al. 2019, arXiv:1903.10520)."""

    def forward(self, maps: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return functional.conv2d(maps, weight, self.bias, self.stride)


class Bare(nn.Module):
    """Holds a weight and convolves by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4, 1, 1, generator=torch.Generator().manual_seed(0)))

    def forward(self, maps: Tensor) -> Tensor:
        return functional.conv2d(maps, self.weight, stride=2)


class Upsampling(nn.ConvTranspose2d):
    """A subclass that changes nothing."""


class Watching(TorchDispatchMode):
    """Notes the strided 1x1 convolutions whose gradients are computed as such."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.others = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            plain = max(args[2].shape[2:]) == 1 and max(args[4]) > 1
            self.seen, self.others = self.seen + plain, self.others + (not plain)
        return func(*args, **(kwargs or {}))


def strided() -> nn.Conv2d:
    return nn.Conv2d(4, 8, 1, stride=2)


def patched() -> nn.Module:
    convolution = strided()
    convolution.forward = Functional(strided().double()).forward
    return nn.Sequential(convolution)


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Identity())
    network[0].register_forward_hook(lambda module, args, output: made(output))
    made = Functional(strided().double())
    return network


def hooked_weight_norm() -> nn.Module:
    """A weight that a hook computes before each forward pass."""
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.Sequential(nn_utils.weight_norm(strided()))


OTHER_WAYS = {
    "function": lambda: Functional(strided()),
    "operator": lambda: Direct(strided()),
    "made in the forward pass": Late,
    "subclass": lambda: nn.Sequential(Standardised(4, 8, 1, stride=2)),
    "parametrised": lambda: nn.Sequential(weight_norm(strided())),
    "parametrised function": lambda: nn.Sequential(weight_norm(Bare())),
    "weight computed by a hook": hooked_weight_norm,
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(4, 3, 1, stride=2, output_padding=1)),
    "subclass of a transposed one": lambda: nn.Sequential(Upsampling(4, 3, 1, stride=2, output_padding=1)),
    "padded by reflection": lambda: nn.Sequential(nn.Conv2d(4, 8, 1, 2, 1, padding_mode="reflect")),
    "patched": patched,
    "hook": hooked,
    "traced by fx": lambda: torch.fx.symbolic_trace(Functional(strided())),
}


def gradients(model: nn.Module, images: Tensor) -> list[Tensor]:
    functional.cross_entropy(model(images), torch.arange(len(images)) % 7).backward()
    return [parameter.grad for parameter in model.parameters()]


def replaced(model: nn.Module) -> list[nn.Module]:
    return [module for module in cpu_network(model).modules() if isinstance(module, Pointwise | Depthwise)]


@pytest.mark.parametrize("size", [8, 14, 32])
@pytest.mark.parametrize("name", NAMES)
def test_logits_gradients_and_statistics_are_those_of_the_network_itself(name: str, size: int) -> None:
    plain = build(name, num_classes=7, in_channels=3, image_size=size, seed=0).double()
    plain.to(memory_format=torch.channels_last).train()
    trained = copy.deepcopy(plain)
    images = torch.randn(6, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    gradients(cpu_network(trained), images)
    for expected, found in zip(gradients(plain, images), trained.parameters(), strict=True):
        assert torch.allclose(found.grad, expected, rtol=1e-7, atol=1e-9)
    for (key, expected), found in zip(plain.state_dict().items(), trained.state_dict().values(), strict=True):
        assert torch.allclose(found, expected, rtol=1e-9), key


def test_the_networks_own_tensors_are_trained_and_nothing_of_it_is_replaced() -> None:
    model = build("mobilenetv2:0.25", num_classes=7, in_channels=1, image_size=8, seed=0)
    kinds, keys = [type(module) for module in model.modules()], list(model.state_dict())
    twin = cpu_network(model)
    shared = {id(tensor) for tensor in (*twin.parameters(), *twin.buffers())}
    assert shared == {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    assert [type(module) for module in model.modules()] == kinds
    assert list(twin.state_dict()) == keys


def test_a_mobilenet_has_all_but_its_stem_and_strided_depthwise_convolutions_replaced() -> None:
    model = build("mobilenetv2:0.25", num_classes=7, in_channels=1, image_size=32, seed=0)
    strided = sum(isinstance(it, nn.Conv2d) and it.stride != (1, 1) for it in model.modules())
    kinds = [type(module) for module in replaced(model)]
    assert strided == 4
    assert (kinds.count(Pointwise), kinds.count(Depthwise)) == (34, 17 - strided)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 4, 1, padding=1),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 8, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 5, padding=2, groups=4),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv1d(4, 4, 1),
        nn.Conv3d(4, 4, 3, stride=2),
        nn.ConvTranspose2d(4, 4, 1),
        nn.ConvTranspose2d(4, 4, 2, stride=2),
    ],
    ids=str,
)
def test_any_other_convolution_stays_and_is_safe(convolution: nn.Module) -> None:
    network = nn.Sequential(convolution)
    assert not replaced(network)
    assert not isinstance(backward_pass(network), SafeGradients)


@pytest.mark.parametrize("side", [1, 2, 3, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_each_replacement_computes_what_torch_does_on_maps_of_any_size(*, side: int, bias: bool) -> None:
    maps = torch.randn(3, 4, side, side, generator=torch.Generator().manual_seed(side)).double()
    for convolution in (nn.Conv2d(4, 6, 1, bias=bias), nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=bias)):
        (replacement,) = replaced(nn.Sequential(convolution.double()))
        assert torch.allclose(replacement(maps), convolution(maps))


STRIDES = [1, 2, 3, (1, 2), (3, 1)]
SIDES = [(1, 1), (2, 2), (5, 5), (8, 8), (9, 12), (16, 7)]


@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("stride", STRIDES, ids=str)
@pytest.mark.parametrize(("channels", "groups"), [((1, 3), 1), ((5, 8), 1), ((20, 17), 1), ((6, 4), 2), ((8, 8), 8)])
def test_a_pointwise_convolution_is_a_sum_over_channels(
    channels: tuple[int, int],
    groups: int,
    stride: int | tuple[int, int],
    sides: tuple[int, int],
    memory: torch.memory_format,
) -> None:
    """The replacement, and the plain operator with its gradients intercepted, against sums written out in float64."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, channels[0], *sides, generator=generator)
    convolution = nn.Conv2d(*channels, 1, stride=stride, groups=groups)
    down, right = convolution.stride
    grown = maps.double()[:, :, ::down, ::right].unflatten(1, (groups, -1)).requires_grad_()
    weight, bias = (it.detach().double().requires_grad_() for it in (convolution.weight, convolution.bias))
    sums = torch.einsum("bgihw,goi->bgohw", grown, weight.view(groups, -1, channels[0] // groups)).flatten(1, 2)
    expected = sums + bias[:, None, None]
    gradient = torch.randn(expected.shape, generator=generator)
    expected.backward(gradient.double())
    of_maps = torch.zeros_like(maps, dtype=torch.float64)
    of_maps[:, :, ::down, ::right] = grown.grad.flatten(1, 2)
    for network in (cpu_network(nn.Sequential(convolution)), Functional(convolution)):
        convolution.zero_grad()
        inputs = maps.detach().contiguous(memory_format=memory).requires_grad_()
        output = network(inputs)
        with backward_pass(network):
            output.backward(gradient)
        assert output.shape == gradient.shape
        found = (output, inputs.grad, convolution.weight.grad, convolution.bias.grad)
        for one, two in zip(found, (expected, of_maps, weight.grad, bias.grad), strict=True):
            torch.testing.assert_close(one.double(), two.view(one.shape), rtol=1e-4, atol=1e-4)


def test_where_there_is_no_gain_a_network_is_trained_as_it_is() -> None:
    with torch.device("meta"):
        elsewhere = build("mobilenetv2:0.25", num_classes=7, in_channels=1, image_size=8, seed=0)
    assert cpu_network(elsewhere) is elsewhere
    without = build("vgg8:0.25", num_classes=7, in_channels=1, image_size=8, seed=0)
    assert cpu_network(without) is without


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_gradients_of_a_network_that_convolves_in_another_way_are_intercepted(way: str) -> None:
    network = OTHER_WAYS[way]().double().to(memory_format=torch.channels_last)
    inputs = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    trained = cpu_network(network)
    for context in (contextlib.nullcontext(), backward_pass(trained)):
        network.zero_grad()
        maps = inputs.contiguous(memory_format=torch.channels_last).requires_grad_()
        loss = trained(maps).square().sum()
        with Watching() as watching, context:
            loss.backward()
        found.append((watching.seen, watching.others))
        held = [maps, *network.parameters()]
        found.append([it.grad.clone() for it in held if it.grad is not None])
    assert found[0] == (1, 0), "without the context the plain operator is called"
    assert found[2] == (0, 1)
    for plain, intercepted in zip(found[1], found[3], strict=True):
        torch.testing.assert_close(plain, intercepted)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv1d(4, 3, 1, stride=2),
        nn.Conv3d(4, 3, 1, stride=(1, 1, 2)),
        nn.ConvTranspose1d(4, 3, 1, stride=2),
        nn.ConvTranspose2d(4, 3, 1, stride=(2, 1)),
        nn.ConvTranspose3d(4, 3, 1, stride=3),
        nn.LazyConvTranspose2d(3, 1, stride=2),
    ],
    ids=str,
)
def test_strided_1x1_convolutions_of_every_kind_are_intercepted(convolution: nn.Module) -> None:
    network = nn.Sequential(convolution)
    assert cpu_network(network) is network
    assert isinstance(backward_pass(network), SafeGradients)


def test_interception_leaves_padded_convolutions_alone_which_are_right() -> None:
    """Without padding, oneDNN would compute these weight gradients wrongly."""
    generator = torch.Generator().manual_seed(0)
    for convolve, in_channels, weights, options in (
        (functional.conv2d, 4, (8, 4, 1, 1), {}),
        (functional.conv_transpose2d, 64, (64, 4, 1, 1), {"output_padding": 1}),
    ):
        maps = torch.randn(3, in_channels, 64, 64, generator=generator)
        weight = torch.randn(weights, generator=generator)
        gradient, found = None, []
        for kind in (torch.float64, torch.float32):
            held = [it.to(kind, memory_format=torch.channels_last).requires_grad_() for it in (maps, weight)]
            output = convolve(*held, stride=2, padding=1, **options)
            if gradient is None:
                gradient = torch.randn(output.shape, generator=generator)
            with Watching() as watching, SafeGradients():
                found.append(torch.autograd.grad(output, held, gradient.to(output)))
            assert watching.seen == 1
        for exact, single in zip(*found, strict=True):
            torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-3)


TRANSPOSED = {
    "a stride that divides the sides of the output": ((64, 4), (64, 64), {"stride": 2, "output_padding": 1}),
    "half a SIMD block and more": ((64, 12), (64, 64), {"stride": 2, "output_padding": 1}),
    "a small map": ((64, 4), (8, 8), {"stride": 2, "output_padding": 1}),
    "a stride of 3": ((64, 4), (32, 32), {"stride": 3, "output_padding": 2}),
    "a stride along the width": ((64, 4), (64, 64), {"stride": (1, 2), "output_padding": (0, 1)}),
    "no output padding": ((64, 4), (9, 5), {"stride": 2}),
    "output padding along the height": ((6, 4), (5, 7), {"stride": 3, "output_padding": (1, 0)}),
    "output padding of more than a stride": ((6, 4), (5, 7), {"stride": 2, "output_padding": 4, "dilation": 5}),
    "groups": ((6, 4), (8, 8), {"stride": 2, "output_padding": 1, "groups": 2}),
    "no bias": ((6, 4), (8, 8), {"stride": 2, "output_padding": 1, "bias": False}),
    "a line": ((64, 4), (64,), {"stride": 2, "output_padding": 1}),
    "a line in groups": ((6, 4), (9,), {"stride": 3, "output_padding": 1, "groups": 2}),
    "a volume": ((64, 4), (4, 8, 8), {"stride": 2, "output_padding": 1}),
    "a volume with three strides": ((6, 4), (3, 4, 5), {"stride": (1, 2, 3), "output_padding": (0, 1, 1)}),
}


@pytest.mark.parametrize("features_last", [True, False])
@pytest.mark.parametrize("case", TRANSPOSED)
def test_a_transposed_1x1_convolution_writes_its_pixels_a_stride_apart(case: str, *, features_last: bool) -> None:
    """Result and gradients, against float64 sums over channels that are written out."""
    (in_channels, channels), sides, options = TRANSPOSED[case]
    module = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[len(sides) - 1]
    convolution = module(in_channels, channels, 1, **options)
    groups, strides = convolution.groups, convolution.stride

    def in_memory(values: Tensor) -> Tensor:
        return values.movedim(1, -1).contiguous().movedim(-1, 1) if features_last else values.contiguous()

    generator = torch.Generator().manual_seed(0)
    maps = in_memory(torch.randn(3, in_channels, *sides, generator=generator)).requires_grad_()
    network = nn.Sequential(convolution)
    with torch.no_grad():
        convolution.weight.set_(in_memory(convolution.weight))
    output = cpu_network(network)(maps)
    gradient = in_memory(torch.randn(output.shape, generator=generator))
    with Watching() as watching, backward_pass(network):
        output.backward(gradient)
    assert (watching.seen, watching.others) == (0, 1)

    written = (..., *(slice(0, (side - 1) * step + 1, step) for side, step in zip(sides, strides, strict=True)))
    pixels = maps.detach().double().flatten(2).unflatten(1, (groups, -1))
    weight = convolution.weight.detach().double().view(groups, -1, channels // groups)
    at_pixels = gradient.double()[written].flatten(2).unflatten(1, (groups, -1))
    expected = torch.zeros_like(output, dtype=torch.float64)
    expected[written] = torch.einsum("bgip,gio->bgop", pixels, weight).reshape(3, channels, *sides)
    found = [
        (maps.grad, torch.einsum("bgop,gio->bgip", at_pixels, weight)),
        (convolution.weight.grad, torch.einsum("bgip,bgop->gio", pixels, at_pixels)),
    ]
    if convolution.bias is not None:
        expected += convolution.bias.detach().double().view(-1, *[1] * len(sides))
        found.append((convolution.bias.grad, gradient.double().transpose(0, 1).flatten(1).sum(1)))
    for single, exact in [*found, (output, expected)]:
        torch.testing.assert_close(single.double(), exact.reshape(single.shape), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dimensions", [1, 3])
def test_gradients_along_any_number_of_axes_are_intercepted(dimensions: int) -> None:
    convolve = {1: functional.conv1d, 3: functional.conv3d}[dimensions]
    maps = torch.randn(2, 4, *[6] * dimensions, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 4, *[1] * dimensions, dtype=torch.float64, requires_grad=True)
    loss = convolve(maps, weight, stride=2).square().sum()
    plain = torch.autograd.grad(loss, (maps, weight), retain_graph=True)
    with Watching() as watching, SafeGradients():
        intercepted = torch.autograd.grad(loss, (maps, weight))
    assert watching.seen == 0
    for one, two in zip(plain, intercepted, strict=True):
        torch.testing.assert_close(one, two)


class Student(nn.Sequential):
    """Convolves by a function, in the midst of a network."""

    def __init__(self) -> None:
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
        super().__init__(nn.Conv2d(1, 4, 3, padding=1), Functional(strided()), *head)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_run_never_calls_for_the_faulty_kernel(micro_batches: int) -> None:
    with Watching() as watching:
        list(train(Student(), toy(), recipe()._replace(micro_batches=micro_batches)))
    assert watching.seen == 0
    assert watching.others > 0


def test_trying_number_formats_never_calls_for_the_faulty_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    with Watching() as watching:
        faster_precision(Student, torch.randn(4, 1, 8, 8))
    assert watching.seen == 0
    assert watching.others > 0


@pytest.mark.slow
def test_known_networks_have_nothing_to_intercept() -> None:
    networks = [build(f"{name}:0.125", num_classes=2, in_channels=1, image_size=32, seed=0) for name in MODELS]
    for network in (*networks, resnet18(), mobilenet_v3_small()):
        assert not isinstance(backward_pass(cpu_network(network)), SafeGradients)
        loss = cpu_network(network)(torch.randn(2, 1 if network in networks else 3, 32, 32)).square().sum()
        with Watching() as watching:
            loss.backward()
        assert watching.seen == 0


def test_nothing_is_intercepted_on_other_devices() -> None:
    assert not isinstance(backward_pass(Student().to("meta")), SafeGradients)


def test_a_replacement_keeps_hooks_and_is_made_under_every_name() -> None:
    shared, calls = strided(), []
    shared.register_forward_hook(lambda *_: calls.append(1))
    network = nn.ModuleDict({"one": shared, "two": shared})
    twin = cpu_network(network)
    assert type(twin["one"]) is type(twin["two"]) is Pointwise
    twin["two"](torch.randn(1, 4, 4, 4))
    assert calls == [1]
    assert twin["two"].stride == (2, 2)


def test_a_network_that_cannot_be_copied_is_trained_itself() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 1), *hooked_weight_norm(), nn.Flatten(), nn.Linear(128, 2))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(network)
    assert cpu_network(network) is network
    assert isinstance(backward_pass(network), SafeGradients)
    locked = nn.Sequential(strided())
    locked.lock = threading.Lock()
    assert cpu_network(locked) is locked
    assert isinstance(backward_pass(locked), SafeGradients)
