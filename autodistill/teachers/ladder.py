"""The default ladder: teachers of increasing capacity that autodistill trains on the study's data and keeps.

`ladder:` stands for all teachers of the ladder, `ladder:ARCHITECTURE` for one. `ladder:ARCHITECTURE@EPOCH` is the same
training, stopped after that epoch. `training.train_teacher` trains them. `ladder:imagenet` stands for a ladder of
pretrained networks, which are adapted (`teachers.adaptation`).
"""

import glob
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from autodistill.config import Space
from autodistill.data import Data
from autodistill.errors import ConfigError
from autodistill.models import build, parse_name
from autodistill.models.uri import name_of as teacher_name
from autodistill.models.uri import parse
from autodistill.store import digest
from autodistill.teachers import adaptation, assistants
from autodistill.teachers.sources import load
from autodistill.teachers.teacher import Teacher

SCHEME = "ladder:"
IMAGENET = "ladder:imagenet"
FORMAT = 1
"""Version of the training of ladder teachers. Increase it when equal settings give other weights."""


class Rung(NamedTuple):
    """A teacher of the ladder."""

    architecture: str
    """Name of the network, with its width."""
    epoch: int | None
    """Epoch after which its training is stopped; None: after the whole schedule."""

    @property
    def name(self) -> str:
        """The name in tables: `resnet8:0.25`, `resnet56@80`."""
        return self.architecture if self.epoch is None else f"{self.architecture}@{self.epoch}"


def rung_of(uri: str) -> Rung:
    """Split the URI of a ladder teacher.

    Raises:
        TeacherError: The network is unknown, its width is wrong, an option is unknown, or the epoch is no whole number
            above 0.
    """
    parsed = parse(uri)
    parsed.check_options(("name",))
    architecture, at, written = parsed.target.partition("@")
    try:
        parse_name(architecture)
    except ConfigError as error:
        hint = error.hint or "write ladder:ARCHITECTURE, or ladder: for all of them"
        raise parsed.refused(error.message, hint) from error
    if at and not (written.isascii() and written.isdecimal() and int(written) > 0):
        raise parsed.refused(
            f"{written!r} after @ is no epoch: allowed are whole numbers from 1 to ladder.epochs",
            f"write for example ladder:{architecture}@10, or ladder:{architecture} for the whole schedule",
        )
    return Rung(architecture, int(written) if at else None)


def name_of(uri: str) -> str:
    """Return the name of a teacher in tables: its `name` option, or what its network is and where it learned."""
    if "name" not in parse(uri).options:
        if uri.startswith(SCHEME):
            return rung_of(uri).name
        if uri.startswith(assistants.SCHEME):
            return assistants.assistant_of(uri).name
    return teacher_name(uri)


def expand(uris: tuple[str, ...], space: Space) -> list[str]:
    """Replace `ladder:` and `ladder:imagenet` by the URIs of their teachers.

    Raises:
        TeacherError: As for `rung_of`.
    """
    ladders = {
        SCHEME: [SCHEME + architecture for architecture in space.ladder.architectures],
        IMAGENET: [adaptation.SCHEME + source for source in space.adapt.imagenet],
    }
    expanded = list(dict.fromkeys(uri for given in uris for uri in ladders.get(given, [given])))
    for uri in expanded:
        if uri.startswith(SCHEME):
            rung_of(uri)
    return expanded


def check_epochs(uris: Sequence[str], epochs: int) -> None:
    """Check the epochs of ladder teachers that are stopped early against the length of their schedule.

    Raises:
        TeacherError: An epoch is beyond the schedule, or is its last while the whole training is a teacher too.
    """
    rungs = {uri: rung_of(uri) for uri in uris if uri.startswith(SCHEME)}
    for uri, rung in rungs.items():
        if rung.epoch is None:
            continue
        if rung.epoch > epochs:
            raise parse(uri).refused(
                f"epoch {rung.epoch} is beyond the schedule: allowed are 1 to {epochs}, which is ladder.epochs",
                f"name an earlier epoch, or make the schedule longer: --set ladder.epochs={rung.epoch}",
            )
        whole = next((it for it, other in rungs.items() if other == (rung.architecture, None)), None)
        if rung.epoch == epochs and whole is not None:
            raise parse(uri).refused(
                f"is the same teacher as {whole}: the schedule ends after epoch {epochs}, which is ladder.epochs",
                f"leave {uri} out",
            )


