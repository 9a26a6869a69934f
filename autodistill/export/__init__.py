"""Export of the recommended student of a study: several file formats, each verified, and a model card."""

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
from autodistill.data import LoadData, normalise
from autodistill.errors import ConfigError, DataError, ExportError, StoreError
from autodistill.export.card import CARD, Exported, ExportedFile, card
from autodistill.export.formats import (
    FORMATS,
    Facts,
    Parcel,
    Predict,
    Student,
    chosen,
    left_out,
    network,
    read_weights,
)
from autodistill.models import lay_out, parse_name
from autodistill.records import Recommendation, RunResult, StudyRecord, TrainedRecord
from autodistill.store import StudyFolder, write_text

__all__ = ["FORMATS", "Exported", "ExportedFile", "chosen", "export_student", "left_out", "pick"]

TOLERANCE = 1e-4
"""Largest allowed difference of a format's logits from those of the eager student, relative to the largest logit (at
least 1)."""

BATCHES = (1, 7, 256)
"""Sizes of the first, the second and all other batches. A graph that accepts one size only fails."""


def export_student(
    record: StudyRecord,
    folder: StudyFolder,
    *,
    space: Space,
    to: Path,
    formats: tuple[str, ...],
    weights: Path | None = None,
    load_data: LoadData = datasets.load,
) -> Exported:
    """Write the recommended student of a study to a new folder, atomically.

    Each file is read back and run on the raw test images, as a user has them. Its logits are compared with those of
    the plain network on the preprocessed test images of the study.

    Args:
        record: The study.
        folder: The folder of the study's runs.
        space: The resolved space of the study.
        to: The new folder.
        formats: Keys of FORMATS.
        weights: A file that `train --from` wrote; None: the weights of the recommended configuration's confirm run
            with the best validation accuracy.
        load_data: Function that loads the study's images.

    Raises:
        StoreError: `to` exists or cannot be written, or there is no recommendation or no file of weights.
        ConfigError: The weights are not those of this study's student.
        DataError: The study's data are missing or have changed.
        ExportError: A format lacks an operator, or logits differ by more than TOLERANCE.
    """
    if to.exists():
        raise StoreError(f"{to}: exists already; nothing was written", "name a new folder with --out, or remove it")
    student = pick(record, folder, weights=weights)
    data = load_data(space.data)
    if data.fingerprint != record.data.fingerprint:
        raise DataError(
            f"{record.data.name}: the images or labels are not those that study {record.name!r} was run on",
            f"put the data back as they were, or run the study again: {record.command}",
        )
    pool, images = space.data.pool, data.test.images
    if pool > 1:
        images = load_data(space.data.model_copy(update={"pool": 1})).test.images
    mean, std = student.facts.mean, student.facts.std
    # As training computes them, with normalisation outside the network.
    eager = _logits_of(lambda batch: student.module(normalise(batch, mean=mean, std=std)), data.test.images)
    parcel = Parcel(student, data, pool, _metadata(student, record, pool=pool))
    tolerance = TOLERANCE * max(1.0, float(eager.abs().max()))
    with _writing_folder(to) as place:
        files = [
            _written(name, parcel, record, place=place, images=images, eager=eager, tolerance=tolerance)
            for name in formats
        ]
        found = Exported(
            trained=student.trained,
            files=tuple(files),
            test_top1=float(metrics.top1(eager, data.test.labels)),
            test_balanced_top1=metrics.balanced_top1(eager, data.test.labels),
            tolerance=tolerance,
            pool=pool,
            resized=space.data.image_size is not None,
            torch=torch.__version__,
        )
        write_text(place / CARD, card(record, found))
    return found


