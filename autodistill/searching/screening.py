"""Choose which of many teachers are tried, before any student is trained."""

import re
from collections import defaultdict
from collections.abc import Sequence

from autodistill.formatting import percent
from autodistill.records import Metric, TeacherRecord


def screen(teachers: Sequence[TeacherRecord], *, count: int, metric: Metric) -> dict[str, str]:
    """Choose the `count` teachers that are tried; return the reasons for leaving out the others, by name.

    The most accurate checkpoint of each training comes first, by accuracy on validation, then the second checkpoint of
    each training, and so on: several checkpoints of one training are similar teachers. Accuracy is no proof of a good
    teacher, so as many teachers are tried as the budget allows, and the report lists the others.
    """
    families = siblings(teachers, metric=metric)
    place = {it.name: (number, -it.score(metric), it.name) for own in families for number, it in enumerate(own)}
    best = {it.name: own[0] for own in families for it in own}
    order = sorted(teachers, key=lambda it: place[it.name])
    left_out = {}
    for rank, it in enumerate(order[count:], count + 1):
        reason = f"accuracy {percent(it.score(metric))} on validation, rank {rank} of {len(order)}"
        if best[it.name] is not it:
            reason += f", after {best[it.name].name}, probably a checkpoint of the same training"
        left_out[it.name] = f"{reason}; the budget pays for first trials with {count} teachers"
    return left_out


def siblings(teachers: Sequence[TeacherRecord], *, metric: Metric) -> list[list[TeacherRecord]]:
    """Group checkpoints that are probably of one training, each group by falling accuracy.

    That is assumed if they have the same network and their URIs differ in numbers only (`run/epoch080.pt`,
    `run/epoch240.pt`), or if their weights are equal. Of the default ladder and assistants it is known.
    """
    groups: dict[tuple[object, ...], list[TeacherRecord]] = defaultdict(list)
    keys: dict[str, tuple[object, ...]] = {}
    for it in teachers:
        key = (it.architecture, it.cost.params, it.cost.macs, _training(it.uri))
        groups[keys.setdefault(it.fingerprint, key)].append(it)
    return [sorted(own, key=lambda it: (-it.score(metric), it.name)) for own in groups.values()]


def _training(uri: str) -> str:
    """Return the URI of a teacher without what differs between the checkpoints of one training."""
    if uri.startswith("ladder:"):
        return uri.partition("?")[0].partition("@")[0]
    return uri if uri.startswith("assistant:") else re.sub(r"\d+", "#", uri)
