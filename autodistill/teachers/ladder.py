"""The default ladder: teachers of increasing capacity that autodistill trains on the study's data and keeps.

`ladder:` stands for all teachers of the ladder, `ladder:ARCHITECTURE` for one. `training.train_teacher` trains them.
"""

from pathlib import Path

from torch import nn

from autodistill.config import Space
from autodistill.data import Data
from autodistill.errors import ConfigError, TeacherError
from autodistill.models import build, parse_name
from autodistill.store import digest

SCHEME = "ladder:"
FORMAT = 1
"""Version of the training of ladder teachers. Increase it when equal settings give other weights."""


def expand(uris: tuple[str, ...], space: Space) -> list[str]:
    """Replace `ladder:` by one `ladder:ARCHITECTURE` for each of its teachers.

    Raises:
        TeacherError: An architecture is unknown or its width is wrong.
    """
    ladder = [SCHEME + architecture for architecture in space.ladder.architectures]
    expanded = list(dict.fromkeys(uri for given in uris for uri in (ladder if given == SCHEME else [given])))
    for uri in expanded:
        if uri.startswith(SCHEME):
            _check_architecture(uri)
    return expanded


def path_of(uri: str, *, root: Path, data: str, space: Space) -> Path:
    """Return the file of a ladder teacher below the cache folder `root`, keyed by data fingerprint and recipe."""
    # The key omits settings that the ladder replaces, and the frequency of evaluation, which changes no weight.
    unused = {"epochs", "rung_epochs", "evaluate_every", "lr", "precision", "optimizer", "body_lr_factor"}
    training = space.training.model_dump(exclude=unused)
    view = (space.data.view_seed, space.data.crop, space.data.flip)
    recipe = space.ladder.model_dump(exclude={"architectures"})
    key = digest(FORMAT, data, training, recipe, view)
    return root / "ladder" / key / f"{uri.removeprefix(SCHEME).replace(':', '-')}.safetensors"


def file_uri(uri: str, *, root: Path, data: str, space: Space) -> str:
    """Return the `file:` URI of a ladder teacher; return any other URI unchanged."""
    return f"file:{path_of(uri, root=root, data=data, space=space)}" if uri.startswith(SCHEME) else uri


def network(architecture: str, data: Data, *, seed: int) -> nn.Module:
    """Build the network of a ladder teacher, freshly initialised."""
    channels, image_size = data.image_shape[:2]
    return build(architecture, num_classes=data.num_classes, in_channels=channels, image_size=image_size, seed=seed)


def _check_architecture(uri: str) -> None:
    try:
        parse_name(uri.removeprefix(SCHEME))
    except ConfigError as error:
        raise TeacherError(
            f"teacher {uri}: {error.message}", error.hint or "write ladder:ARCHITECTURE, or ladder: for all of them"
        ) from error
