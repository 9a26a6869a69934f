"""What a study will take, from a few measured steps."""

from typing import NamedTuple

from autodistill import ladder
from autodistill.cache import estimated_bytes
from autodistill.records import PlanRecord
from autodistill.search import make_plan
from autodistill.space import Space
from autodistill.study.preparing import Prepared
from autodistill.workers import Probe, ProbeTask, Workplace


class Estimate(NamedTuple):
    plan: PlanRecord
    wall_s: float
    """Of the whole study, ladder included."""
    ladder_s: float
    cache_bytes: int


def estimate(prepared: Prepared) -> Estimate:
    """Measure a few steps of the student and of each missing ladder teacher; writes nothing."""
    place = Workplace(prepared.setup)
    student = _probe(place, ProbeTask())
    rungs = [_probe(place, ProbeTask(architecture=it.removeprefix(ladder.SCHEME))) for it in prepared.untrained]
    workers, per_epoch = max(1, prepared.request.workers), epoch_s(student, prepared.space)
    plan = make_plan(
        prepared.space,
        teachers=len(prepared.teachers),
        requested=prepared.budget,
        epochs_per_s=workers / per_epoch,
        max_trials=prepared.request.max_trials,
    )
    # A teacher is trained by one worker: the strongest alone may take longer than the others together.
    shared = max(sum(it.epoch_s for it in rungs) / workers, max((it.epoch_s for it in rungs), default=0.0))
    ladder_s = shared * prepared.space.ladder.epochs
    size = cache_size(prepared)
    return Estimate(plan, ladder_s + plan.total_epochs * per_epoch / workers, ladder_s, size)


def epoch_s(probe: Probe, space: Space) -> float:
    """Seconds of a student epoch on one worker, its share of the validations included."""
    return probe.epoch_s + probe.validation_s / space.training.evaluate_every


def cache_size(prepared: Prepared) -> int:
    """Bytes of the study's teacher logits."""
    return estimated_bytes(
        teachers=len(prepared.teachers),
        views=prepared.views,
        examples=len(prepared.data.train.labels),
        classes=prepared.data.num_classes,
    )


def spelt(plan: PlanRecord) -> str:
    """The plan as one line: `20 = no teacher 1 + plain KD 1 + priors 5.33 + confirm 8 + search 4.67`."""
    parts = {
        "no teacher": plan.no_teacher,
        "plain KD": plan.plain_kd,
        "priors": plan.priors,
        "confirm": plan.confirm,
        **({"controls": plan.controls} if plan.controls else {}),
        "search": plan.search,
    }
    return f"{plan.equivalents:.4g} full trainings = " + " + ".join(f"{name} {it:.3g}" for name, it in parts.items())


def _probe(place: Workplace, task: ProbeTask) -> Probe:
    (probe,) = (it for it in place.do(task) if isinstance(it, Probe))
    return probe
