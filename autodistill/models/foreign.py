"""Networks from elsewhere, by URI: of the user's own code, of torchvision and of timm.

Each function returns a network with the facts that its publisher states about its input and output. With `num_classes`
the network gets a new head for that number of classes; its other weights are the published ones, if the URI names
weights.
"""

import contextlib
import copy
import difflib
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from autodistill import usercode
from autodistill.errors import AutodistillError, ConfigError, near
from autodistill.local_files import local_path
from autodistill.models.checkpoints import DAMAGE, Checkpoint, Facts, read
from autodistill.models.matching import Match, choose, difference, matches, other_shapes
from autodistill.models.uri import FILE_SCHEMES, LOCAL_TIMM, Uri, timm_target, with_option
from autodistill.records import TeacherCostRecord
from autodistill.tensors import seeded
from autodistill.usercode import errors_as, said

HUB_TIMEOUT_S = 5.0
"""Longest wait for an answer of the hub from which timm downloads. By judgement, not measured.
Without this limit, a machine without a network waits for the many attempts of the hub's client."""
LARGEST_HEAD = 6
"""Most tensors of a head of another number of classes: weight and bias of a classifier and of two auxiliary
classifiers, as in GoogLeNet. More tensors of other shapes are another network."""
_OTHER_TYPE = re.compile(r"Half|BFloat16|Double")
"""What torch's errors say about weights that are not float32."""
_ABOUT_SIZES = re.compile(r"\b(sizes?|shapes?|height|width|dim|dimensions?|channels|kernel)\b", re.IGNORECASE)
"""What errors of torch and of libraries say about images that are too small or too large."""
_TIMM_HINT = "run once where the machine may download, without --offline, or name a local copy: timm:local-dir:FOLDER"


@dataclass(frozen=True)
class Foreign:
    """A network from elsewhere."""

    module: nn.Module
    architecture: str
    facts: Facts = field(default_factory=Facts)
    """Facts that its publisher or its checkpoint states."""
    other_names: tuple[str, ...] | None = None
    """The classes of `facts` under other names, in the same order."""
    interpolation: str = "bilinear"
    notes: tuple[str, ...] = ()
    source: str = ""
    """Hash of the code that built it; empty: the printed network shows all of it."""
    other_weights: tuple[str, ...] = ()
    """Kinds of weights in its file that were not chosen: `raw` or `ema`."""
    cost: TeacherCostRecord | None = None
    """None: counted from `module`."""
    fresh: tuple[str, ...] = ()
    """Tensors of the head that were not loaded, because the number of classes is another."""
    channels: int | None = None
    """Channels of its input; None: its first convolution shows them."""

    def input_channels(self, *, default: int) -> int:
        """Return the channels of its input; `default` if it shows neither one nor three."""
        if self.channels is not None:
            return self.channels
        first = next((it for it in self.module.modules() if isinstance(it, nn.Conv2d)), None)
        return first.in_channels if first is not None and first.in_channels in (1, 3) else default


def from_python(uri: Uri, *, num_classes: int | None, offline: bool = False, given: Mapping[str, Any] = {}) -> Foreign:
    """Build a network by a function of the user: `python:FILE.py:FACTORY?weights=FILE&key=value`.

    Args:
        uri: The URI. Options that are not reserved are arguments of the factory.
        num_classes: Number of classes; None: whatever the factory builds.
        offline: Unused.
        given: Values for parameters of the factory that the URI leaves open: `num_classes`, `in_channels`,
            `image_size`. Without `num_classes`, only parameters without a default get them.

    Raises:
        AutodistillError: The factory cannot be imported, fails or returns something else than a network, or the
            weights do not fit.
    """
    module, source = _built_by_factory(uri, given, everything=num_classes is not None)
    module = _unwrapped(module)
    # A factory may return a network that it keeps: its next call must not return what training has changed.
    module = copied(module, uri)
    architecture = uri.target.rpartition(":")[2]
    return _with_file(module, architecture, uri, new_head=num_classes is not None, source=source)


def copied(module: nn.Module, uri: Uri) -> nn.Module:
    """Copy a network, or raise the error for a network that cannot be copied, such as one with lazy layers."""
    lazy = [key for key, it in module.named_parameters() if is_lazy(it)]
    if lazy:
        raise uri.refused(f"{lazy[0]} has no shape yet", "state the sizes of its lazy layers, or call the network once")
    hint = "weights must be parameters; torch.nn.utils.parametrizations.weight_norm can be copied"
    with errors_as(lambda error: uri.refused(f"cannot be copied: {said(error)}", hint)):
        return copy.deepcopy(module)