def continues(uri: str, other: str) -> bool:
    """Return whether the training of a ladder teacher continues that of another, which is stopped earlier."""
    if not (uri.startswith(SCHEME) and other.startswith(SCHEME)):
        return False
    rung, earlier = rung_of(uri), rung_of(other)
    before = earlier.epoch is not None and (rung.epoch is None or earlier.epoch < rung.epoch)
    return rung.architecture == earlier.architecture and before


def path_of(uri: str, *, root: Path, data: str, space: Space, sources: Mapping[str, str] = {}) -> Path:
    """Return the file of a teacher trained by autodistill below the cache folder `root`.

    Args:
        uri: `ladder:ARCHITECTURE`, `ladder:ARCHITECTURE@EPOCH`, `adapt:SOURCE` or `assistant:ARCHITECTURE`.
        root: The cache folder.
        data: Fingerprint of the data, which is part of the file's key beside the recipe.
        space: The search space.
        sources: What decides the weights that adapted teachers and assistants learn from, by URI: a fingerprint, or
            the file of a teacher that autodistill trains, which is known before anything is trained.
    """
    if uri.startswith(adaptation.SCHEME):
        return adaptation.path_of(source=sources[uri], root=root, data=data, space=space)
    recipe, view = _recipe(space), (space.data.view_seed, space.data.crop, space.data.flip)
    if uri.startswith(assistants.SCHEME):
        plain_kd, views = space.plain_kd.model_dump(), assistants.views_of(space)
        key = digest(assistants.FORMAT, sources[uri], data, (*recipe, view), plain_kd, views)
        folder, name = root / "assistants" / key, assistants.assistant_of(uri).architecture
    else:
        rung = rung_of(uri)
        # After the last epoch the training is whole: the same teacher, in the same file.
        name = rung.architecture if rung.epoch == space.ladder.epochs else rung.name
        folder = root / "ladder" / digest(FORMAT, data, *recipe, view)
    return folder / f"{name.replace(':', '-')}.safetensors"


def _recipe(space: Space) -> tuple[dict[str, object], dict[str, object]]:
    """Return the settings of `[training]` and `[ladder]` that decide the weights of a teacher."""
    # The ladder replaces these settings, and the frequency of evaluation changes no weight.
    unused = {"epochs", "rung_epochs", "evaluate_every", "lr", "precision", "optimizer", "body_lr_factor"}
    return space.training.model_dump(exclude=unused), space.ladder.model_dump(exclude={"architectures"})


def checkpoints_of(path: Path) -> dict[int | None, Path]:
    """Return the checkpoints of the training that a ladder teacher's file belongs to, by the epoch they stop at.

    None is the key of the checkpoint of the whole training, which exists only while that is interrupted.
    """
    whole = path.stem.partition("@")[0]
    found: dict[int | None, Path] = {None: path.with_name(f"{whole}.checkpoint")}
    for it in path.parent.glob(f"{glob.escape(whole)}@*.checkpoint"):
        written = it.stem.partition("@")[2]
        if written.isdecimal():
            found[int(written)] = it
    return found


def lock_of(path: Path) -> Path:
    """Return the lock of a ladder teacher's training. All teachers of one training share it."""
    return path.with_name(f"{path.stem.partition('@')[0]}.lock")


def load_trained(uri: str, path: Path, *, data: Data, offline: bool = False, name: str | None = None) -> Teacher:
    """Load a teacher that autodistill has trained from its file, `path_of(uri, ...)`."""
    if uri.startswith(adaptation.SCHEME):
        return adaptation.load_adapted(uri, path, data=data, offline=offline, name=name)
    teacher = load(f"file:{path}", data=data, name=name, shown_as=uri)
    notes = teacher.notes
    if uri.startswith(assistants.SCHEME):
        source = assistants.assistant_of(uri).teacher
        notes += (f"a teacher assistant, trained by plain distillation from {source} ({uri})",)
    elif (rung := rung_of(uri)).epoch is not None:
        notes += (
            f"the averaged weights of ladder:{rung.architecture} after epoch {rung.epoch} of its schedule ({uri})",
        )
    return replace(teacher, notes=notes)


def epochs_of(uri: str, space: Space) -> int:
    """Return the number of epochs in which autodistill trains a teacher, from the beginning."""
    if uri.startswith(adaptation.SCHEME):
        return adaptation.total_epochs(space.adapt)
    if uri.startswith(assistants.SCHEME):
        return space.ladder.epochs
    return rung_of(uri).epoch or space.ladder.epochs


def network(architecture: str, data: Data, *, seed: int) -> nn.Module:
    """Build the network of a ladder teacher or an assistant, freshly initialised."""
    channels, image_size = data.image_shape[:2]
    return build(architecture, num_classes=data.num_classes, in_channels=channels, image_size=image_size, seed=seed)
