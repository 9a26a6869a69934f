"""File formats of an exported student, with a function to write each and a function to read and run it."""

import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import safetensors
import torch
from jaxtyping import Float, UInt8
from pydantic import ValidationError
from torch import Tensor, nn
from torch.export import Dim

from autodistill.data import Data, average_pool
from autodistill.errors import ConfigError, ExportError, StoreError, lookup
from autodistill.models import build
from autodistill.models.students import bare, file_facts, rebuilt
from autodistill.records import ForeignRecord, Record, StudyRecord, TrainedRecord
from autodistill.store import write_bytes
from autodistill.teachers import save
from autodistill.usercode import errors_as

METADATA = "autodistill.json"
"""Name of the metadata inside a .pt2 file; in an ONNX file the key is `autodistill`."""
HINT = "name with --weights what `autodistill train --from STUDY` wrote"

Predict = Callable[[Tensor], Tensor]
"""Function of raw uint8 images that returns float32 logits."""


class Facts(Record):
    """Metadata of a file of weights."""

    architecture: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    stem_stride: Literal[1, 2] | None = None
    fingerprint: str = ""
    """Of a student from elsewhere; its code and its preprocessing are in the record of the study."""
    trained: TrainedRecord | None = None


class Student(NamedTuple):
    """A trained student: a network in evaluation mode on the CPU."""

    module: nn.Module
    facts: Facts
    trained: TrainedRecord


class Deployed(nn.Module):
    """A student with its preprocessing: it takes raw images of levels 0 to 255, pools and normalises them.

    Args:
        student: Network that takes normalised images and returns logits.
        facts: Metadata with mean and standard deviation per channel, of images in [0, 1].
        pool: Side of the blocks of pixels that are averaged into one pixel, as in the study; 1: no pooling.
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


class ExportInput(NamedTuple):
    """A student with everything that a file contains."""

    student: Student
    data: Data
    pool: int
    metadata: dict[str, Any]
    foreign: ForeignRecord | None = None
    """Facts about a student from elsewhere."""


class Format(NamedTuple):
    """A file format."""

    file: str
    write: Callable[[ExportInput, Path], None]
    read: Callable[[Path, StudyRecord, int], Predict]
    """`read(path, study, pool)` returns a function that runs the student."""
    needs: tuple[str, ...] = ()
    """Packages that the format needs, all from the extra of the format's name."""
    about: str = ""
    """Description for the model card."""


def chosen(names: str) -> tuple[str, ...]:
    """Parse names of formats, separated by commas; an empty string means all formats whose packages are installed.

    Raises:
        ConfigError: A format is unknown, or its packages are missing.
    """
    asked = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in asked:
        missing = _missing(lookup("export format", name, FORMATS))
        if missing:
            raise ConfigError(
                f"--format {name}: not installed here: {', '.join(missing)}", f"pip install 'kd-autodistill[{name}]'"
            )
    return asked or tuple(name for name, format in FORMATS.items() if not _missing(format))


