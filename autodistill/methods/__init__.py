"""Distillation methods: how the logits of a teacher enter the loss of a student.

A method is an entry in `METHODS`. Only its loss is required, a function

    loss(student_logits, teacher_logits, labels, prepared, ramp, *, ...) -> Loss

whose keyword arguments are the settings that a search space may give: the method's own parameters, and `soft_weight`
and `tau_student` where the loss has these arguments. Losses read no value back from the device, because training steps
are recorded in CUDA graphs.

`METHODS` states the settings of each paper, the ranges that a search uses, and the source.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from autodistill.config import Dimension, MethodShape, PlainKDSpec, Range, SearchSpec
from autodistill.errors import ConfigError, near
from autodistill.methods.decoupled import dkd, prepare_dkd
from autodistill.methods.instance_specific import isats, isats_fit, literal_as_none
from autodistill.methods.loss import Loss, distillation_loss, hard_loss
from autodistill.methods.normalised import nkd, prepare_nkd
from autodistill.methods.relational import dist
from autodistill.methods.temperature_scaling import (
    ANCHORS,
    Targets,
    Temperatures,
    asymmetric_loss,
    ats,
    soften,
    targets_of,
    ts,
    ts_loss,
)
from autodistill.methods.transformed import prepare_ttm, prepare_wttm, ttm, wttm
from autodistill.metrics import on_top
from autodistill.records import ParamValue, TargetSummary
from autodistill.usercode import contained, function

__all__ = [
    "ANCHORS",
    "METHODS",
    "OWN",
    "RAMP_EPOCHS",
    "Loss",
    "Method",
    "Targets",
    "Temperatures",
    "check_code",
    "code_of",
    "distillation_loss",
    "hard_loss",
    "keyword_settings",
    "method_named",
    "parameters_of",
    "shapes_of",
    "soften",
    "summarise",
]

COMMON = ("soft_weight", "tau_student")
"""Settings with a field of their own in `TrialParams`."""
RAMP_EPOCHS = "ramp_epochs"
"""Setting of every method: epochs over which the weight of the soft term rises linearly to its full value."""
OWN = "python:"
"""How the names of methods begin that are functions of the user."""
INPUTS = ("student_logits", "teacher_logits", "labels", "prepared", "ramp")
"""Positional arguments of a loss."""


@dataclass(frozen=True)
class Method:
    """A distillation method."""

    loss: Callable[..., Loss]
    """`loss(student_logits, teacher_logits, labels, prepared, ramp, **settings)`: the loss of a batch. `prepared` holds
    the rows of what `prepare` returned. `ramp` is a scalar in [0, 1] that multiplies the weight of the soft term, or
    None for 1."""
    prepare: Callable[..., Mapping[str, Tensor]] | None = None
    """`prepare(teacher_logits, labels, **settings)`: tensors with a row per example, computed once per view."""
    fit: Callable[..., dict[str, float]] | None = None
    """`fit(teacher_logits, labels, **settings)`: further settings, computed once from the logits on view 0."""
    temperatures: Callable[..., Temperatures] | None = None
    """`temperatures(logits, labels, **settings)` of a method whose soft targets `soften` computes. Such a method needs
    no `prepare`: its loss finds `tau_target` and `tau_other` of the batch in `prepared`."""
    min_classes: int = 2
    """Smallest number of classes for which the method is defined."""
    couples_batch: bool = False
    """Whether the loss is no mean over examples. A batch then cannot be trained in parts."""
    ramp: float = 0.0
    """Share of the schedule over which the weight of the soft term rises, unless the space sets `ramp_epochs`."""
    tau_student_from: str | None = None
    """Parameter whose value `tau_student` takes unless the space sets it; None: `tau_student` is 1."""
    settings: Mapping[str, ParamValue] = field(default_factory=dict)
    """Settings of the source; of parameters that are left out, the defaults of the functions."""
    replaced: Mapping[str, str] = field(default_factory=dict)
    """Parameters with a range that another parameter replaces, by name: `{"target_ratio": "tau_target"}`."""
    ranges: Mapping[str, Dimension] = field(default_factory=dict)
    """Default ranges of the search. The range of `soft_weight` comes from the space."""

    def __call__(self, *inputs: Any, **settings: Any) -> Loss:
        """Compute the loss of a batch."""
        return self.loss(*inputs, **settings)

    def prepared(
        self, logits: Float[Tensor, "examples classes"], labels: Int[Tensor, " examples"], settings: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        """Compute what the loss needs of a view besides its logits, a row per example.

        Soft targets are computed batch by batch: the probabilities of a whole view would take twice the memory of its
        logits, which on a CPU are pages of a file that all workers share.
        """
        if self.temperatures is not None:
            found = self.temperatures(logits, labels, **keyword_settings(self.temperatures, settings))
            return {"tau_target": found.target, "tau_other": found.other}
        return self.prepare(logits, labels, **keyword_settings(self.prepare, settings)) if self.prepare else {}

    @property
    def accepted(self) -> tuple[str, ...]:
        """Names of all settings of the method, those in `COMMON` included."""
        functions = (self.temperatures, self.prepare, self.loss)
        names = (name for it in functions if it is not None for name in _keywords(it))
        return tuple(dict.fromkeys((*names, RAMP_EPOCHS)))

    @property
    def params(self) -> tuple[str, ...]:
        """Names of the method's own parameters."""
        return tuple(name for name in self.accepted if name not in (*COMMON, RAMP_EPOCHS))

    @property
    def shape(self) -> MethodShape:
        return MethodShape("soft_weight" in self.accepted, self.tau_student_from)

    def targets(self, logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], **params: Any) -> Targets:
        """Compute the soft targets of a method with temperatures, with diagnostics.

        Raises:
            ValueError: The method refuses the parameters.
        """
        assert self.temperatures is not None
        return targets_of(logits, labels, self.temperatures(logits, labels, **params))


