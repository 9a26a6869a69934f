"""Frozen records shared by the layers: runs, trials, studies, verdicts, and the events of a running study.

Everything here is plain data with JSON in and out. Fractions are in [0, 1]; per cent exists only on display. Wall-clock
times never are in a record that equal studies share: they are in events and in `StudyRecord.timing`.
"""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from autodistill.errors import StoreError


class Record(BaseModel):
    """Frozen, and closed: an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


def to_json(record: Record) -> str:
    """Render a record as JSON with sorted keys and a final newline."""
    return json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


CostKind = Literal["params", "macs", "size_bytes", "latency_ms"]
Costs = dict[CostKind, int | float]


class CostRecord(Record):
    """Costs of a network; MACs for one image."""

    params: int
    macs: int
    size_bytes: int


class TeacherCostRecord(Record):
    """Costs of a teacher; None: unknown, as for a table of logits."""

    params: int | None
    macs: int | None
    size_bytes: int | None


class LatencyRecord(Record):
    """One image's forward pass on one thread, in milliseconds: median and interquartile range."""

    median_ms: float
    iqr_ms: float
    device: str


class StudentBudget(Record):
    """Limits on the student; None: no limit. Latency is that of a batch of 1."""

    params: int | None = None
    macs: int | None = None
    size_bytes: int | None = None
    latency_ms: float | None = None

    @property
    def given(self) -> Costs:
        """The limits that are set."""
        return {kind: limit for kind, limit in self if limit is not None}  # type: ignore[misc]

    def excess(self, costs: Costs) -> Costs:
        """Return the ratio of cost to limit for each limit that a student breaks; unknown costs break no limit."""
        known = {kind: costs[kind] / limit for kind, limit in self.given.items() if kind in costs}
        return {kind: ratio for kind, ratio in known.items() if ratio > 1}


def costs_of(cost: CostRecord, latency: LatencyRecord | None) -> Costs:
    """Return a student's costs by name; latency only where it was measured."""
    found: Costs = {"params": cost.params, "macs": cost.macs, "size_bytes": cost.size_bytes}
    return found if latency is None else {**found, "latency_ms": latency.median_ms}


ParamValue = float | str


class TrialParams(Record):
    """A configuration. `teacher` None is training on labels alone; `method_params` are the method's own parameters.

    Without a teacher, `method_params` may hold `label_smoothing`.
    """

    teacher: str | None = None
    method: str | None = None
    method_params: dict[str, ParamValue] = {}
    tau_student: float = 1.0
    soft_weight: float | None = 0.0
    """None: the method has weights of its own, among its parameters."""


class TargetSummary(Record):
    """Temperatures that a method gave the training samples of view 0. Shares are in [0, 1]."""

    tau_target: float
    """Median over the samples."""
    tau_other: float
    """Median over the samples."""
    tau_wrong: float | None = None
    """tau_other of samples that the teacher gets wrong; None: searched like that of the others."""
    teacher_right: float
    at_lower: float
    """Share of the teacher-right samples whose searched tau_other sits at the lower bound."""
    at_upper: float
    displaced: float
    """Share of all samples whose label has the largest teacher logit but not the largest target probability."""


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
    """Set in the last epoch of a run that evaluates on test, and in no other epoch."""
    val_balanced_top1: float | None = None
    """Mean over the classes of the accuracy on each class; None also in older records."""
    test_balanced_top1: float | None = None


Mode = Literal["eager", "graph", "compiled"]
"""How training steps are executed: `graph` as a recorded CUDA graph."""

Rungs = Literal["part-way", "short schedule"]
"""What a trial has trained at its rung: the first epochs of its full run, or a schedule of that length."""

Basis = Literal["teachers", "configurations"]
"""What a difference between two finalists is evidence about. `teachers`: both were trained with the settings of the
finalist that is ahead. `configurations`: the finalist that is behind was not, so its settings may be the cause."""

EvaluateOn = Literal["validation", "validation+test", "test"]
"""`test`: students are trained on the validation split too, so it gives no score."""


Metric = Literal["top1", "balanced_top1"]
"""The accuracy that decides: of all images, or the mean over the classes."""


class _Run(Record):
    """The fields of a run that its result repeats. `run` is its name in the study, for example `trials/0007/rung`."""

    run: str
    params: TrialParams
    seed: int
    epochs: int
    """Length of the schedule."""
    until: int | None = None
    """The epoch of the schedule after which it was to stop; None: the last epoch."""
    begun_epochs: int = 0
    """The first epochs of the curve, which another run of the trial has paid for."""
    metric: Metric = "top1"
    """The metric of the study. It is no part of the key: one training serves both."""

    @property
    def last_epoch(self) -> int:
        return self.until or self.epochs


