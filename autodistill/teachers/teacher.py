"""A teacher: a network in evaluation mode, and the one way to run it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from autodistill.data import images_at_once, normalise
from autodistill.teachers.folding import folded

BATCH = 256
"""At most, and on a GPU."""


class Normalisation(NamedTuple):
    name: str
    """`data`, `imagenet`, `half`, `none`, or `stated` (numbers from the checkpoint)."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    assumed: bool = False
    """Nobody named it: the data's own statistics were taken."""


@dataclass(frozen=True)
class Teacher:
    """A network in evaluation mode with everything needed to run it on the study's images."""

    name: str
    uri: str
    architecture: str
    module: nn.Module
    normalisation: Normalisation
    fingerprint: str
    """SHA-256 over the network, its weights and what is done to its input: what its logits are keyed by."""
    channels: int
    input_size: int | None = None
    """Height and width the images are resized to; None: as they are."""

    @cached_property
    def quick(self) -> "Teacher":
        """The same teacher with its batch norms folded."""
        return replace(self, module=folded(self.module))

    def __call__(self, images: UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        if images.shape[1] == 1 and self.channels == 3:
            images = images.expand(-1, 3, -1, -1)
        inputs = normalise(images, mean=self.normalisation.mean, std=self.normalisation.std)
        if self.input_size is not None:
            size = (self.input_size, self.input_size)
            inputs = nn.functional.interpolate(inputs, size=size, mode="bilinear", antialias=True)
        output: Tensor = self.module(inputs.contiguous(memory_format=torch.channels_last))
        return output.float()


def ready(
    module: nn.Module,
    *,
    name: str,
    uri: str,
    architecture: str,
    normalisation: Normalisation,
    channels: int,
    input_size: int | None = None,
) -> Teacher:
    """Freeze a loaded network into a teacher."""
    module = module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return Teacher(
        name=name,
        uri=uri,
        architecture=architecture,
        module=module,
        normalisation=normalisation,
        fingerprint=_fingerprint(module, (architecture, normalisation.mean, normalisation.std, input_size)),
        channels=channels,
        input_size=input_size,
    )


def logits_of(
    teacher: Teacher,
    images: UInt8[Tensor, "examples channels height width"],
    *,
    take: Callable[[Int[Tensor, " batch"]], UInt8[Tensor, "batch channels height width"]] | None = None,
) -> Float[Tensor, "examples classes"]:
    """Run a teacher over images, in batches whose size no caller chooses: logits depend on none of them.

    Args:
        take: Gives what the teacher sees of some of `images`, by their rows; None: the images as they are.
    """
    run = teacher.quick if images.device.type == "cuda" else teacher
    size = min(BATCH, images_at_once(images, on_gpu=BATCH, size=teacher.input_size))
    with torch.inference_mode():
        if take is None:
            return torch.cat([run(batch) for batch in images.split(size)])
        rows = torch.arange(len(images), device=images.device)
        return torch.cat([run(take(batch)) for batch in rows.split(size)])


def computed_as(device: torch.device) -> str:
    """How teachers' logits are computed on a device: they differ in what float16 keeps, and so must not be mixed.

    No bfloat16 anywhere: it moves logits by 0.01 to 0.5, hundreds of times what float16 rounds away.
    """
    if device.type == "cuda":
        tf32 = ", TF32 convolutions" if torch.backends.cudnn.allow_tf32 else ""
        return f"float32{tf32}, BatchNorm folded, on {device.type}"
    return f"float32, on {device.type}"


def with_option(uri: str, option: str) -> str:
    """A URI with one more option."""
    return f"{uri}{'&' if '?' in uri else '?'}{option}"


def _fingerprint(module: nn.Module, facts: tuple[object, ...]) -> str:
    # The printed module shows its strides, which no weight does.
    found = hashlib.sha256(repr((facts, str(module))).encode())
    for key, value in sorted(module.state_dict().items()):
        found.update(key.encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
