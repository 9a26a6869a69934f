"""Networks in ONNX files: their input and output, their cost, and a module that runs them with ONNX Runtime."""

import hashlib
import importlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autodistill.models.uri import Uri
from autodistill.records import TeacherCostRecord
from autodistill.tensors import log_probabilities

INPUTS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
"""Types of a network's input that are supported."""
COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
UNCOUNTED = ("Einsum", "LSTM", "GRU", "RNN", "If", "Loop", "Scan", "Attention", "MultiHeadAttention", "DeformConv")
"""Operators with products that are not counted, beside those of integers; a network with them has unknown MACs."""

INTEGER_BYTES = {2: 1.0, 3: 1.0, 4: 2.0, 5: 2.0, 6: 4.0, 12: 4.0, 21: 0.5, 22: 0.5}
"""Size of one number of each type of quantised weights and biases. Integers of 64 bits are shapes and indices."""


@dataclass(frozen=True)
class Graph:
    """What an ONNX file says about its network."""

    channels: int | None
    size: int | None
    """Height and width of the images; None: any."""
    batch: int | None
    """Number of images in a forward pass; None: any."""
    channels_last: bool
    kind: str
    """Type of the input: a key of INPUTS."""
    probabilities: bool
    """Whether its output is a softmax."""


def external_files(path: Path) -> tuple[str, ...]:
    """Return the files beside an ONNX file that hold its weights, relative to its folder; none if it is unreadable."""
    try:
        return _external(_read(path))
    except (ImportError, OSError, ValueError):
        return ()


def _external(model: Any) -> tuple[str, ...]:
    found = (entry.value for it in model.graph.initializer for entry in it.external_data if entry.key == "location")
    return tuple(dict.fromkeys(found))


def network(uri: Uri, path: Path) -> tuple["OnnxModule", Any]:
    """Read the network of an ONNX file; return it with the content of the file, for `fingerprint` and `cost`.

    Raises:
        AutodistillError: A package is missing, the file is missing or damaged, or the network does not take a batch of
            images or does not return one tensor.
    """
    try:
        runtime = importlib.import_module("onnxruntime")
        importlib.import_module("onnx")
    except ImportError as error:
        raise uri.refused(f"{error.name} is not installed", "pip install 'kd-autodistill[onnx]'") from error
    if not path.is_file():
        raise uri.no_file(path)
    try:
        model = _read(path)
        _check_external(model, uri, path)
        module = OnnxModule(path, runtime)
        session = module.session("cpu")
    except _errors() as error:
        text = " ".join(str(error).split())
        too_new = re.search(r"Unsupported model IR version.*|Opset \d+ is under development[^.]*", text)
        hint = "export the network again"
        if too_new:
            text, hint = too_new[0], "update onnxruntime, or export the network with an older opset"
        raise uri.refused(
            f"{path} cannot be read as an ONNX network: {type(error).__name__}: {text[:200]}", hint
        ) from error
    module.graph = _described(model, session, uri)
    return module, model


def _check_external(model: Any, uri: Uri, path: Path) -> None:
    """Check that the files with the weights are in or below the folder of the ONNX file."""
    for name in _external(model):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise uri.refused(
                f"{path.name} keeps its weights in {name}, outside of its folder", "put its weights beside it"
            )
        if not (path.parent / name).is_file():
            raise uri.refused(
                f"{path.name} keeps its weights in {name}, which is not beside it", f"copy {name} to {path.parent}"
            )


def fingerprint(path: Path, model: Any) -> str:
    """Return the SHA-256 of an ONNX file, whose content is `model`, and the files that hold its weights."""
    found = hashlib.sha256()
    for file in (path, *(path.parent / name for name in _external(model))):
        with file.open("rb") as opened:
            found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()


class OnnxModule(nn.Module):
    """A network that ONNX Runtime runs. It has no parameters of torch."""

    graph: Graph

    def __init__(self, path: Path, runtime: Any) -> None:
        super().__init__()
        self._path, self._runtime = path, runtime
        self._sessions: dict[str, Any] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits of images (batch, channels, height, width), normalised.

        Raises:
            RuntimeError: The network does not take images of this size.
        """
        graph, count = self.graph, len(images)
        session = self.session(images.device.type)
        given = images.permute(0, 2, 3, 1) if graph.channels_last else images
        array = given.contiguous().cpu().numpy()
        if graph.kind == "tensor(uint8)":
            array = array.round().clip(0, 255)
        array = array.astype(INPUTS[graph.kind])
        step = graph.batch or count
        found = []
        for begin in range(0, count, step):
            part = array[begin : begin + step]
            padded = np.concatenate([part, np.zeros((step - len(part), *part.shape[1:]), part.dtype)])
            try:
                (output,) = session.run(None, {session.get_inputs()[0].name: padded})
            except _errors() as error:
                raise RuntimeError(" ".join(str(error).split())[:200]) from error
            found.append(torch.from_numpy(output)[: len(part)])
        logits = torch.cat(found).float().to(images.device)
        return log_probabilities(logits) if graph.probabilities else logits

    def session(self, device: str) -> Any:
        """Return ONNX Runtime's session for a device; without ONNX Runtime for GPUs, that of the CPU."""
        able = device == "cuda" and "CUDAExecutionProvider" in self._runtime.get_available_providers()
        provider = "CUDAExecutionProvider" if able else "CPUExecutionProvider"
        if provider not in self._sessions:
            options = self._runtime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.inter_op_num_threads = 1
            options.log_severity_level = 4  # fatal: errors are raised too
            self._sessions[provider] = self._runtime.InferenceSession(str(self._path), options, providers=[provider])
        return self._sessions[provider]


