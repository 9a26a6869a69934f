"""Teachers of a study: trained where they are missing, checked, profiled and compared."""

from collections.abc import Sequence

from autodistill.executors import (
    AgreementTask,
    CheckTask,
    Executor,
    OnEvent,
    Profiled,
    ProfileTask,
    Task,
    TrainTeacherTask,
)
from autodistill.records import AgreementRecord, PhaseStarted, TeacherRecord


def prepare_teachers(
    names: Sequence[str],
    executor: Executor,
    on_event: OnEvent,
    *,
    untrained: Sequence[str] = (),
    epochs: int = 0,
    meanwhile: Sequence[Task] = (),
) -> tuple[tuple[TeacherRecord, ...], AgreementRecord | None, int]:
    """Train the missing teachers of the default ladder, then check, profile and compare all teachers.

    Args:
        names: of the teachers.
        executor: runs the tasks.
        on_event: is called with each event.
        untrained: URIs of the missing teachers, the strongest first.
        epochs: of the training of one of them.
        meanwhile: runs for workers that would otherwise be idle.

    Returns:
        The teachers with their profiles, their agreement, and how often a teacher was run over view 0.
    """
    on_event(PhaseStarted(phase="teachers", runs=len(untrained), epochs=len(untrained) * epochs))
    executor.run([TrainTeacherTask(uri=uri) for uri in untrained], on_event, meanwhile=meanwhile)
    tasks: list[Task] = [kind(name=name) for name in names for kind in (CheckTask, ProfileTask)]
    found = executor.run(tasks, on_event, meanwhile=meanwhile)
    on_event(PhaseStarted(phase="profiles", runs=0, epochs=0))
    teachers, computed = [], 0
    for record, profiled in zip(found[::2], found[1::2], strict=True):
        assert isinstance(record, TeacherRecord)
        if isinstance(profiled, Profiled):
            record = record.model_copy(update={"profile": profiled.profile})
            computed += profiled.views_computed
        teachers.append(record)
    profiled_names = tuple(teacher.name for teacher in teachers if teacher.profile is not None)
    agreement = None
    if len(profiled_names) > 1:
        (compared,) = executor.run([AgreementTask(names=profiled_names)], on_event)
        agreement = compared if isinstance(compared, AgreementRecord) else None
    return tuple(teachers), agreement, computed
