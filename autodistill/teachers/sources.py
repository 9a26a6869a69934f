"""Teacher sources by URI scheme. The functions in `SOURCES` return a network with its preprocessing."""

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from autodistill.data import Data
from autodistill.errors import AutodistillError, ConfigError, TeacherError, near, printable
from autodistill.local_files import local_path
from autodistill.models import MODELS, onnx_graph
from autodistill.models.checkpoints import Facts, read
from autodistill.models.foreign import FOREIGN, Foreign, cannot_take, needs_contiguous, notes_of, published_classes
from autodistill.models.matching import identify
from autodistill.models.preprocessing import INTERPOLATIONS, class_columns, normalisation, stated_classes
from autodistill.models.uri import FACTS, Uri, name_of, parse
from autodistill.records import TRAINED_HERE
from autodistill.teachers.tables import load_table
from autodistill.teachers.teacher import Teacher, ensemble, ready
from autodistill.tensors import kind_of, log_probabilities, seeded
from autodistill.usercode import errors_as

TRAINED = tuple(scheme.removesuffix(":") for scheme in TRAINED_HERE)
"""Schemes of teachers that autodistill trains."""


@dataclass(frozen=True)
class Loading:
    """What a source needs besides the URI."""

    data: Data
    name: str
    offline: bool
    study: Mapping[str, str] = field(default_factory=dict)
    """URIs of the teachers of the study by name."""
    member: Callable[[str], Teacher] | None = None
    """Loads a teacher of the study by name; None: it is loaded from its URI."""


def load(
    uri: str,
    *,
    data: Data,
    offline: bool = False,
    name: str | None = None,
    shown_as: str | None = None,
    study: Mapping[str, str] = {},
    member: Callable[[str], Teacher] | None = None,
) -> Teacher:
    """Load a teacher.

    Args:
        uri: URI of the teacher, for example `file:PATH?arch=NAME`.
        data: The study's data.
        offline: Whether downloads are forbidden.
        name: Name of the teacher in tables; None: taken from the URI.
        shown_as: URI in records; None: `uri`.
        study: URIs of the teachers of the study by name, to which an ensemble refers.
        member: Loads a member of an ensemble by its name in the study, trained teachers included; None: members are
            loaded from their URIs.

    Raises:
        TeacherError: The scheme or an option is unknown, the file is missing, damaged, of another network or contains
            code, or the classes differ.
    """
    check_scheme(uri, trained_here=())
    teacher = SOURCES[uri.partition(":")[0]](parse(uri), Loading(data, name or name_of(uri), offline, study, member))
    return replace(teacher, uri=shown_as) if shown_as else teacher


def check_scheme(uri: str, trained_here: Sequence[str] = TRAINED) -> None:
    """Raise `TeacherError` if the scheme of a teacher's URI is neither in SOURCES nor in `trained_here`."""
    scheme, colon, _ = uri.partition(":")
    if colon and scheme in (*SOURCES, *trained_here):
        return
    own = "file:PATH, or python:FILE.py:FACTORY?weights=PATH"
    guess = f"file:{uri}" if Path(uri).expanduser().exists() else own
    raise TeacherError(
        f"teacher {uri!r}: unknown scheme {scheme!r} ({near(scheme, [*SOURCES, *TRAINED])})",
        f"name a checkpoint as {guess}",
    )


def _from_file(uri: Uri, loading: Loading) -> Teacher:
    """Load a checkpoint of a known network."""
    return finished(known_network(uri, loading.data), uri, loading)


