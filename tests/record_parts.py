"""The parts that records of studies are made of, plausible enough to look at."""

import math
import random
from collections.abc import Mapping

from autodistill.records import (
    CostRecord,
    DataRecord,
    EpochRecord,
    FinalistRecord,
    ParamValue,
    PlanRecord,
    ProfileRecord,
    RunResult,
    ScoresRecord,
    SpreadRecord,
    StudentRecord,
    TargetSummary,
    TauOtherRecord,
    TeacherCostRecord,
    TeacherRecord,
    TrialParams,
    TrialRecord,
)

EPOCHS_FULL, EPOCHS_SHORT = 12, 4


def student() -> StudentRecord:
    cost = CostRecord(params=240_000, macs=4_800_000, size_bytes=1_020_000)
    return StudentRecord(
        name="mobilenetv2:0.25", architecture="mobilenetv2", width=0.25, stem_stride=2, total_stride=8, cost=cost
    )


def data() -> DataRecord:
    classes = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")
    return DataRecord(
        name="fashion-mnist",
        classes=classes,
        image_shape=(1, 14, 14),
        train=4000,
        validation=4000,
        test=10000,
        split_seed=0,
        view_seed=0,
        views=12,
        fingerprint="6f1c",
    )


def plan() -> PlanRecord:
    return PlanRecord(
        requested="26",
        epochs_full=EPOCHS_FULL,
        epochs_rung=EPOCHS_SHORT,
        total_epochs=26 * EPOCHS_FULL,
        no_teacher=1.0,
        plain_kd=1.0,
        priors=5.33,
        confirm=8.0,
        search=10.67,
        wave=2,
    )


def teacher(name: str, *, val_top1: float, size: int) -> TeacherRecord:
    cost = TeacherCostRecord(params=4_000 * 6**size, macs=500_000 * 4**size, size_bytes=16_000 * 6**size)
    return TeacherRecord(
        name=name,
        uri=f"ladder:{name}",
        architecture="convnet",
        fingerprint=f"{size:04x}",
        cost=cost,
        normalisation="mean 0.286, std 0.353",
        val_top1=val_top1,
        val_nll=0.9 - val_top1 / 2,
        val_ece=0.02,
    )


def profile(size: int, *, val_top1: float = 0.9, most: float = 3.0) -> ProfileRecord:
    """Dark knowledge whose variances are largest at size `most`; the ranks of its neighbours are near each other."""
    height = math.exp(-0.2 * abs(size - most))
    scores = ScoresRecord(
        examples=4000,
        top1=val_top1,
        nll=0.9 - val_top1 / 2,
        ece=0.02,
        target_probability=val_top1 - 0.05,
        top_two_log_ratio=2 + 4 * val_top1,
    )
    taus = [2 ** (half / 2 - 1) for half in range(13)]
    bins = [math.exp(-((place - 8 - size / 4) ** 2) / 9) for place in range(24)]
    return ProfileRecord(
        train=scores.model_copy(update={"top1": min(1.0, val_top1 + 0.05)}),
        validation=scores,
        temperature=1.1,
        calibrated_nll=scores.nll - 0.01,
        calibrated_ece=0.01,
        spread=tuple(
            SpreadRecord(
                tau=tau,
                derived_average=0.1 * tau / (tau + 2),
                inherent_variance=0.05 * height / tau,
                inherent_variance_error=0.0001 / tau,
                derived_variance=0.004 * height * tau * math.exp(-tau / 4),
                derived_variance_error=0.00001 * tau,
            )
            for tau in taus
        ),
        tau_other=TauOtherRecord(
            params={"target_ratio": 5 / 3},
            teacher_right=val_top1,
            edges=tuple(0.5 * 60 ** (edge / 24) for edge in range(25)),
            shares=tuple(share / sum(bins) for share in bins),
            median=2.0 + size / 10,
            at_lower=0.01,
            at_upper=0.0,
            displaced=0.0,
        ),
    )


def targets(*, at_lower: float = 0.01, displaced: float = 0.0) -> TargetSummary:
    return TargetSummary(
        tau_target=5.2,
        tau_other=3.1,
        tau_wrong=3.1,
        teacher_right=0.88,
        at_lower=at_lower,
        at_upper=0.0,
        displaced=displaced,
    )


