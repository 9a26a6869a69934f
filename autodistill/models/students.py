"""Students: networks of this package by name, and networks from elsewhere by URI.

A network from elsewhere is wrapped in a module that changes the data's normalisation to the network's own and resizes
the images. Training, export and cost therefore see one network that takes the data's images.
"""

import copy
import hashlib
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autodistill.config import StudentSpec
from autodistill.data import Data
from autodistill.errors import ConfigError, near
from autodistill.models import MODELS, build, lay_out, parse_name
from autodistill.models.cost import is_scripted, measure
from autodistill.models.foreign import FOREIGN, Foreign, cannot_take, copied, needs_contiguous
from autodistill.models.preprocessing import INTERPOLATIONS, normalisation
from autodistill.models.uri import OF_STUDENTS, RESERVED, Uri, parse, student_name
from autodistill.records import ForeignRecord, StudentRecord
from autodistill.tensors import kind_of, laid_out, raw_bytes, seeded
from autodistill.usercode import errors_as

Statistics = Sequence[float]
"""Mean or standard deviation per channel, of images in [0, 1]."""


class Wrapped(nn.Module):
    """A network from elsewhere, behind its preprocessing. `mean` and `std` are those of the given images."""

    def __init__(self, network: nn.Module, facts: ForeignRecord, *, mean: Statistics, std: Statistics) -> None:
        super().__init__()
        self.network, self.size, self.pretrained = network, facts.input_size, bool(facts.weights)
        self.memory_format = torch.contiguous_format if facts.contiguous else torch.channels_last
        self.fresh = frozenset(f"network.{key}" for key in facts.fresh)
        """Names of the tensors of the head that did not come from the weights that the network starts from."""
        self._interpolation = INTERPOLATIONS[facts.interpolation]
        given, own = _columns(mean, std), _columns(facts.mean, facts.std)
        # One row of statistics serves all channels: grey images become images of three channels here.
        scale, shift = given[1] / own[1], (given[0] - own[0]) / own[1]
        self._changes = bool((scale != 1).any() or (shift != 0).any()) or scale.shape != given[0].shape
        self.scale = nn.Buffer(scale.float(), persistent=False)
        self.shift = nn.Buffer(shift.float(), persistent=False)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Any:
        """Return the logits: whatever the network returns, which `student_record` checks."""
        if self._changes:
            images = images * self.scale + self.shift
        if images.shape[-1] != self.size:
            images = nn.functional.interpolate(images, size=(self.size, self.size), **self._interpolation)
        return self.network(laid_out(images, self.memory_format))


def _columns(mean: Statistics, std: Statistics) -> tuple[Tensor, Tensor]:
    centre, spread = (torch.tensor(list(it), dtype=torch.float64)[:, None, None] for it in (mean, std))
    return centre, spread


def bare(model: nn.Module) -> nn.Module:
    """Return the network itself, without its preprocessing: its tensors have the names that its author gave them."""
    return model.network if isinstance(model, Wrapped) else model


def file_facts(facts: ForeignRecord) -> dict[str, object]:
    """Return what the file of a trained student from elsewhere says about the network's own input."""
    return {
        "mean": facts.mean,
        "std": facts.std,
        "image_size": facts.input_size,
        "interpolation": facts.interpolation,
        "fingerprint": facts.fingerprint,
    }


def is_foreign(student: str) -> bool:
    """Return whether a student is named by a URI."""
    return student.partition(":")[0] in FOREIGN


def check_student_name(student: str) -> None:
    """Raise `ConfigError` if a student's network or scheme is unknown, or its width is wrong."""
    if is_foreign(student):
        return
    scheme, colon, _ = student.partition(":")
    if colon and scheme not in MODELS:
        raise ConfigError(
            f"unknown network {scheme!r} ({near(scheme, [*MODELS, *FOREIGN])})",
            "write NAME:WIDTH, python:FILE.py:FACTORY, torchvision:NAME@WEIGHTS or timm:NAME",
        )
    parse_name(student)


def student_network(student: str, data: Data, spec: StudentSpec, *, seed: int = 0, offline: bool = False) -> nn.Module:
    """Build the student of a study: freshly initialised, or with the weights that its URI names.

    Args:
        student: A key of MODELS, with or without `:WIDTH`, or a URI.
        data: The study's data.
        spec: Width and stem of a network of this package.
        seed: Seed of all freshly initialised tensors.
        offline: Whether downloads are forbidden; none is needed once the student has been described.

    Raises:
        ConfigError: As for `student_record`.
    """
    if is_foreign(student):
        return foreign_student(student, data, seed=seed, offline=offline)[0]
    return build(
        student,
        num_classes=data.num_classes,
        in_channels=data.image_shape[0],
        image_size=data.image_shape[1],
        seed=seed,
        default_width=spec.width,
        stem_stride=spec.stem_stride,
    )


