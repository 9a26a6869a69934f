"""Find the tensors of a network in a checkpoint, whatever wrappers, prefixes and names its trainer used."""

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autodistill.data import Data
from autodistill.errors import AutodistillError, near
from autodistill.models import LARGEST_WIDTH, MODELS, build
from autodistill.models.checkpoints import Checkpoint, is_averaged
from autodistill.models.uri import Uri, with_option, without_options

_WRAPPER = re.compile(r"(^|(?<=\.))(_orig_mod|module)\.")
"""Names that `torch.compile` and DataParallel insert before the names of tensors."""
_UNUSED = re.compile(r"(^|\.)(total_ops|total_params|num_batches_tracked|n_averaged|num_updates|decay)$")
"""Tensors that profilers and counters leave in checkpoints."""
OUTERMOST = "outermost"
"""What a URI calls weights that lie in no dictionary of the file."""
_KINDS = ("", "raw", "ema")
"""What a URI may state about weights beside their place in the file."""
_PREFERRED = ("", "model.", "student.", "backbone.", "encoder.", "net.", "network.")

_RENAMES: tuple[tuple[tuple[str, str], ...], ...] = (
    # CIFAR networks with a head called linear and shortcuts called shortcut.
    ((r"^linear\.", "fc."), (r"\.shortcut\.(\d)\.", r".downsample.\1.")),
    # Wide ResNets of the distillation literature (RepDistiller, mdistiller) and of their source.
    (
        (r"^block(\d)\.layer\.", r"layer\1."),
        (r"\.conv[Ss]hortcut\.", ".shortcut."),
        (r"^bn1\.", "bn."),
        (r"^linear\.", "fc."),
    ),
    # VGG of the distillation literature.
    (
        (r"^block4\.", "block5."),
        (r"^block3\.", "block4."),
        (r"^block2\.", "block3."),
        (r"^block1\.", "block2."),
        (r"^block0\.", "block1."),
        (r"^classifier\.", "fc."),
    ),
    # DenseNet's files contain dots that torch no longer allows in names of modules.
    ((r"(denselayer\d+\.(?:norm|conv))\.(?=\d)", r"\1"),),
)
"""Names of tensors elsewhere, as regular expressions, and their names in our networks."""


class Match(NamedTuple):
    """The tensors of a network, found in a checkpoint."""

    state: dict[str, Tensor]
    averaged: bool
    place: str
    """Dictionary and prefix in the file where the tensors were."""
    dropped: tuple[str, ...]
    """Tensors beside them that the network does not have."""
    others: tuple[str, ...] = ()
    """Places of other weights of this kind that would fit."""

    @property
    def key(self) -> str:
        """The place, as a URI names it."""
        return self.place or OUTERMOST


class Misfit(NamedTuple):
    """The closest attempt to match a checkpoint with a network."""

    score: float
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    """Name, shape in the file and shape in the network, of tensors that differ."""


