"""Train a teacher assistant: a network of this package that learns from a teacher of the study by plain distillation.

Source: Mirzadeh et al. 2020, "Improved Knowledge Distillation via Teacher Assistant", AAAI 34(04).
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from autodistill.config import Space
from autodistill.data import Data
from autodistill.data.views import PLAIN_VIEW
from autodistill.logit_cache import LogitCache
from autodistill.records import TaskProgress, TrialParams
from autodistill.store import locked
from autodistill.teachers import Teacher
from autodistill.teachers.assistants import assistant_of, views_of
from autodistill.teachers.ladder import name_of, network
from autodistill.training.loop import ladder_recipe, saved_teacher, train
from autodistill.training.step import EAGER, Execution
from autodistill.training.supervision import supervise


def train_assistant(
    uri: str,
    *,
    path: Path,
    data: Data,
    space: Space,
    teacher: Teacher,
    cache: LogitCache,
    execution: Execution = EAGER,
    urgent: Callable[[], bool] = lambda: False,
) -> Iterator[TaskProgress]:
    """Train an assistant, `assistant:ARCHITECTURE?teacher=NAME`, unless its file exists.

    Temperature and weight are those of `[plain_kd]`, the recipe is that of `[ladder]`. A process that asks for an
    assistant while another process trains it waits, and finds the file. An interrupted training continues from its last
    checkpoint.

    Args:
        uri: URI of the assistant.
        path: Its file, `path_of(uri, ...)`.
        data: The study's data.
        space: The search space.
        teacher: The teacher that it learns from.
        cache: The logits of teachers on `data`, which runs use too.
        execution: As in `train`.
        urgent: As in `train`.

    Yields:
        Progress after each epoch.

    Raises:
        CacheError, TeacherError: The logits of the teacher cannot be computed.
        StudyError: The loss became nan or infinite.
        StoreError: The cache folder cannot be written.
    """
    assistant = assistant_of(uri)
    with locked(path.with_suffix(".lock")):
        if path.exists():
            return
        # A table of logits knows the images without augmentation only.
        views = 1 if teacher.knows_one_view else views_of(space)
        recipe = ladder_recipe(space, view=PLAIN_VIEW if teacher.knows_one_view else None, views=views)
        # The fingerprint stands for the name of the teacher: a checkpoint continues in a study that has another name
        # for it, and not with other weights.
        params = TrialParams(
            teacher=teacher.fingerprint,
            method="ts",
            method_params={"tau": space.plain_kd.tau},
            tau_student=space.plain_kd.tau,
            soft_weight=space.plain_kd.soft_weight,
        )
        supervision = supervise(
            params,
            logits=lambda number: cache.training(teacher, number, later=range(number + 1, views)),
            labels=data.train.labels,
        )
        model = network(assistant.architecture, data, seed=recipe.seed).to(data.train.images.device)
        checkpoint = path.with_suffix(".checkpoint")
        epochs = train(
            model,
            data,
            recipe,
            supervision=supervision,
            checkpoint=checkpoint,
            execution=execution,
            urgent=urgent,
        )
        with saved_teacher(path, model, data, uri=uri, architecture=assistant.architecture, lr=space.ladder.lr):
            for record in epochs:
                yield TaskProgress(task=f"teacher {name_of(uri)}", done=record.epoch, total=recipe.epochs)
        checkpoint.unlink(missing_ok=True)
