"""Teacher sources by URI scheme. The functions in `SOURCES` return a network with its preprocessing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from autodistill.data import Data
from autodistill.errors import ConfigError, TeacherError, near
from autodistill.models import MODELS, build, parse_name
from autodistill.models.checkpoints import read
from autodistill.models.foreign import FOREIGN, Foreign, notes_of, published_classes, seeded
from autodistill.models.matching import identify
from autodistill.models.preprocessing import INTERPOLATIONS, class_columns, normalisation, stated_classes
from autodistill.models.uri import FACTS, Uri, name_of, parse, with_option
from autodistill.teachers.teacher import Teacher, ready


@dataclass(frozen=True)
class Loading:
    """What a source needs besides the URI."""

    data: Data
    name: str
    offline: bool


def load(
    uri: str, *, data: Data, offline: bool = False, name: str | None = None, shown_as: str | None = None
) -> Teacher:
    """Load a teacher.

    Args:
        uri: URI of the teacher, for example `file:PATH?arch=NAME`.
        data: The study's data. Classes and channels must fit.
        offline: Whether downloads are forbidden.
        name: Name of the teacher in tables; None: taken from the URI.
        shown_as: URI in records; None: `uri`.

    Raises:
        TeacherError: The scheme or an option is unknown, the file is missing, damaged, of another network or contains
            code, or the classes differ.
    """
    scheme, colon, _ = uri.partition(":")
    if not colon or scheme not in SOURCES:
        own = "file:PATH, or python:FILE.py:FACTORY?weights=PATH"
        guess = f"file:{uri}" if Path(uri).expanduser().exists() else own

        raise TeacherError(
            f"teacher {uri!r}: unknown scheme {scheme!r} ({near(scheme, [*SOURCES, 'ladder'])})",
            f"name a checkpoint as {guess}",
        )
    teacher = SOURCES[scheme](parse(uri), Loading(data, name or name_of(uri), offline))
    return replace(teacher, uri=shown_as) if shown_as else teacher


def _from_file(uri: Uri, loading: Loading) -> Teacher:
    """Load a checkpoint of a known network."""
    network, channels = known_network(uri, loading.data)
    return finished(network, uri, loading, channels=channels)


def known_network(uri: Uri, data: Data) -> tuple[Foreign, int]:
    """Build the network of a checkpoint file; return it with the channels of its input."""
    uri.check_options((*FACTS, "arch", "weights"))
    kind = uri.choice("weights", ("raw", "ema"))
    path = Path(uri.target).expanduser()
    checkpoint = read(path, uri)
    facts, own_size = checkpoint.facts, data.image_shape[1]
    named = uri.options.get("arch", facts.architecture)
    if "arch" in uri.options or named in MODELS or (named and named.partition(":")[0] in MODELS):
        _check_name(str(named), uri)
        names = [str(named)]
    else:
        names = list(MODELS)
    size = uri.size() or facts.image_size
    sizes = [size] if size else list(dict.fromkeys((own_size, 32, 224)))
    try:
        fit = identify(
            checkpoint,
            data,
            names=names,
            sizes=sizes,
            stem_stride=facts.stem_stride,
            weights=kind,
            uri=uri,
        )
        module = build(
            fit.architecture,
            num_classes=fit.classes,
            in_channels=fit.channels,
            image_size=fit.size,
            seed=0,
            stem_stride=facts.stem_stride,
        )
    except ConfigError as error:
        raise uri.refused(f"{error.message}", error.hint or "name its network: ?arch=NAME") from error
    module.load_state_dict(fit.match.state, strict=False)
    notes = notes_of(fit.match)
    if "arch" not in uri.options and facts.architecture != fit.architecture:
        notes += (f"identified as {fit.architecture} by its tensors",)
    network = Foreign(
        module,
        fit.architecture,
        facts.model_copy(update={"image_size": size or (fit.size if fit.size != own_size else None)}),
        notes=notes,
        other_weights=fit.other_weights,
    )
    return network, fit.channels


def _from_network(uri: Uri, loading: Loading) -> Teacher:
    """Load a network of the user's code, of torchvision or of timm, with its weights."""
    if uri.scheme != "python":
        uri.check_options(FACTS)
    classes = published_classes(uri)
    if classes is not None:
        class_columns(uri, stated_classes(uri) or classes, len(classes), loading.data)
    network, channels = foreign_network(uri, loading, num_classes=None)
    return finished(network, uri, loading, channels=channels)