def needs_contiguous(module: nn.Module, images: Tensor) -> bool:
    """Return whether a network reads its maps in a way that only contiguous memory allows: `x.view(len(x), -1)`.

    Networks run in channels_last memory otherwise, which is faster. `module` is not changed.
    """
    twin = copy.deepcopy(module).eval()
    for parameter in twin.parameters():  # copies of TorchScript have parameters that are no leaves
        parameter.detach_()
    twin = twin.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    try:
        with errors_as(lambda error: ConfigError(str(error))), torch.no_grad(), seeded():
            twin(images)
    except ConfigError as error:  # another error shows where the network is tried
        return "view size is not compatible" in error.message
    return False


def cannot_take(uri: Uri, images: Tensor, mode: str, error: BaseException) -> AutodistillError:
    """Return the error for a network that fails on a batch of images."""
    batch = f"a batch of shape {tuple(images.shape)}{mode and ' '}{mode}"
    text, place = str(error), usercode.place_of(error)
    if _OTHER_TYPE.search(text):
        hint = "its weights must be float32: call .float() on the network"
    elif isinstance(error, RuntimeError | AssertionError | ValueError) and _ABOUT_SIZES.search(text):
        hint = f"state its input size: {with_option(uri.text, 'size=PIXELS')}"
    else:
        hint = f"run the network on such a batch yourself{place and ': it fails in '}{place}"
    return uri.refused(f"cannot take {batch}: {said(error)}", hint)


def _unwrapped(module: nn.Module) -> nn.Module:
    """Return the network inside of DataParallel and `torch.compile`."""
    inner = getattr(module, "_orig_mod", None)
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = module.module
    return _unwrapped(inner) if isinstance(inner, nn.Module) else module


def _with_file(module: nn.Module, architecture: str, uri: Uri, *, new_head: bool, source: str = "") -> Foreign:
    """Load the file of weights that the URI names; without a file, return the network as it is."""
    path = uri.weights().file
    if not path:
        return Foreign(module, architecture, source=source)
    checkpoint = read(local_path(path), uri)
    hint = "check the arguments of the factory" if uri.scheme == "python" else "name the network of this file"
    refusal = f"{path} does not fit the network of {uri.target}"
    match, fresh = _load(module, checkpoint, uri, what=path, refusal=refusal, hint=hint, new_head=new_head)
    facts = checkpoint.facts.model_copy(update={"classes": None}) if new_head else checkpoint.facts
    return Foreign(module, architecture, facts=facts, notes=notes_of(match, uri), source=source, fresh=fresh)


def from_torchvision(uri: Uri, *, num_classes: int | None, offline: bool = False, **unused: Any) -> Foreign:
    """Build a classifier of torchvision: `torchvision:NAME@WEIGHTS`; a student may leave `@WEIGHTS` out.

    A student may also start from a file: `torchvision:NAME?weights=FILE`.

    Raises:
        AutodistillError: The name or the weights are unknown, or the weights cannot be downloaded.
    """
    architecture, weights = _torchvision_weights(uri)
    if weights is None:
        size = uri.size() if uri.role == "student" else None
        module = _torchvision_model(architecture, classes=num_classes or 1000, image_size=size, published=False)
        return _with_file(module, architecture, uri, new_head=num_classes is not None)
    categories, transform = weights.meta["categories"], weights.transforms()
    size = int(transform.crop_size[0])
    module = _torchvision_model(architecture, classes=num_classes or len(categories), image_size=size)
    checkpoint = read(_fetched(weights.url, uri, offline), uri)
    hint = "delete the file in torch's cache: it is downloaded again"
    _, fresh = _load(
        module,
        checkpoint,
        uri,
        what=weights.url,
        refusal=f"not a {architecture}",
        hint=hint,
        new_head=num_classes is not None,
    )
    facts = Facts(
        architecture=architecture,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        image_size=size,
        classes=None if num_classes else tuple(categories),
    )
    return Foreign(module, architecture, facts, interpolation=transform.interpolation.value, fresh=fresh)


def _torchvision_weights(uri: Uri) -> tuple[str, Any]:
    """Return the name and the weights that a URI names; None: a student without weights."""
    import torchvision
    from torchvision.models import get_model_weights, list_models

    architecture, version = uri.target.partition("@")[0], uri.weights().published
    # The list of this module contains image classifiers only, no networks for detection or video.
    known = list_models(module=torchvision.models)
    hint = "write torchvision:NAME@WEIGHTS, for example torchvision:resnet50@IMAGENET1K_V2"
    if architecture not in known:
        raise uri.refused(f"torchvision has no {architecture!r} ({near(architecture, known)})", hint)
    if not version and uri.role == "student":
        return architecture, None
    versions = {str(weights.name): weights for weights in get_model_weights(architecture)}
    if version not in versions:
        raise uri.refused(f"unknown weights {version!r} ({near(version, versions)})", hint)
    return architecture, versions[version]


