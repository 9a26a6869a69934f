"""Check a search space, and adapt it to the classes and size of the data, the cache, the processor, an older study."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch

from autodistill.config import Dimension, Range, Space, bounds, default_prior, nearest_prior
from autodistill.data import Data, normalise
from autodistill.errors import ConfigError
from autodistill.logit_cache import estimated_bytes
from autodistill.methods import OWN, RAMP_EPOCHS, keyword_settings, method_named
from autodistill.models.students import student_network
from autodistill.records import ParamValue, Record, StudentRecord
from autodistill.study.measurements import facts, once, student_facts
from autodistill.teachers import assistants, ladder
from autodistill.training.probing import faster_precision, gpu_precision
from autodistill.usercode import errors_as, run_failed, said

BATCH_SIZES = ((50_000, 128), (1_280, 64), (640, 32), (320, 16), (0, 8))
"""Batch sizes for the images of a user, each from a number of training images on. From 320 images on an epoch has 20
steps or more: with fewer, the epochs of a small set are too few steps to learn from. 128 is usual for 50,000 images
(CIFAR)."""
STEPS, EPOCHS, LR = 3000, (15, 30), 0.05
"""Steps that a full training should have, within these limits of epochs; learning rate at a batch of 64.

By judgement, not measured: a search costs tens of full trainings, so that a training should take minutes on a CPU.
Small sets reach 30 epochs before 3000 steps, and large sets get no fewer than 15. The rate is that of the shipped
spaces for small images; smaller batches get a proportionally smaller rate, as their gradients are noisier."""
ANY_SETTINGS: dict[str, ParamValue] = {"soft_weight": 0.5, "tau_student": 1.0}
"""Settings with which the parameters of methods are checked."""
EXAMPLES = 8
"""Random examples on which parameters of methods are checked. Which parameters are allowed depends on no example."""


def with_ranges(space: Space) -> Space:
    """Give every method whose table is empty the ranges of its source, and choose the prior again if none is named.

    Where neither TS, ISATS nor ATS is searched, the prior is the point of the search that is nearest to the settings of
    the first method's source.

    Raises:
        ConfigError: There is no such method.
    """
    given = space.search.methods
    methods = {name: params or dict(method_named(name).ranges) for name, params in given.items()}
    filled = space if methods == given else changed(space, "search", methods=methods)
    if "prior" in space.model_fields_set:
        return filled
    if {"ts", "isats", "ats"} & methods.keys():
        prior = default_prior(filled.search, space.plain_kd)
    else:
        first = next(iter(methods))
        prior = nearest_prior(filled.search, first, method_named(first).settings)
    return filled if prior == space.prior else filled.model_copy(update={"prior": prior})


def fit_to_classes(space: Space, data: Data) -> tuple[Space, tuple[str, ...]]:
    """Remove methods that need more classes than the data has; return the space, and notes about it.

    Raises:
        ConfigError: The space itself names such methods. The message also names what `check_methods` finds.
    """
    search, prior = space.search, space.prior
    too_few = [name for name in search.methods if method_named(name).min_classes > data.num_classes]
    if not too_few:
        return space, ()
    methods = {method: params for method, params in search.methods.items() if method not in too_few}
    fitted = changed(space, "search", methods=methods)
    there = f"{data.name} has {data.num_classes}"
    needs = {name: f"needs at least {method_named(name).min_classes} classes; {there}" for name in too_few}
    lines = []
    for name in too_few:
        if "methods" in search.model_fields_set:
            lines.append(f"search.methods.{name}: {name} {needs[name]}")
        elif prior.method == name and {"method", "params"} & prior.model_fields_set:
            lines.append(f"prior: {name} {needs[name]}")
    if lines:
        hint = "name other methods, for example --set search.methods.ts.tau=4"
        if space.grid:
            hint = "compare other methods: --method ts,ats,nkd,ttm,wttm"
        raise ConfigError("\n".join([*lines, *_refusals(fitted, data.num_classes)]), hint)
    return fitted, (f"{', '.join(too_few)} left out ({needs[too_few[0]]}); searched: {', '.join(methods)}",)


def fit_to_images(space: Space, data: Data) -> Space:
    """Fill in what a space leaves open and what follows from the images.

    The crop of photographs is the margin of the stored images. With `fit_to_data`, the crop of other images is an
    eighth of their size, and batch size, learning rate and epochs follow from the number of training images.
    """
    size, images = data.image_shape[1], len(data.train.labels)
    crop = data.margin or (size // 8 if space.fit_to_data else 0)
    space = _filled(space, "data", crop=crop) if crop else space
    if not space.fit_to_data:
        return space
    fitting = next(batch for least, batch in BATCH_SIZES if images >= least)
    space = _filled(space, "training", batch_size=min(fitting, images))
    batch = space.training.batch_size
    epochs = max(EPOCHS[0], min(EPOCHS[1], round(STEPS * batch / images)))
    lr = round(LR * min(1.0, batch / 64), 4)
    space = _filled(space, "training", epochs=epochs, lr=lr)
    return _filled(space, "ladder", epochs=space.training.epochs, lr=lr)


def _filled(space: Space, table: str, **values: object) -> Space:
    """Set the keys of a table that the space leaves open."""
    part = getattr(space, table)
    fresh = {key: value for key, value in values.items() if key not in part.model_fields_set}
    if not fresh:
        return space
    # Validated, because the rung may not fit the epochs.
    whole = {**part.model_dump(exclude_unset=True), **fresh}
    return space.model_copy(update={table: type(part).model_validate(whole)})


def teacher_names(uris: Sequence[str]) -> dict[str, str]:
    """Return URIs by unique name; equal names are numbered."""
    names = [ladder.name_of(uri) for uri in uris]
    total, seen = Counter(names), Counter[str]()
    unique = {}
    for name, uri in zip(names, uris, strict=True):
        seen[name] += 1
        unique[f"{name}#{seen[name]}" if total[name] > 1 else name] = uri
    return unique


def check_sizes(space: Space, data: Data) -> None:
    """Raise `ConfigError` if a batch is larger than the training set, or the padding of the crop as large as images."""
    batch, images = space.training.batch_size, len(data.train.labels)
    if batch > images:
        raise ConfigError(
            f"training.batch_size: {batch} is more than the {images} training images",
            f"--set training.batch_size={min(64, images)}",
        )
    crop, size = space.data.crop, min(data.image_shape[1:])
    if crop >= size:
        raise ConfigError(
            f"data.crop: {crop} pixels of padding are too many for {size}x{size} images", "--set data.crop=1"
        )


def check_methods(space: Space, num_classes: int) -> None:
    """Run every method on random logits with the prior's parameters and at the corners of its search space.

    Otherwise the first trial with invalid parameters would fail.

    Raises:
        ConfigError: A method rejects parameters; the message has a line with the key for each such method.
    """
    lines = list(_refusals(space, num_classes))
    if lines:
        own = any(name.startswith(OWN) for name in space.search.methods)
        hint = (
            "docs/extending.md has a complete loss"
            if own
            else "`autodistill spaces show digits` prints a space that works"
        )
        raise ConfigError("\n".join(lines), hint)


def _refusals(space: Space, num_classes: int) -> Iterator[str]:
    wrong = set[str]()
    for method, dimensions in space.search.methods.items():
        student, ramp = dimensions.get("tau_student"), dimensions.get(RAMP_EPOCHS)
        if student is not None and bounds(student) is None:
            yield f"search.methods.{method}.tau_student: must be a number above 0"
        if ramp is not None and ((limits := bounds(ramp)) is None or limits[0] < 0):
            yield f"search.methods.{method}.{RAMP_EPOCHS}: must be a number of epochs, at least 0"
        ends = {name: _ends(it) for name, it in dimensions.items() if name not in ("tau_student", RAMP_EPOCHS)}
        corners = (dict(zip(ends, values, strict=True)) for values in itertools.product(*ends.values()))
        reasons = filter(None, (_refusal(method, params, num_classes) for params in corners))
        if reason := next(reasons, ""):
            wrong.add(method)
            yield f"search.methods.{method}: {reason}"
    prior = space.prior
    if prior.method in wrong or prior.method not in space.search.methods:
        return
    searched = space.search.methods[prior.method]
    fixed = {name: value for name, value in searched.items() if isinstance(value, float | str)}
    given = {**fixed, **prior.params}
    params = {name: value for name, value in given.items() if name not in ("tau_student", RAMP_EPOCHS)}
    if reason := _refusal(prior.method, params, num_classes):
        yield f"prior.params: {prior.method}: {reason}"


def _ends(dimension: Dimension) -> tuple[ParamValue, ...]:
    """Return the extreme values of a dimension: both ends of an interval, or every choice."""
    if isinstance(dimension, Range):
        return dimension.low, dimension.high
    return dimension if isinstance(dimension, tuple) else (dimension,)


def _refusal(name: str, params: Mapping[str, ParamValue], num_classes: int) -> str:
    """Return why a method cannot run with these parameters; empty if it can."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(EXAMPLES, num_classes, generator=draw) for _ in range(2))
    student.requires_grad_()
    labels, method = torch.arange(EXAMPLES) % num_classes, method_named(name)
    settings = {**{key: value for key, value in ANY_SETTINGS.items() if key in method.accepted}, **params}
    own = {key: value for key, value in settings.items() if key in method.params}

    def refused(error: BaseException) -> ConfigError:
        # Methods of this package say what is wrong in a ValueError.
        return ConfigError(said(error) if name.startswith(OWN) or not isinstance(error, ValueError) else str(error))

    try:
        with errors_as(refused):
            if method.fit:
                settings |= method.fit(teacher, labels, **own)
            prepared = method.prepared(teacher, labels, settings)
            if wrong := [key for key, rows in prepared.items() if len(rows) != EXAMPLES]:
                return f"prepare must return tensors with a row per example; {wrong[0]!r} has another number of rows"
            inputs = (student, teacher, labels, prepared, torch.tensor(0.5))
            before = [it.detach().clone() for it in (student, teacher, labels, *prepared.values())]
            found: Any = method.loss(*inputs, **keyword_settings(method.loss, settings))
            terms = list(found) if isinstance(found, tuple | list) else []
            if len(terms) != 3 or any(not isinstance(it, torch.Tensor) or it.shape != () for it in terms):
                return "the loss must return three scalar tensors: the total, the hard and the soft loss"
            if not terms[0].requires_grad:
                return "the total loss has no gradient: compute it from student_logits with operations of torch"
            (gradient,) = torch.autograd.grad(terms[0], student)
            after = (student, teacher, labels, *prepared.values())
            if not all(torch.equal(one.detach(), other) for one, other in zip(after, before, strict=True)):
                return "the loss changes its inputs in place: compute new tensors instead"
    except ConfigError as error:
        return error.message
    values = torch.stack([terms[0].detach(), gradient.abs().sum()])
    return "" if values.isfinite().all() else "the loss or its gradient is not finite for random logits"