def left_out(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the formats that are not in `names` because their packages are missing."""
    return tuple(name for name, format in FORMATS.items() if name not in names and _missing(format))


def _missing(format: Format) -> list[str]:
    return [package for package in format.needs if importlib.util.find_spec(package) is None]


def read_weights(path: Path) -> tuple[Facts, dict[str, Tensor]]:
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


def network(path: Path, facts: Facts, state: Mapping[str, Tensor], record: StudyRecord) -> nn.Module:
    """Build the network that the metadata of a file name, or the study's student from elsewhere, and load the weights.

    Its input is images that are normalised with `facts.mean` and `facts.std`.

    Raises:
        StoreError: The weights are not those of this network.
        ConfigError: The code of a student from elsewhere has changed.
    """
    data, foreign = record.data, record.student.foreign
    if foreign is not None:
        whole: nn.Module = rebuilt(foreign, num_classes=len(facts.classes), image_shape=data.image_shape)
    else:
        whole = build(
            facts.architecture,
            num_classes=len(facts.classes),
            in_channels=data.image_shape[0],
            image_size=data.image_shape[1],
            seed=0,
            stem_stride=facts.stem_stride,
        )
    module = bare(whole)
    wanted = module.state_dict()
    odd = sorted(key for key in {*wanted, *state} if _shape(wanted.get(key)) != _shape(state.get(key)))
    if odd:
        found, want = _shape(state.get(odd[0])), _shape(wanted.get(odd[0]))
        network = f"{facts.architecture} for images of {' x '.join(map(str, data.image_shape))}"
        raise StoreError(f"{path}: not a {network}: {odd[0]} is {found}, not {want} ({len(odd)} tensors differ)", HINT)
    module.load_state_dict(state)
    return whole.eval().requires_grad_(False)


def _shape(tensor: Tensor | None) -> tuple[int, ...] | str:
    return "missing" if tensor is None else tuple(tensor.shape)


def _write_safetensors(given: ExportInput, path: Path) -> None:
    facts = given.student.facts
    more = {key: given.metadata[key] for key in ("input", "trained")}
    save(
        path,
        bare(given.student.module),
        architecture=facts.architecture,
        data=given.data,
        stem_stride=facts.stem_stride,
        more=more | (file_facts(given.foreign) if given.foreign else {}),
    )


def _read_safetensors(path: Path, record: StudyRecord, pool: int) -> Predict:
    facts, state = read_weights(path)
    return Deployed(network(path, facts, state, record), facts=facts, pool=pool)


def _write_pt2(given: ExportInput, path: Path) -> None:
    buffer = io.BytesIO()
    torch.export.save(_traced(given, path), buffer, extra_files={METADATA: json.dumps(given.metadata)})
    write_bytes(path, buffer.getvalue())


def _read_pt2(path: Path, record: StudyRecord, pool: int) -> Predict:
    module: Predict = torch.export.load(path).module()
    return module


def _write_onnx(given: ExportInput, path: Path) -> None:
    program = _traced(given, path)
    with warnings.catch_warnings():
        # The packages of the converter warn about each other's versions.
        warnings.simplefilter("ignore")
        try:
            found = torch.onnx.export(
                program,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes={"images": {0: "batch"}},
                verbose=False,
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise _unsupported(path, error) from error
    assert found is not None
    found.model.metadata_props["autodistill"] = json.dumps(given.metadata)
    write_bytes(path, found.model_proto.SerializeToString())


def _read_onnx(path: Path, record: StudyRecord, pool: int) -> Predict:
    import onnx
    import onnxruntime

    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def predict(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    return predict


def _traced(given: ExportInput, path: Path) -> torch.export.ExportedProgram:
    _, channels, height, width = given.data.test.images.shape
    example = torch.zeros(2, channels, height * given.pool, width * given.pool, dtype=torch.uint8)
    deployed = Deployed(given.student.module, facts=given.student.facts, pool=given.pool).eval()
    with errors_as(partial(_unsupported, path)):  # tracing runs the user's code
        return torch.export.export(deployed, (example,), dynamic_shapes={"images": {0: Dim("batch")}})


def _unsupported(path: Path, error: BaseException) -> ExportError:
    while error.__cause__ is not None:
        error = error.__cause__
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return ExportError(
        f"{path.name}: this network cannot be written in that format: {reason[:300]}",
        "leave the format out with --format; safetensors holds any network",
    )


FORMATS: dict[str, Format] = {
    "safetensors": Format("student.safetensors", _write_safetensors, _read_safetensors, about="the bare weights"),
    "pt2": Format("student.pt2", _write_pt2, _read_pt2, about="a torch.export graph, preprocessing inside"),
    "onnx": Format(
        "student.onnx",
        _write_onnx,
        _read_onnx,
        needs=("onnx", "onnxscript", "onnxruntime"),
        about="an ONNX graph, preprocessing inside",
    ),
}