def _keywords(of: Callable[..., Any]) -> list[str]:
    """Return the names of the keyword-only arguments of a function."""
    return [it.name for it in inspect.signature(of).parameters.values() if it.kind is it.KEYWORD_ONLY]


def keyword_settings(of: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a function has as keyword arguments, or all where it takes any."""
    parameters = inspect.signature(of).parameters.values()
    if any(it.kind is it.VAR_KEYWORD for it in parameters):
        return dict(settings)
    return {name: settings[name] for name in _keywords(of) if name in settings}


SEARCHED = SearchSpec().methods
"""Ranges of the methods that a space searches if it names none."""
PLAIN_KD = PlainKDSpec()
POWER = Range(low=1.25, high=10.0, log=True)

METHODS: dict[str, Method] = {
    "ts": Method(
        ts_loss,
        temperatures=ts,
        tau_student_from="tau",
        settings={"tau": PLAIN_KD.tau, "soft_weight": PLAIN_KD.soft_weight},
        ranges=SEARCHED["ts"],
    ),
    "ats": Method(
        partial(asymmetric_loss, anchor="raw"),
        temperatures=ats,
        settings={"tau_target": 4.0, "tau_other": 2.0, "tau_student": 1.0, "soft_weight": 0.5},
        ranges=SEARCHED["ats"],
    ),
    "isats": Method(
        asymmetric_loss,
        temperatures=isats,
        fit=isats_fit,
        min_classes=3,
        replaced={"target_ratio": "tau_target"},
        settings={"target_ratio": 5 / 3, "tau_student": 4.0, "soft_weight": 0.5},
        ranges=SEARCHED["isats"],
    ),
    "dkd": Method(
        dkd,
        prepare_dkd,
        min_classes=3,
        ramp=20 / 240,
        settings={"tau": 4.0, "alpha": 1.0, "beta": 8.0},
        ranges={
            "tau": Range(low=1.0, high=8.0, log=True),
            "alpha": Range(low=0.5, high=2.0, log=True),
            "beta": Range(low=0.5, high=16.0, log=True),
        },
    ),
    "dist": Method(
        dist,
        min_classes=3,
        couples_batch=True,
        settings={"tau": 4.0, "beta": 2.0, "gamma": 2.0},
        ranges={
            "tau": Range(low=1.0, high=4.0, log=True),
            "beta": Range(low=0.5, high=4.0, log=True),
            "gamma": Range(low=0.5, high=4.0, log=True),
        },
    ),
    "nkd": Method(
        nkd,
        prepare_nkd,
        settings={"tau": 3.0, "gamma": 3.5},
        ranges={"tau": Range(low=1.0, high=4.0, log=True), "gamma": Range(low=0.5, high=4.0, log=True)},
    ),
    "ttm": Method(
        ttm,
        prepare_ttm,
        settings={"tau": 10.0, "beta": 45.0},
        ranges={"tau": POWER, "beta": Range(low=7.0, high=100.0, log=True)},
    ),
    "wttm": Method(
        wttm,
        prepare_wttm,
        settings={"tau": 5.0, "beta": 4.0},
        ranges={"tau": POWER, "beta": Range(low=1.4, high=16.0, log=True)},
    ),
}


def method_named(name: str) -> Method:
    """Return a method by its name, or a user's own, `python:FILE.py:FUNCTION`.

    The function of the user is a loss, or a `Method`.

    Raises:
        ConfigError: There is no such method, or its file cannot be imported.
    """
    if not name.startswith(OWN):
        if name not in METHODS:
            raise ConfigError(f"unknown method {name!r} ({near(name, METHODS)})", "or name python:FILE.py:FUNCTION")
        return METHODS[name]
    return _own(name)[0]


def shapes_of(names: Iterable[str]) -> dict[str, MethodShape]:
    """Return the shapes of methods by name.

    Raises:
        ConfigError: As for `method_named`.
    """
    return {name: method_named(name).shape for name in names}


def code_of(name: str) -> str:
    """Return the hash of a user's method; empty for a method of this package.

    The code of the file and the name of the function determine the hash, the path of the file does not.

    Raises:
        ConfigError: As for `method_named`.
    """
    if not name.startswith(OWN):
        return ""
    return hashlib.sha256(name.rpartition(":")[2].encode() + b"\0" + _own(name)[1]).hexdigest()


def check_code(name: str, hashes: Mapping[str, str]) -> None:
    """Check that a user's method is that of the study. `hashes` are the hashes of the study by name.

    Raises:
        ConfigError: The code changed, or as for `method_named`.
    """
    if name.startswith(OWN) and code_of(name) != hashes.get(name, ""):
        raise ConfigError(
            f"method {name}: its code changed since the study began, or another file lies there",
            "put back what was changed, or start a new study with --study",
        )


def parameters_of(name: str) -> Sequence[str]:
    """Return the settings of a method that a search space may give below `search.methods.NAME`.

    Raises:
        ConfigError: As for `method_named`.
    """
    return [it for it in method_named(name).accepted if it != "soft_weight"]


def _own(name: str) -> tuple[Method, bytes]:
    """Import a user's method; return it with the source code of its file.

    An imported file stays imported until its content changes.
    """
    found, code = function(name.removeprefix(OWN), lambda message, hint: ConfigError(f"method {name}: {message}", hint))
    method = found if isinstance(found, Method) else Method(found)
    signature = inspect.signature(method.loss)
    try:
        keywords = {it.name: None for it in signature.parameters.values() if it.kind is it.KEYWORD_ONLY}
        bound = signature.bind(*INPUTS, **keywords)
    except TypeError:
        bound = None
    positional = [it for it in signature.parameters.values() if it.kind in (it.POSITIONAL_OR_KEYWORD, it.VAR_KEYWORD)]
    if bound is None or len(positional) > len(INPUTS):
        raise ConfigError(
            f"method {name}: its loss has the arguments {signature}; it must have ({', '.join(INPUTS)}, *, ...)",
            "parameters of the method are keyword-only arguments: write * before them",
        )
    # The first setting of a method that states none is made of the defaults of its loss.
    defaults = {
        it.name: it.default for it in signature.parameters.values() if isinstance(it.default, int | float | str)
    }
    prepare = contained(method.prepare) if method.prepare else None
    fit = contained(method.fit) if method.fit else None
    settings = method.settings or defaults
    return replace(method, loss=contained(method.loss), prepare=prepare, fit=fit, settings=settings), code


def summarise(
    targets: Targets,
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    tau_wrong: float | str | None,
) -> TargetSummary:
    """Summarise the temperatures of a method: medians over the samples, shares in [0, 1].

    `targets` are computed from `teacher_logits` and `labels`. `tau_wrong` is the value of the method's parameter of
    this name; None for a method without this parameter.
    """
    right = on_top(teacher_logits, labels)
    return TargetSummary(
        tau_target=float(targets.tau_target.quantile(0.5)),
        tau_other=float(targets.tau_other.quantile(0.5)),
        tau_wrong=literal_as_none(tau_wrong),
        teacher_right=float(right.double().mean()),
        at_lower=_share(targets.at_lower, right),
        at_upper=_share(targets.at_upper, right),
        displaced=float(targets.displaced.double().mean()),
    )


def _share(flags: Tensor | None, among: Tensor) -> float:
    """Return the share of the samples in `among` that are flagged; 0 where `among` selects none."""
    return 0.0 if flags is None or not among.any() else float(flags[among].double().mean())