def student_record(student: str, data: Data, spec: StudentSpec, *, offline: bool = False) -> StudentRecord:
    """Describe a student. A network from elsewhere is built and tried. Arguments are those of `student_network`.

    Raises:
        ConfigError: The name or an option is unknown, the network cannot be built, cannot take the images, has another
            number of classes, or cannot be trained.
    """
    check_student_name(student)
    if not is_foreign(student):
        size, width = data.image_shape[1], spec.width
        layout = lay_out(student, image_size=size, default_width=width, stem_stride=spec.stem_stride)
        with torch.device("meta"):
            blank = student_network(student, data, spec)
        return StudentRecord(
            name=layout.name,
            architecture=layout.architecture,
            width=layout.width,
            stem_stride=layout.stem_stride,
            total_stride=math.prod(layout.strides),
            cost=measure(blank, image_shape=data.image_shape),
        )
    model, facts, architecture = foreign_student(student, data, offline=offline)
    notes = facts.notes + _try(model, parse(student, "student"), data)
    return StudentRecord(
        name=student_name(student),
        architecture=architecture,
        cost=measure(model, image_shape=data.image_shape),
        foreign=facts.model_copy(update={"notes": notes}),
    )


def foreign_student(
    student: str, data: Data, *, seed: int = 0, offline: bool = False
) -> tuple[Wrapped, ForeignRecord, str]:
    """Build a student from elsewhere; return it with the facts about it and the name of its architecture."""
    uri = parse(student, "student")
    own_channels, own_size, _ = data.image_shape
    network = _built(uri, num_classes=data.num_classes, image_shape=data.image_shape, seed=seed, offline=offline)
    # Grey images become images of three channels if the network takes those.
    channels = 3 if own_channels == 1 and network.input_channels(default=1) == 3 else own_channels
    chosen = normalisation(uri, network.facts, data, channels)
    size = uri.size() or network.facts.image_size or own_size
    notes = network.notes
    weights = uri.weights().name
    if weights and chosen.assumed:
        notes += ("its weights state no normalisation, so that of the data is used; norm=NAME states another",)
    if size != own_size and "size" not in uri.options:
        notes += (f"images are resized from {own_size} to {size} pixels, as its weights state; size=PIXELS changes it",)
    facts = ForeignRecord(
        uri=student,
        fingerprint="",
        mean=chosen.mean,
        std=chosen.std,
        normalisation=chosen.name,
        input_size=size,
        interpolation=uri.choice("interpolation", tuple(INTERPOLATIONS)) or network.interpolation,
        weights=weights,
        fresh=network.fresh,
        notes=notes,
    )
    contiguous = needs_contiguous(network.module, torch.zeros(2, channels, size, size))
    facts = facts.model_copy(update={"fingerprint": _fingerprint(network, facts), "contiguous": contiguous})
    return Wrapped(network.module, facts, mean=data.mean, std=data.std), facts, network.architecture


def rebuilt(facts: ForeignRecord, *, num_classes: int, image_shape: tuple[int, int, int]) -> Wrapped:
    """Build the network of a recorded student, to load trained weights into it.

    Its input is images that are normalised with its own statistics, `facts.mean` and `facts.std`.

    Raises:
        ConfigError: It cannot be built, or it is another network than the recorded one.
    """
    uri = parse(facts.uri, "student")
    network = _built(uri, num_classes=num_classes, image_shape=image_shape, seed=0, offline=True)
    if _fingerprint(network, facts) != facts.fingerprint:
        raise changed(facts)
    return Wrapped(network.module, facts, mean=facts.mean, std=facts.std)


def changed(facts: ForeignRecord) -> ConfigError:
    """Return the error for a student that is no longer the recorded one."""
    return ConfigError(
        f"student {facts.uri}: its code, its weights or its library changed since the study began",
        "put back what was changed, or start a new study with --study",
    )


def _built(uri: Uri, *, num_classes: int, image_shape: tuple[int, int, int], seed: int, offline: bool) -> Foreign:
    if uri.scheme == "python":
        unused = [key for key in RESERVED if key in uri.options and key not in OF_STUDENTS]
        if unused:
            raise uri.refused(
                f"{unused[0]}= is no option of a student", f"pass it to the factory as arg.{unused[0]}=VALUE"
            )
    else:
        uri.check_options(OF_STUDENTS)
    given = {"num_classes": num_classes, "in_channels": image_shape[0], "image_size": uri.size() or image_shape[1]}
    with seeded(seed):
        network = FOREIGN[uri.scheme](uri, num_classes=num_classes, offline=offline, given=given)
    if is_scripted(network.module):
        raise uri.refused("TorchScript cannot be a student", "return the network itself, before torch.jit")
    return network


