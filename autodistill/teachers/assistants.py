"""Teacher assistants: networks that autodistill trains by plain distillation from another teacher, and keeps.

`assistant:ARCHITECTURE?teacher=NAME` is a network of this package that learns from the teacher NAME of the study
(Mirzadeh et al. 2020, "Improved Knowledge Distillation via Teacher Assistant"). It is a teacher like any other.
`training.train_assistant` trains it: method and weights of `[plain_kd]`, recipe of `[ladder]`.
"""

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

from autodistill.config import Space
from autodistill.errors import ConfigError, near
from autodistill.models import parse_name
from autodistill.models.uri import parse
from autodistill.teachers.sources import is_ensemble, members_of

SCHEME = "assistant:"
FORMAT = 1
"""Version of the training of assistants. Increase it when equal settings give other weights."""


class Assistant(NamedTuple):
    """A network, and the teacher that it learns from."""

    architecture: str
    """Name of the network, with its width."""
    teacher: str
    """Name of a teacher of the study."""

    @property
    def name(self) -> str:
        """The name in tables: `resnet20-from-resnet56`."""
        return f"{self.architecture}-from-{self.teacher}"


def assistant_of(uri: str) -> Assistant:
    """Split the URI of an assistant.

    Raises:
        TeacherError: The network or an option is unknown, or no teacher is named.
    """
    parsed = parse(uri)
    parsed.check_options(("teacher", "name"))
    try:
        parse_name(parsed.target)
    except ConfigError as error:
        raise parsed.refused(error.message, error.hint or "write assistant:ARCHITECTURE?teacher=NAME") from error
    teacher = parsed.options.get("teacher", "")
    if not teacher:
        raise parsed.refused(
            "names no teacher to learn from",
            f"name a teacher of this study: assistant:{parsed.target}?teacher=NAME",
        )
    return Assistant(parsed.target, teacher)


def needs(uri: str, study: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the teachers that a teacher is made of: an ensemble's members, an assistant's teacher.

    `study` holds the URIs of the teachers of the study by name.

    Raises:
        TeacherError: As for `members_of` and `assistant_of`; or no teacher of the study has the name.
    """
    if is_ensemble(uri):
        return members_of(uri, study)
    if not uri.startswith(SCHEME):
        return ()
    teacher = assistant_of(uri).teacher
    if teacher not in study:
        others = [name for name, other in study.items() if other != uri]
        allowed = near(teacher, others) if others else "the study has no other teacher"
        raise parse(uri).refused(
            f"no teacher of this study is named {teacher!r} ({allowed})",
            "name the teacher that it learns from as a teacher of the study too: --teacher URI",
        )
    return (teacher,)


def check_needs(study: Mapping[str, str]) -> None:
    """Check that ensembles and assistants refer to teachers of the study, whose URIs `study` holds by name.

    Raises:
        TeacherError: As for `needs`; or a teacher needs itself, directly or through others.
    """
    try:
        TopologicalSorter({name: needs(uri, study) for name, uri in study.items()}).prepare()
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        uri = parse(study[circle[0]])
        if len(circle) == 2:
            raise uri.refused("learns from itself", "name another teacher of the study") from error
        raise uri.refused(
            f"needs itself: {' needs '.join(circle)}", "let one of them learn from a teacher outside the circle"
        ) from error


def with_needs(names: Iterable[str], study: Mapping[str, str]) -> list[str]:
    """Return teachers and all that they are made of, directly or through others, in the order of the study."""
    found, left = set[str](), list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += needs(study[name], study)
    return [name for name in study if name in found]


def teachers_of_assistants(study: Mapping[str, str]) -> set[str]:
    """Return the names of the teachers that assistants learn from."""
    return {assistant_of(uri).teacher for uri in study.values() if uri.startswith(SCHEME)}


def views_of(space: Space) -> int:
    """Return the number of views in an assistant's training: one for each epoch, unless the space limits the views."""
    return min(space.data.views or space.ladder.epochs, space.ladder.epochs)