def known_network(uri: Uri, data: Data) -> Foreign:
    """Build the network of a checkpoint file."""
    uri.check_options((*FACTS, "arch", "weights"))
    checkpoint = read(local_path(uri.target), uri)
    facts, own_size = checkpoint.facts, data.image_shape[1]
    stated = uri.options.get("arch")
    if stated is not None:
        names = [stated]
    else:
        # What a file says is a preference: other code uses the same names for other networks.
        told = facts.architecture or ""
        names = [told, *(it for it in MODELS if it != told)] if told.partition(":")[0] in MODELS else list(MODELS)
    size = uri.size() or facts.image_size
    # The images of a network may have another size than those for which its layers are laid out.
    sizes = list(dict.fromkeys((size or own_size, own_size, 32, 224)))
    try:
        fit = identify(checkpoint, data, names=names, sizes=sizes, uri=uri)
    except ConfigError as error:
        raise uri.refused(error.message, error.hint or "see arch=NAME") from error
    notes = notes_of(fit.match, uri)
    if stated is None and facts.architecture != fit.architecture:
        notes += (f"identified as {fit.architecture} by its tensors",)
    return Foreign(
        fit.module,
        fit.architecture,
        facts.model_copy(update={"image_size": size or (fit.size if fit.size != own_size else None)}),
        notes=notes,
        other_weights=fit.other_weights,
        channels=fit.channels,
    )


def _from_network(uri: Uri, loading: Loading) -> Teacher:
    """Load a network of the user's code, of torchvision or of timm, with its weights."""
    if uri.scheme != "python":
        uri.check_options(FACTS)
    classes = published_classes(uri)
    if classes is not None:
        class_columns(uri, stated_classes(uri) or classes, len(classes), loading.data)
    return finished(foreign_network(uri, loading, num_classes=None), uri, loading)


def foreign_network(uri: Uri, loading: Loading, *, num_classes: int | None) -> Foreign:
    """Build a network of the user's code, of torchvision or of timm.

    With `num_classes` its head is a new one, where the source can build that.
    """
    channels, own_size, _ = loading.data.image_shape
    shape = {"num_classes": loading.data.num_classes, "in_channels": channels, "image_size": own_size}
    if num_classes is not None:
        shape["image_size"] = uri.size() or own_size
    with seeded():
        return FOREIGN[uri.scheme](uri, num_classes=num_classes, offline=loading.offline, given=shape)


def _from_onnx(uri: Uri, loading: Loading) -> Teacher:
    """Load a network that ONNX Runtime runs."""
    uri.check_options(FACTS)
    path = local_path(uri.target)
    module, model = onnx_graph.network(uri, path)
    graph, stated = module.graph, uri.size()
    if graph.size and stated and stated != graph.size:
        raise uri.refused(f"size={stated}: the graph takes {graph.size}x{graph.size}", "leave size out")
    channels = graph.channels or loading.data.image_shape[0]
    size = graph.size or stated or loading.data.image_shape[1]
    raw = {"mean": (0.0,) * channels, "std": (1 / 255,) * channels} if graph.kind == "tensor(uint8)" else {}
    softmax = "its output is a softmax: the logarithms of its probabilities are used as logits"
    network = Foreign(
        module,
        "ONNX",
        Facts(image_size=graph.size, **raw),
        notes=(softmax,) if graph.probabilities else (),
        source=onnx_graph.fingerprint(path, model),
        cost=onnx_graph.cost(model, graph, channels=channels, size=size),
        channels=channels,
    )
    return finished(network, uri, loading)


def _from_table(uri: Uri, loading: Loading) -> Teacher:
    """Load a table of logits."""
    uri.check_options(("name", "classes", "accept"))
    return load_table(uri, loading.data, name=loading.name)


def _from_ensemble(uri: Uri, loading: Loading) -> Teacher:
    """Load the members of an ensemble."""
    members = []
    for name in members_of(uri.text, loading.study):
        try:
            if loading.member is not None:
                members.append(loading.member(name))
            else:
                members.append(load(loading.study[name], data=loading.data, offline=loading.offline, name=name))
        except AutodistillError as error:
            raise uri.refused(f"member {name}: {error.message}", error.hint) from error
    return ensemble(members, name=loading.name, uri=uri.text)


