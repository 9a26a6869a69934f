"""Trying a space's rules before any work: what a rule refuses, the first trial that asks for it would meet."""

import itertools
from collections.abc import Iterator, Mapping

import torch

from autodistill.config import Dimension, Range, Space, bounds
from autodistill.errors import ConfigError
from autodistill.methods import RULES
from autodistill.records import ParamValue

EXAMPLES = 8


def try_rules(space: Space, num_classes: int) -> None:
    """Run every rule on made-up logits, with the prior's parameters and at the corners of its part of the space.

    Raises:
        ConfigError: with a line for each rule that refuses its parameters, and its key.
    """
    lines = list(_refusals(space, num_classes))
    if lines:
        raise ConfigError("\n".join(lines), "`autodistill spaces show digits` prints a space that works")


def _refusals(space: Space, num_classes: int) -> Iterator[str]:
    for rule, dimensions in space.search.rules.items():
        student = dimensions.get("tau_student")
        if student is not None and bounds(student) is None:
            yield f"search.rules.{rule}.tau_student: must be a number above 0"
        own = {name: _ends(dimension) for name, dimension in dimensions.items() if name != "tau_student"}
        corners = (dict(zip(own, values, strict=True)) for values in itertools.product(*own.values()))
        refused = filter(None, (_refusal(rule, params, num_classes) for params in corners))
        yield from (f"search.rules.{rule}: {reason}" for reason in itertools.islice(refused, 1))
    prior = space.prior
    fixed = {name: it for name, it in space.search.rules[prior.rule].items() if isinstance(it, float | str)}
    params = {name: value for name, value in {**fixed, **prior.params}.items() if name != "tau_student"}
    reason = _refusal(prior.rule, params, num_classes)
    if reason:
        yield f"prior.params: {prior.rule}: {reason}"


def _ends(dimension: Dimension) -> tuple[ParamValue, ...]:
    """What a dimension can be at the outside: both ends of an interval, every choice."""
    if isinstance(dimension, Range):
        return dimension.low, dimension.high
    return dimension if isinstance(dimension, tuple) else (dimension,)


def _refusal(rule: str, params: Mapping[str, ParamValue], num_classes: int) -> str:
    """Why a rule cannot run with these parameters; empty where it can."""
    logits = torch.randn(EXAMPLES, num_classes, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(EXAMPLES) % num_classes
    found = RULES[rule]
    try:
        extra = found.fit(logits, labels, **params) if found.fit else {}
        found.targets(logits, labels, **params, **extra)
    except (ValueError, TypeError) as error:
        return str(error).splitlines()[0]
    return ""