def changed(space: Space, table: str, **values: object) -> Space:
    """Return a space with other values in one of its tables."""
    return space.model_copy(update={table: getattr(space, table).model_copy(update=values)})


def view_count(space: Space) -> int:
    """Return the size of the pool of views that the epochs cycle through."""
    return min(space.data.views or space.training.epochs, space.training.epochs)


def fit_to_cache(
    space: Space, kept: Space | None, data: Data, study: Mapping[str, str], cache_bytes: int, *, tried: int
) -> Space:
    """Reduce the pool of views to the size of the cache; an existing study, of space `kept`, keeps its views.

    `study` has the URIs of the teachers by name; `tried` is the number of teachers that students learn from.

    Raises:
        ConfigError: The cache cannot hold a single view.
    """
    if kept is not None and space.data.views is None:
        return changed(space, "data", views=kept.data.views)
    largest, view_bytes = view_count(space), logit_bytes(data, len(study))
    if cache_bytes < view_bytes:
        raise ConfigError(
            f"--cache-size {cache_bytes}: one view of {len(study)} teachers takes {view_bytes} bytes",
            f"--cache-size {view_bytes} holds one, {cache_size(space, data, study, tried=tried)} all {largest}",
        )
    # A number of views in the space also limits the views of assistants.
    pools = (space, *(changed(space, "data", views=views) for views in range(largest, 0, -1)))
    return next(pool for pool in pools if cache_size(pool, data, study, tried=tried) <= cache_bytes)