def foreign_network(uri: Uri, loading: Loading, *, num_classes: int | None) -> tuple[Foreign, int]:
    """Build a network of the user's code, of torchvision or of timm; return it with the channels of its input.

    With `num_classes` its head is a new one, where the source can build that.
    """
    channels, own_size, _ = loading.data.image_shape
    shape = {"num_classes": loading.data.num_classes, "in_channels": channels, "image_size": own_size}
    if num_classes is not None:
        shape["image_size"] = uri.size() or own_size
    with seeded():
        network = FOREIGN[uri.scheme](uri, num_classes=num_classes, offline=loading.offline, given=shape)
    first = next((it for it in network.module.modules() if isinstance(it, nn.Conv2d)), None)
    return network, first.in_channels if first is not None and first.in_channels in (1, 3) else channels


def finished(network: Foreign, uri: Uri, loading: Loading, *, channels: int) -> Teacher:
    """Create a teacher from a loaded network, the options of its URI and the facts about it.

    Args:
        network: The network. Options of the URI have priority over its facts.
        uri: URI of the teacher.
        loading: The data, and the name of the teacher.
        channels: Channels of the network's input.
    """
    data, facts = loading.data, network.facts
    own_channels, own_size, _ = data.image_shape
    if channels != own_channels and not (channels == 3 and own_channels == 1):
        raise uri.refused(
            f"takes images of {channels} channels, {data.name} has {own_channels}",
            f"name a teacher trained on {own_channels}-channel images",
        )
    size = uri.size() or facts.image_size
    chosen = normalisation(uri, facts, data, channels)
    outputs = count_outputs(network.module, uri, channels=channels, size=size or own_size)
    stated = stated_classes(uri)
    other_names = None if stated else network.other_names
    return ready(
        network.module,
        name=loading.name,
        uri=uri.text,
        architecture=network.architecture,
        normalisation=chosen,
        channels=channels,
        input_size=None if size == own_size else size,
        interpolation=uri.choice("interpolation", tuple(INTERPOLATIONS)) or network.interpolation,
        columns=class_columns(uri, stated or facts.classes, outputs, data, other_names=other_names),
        bgr=uri.choice("order", ("rgb", "bgr")) == "bgr",
        accepted=uri.choice("accept", ("yes", "no")) == "yes",
        other_weights=network.other_weights,
        notes=network.notes,
        source=network.source,
    )


def count_outputs(module: nn.Module, uri: Uri, *, channels: int, size: int) -> int:
    """Run a network on a blank image and return the number of its logits."""
    shape = (2, channels, size, size)
    try:
        with torch.inference_mode():
            output = module.eval()(torch.zeros(shape))
    except Exception as error:
        raise uri.refused(
            f"cannot take a batch of shape {shape}: {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}",
            f"state its input size: {with_option(uri.text, 'size=PIXELS')}",
        ) from error
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 2 or not output.is_floating_point():
        what = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise uri.refused(f"returns {what} for a batch of 2 images", "it must return logits: (batch, classes)")
    return output.shape[1]


def _check_name(name: str, uri: Uri) -> None:
    try:
        parse_name(name)
    except ConfigError as error:
        raise uri.refused(f"{error.message}", error.hint or "see arch=NAME") from error


SOURCES: dict[str, Callable[[Uri, Loading], Teacher]] = {
    "file": _from_file,
    "python": _from_network,
    "torchvision": _from_network,
    "timm": _from_network,
}