class RunSpec(_Run):
    """One training run: everything that decides its outcome. A run that stops early keeps a checkpoint."""

    rung: int | None = None
    """An epoch that is scored in any case."""
    evaluate_on: EvaluateOn = "validation"

    @property
    def new_epochs(self) -> int:
        """Epochs that the run costs."""
        return self.last_epoch - self.begun_epochs

    def kept(self) -> dict[str, Any]:
        """Return the fields that the result of the run repeats."""
        return self.model_dump(exclude={"evaluate_on", "rung"})


class RunResult(_Run):
    """One training run as it ended."""

    key: str = ""
    """Key of the files of the run; empty in records of version 1."""
    state: Literal["complete", "failed"]
    error: str = ""
    """Why it failed: a line, and below it the last lines of a dead worker's stderr."""
    curve: tuple[EpochRecord, ...] = ()
    targets: TargetSummary | None = None
    micro_batches: int = 1
    """2: a batch did not fit into memory and passed in halves, gradients added up; BatchNorm saw half a batch."""

    @property
    def reason(self) -> str:
        """The first line of `error`."""
        return self.error.partition("\n")[0]

    @property
    def spent_epochs(self) -> int:
        """Epochs that count towards the budget; the epoch in which a run failed counts too."""
        trained = min(self.last_epoch, len(self.curve) + (self.state == "failed"))
        return max(0, trained - self.begun_epochs)

    @property
    def val_top1(self) -> float | None:
        """The run's score: the last epoch's validation accuracy by the study's metric; None if the run failed."""
        return self._last("val_top1" if self.metric == "top1" else "val_balanced_top1")

    @property
    def test_top1(self) -> float | None:
        """The test accuracy by the study's metric."""
        return self._last("test_top1" if self.metric == "top1" else "test_balanced_top1")

    @property
    def test_balanced_top1(self) -> float | None:
        return self._last("test_balanced_top1")

    def _last(self, name: str) -> float | None:
        found: float | None = getattr(self.curve[-1], name) if self.state == "complete" and self.curve else None
        return found


class RunTimes(Record):
    """What a run took."""

    wall_s: float = 0.0
    parts_s: dict[str, float] = {}
    """Parts of `wall_s`: `teacher` (run over views), `cache` (logits read or waited for), `targets` (soft targets made
    of them), `evaluation`, and `student`, which is the rest."""
    views_computed: int = 0
    """How often a teacher was run over a view for this run; other views were in the cache."""


class KeptResult(RunTimes):
    """The file of a run's result. Equal runs share `result`; the other fields depend on the machine."""

    result: RunResult
    rung: RunTimes | None = None
    """What the first epochs took, where a trial's full run continued from its rung: both runs have this key."""
    study: str = ""
    """Name of the study from which the file was copied; empty where this study trained the run."""
    computed_on: dict[str, str] = {}
    """Device, version of torch, threads and instruction set."""

    def answer(self, spec: RunSpec) -> "KeptResult | None":
        """Return this result as the result of `spec`, a run of the same key; None where it does not suffice."""
        curve = self.result.curve[: spec.last_epoch]
        failed = self.result.state == "failed" and len(curve) < spec.last_epoch
        if not failed:
            if len(curve) < spec.last_epoch:
                return None
            last, scores = curve[-1], [f"val_{spec.metric}"] * (spec.evaluate_on != "test")
            scores += [f"test_{spec.metric}"] * (spec.evaluate_on != "validation")
            rung = curve[spec.rung - 1] if spec.rung else last
            if any(getattr(last, name) is None for name in scores) or getattr(rung, f"val_{spec.metric}") is None:
                return None
            if spec.evaluate_on == "validation":
                curve = (*curve[:-1], last.model_copy(update={"test_top1": None, "test_balanced_top1": None}))
        state = {"state": "failed"} if failed else {"state": "complete", "error": ""}
        result = self.result.model_copy(update={**spec.kept(), "params": spec.params, "curve": curve, **state})
        times: dict[str, Any] = {}
        if len(curve) < len(self.result.curve):  # the times of the file are those of a longer run
            times = dict(self.rung or RunTimes())
        return self.model_copy(update={**times, "result": result, "rung": None})


class TrainedRecord(Record):
    """How a student's weights were trained; kept in the metadata of the weights file."""

    study: str
    """Name of the study that chose the configuration; empty without a study."""
    run: str
    """Name of the study's run; empty for weights that `train` made."""
    params: TrialParams
    seed: int
    epochs: int
    trained_on: Literal["train", "train+validation"]
    images: int
    """Number of images that it was trained on."""
    val_top1: float | None = None
    """None where the validation split was trained on."""
    test_top1: float | None = None
    test_balanced_top1: float | None = None
    """Mean over the classes of the accuracy on each class."""
    targets: TargetSummary | None = None
    micro_batches: int = 1
    """As in a `RunResult`."""


