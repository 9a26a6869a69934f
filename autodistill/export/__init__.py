"""Export of the recommended student of a study: several file formats, each verified, and a model card."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from autodistill import data as datasets
from autodistill import metrics
from autodistill.config import Space
from autodistill.data import Data, LoadData, normalise
from autodistill.errors import ConfigError, ExportError, StoreError
from autodistill.export.card import CARD, Exported, ExportedFile, card
from autodistill.export.formats import (
    FORMATS,
    ExportInput,
    Facts,
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
from autodistill.study import check_unchanged, fingerprints_now

__all__ = ["FORMATS", "Exported", "ExportedFile", "chosen", "export_student", "left_out", "no_recommendation", "pick"]

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
    say: Callable[[str], object] = lambda text: None,
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
        say: Is called with a warning if the teacher is not there to be compared.

    Raises:
        StoreError: `to` exists or cannot be written, or there is no recommendation or no file of weights.
        ConfigError: The weights are not those of this study's student.
        DataError, TeacherError: The study's data are missing, or they or the teacher have changed.
        ExportError: A format lacks an operator, or logits differ by more than TOLERANCE.
    """
    if to.exists():
        raise StoreError(f"{to}: exists already; nothing was written", "name a new folder with --out, or remove it")
    student = pick(record, folder, weights=weights)
    data = load_data(space.data)
    taught_by = {student.trained.params.teacher or ""}
    check_unchanged(record, data=data, teachers=fingerprints_now(record, data, names=taught_by, say=say))
    pool, images = space.data.pool, data.test.images
    if pool > 1:
        images = load_data(space.data.model_copy(update={"pool": 1})).test.images
    mean, std = student.facts.mean, student.facts.std
    # As training computes them, with normalisation outside the network.
    # Grey images are repeated for a student from elsewhere that takes three channels.
    shown = data.test.images.expand(-1, len(mean), -1, -1)
    eager = _logits_of(lambda batch: student.module(normalise(batch, mean=mean, std=std)), shown)
    given = ExportInput(student, data, pool, _metadata(student, record, data, pool=pool), record.student.foreign)
    tolerance = TOLERANCE * max(1.0, float(eager.abs().max()))
    with _writing_folder(to) as place:
        files = [
            _written(name, given, record, place=place, images=images, eager=eager, tolerance=tolerance)
            for name in formats
        ]
        found = Exported(
            trained=student.trained,
            files=tuple(files),
            images=len(data.test.labels),
            test_top1=float(metrics.top1(eager, data.test.labels)),
            test_balanced_top1=metrics.balanced_top1(eager, data.test.labels),
            tolerance=tolerance,
            pool=pool,
            input=given.metadata["input"],
            torch=torch.__version__,
        )
        write_text(place / CARD, card(record, found))
    return found


def no_recommendation(record: StudyRecord) -> StoreError:
    """Return the error for a study that recommends no student."""
    if record.grid is not None:
        again = (
            "use `autodistill search` with the same teachers and data: runs of this study are found, not trained again"
        )
        return StoreError(f"study {record.name!r} compares methods and recommends no student", again)
    runs = list(record.runs())
    if runs and all(run.state == "failed" for run in runs):
        return StoreError(
            f"study {record.name!r} has no recommendation: all its {len(runs)} runs failed, the first with: "
            f"{runs[0].error.partition(chr(10))[0]}",
            "correct the cause, and start a new study with --study: a study keeps its failed runs",
        )
    return StoreError(f"study {record.name!r} has no recommendation yet", f"finish it first: {record.command}")