def curve(final: float, *, epochs: int, noise: random.Random, test: float | None = None) -> tuple[EpochRecord, ...]:
    """A learning curve that ends at `final` exactly."""

    def value(epoch: int) -> float:
        if epoch == epochs:
            return final
        return max(0.1, final - 0.5 * math.exp(-3.5 * epoch / epochs) - 0.012 * noise.random())

    return tuple(
        EpochRecord(
            epoch=epoch,
            train_loss=2.3 * math.exp(-epoch / epochs),
            hard_loss=2.2 * math.exp(-epoch / epochs),
            soft_loss=2.4 * math.exp(-epoch / epochs),
            val_top1=value(epoch),
            val_nll=1.0,
            test_top1=test if epoch == epochs else None,
        )
        for epoch in range(1, epochs + 1)
    )


def run(
    name: str,
    params: TrialParams,
    *,
    val: float,
    epochs: int = EPOCHS_FULL,
    seed: int = 0,
    test: float | None = None,
    noise: random.Random | None = None,
) -> RunResult:
    points = curve(val, epochs=epochs, noise=noise or random.Random(name), test=test)
    summary = targets() if params.method == "isats" else None
    return RunResult(run=name, params=params, seed=seed, epochs=epochs, state="complete", curve=points, targets=summary)


def failed_run(name: str, params: TrialParams, *, epochs: int = EPOCHS_FULL, seed: int = 0) -> RunResult:
    error = "the loss became non-finite in epoch 2, batch 17\n(soft_weight <0.9> | rule)"
    points = curve(0.3, epochs=2, noise=random.Random(name))
    return RunResult(run=name, params=params, seed=seed, epochs=epochs, state="failed", error=error, curve=points)


def isats(teacher: str | None, *, ratio: float = 5 / 3, soft_weight: float = 0.5) -> TrialParams:
    method_params: dict[str, ParamValue] = {"target_ratio": ratio}
    return TrialParams(teacher=teacher, method="isats", method_params=method_params, soft_weight=soft_weight)


def kd(teacher: str) -> TrialParams:
    return TrialParams(teacher=teacher, method="ts", method_params={"tau": 4.0}, tau_student=4.0, soft_weight=0.9)


def params_of(name: str, noise: random.Random) -> TrialParams:
    if noise.random() < 0.3:
        tau = round(noise.uniform(1, 16), 2)
        weight = round(noise.uniform(0.1, 0.9), 2)
        return TrialParams(teacher=name, method="ts", method_params={"tau": tau}, tau_student=tau, soft_weight=weight)
    return isats(name, ratio=round(noise.uniform(0.8, 4), 2), soft_weight=round(noise.uniform(0.1, 0.9), 2))


def trial(number: int, params: TrialParams, *, state: str, score: float, kind: str = "search") -> TrialRecord:
    folder = f"trials/{number:04d}"
    noise = random.Random(number)
    short = run(f"{folder}/rung", params, val=score - 0.03, epochs=EPOCHS_SHORT, noise=noise)
    full = run(f"{folder}/full", params, val=score, noise=noise) if state == "complete" else None
    if state == "failed":
        short = failed_run(f"{folder}/rung", params, epochs=EPOCHS_SHORT)
    reason = {
        "pruned": f"short score {100 * (score - 0.03):.1f} % is below the best of {params.teacher}",
        "failed": short.error,
    }
    return TrialRecord.model_validate(
        {
            "number": number,
            "kind": kind,
            "wave": number // 2,
            "params": params,
            "seed": 0,
            "replicate_of": number - 6 if number == 11 else None,
            "state": state,
            "reason": reason.get(state, ""),
            "rung": short,
            "full": full,
        }
    )


def finalist(
    name: str | None, scores: Mapping[int, float | None], *, search_val_top1: float | None = None
) -> FinalistRecord:
    """A finalist by its test accuracy per seed; None is a failed run."""
    params = TrialParams() if name is None else isats(name)
    folder = f"confirm/{'none' if name is None else name}"
    runs = [
        failed_run(f"{folder}/{seed}", params, seed=seed)
        if test is None
        else run(f"{folder}/{seed}", params, val=test - 0.004, test=test, seed=seed)
        for seed, test in scores.items()
    ]
    return FinalistRecord(teacher=name, params=params, search_val_top1=search_val_top1, runs=tuple(runs))
