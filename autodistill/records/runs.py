"""What a training run and a trial were."""

from typing import Any, Literal

from autodistill.records.base import Record

ParamValue = float | str


class TrialParams(Record):
    """What a study chooses. `teacher` None is training without a teacher; `rule_params` are the rule's own."""

    teacher: str | None = None
    rule: str | None = None
    rule_params: dict[str, ParamValue] = {}
    tau_student: float = 1.0
    soft_weight: float = 0.0


class TargetSummary(Record):
    """Where a rule put its temperatures on the training samples of view 0 (shares in [0, 1])."""

    tau_target: float
    """Median over the samples."""
    tau_other: float
    """Median over the samples."""
    tau_wrong: float | None = None
    """tau_other given to samples whose label is not on top in the teacher's logits; None: as searched."""
    teacher_right: float
    at_lower: float
    """Share of the teacher-right samples whose searched tau_other sits at the lower bound."""
    at_upper: float
    displaced: float
    """Share of all samples whose label is on top in the teacher's logits but not in the target."""


class EpochRecord(Record):
    """One epoch of one run. Losses are means over the epoch's batches; None: not evaluated in this epoch."""

    epoch: int
    """1-based."""
    train_loss: float
    hard_loss: float
    soft_loss: float | None = None
    val_top1: float | None = None
    """Validation accuracy of the averaged weights."""
    val_nll: float | None = None
    test_top1: float | None = None
    """Set in the last epoch of a run that was asked to evaluate on test, and nowhere else."""


Mode = Literal["eager", "graph", "compiled"]
"""How training steps are executed: `graph` as a recorded CUDA graph."""

Rungs = Literal["part-way", "short runs"]
"""What a trial has behind it when it is compared: the first epochs of its full run, or a schedule of their length."""

EvaluateOn = Literal["validation", "validation+test", "test"]
"""`test`: the validation split is trained on, so it is not scored."""


class RunRequest(Record):
    """One training run to be done: everything that decides its outcome, and the folder name that keeps it."""

    run: str
    """Path below the study folder, for example `trials/0007/short`."""
    params: TrialParams
    seed: int
    epochs: int
    """Length of the schedule."""
    until: int | None = None
    """Stop after this epoch and keep what it takes to go on; None: the last epoch of the schedule."""
    begun_by: str | None = None
    """The run whose first `begun_epochs` epochs this one goes on from; it trains them itself where they are lost."""
    begun_epochs: int = 0
    evaluate_on: EvaluateOn = "validation"

    @property
    def last_epoch(self) -> int:
        return self.until or self.epochs

    @property
    def new_epochs(self) -> int:
        """Epochs that it costs."""
        return self.last_epoch - self.begun_epochs

    def kept(self) -> dict[str, Any]:
        """What its record repeats of it."""
        return self.model_dump(exclude={"evaluate_on", "begun_by"})


class RunRecord(Record):
    """One training run as it ended."""

    run: str
    params: TrialParams
    seed: int
    epochs: int
    """Length of the schedule."""
    until: int | None = None
    """The epoch of the schedule that it was to stop after; None: the last one."""
    begun_epochs: int = 0
    """The first epochs of the curve, which another run of the study paid for."""
    state: Literal["complete", "failed"]
    error: str = ""
    """Why it failed: a line, and below it the last lines of a dead worker's stderr."""
    curve: tuple[EpochRecord, ...] = ()
    targets: TargetSummary | None = None
    micro_batches: int = 1
    """2: a batch did not fit into memory and passed in halves, gradients added up; BatchNorm saw one at a time."""

    @property
    def reason(self) -> str:
        """The first line of `error`."""
        return self.error.partition("\n")[0]

    @property
    def spent_epochs(self) -> int:
        """Epochs that count towards the budget; the one that a run failed in counts too."""
        trained = min(self.last_epoch, len(self.curve) + (self.state == "failed"))
        return max(0, trained - self.begun_epochs)

    @property
    def last_epoch(self) -> int:
        return self.until or self.epochs

    @property
    def val_top1(self) -> float | None:
        """The run's score: the last epoch's validation accuracy; None if it failed."""
        return self.curve[-1].val_top1 if self.state == "complete" and self.curve else None

    @property
    def test_top1(self) -> float | None:
        return self.curve[-1].test_top1 if self.state == "complete" and self.curve else None


class TrainedRecord(Record):
    """How a student's weights were made: kept in the file that holds them."""

    study: str
    """Name of the study whose configuration it is; empty where there is none."""
    run: str
    """The study's own run; empty where `train` made it."""
    params: TrialParams
    seed: int
    epochs: int
    trained_on: Literal["train", "train+validation"]
    images: int
    """Trained on."""
    val_top1: float | None = None
    """None where the validation split was trained on."""
    test_top1: float | None = None
    targets: TargetSummary | None = None
    micro_batches: int = 1
    """Parts that a batch passed in, for want of memory."""


class AuditTrail(Record):
    """What a trial was decided on where trials are asked for whenever a worker is free: who came first counts."""

    sampler_seed: int
    known: tuple[tuple[int, int], ...]
    """Trials that had ended when it was asked for, and of which the sampler knew the result: first and last number of
    each row of them."""
    running: tuple[int, ...]
    """Trials that had not ended when it was asked for."""
    rivals: dict[int, float] | None = None
    """Short-run scores that it was judged by: the same teacher's other trials, by number. None: it was not judged."""


class TrialRecord(Record):
    """One searched configuration: a short run, then, if it was not pruned, a complete full one."""

    number: int
    kind: Literal["prior", "search"]
    wave: int
    """0: of the priors; 1 for all others where they were asked for whenever a worker was free."""
    params: TrialParams
    seed: int
    replicate_of: int | None = None
    """The first trial with the same parameters, where there is one; the seed then differs."""
    state: Literal["running", "complete", "pruned", "failed"]
    reason: str = ""
    """Why it was pruned or failed, in words."""
    out_of_budget: bool = False
    """It was stopped after its short run because no full run could be paid any more, not by comparison."""
    short: RunRecord | None = None
    full: RunRecord | None = None
    audit_trail: AuditTrail | None = None
    """None where trials are asked for in waves, and of priors: nothing depends on the order of arrival."""
