"""Choice and verification of the weights to export."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import safetensors
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from autodistill.errors import ConfigError, StoreError
from autodistill.models import build, lay_out, parse_name
from autodistill.records import DataRecord, Recommendation, RunResult, StudyRecord, TrainedRecord
from autodistill.store import StudyFolder

HINT = "name with --weights what `autodistill train --from STUDY` wrote"


class Facts(BaseModel):
    """Metadata of a file of weights."""

    model_config = ConfigDict(frozen=True)

    architecture: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    stem_stride: Literal[1, 2] | None = None
    trained: TrainedRecord | None = None


class Student(NamedTuple):
    """A trained student: a network in evaluation mode on the CPU."""

    module: nn.Module
    facts: Facts
    trained: TrainedRecord


def pick(record: StudyRecord, folder: StudyFolder, *, weights: Path | None = None) -> Student:
    """Load the recommended student of a study from a confirm run or from a given file.

    Among the confirm runs of the recommended configuration, choose the one with the best validation accuracy. The
    test set has no influence on the choice.

    Args:
        record: The study.
        folder: The folder of the study's runs.
        weights: A file that `train --from` wrote; None: the weights of a confirm run.

    Raises:
        StoreError: There is no recommendation or no confirm run, or the file is missing, damaged or not a student.
        ConfigError: The weights belong to another architecture, other classes or another study, or the file does not
            describe its training.
    """
    verdict = record.recommendation
    if verdict is None:
        raise StoreError(f"study {record.name!r} has no recommendation yet", f"finish it first: {record.command}")
    run = None if weights else _confirmed(record, verdict)
    path = weights or folder.weights(run.key if run else "")
    facts, state = read(path)
    _check(path, facts, record)
    module = fill(path, facts, state, record.data)
    if run is None:
        run = next((one for one in record.runs() if folder.weights(one.key).resolve() == path.resolve()), None)
    trained = made_by(run, record) if run else facts.trained
    if trained is None or trained.study != record.name:
        made = "does not say how it was trained" if trained is None else f"belongs to study {trained.study!r}"
        raise ConfigError(
            f"--weights {path}: {made}; the model card of study {record.name!r} would be wrong",
            f"train it: autodistill train --from {record.name} --out student.safetensors",
        )
    return Student(module, facts, trained)


def read(path: Path) -> tuple[Facts, dict[str, Tensor]]:
    """Read a safetensors file of weights.

    Raises:
        StoreError: The file is missing or damaged, or lacks metadata.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        known = {key: json.loads(value) for key, value in told.items() if key in Facts.model_fields}
        return Facts.model_validate(known), state
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file", HINT) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StoreError(f"{path}: contains no student: metadata {where}: {first['msg']}", HINT) from error
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise StoreError(f"{path}: cannot be read as weights: {reason}", HINT) from error


def fill(path: Path, facts: Facts, state: Mapping[str, Tensor], data: DataRecord) -> nn.Module:
    """Build the network that the metadata of a file name, and load the weights.

    Raises:
        StoreError: The weights are not those of this network.
    """
    module = build(
        facts.architecture,
        num_classes=len(facts.classes),
        in_channels=data.image_shape[0],
        image_size=data.image_shape[1],
        seed=0,
        stem_stride=facts.stem_stride,
    )
    wanted = module.state_dict()
    odd = sorted(key for key in {*wanted, *state} if _shape(wanted.get(key)) != _shape(state.get(key)))
    if odd:
        found, want = _shape(state.get(odd[0])), _shape(wanted.get(odd[0]))
        network = f"{facts.architecture} for images of {' x '.join(map(str, data.image_shape))}"
        raise StoreError(f"{path}: not a {network}: {odd[0]} is {found}, not {want} ({len(odd)} tensors differ)", HINT)
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


def made_by(run: RunResult, record: StudyRecord) -> TrainedRecord:
    """Return the record of how the weights of a study's run were trained."""
    return TrainedRecord(
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


def _confirmed(record: StudyRecord, verdict: Recommendation) -> RunResult:
    same = (one for one in record.finalists if (one.teacher, one.params) == (verdict.teacher, verdict.params))
    runs = [run for one in same for run in one.runs]
    scores = {run.run: run.val_top1 for run in runs if run.val_top1 is not None}
    if not scores:
        train = f"autodistill train --from {record.name} --out student.safetensors"
        raise StoreError(
            f"study {record.name!r} confirmed no run of what it recommends: there are no weights to take",
            f"finish it ({record.command}), or train one ({train}) and name it with --weights student.safetensors",
        )
    best = max(scores, key=lambda name: scores[name])
    return next(run for run in runs if run.run == best)


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


def _shape(tensor: Tensor | None) -> tuple[int, ...] | str:
    return "missing" if tensor is None else tuple(tensor.shape)