def pick(record: StudyRecord, folder: StudyFolder, *, weights: Path | None = None) -> Student:
    """Load the recommended student of a study; arguments and errors as for `export_student`.

    Among the confirm runs of the recommended configuration, choose the one with the best validation accuracy. The
    test set has no influence on the choice.
    """
    if record.recommendation is None:
        raise no_recommendation(record)
    train = f"autodistill train --from {record.name} --out student.safetensors"
    run = None if weights else _best_confirmed(record, record.recommendation, train)
    path = weights or folder.weights(run.key if run else "")
    facts, state = read_weights(path)
    if wrong := _mismatch(facts, record):
        raise ConfigError(f"{path}: {wrong}", f"train its own: {train}")
    module = network(path, facts, state, record)
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
            f"train it: {train}",
        )
    return Student(module, facts, trained)


def _best_confirmed(record: StudyRecord, verdict: Recommendation, train: str) -> RunResult:
    same = (one for one in record.finalists if (one.teacher, one.params) == (verdict.teacher, verdict.params))
    runs = [run for one in same for run in one.runs if run.val_top1 is not None]
    if not runs:
        finish = "" if record.state == "complete" else f"finish it ({record.command}), or "
        raise StoreError(
            f"study {record.name!r} confirmed no run of what it recommends: there are no weights to take",
            f"{finish}train one ({train}) and name it with --weights student.safetensors",
        )
    return max(runs, key=lambda run: run.val_top1 or 0.0)


def _mismatch(facts: Facts, record: StudyRecord) -> str:
    """Return why weights are not those of the study's student on the study's classes; empty: they are."""
    student, (channels, height, _) = record.student, record.data.image_shape
    if student.foreign is not None:
        # A run that was found in another study may have the name that its student has there.
        if facts.fingerprint != student.foreign.fingerprint:
            it = f"it is a {facts.architecture}, not the {student.name} of study {record.name!r}"
            return f"belongs to another student: {it}"
        stem, channels = None, len(student.foreign.mean)
    elif facts.fingerprint or parse_name(facts.architecture) != (student.architecture, student.width):
        return (
            f"belongs to another student: it is a {facts.architecture}; study {record.name!r} is about {student.name}"
        )
    else:
        stem = lay_out(facts.architecture, image_size=height, stem_stride=facts.stem_stride).stem_stride
    if stem != student.stem_stride:
        return f"its stem has stride {stem}, the study's student {student.stem_stride}"
    if facts.classes != record.data.classes:
        named = ", ".join(facts.classes[:3])
        return (
            f"was trained on {len(facts.classes)} classes ({named}, ...), not on the "
            f"{len(record.data.classes)} of {record.data.name} in their order"
        )
    if not len(facts.mean) == len(facts.std) == channels:
        return f"normalises {len(facts.mean)} channels, {record.data.name} has {channels}"
    return ""


def _metadata(student: Student, record: StudyRecord, data: Data, *, pool: int) -> dict[str, Any]:
    """Return the metadata of the files: class names, the whole preprocessing, and how the weights were trained.

    `before` is what the study did with an image file to get an input of the graphs; None: the data set has its images
    in that form. The graphs do the rest, in the order of the keys.
    """
    facts, (channels, height, width) = student.facts, record.data.image_shape
    foreign, before = record.student.foreign, None
    if data.reading is not None:
        before = {
            "orientation": "upright, by EXIF",
            "transparent": "laid over white",
            "crop": "centre square",
            "resize": data.reading.stored,
            "interpolation": "bilinear, antialiased",
            "then_centre_crop": height * pool,
        }
    images = {
        "dtype": "uint8",
        "shape": ["batch", channels, height * pool, width * pool],
        "order": "RGB" if channels == 3 else "grey",
        "before": before,
        "range": [0, 255],
        "pool": pool,
        "scale": 1 / 255,
        "mean": foreign.mean if foreign else facts.mean,
        "std": foreign.std if foreign else facts.std,
        "resize": None,
    }
    if foreign is not None and foreign.input_size != height:
        images["resize"] = {"size": foreign.input_size, "interpolation": foreign.interpolation}
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
    given: ExportInput,
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
    format.write(given, path)
    found = _logits_of(format.read(path, record, given.pool), images)
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
