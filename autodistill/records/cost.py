"""What a network costs, and what it may cost."""

from typing import Literal

from autodistill.records.base import Record

CostKind = Literal["params", "macs", "size_bytes", "latency_ms"]
Costs = dict[CostKind, int | float]


class CostRecord(Record):
    """What a network costs; MACs for one image."""

    params: int
    macs: int
    size_bytes: int


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
        """The limits that are there."""
        return {kind: limit for kind, limit in self if limit is not None}  # type: ignore[misc]

    def excess(self, costs: Costs) -> Costs:
        """By how much a student breaks each limit that it breaks: 1.5 is half as much again as allowed.

        A cost that is not known breaks nothing.
        """
        known = {kind: costs[kind] / limit for kind, limit in self.given.items() if kind in costs}
        return {kind: ratio for kind, ratio in known.items() if ratio > 1}


def costs_of(cost: CostRecord, latency: LatencyRecord | None) -> Costs:
    """A student's costs by name; latency only where it was measured."""
    found: Costs = {"params": cost.params, "macs": cost.macs, "size_bytes": cost.size_bytes}
    return found if latency is None else {**found, "latency_ms": latency.median_ms}
