"""Facts about a teacher's input and output: normalisation, and the order of its classes."""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from autodistill.data import Data
from autodistill.errors import near
from autodistill.local_files import local_path
from autodistill.models.checkpoints import Facts, class_names
from autodistill.models.uri import Uri, with_option
from autodistill.usercode import value as json_value


class Normalisation(NamedTuple):
    """Mean and standard deviation per channel, of images in [0, 1], with which a network was trained."""

    name: str
    """`data`, a key of NORMALISATIONS or PUBLISHED, or `stated` (numbers from the URI or the checkpoint)."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    assumed: bool = False
    """Whether neither the URI nor the checkpoint names a normalisation, so that the data's statistics are used."""


MOST_LISTED = 50
"""A longer list of classes is not shown in an error."""
INTERPOLATIONS: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "bilinear", "antialias": True},
    "bicubic": {"mode": "bicubic", "antialias": True},
    "nearest": {"mode": "nearest-exact"},
}
"""Arguments of `torch.nn.functional.interpolate`."""
NORMALISATIONS: dict[str, tuple[float, float]] = {"none": (0.0, 1.0), "half": (0.5, 0.5), "pixels": (0.0, 1 / 255)}
"""Mean and standard deviation of images in [0, 1]: unchanged, in [-1, 1], and in [0, 255]."""
PUBLISHED: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Statistics of RGB images in [0, 1] under which networks are published. Those of CIFAR are the usual ones of public
training code, where the standard deviations of CIFAR-10 are means over images."""


def data_normalisation(data: Data, channels: int) -> Normalisation:
    """Return the normalisation with the data's own statistics, which serve all channels if they are for one."""
    repeated = channels // len(data.mean)
    return Normalisation("data", data.mean * repeated, data.std * repeated)


def named_normalisations(channels: int) -> Iterator[Normalisation]:
    """Yield all normalisations that have a name, except the data's own."""
    if channels == 3:
        for name, (mean, std) in PUBLISHED.items():
            yield Normalisation(name, mean, std)
    for name, (centre, spread) in NORMALISATIONS.items():
        yield Normalisation(name, (centre,) * channels, (spread,) * channels)


def normalisation(uri: Uri, facts: Facts, data: Data, channels: int) -> Normalisation:
    """Choose the normalisation of a network's input of some channels.

    The options of the URI have priority over the metadata of the checkpoint. Without statistics in either, the data's
    own statistics are assumed.

    Raises:
        AutodistillError: The name is unknown, or the statistics are for another number of channels.
    """
    known = {"data": data_normalisation(data, channels)} | {it.name: it for it in named_normalisations(channels)}
    named = uri.options.get("norm")
    if named is not None:
        if {"mean", "std"} & uri.options.keys():
            raise uri.refused("norm beside mean and std", "state either norm, or mean and std")
        if named not in known:
            raise uri.refused(
                f"unknown norm {named!r} ({near(named, known)})",
                "leave it out where the file states it, or where the data's own was used",
            )
        return known[named]
    return _stated(uri, facts, channels, known=tuple(known)) or known["data"]._replace(assumed=True)


def _stated(uri: Uri, facts: Facts, channels: int, *, known: Sequence[str]) -> Normalisation | None:
    """Return the statistics that the URI or the file states as numbers; numbers above 2 are those of 0 to 255."""
    mean, std, where = uri.numbers("mean"), uri.numbers("std"), "the URI holds"
    if (mean is None) != (std is None):
        raise uri.refused("mean and std belong together", "state both")
    if mean is None or std is None:
        mean, std, where = facts.mean, facts.std, "its metadata hold"
    if mean is None or std is None:
        return None
    mean, std = (numbers * channels if len(numbers) == 1 else numbers for numbers in (mean, std))
    if not len(mean) == len(std) == channels:
        raise uri.refused(
            f"{where} {len(mean)} numbers of mean and {len(std)} of std for {channels} channels",
            f"name its normalisation: {with_option(uri.text, 'norm=NAME')} (one of {', '.join(known)})",
        )
    if min(std) <= 0:
        raise uri.refused(f"std={min(std):g}: must be above 0", "state the standard deviations")
    scale = 255 if max(*mean, *std) > 2 else 1
    return Normalisation("stated", tuple(it / scale for it in mean), tuple(it / scale for it in std))


