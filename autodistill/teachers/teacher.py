"""A teacher: a network in evaluation mode with its preprocessing."""

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from autodistill.data import images_at_once, normalise
from autodistill.errors import TeacherError
from autodistill.models.preprocessing import INTERPOLATIONS, Normalisation
from autodistill.records import TeacherCostRecord
from autodistill.tensors import laid_out, raw_bytes
from autodistill.usercode import errors_as, said

BATCH = 256
"""Number of images in a forward pass on a GPU, and largest number on a CPU."""
COMPARED = 8
"""Number of random inputs on which a folded network is compared: a wrongly folded layer changes every one of them."""
FOLDING_TOLERANCE = 1e-3
"""Largest difference of a folded network's logits, relative to the largest logit. Rounding in float32 changes logits by
about 1e-5 (16 to 110 layers), and their rounding to float16 in the cache by up to 5e-4. A layer that is folded wrongly
changes them by about their own size."""
ONE_VIEW = (
    "it knows the images without augmentation only: its logits are the same in every epoch, and students that learn "
    "from it are trained without augmentation, unlike the others"
)
"""Note about a teacher that has a table of logits."""


@dataclass(frozen=True)
class Teacher:
    """A network in evaluation mode with everything needed to run it on the images of a study."""

    name: str
    uri: str
    architecture: str
    module: nn.Module
    normalisation: Normalisation
    channels: int
    """Channels of the network's input; images of one channel are repeated for a network of three."""
    fingerprint: str = ""
    """SHA-256 of the network, its weights and its preprocessing. Caches of logits use it as a key."""
    input_size: int | None = None
    """Height and width to which images are resized; None: images are not resized."""
    interpolation: str = "bilinear"
    """How images are resized: a key of INTERPOLATIONS."""
    columns: tuple[int, ...] | None = None
    """Index in the network's output of each class of the data; None: the network has the data's classes in order."""
    bgr: bool = False
    """Whether the network takes the channels in the order blue, green, red."""
    accepted: bool = False
    """Whether the user has stated that a failing check is to be ignored."""
    other_weights: tuple[str, ...] = ()
    """Kinds of weights in its file that are not used: `raw` or `ema`."""
    memory_format: torch.memory_format = torch.channels_last
    """That of its input and its weights."""
    notes: tuple[str, ...] = ()
    """Choices made while the teacher was loaded that the user should know about."""
    cost: TeacherCostRecord | None = None
    """None: counted from `module`."""
    members: tuple["Teacher", ...] = ()
    """Teachers whose mean probabilities are its own; `module` holds their networks."""
    table: Float[Tensor, "examples classes"] | None = None
    """Logits by number of the example, in place of a network: it knows images without augmentation only."""
    _quick: dict[tuple[int, int], "Teacher"] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Folded copies by height and width of the network's input."""

    @property
    def knows_one_view(self) -> bool:
        """Whether it, or a member of it, knows the images without augmentation only."""
        return self.table is not None or any(it.knows_one_view for it in self.members)

    def quick(self, images: UInt8[Tensor, "batch channels height width"]) -> "Teacher":
        """Return the same teacher with BatchNorm folded into convolutions, for images of this size on this device.

        Teachers of one network return the same copy for the same size.
        """
        if self.members:
            return replace(self, members=tuple(member.quick(images) for member in self.members))
        height, width = images.shape[-2:] if self.input_size is None else (self.input_size, self.input_size)
        if (height, width) not in self._quick:
            noise = torch.Generator().manual_seed(0)
            inputs = torch.randn((COMPARED, self.channels, height, width), generator=noise).to(images.device)
            self._quick[height, width] = replace(self, module=folded(self.module, inputs))
        return self._quick[height, width]

    def __call__(self, images: UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Preprocess images and compute their logits, in float32."""
        if self.members:
            return mean_logits([member(images) for member in self.members])
        inputs = self.prepared(images)
        shape, hint = tuple(inputs.shape), "run the network on such a batch yourself"
        with errors_as(lambda error: self.refused(f"failed on a batch of shape {shape}: {said(error)}", hint)):
            output: Tensor = self.module(inputs)
        if len(output) != len(images):
            raise self.refused(
                f"gave {len(output)} rows for {len(images)} images", "it must return logits: (batch, classes)"
            )
        return (output if self.columns is None else output[:, list(self.columns)]).float()

    def refused(self, message: str, hint: str, kind: type[TeacherError] = TeacherError) -> TeacherError:
        """Return the error that names this teacher."""
        return kind(f"teacher {self.name} ({self.uri}): {message}", hint)

    def prepared(
        self, images: UInt8[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch own_channels own_height own_width"]:
        """Return the network's input: channels in its order, normalised, resized to its size."""
        if images.shape[1] == 1 and self.channels == 3:
            images = images.expand(-1, 3, -1, -1)
        if self.bgr:
            images = images.flip(1)
        inputs = normalise(images, mean=self.normalisation.mean, std=self.normalisation.std)
        if self.input_size is not None and inputs.shape[-2:] != (self.input_size, self.input_size):
            size = (self.input_size, self.input_size)
            inputs = nn.functional.interpolate(inputs, size=size, **INTERPOLATIONS[self.interpolation])
        return laid_out(inputs, self.memory_format)


def ready(teacher: Teacher, *, source: str = "") -> Teacher:
    """Return a teacher with its network frozen and in evaluation mode, and with its fingerprint.

    Args:
        teacher: The teacher.
        source: Hash of what the printed network and its weights do not show, such as the code of its factory.
    """
    for parameter in teacher.module.parameters():  # TorchScript has no requires_grad_, and its copies are no leaves
        parameter.detach_()
    module = teacher.module.eval().to(memory_format=teacher.memory_format)
    return with_fingerprint(replace(teacher, module=module), source=source)


def with_fingerprint(teacher: Teacher, *, source: str) -> Teacher:
    """Return a teacher with the fingerprint of its network and its preprocessing; `source` is that of `ready`."""
    interpolation = teacher.interpolation != "bilinear" and teacher.interpolation
    facts: tuple[object, ...] = (teacher.architecture, teacher.normalisation.mean, teacher.normalisation.std)
    facts += (teacher.input_size, *(it for it in (teacher.columns, teacher.bgr, interpolation, source) if it))
    # The printed module includes strides, which the weights do not show.
    found = hashlib.sha256(repr((facts, str(teacher.module))).encode())
    for key, value in sorted(teacher.module.state_dict().items()):
        found.update(key.encode())
        found.update(raw_bytes(value))
    return replace(teacher, fingerprint=found.hexdigest())


def ensemble(members: Sequence[Teacher], *, name: str, uri: str) -> Teacher:
    """Create a teacher from members. It averages their probabilities; its logits are the logarithms of the mean."""
    return Teacher(
        name=name,
        uri=uri,
        architecture=" + ".join(member.architecture for member in members),
        module=nn.ModuleList([member.module for member in members]).eval(),
        normalisation=Normalisation("members", (), ()),
        fingerprint=ensemble_fingerprint([member.fingerprint for member in members]),
        channels=members[0].channels,
        input_size=max((member.input_size or 0 for member in members), default=0) or None,
        notes=(
            f"the mean of the probabilities of {', '.join(member.name for member in members)}",
            *([ONE_VIEW] if any(member.knows_one_view for member in members) else []),
        ),
        members=tuple(members),
    )


def mean_logits(logits: Sequence[Float[Tensor, "batch classes"]]) -> Float[Tensor, "batch classes"]:
    """Return the logarithms of the mean of probabilities."""
    return torch.stack([one.log_softmax(dim=1) for one in logits]).logsumexp(dim=0) - math.log(len(logits))


def ensemble_fingerprint(members: Sequence[str]) -> str:
    """Return the fingerprint of an ensemble from the fingerprints of its members."""
    return hashlib.sha256(repr(("ensemble", *members)).encode()).hexdigest()


def logits_of(
    teacher: Teacher,
    images: UInt8[Tensor, "examples channels height width"],
    *,
    take: Callable[[Int[Tensor, " batch"]], UInt8[Tensor, "batch channels height width"]] | None = None,
) -> Float[Tensor, "examples classes"]:
    """Compute the logits of all images.

    The size of the batches depends on device and image size only, so that logits do not depend on the caller. `take`
    returns the augmented images of indices into `images`; None: no augmentation.
    """
    run = teacher.quick(images) if images.device.type == "cuda" else teacher
    size = min(BATCH, images_at_once(images, on_gpu=BATCH, size=teacher.input_size))
    with torch.inference_mode():
        if take is None:
            return torch.cat([run(batch) for batch in images.split(size)])
        rows = torch.arange(len(images), device=images.device)
        return torch.cat([run(take(batch)) for batch in rows.split(size)])


def computed_as(device: torch.device) -> str:
    """Describe how logits of teachers are computed on a device.

    Logits that are computed in different ways differ after rounding to float16, so the cache keeps them apart.
    bfloat16 is not used: it changes logits by 0.01 to 0.5, hundreds of times the rounding error of float16.
    """
    if device.type == "cuda":
        tf32 = ", TF32 convolutions" if torch.backends.cudnn.allow_tf32 else ""
        return f"float32{tf32}, BatchNorm folded, on {device.type}"
    return f"float32, on {device.type}"


def folded(module: nn.Module, inputs: Float[Tensor, "batch channels height width"]) -> nn.Module:
    """Return a copy of a network in which each BatchNorm after a convolution is folded into the convolution.

    After rounding to float16, 2 to 5 % of the logits differ by one unit in the last place (measured for networks of
    this package). On a CPU only MobileNetV2 becomes faster, so folded networks are used on GPUs only.

    A network is returned unchanged if torch.fx cannot trace or fold it, or if folding changes its logits: torch.fx
    follows one branch of the code, and folds a convolution twice that feeds two BatchNorms.

    Args:
        module: The network, in evaluation mode.
        inputs: A batch on which the folded network is compared with the plain one.

    Raises:
        ValueError: The network is in training mode.
    """
    if not any(isinstance(it, nn.modules.batchnorm._BatchNorm) for it in module.modules()):
        return module
    if module.training:
        raise ValueError("a batch norm can only be folded in evaluation mode")
    try:
        with errors_as(lambda error: TeacherError(said(error))):
            return _folded(module, inputs)
    except TeacherError:
        return module


def _folded(module: nn.Module, inputs: Tensor) -> nn.Module:
    """Fold and compare; the code of the user may fail in any way where torch.fx traces it."""
    from torch.fx.experimental.optimization import fuse

    found: nn.Module = fuse(copy.deepcopy(module)).eval().requires_grad_(False)
    tf32 = torch.backends.cudnn.allow_tf32
    # With TF32, rounding alone would exceed the tolerance.
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.inference_mode():
            plain, quick = module(inputs), found(inputs)
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    largest = float(plain.abs().max())
    return found if torch.allclose(quick, plain, rtol=0, atol=FOLDING_TOLERANCE * largest) else module
