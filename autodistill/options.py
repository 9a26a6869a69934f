"""Convert flags to search options, and search options to the command that reproduces a study."""

import math
import shlex
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from autodistill.config import shipped
from autodistill.errors import ConfigError
from autodistill.machine import memory_bytes, usable_cores
from autodistill.records import CostKind, StudentBudget
from autodistill.study import OWN_SPACE, SearchOptions, label, study_name

Units = Mapping[str, int | float]

SIZES: Units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
COUNTS: Units = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
MILLISECONDS: Units = {"": 1, "us": 1e-3, "ms": 1, "s": 1e3}
SECONDS: Units = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
LIMITS: dict[CostKind, tuple[str, Units]] = {
    "params": ("--max-params", COUNTS),
    "macs": ("--max-macs", COUNTS),
    "size_bytes": ("--max-size", SIZES),
    "latency_ms": ("--max-latency", MILLISECONDS),
}
"""Flag of each limit on students, and its units."""
NEAREST_SPACE = {"cifar10": "cifar100", "arrays": OWN_SPACE, "python": OWN_SPACE, "torchvision": OWN_SPACE}
"""Default spaces of datasets that have no space of their own."""
COMPARED = ("ts", "isats", "dkd")
"""Methods of a grid where none is named."""


class StudentsToSearch(NamedTuple):
    """Students that are searched one after another and then compared."""

    name: str
    command: str
    options: tuple[SearchOptions, ...]
    """Options of each student."""

    @property
    def limits(self) -> StudentBudget:
        return self.options[0].limits


def students_to_search(
    *,
    students: Sequence[str],
    study: str = "",
    max_params: str = "",
    max_macs: str = "",
    max_size: str = "",
    max_latency: str = "",
    **rest: Any,
) -> StudentsToSearch:
    """Return the options of each student. Without `study`, each student uses the study of a search for it alone."""
    texts = {"params": max_params, "macs": max_macs, "size_bytes": max_size, "latency_ms": max_latency}
    limits = StudentBudget(**{kind: _limit(texts[kind], *how) for kind, how in LIMITS.items() if texts[kind]})
    several = len(students) > 1
    names = [f"{study}-{label(student)}".replace(":", "-") if several and study else study for student in students]
    options = tuple(
        search_options(student=student, study=name, limits=limits, **rest)
        for student, name in zip(students, names, strict=True)
    )
    whole = options[0].model_copy(update={"study": study})
    name = study or study_name(whole.space, students, data=whole.data, grid=bool(whole.methods))
    return StudentsToSearch(name, _command(whole, students), options)


def search_options(  # noqa: PLR0913 - the options of a search
    *,
    student: str = "",
    teachers: Sequence[str] | None = None,
    methods: Sequence[str] = (),
    data: str = "",
    space: str = "",
    device: str = "auto",
    workers: int | str = "auto",
    overrides: Sequence[str] | None = None,
    timeout: str = "",
    cache_size: str = "8GB",
    ray: str = "",
    per_gpu: int = 1,
    insecure: bool = False,
    **rest: Any,
) -> SearchOptions:
    """Return search options from flags, with defaults filled in."""
    if not space:
        dataset = data.split(":")[0]
        space = dataset if dataset in shipped() else NEAREST_SPACE.get(dataset, "digits")
    if not ray and (insecure or per_gpu != 1):
        flag = "--insecure" if insecure else f"--per-gpu {per_gpu}"
        raise ConfigError(f"{flag}: has an effect with --ray only", "leave it out, or name a cluster with --ray")
    if ray:
        device, slots = cluster(ray, device, per_gpu=per_gpu, insecure=insecure)
        workers = slots if workers == "auto" else workers
    else:
        device = device_for(device)
    options = SearchOptions(
        student=student,
        teachers=tuple(teachers or ()),
        methods=tuple(methods),
        data=data,
        space=space,
        device=device,
        workers=_workers(workers, device=device),
        fill_gpu=workers == "auto" and device.startswith("cuda"),
        overrides=tuple(overrides or ()),
        ray=ray,
        per_gpu=per_gpu,
        timeout_s=_number(timeout, "--timeout", SECONDS) if timeout else None,
        cache_bytes=int(_number(cache_size, "--cache-size", SIZES)),
        **rest,
    )
    return options.model_copy(update={"command": _command(options, [student])})


def cluster(address: str, device: str, *, per_gpu: int, insecure: bool) -> tuple[str, int]:
    """Connect to a Ray cluster, as `connected`; return the device of its actors and their number."""
    from autodistill.executors.ray import connected, slots_of

    resources = connected(address, insecure=insecure).cluster_resources()
    if device == "auto":
        device = "cuda" if resources.get("GPU") else "cpu"
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"--device {device}: with --ray, Ray chooses the GPU (allowed: auto, cpu, cuda)")
    return device, slots_of(resources, gpu=device == "cuda", per_gpu=per_gpu)


def device_for(name: str) -> str:
    """Return torch's name of the device that `--device` requests; raise a ConfigError where it is not available."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: no CUDA device here", "use --device cpu")
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name}: unknown (allowed: auto, cpu, cuda, cuda:N)")
    return name


def _workers(requested: int | str, *, device: str) -> int:
    if requested == "auto":
        if device.startswith("cuda"):
            return torch.cuda.device_count() if device == "cuda" else 1
        return min(usable_cores(), max(1, memory_bytes() // 2**30))
    if not str(requested).isdecimal() or int(requested) == 0:
        raise ConfigError(f"--workers {requested}: must be a number above 0, or auto")
    return int(requested)


def _limit(text: str, flag: str, units: Units) -> int | float:
    """Return a limit on students; only a latency may be a fraction."""
    number = _number(text, flag, units)
    if units is MILLISECONDS:
        return number
    if round(number) < 1:
        raise ConfigError(f"{flag} {text}: must be at least 1")
    return round(number)


def _number(text: str, flag: str, units: Units) -> float:
    digits = text.rstrip(string.ascii_letters)
    try:
        number = float(digits) * units[text[len(digits) :]]
    except (ValueError, KeyError):
        number = 0.0
    if not 0 < number < math.inf:
        allowed = ", ".join(unit for unit in units if unit)
        raise ConfigError(f"{flag} {text}: must be a number above 0 with one of {allowed}")
    return number


def _command(options: SearchOptions, students: Sequence[str]) -> str:
    """Return the command that reproduces a study, without options that change no result."""
    limits = options.limits.given
    values_by_flag: list[tuple[str, Iterable[object]]] = [
        ("--student", students),
        ("--space", [options.space]),
        *((LIMITS[kind][0], [repr(limit).removesuffix(".0")]) for kind, limit in limits.items()),
        ("--data", filter(None, [options.data])),
        ("--budget", filter(None, [options.budget])),
        ("--study", filter(None, [options.study])),
        ("--teacher", options.teachers),
        ("--method", [] if options.default_methods else filter(None, [",".join(options.methods)])),
        ("--set", options.overrides),
        ("--seed", [] if options.seed is None else [options.seed]),
        ("--max-trials", [] if options.max_trials is None else [options.max_trials]),
    ]
    flags = [part for flag, values in values_by_flag for value in values for part in (flag, str(value))]
    command = "compare" if options.methods else "search"
    return shlex.join(["autodistill", command, *flags, *["--audit-pruning"] * options.audit_pruning])