class TrialRecord(Record):
    """One searched configuration: trained up to its rung, and to the end unless it was pruned."""

    number: int
    kind: Literal["prior", "search"]
    wave: int
    """0: the priors."""
    params: TrialParams
    seed: int
    replicate_of: int | None = None
    """The first trial with the same parameters, if there is one; its seed differs."""
    state: Literal["running", "complete", "pruned", "failed"]
    reason: str = ""
    """Why it was pruned or failed."""
    out_of_budget: bool = False
    """Whether it was stopped because the budget had no room for its full run, not by comparison."""
    rung: RunResult | None = None
    full: RunResult | None = None
    sampler_attrs: dict[str, Any] = {}
    """Attributes that the sampler keeps of a running trial besides its parameters; empty when the trial has ended."""


class ScoresRecord(Record):
    """Confidence and accuracy of a teacher at temperature 1."""

    examples: int
    """Number of samples: all, or a fixed draw from a large split."""
    top1: float
    nll: float
    """In nats."""
    ece: float
    """Expected calibration error, 15 bins."""
    target_probability: float
    """Mean probability of the label."""
    top_two_log_ratio: float | None = None
    """Median natural logarithm of the ratio of the two largest probabilities; None in older records."""


class SpreadRecord(Record):
    """Derived average and variances of softmax(z / tau): means over the samples, with their standard errors."""

    tau: float
    derived_average: float
    inherent_variance: float
    inherent_variance_error: float
    derived_variance: float
    derived_variance_error: float


class TauOtherRecord(Record):
    """Distribution of tau_other under ISATS, over the samples that the teacher gets right unless said otherwise."""

    params: dict[str, ParamValue]
    """Parameters of the method that differ from its defaults."""
    teacher_right: float
    """Share of all samples that the teacher gets right."""
    edges: tuple[float, ...]
    """Edges of the bins: equal steps of log tau between the bounds of the search."""
    shares: tuple[float, ...]
    """Share of the samples in each bin; all 0 where the teacher gets every sample wrong."""
    median: float | None
    at_lower: float
    at_upper: float
    displaced: float
    """Share of all samples whose label has the largest teacher logit but not the largest target probability."""


class ProfileRecord(Record):
    """Statistics of a teacher's logits on view 0 of the training split and on the validation split."""

    train: ScoresRecord
    validation: ScoresRecord
    temperature: float
    """Temperature that minimises the validation NLL."""
    calibrated_nll: float
    """On validation at `temperature`, which was fitted there."""
    calibrated_ece: float
    spread: tuple[SpreadRecord, ...]
    """On train, by rising tau."""
    tau_other: TauOtherRecord | None = None
    """On train; None with two classes."""


class AgreementRecord(Record):
    """How far teachers agree on the order of the other classes: means over samples of view 0 of train.

    The matrices are symmetric, in the order of `teachers`; None where no sample has an order on both sides.
    """

    examples: int
    teachers: tuple[str, ...]
    spearman: tuple[tuple[float | None, ...], ...]
    kendall: tuple[tuple[float | None, ...], ...]
    """Kendall's tau-b."""


class Contrast(Record):
    """Paired difference of test accuracies, `teacher` minus `versus` (None: no teacher), over their common seeds.

    `low` and `high` are the ends of its 95 % interval.
    """

    teacher: str
    versus: str | None
    difference: float
    low: float | None = None
    """None: too few paired runs for an interval, or one wider than half the scale."""
    high: float | None = None
    at_least: float | None = None
    """Lower end of the interval that must reach the threshold for a winner."""
    basis: Basis | None = None
    """None: `versus` is no teacher."""
    sampling: tuple[float, float] | None = None
    """Least and largest standard error of the difference that follow from the size of the test set. Intervals do not
    include it."""


class RankRow(Record):
    """A finalist of the ranking by confirmed mean; where runs are missing, the mean is corrected for seed effects."""

    teacher: str | None
    params: TrialParams
    seeds: int
    confirmed_test_top1: float | None
    confirmed_test_balanced_top1: float | None = None
    """Mean over the classes of the accuracy on each class, averaged over the runs; None in older records."""
    low: float | None = None
    high: float | None = None
    confirmed_val_top1: float | None = None
    search_val_top1: float | None = None
    search_gap: float | None = None
    """Search score minus confirmed validation mean: the effect of choosing the best score."""
    p_best: float | None = None
    """Probability of being the best finalist; shown, never used."""
    sampling: float | None = None
    """Standard error of the accuracy that follows from the size of the test set. Intervals do not include it."""


class SeedsToSettle(Record):
    """Number of confirm seeds that would settle an open question, at the measured difference and noise."""

    teacher: str
    versus: str | None
    """None: does the teacher help?"""
    seeds: int | None
    """None: over 50, or no number, because the difference lies within the threshold."""


