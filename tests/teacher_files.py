"""Small teachers, and files of every kind that somebody may name as one."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from ladder_race import ARCHITECTURE, SPEC
from torch import Tensor, nn
from torchvision.models import Weights, WeightsEnum, get_model
from torchvision.transforms._presets import ImageClassification

from autodistill.config import TrainingSpec
from autodistill.data import Data, Split
from autodistill.data import load as load_data
from autodistill.data.views import View
from autodistill.errors import TeacherError
from autodistill.models import build
from autodistill.teachers import Teacher, load
from autodistill.teachers import teacher as loaded
from autodistill.training import Recipe, loop, train


def ready(module: nn.Module, **fields: Any) -> Teacher:
    return loaded.ready(Teacher(module=module, **fields))


SCALES: dict[str, tuple[float, float]] = {"none": (0.0, 1.0), "half": (0.5, 0.5)}


@cache
def digits() -> Data:
    return load_data(SPEC)


def coloured(data: Data) -> Data:
    """The same images with three channels: two of them darker."""
    shades = torch.tensor([4, 2, 1], dtype=torch.uint8)[:, None, None]
    splits = (data.train, data.validation, data.test)
    train_split, validation, test = (Split(it.images // 4 * shades, it.labels) for it in splits)
    mean, std = ((number, number / 2, number / 4) for number in (data.mean[0], data.std[0]))
    return replace(
        data,
        train=train_split,
        validation=validation,
        test=test,
        mean=mean,
        std=std,
        fingerprint=f"coloured {data.fingerprint}",
    )


def network(
    architecture: str = ARCHITECTURE, *, classes: int = 10, channels: int = 1, size: int = 8, seed: int = 0
) -> nn.Module:
    return build(architecture, num_classes=classes, in_channels=channels, image_size=size, seed=seed)


@cache
def _trained(normalisation: str) -> dict[str, Tensor]:
    data = digits()
    if normalisation != "data":
        mean, std = SCALES[normalisation]
        data = replace(data, mean=(mean,), std=(std,))
    spec = TrainingSpec(epochs=6, rung_epochs=1, batch_size=25, evaluate_every=6)
    model = network()
    for _ in train(model, data, Recipe(spec, View(0, 0, False), 1, 6, 0)):
        pass
    return model.state_dict()


def trained(normalisation: str = "data") -> nn.Module:
    """A network that reads more than nine digits in ten, if its input is normalised as in its training."""
    model = network()
    model.load_state_dict(_trained(normalisation))
    return model


def refused(uri: str, data: Data | None = None, **options: Any) -> TeacherError:
    """Load a teacher that must be refused, by an error that names it and says what to do."""
    with pytest.raises(TeacherError) as caught:
        load(uri, data=data or digits(), **options)
    assert uri in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2
    return caught.value


def kept(root: Path) -> list[str]:
    """Names of the files below a cache folder, without locks."""
    return sorted(path.name for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")


def count_epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one number with every epoch that is really trained from now on."""
    epochs: list[int] = []
    train_epoch = loop._train_epoch

    def count(step: object, execute: object, number: int, *others: object) -> Tensor:
        epochs.append(number + 1)
        return train_epoch(step, execute, number, *others)

    monkeypatch.setattr(loop, "_train_epoch", count)
    return epochs


class Touch:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self._path),)


def flip(path: Path, where: int, *, bits: int = 1) -> None:
    """Flip bits of one byte of a file."""
    content = bytearray(path.read_bytes())
    content[where] ^= bits
    path.write_bytes(content)


def tiny_torchvision(
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
    *,
    architecture: str = "shufflenet_v2_x0_5",
    classes: int = 10,
    module: nn.Module | None = None,
) -> tuple[str, Path, nn.Module]:
    """Let torchvision publish weights for a few classes; return their URI, the file they lie in, the network."""

    class Tiny(WeightsEnum):
        DIGITS_V1 = Weights(
            url=f"https://weights.invalid/{architecture}-0badcafe.pth",
            transforms=partial(ImageClassification, crop_size=40, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
            meta={"categories": [str(number) for number in range(classes)]},
        )

    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: Tiny)
    monkeypatch.setenv("TORCH_HOME", str(home))
    file = home / "hub" / "checkpoints" / f"{architecture}-0badcafe.pth"
    file.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = module or get_model(architecture, weights=None, num_classes=classes)
    torch.save(module.state_dict(), file)
    return f"torchvision:{architecture}@DIGITS_V1", file, module


class SmallNet(nn.Module):
    """A convolution and a linear layer."""

    def __init__(self, *, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.body = nn.Conv2d(channels, 6, 3, padding=1)
        self.head = nn.Linear(6, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).relu().mean((2, 3)))
        return logits


def write_onnx(
    path: Path,
    *,
    classes: int = 10,
    channels: int = 1,
    shape: tuple[int | str, ...] = ("n", 1, 8, 8),
    kind: str = "FLOAT",
    operators: Sequence[str] = (),
    more: str = "",
    external: str = "",
) -> SmallNet:
    """Write a SmallNet as ONNX, without torch's exporter; return it.

    Args:
        shape: Shape of the input; text is a dimension without a size. Channels last if the second entry is no channel.
        kind: Type of the input.
        operators: Operators of one input after the logits.
        more: `input` or `output` for a second one.
        external: Name of a file beside it for the weights.
    """
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        module = SmallNet(classes=classes, channels=channels)
    make, types = onnx.helper, onnx.TensorProto
    weights = [onnx.numpy_helper.from_array(it.numpy(), key) for key, it in module.state_dict().items()]
    nodes = [make.make_node("Cast", ["images"], ["float"], to=types.FLOAT)]
    if shape[1] not in (channels, "c"):
        nodes.append(make.make_node("Transpose", ["float"], ["first"], perm=[0, 3, 1, 2]))
    else:
        nodes.append(make.make_node("Identity", ["float"], ["first"]))
    nodes += [
        make.make_node("Conv", ["first", "body.weight", "body.bias"], ["maps"], pads=[1, 1, 1, 1]),
        make.make_node("Relu", ["maps"], ["positive"]),
        make.make_node("GlobalAveragePool", ["positive"], ["mean"]),
        make.make_node("Flatten", ["mean"], ["flat"]),
        make.make_node("Gemm", ["flat", "head.weight", "head.bias"], ["logits"], transB=1),
    ]
    output = "logits"
    for operator in operators:
        nodes.append(make.make_node(operator, [output], [operator.lower()]))
        output = operator.lower()
    value = make.make_tensor_value_info
    outputs = [output, "mean"] if more == "output" else [output]
    inputs = [value("images", getattr(types, kind), shape)]
    if more == "input":
        inputs.append(value("more", types.FLOAT, [1]))
        nodes.append(make.make_node("Identity", ["more"], ["unused"]))
    graph = make.make_graph(nodes, "g", inputs, [value(it, types.FLOAT, None) for it in outputs], weights)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    if external:
        onnx.save(model, str(path), save_as_external_data=True, location=external, size_threshold=0)
    else:
        onnx.save(model, str(path))
    return module.eval()
