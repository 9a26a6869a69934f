"""Names in a space, checked against the registries, which lie in higher layers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from autodistill.config.models import Range, Space, bounds, describe, holds
from autodistill.errors import near


class Known(NamedTuple):
    """Names that a space may use; the registries lie in higher layers."""

    datasets: Sequence[str]
    architectures: Sequence[str]
    rules: Mapping[str, Sequence[str]]
    """Rule to its own parameters."""
    losses: Sequence[str]


def unknown_names(space: Space, known: Known) -> Iterator[str]:
    data = space.data.name.split(":")[0]
    if data not in known.datasets:
        yield f"data.name: unknown dataset {data!r} ({near(data, known.datasets)})"
    if space.search.loss not in known.losses:
        yield f"search.loss: unknown loss {space.search.loss!r} ({near(space.search.loss, known.losses)})"
    if not space.teachers:
        yield "teachers: needs at least one URI, for example 'ladder:' or 'file:ckpt.safetensors'"
    for architecture in space.ladder.architectures:
        name = architecture.split(":")[0]
        if name not in known.architectures:
            yield f"ladder.architectures: unknown architecture {name!r} ({near(name, known.architectures)})"
    yield from _unknown_rules(space, known)


def _unknown_rules(space: Space, known: Known) -> Iterator[str]:
    if not space.search.rules:
        yield f"search.rules: needs at least one of {', '.join(known.rules)}"
    for rule, params in space.search.rules.items():
        yield from _unknown_rule(f"search.rules.{rule}", rule, params, known)
    yield from _unknown_rule("prior.params", space.prior.rule, space.prior.params, known)


def prior_outside(space: Space) -> Iterator[str]:
    """A prior is the first trial of its teacher, so it must be one that the search could suggest."""
    prior, rules = space.prior, space.search.rules
    if prior.rule not in rules:
        yield f"prior.rule: {prior.rule!r} is not searched (search.rules has {', '.join(rules)})"
        return
    wanted = {name: prior.params.get(name) for name in {**rules[prior.rule], **prior.params}}
    searched = {f"params.{name}": (rules[prior.rule].get(name), value) for name, value in wanted.items()}
    for name, (dimension, value) in {
        **searched,
        "soft_weight": (space.search.soft_weight, prior.soft_weight),
    }.items():
        if dimension is None:
            yield f"prior.{name}: not among search.rules.{prior.rule}"
        elif not holds(dimension, value):
            yield f"prior.{name}: {value} is not in {describe(dimension)}; set a value that is"


def _unknown_rule(where: str, rule: str, params: Mapping[str, object], known: Known) -> Iterator[str]:
    if rule not in known.rules:
        yield f"{where}: unknown rule {rule!r} ({near(rule, known.rules)})"
        return
    allowed = [*known.rules[rule], "tau_student"]
    for name, value in params.items():
        if name not in allowed:
            yield f"{where}.{name}: unknown parameter ({near(name, allowed)})"
        limits = bounds(value) if isinstance(value, Range | tuple | float | int | str) else None
        if limits is not None and limits[0] <= 0:
            yield f"{where}.{name}: must be above 0 (got {limits[0]:g})"
