"""Teacher sources by URI scheme."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch
from torch import nn

from autodistill.data import Data
from autodistill.errors import ConfigError, TeacherError, near
from autodistill.models import MODELS, build
from autodistill.teachers.checkpoints import check_class_names, fill, other_classes, read
from autodistill.teachers.checks import normalisation
from autodistill.teachers.teacher import Normalisation, Teacher, ready, with_option


def name_of(uri: str) -> str:
    """Return the name of a teacher in tables: its `name` option, the file's stem, or the part after the scheme."""
    scheme, _, rest = uri.partition(":")
    target, _, query = rest.partition("?")
    stem = Path(target).stem if scheme == "file" else target.split("@")[0]
    return dict(parse_qsl(query)).get("name", stem)


def load(
    uri: str, *, data: Data, offline: bool = False, name: str | None = None, shown_as: str | None = None
) -> Teacher:
    """Load a teacher.

    Args:
        uri: URI of the teacher, for example `file:PATH?arch=NAME`.
        data: The study's data. Number of classes and channels must fit.
        offline: Whether downloads are forbidden.
        name: Name of the teacher in tables; None: taken from the URI.
        shown_as: URI in records; None: `uri`.

    Raises:
        TeacherError: The scheme or an option is unknown, the file is missing, damaged, of another network or contains
            code, or the classes differ.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in SOURCES:
        raise TeacherError(
            f"teacher {uri!r}: unknown scheme {scheme!r} ({near(scheme, [*SOURCES, 'ladder'])})",
            "name a checkpoint as file:PATH?arch=NAME",
        )
    teacher = SOURCES[scheme](uri, rest, data, name or name_of(uri), offline)
    return replace(teacher, uri=shown_as) if shown_as else teacher


def _from_file(uri: str, rest: str, data: Data, name: str, offline: bool) -> Teacher:
    target, options = _options(uri, rest, allowed=("arch", "norm", "name"))
    checkpoint = read(Path(target).expanduser(), uri)
    architecture = options.get("arch", checkpoint.facts.architecture)
    if architecture is None:
        raise TeacherError(
            f"teacher {uri}: the file does not name its architecture",
            f"name it: {with_option(uri, 'arch=NAME')} (one of {', '.join(MODELS)})",
        )
    check_class_names(uri, checkpoint.facts, data)
    channels, own_size, _ = data.image_shape
    size = checkpoint.facts.image_size or own_size
    module = _built(architecture, uri=uri, data=data, image_size=size, stem_stride=checkpoint.facts.stem_stride)
    fill(module, checkpoint.state, uri=uri, architecture=architecture, data=data)
    return ready(
        module,
        name=name,
        uri=uri,
        architecture=architecture,
        normalisation=normalisation(uri, options.get("norm"), checkpoint.facts, data, channels),
        channels=channels,
        input_size=None if size == own_size else size,
    )


def _built(architecture: str, *, uri: str, data: Data, image_size: int, stem_stride: int | None) -> nn.Module:
    try:
        return build(
            architecture,
            num_classes=data.num_classes,
            in_channels=data.image_shape[0],
            image_size=image_size,
            seed=0,
            stem_stride=stem_stride,
        )
    except ConfigError as error:
        raise TeacherError(
            f"teacher {uri}: {error.message}",
            error.hint or "name the architecture that it was trained as: ?arch=NAME",
        ) from error


def _from_torchvision(uri: str, rest: str, data: Data, name: str, offline: bool) -> Teacher:
    import torchvision
    from torchvision.models import get_model_weights, list_models

    target, _ = _options(uri, rest, allowed=("name",))
    architecture, _, version = target.partition("@")
    # The list of this module contains image classifiers only, no networks for detection or video.
    known = list_models(module=torchvision.models)
    hint = "write torchvision:NAME@WEIGHTS, for example torchvision:resnet50@IMAGENET1K_V2"
    if architecture not in known:
        raise TeacherError(f"teacher {uri}: torchvision has no {architecture!r} ({near(architecture, known)})", hint)
    versions = {str(weights.name): weights for weights in get_model_weights(architecture)}
    if version not in versions:
        raise TeacherError(f"teacher {uri}: unknown weights {version!r} ({near(version, versions)})", hint)
    weights = versions[version]
    if len(weights.meta["categories"]) != data.num_classes:
        raise other_classes(uri, len(weights.meta["categories"]), data)
    transform = weights.transforms()
    size = int(transform.crop_size[0])
    checkpoint = read(_fetched(weights.url, uri, offline), uri)
    module = _torchvision_model(architecture, classes=data.num_classes, image_size=size)
    # Names in DenseNet's files contain dots that torch no longer allows in names of modules.
    state = {re.sub(r"(denselayer\d+\.(norm|conv))\.", r"\1", key): it for key, it in checkpoint.state.items()}
    fill(module, state, uri=uri, architecture=architecture, data=data)
    return ready(
        module,
        name=name,
        uri=uri,
        architecture=architecture,
        normalisation=Normalisation("stated", tuple(transform.mean), tuple(transform.std)),
        channels=3,
        input_size=None if size == data.image_shape[1] else size,
    )


def _torchvision_model(architecture: str, *, classes: int, image_size: int) -> nn.Module:
    """Build a torchvision network with the options that torchvision uses when it loads weights."""
    from torchvision.models import get_model

    options: dict[str, Any] = {}
    if architecture in ("googlenet", "inception_v3"):
        options = {"transform_input": True, "init_weights": False}
    elif architecture.startswith("vit_"):
        options = {"image_size": image_size}
    with torch.random.fork_rng(devices=[]):
        module: nn.Module = get_model(architecture, weights=None, num_classes=classes, **options)
    return module


def _options(uri: str, rest: str, *, allowed: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Split the part of a URI after the scheme into target and options."""
    target, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for option in options:
        if option not in allowed:
            raise TeacherError(
                f"teacher {uri}: unknown option {option!r} ({near(option, allowed)})",
                f"options follow the target: {with_option(uri.partition('?')[0], f'{allowed[0]}=VALUE')}",
            )
    return target, options


def _fetched(url: str, uri: str, offline: bool) -> Path:
    """Return the file of weights in torch's cache. Download it if it is missing, and verify its hash."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if file.is_file():
        return file
    if offline:
        raise TeacherError(
            f"teacher {uri}: not on this machine, and --offline: no {file}", f"copy the weights to {file} ({url})"
        )
    prefix = file.stem.rsplit("-", 1)[-1]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_prefix=prefix, progress=False)
    except (OSError, RuntimeError, HTTPException) as error:
        raise TeacherError(
            f"teacher {uri}: cannot be downloaded ({error})", f"copy the weights to {file} ({url})"
        ) from error
    return file


SOURCES: dict[str, Callable[[str, str, Data, str, bool], Teacher]] = {
    "file": _from_file,
    "torchvision": _from_torchvision,
}