def cache_size(space: Space, data: Data, study: Mapping[str, str], *, tried: int) -> int:
    """Return the bytes of a study's teacher logits; the other arguments are those of `fit_to_cache`."""
    return logit_bytes(data, views_in_all(space, study, tried=tried))


def views_in_all(space: Space, study: Mapping[str, str], *, tried: int) -> int:
    """Return the number of views of all teachers of a study, with those that only assistants learn from.

    Of a teacher that is not tried, only view 0 is computed, for its profile.
    """
    views = view_count(space)
    more = max(0, assistants.views_of(space) - views) * len(assistants.teachers_of_assistants(study))
    return tried * views + (len(study) - tried) + more


def logit_bytes(data: Data, views: int) -> int:
    """Estimate the size on disk of the logits of a number of views, of all teachers together."""
    return estimated_bytes(teachers=1, views=views, examples=len(data.train.labels), classes=data.num_classes)


class ChosenPrecision(Record):
    """The precision in which a student trained faster on a CPU."""

    precision: Literal["float32", "bfloat16"]


def with_precision(space: Space, kept: Space | None, data: Data, *, student: StudentRecord, device: str) -> Space:
    """Replace precision `auto` by the precision in which this student trains faster on this machine.

    An existing study keeps its precision. The measurement is kept for later studies on this machine.
    """
    if space.training.precision != "auto":
        return space
    if kept is not None:
        precision = kept.training.precision
    elif device.startswith("cuda"):
        precision = gpu_precision(torch.device(device)) if torch.cuda.is_available() else "bfloat16"
    else:
        precision = _cpu_precision(space, data, student)
    return changed(space, "training", precision=precision)


def _cpu_precision(space: Space, data: Data, student: StudentRecord) -> Literal["float32", "bfloat16"]:
    def measured() -> ChosenPrecision:
        images = normalise(data.train_images(space.training.batch_size), mean=data.mean, std=data.std)
        network = partial(student_network, student.source, data, space.student, offline=True)
        with errors_as(run_failed):
            return ChosenPrecision(precision=faster_precision(network, images))

    return once(ChosenPrecision, facts(data, space, device="cpu", **student_facts(student, space)), measured).precision
