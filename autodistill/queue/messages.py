"""What workers are told and what they answer: plain data, so that it can travel."""

from autodistill.records import AgreementRecord, Event, ProfileRecord, Record, RunRequest, TeacherRecord
from autodistill.space import Space


class Setup(Record):
    """What every worker of a study is told once: plain data, so that it can travel."""

    space: Space
    student: str
    teachers: dict[str, str]
    """Name to URI."""
    views: int
    device: str
    runs: str
    """The study's run folder."""
    cache: str
    offline: bool = False
    with_validation: bool = False
    """Students are trained on the training and the validation split together."""


class LadderTask(Record):
    """Train a ladder teacher unless it is kept."""

    uri: str


class CheckTask(Record):
    """Load and check a teacher; answered by its `TeacherRecord`."""

    name: str


class ProfileTask(Record):
    """Profile a checked teacher from its cached logits; answered by a `Profiled`, or by nothing and a note."""

    name: str


class Profiled(Record):
    name: str
    profile: ProfileRecord
    views_computed: int
    """Times the teacher was run for it; 0: its logits were in the cache."""


class AgreementTask(Record):
    """Compare profiled teachers; answered by an `AgreementRecord` where there is something to compare."""

    names: tuple[str, ...]


class ProbeTask(Record):
    """Measure an epoch; answered by a `Probe`. `architecture` None: the student."""

    architecture: str | None = None


class Probe(Record):
    """Seconds of one epoch on one worker, its validation not counted, and of one validation."""

    epoch_s: float
    validation_s: float


Task = RunRequest | LadderTask | CheckTask | ProfileTask | AgreementTask | ProbeTask
Message = Event | TeacherRecord | Profiled | AgreementRecord | Probe