def stated_classes(uri: Uri) -> tuple[str, ...] | None:
    """Return the class names that a URI states, in the order of the network's outputs; None: not stated.

    The option names a file, with a name per line, or a JSON list or dictionary; or it lists the names, separated by
    commas.

    Raises:
        AutodistillError: The file is missing or empty, or a name occurs twice.
    """
    text = uri.options.get("classes")
    if text is None:
        return None
    path = local_path(text)
    if path.is_file():
        try:
            names = _names_in(path.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as error:
            raise uri.refused(f"classes={text}: not UTF-8 text ({error.reason})", "save the file as UTF-8") from error
    elif "," in text:
        names = [name.strip() for name in text.split(",")]
    else:
        raise uri.refused(
            f"classes={text}: no such file",
            "name a file with a class per line, in the order of the network's outputs, or the classes with commas",
        )
    double = sorted({name for name in names if names.count(name) > 1})
    if not names or double:
        what = f"{double[0]!r} occurs twice" if double else "the file is empty"
        raise uri.refused(f"classes={text}: {what}", "list every class once")
    return tuple(names)


def _names_in(text: str) -> list[str]:
    found = json_value(text)
    if isinstance(found, list | dict):
        return class_names(found)
    return [line.strip() for line in text.splitlines() if line.strip()]


def class_columns(
    uri: Uri, names: Sequence[str] | None, outputs: int, data: Data, *, other_names: Sequence[str] | None = None
) -> tuple[int, ...] | None:
    """Return the index in a network's output of each class of the data; None: the same classes in the same order.

    `names` are those of the network's classes, if they are known, and `other_names` the same classes under other names.

    Raises:
        AutodistillError: The number of classes differs, or a class of the data is not among the names.
    """
    ours = data.classes
    # The digits are the default where no data are named.
    digits = "name your images: --data folder:PATH; or " if data.name == "digits" else ""
    if names is not None and len(names) != outputs:
        raise uri.refused(
            f"{len(names)} class names for {outputs} outputs ({data.name} has {len(ours)} classes)",
            "list a name for each output, in the order of the outputs",
        )
    if outputs < len(ours) or (names is None and outputs > len(ours)):
        which = (
            f"state which of its classes these are: {with_option(uri.text, 'classes=FILE')}, a name per line in the "
            "order of its outputs; or"
        )
        raise uri.refused(
            f"{outputs} classes, but {data.name} has {len(ours)}",
            f"{digits}{which if outputs > len(ours) else 'name a teacher trained on these classes, or'} fine-tune it "
            "on these classes: autodistill teachers adapt",
        )
    if names is None:
        return None
    if other_names is not None and not set(ours) <= set(names):
        names = other_names
    place = {name: index for index, name in enumerate(names)}
    plain = {_plain(name): index for index, name in enumerate(names)}
    if len({_plain(name) for name in ours}) < len(ours) or len(plain) < len(names):
        plain = {}  # names that differ in case or in signs only are told apart
    missing = [name for name in ours if name not in place and _plain(name) not in plain]
    if missing:
        known = {_plain(name) for name in ours}
        strange = [name for name in names if _plain(name) not in known] if len(names) == len(ours) else []
        theirs = f"; {strange[0]!r} of its classes is none of {data.name}" if strange else ""
        raise uri.refused(
            f"class {missing[0]!r} of {data.name} is not among its {len(names)} classes "
            f"({near(missing[0], names) if len(names) <= MOST_LISTED else _nearest(missing[0], names)}){theirs}",
            f"{digits}state its classes with the names of {data.name}: {with_option(uri.text, 'classes=FILE')}; or "
            "fine-tune it on these classes: autodistill teachers adapt",
        )
    columns = tuple(place.get(name, plain.get(_plain(name), -1)) for name in ours)
    return None if columns == tuple(range(outputs)) else columns


def _nearest(name: str, names: Sequence[str]) -> str:
    """Return near matches of a name among many; without a match, an example."""
    guess, listed, _ = near(name, names).partition("allowed: ")
    return guess.strip() if listed and guess else f"for example {names[0]!r}"


def _plain(name: str) -> str:
    """Return a name without differences of case, of `_-` and of the form in which Unicode holds accents."""
    return unicodedata.normalize("NFC", name).casefold().replace("_", " ").replace("-", " ").strip()
