"""Teacher sources by URI scheme."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl

import torch

from autodistill.data import Data
from autodistill.errors import TeacherError, lookup, near
from autodistill.models import MODELS, build, parse_name
from autodistill.teachers.checkpoints import check_class_names, fill, other_classes, read
from autodistill.teachers.checks import normalisation
from autodistill.teachers.teacher import Normalisation, Teacher, ready


def name_of(uri: str) -> str:
    """What tables call a teacher: its `name` option, the file's stem, or what follows the scheme."""
    scheme, _, rest = uri.partition(":")
    target, _, query = rest.partition("?")
    stem = Path(target).stem if scheme == "file" else target.split("@")[0]
    return dict(parse_qsl(query)).get("name", stem)


def load(
    uri: str, *, data: Data, offline: bool = False, name: str | None = None, shown_as: str | None = None
) -> Teacher:
    """Load a teacher for these data.

    Args:
        uri: where it lies; see the module.
        data: the study's; class count, channels and image size must fit.
        offline: download nothing.
        name: what tables call it; None: taken from the URI.
        shown_as: the URI that records carry, where it is not `uri`.

    Raises:
        TeacherError: unknown scheme, missing, truncated, foreign or code-carrying file, other classes.
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
    target, _, query = rest.partition("?")
    options = dict(parse_qsl(query))
    unknown = set(options) - {"arch", "norm", "name"}
    if unknown:
        raise TeacherError(
            f"teacher {uri}: unknown option {min(unknown)!r} ({near(min(unknown), ['arch', 'norm', 'name'])})"
        )
    checkpoint = read(Path(target), uri)
    architecture = options.get("arch") or checkpoint.facts.get("architecture")
    if not architecture:
        raise TeacherError(
            f"teacher {uri}: the file does not say its architecture",
            f"name it: {uri}{'&' if query else '?'}arch=NAME (one of {', '.join(MODELS)})",
        )
    lookup("architecture", parse_name(architecture)[0], MODELS)
    check_class_names(uri, checkpoint.facts, data)
    channels = data.image_shape[0]
    module = build(
        architecture,
        num_classes=data.num_classes,
        in_channels=channels,
        image_size=data.image_shape[1],
        seed=0,
        stem_stride=checkpoint.facts.get("stem_stride"),
    )
    fill(module, checkpoint.state, uri, architecture, data)
    fitted = normalisation(uri, options.get("norm"), checkpoint.facts, data, channels)
    return ready(
        module,
        name=name,
        uri=uri,
        architecture=architecture,
        normalisation=fitted,
        channels=channels,
        image_size=data.image_shape[1],
    )


def _from_torchvision(uri: str, rest: str, data: Data, name: str, offline: bool) -> Teacher:
    from torchvision.models import get_model, get_model_weights, list_models

    architecture, at, version = rest.partition("@")
    known = list_models(include="*", exclude="quantized_*")
    if architecture not in known:
        raise TeacherError(f"teacher {uri}: torchvision has no {architecture!r} ({near(architecture, known)[:200]})")
    versions = {str(weights.name): weights for weights in get_model_weights(architecture)}
    if not at or version not in versions:
        raise TeacherError(f"teacher {uri}: unknown weights {version!r} ({near(version, versions)})")
    weights = versions[version]
    if len(weights.meta["categories"]) != data.num_classes:
        raise other_classes(uri, len(weights.meta["categories"]), data)
    checkpoint = read(_fetched(weights.url, uri, offline), uri)
    module = get_model(architecture, weights=None)
    fill(module, checkpoint.state, uri, architecture, data)
    transform = weights.transforms()
    return ready(
        module,
        name=name,
        uri=uri,
        architecture=architecture,
        normalisation=Normalisation("stated", tuple(transform.mean), tuple(transform.std)),
        channels=3,
        image_size=data.image_shape[1],
        input_size=int(transform.crop_size[0]),
    )


def _fetched(url: str, uri: str, offline: bool) -> Path:
    """The weights in torch's own cache; downloaded there, its hash checked, unless offline."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if file.is_file():
        return file
    if offline:
        raise TeacherError(f"teacher {uri}: not on this machine, and --offline", f"copy the weights to {file}")
    file.parent.mkdir(parents=True, exist_ok=True)
    prefix = file.stem.rsplit("-", 1)[-1]
    try:
        torch.hub.download_url_to_file(url, str(file), hash_prefix=prefix, progress=False)
    except (OSError, RuntimeError) as error:
        raise TeacherError(f"teacher {uri}: cannot be downloaded ({error})", f"copy the weights to {file}") from error
    return file


SOURCES: dict[str, Callable[[str, str, Data, str, bool], Teacher]] = {
    "file": _from_file,
    "torchvision": _from_torchvision,
}
