"""What the tests of workers share: a small setting, requests, the pool's processes."""

import multiprocessing
from pathlib import Path

from autodistill.config import Space
from autodistill.records import RunEnded, RunRequest, TrialParams
from autodistill.workers import Message, Setup

SPACE = Space.model_validate(
    {
        "data": {"name": "digits", "train": 100, "validation": 100, "test": 100, "crop": 1},
        "training": {"epochs": 4, "short_epochs": 1, "batch_size": 25},
        "ladder": {"architectures": ("resnet8:0.25",), "epochs": 10},
    }
)

PARAMS = TrialParams(teacher="weak", rule="isats", rule_params={"target_ratio": 5 / 3}, soft_weight=0.5)


def setup(home: Path, *, space: Space = SPACE) -> Setup:
    return Setup(
        space=space,
        student="resnet8:0.25",
        teachers={"weak": "ladder:resnet8:0.25", "gone": "file:nowhere.safetensors?arch=resnet8"},
        views=4,
        device="cpu",
        runs=str(home / "runs"),
        cache=str(home / "cache"),
    )


def diverging() -> Space:
    return SPACE.model_copy(update={"training": SPACE.training.model_copy(update={"lr": 1e30})})


def request(run: str, *, teacher: str | None = None, epochs: int = 4) -> RunRequest:
    params = PARAMS.model_copy(update={"teacher": teacher}) if teacher else TrialParams()
    return RunRequest(run=run, params=params, seed=3, epochs=epochs)


def children() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def ended(messages: list[Message]) -> RunEnded:
    (found,) = (message for message in messages if isinstance(message, RunEnded))
    return found
