"""Training of the teachers of the default ladder."""

from collections.abc import Callable, Iterator
from pathlib import Path

from autodistill.config import Space
from autodistill.data import Data
from autodistill.data.views import View
from autodistill.errors import StudyError, TrialError
from autodistill.records import TaskProgress
from autodistill.store import locked
from autodistill.teachers import save
from autodistill.teachers.ladder import SCHEME, network, path_of
from autodistill.training.checkpoints import Recipe
from autodistill.training.execution import EAGER, Execution
from autodistill.training.loop import train


def train_teacher(
    uri: str,
    *,
    root: Path,
    data: Data,
    space: Space,
    execution: Execution = EAGER,
    urgent: Callable[[], bool] = lambda: False,
) -> Iterator[TaskProgress]:
    """Train a ladder teacher unless its file exists.

    A process that asks for a teacher while another process trains it waits, and finds the file.

    Args:
        uri: `ladder:ARCHITECTURE`.
        root: The cache folder.
        data: The data to train on.
        space: Settings of the ladder, the training and the views.
        execution: How the steps are executed.
        urgent: Returns whether to save at the end of this epoch.

    Yields:
        Progress after each epoch.

    Raises:
        StudyError: The loss became nan or infinite.
        StoreError: The cache folder cannot be written.
    """
    architecture = uri.removeprefix(SCHEME)
    path = path_of(uri, root=root, data=data.fingerprint, space=space)
    with locked(path.with_suffix(".lock")):
        if path.exists():
            return
        spec = space.training.model_copy(
            update={
                "lr": space.ladder.lr,
                "evaluate_every": space.ladder.epochs,
                "rung_epochs": None,
                "precision": "auto",
            }
        )
        view = View(space.data.view_seed, space.data.crop, space.data.flip)
        epochs, seed = space.ladder.epochs, space.ladder.seed
        model = network(architecture, data, seed=seed).to(data.train.images.device)
        checkpoint = path.with_suffix(".checkpoint")
        recipe = Recipe(spec, view, epochs, epochs, seed)
        try:
            for record in train(model, data, recipe, checkpoint=checkpoint, execution=execution, urgent=urgent):
                yield TaskProgress(task=f"teacher {architecture}", done=record.epoch, total=epochs)
        except TrialError as error:
            raise StudyError(
                f"{uri}: training this teacher failed: {error.message}",
                f"lower ladder.lr, which is {spec.lr:g}: --set ladder.lr={min(0.05, spec.lr / 10):g}; "
                "or name trained teachers with --teacher",
            ) from error
        save(path, model, architecture=architecture, data=data)
        checkpoint.unlink(missing_ok=True)
