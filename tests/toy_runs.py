"""Toy data, models and recipes for the trainer, and who watched what."""

from typing import Any

import torch
from torch import Tensor, nn

from autodistill.config import TrainingSpec
from autodistill.data import Data, Split
from autodistill.data.views import View
from autodistill.records import TrialParams
from autodistill.training import Recipe, Supervision, supervise

CLASSES, SIZE = 4, 4
AS_THEY_ARE = View(0, 0, False)


def split(count: int, *, seed: int) -> Split:
    """Images with a bright pixel at the label's place and noise elsewhere; the first pixel is the image's number."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 120, (count, 1, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % CLASSES
    images[torch.arange(count), 0, 1, labels] = 255
    images[:, 0, 0, 0] = torch.arange(count).to(torch.uint8)
    return Split(images.contiguous(memory_format=torch.channels_last), labels)


def toy() -> Data:
    return Data(
        name="toy",
        classes=tuple("abcd"),
        train=split(24, seed=0),
        validation=split(20, seed=1),
        test=split(16, seed=2),
        mean=(0.3,),
        std=(0.25,),
        fingerprint="toy",
    )


def linear(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, CLASSES))


def dropping(seed: int = 0) -> nn.Module:
    """Convolution, batch statistics and dropout: everything that a checkpoint must bring back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        head = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(20, CLASSES))
        return nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), *head)


def recipe(*, epochs: int = 4, seed: int = 0, view: View = AS_THEY_ARE, views: int = 100, **spec: Any) -> Recipe:
    fields = {"epochs": 1000, "batch_size": 8, "lr": 0.1, **spec}
    return Recipe(TrainingSpec(**fields), view, views, epochs, seed)


def teacher(number: int) -> Tensor:
    """A made-up teacher's logits on a view of the 24 training images."""
    noise = torch.randn(24, CLASSES, generator=torch.Generator().manual_seed(number))
    return (noise + 3 * nn.functional.one_hot(torch.arange(24) % CLASSES, CLASSES)).half()


def supervision(*, method: str = "ts", soft_weight: float = 0.7, **method_params: float) -> Supervision:
    own = method_params or {"tau": 2.0}
    params = TrialParams(
        teacher="t", method=method, method_params=own, tau_student=own.get("tau", 1.0), soft_weight=soft_weight
    )
    return supervise(params, logits=teacher, labels=toy().train.labels)


def watched(model: nn.Module) -> list[list[int]]:
    """The image numbers of every batch that the model is trained on, filled while it trains."""
    seen: list[list[int]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training:
            pixels = (inputs[0][:, 0, 0, 0].double() * 0.25 + 0.3) * 255
            seen.append(pixels.round().int().tolist())

    model.register_forward_pre_hook(note)
    return seen


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(key == twin and torch.equal(value, its) for (key, value), (twin, its) in pairs)
