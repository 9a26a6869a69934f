"""The student to ship: the recommended one of a study, in several file formats, checked, with a model card."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from autodistill import data as datasets
from autodistill import metrics
from autodistill.config import Space
from autodistill.data import LoadData
from autodistill.errors import ExportError, StoreError
from autodistill.export.card import CARD, Exported, ExportedFile, card
from autodistill.export.deployed import eager_logits, logits_of, study_data
from autodistill.export.formats import FORMATS, Parcel, chosen, left_out
from autodistill.export.weights import Student, pick
from autodistill.records import StudyRecord
from autodistill.store import RunFolder, write_text

__all__ = ["FORMATS", "Exported", "ExportedFile", "chosen", "export_student", "left_out"]

TOLERANCE = 1e-4
"""Largest difference of a format's logits from the eager student's, as a share of the largest logit (at least 1)."""


def export_student(
    record: StudyRecord,
    folder: RunFolder,
    *,
    space: Space,
    to: Path,
    formats: tuple[str, ...],
    weights: Path | None = None,
    load_data: LoadData = datasets.load,
) -> Exported:
    """Write a study's recommended student, whole or not at all.

    Every file is read back and run on the test images, raw as a user has them; its logits are compared with those of
    the plain network on the study's own preprocessed test images.

    Args:
        record: the study.
        folder: where its runs lie.
        space: its resolved space.
        to: the new folder.
        formats: keys of FORMATS.
        weights: what `train --from` wrote; None: the recommended configuration's best confirm run on validation.
        load_data: loads the study's images.

    Raises:
        StoreError: `to` exists or cannot be written; no recommendation or no weights.
        ConfigError: weights that are not this study's student.
        DataError: the study's data are not to be had.
        ExportError: an operator that a format lacks, or logits that differ by more than TOLERANCE.
    """
    if to.exists():
        raise StoreError(f"{to}: exists already; nothing was written", "name a new folder with --out, or remove it")
    student = pick(record, folder, weights=weights)
    data, test = study_data(record, space, load=load_data)
    eager = eager_logits(student, data)
    parcel = Parcel(student, data, space.data.pool, metadata(student, record, pool=space.data.pool))
    tolerance = TOLERANCE * max(1.0, float(eager.abs().max()))
    with writing_folder(to) as place:
        files = tuple(
            _written(name, parcel, record, place=place, images=test.images, eager=eager, tolerance=tolerance)
            for name in formats
        )
        found = Exported(
            trained=student.trained,
            files=files,
            test_top1=float(metrics.top1(eager, data.test.labels)),
            tolerance=tolerance,
            pool=space.data.pool,
            resized=space.data.image_size is not None,
            torch=torch.__version__,
        )
        write_text(place / CARD, card(record, found))
    return found


def metadata(student: Student, record: StudyRecord, *, pool: int) -> dict[str, Any]:
    """What travels inside the files: class names, what images go in, how the weights were made."""
    facts, (channels, height, width) = student.facts, record.data.image_shape
    images = {
        "dtype": "uint8",
        "shape": ["batch", channels, height * pool, width * pool],
        "range": [0, 255],
        "pool": pool,
        "mean": facts.mean,
        "std": facts.std,
    }
    return {
        "format": 1,
        "architecture": facts.architecture,
        "stem_stride": record.student.stem_stride,
        "classes": facts.classes,
        "input": images,
        "trained": student.trained.model_dump(mode="json"),
    }


@contextlib.contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` that takes its name on success and is removed otherwise.

    Raises:
        StoreError: `path` exists by then, or cannot be written.
    """
    temporary = path.absolute().with_name(f".{path.absolute().name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(path)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror or error})", "free space, or name another folder with --out"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _written(
    name: str,
    parcel: Parcel,
    record: StudyRecord,
    *,
    place: Path,
    images: UInt8[Tensor, "examples channels height width"],
    eager: Float[Tensor, "examples classes"],
    tolerance: float,
) -> ExportedFile:
    """Write a format, read it back, and compare what it makes of the test images."""
    format = FORMATS[name]
    path = place / format.file
    format.write(parcel, path)
    found = logits_of(format.read(path, record.data, parcel.pool), images)
    difference = float((found.double() - eager.double()).abs().max())
    if not difference <= tolerance:
        raise ExportError(
            f"{format.file}: its logits differ from the student's by {difference:.3g} on the test set; at most "
            f"{tolerance:.3g} is allowed",
            "leave the format out with --format, and report the network with what `autodistill env` prints",
        )
    changed = int((found.argmax(1) != eager.argmax(1)).sum())
    return ExportedFile(
        format=name,
        file=format.file,
        about=format.about,
        size_bytes=path.stat().st_size,
        max_difference=difference,
        changed=changed,
    )
