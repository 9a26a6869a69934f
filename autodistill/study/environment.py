"""Versions and hardware that can change a result."""

import platform
from importlib import metadata
from pathlib import Path

import torch

from autodistill.executors.local import MALLOPT
from autodistill.machine import usable_cores
from autodistill.teachers import computed_as


def environment(device: str) -> dict[str, str]:
    """Return versions and hardware that can change a result, by name."""
    packages = ("torch", "torchvision", "optuna", "scikit-learn", "numpy", "scipy")
    gpu = device.startswith("cuda")
    return {
        "autodistill": _version("kd-autodistill"),
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "platform": platform.platform(),
        "processor": processor(),
        "cores": str(usable_cores()),
        "device": device_name(device) if gpu else "cpu",
        "teacher logits": computed_as(torch.device(device)),
        "threads of a worker": str(torch.get_num_threads()) if gpu else "1",
        "allocator of workers": " ".join(f"{name}={value}" for name, (_, value) in MALLOPT.items()),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def device_name(device: str) -> str:
    """Return the name of a GPU. A machine that only drives a cluster may have no GPU itself."""
    return torch.cuda.get_device_name(device) if torch.cuda.is_available() else "GPU of the cluster"


def processor() -> str:
    """Return the name of the processor: from /proc/cpuinfo if it exists, else from `platform`."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