def published_classes(uri: Uri) -> tuple[str, ...] | None:
    """Return the classes of published weights before they are downloaded; None: they are not known."""
    if uri.scheme != "torchvision":
        return None
    _, weights = _torchvision_weights(uri)
    return None if weights is None else tuple(weights.meta["categories"])


def from_timm(uri: Uri, *, num_classes: int | None, offline: bool = False, **unused: Any) -> Foreign:
    """Build a network of timm with its published weights: `timm:NAME` or `timm:hf-hub:ORG/NAME`.

    A student may state `weights=none` for a fresh initialisation, or `weights=FILE`.

    Raises:
        AutodistillError: timm is not installed, the name is unknown, or the weights are not on this machine.
    """
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise uri.refused("timm is not installed", "pip install 'kd-autodistill[timm]'") from error
    weights = uri.weights()
    pretrained = bool(weights.published)
    if ":" not in uri.target and uri.target.partition(".")[0] not in timm.list_models():
        close = difflib.get_close_matches(uri.target, timm.list_models(), n=3, cutoff=0.5)
        raise uri.refused(
            f"timm has no {uri.target!r} (near: {', '.join(close) or 'nothing'})", "see timm.list_models()"
        )

    more = {} if num_classes is None else {"num_classes": num_classes}

    def created(offline: bool) -> Any:
        with _offline(offline):
            return timm.create_model(timm_target(uri.target), pretrained=pretrained, **more)

    try:
        if offline or not pretrained or uri.target.startswith(LOCAL_TIMM):
            module = created(offline)
        else:
            # The local cache first: without a network the client of the hub tries again and again.
            drawn = torch.get_rng_state()
            try:
                module = created(offline=True)
            except _timm_errors():
                _check_hub(uri)
                torch.set_rng_state(drawn)
                module = created(offline=False)
    except _timm_errors() as error:
        where = "not on this machine, and --offline" if offline else "cannot be loaded"
        raise uri.refused(
            f"{where}: {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}",
            _TIMM_HINT + ("; weights=none starts without weights" if uri.role == "student" else ""),
        ) from error
    if not pretrained:
        return _with_file(module, uri.target, uri, new_head=num_classes is not None)
    published = module.pretrained_cfg
    classes, other_names = _timm_classes(timm, published)
    facts = Facts(
        architecture=uri.target,
        mean=tuple(published["mean"]),
        std=tuple(published["std"]),
        image_size=published["input_size"][-1],
        classes=None if num_classes else classes,
    )
    interpolation = published.get("interpolation", "bilinear")
    return Foreign(
        module,
        uri.target,
        facts,
        other_names=other_names,
        interpolation=interpolation if interpolation in ("bilinear", "bicubic", "nearest") else "bilinear",
        fresh=_timm_head(module) if num_classes not in (None, published.get("num_classes")) else (),
    )


FOREIGN: dict[str, Callable[..., Foreign]] = {
    "python": from_python,
    "torchvision": from_torchvision,
    "timm": from_timm,
}
"""Sources of networks, which teachers and students share. They draw from torch's generator: see `tensors.seeded`."""


def _load(
    module: nn.Module, checkpoint: Checkpoint, uri: Uri, *, what: str, refusal: str, hint: str, new_head: bool
) -> tuple[Match, tuple[str, ...]]:
    """Load the weights of a file into a network.

    With `new_head`, the head may have another number of classes; its tensors then keep their initialisation. `what`,
    `refusal` and `hint` are for errors: the name of the file, and what to say if it holds another network.

    Returns:
        The weights, and the names of the tensors of the head that were not loaded.
    """
    expected = module.state_dict()
    found, misfit = matches(checkpoint, expected)
    if not found:
        raise uri.refused(f"{refusal}: {difference(misfit) if misfit else 'it holds no tensor of this network'}", hint)
    match = choose(found, uri=uri)
    other = sorted(other_shapes(match.state, expected))
    is_head = all(found[1:] == want[1:] and len(found) in (1, 2, 4) for _, found, want in other)
    if other and not (new_head and is_head and len(other) <= LARGEST_HEAD):
        hint = "check its width and the arguments of its factory"
        if is_head:
            hint = f"the file has {other[0][1][0]} classes there: pass their number to the factory"
        shapes = ", ".join(f"{key} is {found}, not {want}" for key, found, want in other[:3])
        raise uri.refused(f"{what} does not fit this network: {shapes}", hint)
    fresh = tuple(key for key, *_ in other)
    module.load_state_dict({key: it for key, it in match.state.items() if key not in fresh}, strict=False)
    return match, fresh


