"""Check students against limits before training, and measure latency if a limit needs it."""

from collections.abc import Sequence

import torch

from autodistill.errors import ConfigError
from autodistill.formatting import COSTS, excess_words
from autodistill.models import student_network
from autodistill.models.cost import latency_ms
from autodistill.records import LatencyRecord, LeftOutRecord, StudentBudget, StudyRecord, costs_of, latency_of
from autodistill.study.environment import device_name, processor
from autodistill.study.measurements import facts, keep, recall
from autodistill.study.resolve import StudySpec, kept_record


def within(
    students: Sequence[StudySpec], limits: StudentBudget
) -> tuple[tuple[StudySpec, ...], tuple[LeftOutRecord, ...]]:
    """Separate the students that keep within the limits from those that break a limit.

    Raises:
        ConfigError: All students break a limit. The message says by how much, and which student comes nearest.
    """
    kept, left_out = [], []
    for spec in students:
        latency = student_latency(spec, kept_record(spec.folder)) if limits.latency_ms is not None else None
        excess = limits.excess(costs_of(spec.student.cost, latency))
        if excess:
            left_out.append(LeftOutRecord(student=spec.student, latency=latency, excess=excess))
        else:
            kept.append(spec._replace(latency=latency))
    if not kept:
        raise ConfigError(_all_break(left_out, limits), "raise the limit, or name a smaller student or width")
    return tuple(kept), tuple(left_out)


def student_latency(spec: StudySpec, kept: StudyRecord | None) -> LatencyRecord | None:
    """Return the time of a forward pass of one image on the study's device; None if this machine lacks the device.

    A time in the study's record or among the kept measurements is used again, because times are noisy.
    """
    device = spec.options.device
    name = device_name(device) if device.startswith("cuda") else f"{processor()}, one thread"
    known = latency_of(kept) if kept else None
    if known is not None and known.device == name:
        return known
    if device.startswith("cuda") and not torch.cuda.is_available():
        return None
    of = facts(spec.data, spec.space, device=device, student=spec.student.model_dump(mode="json"))
    known = recall(LatencyRecord, of)
    if known is None:
        model = student_network(spec.student.name, spec.data, spec.space.student)
        latency = latency_ms(model, image_shape=spec.data.image_shape, device=torch.device(device))
        known = LatencyRecord(median_ms=round(latency.median_ms, 4), iqr_ms=round(latency.iqr_ms, 4), device=name)
        keep(known, of)
    return known


def _all_break(left_out: Sequence[LeftOutRecord], limits: StudentBudget) -> str:
    lines = [f"{excluded.student.name}: {excess_words(excluded, limits)}" for excluded in left_out]
    if len(lines) == 1:
        return f"the student breaks its limits: {lines[0]}"
    nearest = min(left_out, key=lambda excluded: max(excluded.excess.values()))
    kind = max(nearest.excess, key=lambda cost: nearest.excess[cost])
    times = f"{nearest.excess[kind]:.2f} times the limit on {COSTS[kind]}"
    listed = "\n  ".join(lines)
    return f"no student keeps within the limits; {nearest.student.name} comes nearest ({times}):\n  {listed}"
