"""Keyed views: the augmentation of an example is a pure function of (view seed, epoch, example).

A view does not depend on the order or composition of batches, on the trial, the worker or the device, so that the
logits of a teacher on a view are valid for every trial. Random numbers therefore come from a counter-based hash, not
from a generator whose numbers depend on earlier calls.
"""

from typing import NamedTuple

import torch
from jaxtyping import Int, Integer, UInt8
from torch import Tensor

_DRAWS = 3
"""Random numbers per example: top, left, mirror."""
_GOLDEN, _FIRST, _SECOND, _MASK = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 2**64 - 1
"""Increment and multipliers of SplitMix64, and a mask of 64 bits."""


class View(NamedTuple):
    """Settings of an augmentation."""

    seed: int
    crop: int
    """Largest shift of a random crop in pixels. Beyond the margin of the stored images, the crop shows black."""
    flip: bool
    """Whether half of the images are mirrored."""


PLAIN_VIEW = View(seed=0, crop=0, flip=False)
"""No augmentation."""


def take_view(
    images: UInt8[Tensor, "examples channels height width"],
    examples: Int[Tensor, " batch"],
    *,
    view: View,
    epoch: int,
    margin: int = 0,
) -> UInt8[Tensor, "batch channels view_height view_width"]:
    """Return one view of each of `examples`, in channels_last memory.

    Args:
        images: All images. In channels_last memory only the batch is copied. Any other layout gives the same result,
            but each call copies all images.
        examples: Indices into `images`, on the same device.
        view: The augmentation. With crop 0 and without flip the result is the images themselves.
        epoch: Any integer; a study with a pool of views passes the number of the view.
        margin: Pixels on every side of `images` by which views are smaller. Crops show these pixels before padding.

    Raises:
        ValueError: `view.crop` is negative.
    """
    return take_drawn(images, examples, draw(examples, view=view, epoch=epoch), crop=view.crop, margin=margin)


def take_drawn(
    images: UInt8[Tensor, "examples channels height width"],
    examples: Int[Tensor, " batch"],
    draws: Integer[Tensor, "batch 3"],
    *,
    crop: int,
    margin: int = 0,
) -> UInt8[Tensor, "batch channels view_height view_width"]:
    """Return one view of each of `examples`, given the result of `draw`; otherwise as `take_view`.

    Raises:
        ValueError: `crop` is negative.
    """
    if crop < 0:
        raise ValueError(f"crop {crop} must be at least 0")
    channels, full_height, full_width = images.shape[1:]
    height, width = full_height - 2 * margin, full_width - 2 * margin
    examples = examples.long()  # 32 bits cannot index the pixels of a large dataset
    top, left, mirror = draws.long().unbind(1)
    rows = top[:, None] - crop + margin + torch.arange(height, device=images.device)
    across = torch.arange(width, device=images.device)
    cols = left[:, None] - crop + margin + torch.where(mirror[:, None] == 1, width - 1 - across, across)
    inside_rows, inside_cols = rows.clamp(0, full_height - 1), cols.clamp(0, full_width - 1)
    pixels = (examples[:, None] * full_height + inside_rows)[:, :, None] * full_width + inside_cols[:, None, :]
    found = images.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, pixels.flatten())
    inside = (rows == inside_rows)[:, :, None] & (cols == inside_cols)[:, None, :]
    found *= inside.view(-1, 1)  # the padding is black; the clamped index found a pixel at the edge
    return found.view(-1, height, width, channels).permute(0, 3, 1, 2)


def draw(examples: Int[Tensor, " batch"], *, view: View, epoch: int) -> Int[Tensor, "batch 3"]:
    """Draw top and left in [0, 2 crop] and mirror in {0, 1} for each example.

    Example i owns counters 3i to 3i + 2 of the SplitMix64 stream (Steele, Lea and Flood, OOPSLA 2014) that starts at
    a hash of (seed, epoch). The upper 32 bits are scaled to the range: two values differ in probability by at most
    2^-32.
    """
    sides = 2 * view.crop + 1
    counters = examples.long()[:, None] * _DRAWS + torch.arange(_DRAWS, device=examples.device)
    upper = _shift_right(splitmix64(_key(view.seed, epoch), counters), 32)
    # Scaled by Python numbers, column by column: a tensor of the ranges would be copied to the device in every batch.
    ranges = (sides, sides, 2 if view.flip else 1)
    return torch.stack([column * size >> 32 for column, size in zip(upper.unbind(1), ranges, strict=True)], dim=1)


def splitmix64(key: int, counters: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Compute outputs number `counters` (from 0) of the SplitMix64 stream with state `key`, as wrapping int64."""
    mixed = (counters + 1) * _signed(_GOLDEN) + _signed(key)
    mixed = (mixed ^ _shift_right(mixed, 30)) * _signed(_FIRST)
    mixed = (mixed ^ _shift_right(mixed, 27)) * _signed(_SECOND)
    return mixed ^ _shift_right(mixed, 31)


def _key(seed: int, epoch: int) -> int:
    # Hashed one after the other: with a sum, epoch e + 1 of seed s would equal epoch e of seed s + 1.
    return _first_output(_first_output(seed) ^ epoch)


def _first_output(key: int) -> int:
    """Compute the first output of the SplitMix64 stream with state `key`, on the host without a device."""
    mixed = (key + _GOLDEN) & _MASK
    mixed = (mixed ^ mixed >> 30) * _FIRST & _MASK
    mixed = (mixed ^ mixed >> 27) * _SECOND & _MASK
    return mixed ^ mixed >> 31


def _shift_right(bits: Int[Tensor, "*shape"], places: int) -> Int[Tensor, "*shape"]:
    # torch shifts int64 arithmetically; the mask removes the copies of the sign bit.
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _signed(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63