def matches(checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> tuple[list[Match], Misfit | None]:
    """Return the groups of tensors that have the names of a network, and the closest misfit if there is none.

    Shapes are not compared. `expected` is the network's state, whose values may be on the meta device.
    """
    needed = {key for key in expected if not key.endswith("num_batches_tracked")}
    found: dict[str, Match] = {}
    nearest: Misfit | None = None
    for group in checkpoint.groups:
        taken: set[frozenset[str]] = set()  # another naming may find the same tensors under another prefix
        for names in _namings(group.state):
            copies = _copies(names, needed)
            prefixes = {prefix for prefix, _ in copies}
            for prefix, inside in copies:
                place = f"{group.place}.{prefix}".strip(".")
                beside = tuple(it.removeprefix(prefix) for it in prefixes if it != prefix and it.startswith(prefix))
                present = {new: group.state[old] for new, old in inside.items() if new in expected}
                extra = sorted(key for key in inside if key not in expected and not key.startswith(beside))
                unexpected = [key for key in extra if not _UNUSED.search(key) and _mean_after(key) not in inside]
                missing = sorted(needed - present.keys())
                if not missing and not unexpected:
                    state, folded = _folded(present, {key: group.state[inside[key]] for key in extra})
                    averaged = is_averaged(group.place) or is_averaged(prefix)
                    used = frozenset(inside[key] for key in (*present, *folded))
                    if used in taken:
                        continue
                    taken.add(used)
                    dropped = tuple(sorted(group.state.keys() - used))
                    found.setdefault(place, Match(state, averaged, place, dropped))
                    continue
                score = len(present) / (len(needed | inside.keys()) or 1)
                if nearest is None or score > nearest.score:
                    nearest = Misfit(score, tuple(missing), tuple(unexpected), tuple(other_shapes(present, expected)))
    return list(found.values()), None if found else nearest


def choose(found: Sequence[Match], *, uri: Uri) -> Match:
    """Return the weights that a URI names among several that fit; without a name, averaged weights are preferred.

    Raises:
        AutodistillError: The file does not hold the named weights.
    """
    weights = uri.weights().kind
    if weights not in _KINDS:
        for match in found:
            if match.key == weights:
                return match
        raise no_such_weights([it.key for it in found], uri)
    wanted = [it for it in found if it.averaged == (weights == "ema")] if weights else list(found)
    if not wanted:
        held = "averaged" if found[0].averaged else "raw"
        raise uri.refused(f"weights={weights}: the file holds {held} weights only", "leave it out")

    def rank(match: Match) -> tuple[bool, int, int]:
        prefix = f"{match.place.rpartition('.')[2]}." if match.place else ""
        known = _PREFERRED.index(prefix) if prefix in _PREFERRED else len(_PREFERRED)
        return not match.averaged, known, len(match.place)

    chosen = min(wanted, key=rank)
    others = (it.key for it in wanted if it is not chosen and it.averaged == chosen.averaged)
    return chosen._replace(others=tuple(others))


def no_such_weights(keys: Sequence[str], uri: Uri) -> AutodistillError:
    """Return the error for a URI that names other weights than those at the places `keys` of its file."""
    weights = uri.weights().kind
    return uri.refused(f"weights={weights} is unknown ({near(weights, {'raw', 'ema', *keys})})", "or leave it out")


class Fit(NamedTuple):
    """A known network with the weights of a checkpoint."""

    architecture: str
    """Its name with its width."""
    module: nn.Module
    channels: int
    size: int
    match: Match
    other_weights: tuple[str, ...]
    """Kinds of weights in the file that were not chosen: `raw` or `ema`."""


def identify(checkpoint: Checkpoint, data: Data, *, names: Sequence[str], sizes: Sequence[int], uri: Uri) -> Fit:
    """Return the first network whose tensors a checkpoint holds.

    Args:
        checkpoint: The file.
        data: The study's data.
        names: Names of networks; a name without a width stands for all widths.
        sizes: Image sizes for which the network may have been built.
        uri: URI of the network, which may state the weights to take.

    Raises:
        AutodistillError: No network fits; the message names the nearest and the first tensors that differ.
        ConfigError: A name is unknown.
    """
    stem_stride, weights = checkpoint.facts.stem_stride, uri.weights().kind
    nearest: tuple[str, Misfit] | None = None
    keys: list[str] = []
    for name in names:
        expected = blank(name, data, size=sizes[0], stem_stride=stem_stride).state_dict()
        found, misfit = matches(checkpoint, expected)
        if weights not in _KINDS:  # weights at other places may be those of other networks
            keys += [it.key for it in found]
            found = [it for it in found if it.key == weights]
        if found:
            match = choose(found, uri=uri)
            kinds = {it.averaged for it in found} - {match.averaged}
            others = tuple("ema" if averaged else "raw" for averaged in kinds)
            for size in sizes:
                fit = _fit(name, match, others, data, size=size, stem_stride=stem_stride)
                if fit is not None:
                    return fit
            misfit = Misfit(1.0, (), (), tuple(other_shapes(match.state, expected)))
        if misfit is not None and (nearest is None or misfit.score > nearest[1].score):
            nearest = (name, misfit)
    if keys and weights not in keys:
        raise no_such_weights(keys, uri)
    raise unknown_network(nearest, uri=uri, named=names if len(names) == 1 else ())


def _fit(
    name: str, match: Match, others: tuple[str, ...], data: Data, *, size: int, stem_stride: int | None
) -> Fit | None:
    """Return the network of this name with the weights of a match; None: their shapes fit at no width."""
    expected = blank(name, data, size=size, stem_stride=stem_stride).state_dict()
    first = next(key for key, value in expected.items() if value.ndim == 4)
    found, want = match.state[first].shape, expected[first].shape
    if len(found) != 4 or found[2:] != want[2:]:
        return None
    channels = found[1]
    widths = [1.0] if ":" in name else list(dict.fromkeys([found[0] / want[0], *(step / 20 for step in range(1, 41))]))
    for width in widths:
        if not 0 < width <= LARGEST_WIDTH:
            continue
        named = name if width == 1 else f"{name}:{width:.15g}"
        expected = blank(named, data, size=size, stem_stride=stem_stride, channels=channels).state_dict()
        if expected[first].shape != found:
            continue
        classes = head_classes(match.state, expected, default=data.num_classes)
        if classes:
            shape = {"num_classes": classes, "in_channels": channels, "image_size": size}
            module = build(named, **shape, seed=0, stem_stride=stem_stride)
            module.load_state_dict(match.state, strict=False)
            return Fit(named, module, channels, size, match, others)
    return None


def unknown_network(nearest: tuple[str, Misfit] | None, *, uri: Uri, named: Sequence[str]) -> AutodistillError:
    """Return the error for weights that belong to none of the networks that were tried."""
    hint = (
        f"name the network: {with_option(without_options(uri.text), 'arch=NAME')} (one of {', '.join(MODELS)}), "
        f"or your own: python:FILE.py:FACTORY?weights={uri.target}"
    )
    what = f"not a {named[0]}" if named else "its tensors fit no known network"
    if nearest is None:
        return uri.refused(what, hint)
    name, misfit = nearest
    if misfit.shapes and named and ":" in named[0]:
        hint = f"leave the width out: {named[0].partition(':')[0]} is recognised at any width"
    near = "" if named else f"; the nearest is {name}"
    return uri.refused(f"{what}{near}: {difference(misfit)}", hint)


def difference(misfit: Misfit) -> str:
    """Describe the first tensors in which a checkpoint and a network differ."""
    shown = [f"missing {key}" for key in misfit.missing[:3]] + [f"unexpected {key}" for key in misfit.unexpected[:3]]
    if shown:
        counts = f"{len(misfit.missing)} tensors missing, {len(misfit.unexpected)} unexpected"
        return f"{counts} ({', '.join(shown)})"
    return ", ".join(f"{key} is {found}, not {want}" for key, found, want in misfit.shapes[:3])


def blank(
    name: str, data: Data, *, size: int, stem_stride: int | None = None, channels: int | None = None
) -> nn.Module:
    """Build a network without memory for its weights, to compare names and shapes; errors are those of `lay_out`."""
    with torch.device("meta"):
        return build(
            name,
            num_classes=data.num_classes,
            in_channels=channels or data.image_shape[0],
            image_size=size,
            seed=0,
            stem_stride=stem_stride,
        )


def head_classes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, default: int) -> int | None:
    """Return the number of classes of a state, read from the head's weight and bias.

    `expected` is the state of the same network with `default` classes. None: other tensors differ too.
    """
    other = [(found, want) for _, found, want in other_shapes(state, expected)]
    if not other:
        return default
    counts = {found[0] for found, want in other if found[1:] == want[1:] and want[:1] == (default,)}
    heads = all(found[1:] == want[1:] for found, want in other)
    return counts.pop() if heads and len(counts) == 1 and len(other) <= 2 else None


