"""Adapted teachers: pretrained networks with a new head, fine-tuned on the study's data and kept.

`adapt:SOURCE` stands for such a teacher, where SOURCE is the URI of a network. `training.adapt_teacher` trains it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from autodistill.config import AdaptSpec, Space
from autodistill.data import Data
from autodistill.errors import TeacherError, near
from autodistill.models.checkpoints import saved_state
from autodistill.models.foreign import FOREIGN, Foreign
from autodistill.models.uri import FACTS, Uri, name_of, parse
from autodistill.store import digest
from autodistill.teachers.sources import Loading, finished, foreign_network, known_network, logits_for
from autodistill.teachers.teacher import Teacher, with_fingerprint

SCHEME = "adapt:"
ADAPTABLE = ("file", *FOREIGN)
"""Schemes of networks that can be adapted."""
FORMAT = 1
"""Version of the training of adapted teachers. Increase it when equal settings give other weights."""


class Pretrained(NamedTuple):
    """A pretrained network with a new head, ready to be fine-tuned."""

    teacher: Teacher
    """The network with its preprocessing. Its fingerprint is that of the source."""
    head: tuple[str, ...]
    """Names of the head's parameters."""


def pretrained(uri: str, *, data: Data, offline: bool = False, name: str | None = None) -> Pretrained:
    """Load the source of an adapted teacher and replace its head by one for the classes of the data.

    The new head is zero, so that the result depends on no random numbers. Arguments are those of `load`.

    Raises:
        TeacherError: As for `load`; or the network has no head that can be replaced.
    """
    text = uri.removeprefix(SCHEME)
    scheme, colon, _ = text.partition(":")
    if not colon or scheme not in ADAPTABLE:
        raise TeacherError(
            f"teacher {uri!r}: unknown scheme {scheme!r} ({near(scheme, ADAPTABLE)})",
            "name a pretrained network, for example adapt:torchvision:resnet50@IMAGENET1K_V2",
        )
    source = parse(text)
    if "classes" in source.options:
        raise source.refused("classes has no effect: the head is replaced", "remove classes")
    loading = Loading(data, name or name_of(uri), offline)
    if scheme == "file":
        network = known_network(source, data)
    else:
        if scheme != "python":
            source.check_options(FACTS)
        network = foreign_network(source, loading, num_classes=data.num_classes)
    head = _replace_head(network, source, data)
    # The names of its classes belong to the old head.
    plain = replace(network, facts=network.facts.model_copy(update={"classes": None}), other_names=None)
    teacher = finished(plain, source, loading)
    return Pretrained(replace(teacher, uri=uri), head)


def load_adapted(uri: str, path: Path, *, data: Data, offline: bool = False, name: str | None = None) -> Teacher:
    """Load an adapted teacher from its file, and its source, because the file holds weights only.

    Other arguments are those of `pretrained`.

    Raises:
        TeacherError: As for `pretrained`; or the file is missing or damaged.
    """
    teacher = pretrained(uri, data=data, offline=offline, name=name).teacher
    teacher.module.load_state_dict(saved_state(path))
    return with_fingerprint(replace(teacher, other_weights=()), source=teacher.fingerprint)


def path_of(*, source: str, root: Path, data: str, space: Space) -> Path:
    """Return the file of an adapted teacher below the cache folder `root`; `source` and `data` are fingerprints."""
    view = (space.data.view_seed, space.data.crop, space.data.flip)
    recipe = space.adapt.model_dump(exclude={"imagenet"})
    return root / "adapted" / digest(FORMAT, source, data, recipe, view) / "teacher.safetensors"


def total_epochs(spec: AdaptSpec) -> int:
    """Return the number of epochs of an adaptation."""
    return spec.head_epochs + spec.epochs


def _replace_head(network: Foreign, uri: Uri, data: Data) -> tuple[str, ...]:
    """Give a network a head of zeros for the classes of the data; return the names of its parameters."""
    module, classes = network.module, data.num_classes
    size = uri.size() or network.facts.image_size or data.image_shape[1]
    channels = network.input_channels(default=data.image_shape[0])
    called: list[nn.Linear | nn.Conv2d] = []

    def note(layer: nn.Linear | nn.Conv2d, given: Any, output: Any) -> None:
        called.append(layer)

    layers = {layer: name for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        outputs = logits_for(module, torch.zeros(2, channels, size, size), uri).shape[1]
    finally:
        for hook in hooks:
            hook.remove()
    heads = list(dict.fromkeys(key.rpartition(".")[0] for key in network.fresh))
    if not heads:
        last = next((layer for layer in reversed(called) if layer.weight.shape[0] == outputs), None)
        if last is None or (outputs != classes and type(last) not in (nn.Linear, nn.Conv2d)):
            raise uri.refused(
                f"its head cannot be replaced: no nn.Linear or nn.Conv2d computes its {outputs} outputs",
                "give the factory a parameter num_classes" if uri.scheme == "python" else "name another network",
            )
        heads = [layers[last]]
        if outputs != classes:
            module.set_submodule(heads[0], _like(last, classes))
    names = [name for name, _ in module.named_parameters() if name.rpartition(".")[0] in heads]
    with torch.no_grad():
        for name in names:
            module.get_parameter(name).zero_()
    return tuple(names)


def _like(layer: nn.Linear | nn.Conv2d, classes: int) -> nn.Module:
    """Return a layer with the same input and `classes` outputs."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, classes, bias=layer.bias is not None)
    return nn.Conv2d(
        layer.in_channels,
        classes,
        layer.kernel_size,  # type: ignore[arg-type]
        stride=layer.stride,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        bias=layer.bias is not None,
    )
