"""What a dataset's loader hands over: images and labels before they are split."""

from typing import NamedTuple

from jaxtyping import Int, UInt8
from torch import Tensor

from autodistill.errors import ConfigError
from autodistill.space.models import DataSpec


class Split(NamedTuple):
    """Images and their labels. Images lie in channels_last memory, where views are cheapest."""

    images: UInt8[Tensor, "examples channels height width"]
    labels: Int[Tensor, " examples"]


class Source(NamedTuple):
    """A dataset as it lies on disk. `validation` and `test`: its own, where it has them."""

    classes: tuple[str, ...]
    train: Split
    validation: Split | None = None
    test: Split | None = None


def refuse(spec: DataSpec, *keys: str) -> None:
    """Refuse keys that would change nothing for this dataset.

    Raises:
        ConfigError: one of `keys` is set, or the name carries a path.
    """
    kind, _, path = spec.name.partition(":")
    if path:
        raise ConfigError(f"data.name = {spec.name!r}: {kind} takes no path", f"write {kind}, or folder:{path}")
    for key in keys:
        if value := getattr(spec, key):
            raise ConfigError(f"data.{key} = {value!r} means nothing to {kind}", f"remove data.{key}")
