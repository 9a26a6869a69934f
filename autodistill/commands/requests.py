"""From flags to a request, and back to the command that reproduces it."""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from autodistill.config import shipped
from autodistill.errors import ConfigError
from autodistill.machine import memory_bytes, usable_cores
from autodistill.records import CostKind, StudentBudget
from autodistill.storage.depot import checked_depot
from autodistill.study import Request, study_name

SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


COUNTS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}


MILLISECONDS = {"": 1, "us": 1e-3, "ms": 1, "s": 1e3}


SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


LIMIT_FLAGS: dict[CostKind, str] = {
    "params": "--max-params",
    "macs": "--max-macs",
    "size_bytes": "--max-size",
    "latency_ms": "--max-latency",
}


NEAREST_SPACE = {"cifar10": "cifar100", "folder": "cifar100"}


class Family(NamedTuple):
    """Students to be searched one by one, then compared."""

    name: str
    command: str
    requests: tuple[Request, ...]

    @property
    def limits(self) -> StudentBudget:
        return self.requests[0].limits


def search_family(
    *,
    students: Sequence[str],
    study: str = "",
    max_params: str = "",
    max_macs: str = "",
    max_size: str = "",
    max_latency: str = "",
    **rest: Any,
) -> Family:
    """A request for each student; each has the study that it would have alone, where none is named."""
    limits = StudentBudget(
        params=_whole(max_params, COUNTS, "--max-params"),
        macs=_whole(max_macs, COUNTS, "--max-macs"),
        size_bytes=_whole(max_size, SIZES, "--max-size"),
        latency_ms=_number(max_latency, MILLISECONDS, "--max-latency") if max_latency else None,
    )
    several = len(students) > 1
    names = [f"{study}-{student}".replace(":", "-") if several and study else study for student in students]
    requests = tuple(
        search_request(student=student, study=name, limits=limits, **rest)
        for student, name in zip(students, names, strict=True)
    )
    whole = requests[0].model_copy(update={"study": study})
    name = study or study_name(whole.space, students)
    return Family(name, _command(whole, students), requests)


def search_request(
    *,
    student: str = "",
    data: str = "",
    space: str = "",
    device: str = "auto",
    workers: int | str = "auto",
    timeout: str = "",
    cache_size: str = "8GB",
    **rest: Any,
) -> Request:
    """A request from flags, with their defaults filled in."""
    _check_artifacts(str(rest.get("artifacts", "")), storage=str(rest.get("storage", "")))
    device = device_for(device)
    request = Request(
        student=student,
        data=data,
        space=space or _space_for(data),
        device=device,
        workers=_workers(workers, device=device, storage=str(rest.get("storage", ""))),
        fill_gpu=workers == "auto" and device.startswith("cuda"),
        timeout_s=seconds(timeout, "--timeout") if timeout else None,
        cache_bytes=int(_number(cache_size, SIZES, "--cache-size")),
        **rest,
    )
    return request.model_copy(update={"command": _command(request, (request.student,))})


def _check_artifacts(url: str, *, storage: str) -> None:
    if url and not storage:
        raise ConfigError(
            f"--artifacts {url}: is for workers that share a database", "name it: --storage postgresql://..."
        )
    if url:
        checked_depot(url)


def _workers(asked: int | str, *, device: str, storage: str) -> int:
    """How many processes to start here."""
    if asked == "auto":
        return _gpus(device) if device.startswith("cuda") else min(usable_cores(), max(1, memory_bytes() // 2**30))
    if not str(asked).isdecimal():
        raise ConfigError(f"--workers {asked}: must be a number or auto")
    if int(asked) == 0 and not storage:
        raise ConfigError(
            "--workers 0: nobody would train",
            "0 only coordinates workers elsewhere: name the database that they share, --storage postgresql://...",
        )
    return int(asked)


def _gpus(device: str) -> int:
    return torch.cuda.device_count() if device == "cuda" else 1


def _space_for(data: str) -> str:
    name = data.split(":")[0]
    return name if name in shipped() else NEAREST_SPACE.get(name, "digits")


def device_for(asked: str) -> str:
    """The device that a flag means.

    Raises:
        ConfigError: it is not here, or unknown.
    """
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {asked}: no CUDA device here", "use --device cpu")
    if asked.split(":")[0] not in ("cpu", "cuda"):
        raise ConfigError(f"--device {asked}: unknown (allowed: auto, cpu, cuda, cuda:N)")
    return asked


def _whole(text: str, units: Mapping[str, int | float], flag: str) -> int | None:
    if not text:
        return None
    number = round(_number(text, units, flag))
    if number < 1:
        raise ConfigError(f"{flag} {text}: must be at least 1")
    return number


def seconds(text: str, flag: str) -> float:
    return _number(text, SECONDS, flag)


def _number(text: str, units: Mapping[str, int | float], flag: str) -> float:
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = text[len(digits) :]
    try:
        number = float(digits) * units[unit]
    except (ValueError, KeyError):
        number = 0.0
    if not 0 < number < math.inf:
        allowed = ", ".join(unit for unit in units if unit)
        raise ConfigError(f"{flag} {text}: must be a number above 0 with one of {allowed}")
    return number


def _command(request: Request, students: Sequence[str]) -> str:
    """The command that reproduces a study; what changes no result is left out."""
    limits = request.limits.given
    options: list[tuple[str, Iterable[object]]] = [
        ("--student", students),
        ("--space", [request.space]),
        *((LIMIT_FLAGS[kind], [f"{limit:g}" if kind == "latency_ms" else limit]) for kind, limit in limits.items()),
        ("--data", filter(None, [request.data])),
        ("--budget", filter(None, [request.budget])),
        ("--study", filter(None, [request.study])),
        ("--teacher", request.teachers),
        ("--set", request.overrides),
        ("--seed", [] if request.seed is None else [request.seed]),
        ("--max-trials", [] if request.max_trials is None else [request.max_trials]),
    ]
    flags = [part for flag, values in options for value in values for part in (flag, str(value))]
    switches = {"--async": request.asynchronous, "--audit-pruning": request.audit_pruning}
    return shlex.join(["autodistill", "search", *flags, *(switch for switch, on in switches.items() if on)])
