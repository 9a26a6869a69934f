"""A space made to fit: the data's classes and size, the cache, the study that is already there."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from autodistill import ladder, teachers
from autodistill.config import PlainKDSpec, Space, load
from autodistill.data import Data, normalise
from autodistill.errors import ConfigError, StoreError
from autodistill.logit_cache import estimated_bytes
from autodistill.methods import RULES
from autodistill.models import student_network
from autodistill.records import read_study
from autodistill.records.base import Record
from autodistill.store import RunFolder
from autodistill.study.known import KNOWN
from autodistill.study.measurements import facts, keep, recall
from autodistill.training.precision import faster_precision, gpu_precision


def fit_to_classes(space: Space, data: Data) -> tuple[Space, tuple[str, ...]]:
    """Leave rules out that need more classes, unless the space names them; say so."""
    search, prior = space.search, space.prior
    too_few = [name for name in search.rules if RULES[name].min_classes > data.num_classes]
    if not too_few:
        return space, ()
    name = too_few[0]
    needs = f"needs at least {RULES[name].min_classes} classes; {data.name} has {data.num_classes}"
    key = "prior" if prior.rule == name and {"rule", "params"} & prior.model_fields_set else ""
    key = f"search.rules.{name}" if "rules" in search.model_fields_set else key
    if key:
        raise ConfigError(f"{key}: {name} {needs}", "name other rules, for example --set search.rules.ts.tau=4")
    rules = {rule: params for rule, params in search.rules.items() if rule not in too_few}
    if prior.rule in too_few:
        prior = prior.model_copy(update={"rule": "ts", "params": {"tau": PlainKDSpec().tau}})
    fitted = space.model_copy(update={"search": search.model_copy(update={"rules": rules}), "prior": prior})
    return fitted, (f"{', '.join(too_few)} left out ({needs}); searched: {', '.join(rules)}; prior: {prior.rule}",)


def teacher_names(uris: Sequence[str]) -> dict[str, str]:
    """A name for each teacher; where several would share one, they are numbered."""
    wanted = [
        uri.removeprefix(ladder.SCHEME) if uri.startswith(ladder.SCHEME) else teachers.name_of(uri) for uri in uris
    ]
    often, seen = Counter(wanted), Counter[str]()
    names = {}
    for name, uri in zip(wanted, uris, strict=True):
        seen[name] += 1
        names[f"{name}#{seen[name]}" if often[name] > 1 else name] = uri
    return names


def check_batch(space: Space, data: Data) -> None:
    """Refuse a batch that is larger than the training set."""
    size, images = space.training.batch_size, len(data.train.labels)
    if size > images:
        raise ConfigError(
            f"training.batch_size: {size} is more than the {images} training images",
            f"--set training.batch_size={min(64, images)}",
        )


def check_crop(space: Space, data: Data) -> None:
    """Refuse a crop whose padding is as large as the images."""
    crop, size = space.data.crop, min(data.image_shape[1:])
    if crop >= size:
        raise ConfigError(
            f"data.crop: {crop} pixels of padding leave nothing of {size}x{size} images", "--set data.crop=1"
        )


def view_count(space: Space) -> int:
    """Size of the pool of views that the epochs cycle through."""
    return min(space.data.views or space.training.epochs, space.training.epochs)


def fit_to_cache(space: Space, data: Data, teacher_count: int, cache_bytes: int) -> Space:
    """A pool of as many views as the cache may hold, where it cannot hold them all."""
    wanted = view_count(space)
    one = estimated_bytes(teachers=teacher_count, views=1, examples=len(data.train.labels), classes=data.num_classes)
    if cache_bytes < one:
        raise ConfigError(
            f"--cache-size {cache_bytes}: one view of {teacher_count} teachers takes {one} bytes",
            f"--cache-size {one} holds one, {one * wanted} all {wanted}",
        )
    if cache_bytes >= wanted * one:
        return space
    return space.model_copy(update={"data": space.data.model_copy(update={"views": cache_bytes // one})})


class ChosenPrecision(Record):
    """The number format that was faster for a student on a CPU."""

    precision: Literal["float32", "bfloat16"]


def with_precision(space: Space, folder: RunFolder, data: Data, *, student: str, device: str) -> Space:
    """Choose the number format that is faster for this student here, where the space leaves it open.

    A study keeps its choice, and this machine keeps it for later studies.
    """
    if space.training.precision != "auto":
        return space
    kept = _kept_space(folder)
    if kept is not None:
        precision = kept.training.precision
    elif device.startswith("cuda"):
        precision = gpu_precision(torch.device(device))
    else:
        precision = _cpu_precision(space, data, student=student)
    return space.model_copy(update={"training": space.training.model_copy(update={"precision": precision})})


def _cpu_precision(space: Space, data: Data, *, student: str) -> Literal["float32", "bfloat16"]:
    width, stem_stride = space.student.width, space.student.stem_stride
    of = facts(data, space, device="cpu", student=student, width=width, stem_stride=stem_stride)
    found = recall(ChosenPrecision, of)
    if found is None:
        images = normalise(data.train.images[: space.training.batch_size], mean=data.mean, std=data.std)
        precision = faster_precision(lambda: student_network(student, data, space.student), images)
        found = ChosenPrecision(precision=precision)
        keep(found, of)
    return found.precision


def _kept_space(folder: RunFolder) -> Space | None:
    """The space of a study that is there; where its file is damaged, as its record has it.

    Raises:
        StoreError: both are damaged: nobody knows any more what followed from the machine that began the study.
    """
    if not folder.space.exists():
        return None
    try:
        return load(str(folder.space), known=KNOWN)
    except ConfigError as error:
        try:
            return Space.model_validate(read_study(folder.record).space)
        except (StoreError, ValueError):
            pass
        raise StoreError(
            f"{folder.space}: damaged ({error.message})", "give this study its own name with --study"
        ) from error


def with_kept_wave(space: Space, folder: RunFolder, workers: int) -> Space:
    """The wave is the study's, not the workers': as asked, or as many as started it, and the same ever after."""
    wave = space.search.wave if "wave" in space.search.model_fields_set else max(space.search.wave, workers)
    kept = _kept_space(folder)
    wave = kept.search.wave if kept is not None else wave
    return space.model_copy(update={"search": space.search.model_copy(update={"wave": wave})})


def pins(asked: Space, space: Space) -> dict[str, object]:
    """What followed from workers, cache and processor: a command without them could be another study elsewhere."""
    found: dict[str, object] = {}
    if "wave" not in asked.search.model_fields_set:
        found["search.wave"] = space.search.wave
    if space.training.precision != asked.training.precision:
        found["training.precision"] = space.training.precision
    if space.data.views != asked.data.views:
        found["data.views"] = space.data.views
    return found


def pinned(command: str, found: Mapping[str, object]) -> str:
    """A command with what followed."""
    return command + "".join(f" --set {key}={value}" for key, value in found.items())
