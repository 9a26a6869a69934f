"""Limits on students, held before any of them is trained; and the latency that they need."""

from collections.abc import Sequence

import torch

from autodistill.errors import ConfigError
from autodistill.formatting import COSTS, excess_words
from autodistill.models import student_network
from autodistill.models.cost import latency_ms
from autodistill.records import LatencyRecord, LeftOutRecord, StudentBudget, costs_of, latency_of
from autodistill.study.environment import environment
from autodistill.study.preparing import Prepared


def within(
    students: Sequence[Prepared], limits: StudentBudget
) -> tuple[tuple[Prepared, ...], tuple[LeftOutRecord, ...]]:
    """Part the students that keep within the limits from those that break one.

    Raises:
        ConfigError: all of them break one; the message says by how much, and which comes nearest.
    """
    kept, left_out = [], []
    for one in students:
        latency = student_latency(one) if limits.latency_ms is not None else None
        excess = limits.excess(costs_of(one.student.cost, latency))
        if excess:
            left_out.append(LeftOutRecord(student=one.student, latency=latency, excess=excess))
        else:
            kept.append(one._replace(latency=latency))
    if not kept:
        raise ConfigError(_all_break(left_out, limits), "raise the limit, or name a smaller student or width")
    return tuple(kept), tuple(left_out)


def student_latency(prepared: Prepared) -> LatencyRecord:
    """One image's forward pass on the study's device; what the study has on record stays, for times are noisy."""
    device = prepared.request.device
    facts = environment(device)
    name = facts["device"] if device.startswith("cuda") else f"{facts['processor']}, one thread"
    record = prepared.kept
    kept = latency_of(record) if record else None
    if kept is not None and kept.device == name:
        return kept
    data = prepared.data
    model = student_network(prepared.student.name, data, prepared.space.student)
    found = latency_ms(model, image_shape=data.image_shape, device=torch.device(device))
    return LatencyRecord(median_ms=round(found.median_ms, 4), iqr_ms=round(found.iqr_ms, 4), device=name)


def _all_break(left_out: Sequence[LeftOutRecord], limits: StudentBudget) -> str:
    lines = [f"{one.student.name}: {excess_words(one, limits)}" for one in left_out]
    if len(lines) == 1:
        return f"the student breaks its limits: {lines[0]}"
    nearest = min(left_out, key=lambda one: max(one.excess.values()))
    kind = max(nearest.excess, key=lambda it: nearest.excess[it])
    times = f"{nearest.excess[kind]:.2f} times the limit on {COSTS[kind]}"
    listed = "\n  ".join(lines)
    return f"no student keeps within the limits; {nearest.student.name} comes nearest ({times}):\n  {listed}"
