"""The default teachers: four networks of growing capacity, trained once on the data at hand, and kept."""

from collections.abc import Iterator
from pathlib import Path

from torch import nn

from autodistill.config import Space
from autodistill.data import Data
from autodistill.data.views import View
from autodistill.errors import ConfigError, StudyError, TeacherError, TrialError
from autodistill.models import build, parse_name
from autodistill.records import TaskProgress
from autodistill.store import digest, locked
from autodistill.teachers import save
from autodistill.training import Execution, Recipe, train
from autodistill.training.execution import EAGER

SCHEME = "ladder:"
FORMAT = 1


def expand(uris: tuple[str, ...], space: Space) -> list[str]:
    """Replace `ladder:` by one `ladder:ARCHITECTURE` for each of its teachers.

    Raises:
        TeacherError: an unknown architecture or a wrong width.
    """
    rungs = [SCHEME + architecture for architecture in space.ladder.architectures]
    expanded = list(dict.fromkeys(uri for given in uris for uri in (rungs if given == SCHEME else [given])))
    for uri in expanded:
        if uri.startswith(SCHEME):
            _check_architecture(uri)
    return expanded


def path_of(uri: str, *, root: Path, data: Data, space: Space) -> Path:
    """Where a ladder teacher is kept: keyed by data and recipe."""
    # Left out is what the ladder replaces, and how often it is looked at, which changes no weight.
    training = space.training.model_dump(exclude={"epochs", "short_epochs", "evaluate_every", "lr", "precision"})
    view = (space.data.view_seed, space.data.crop, space.data.flip)
    recipe = space.ladder.model_dump(exclude={"architectures"})
    key = digest(FORMAT, data.fingerprint, training, recipe, view)
    return root / "ladder" / key / f"{uri.removeprefix(SCHEME).replace(':', '-')}.safetensors"


def file_uri(uri: str, *, root: Path, data: Data, space: Space) -> str:
    """A ladder teacher's URI as a file; any other URI as it is."""
    return f"file:{path_of(uri, root=root, data=data, space=space)}" if uri.startswith(SCHEME) else uri


def train_teacher(
    uri: str, *, root: Path, data: Data, space: Space, execution: Execution = EAGER
) -> Iterator[TaskProgress]:
    """Train a ladder teacher unless it is kept already; a second process waits for the first, and finds the teacher.

    Raises:
        StudyError: its loss became nan or infinite.
        StoreError: the cache folder cannot be written.
    """
    architecture = uri.removeprefix(SCHEME)
    path = path_of(uri, root=root, data=data, space=space)
    with locked(path.with_suffix(".lock")):
        if path.exists():
            return
        spec = space.training.model_copy(
            update={
                "lr": space.ladder.lr,
                "evaluate_every": space.ladder.epochs,
                "short_epochs": None,
                "precision": "auto",
            }
        )
        view = View(space.data.view_seed, space.data.crop, space.data.flip)
        epochs, seed = space.ladder.epochs, space.ladder.seed
        model = network(architecture, data, seed=seed).to(data.train.images.device)
        checkpoint = path.with_suffix(".checkpoint")
        recipe = Recipe(spec, view, epochs, epochs, seed)
        try:
            for record in train(model, data, recipe, checkpoint=checkpoint, execution=execution):
                yield TaskProgress(task=f"teacher {architecture}", done=record.epoch, total=epochs)
        except TrialError as error:
            raise StudyError(
                f"{uri}: training this teacher failed: {error.message}",
                f"lower ladder.lr, which is {spec.lr:g}: --set ladder.lr={min(0.05, spec.lr / 10):g}; "
                "or name trained teachers with --teacher",
            ) from error
        save(path, model, architecture=architecture, data=data)
        checkpoint.unlink(missing_ok=True)


def network(architecture: str, data: Data, *, seed: int) -> nn.Module:
    """A ladder teacher, freshly initialised."""
    channels, image_size = data.image_shape[:2]
    return build(architecture, num_classes=data.num_classes, in_channels=channels, image_size=image_size, seed=seed)


def _check_architecture(uri: str) -> None:
    try:
        parse_name(uri.removeprefix(SCHEME))
    except ConfigError as error:
        raise TeacherError(
            f"teacher {uri}: {error.message}", error.hint or "write ladder:ARCHITECTURE, or ladder: for all of them"
        ) from error
