"""Fine-tune a pretrained network with a new head on the study's data: first the head, then all weights."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autodistill.config import AdaptSpec, Space, TrainingSpec
from autodistill.data import Data
from autodistill.data.views import View
from autodistill.errors import StudyError, TeacherError, TrialError
from autodistill.models.checkpoints import save, saved_state
from autodistill.records import TaskProgress
from autodistill.store import locked, seed_from
from autodistill.teachers.adaptation import path_of, pretrained, total_epochs
from autodistill.teachers.teacher import Teacher
from autodistill.training.loop import train
from autodistill.training.step import Recipe

DEFAULTS = {"adamw": (3e-4, 0.01), "sgd": (0.01, 1e-4)}
"""Learning rate of all weights, and weight decay. The rates are a tenth of usual ones from scratch (0.003 and 0.1), so
that the pretrained weights are changed and not replaced; weight decay is torch's default for AdamW, and that of the
published ImageNet recipes for SGD."""
HEAD_RATE = 10
"""Learning rate of the head alone, in learning rates of all weights: that of a training from scratch, since the head
starts from zero and the body is frozen. `training.body_lr_factor` of students has the same ratio."""


class Preprocessed(nn.Module):
    """The network of a teacher with its preprocessing, of images with levels 0 to 255."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.network, self.teacher = teacher.module, replace(teacher, module=nn.Identity())
        self.size = teacher.input_size
        self.frozen = False
        """Whether only the head is trained: BatchNorm then keeps its statistics, and nothing is dropped out."""

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        output: Any = self.network(self.teacher.prepared(images.to(torch.uint8)))
        # Inception and GoogLeNet also return the outputs of their auxiliary heads while they are trained.
        logits: Tensor = output if isinstance(output, Tensor) else output[0]
        return logits

    def train(self, mode: bool = True) -> "Preprocessed":
        super().train(mode)
        self.network.train(mode and not self.frozen)
        return self


def adapt_teacher(
    uri: str,
    *,
    root: Path,
    data: Data,
    space: Space,
    source: str,
    offline: bool = False,
    urgent: Callable[[], bool] = lambda: False,
) -> Iterator[TaskProgress]:
    """Adapt a pretrained network, `adapt:SOURCE`, unless its file exists in the cache folder `root`.

    A process that asks for a teacher while another process adapts it waits, and finds the file. An interrupted
    adaptation continues from its last checkpoint.

    Args:
        uri: URI of the teacher.
        root: The cache folder.
        data: The study's data.
        space: The search space. Its table `[adapt]` holds the settings.
        source: Fingerprint of the pretrained network.
        offline: Whether downloads are forbidden.
        urgent: Returns whether to save at the end of this epoch, however recent the last save is.

    Yields:
        Progress after each epoch.

    Raises:
        TeacherError: The source cannot be loaded, or its file was changed since the command was started.
        StudyError: The loss became nan or infinite.
        StoreError: The cache folder cannot be written.
    """
    spec, path = space.adapt, path_of(source=source, root=root, data=data.fingerprint, space=space)
    with locked(path.with_suffix(".lock")):
        if path.exists():
            return
        teacher, head = pretrained(uri, data=data, offline=offline)
        if teacher.fingerprint != source:
            raise TeacherError(
                f"teacher {uri}: its network was changed since this command was started", "run the command again"
            )
        device = data.train.images.device
        model = Preprocessed(teacher).to(device)
        # Normalised by these statistics, images keep their levels, 0 to 255.
        levels = replace(data, mean=(0.0,) * len(data.mean), std=(1 / 255,) * len(data.std))
        view = View(space.data.view_seed, space.data.crop, space.data.flip)
        checkpoint, with_head = path.with_suffix(".checkpoint"), path.with_suffix(".head")
        lr, decay = _rate_and_decay(spec)
        stages = [(spec.epochs, lr, seed_from(spec.seed, 1), path)]
        if spec.head_epochs and not _loaded(model.network, with_head):
            stages.insert(0, (spec.head_epochs, spec.head_lr or HEAD_RATE * lr, seed_from(spec.seed, 0), with_head))
        done = total_epochs(spec) - sum(epochs for epochs, *_ in stages)
        for epochs, rate, seed, target in stages:
            model.frozen = target == with_head
            for name, parameter in model.network.named_parameters():
                parameter.requires_grad_(not model.frozen or name in head)
            settings = {
                "optimizer": spec.optimizer,
                "lr": rate,
                "weight_decay": decay,
                "batch_size": spec.batch_size,
                "evaluate_every": epochs,
            }
            recipe = Recipe(TrainingSpec().model_copy(update=settings), view, epochs, epochs, seed)
            try:
                for _ in train(model, levels, recipe, checkpoint=checkpoint, urgent=urgent):
                    done += 1
                    yield TaskProgress(task=f"teacher {teacher.name}", done=done, total=total_epochs(spec))
            except TrialError as error:
                raise StudyError(
                    f"{uri}: adapting this teacher failed: {error.message}",
                    f"lower adapt.lr, which is {lr:g}: --set adapt.lr={lr / 10:g}",
                ) from error
            save(target, model.network, architecture=teacher.architecture, data=data)
        for left in (checkpoint, with_head):
            left.unlink(missing_ok=True)


def _rate_and_decay(spec: AdaptSpec) -> tuple[float, float]:
    rate, decay = DEFAULTS[spec.optimizer]
    return spec.lr or rate, decay if spec.weight_decay is None else spec.weight_decay


def _loaded(network: nn.Module, path: Path) -> bool:
    """Load the weights at the end of the first stage; return False if the file is missing or damaged."""
    try:
        state = saved_state(path)
    except TeacherError:
        return False
    network.load_state_dict(state)
    return True
