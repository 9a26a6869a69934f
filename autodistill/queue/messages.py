"""What workers are told and what they answer: plain data, so that it can travel."""

from autodistill.config import Space
from autodistill.records import (
    AgreementRecord,
    Event,
    Mode,
    ProfileRecord,
    Record,
    RunRequest,
    TeacherRecord,
    TrialParams,
)


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
    artifacts: str = ""
    """Address of the depot, where machines share no folder."""
    identity: str = ""
    """Tells studies apart in a depot."""
    offline: bool = False
    mode: Mode = "eager"
    """How training steps are executed."""
    memory_share: float = 1.0
    """Of the GPU, for each worker."""
    with_validation: bool = False
    """Students are trained on the training and the validation split together."""


class LadderTask(Record):
    """Train a ladder teacher unless it is kept."""

    uri: str


class CheckTask(Record):
    """Load and check a teacher; answered by its `TeacherRecord`."""

    name: str
    untrained: bool = False
    """A teacher of the ladder that another worker may be training still."""


class ProfileTask(Record):
    """Profile a checked teacher from its cached logits; answered by a `Profiled`, or by nothing and a note."""

    name: str
    untrained: bool = False
    """As in a `CheckTask`."""


class Profiled(Record):
    name: str
    profile: ProfileRecord
    views_computed: int
    """Times the teacher was run for it; 0: its logits were in the cache."""


class ViewTask(Record):
    """Compute a teacher's logits on a view ahead of the runs that will need them; answered by a `LogitsComputed`."""

    name: str
    view: int


class AgreementTask(Record):
    """Compare profiled teachers; answered by an `AgreementRecord` where there is something to compare."""

    names: tuple[str, ...]


class Line(Record):
    """Seconds of something that is repeated, by the number of times."""

    once_s: float = 0.0
    each_s: float = 0.0

    def seconds(self, count: int) -> float:
        return self.once_s + count * self.each_s


class ProbeTask(Record):
    """Measure what the student's runs are made of; answered by a `Probe`."""

    params: TrialParams
    """A configuration with a teacher, whose logits are made up."""
    seconds: float
    """About how long each part is measured."""


class Probe(Record):
    """Seconds on one worker."""

    training: Line
    """An epoch by its steps, soft targets included, evaluation not."""
    targets: Line
    """The part of it that a teacher's soft targets take."""
    evaluation_s: float
    """Per image."""
    build_s: float
    """Per run."""
    fit_s: float
    """Per run and training image: what the rule takes from the teacher's logits once."""
    profile_s: float
    """Per profile of a teacher and training image, apart from the teacher's logits."""


class TeacherProbeTask(Record):
    """Measure a teacher; answered by a `TeacherProbe`."""

    name: str
    untrained: bool = False
    """A teacher of the ladder that is still to be trained."""
    seconds: float
    """About how long each part is measured."""


class TeacherProbe(Record):
    """Seconds on one worker."""

    name: str
    training: Line = Line()
    """An epoch of its own training by its steps; zero where it is trained."""
    view_s: float
    """Its logits, per image."""


Task = RunRequest | LadderTask | CheckTask | ProfileTask | ViewTask | AgreementTask | ProbeTask | TeacherProbeTask
Message = Event | TeacherRecord | Profiled | AgreementRecord | Probe | TeacherProbe
