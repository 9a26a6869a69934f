"""File formats of an exported student, with a function to write each and a function to read and run it."""

import importlib.util
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.export import Dim

from autodistill.data import Data, average_pool
from autodistill.errors import ConfigError, ExportError, lookup
from autodistill.export.weights import Facts, Student, fill, read
from autodistill.records import DataRecord
from autodistill.store import writing
from autodistill.teachers import save

METADATA = "autodistill.json"
"""Name of the metadata inside a .pt2 file; in an ONNX file the key is `autodistill`."""


Predict = Callable[[Tensor], Tensor]
"""Function of raw uint8 images that returns float32 logits."""


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


class Parcel(NamedTuple):
    """A student with everything that a file contains."""

    student: Student
    data: Data
    pool: int
    metadata: dict[str, Any]

    @property
    def deployed(self) -> Deployed:
        """The student with its preprocessing, in evaluation mode."""
        return Deployed(self.student.module, facts=self.student.facts, pool=self.pool).eval()


class Format(NamedTuple):
    """A file format."""

    file: str
    """Name of the file."""
    write: Callable[[Parcel, Path], None]
    read: Callable[[Path, DataRecord, int], Predict]
    """`read(path, data, pool)` returns a function that runs the student."""
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


def _write_safetensors(parcel: Parcel, path: Path) -> None:
    facts = parcel.student.facts
    save(
        path,
        parcel.student.module,
        architecture=facts.architecture,
        data=parcel.data,
        stem_stride=facts.stem_stride,
        more={key: parcel.metadata[key] for key in ("input", "trained")},
    )


def _read_safetensors(path: Path, data: DataRecord, pool: int) -> Predict:
    facts, state = read(path)
    return Deployed(fill(path, facts, state, data), facts=facts, pool=pool)


def _write_pt2(parcel: Parcel, path: Path) -> None:
    program = _traced(parcel, path)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(parcel.metadata)})
    with writing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _read_pt2(path: Path, data: DataRecord, pool: int) -> Predict:
    module: Predict = torch.export.load(path).module()
    return module


def _write_onnx(parcel: Parcel, path: Path) -> None:
    program = _traced(parcel, path)
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
    with warnings.catch_warnings():
        # The packages of the converter warn about each other's versions.
        warnings.simplefilter("ignore")
        try:
            found = torch.onnx.export(program, dynamic_shapes={"images": {0: "batch"}}, verbose=False, **names)
        except (RuntimeError, ValueError, TypeError) as error:
            raise _unsupported(path, error) from error
    assert found is not None
    found.model.metadata_props["autodistill"] = json.dumps(parcel.metadata)
    with writing(path) as temporary:
        temporary.write_bytes(found.model_proto.SerializeToString())


def _read_onnx(path: Path, data: DataRecord, pool: int) -> Predict:
    import onnx
    import onnxruntime

    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def predict(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    return predict


def _traced(parcel: Parcel, path: Path) -> torch.export.ExportedProgram:
    images = parcel.data.test.images[:2]
    height, width = (size * parcel.pool for size in images.shape[2:])
    example = torch.zeros(2, images.shape[1], height, width, dtype=torch.uint8)
    try:
        return torch.export.export(parcel.deployed, (example,), dynamic_shapes={"images": {0: Dim("batch")}})
    except (RuntimeError, ValueError, TypeError) as error:
        raise _unsupported(path, error) from error


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
