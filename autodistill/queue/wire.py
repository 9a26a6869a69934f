"""Tasks, messages and errors as text: the record's name and its JSON."""

from collections.abc import Iterator

from pydantic import ValidationError

from autodistill.errors import AutodistillError, StoreError
from autodistill.queue.messages import (
    AgreementTask,
    CheckTask,
    LadderTask,
    Probe,
    ProbeTask,
    Profiled,
    ProfileTask,
    Setup,
    TeacherProbe,
    TeacherProbeTask,
    ViewTask,
)
from autodistill.records import (
    AgreementRecord,
    EpochEvent,
    LogitsComputed,
    Note,
    PhaseStarted,
    Record,
    RunEnded,
    RunRequest,
    TaskProgress,
    TeacherRecord,
    TrialEnded,
)


class Failed(Record):
    """An error that ends the study, as it travels."""

    kind: str
    message: str
    hint: str


KINDS: dict[str, type[Record]] = {
    kind.__name__: kind
    for kind in (
        *(Setup, RunRequest, LadderTask, CheckTask, ProfileTask, ViewTask, AgreementTask, ProbeTask),
        *(TeacherProbeTask, EpochEvent, RunEnded, TrialEnded, PhaseStarted, Note, TaskProgress, LogitsComputed),
        *(TeacherRecord, Profiled, AgreementRecord, Probe, TeacherProbe, Failed),
    )
}


def to_wire(sent: Record | AutodistillError) -> str:
    if isinstance(sent, AutodistillError):
        sent = Failed(kind=type(sent).__name__, message=sent.message, hint=sent.hint)
    assert type(sent).__name__ in KINDS
    return f"{type(sent).__name__} {sent.model_dump_json()}"


def from_wire(text: str) -> Record | AutodistillError:
    """What was sent.

    Raises:
        StoreError: it is none of ours, or of another version.
    """
    name, _, body = text.partition(" ")
    try:
        found = KINDS[name].model_validate_json(body)
    except (KeyError, ValidationError) as error:
        raise StoreError(
            f"the database holds a {name or 'message'} that this version does not know",
            "run the same version of kd-autodistill everywhere",
        ) from error
    if not isinstance(found, Failed):
        return found
    kinds = {kind.__name__: kind for kind in _kinds(AutodistillError)}
    return kinds.get(found.kind, AutodistillError)(found.message, found.hint)


def _kinds(kind: type[AutodistillError]) -> Iterator[type[AutodistillError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _kinds(child)
