"""Checks of a teacher before any trial: classes, finite logits, normalisation, accuracy above chance."""

import math
from collections.abc import Iterator
from dataclasses import replace

from jaxtyping import Float, Int
from torch import Tensor

from autodistill import metrics
from autodistill.data import Data
from autodistill.errors import TeacherError, near
from autodistill.models.cost import measure
from autodistill.records import TeacherRecord
from autodistill.teachers.checkpoints import Facts, other_classes
from autodistill.teachers.teacher import Normalisation, Teacher, logits_of, with_option

NORMALISATIONS: dict[str, tuple[float, float]] = {"none": (0.0, 1.0), "half": (0.5, 0.5)}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_COMPARED = 512
"""Number of validation images on which normalisations are compared."""


def check(teacher: Teacher, data: Data, logits: Float[Tensor, "examples classes"]) -> TeacherRecord:
    """Check that a teacher fits the data, and return its record.

    Args:
        teacher: The teacher.
        data: The study's data.
        logits: The teacher's logits on the validation split.

    Raises:
        TeacherError: The number of classes differs, logits are not finite, the normalisation does not fit, or the
            validation accuracy is at chance.
    """
    check_logits(teacher, data, logits)
    _check_normalisation(teacher, data, logits)
    labels = data.validation.labels
    top1 = float(metrics.top1(logits, labels))
    chance = _chance(labels)
    if top1 <= chance:
        raise TeacherError(
            f"teacher {teacher.name} ({teacher.uri}): validation accuracy {top1:.1%} is at chance (up to {chance:.1%})",
            _at_chance_hint(teacher),
        )
    return TeacherRecord(
        name=teacher.name,
        uri=teacher.uri,
        architecture=teacher.architecture,
        fingerprint=teacher.fingerprint,
        cost=measure(teacher.module, image_shape=_input_shape(teacher, data)),
        normalisation=teacher.normalisation.name,
        val_top1=top1,
        val_nll=float(metrics.nll(logits, labels)),
        val_ece=float(metrics.expected_calibration_error(logits, labels)),
    )


def check_logits(teacher: Teacher, data: Data, logits: Float[Tensor, "examples classes"]) -> None:
    """Check the number of classes and that all logits are finite.

    Raises:
        TeacherError: The number of classes differs, or logits are not finite.
    """
    if logits.shape[1] != data.num_classes:
        raise other_classes(teacher.uri, logits.shape[1], data)
    bad = int((~logits.isfinite()).any(dim=1).sum())
    if bad:
        raise TeacherError(
            f"teacher {teacher.name} ({teacher.uri}): logits are not finite for {bad} of {len(logits)} images",
            "the checkpoint is damaged or its normalisation is wrong (?norm=NAME): name another one",
        )


def normalisation(uri: str, named: str | None, facts: Facts, data: Data, channels: int) -> Normalisation:
    """Choose the normalisation of a teacher's input.

    Args:
        uri: URI of the teacher, for error messages.
        named: Name of the normalisation in the URI. It has priority over the metadata.
        facts: Metadata of the checkpoint. Without statistics there, the data's own statistics are assumed.
        data: The study's data.
        channels: Channels of the network's input.

    Raises:
        TeacherError: The name is unknown, or the metadata contain statistics for another number of channels.
    """
    own = (data.mean, data.std) if len(data.mean) == channels else (data.mean * channels, data.std * channels)
    known = {"data": Normalisation("data", *own)} | {it.name: it for it in _named_normalisations(channels)}
    if named is not None:
        if named not in known:
            raise TeacherError(
                f"teacher {uri}: unknown norm {named!r} ({near(named, known)})",
                "leave it out where the file states it, or where the data's own was used",
            )
        return known[named]
    if facts.mean is None or facts.std is None:
        return known["data"]._replace(assumed=True)
    if not len(facts.mean) == len(facts.std) == channels:
        raise TeacherError(
            f"teacher {uri}: its metadata hold {len(facts.mean)} numbers of mean and {len(facts.std)} of std "
            f"for {channels} channels",
            f"name its normalisation: {with_option(uri, 'norm=NAME')} (one of {', '.join(known)})",
        )
    return Normalisation("stated", facts.mean, facts.std)


def _at_chance_hint(teacher: Teacher) -> str:
    if teacher.uri.startswith("ladder:"):
        return "autodistill trained it on these images: raise ladder.epochs, or name trained teachers with --teacher"
    return "check that it was trained on these classes in this order, and its normalisation (?norm=NAME)"


def _chance(labels: Int[Tensor, " examples"]) -> float:
    """Return the accuracy of always choosing the most frequent class, plus three standard errors."""
    share = float(labels.bincount().max()) / len(labels)
    return share + 3 * math.sqrt(share * (1 - share) / len(labels))


def _check_normalisation(teacher: Teacher, data: Data, logits: Tensor) -> None:
    if not teacher.normalisation.assumed:
        return
    images, labels = data.validation.images[:_COMPARED], data.validation.labels[:_COMPARED]
    others = {
        it.name: float(metrics.top1(logits_of(replace(teacher, normalisation=it), images), labels))
        for it in _named_normalisations(teacher.channels)
    }
    own, best = float(metrics.top1(logits[:_COMPARED], labels)), max(others, key=others.__getitem__)
    if others[best] > own + max(0.05, 3 * math.sqrt(0.5 / len(labels))):
        raise TeacherError(
            f"teacher {teacher.name} ({teacher.uri}): its normalisation does not fit: {own:.1%} of "
            f"{len(labels)} validation images right with the data's own, {others[best]:.1%} with {best!r}",
            f"state it: {with_option(teacher.uri, f'norm={best}')}",
        )


def _named_normalisations(channels: int) -> Iterator[Normalisation]:
    if channels == 3:
        yield Normalisation("imagenet", *IMAGENET)
    for name, (mean, std) in NORMALISATIONS.items():
        yield Normalisation(name, (mean,) * channels, (std,) * channels)


def _input_shape(teacher: Teacher, data: Data) -> tuple[int, int, int]:
    _, height, width = data.image_shape
    size = teacher.input_size
    return (teacher.channels, size or height, size or width)
