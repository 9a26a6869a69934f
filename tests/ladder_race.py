"""A small ladder, and what one of two processes does with it at once."""

import sys
import time
from pathlib import Path
from typing import Any

from autodistill.config import DataSpec, LadderSpec, Space, TrainingSpec
from autodistill.data import load as load_data
from autodistill.data.views import View
from autodistill.logit_cache import LogitCache
from autodistill.teachers.ladder import load_trained, path_of
from autodistill.training import train_teacher

ARCHITECTURE = "resnet8:0.25"
SPEC = DataSpec(train=250, validation=200, test=50)


def ladder_space(**ladder: Any) -> Space:
    return Space(
        data=SPEC.model_copy(update={"crop": 1}),
        training=TrainingSpec(epochs=4, rung_epochs=1, batch_size=25),
        ladder=LadderSpec(**{"architectures": (ARCHITECTURE,), "epochs": 5, **ladder}),
    )


def race(root: str, ready: str, go: str, out: str) -> None:
    """Wait for `go`, then train a ladder teacher unless it is kept, compute two of its views, count both."""
    space, data, uri = ladder_space(), load_data(SPEC), f"ladder:{ARCHITECTURE}"
    Path(ready).touch()
    while not Path(go).exists():
        time.sleep(0.01)
    epochs = len(list(train_teacher(uri, root=Path(root), data=data, space=space)))
    teacher = load_trained(uri, path_of(uri, root=Path(root), data=data.fingerprint, space=space), data=data)
    cache = LogitCache(Path(root), data=data, view=View(0, 1, False), say=print)
    for number in (0, 1):
        cache.training(teacher, number)
    Path(out).write_text(f"{epochs} {cache.computed}")


if __name__ == "__main__":
    race(*sys.argv[1:])