def members_of(text: str, study: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the members of an ensemble, `ensemble:a+b`; `study` holds the study's URIs by name.

    Raises:
        TeacherError: There are fewer than two members, or a member is unknown or an ensemble, or named twice.
    """
    uri = parse(text)
    uri.check_options(("name",))
    names = tuple(name.strip() for name in uri.target.split("+") if name.strip())
    hint = "name at least two teachers of this study: ensemble:NAME+NAME"
    if len(names) < 2:
        raise uri.refused("an ensemble has at least two members", hint)
    for name in names:
        if name not in study:
            raise uri.refused(f"no teacher of this study is named {name!r} ({near(name, study)})", hint)
        if names.count(name) > 1:
            raise uri.refused(f"{name!r} is named twice", "name every member once")
        if is_ensemble(study[name]):
            raise uri.refused(f"{name!r} is an ensemble itself", "name its members")
    return names


def is_ensemble(uri: str) -> bool:
    """Return whether a URI names an ensemble."""
    return uri.startswith("ensemble:")


def candidates(uri: str) -> tuple[list[str], list[str]]:
    """Replace a folder or a pattern, as in `file:runs` or `adapt:file:runs/*.pt`, by the files in it, in sorted order.

    Returns:
        A URI for each checkpoint, and the names of files of a folder that are no checkpoints. Any other URI is
        returned as it is.

    Raises:
        TeacherError: Nothing matches, a file that matches a pattern is no checkpoint, or no file in a folder is one.
    """
    if uri.startswith("adapt:"):
        sources, strays = candidates(uri.removeprefix("adapt:"))
        return [f"adapt:{it}" for it in sources], strays
    parsed = parse(uri)
    path = Path(parsed.target).expanduser()
    is_pattern = not os.path.exists(path) and any(sign in parsed.target for sign in "*?[")
    if parsed.scheme != "file" or not (os.path.isdir(path) or is_pattern):
        return [uri], []
    if is_pattern:
        files = sorted(Path(it) for it in glob.glob(str(path), recursive=True) if Path(it).is_file())
    else:
        files = sorted(it for it in path.iterdir() if it.is_file() and not it.name.startswith("."))
    found = [it for it in files if looks_like_checkpoint(it)]
    others = [it for it in files if it not in found]
    if is_pattern and others:
        raise parsed.refused(
            f"{others[0]} is no checkpoint of torch or safetensors ({len(others)} of {len(files)} files that match)",
            "narrow the pattern, for example file:RUNS/*.pt",
        )
    if is_pattern and not found:
        raise parsed.refused("no file matches this pattern", "check the path; ** stands for folders at any depth")
    if not found:
        held = ", ".join(it.name for it in others[:3]) or "no file"
        raise parsed.refused(f"the folder holds no checkpoint, but {held}", "name a file, or a pattern: file:RUNS/*.pt")
    if other := next((name for it in found if printable(name := str(it)) != name), ""):
        raise parsed.refused(f"{printable(other)}: the name holds bytes that are not UTF-8", "rename the file")
    text = uri.removeprefix("file:")
    # The name of a folder may contain a question mark.
    options = text.removeprefix(parsed.target) if text.startswith(parsed.target) else "?" + text.partition("?")[2]
    return [f"file:{it}{options if parsed.options else ''}" for it in found], [it.name for it in others]


def looks_like_checkpoint(path: Path) -> bool:
    """Return whether a file begins like one of torch or safetensors."""
    with path.open("rb") as file:
        begin = file.read(9)
    pickled = begin[:1] == b"\x80" and begin[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return pickled or begin.startswith(b"PK\x03\x04") or begin[8:9] == b"{"


def finished(network: Foreign, uri: Uri, loading: Loading) -> Teacher:
    """Create a teacher from a loaded network. Options of the URI have priority over the facts about the network."""
    data, facts = loading.data, network.facts
    own_channels, own_size, _ = data.image_shape
    channels = network.input_channels(default=own_channels)
    if channels != own_channels and not (channels == 3 and own_channels == 1):
        raise uri.refused(
            f"takes images of {channels} channels, {data.name} has {own_channels}",
            f"name a teacher trained on {own_channels}-channel images",
        )
    size = uri.size() or facts.image_size
    chosen = normalisation(uri, facts, data, channels)
    module, notes = network.module, network.notes
    outputs, kind = probe(module, uri, channels=channels, size=size or own_size)
    contiguous = uri.scheme in FOREIGN and needs_contiguous(module, torch.zeros(2, channels, *2 * [size or own_size]))
    if kind == "softmax":
        module = LogProbabilities(module)
        notes += ("its outputs are probabilities: their logarithms are used as logits",)
    if kind == "sigmoid":
        notes += (
            "its outputs look like the probabilities of a sigmoid and are used as logits: if they are, return the "
            "logits before the sigmoid",
        )
    stated = stated_classes(uri)
    other_names = None if stated else network.other_names
    teacher = Teacher(
        name=loading.name,
        uri=uri.text,
        architecture=network.architecture,
        module=module,
        normalisation=chosen,
        channels=channels,
        input_size=None if size == own_size else size,
        interpolation=uri.choice("interpolation", tuple(INTERPOLATIONS)) or network.interpolation,
        columns=class_columns(uri, stated or facts.classes, outputs, data, other_names=other_names),
        bgr=uri.choice("order", ("rgb", "bgr")) == "bgr",
        accepted=uri.choice("accept", ("yes", "no")) == "yes",
        other_weights=network.other_weights,
        memory_format=torch.contiguous_format if contiguous else torch.channels_last,
        notes=notes,
        cost=network.cost,
    )
    return ready(teacher, source=network.source)


def logits_for(module: nn.Module, images: Tensor, uri: Uri) -> Tensor:
    """Run a network on images; refuse a network that does not return logits."""
    with errors_as(partial(cannot_take, uri, images, "")), torch.inference_mode():
        output = module.eval()(images.clone())
    count = len(images)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != count or not output.is_floating_point():
        what = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise uri.refused(f"returns {what} for a batch of {count} images", "it must return logits: (batch, classes)")
    return output


class LogProbabilities(nn.Module):
    """A network that ends in a softmax, with the logarithms of its probabilities as logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return log_probabilities(self.network(images))


def probe(module: nn.Module, uri: Uri, *, channels: int, size: int) -> tuple[int, str]:
    """Return the number of a network's outputs, and what they look like: `softmax`, `sigmoid` or `logits`.

    Raises:
        AutodistillError: The network does not return logits, or its outputs differ between two calls or depend on the
            other images of the batch.
    """
    images = torch.randn((4, channels, size, size), generator=torch.Generator().manual_seed(0))
    alone, first, again = (logits_for(module, it, uri).double() for it in (images[:2], images, images))
    spread = float(first.nan_to_num().abs().max()) + 1e-6
    if not torch.allclose(first, again, rtol=1e-3, atol=1e-3 * spread, equal_nan=True):
        raise uri.refused(
            "gives other logits for the same images when it is asked again",
            "a teacher must not draw random numbers in evaluation mode, for example by F.dropout(training=True)",
        )
    if not torch.allclose(first[:2], alone, rtol=1e-2, atol=1e-2 * spread, equal_nan=True):
        raise uri.refused(
            "gives logits that depend on the other images of the batch",
            "a BatchNorm must use its running statistics in evaluation mode",
        )
    return first.shape[1], kind_of(first)


SOURCES: dict[str, Callable[[Uri, Loading], Teacher]] = {
    "file": _from_file,
    "python": _from_network,
    "torchvision": _from_network,
    "timm": _from_network,
    "onnx": _from_onnx,
    "logits": _from_table,
    "ensemble": _from_ensemble,
}
