"""Versions and machine, as far as they could change a result."""

import platform
from importlib import metadata
from pathlib import Path

import torch

from autodistill.machine import usable_cores
from autodistill.teachers import computed_as
from autodistill.workers.standby import ALLOCATOR


def environment(device: str) -> dict[str, str]:
    """Versions and machine, as far as they could change a result."""
    packages = ("torch", "torchvision", "optuna", "scikit-learn", "numpy", "scipy")
    found = {"autodistill": _version("kd-autodistill"), "python": platform.python_version()}
    found |= {name: _version(name) for name in packages}
    found |= {"platform": platform.platform(), "processor": processor(), "cores": str(usable_cores())}
    found["device"] = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    found["teacher logits"] = computed_as(torch.device(device))
    found["threads of a worker"] = str(torch.get_num_threads()) if device.startswith("cuda") else "1"
    found["allocator of workers"] = " ".join(f"{name}={value}" for name, value in ALLOCATOR.items())
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """Return the processor's name, from /proc/cpuinfo where `platform` does not know it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
