"""What workers do with teachers' logits apart from training: compute them ahead, profile teachers, compare them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from autodistill.errors import CacheError, TeacherError
from autodistill.queue.messages import Profiled, ViewTask
from autodistill.records import AgreementRecord, LogitsComputed, Note
from autodistill.teachers import Teacher
from autodistill.teachers.profile import agreement, profile

if TYPE_CHECKING:
    from autodistill.workers.tasks import Workplace


def profiled(place: "Workplace", name: str, teacher: Teacher) -> Profiled | Note:
    """A teacher's profile, or why it has none: its check or its runs fail likewise, and a profile ends no study."""
    prior, computed = place.setup.space.prior, place.cache.computed
    try:
        logits = place.cache.training(teacher, 0)
        computed = place.cache.computed - computed
    except (CacheError, TeacherError) as error:
        return Note(text=f"teacher {name} has no profile: {error.message}", warning=True)
    found = profile(
        logits,
        place.data.train.labels.cpu(),
        place.cache.validation(teacher),
        place.data.validation.labels.cpu(),
        isats_params=prior.params if prior.rule == "isats" else None,
    )
    return Profiled(name=name, profile=found, views_computed=computed)


def compared(place: "Workplace", names: tuple[str, ...]) -> Iterator[AgreementRecord]:
    """How far teachers agree, where there is something to compare."""
    logits = {name: place.cache.training(place.teacher(name), 0) for name in names}
    found = agreement(logits, place.data.train.labels.cpu())
    if found is not None:
        yield found


def computed_ahead(place: "Workplace", task: ViewTask) -> LogitsComputed:
    """Compute a teacher's logits on a view before a run asks for them."""
    computed = place.cache.computed
    # What fails here fails again in the run that needs it, and is recorded as that run's.
    try:
        if task.name not in place.hopeless:
            place.cache.ahead(place.teacher(task.name), task.view)
    except (CacheError, TeacherError, RuntimeError):
        place.hopeless.add(task.name)
    return LogitsComputed(views_computed=place.cache.computed - computed)
