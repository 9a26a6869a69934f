"""The default ladder: teachers of increasing capacity that autodistill trains on the study's data and keeps.

`ladder:` stands for all teachers of the ladder, `ladder:ARCHITECTURE` for one. `training.train_teacher` trains them.
`ladder:imagenet` stands for a ladder of pretrained networks, which are adapted (`teachers.adaptation`).
"""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from autodistill.config import Space
from autodistill.data import Data
from autodistill.errors import ConfigError, TeacherError
from autodistill.models import build, parse_name
from autodistill.store import digest
from autodistill.teachers import adaptation
from autodistill.teachers.sources import load
from autodistill.teachers.teacher import Teacher

SCHEME = "ladder:"
IMAGENET = "ladder:imagenet"
FORMAT = 1
"""Version of the training of ladder teachers. Increase it when equal settings give other weights."""


def expand(uris: tuple[str, ...], space: Space) -> list[str]:
    """Replace `ladder:` and `ladder:imagenet` by the URIs of their teachers.

    Raises:
        TeacherError: An architecture is unknown or its width is wrong.
    """
    ladders = {
        SCHEME: [SCHEME + architecture for architecture in space.ladder.architectures],
        IMAGENET: [adaptation.SCHEME + source for source in space.adapt.imagenet],
    }
    expanded = list(dict.fromkeys(uri for given in uris for uri in ladders.get(given, [given])))
    for uri in expanded:
        if uri.startswith(SCHEME):
            _check_architecture(uri)
    return expanded


def path_of(uri: str, *, root: Path, data: str, space: Space, sources: Mapping[str, str] = {}) -> Path:
    """Return the file of a teacher trained by autodistill below the cache folder `root`.

    Args:
        uri: `ladder:ARCHITECTURE` or `adapt:SOURCE`.
        root: The cache folder.
        data: Fingerprint of the data, which is part of the file's key beside the recipe.
        space: The search space.
        sources: Fingerprints of the sources of adapted teachers, by URI.
    """
    if uri.startswith(adaptation.SCHEME):
        return adaptation.path_of(source=sources[uri], root=root, data=data, space=space)
    # The key omits settings that the ladder replaces, and the frequency of evaluation, which changes no weight.
    unused = {"epochs", "rung_epochs", "evaluate_every", "lr", "precision", "optimizer", "body_lr_factor"}
    training = space.training.model_dump(exclude=unused)
    view = (space.data.view_seed, space.data.crop, space.data.flip)
    recipe = space.ladder.model_dump(exclude={"architectures"})
    key = digest(FORMAT, data, training, recipe, view)
    return root / "ladder" / key / f"{uri.removeprefix(SCHEME).replace(':', '-')}.safetensors"


def load_trained(uri: str, path: Path, *, data: Data, offline: bool = False, name: str | None = None) -> Teacher:
    """Load a teacher that autodistill has trained from its file, `path_of(uri, ...)`."""
    if uri.startswith(adaptation.SCHEME):
        return adaptation.load_adapted(uri, path, data=data, offline=offline, name=name)
    return load(f"file:{path}", data=data, name=name, shown_as=uri)


def epochs_of(uri: str, space: Space) -> int:
    """Return the number of epochs in which autodistill trains a teacher."""
    return adaptation.total_epochs(space.adapt) if uri.startswith(adaptation.SCHEME) else space.ladder.epochs


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