def _errors() -> tuple[type[Exception], ...]:
    """Return the errors of reading and running a graph; those of ONNX Runtime share no base class."""
    defined = vars(importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")).values()
    own = (it for it in defined if isinstance(it, type) and issubclass(it, Exception))
    return (OSError, ValueError, RuntimeError, *own)


def _read(path: Path) -> Any:
    """Read a graph without weights in other files.

    Raises:
        ImportError, OSError, ValueError: onnx is not installed, or the file is missing or damaged.
    """
    onnx = importlib.import_module("onnx")
    try:
        return onnx.load(str(path), load_external_data=False)
    except importlib.import_module("google.protobuf.message").DecodeError as error:
        raise ValueError("no ONNX file") from error


def _described(model: Any, session: Any, uri: Uri) -> Graph:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    for what, given, hint in (
        ("inputs", inputs, "export a network that takes images only"),
        ("outputs", outputs, "export it with its logits as only output"),
    ):
        if len(given) != 1:
            raise uri.refused(f"the graph has {len(given)} {what} ({', '.join(it.name for it in given)})", hint)
    kind, shape = inputs[0].type, [it if isinstance(it, int) else None for it in inputs[0].shape]
    if kind not in INPUTS or len(shape) != 4:
        raise uri.refused(
            f"the graph takes {kind} of {len(shape)} dimensions",
            f"it must take a batch of images, of type {', '.join(INPUTS)}",
        )
    channels_last = shape[1] not in (1, 3) and shape[3] in (1, 3)
    batch, channels, height, width = [shape[index] for index in ((0, 3, 1, 2) if channels_last else (0, 1, 2, 3))]
    if height != width:
        raise uri.refused(f"the graph takes images of {height}x{width}", "export it for square images")
    if channels is None:
        weights = {it.name: it.dims for it in model.graph.initializer}
        first = next((it for it in model.graph.node if it.op_type == "Conv" and it.input[1] in weights), None)
        channels = int(weights[first.input[1]][1]) if first is not None else None
    last = next((it for it in model.graph.node if outputs[0].name in it.output), None)
    return Graph(
        channels=channels,
        size=height,
        batch=batch,
        channels_last=channels_last,
        kind=kind,
        probabilities=last is not None and last.op_type == "Softmax",
    )


def cost(model: Any, graph: Graph, *, channels: int, size: int) -> TeacherCostRecord:
    """Count parameters and MACs per image of a network; what the graph does not show is unknown.

    Parameters are the numbers of all weights, except the statistics of BatchNorm and the scales of quantised weights.
    The size is that of floats in float32, as everywhere, and of integers in their own type. MACs are those of
    convolutions and matrix products, from the shapes that onnx infers. `model`, the content of the file, is changed.
    """
    onnx = importlib.import_module("onnx")
    constants = {"BatchNormalization": slice(3, 5), "QuantizeLinear": slice(1, 2), "DequantizeLinear": slice(1, 2)}
    statistics = {
        name for it in model.graph.node if it.op_type in constants for name in it.input[constants[it.op_type]]
    }
    biases = {it.input[0] for it in model.graph.node if it.op_type == "DequantizeLinear"}
    biases |= {name for it in model.graph.node if it.op_type == "QLinearConv" for name in it.input[8:]}
    floats = [it for it in model.graph.initializer if it.data_type in (1, 10, 11, 16)]
    quantised = [it for it in model.graph.initializer if it.data_type in INTEGER_BYTES]
    integers = [it for it in quantised if len(it.dims) > 1 or it.name in biases]  # others are zero points
    params = sum(math.prod(it.dims) for it in (*floats, *integers) if it.name not in statistics)
    size_bytes = sum(math.prod(it.dims) * INTEGER_BYTES.get(it.data_type, 4) for it in (*floats, *integers))
    batch = graph.batch or 1
    dims = (batch, size, size, channels) if graph.channels_last else (batch, channels, size, size)
    own = {it.name for it in model.graph.initializer}
    taken = next(it for it in model.graph.input if it.name not in own)
    for place, number in zip(taken.type.tensor_type.shape.dim, dims, strict=True):
        place.dim_value = number
    del model.graph.value_info[:]
    for it in model.graph.output:
        it.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        macs = _macs(inferred)
        macs = macs // batch if macs is not None else None
    except (onnx.shape_inference.InferenceError, KeyError):
        macs = None
    return TeacherCostRecord(params=params, macs=macs, size_bytes=math.ceil(size_bytes))


def _macs(graph: Any) -> int | None:
    """Count products of convolutions and matrices; None: a shape is unknown, or an operator cannot be counted."""
    shapes: dict[str, list[int]] = {it.name: list(it.dims) for it in graph.initializer}
    for it in (*graph.value_info, *graph.input, *graph.output):
        dims = it.type.tensor_type.shape.dim
        if it.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes.setdefault(it.name, [dim.dim_value for dim in dims])
    total = 0
    for node in graph.node:
        integers = "Integer" in node.op_type or node.op_type.startswith("QLinear")
        if integers or node.op_type in UNCOUNTED or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type in COUNTED:
            total += _products(node, shapes)
    return total


def _products(node: Any, shapes: Mapping[str, list[int]]) -> int:
    """Count the products of one operator.

    Raises:
        KeyError: A shape is not known.
    """
    first, second = shapes[node.input[0]], shapes[node.input[1]]
    output = shapes[node.output[0]]
    if node.op_type == "Conv":
        return math.prod(output) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    transposed = any(it.name == "transA" and it.i for it in node.attribute)
    return math.prod(output) * first[-2 if transposed else -1]