def notes_of(match: Match, uri: Uri) -> tuple[str, ...]:
    """Return what a user should know about the tensors that were taken from the file that a URI names."""
    notes: tuple[str, ...] = ()
    if match.averaged:
        notes += (f"averaged weights are used ({match.place}); weights=raw takes the others, where the file has them",)
    if match.others:
        others = ", ".join(match.others[:3])
        how = "#KEY after its name takes another" if uri.scheme not in FILE_SCHEMES else "weights=KEY takes another"
        notes += (f"the file holds several sets of weights that fit: {match.key} is used, not {others}; {how}",)
    left_out = [key for key in match.dropped if not key.endswith("num_batches_tracked")]
    if left_out:
        more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        notes += (f"tensors of the file left out: {', '.join(left_out[:3])}{more}",)
    return notes


def _built_by_factory(uri: Uri, given: Mapping[str, Any], *, everything: bool) -> tuple[nn.Module, str]:
    """Call a factory; return its network and a hash of its source code and arguments."""
    name = uri.target.rpartition(":")[2]
    factory, code = usercode.function(uri.target, uri.refused)
    stated = uri.arguments()
    arguments = {**_fitting(factory, given, everything=everything), **stated}
    built = usercode.call(uri.target, factory, arguments, uri.refused)
    if not isinstance(built, nn.Module):
        raise uri.refused(f"{name} returns a {type(built).__name__}", "it must return a torch.nn.Module")
    return built, hashlib.sha256(f"{name} {sorted(stated.items())!r}".encode() + code).hexdigest()


def _fitting(factory: Callable[..., Any], given: Mapping[str, Any], *, everything: bool) -> dict[str, Any]:
    """Return the values that a factory takes by name."""
    try:
        parameters = inspect.signature(factory).parameters
    except ValueError:
        return {}
    return {
        name: value
        for name, value in given.items()
        if name in parameters and (everything or parameters[name].default is inspect.Parameter.empty)
    }


def _torchvision_model(
    architecture: str, *, classes: int, image_size: int | None = None, published: bool = True
) -> nn.Module:
    """Build a torchvision network; if `published`, with the options that torchvision uses when it loads weights."""
    from torchvision.models import get_model

    options: dict[str, Any] = {}
    if architecture in ("googlenet", "inception_v3"):
        options = {"transform_input": published, "init_weights": False, "aux_logits": published}
    elif architecture.startswith("vit_") and image_size:
        options = {"image_size": image_size}
    module: nn.Module = get_model(architecture, weights=None, num_classes=classes, **options)
    return module


def _fetched(url: str, uri: Uri, offline: bool) -> Path:
    """Return the file of weights in torch's cache. Download it if it is missing, and verify its hash."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if file.is_file():
        return file
    hint = f"copy the weights to {file} ({url})"
    if offline:
        raise uri.refused(f"not on this machine, and --offline: no {file}", hint)
    prefix = file.stem.rsplit("-", 1)[-1]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_prefix=prefix, progress=False)
    except (OSError, RuntimeError, HTTPException) as error:
        raise uri.refused(f"cannot be downloaded ({error})", hint) from error
    return file


def _timm_errors() -> tuple[type[BaseException], ...]:
    """Return the errors of timm, of damaged files, and of the client of the hub: OSError with requests, or httpx's."""
    httpx = sys.modules.get("httpx")
    return (*DAMAGE, ImportError, *([httpx.HTTPError] if httpx else []))


def _check_hub(uri: Uri) -> None:
    """Refuse a network of timm that is not in the local cache if the hub cannot be reached."""
    hub = importlib.import_module("huggingface_hub")
    try:
        hub.utils.get_session().head(hub.constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
    except _timm_errors() as error:
        raise uri.refused(
            f"not on this machine, and {hub.constants.ENDPOINT} cannot be reached ({type(error).__name__})", _TIMM_HINT
        ) from error


@contextlib.contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Forbid downloads of the Hugging Face client, which timm has imported."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _timm_classes(timm: Any, published: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Return the identifiers of a network's classes, and their descriptions."""
    data = importlib.import_module("timm.data")
    stated = published.get("label_names")
    if stated:
        return tuple(stated), None
    subset = data.infer_imagenet_subset(dict(published))
    if subset is None:
        return None, None
    info = data.ImageNetInfo(subset)
    return tuple(info.label_names()), tuple(it.split(",")[0] for it in info.label_descriptions())


def _timm_head(module: Any) -> tuple[str, ...]:
    head = module.pretrained_cfg.get("classifier") or ()
    heads = (head,) if isinstance(head, str) else tuple(head)
    return tuple(key for key in module.state_dict() if key.startswith(tuple(f"{it}." for it in heads)))
