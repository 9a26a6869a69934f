"""What a teacher must be before it may teach: right classes, finite logits, fitting normalisation, above chance."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autodistill import metrics
from autodistill.cost import measure
from autodistill.data import Data
from autodistill.errors import TeacherError, near
from autodistill.records import TeacherRecord
from autodistill.teachers.checkpoints import other_classes
from autodistill.teachers.teacher import Normalisation, Teacher, forward

NORMALISATIONS: dict[str, tuple[float, float]] = {"none": (0.0, 1.0), "half": (0.5, 0.5)}


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def check(teacher: Teacher, data: Data, logits: Float[Tensor, "examples classes"]) -> TeacherRecord:
    """Refuse a teacher that cannot teach these data.

    Args:
        logits: the teacher's logits on the validation split.

    Raises:
        TeacherError: other class count, logits that are not finite, a normalisation that does not fit,
            validation accuracy at chance.
    """
    labels = data.validation.labels
    top1 = float(metrics.top1(logits, labels))
    chance = _chance(labels)
    _check_normalisation(teacher, data)
    if top1 <= chance:
        raise TeacherError(
            f"teacher {teacher.name} ({teacher.uri}): validation accuracy {top1:.1%} "
            f"is at chance (up to {chance:.1%})",
            "check that it was trained on these classes in this order, and its normalisation (?norm=imagenet)",
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
    """Refuse logits of another class count, or with values that are not finite.

    Raises:
        TeacherError: naming the teacher and what was found.
    """
    if logits.shape[1] != data.num_classes:
        raise other_classes(teacher.uri, logits.shape[1], data)
    bad = int((~logits.isfinite()).any(dim=1).sum())
    if bad:
        raise TeacherError(
            f"teacher {teacher.name} ({teacher.uri}): logits are not finite for {bad} of {len(logits)} images",
            "the checkpoint is damaged or its normalisation is wrong (?norm=imagenet)",
        )


def normalisation(uri: str, named: str | None, facts: Mapping[str, Any], data: Data, channels: int) -> Normalisation:
    known = {it.name: it for it in _named_normalisations(channels)}
    own = (data.mean, data.std) if len(data.mean) == channels else (data.mean * channels, data.std * channels)
    known["data"] = Normalisation("data", *own)
    if named is not None:
        if named not in known:
            raise TeacherError(f"teacher {uri}: unknown norm {named!r} ({near(named, known)})")
        return known[named]
    if "mean" in facts and "std" in facts:
        return Normalisation("stated", tuple(map(float, facts["mean"])), tuple(map(float, facts["std"])))
    return known["data"]._replace(assumed=True)


def _chance(labels: Int[Tensor, " examples"]) -> float:
    """Three standard errors above always naming the commonest class."""
    share = float(labels.bincount().max()) / len(labels)
    return share + 3 * math.sqrt(share * (1 - share) / len(labels))


def _check_normalisation(teacher: Teacher, data: Data) -> None:
    if not teacher.normalisation.assumed:
        return
    images, labels = data.validation.images[:512], data.validation.labels[:512]
    candidates = [teacher.normalisation, *_named_normalisations(teacher.channels)]
    with torch.inference_mode():
        scores = [float(metrics.top1(forward(teacher, images, it), labels)) for it in candidates]
    best = max(range(len(scores)), key=scores.__getitem__)
    margin = max(0.05, 3 * math.sqrt(0.5 / len(labels)))
    if scores[best] > scores[0] + margin:
        raise TeacherError(
            f"teacher {teacher.name} ({teacher.uri}): its normalisation does not fit: {scores[0]:.1%} of "
            f"{len(labels)} validation images right with the data's own, "
            f"{scores[best]:.1%} with {candidates[best].name!r}",
            f"state it: {teacher.uri}{'&' if '?' in teacher.uri else '?'}norm={candidates[best].name}",
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
