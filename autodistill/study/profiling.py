"""Teachers made ready: trained where they are missing, checked, and their dark knowledge told before the first run.

All of it is given to the workers at once: the logits of a check are those of a profile, the logits of a profile those
of the runs to come, and where a worker would have nothing to do it trains what the study needs in any case.
"""

from collections.abc import Callable, Container, Generator, Iterator, Sequence

from autodistill.records import AgreementRecord, Event, ProfileRecord, RunEnded, TeacherRecord
from autodistill.workers import AgreementTask, CheckTask, Message, Profiled, ProfileTask, Task

Run = Callable[[Sequence[Task]], Iterator[Message]]


def checked(
    names: Sequence[str], *, run: Run, before: Sequence[Task] = (), untrained: Container[str] = ()
) -> Generator[Event, None, tuple[tuple[TeacherRecord, ...], int]]:
    """Check and profile teachers; yields what happens.

    Args:
        names: in the order in which they will be there.
        run: does tasks and yields their messages, as `Pool.run`.
        before: given to the workers before all checks. Runs among them are kept, and end without a word: whoever asks
            for them next will hear it.
        untrained: those whose training is among them, and can be waited for by whoever checks them.

    Returns:
        The teachers with their profiles, and how often one was run over view 0 for it.
    """
    found: dict[str, TeacherRecord] = {}
    profiles: dict[str, ProfileRecord] = {}
    computed = 0
    tasks = [kind(name=name, untrained=name in untrained) for name in names for kind in (CheckTask, ProfileTask)]
    for message in run([*before, *tasks]):
        if isinstance(message, TeacherRecord):
            found[message.name] = message
        elif isinstance(message, Profiled):
            profiles[message.name] = message.profile
            computed += message.views_computed
        elif isinstance(message, Event) and not isinstance(message, RunEnded):
            yield message
    return tuple(found[name].model_copy(update={"profile": profiles.get(name)}) for name in names), computed


def compared_teachers(
    teachers: Sequence[TeacherRecord], *, run: Run
) -> Generator[Event, None, AgreementRecord | None]:
    """How far profiled teachers agree, where there are two to compare; yields what happens."""
    names = tuple(teacher.name for teacher in teachers if teacher.profile is not None)
    found = None
    for message in run([AgreementTask(names=names)] if len(names) > 1 else []):
        if isinstance(message, AgreementRecord):
            found = message
        elif isinstance(message, Event):
            yield message
    return found
