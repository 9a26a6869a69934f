"""A student with its preprocessing inside, and the test images that every format is checked on."""

from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from autodistill.config import Space
from autodistill.data import Data, LoadData, Split, average_pool, normalise
from autodistill.errors import DataError
from autodistill.export.weights import Facts, Student
from autodistill.records import StudyRecord

BATCHES = (1, 7, 256)
"""Sizes of the first two batches and of all others: a graph that took one size only would fail on them."""

Predict = Callable[[Tensor], Tensor]
"""uint8 images as `Deployed` takes them to float32 logits."""


class Deployed(nn.Module):
    """A student that takes raw images: uint8 levels 0 to 255, averaged over blocks, scaled and normalised inside.

    Args:
        student: takes normalised images, gives logits.
        facts: mean and standard deviation per channel, of images in [0, 1].
        pool: pixels averaged each way into one before the student sees them, as the study's data were; 1: none.
    """

    def __init__(self, student: nn.Module, *, facts: Facts, pool: int) -> None:
        super().__init__()
        centre, spread = (torch.tensor(it, dtype=torch.float64)[:, None, None] for it in (facts.mean, facts.std))
        self.student = student
        self.pool = pool
        self.scale = nn.Buffer((1 / (255 * spread)).float())
        self.shift = nn.Buffer((-centre / spread).float())

    def forward(self, images: UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        pooled = images if self.pool == 1 else average_pool(images, size=self.pool)
        logits: Tensor = self.student(pooled.to(torch.float32) * self.scale + self.shift)
        return logits


def study_data(record: StudyRecord, space: Space, *, load: LoadData) -> tuple[Data, Split]:
    """Load the study's data, and its test images as they were before pixels were averaged.

    Raises:
        ConfigError, DataError: data that are not to be had.
        DataError: data that are no longer those of the study.
    """
    data = load(space.data)
    if data.fingerprint != record.data.fingerprint:
        raise DataError(
            f"{record.data.name}: the images or labels are not those that study {record.name!r} was run on",
            f"put the data back as they were, or run the study again: {record.command}",
        )
    if space.data.pool == 1:
        return data, data.test
    return data, load(space.data.model_copy(update={"pool": 1})).test


def eager_logits(student: Student, data: Data) -> Float[Tensor, "examples classes"]:
    """Logits of the test images the way training scored them: normalised outside, the plain network."""
    mean, std = student.facts.mean, student.facts.std

    def predict(images: Tensor) -> Tensor:
        logits: Tensor = student.module(normalise(images, mean=mean, std=std))
        return logits

    return logits_of(predict, data.test.images)


def logits_of(predict: Predict, images: UInt8[Tensor, "examples *shape"]) -> Float[Tensor, "examples classes"]:
    """Run over all images, in batches of several sizes."""
    first, second, rest = BATCHES
    parts = [images[:first], images[first : first + second], *images[first + second :].split(rest)]
    with torch.inference_mode():
        return torch.cat([predict(part.contiguous()) for part in parts if len(part)])