def pick(record: StudyRecord, folder: StudyFolder, *, weights: Path | None = None) -> Student:
    """Load the recommended student of a study; arguments and errors as for `export_student`.

    Among the confirm runs of the recommended configuration, choose the one with the best validation accuracy. The
    test set has no influence on the choice.
    """
    if record.recommendation is None:
        raise StoreError(f"study {record.name!r} has no recommendation yet", f"finish it first: {record.command}")
    run = None if weights else _best_confirmed(record, record.recommendation)
    path = weights or folder.weights(run.key if run else "")
    facts, state = read_weights(path)
    _check(path, facts, record)
    module = network(path, facts, state, record.data)
    if run is None:
        run = next((one for one in record.runs() if folder.weights(one.key).resolve() == path.resolve()), None)
    trained = facts.trained
    if run is not None:
        trained = TrainedRecord(
            study=record.name,
            run=run.run,
            params=run.params,
            seed=run.seed,
            epochs=run.epochs,
            trained_on="train",
            images=record.data.train,
            val_top1=run.val_top1,
            test_top1=run.test_top1,
            targets=run.targets,
        )
    if trained is None or trained.study != record.name:
        made = "does not say how it was trained" if trained is None else f"belongs to study {trained.study!r}"
        raise ConfigError(
            f"--weights {path}: {made}; the model card of study {record.name!r} would be wrong",
            f"train it: autodistill train --from {record.name} --out student.safetensors",
        )
    return Student(module, facts, trained)


def _best_confirmed(record: StudyRecord, verdict: Recommendation) -> RunResult:
    same = (one for one in record.finalists if (one.teacher, one.params) == (verdict.teacher, verdict.params))
    runs = [run for one in same for run in one.runs if run.val_top1 is not None]
    if not runs:
        train = f"autodistill train --from {record.name} --out student.safetensors"
        raise StoreError(
            f"study {record.name!r} confirmed no run of what it recommends: there are no weights to take",
            f"finish it ({record.command}), or train one ({train}) and name it with --weights student.safetensors",
        )
    return max(runs, key=lambda run: run.val_top1 or 0.0)


def _check(path: Path, facts: Facts, record: StudyRecord) -> None:
    """Check that weights are those of the study's student on the study's classes."""
    hint = f"train its own: autodistill train --from {record.name} --out student.safetensors"
    student, (channels, height, _) = record.student, record.data.image_shape
    if parse_name(facts.architecture) != (student.architecture, student.width):
        raise ConfigError(
            f"{path}: is a {facts.architecture}; study {record.name!r} is about {student.name}",
            hint,
        )
    stem = lay_out(facts.architecture, image_size=height, stem_stride=facts.stem_stride).stem_stride
    if stem != student.stem_stride:
        raise ConfigError(f"{path}: its stem has stride {stem}, the study's student {student.stem_stride}", hint)
    if facts.classes != record.data.classes:
        named = ", ".join(facts.classes[:3])
        raise ConfigError(
            f"{path}: was trained on {len(facts.classes)} classes ({named}, ...), not on the "
            f"{len(record.data.classes)} of {record.data.name} in their order",
            hint,
        )
    if not len(facts.mean) == len(facts.std) == channels:
        raise ConfigError(f"{path}: normalises {len(facts.mean)} channels, {record.data.name} has {channels}", hint)


def _metadata(student: Student, record: StudyRecord, *, pool: int) -> dict[str, Any]:
    """Return the metadata of the files: class names, format of input images, and how the weights were trained."""
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
def _writing_folder(path: Path) -> Iterator[Path]:
    """Create a temporary folder beside `path`; rename it to `path` on success and remove it otherwise.

    Raises:
        StoreError: `path` was created meanwhile, or cannot be written.
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


def _logits_of(predict: Predict, images: UInt8[Tensor, "examples *shape"]) -> Float[Tensor, "examples classes"]:
    """Compute the logits of all images, in batches of several sizes."""
    first, second, rest = BATCHES
    parts = [images[:first], images[first : first + second], *images[first + second :].split(rest)]
    with torch.inference_mode():
        return torch.cat([predict(part.contiguous()) for part in parts if len(part)])


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
    """Write a file, read it back, and compare its logits on the test images with those of the eager student."""
    format = FORMATS[name]
    path = place / format.file
    format.write(parcel, path)
    found = _logits_of(format.read(path, record.data, parcel.pool), images)
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
