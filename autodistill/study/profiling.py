"""The dark knowledge of a study's teachers, before its first run and from logits that its runs need anyway."""

from collections.abc import Callable, Generator, Iterator, Sequence

from autodistill.records import AgreementRecord, Event, TeacherRecord
from autodistill.workers import AgreementTask, Message, Profiled, ProfileTask, Task

Profiles = tuple[tuple[TeacherRecord, ...], AgreementRecord | None, int]


def profiled(
    teachers: Sequence[TeacherRecord], *, run: Callable[[Sequence[Task]], Iterator[Message]]
) -> Generator[Event, None, Profiles]:
    """Profile checked teachers and compare them; yields what happens.

    Args:
        teachers: in the study's order.
        run: does tasks and yields their messages, as `Pool.run`.

    Returns:
        The teachers with their profiles, their agreement where there are two to compare, and how often a teacher was
        run over view 0 for it.
    """
    profiles, found, computed = {}, None, 0
    for message in run([ProfileTask(name=teacher.name) for teacher in teachers]):
        if isinstance(message, Profiled):
            profiles[message.name] = message.profile
            computed += message.views_computed
        elif isinstance(message, Event):
            yield message
    names = tuple(teacher.name for teacher in teachers if teacher.name in profiles)
    for message in run([AgreementTask(names=names)] if len(names) > 1 else []):
        if isinstance(message, AgreementRecord):
            found = message
        elif isinstance(message, Event):
            yield message
    return tuple(one.model_copy(update={"profile": profiles.get(one.name)}) for one in teachers), found, computed