class Recommendation(Record):
    """The recommendation of a study, with its evidence."""

    verdict: Literal["winner", "no_clear_difference", "only_one", "no_teacher", "unconfirmed"]
    basis: Basis | None = None
    """What a comparison of the best finalist with the others is evidence about; None without such a comparison."""
    versus_no_teacher: Literal["helps", "does_not_help", "cannot_tell"]
    teacher: str | None
    """The teacher to use; None: train without one."""
    params: TrialParams
    sentence: str
    reasons: tuple[str, ...] = ()
    ranking: tuple[RankRow, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    seed_std: float | None = None
    """Standard deviation of a run over seeds, pooled over the finalists."""
    seeds_to_settle: tuple[SeedsToSettle, ...] = ()
    """Empty where no question is open, or where there is no interval."""
    label_smoothing: RankRow | None = None
    """Training on labels alone with label smoothing; None: it was not tried."""
    versus_label_smoothing: Contrast | None = None
    """The teacher of the verdict against label smoothing, `versus` None."""
    threshold: float


SCHEMA_VERSION = 2
_REWRITTEN = "move it away and run `autodistill search` again with the same command: finished runs are kept and found"


class ForeignRecord(Record):
    """Facts about a student that the user's code, torchvision or timm provides."""

    uri: str
    fingerprint: str
    """SHA-256 of its code, structure, preprocessing and loaded weights; new weights are not part of it."""
    mean: tuple[float, ...]
    """Mean per channel that its input is normalised with, of images in [0, 1]."""
    std: tuple[float, ...]
    normalisation: str
    """Name of `mean` and `std`."""
    input_size: int
    """Height and width that it resizes images to."""
    interpolation: str
    weights: str = ""
    """Published version or name of the file of the weights it starts from; empty: freshly initialised."""
    fresh: tuple[str, ...] = ()
    """Tensors of the head, which are freshly initialised although the student starts from weights."""
    contiguous: bool = False
    """Whether it runs in contiguous memory, because it cannot run in channels_last memory."""
    notes: tuple[str, ...] = ()
    """What the user should know about how it was read."""


class StudentRecord(Record):
    """A student."""

    name: str
    """With its width: `mobilenetv2:0.25`."""
    architecture: str
    width: float = 1.0
    stem_stride: int | None = None
    """None: not known, because the network is from elsewhere."""
    total_stride: int | None = None
    cost: CostRecord
    foreign: ForeignRecord | None = None
    """None: the network is one of this package's."""

    @property
    def source(self) -> str:
        """What the network is built from: a name of this package's networks, or a URI."""
        return self.foreign.uri if self.foreign else self.name

    @property
    def key(self) -> tuple[str, int | str | None]:
        """Equal for students whose runs have equal results."""
        return ("foreign", self.foreign.fingerprint) if self.foreign else (self.name, self.stem_stride)


TRAINED_HERE = ("ladder:", "adapt:", "assistant:")
"""Schemes of the teachers that autodistill trains on the study's data."""


class TeacherRecord(Record):
    """A teacher that passed its checks. Scores on the validation split."""

    name: str
    uri: str
    architecture: str
    fingerprint: str
    cost: TeacherCostRecord
    normalisation: str
    val_top1: float
    val_nll: float
    val_ece: float
    val_balanced_top1: float | None = None
    """Mean over classes of the accuracy on each class; None in older records."""
    notes: tuple[str, ...] = ()
    """What the user should know about how it was read."""
    profile: ProfileRecord | None = None
    """None: the record is older than profiles, or a logit does not fit into the cache."""

    @property
    def is_foreign(self) -> bool:
        """Whether it was trained elsewhere, perhaps on images of this study's validation split.

        An ensemble is not: its members are teachers of the study themselves.
        """
        return not self.uri.startswith((*TRAINED_HERE, "ensemble:"))

    def score(self, metric: Metric) -> float:
        """Return the validation accuracy by a metric."""
        balanced = self.val_balanced_top1 if metric == "balanced_top1" else None
        return self.val_top1 if balanced is None else balanced


class ReadingRecord(Record):
    """What was found when the images of a user were read. Sizes are width and height in pixels."""

    images: int
    smallest: tuple[int, int]
    median: tuple[int, int]
    """Of the widths and of the heights."""
    largest: tuple[int, int]
    distinct: int
    """Number of different sizes."""
    kinds: dict[str, int]
    """Number of images by kind of colours."""
    rotated: int = 0
    """Images that an EXIF orientation turned."""
    frames: int = 0
    """Images with several frames; the first was read."""
    enlarged: int = 0
    """Images whose shorter side is below `stored`."""
    stored: int
    """Side of the stored images, with their margin."""
    same_split: int = 0
    """Images whose pixels equal those of an earlier image of their split."""
    across_splits: int = 0
    """Images whose pixels equal those of an image of an earlier split."""
    other_class: int = 0
    """Such images, of both kinds, whose class is another."""
    examples: tuple[tuple[str, str], ...] = ()
    """Names of some equal images."""
    left_out: tuple[str, ...] = ()
    """Files and folders that were not read, a line for each reason."""


class DataRecord(Record):
    """A dataset and its splits."""

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    train: int
    validation: int
    test: int
    split_seed: int
    view_seed: int
    views: int
    """Size of the pool of views that the epochs cycle through."""
    fingerprint: str
    counts: tuple[tuple[int, ...], ...] = ()
    """Number of images of each class in train, validation and test; empty for datasets that are known by name."""
    reading: ReadingRecord | None = None
    """What was found in the user's images; None for datasets that are known by name."""


class RaceRecord(Record):
    """Confirm runs whose later seeds go to the undecided finalists."""

    first: int
    """Seeds that every finalist is trained over before the first look."""
    seeds: int
    """Mean number of seeds per finalist that the budget pays for."""


class PlanRecord(Record):
    """The budget as a plan; its parts are in full-training equivalents."""

    requested: str
    epochs_full: int
    epochs_rung: int
    total_epochs: int
    no_teacher: float
    plain_kd: float
    priors: float
    confirm: float
    controls: float = 0.0
    """At most; configurations that finalists share are trained once."""
    label_smoothing: float = 0.0
    """Training on labels alone with label smoothing, over the confirm seeds."""
    search: float
    reruns: float = 0.0
    max_trials: int | None = None
    """Limit on searched trials, priors included."""
    tried: int | None = None
    """Number of teachers that get a first trial; None in older records: all."""
    settings: int | None = None
    """Settings that each cell of a method grid tries; None: the study is a search."""
    wave: int
    asynchronous: bool = False
    """Records of version 1 only: trials were asked for whenever a worker was free."""
    rungs: Rungs = "short schedule"
    race: RaceRecord | None = None
    """None: every finalist is trained over every confirm seed."""

    @property
    def equivalents(self) -> float:
        return self.total_epochs / self.epochs_full

    @property
    def epochs_rest(self) -> int:
        """Epochs from the rung of a trial to its end."""
        return self.epochs_full - self.epochs_rung if self.rungs == "part-way" else self.epochs_full


class FinalistRecord(Record):
    """A configuration trained in full over the confirm seeds. `teacher` None is the no-teacher baseline."""

    teacher: str | None
    trial: int | None = None
    params: TrialParams
    search_val_top1: float | None = None
    """Mean validation accuracy of its full runs in the search. Choosing the best score inflates it."""
    runs: tuple[RunResult, ...] = ()


class ControlRecord(Record):
    """A teacher's student with settings that were chosen in another way, over the first confirm seeds."""

    regime: Literal["default", "shared", "own"]
    """Settings: `default` the prior, `shared` the best of all finalists, `own` the best of this teacher."""
    teacher: str
    params: TrialParams
    runs: tuple[RunResult, ...]


class CellRecord(Record):
    """A teacher with a method: the setting that was best on validation, trained over the confirm seeds."""

    method: str
    teacher: str
    trial: int | None
    """Number of the trial that found the setting; None for a setting that was chosen for all teachers together."""
    params: TrialParams
    search_val_top1: float | None = None
    """Validation accuracy of the trial. Choosing the best of several inflates it."""
    runs: tuple[RunResult, ...] = ()


class ScoreRow(Record):
    """A mean test accuracy over the confirm seeds. `low` and `high` are the ends of its 95 % interval.

    `method` None is a row without a teacher.
    """

    name: str
    """`no teacher`, `label smoothing`, or the name of the teacher; of a method's row its name."""
    method: str | None = None
    seeds: int
    test_top1: float | None
    low: float | None = None
    high: float | None = None


class MethodContrast(Record):
    """Paired difference of two test accuracies, `better` minus `worse`, with a 95 % interval.

    Intervals of methods hold together for all pairs; those of cells hold singly.
    """

    better: str
    worse: str
    difference: float
    low: float | None = None
    high: float | None = None
    at_least: float | None = None
    """Lower end of the interval that must reach the threshold before a method is named."""


class SlopeRow(Record):
    """Change of the student's test accuracy per doubling of the teacher's MACs, over the teachers of this grid."""

    method: str
    slope: float
    low: float | None = None
    high: float | None = None


class TuningRow(Record):
    """Gain of a setting for each teacher over one setting of a method for all teachers, mean over the teachers."""

    method: str
    gain: float
    low: float | None = None
    high: float | None = None


class MethodVerdict(Record):
    """What a method grid says about its methods."""

    verdict: Literal["best_method", "no_clear_difference", "only_one", "unconfirmed"]
    method: str | None
    """The best method, or None if none can be named."""
    sentence: str
    reasons: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    """Teachers that the means are over: those with two finished runs of every method."""
    methods: tuple[ScoreRow, ...] = ()
    """Means over the teachers, the best first; methods that were left out come last."""
    baselines: tuple[ScoreRow, ...] = ()
    cells: tuple[ScoreRow, ...] = ()
    contrasts: tuple[MethodContrast, ...] = ()
    """Every two methods."""
    gains: tuple[MethodContrast, ...] = ()
    """Each cell, `METHOD / TEACHER`, against no teacher and against label smoothing."""
    slopes: tuple[SlopeRow, ...] = ()
    """Each interval holds singly."""
    slope_contrasts: tuple[MethodContrast, ...] = ()
    """Every two slopes: does accuracy fall less with growing teachers under one method? Intervals hold together."""
    tuning: tuple[TuningRow, ...] = ()
    """Of methods with shared settings."""
    detectable: float | None = None
    """Smallest difference between two methods that this grid finds in 80 % of repetitions at its noise."""
    seeds_to_settle: int | None = None
    """Seeds that would tell the best two methods apart at the measured difference and noise; None: over 50, or
    their difference lies within the threshold."""
    noise: float | None = None
    """Standard deviation of a run, with the effects of cells and seeds removed."""
    threshold: float


class MethodGrid(Record):
    """Methods x teachers, measured by `compare`."""

    methods: tuple[str, ...]
    settings: int
    """Settings that each cell tried."""
    cells: tuple[CellRecord, ...] = ()
    no_teacher: tuple[RunResult, ...] = ()
    label_smoothing: tuple[RunResult, ...] = ()
    shared: tuple[CellRecord, ...] = ()
    """With `grid.shared_settings`: each method's best setting for all teachers together, with each teacher."""
    verdict: MethodVerdict | None = None


class ImportanceRecord(Record):
    """fANOVA on the rung scores. `n` scored trials; empty `shares` and a `note` where n is too small."""

    n: int
    evaluator_seeds: int = 1
    """Number of random forests over which shares are averaged."""
    shares: dict[str, float] = {}
    shares_std: dict[str, float] = {}
    """Standard deviation of each share over the forests; empty for a single forest."""
    within_method: dict[str, dict[str, float]] = {}
    """Per method: shares of its parameters and the soft weight, from the trials of that method."""
    within_method_std: dict[str, dict[str, float]] = {}
    within_method_n: dict[str, int] = {}
    note: str = ""


class SpecRecord(Record):
    """What makes a study this study, beside its search space: a command with another specification is refused."""

    student: str
    student_fingerprint: str = ""
    """Of a student from elsewhere; empty for a network of this package."""
    teachers: dict[str, str]
    """Name to URI."""
    fingerprints: dict[str, str]
    """Name to fingerprint of the given teachers, and to the key of adapted ones and assistants; the data and the space
    decide the default ladder."""
    data: str
    """Fingerprint of images, labels and split."""
    methods: dict[str, str] = {}
    """Hashes of the code of the user's own methods, by their names."""
    result_version: int


class JoinRecord(Record):
    """A teacher joined the study: the trials before that keep their numbers and costs."""

    teachers: tuple[str, ...]
    """All teachers since then."""
    trials: int
    """Trials from before."""


class FoundRun(Record):
    """A run that was found in another study of the same folder, not trained."""

    run: str
    key: str
    study: str


class StudyRecord(Record):
    """A study. Equal studies differ in `timing`, `environment` and `found` only."""

    schema_version: int = SCHEMA_VERSION
    name: str
    state: Literal["running", "complete"]
    command: str
    """Command that reproduces the study; options that change no result are left out."""
    spec: SpecRecord | None = None
    """None in records of version 1."""
    joins: tuple[JoinRecord, ...] = ()
    found: tuple[FoundRun, ...] = ()
    student: StudentRecord
    limits: StudentBudget = StudentBudget()
    """The limits within which the student stays."""
    data: DataRecord
    space: dict[str, Any]
    plan: PlanRecord
    spent_epochs: int = 0
    teachers: tuple[TeacherRecord, ...] = ()
    left_out: dict[str, str] = {}
    """Names of the files of a folder of teachers that could not be loaded or did not pass their check, with the
    reason."""
    screened_out: dict[str, str] = {}
    """Names of the teachers that were not tried, with the reason: more teachers were given than the budget pays for."""
    agreement: AgreementRecord | None = None
    """Agreement of the teachers' class orders; None with a single profiled teacher."""
    no_teacher: RunResult | None = None
    plain_kd: RunResult | None = None
    """Plain KD from the most accurate teacher: a run of its own, or the full run of this teacher's prior."""
    trials: tuple[TrialRecord, ...] = ()
    reruns: tuple[RunResult, ...] = ()
    """The leader's settings with each leading teacher, trained before the finalists were chosen by mean score; in
    older records the leaders' own settings."""
    finalists: tuple[FinalistRecord, ...] = ()
    controls: tuple[ControlRecord, ...] = ()
    """From a budget of 40 on."""
    label_smoothing: tuple[RunResult, ...] = ()
    """Training on labels alone with label smoothing, over the confirm seeds; from a budget of 23 on."""
    grid: MethodGrid | None = None
    """Of `compare`; None: the study is a search."""
    audit: tuple[RunResult, ...] = ()
    """Pruned trials that were trained to the end for `--audit-pruning`, outside budget and verdict."""
    importance: ImportanceRecord | None = None
    recommendation: Recommendation | None = None
    timing: dict[str, Any] = {}
    environment: dict[str, Any] = {}

    def search_score(self, params: TrialParams) -> float | None:
        """Return the mean validation accuracy of a configuration's full runs in the search; None without such runs."""
        own = [run.val_top1 for run in self.search_runs() if run.params == params]
        scores = [score for score in own if score is not None]
        return sum(scores) / len(scores) if scores else None

    def search_runs(self) -> list[RunResult]:
        """Return the full runs of the search, each once: those of trials, plain KD, and reruns."""
        runs = (*(trial.full for trial in self.trials), self.plain_kd, *self.reruns)
        return list({run.run: run for run in runs if run is not None}.values())

    def runs(self) -> Iterator[RunResult]:
        """Yield every training run that the budget paid for, each once."""
        seen: set[str] = set()
        trial_runs = (run for trial in self.trials for run in (trial.rung, trial.full))
        grid = self.grid
        cells = [*grid.cells, *grid.shared] if grid else []
        later = [*(it.runs for it in self.finalists), *(it.runs for it in self.controls), *(it.runs for it in cells)]
        later += [self.label_smoothing, *((grid.no_teacher, grid.label_smoothing) if grid else ())]
        for run in (self.no_teacher, self.plain_kd, *trial_runs, *self.reruns, *chain.from_iterable(later)):
            if run is not None and run.run not in seen:
                seen.add(run.run)
                yield run


class InspectionRecord(Record):
    """Teachers that were inspected without a search."""

    schema_version: int = SCHEMA_VERSION
    data: DataRecord
    teachers: tuple[TeacherRecord, ...]
    left_out: dict[str, str] = {}
    """Names of the files of a folder that could not be loaded or did not pass their check, with the reason."""
    agreement: AgreementRecord | None = None


class LeftOutRecord(Record):
    """A student that was not trained because it breaks a limit."""

    student: StudentRecord
    latency: LatencyRecord | None = None
    excess: Costs
    """Ratio of cost to limit, by cost."""


class StudentRow(Record):
    """A student with the teacher that its study recommends."""

    student: str
    study: str
    teacher: str | None
    params: TrialParams
    seeds: int
    test_top1: float | None
    low: float | None = None
    high: float | None = None
    costs: Costs
    """Latency only where it was measured."""
    front: tuple[CostKind, ...] = ()
    """Costs for which the student is on the Pareto front."""


class StudentContrast(Record):
    """Paired difference of test accuracies over the confirm seeds, `student` minus `versus`."""

    student: str
    versus: str
    difference: float
    low: float | None = None
    high: float | None = None


class BudgetLine(Record):
    """The most accurate student under one limit, and its teacher."""

    kind: CostKind
    limit: float
    student: str
    teacher: str | None
    test_top1: float


class StudentChoice(Record):
    """The student to ship, with the evidence."""

    verdict: Literal["winner", "no_clear_difference", "only_one", "unconfirmed"]
    student: str
    study: str
    sentence: str
    reasons: tuple[str, ...] = ()
    rows: tuple[StudentRow, ...] = ()
    contrasts: tuple[StudentContrast, ...] = ()
    lines: tuple[BudgetLine, ...] = ()
    threshold: float


class ComparisonRecord(Record):
    """A comparison of students, each with a study of its own."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["comparison"] = "comparison"
    name: str
    state: Literal["running", "complete"]
    command: str
    limits: StudentBudget = StudentBudget()
    left_out: tuple[LeftOutRecord, ...] = ()
    studies: tuple[StudyRecord, ...]
    choice: StudentChoice | None = None

    def study(self, student: str) -> StudyRecord:
        """Return the study of a student."""
        return next(study for study in self.studies if study.student.name == student)


def latency_of(study: StudyRecord) -> LatencyRecord | None:
    """Return the student's latency as it was measured when its study ran."""
    found = study.timing.get("latency")
    return None if found is None else LatencyRecord.model_validate(found)


def read_study(path: Path) -> StudyRecord:
    """Read a `study.json` of one student.

    Raises:
        StoreError: the file is missing, truncated, of a newer version or no study record.
    """
    found = _read_json(path)
    if found.get("kind") == "comparison":
        names = ", ".join(study.get("name", "") for study in found.get("studies", ()))
        raise StoreError(f"{path}: compares several students", f"name the study of one: {names}")
    return _parsed(path, found, StudyRecord)


def read_record(path: Path) -> StudyRecord | ComparisonRecord:
    """Read a `study.json`, of one student or of several; errors as for `read_study`."""
    found = _read_json(path)
    if found.get("kind") == "comparison":
        return _parsed(path, found, ComparisonRecord)
    return _parsed(path, found, StudyRecord)


def _read_json(path: Path) -> dict[str, Any]:
    """Read the JSON of a record, and bring it to this version."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})", _REWRITTEN) from error
    except UnicodeDecodeError as error:
        raise StoreError(f"{path}: not text in UTF-8 (byte {error.start})", _REWRITTEN) from error
    try:
        found = json.loads(text)
        version = found.get("schema_version") if isinstance(found, dict) else None
    except json.JSONDecodeError as error:
        raise StoreError(f"{path}: not whole JSON (line {error.lineno}: {error.msg})", _REWRITTEN) from error
    if not isinstance(version, int):
        raise StoreError(f"{path}: not a study record (no schema_version)", "name a folder that `search` made")
    if version > SCHEMA_VERSION:
        newest = f"this autodistill reads up to {SCHEMA_VERSION}"
        raise StoreError(f"{path}: schema_version {version}, {newest}", "update kd-autodistill")
    return dict(found if version == SCHEMA_VERSION else _renamed(found))


_RENAMED = {
    "rule": "method",
    "rules": "methods",
    "rule_params": "method_params",
    "within_rule": "within_method",
    "within_rule_std": "within_method_std",
    "within_rule_n": "within_method_n",
    "short": "rung",
    "epochs_short": "epochs_rung",
    "short_epochs": "rung_epochs",
    "second_looks": "reruns",
    "second looks": "reruns",
    "short runs": "short schedule",
}
"""Keys and values of version 1."""
_RENAMED_VALUES = ("rungs", "phase")
_REMOVED = ("audit_trail",)


def _renamed(found: Any) -> Any:
    """Return a document of version 1 with the names of version 2."""
    if isinstance(found, list):
        return [_renamed(value) for value in found]
    if not isinstance(found, dict):
        return found
    kept = {_RENAMED.get(key, key): value for key, value in found.items() if key not in _REMOVED}
    if "schema_version" in kept:  # a comparison holds whole studies
        kept["schema_version"] = SCHEMA_VERSION
    return {
        key: _RENAMED.get(value, value) if key in _RENAMED_VALUES and isinstance(value, str) else _renamed(value)
        for key, value in kept.items()
    }


AnyRecord = TypeVar("AnyRecord", bound=Record)


def _parsed(path: Path, found: dict[str, Any], kind: type[AnyRecord]) -> AnyRecord:
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{path}: {where}: {first['msg']}", _REWRITTEN) from error


Phase = Literal[
    "teachers", "profiles", "baselines and priors", "search", "tuning", "reruns", "confirm", "controls", "audit"
]


class EpochEvent(Record):
    """A worker finished one epoch. `wall_s`: seconds for that epoch."""

    run: str
    epochs: int
    record: EpochRecord
    wall_s: float


class RunEnded(RunTimes):
    """A run is over.

    `reused`: its result was there already. `study`: the other study that trained the run; empty: this study.
    """

    record: RunResult
    reused: bool = False
    study: str = ""


def run_ended(kept: KeptResult, *, reused: bool = False) -> RunEnded:
    """Return the event for a result."""
    times = {name: getattr(kept, name) for name in RunTimes.model_fields}
    return RunEnded(record=kept.result, reused=reused, study=kept.study, **times)


class LogitsComputed(Record):
    """A worker has run a teacher over views before a run needed their logits."""

    views_computed: int


class TrialStarted(Record):
    """A trial was asked for."""

    record: TrialRecord


class TrialEnded(Record):
    """A trial is complete, pruned or failed."""

    record: TrialRecord


class PhaseStarted(Record):
    """A phase of the study begins: `runs` training runs with `epochs` epochs in all, as far as they are known."""

    phase: Phase
    runs: int
    epochs: int


class Note(Record):
    """A line for the user."""

    text: str
    warning: bool = False


class TimePlanned(Record):
    """Planned seconds of the rest of the study, by phase."""

    phases_s: dict[str, float]
    logits_s: float
    """Seconds of missing teacher logits, summed over the workers; the phases include them."""

    @property
    def wall_s(self) -> float:
        return sum(self.phases_s.values())


class TimeLeft(Record):
    """Seconds left, estimated from the pace so far."""

    wall_s: float


class TaskProgress(Record):
    """Progress of a task that is not a run of the study, such as the training of a teacher."""

    task: str
    done: int
    total: int
    text: str = ""


Event = (
    EpochEvent
    | RunEnded
    | LogitsComputed
    | TrialStarted
    | TrialEnded
    | PhaseStarted
    | Note
    | TaskProgress
    | TimePlanned
    | TimeLeft
)