def _namings(state: Mapping[str, Tensor]) -> list[dict[str, str]]:
    """Return the names to try for tensors, each with the name in the file: without those of wrappers, and unchanged."""
    names = {_WRAPPER.sub("", key): key for key in state}
    plain = {key: key for key in state}
    # With fewer names than tensors, the network itself has children that are called like wrappers.
    return [plain] if len(names) < len(state) or names == plain else [names, plain]


def _copies(names: Mapping[str, str], needed: set[str]) -> list[tuple[str, dict[str, str]]]:
    """Return the prefixes under which tensors have at least half of a network's names.

    Returns:
        Each prefix with the names below it, in our naming, and their names in the file.
    """
    ends = Counter(name[: place + 1] for name in names for place, sign in enumerate(name) if sign == ".")
    least, found = len(needed) / 2, []
    for prefix in ("", *(prefix for prefix, count in ends.items() if count >= least)):
        own = {name.removeprefix(prefix): old for name, old in names.items() if name.startswith(prefix)}
        tried = [{_renamed(name, rules): old for name, old in own.items()} for rules in ((), *_RENAMES)]
        best = max(tried, key=lambda inside: len(inside.keys() & needed) if len(inside) == len(own) else 0)
        if len(best.keys() & needed) >= least:
            found.append((prefix, best))
    return found


@functools.lru_cache(2**14)  # every known network is compared with the same names
def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def other_shapes(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Yield the tensors that have another shape: their name, their shape, and the expected shape."""
    for key, want in expected.items():
        if key in state and state[key].shape != want.shape:
            yield key, tuple(state[key].shape), tuple(want.shape)


def _mean_after(key: str) -> str:
    """Return the name of the running mean of a BatchNorm that may follow the layer with this bias in a Sequential."""
    layer = re.fullmatch(r"(.*\.)(\d+)\.bias", key)
    return f"{layer[1]}{int(layer[2]) + 1}.running_mean" if layer else ""


def _folded(present: Mapping[str, Tensor], extra: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Fold biases into the running mean of the BatchNorm that follows: the outputs stay the same.

    Returns:
        The state, and the names of the biases.
    """
    state, folded = dict(present), []
    for key, bias in extra.items():
        mean = _mean_after(key)
        if mean in state:
            state[mean] = state[mean] - bias
            folded.append(key)
    return state, folded