def _fingerprint(network: Foreign, facts: ForeignRecord) -> str:
    state = network.module.state_dict()
    shapes = [(key, tuple(getattr(it, "shape", ()))) for key, it in state.items()]
    own = (facts.mean, facts.std, facts.input_size, facts.interpolation, bool(facts.weights), facts.fresh)
    # The printed module includes strides, which the weights do not show.
    found = hashlib.sha256(repr((network.architecture, network.source, own, shapes, str(network.module))).encode())
    if facts.weights:
        for key in sorted(state.keys() - set(facts.fresh)):
            found.update(key.encode())
            found.update(raw_bytes(state[key]))
    return found.hexdigest()


def _try(model: Wrapped, uri: Uri, data: Data) -> tuple[str, ...]:
    """Run, train and copy a network once, so that what does not work shows before any work; return notes.

    Raises:
        ConfigError: The network cannot be a student.
    """
    if not any(it.requires_grad for it in model.parameters()):
        raise uri.refused("has no parameter to train", "the factory must leave requires_grad set")
    if any(not isinstance(it, Tensor) for it in model.state_dict().values()):
        raise uri.refused("its state_dict holds more than tensors", "remove get_extra_state from its modules")
    twin = copied(model, uri)
    images = torch.randn((2, *data.image_shape), generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    twin.eval()
    with torch.no_grad(), seeded():
        _, first, second = (_logits(twin, it, uri, data) for it in (images[:1], images, images))
    if not first.isfinite().all():
        raise uri.refused("its logits are not finite", "check its weights and its normalisation")
    if not torch.equal(first, second):
        raise uri.refused(
            "gives other logits for the same images when it is asked again, in evaluation mode",
            "let dropout depend on self.training, and draw no random numbers in evaluation mode",
        )
    notes: tuple[str, ...] = ()
    if kind_of(first) == "softmax":
        notes += ("its outputs are probabilities and are used as logits: return the logits before the softmax",)
    twin.train()
    with seeded():
        logits = _logits(twin, images, uri, data)
        if not logits.isfinite().all():
            raise uri.refused(
                "its logits are not finite in training mode",
                "look for what it does in training only, such as a normalisation over the batch or its own noise",
            )
        try:
            logits.float().logsumexp(1).sum().backward()
        except RuntimeError as error:
            raise uri.refused(
                f"has no gradient: {next(iter(str(error).splitlines()), '')}",
                "train one step of it yourself to see where",
            ) from error
    gradients = ((name, it.grad) for name, it in twin.named_parameters() if it.grad is not None)
    if infinite := [name for name, it in gradients if not it.isfinite().all()]:
        raise uri.refused(
            f"its gradient is not finite: {infinite[0].removeprefix('network.')} ({len(infinite)} of its parameters)",
            "torch.autograd.set_detect_anomaly(True) shows the operation; a root or a logarithm of 0 is a usual cause",
        )
    with seeded(), torch.no_grad():
        again = _logits(copy.deepcopy(model).train(), images, uri, data)
    if not torch.allclose(logits.detach(), again, rtol=1e-3, atol=1e-3 * max(1.0, float(again.abs().max()))):
        notes += (
            "it draws random numbers in training that are not torch's: equal seeds do not give equal runs, and a "
            "resumed run differs from an uninterrupted one",
        )
    return notes


def _logits(model: nn.Module, images: Tensor, uri: Uri, data: Data) -> Tensor:
    """Run a network; refuse what is no batch of logits for the classes of the data."""
    mode = "in training mode" if model.training else "in evaluation mode"
    with errors_as(partial(cannot_take, uri, images, mode)):
        output = model(images.clone())  # it may change its input in place
    if not isinstance(output, Tensor):
        several = isinstance(output, tuple | list | dict)
        raise uri.refused(
            f"returns a {type(output).__name__} {mode}",
            "networks with auxiliary outputs cannot be students: return the logits alone, (batch, classes)"
            if several
            else "it must return logits: (batch, classes)",
        )
    wanted = (len(images), data.num_classes)
    if output.ndim != 2 or len(output) != wanted[0] or not output.is_floating_point():
        raise uri.refused(
            f"returns {output.dtype} of shape {tuple(output.shape)} for a batch of {wanted[0]} {mode}",
            f"it must return logits: (batch, classes), here {wanted}",
        )
    if tuple(output.shape) != wanted:
        raise uri.refused(
            f"{output.shape[1]} classes, but {data.name} has {data.num_classes}",
            "let the factory take num_classes, or pass the argument that sets their number",
        )
    return output
