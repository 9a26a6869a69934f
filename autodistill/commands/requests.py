"""From flags to a request, and back to the command that reproduces it."""

import math
import os
import shlex
from typing import Any

import torch

from autodistill.errors import ConfigError
from autodistill.space import shipped
from autodistill.study import Request

SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


NEAREST_SPACE = {"cifar10": "cifar100", "folder": "cifar100"}


def search_request(
    *,
    student: str = "",
    data: str = "",
    space: str = "",
    device: str = "auto",
    workers: int | None = None,
    timeout: str = "",
    cache_size: str = "8GB",
    **rest: Any,
) -> Request:
    """A request from flags, with their defaults filled in."""
    device = _device(device)
    request = Request(
        student=student,
        data=data,
        space=space or _space_for(data),
        device=device,
        workers=workers or (1 if device.startswith("cuda") else _cores()),
        timeout_s=_number(timeout, SECONDS, "--timeout") if timeout else None,
        cache_bytes=int(_number(cache_size, SIZES, "--cache-size")),
        **rest,
    )
    return request.model_copy(update={"command": _command(request)})


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _space_for(data: str) -> str:
    name = data.split(":")[0]
    return name if name in shipped() else NEAREST_SPACE.get(name, "digits")


def _device(asked: str) -> str:
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {asked}: no CUDA device here", "use --device cpu")
    if asked.split(":")[0] not in ("cpu", "cuda"):
        raise ConfigError(f"--device {asked}: unknown (allowed: auto, cpu, cuda, cuda:N)")
    return asked


def _number(text: str, units: dict[str, int], flag: str) -> float:
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


def _command(request: Request) -> str:
    """The command that reproduces a study; what changes no result is left out."""
    parts = ["autodistill", "search", "--student", request.student, "--space", request.space]
    for key in ("data", "budget", "study"):
        if value := getattr(request, key):
            parts += [f"--{key}", value]
    for flag, values in (("--teacher", request.teachers), ("--set", request.overrides)):
        for value in values:
            parts += [flag, value]
    if request.seed is not None:
        parts += ["--seed", str(request.seed)]
    if request.max_trials is not None:
        parts += ["--max-trials", str(request.max_trials)]
    return shlex.join(parts)
