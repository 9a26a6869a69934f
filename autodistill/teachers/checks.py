"""Checks of a teacher before any trial: classes, finite logits, accuracy above chance, and a better reading of it.

A teacher is refused on evidence only: when its balanced accuracy is not above chance, or when another normalisation,
size, class order or set of weights makes it clearly better on images that were not used to find that out.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from autodistill import metrics
from autodistill.config import Space, bounds
from autodistill.data import Data
from autodistill.errors import AutodistillError, MisreadError, TeacherError
from autodistill.formatting import listed, percent
from autodistill.models.cost import measure
from autodistill.models.preprocessing import data_normalisation, named_normalisations
from autodistill.models.uri import with_option
from autodistill.records import TRAINED_HERE, ProfileRecord, TeacherCostRecord, TeacherRecord
from autodistill.teachers.profile import TAU_MAX
from autodistill.teachers.teacher import Teacher, logits_of

SIGNIFICANCE = 0.001
"""Of both tests: accuracy above chance, and a mend that helps. Each of them refuses one of 30 sound teachers in at most
3 % of studies."""
LEAST_GAIN = 0.05
"""Smallest gain of accuracy for which a mend is reported: 13 of the 256 images that test it. McNemar's test needs 10 to
14 images, with none lost, so a smaller gain is rarely sure."""
ABOUT_AS_WELL = 0.02
"""Difference of accuracy up to which two mends are both named, that of the more usual one first. The standard error of
an accuracy on 256 images is up to 0.03."""
MOST_IMAGES = 512
"""Number of validation images on which mends are compared: two halves of 256."""
SCREENED = ((16, 1), (64, 0))
"""Numbers of images on which a reading is tried before it is tried on all, and by how many hits it may then be worse.
Of readings that are 20 points better, about 5 % are lost, and of readings that are no better, more than half are
dropped (simulated, with independent hits)."""
MOST_SECONDS, MOST_ORIGINALS_S = 36.0, 12.0
"""Longest time for all other readings of a teacher, and for the images in its own size. The rest of the minute that a
check may take is for measurements of speed and for steps that begin before the time is over."""
SCREENING_S = (3.0, 10.0)
"""Longest first screening of a reading, for a teacher that is always right and for a teacher that is never right. About
twelve readings at 3 seconds fit into MOST_SECONDS. A teacher that is often wrong is more likely read wrongly."""
STEP_S = 0.5
"""About the time of a forward pass, after which the time is looked at."""
LEAST_ORIGINALS, OWN_SIZE_GAIN = 64, 0.02
"""Fewest images that are compared in a teacher's own size, and smallest gain that a note reports."""
SEEN, SAME_NLL = 0.999, 1.25
"""Accuracy on train and on validation, and ratio of the NLL there, from which a note says that a teacher may have seen
both. By judgement, not measured: the NLL on unseen images is usually several times higher."""
LEAST_PER_CLASS = 5
"""Images of each class in each half for which an order of classes is searched, by judgement."""
SIZES = (32, 64, 224)
"""Input sizes at which networks are usually trained: of CIFAR, of ImageNet at 64 pixels, of ImageNet."""
TOO_SHARP = 0.99
"""Mean largest probability at the highest temperature from which a note says that the logits are too sharp."""
_SIMULATED = 20_000
"""Simulated accuracies at chance. A p-value at SIGNIFICANCE has a standard error of a fifth of it."""
_LONGEST_LIST = 20
"""Most classes that an option of a hint lists by name."""

Reload = Callable[[str], Teacher]
"""Loads the teacher again with a further option in its URI."""
Originals = Callable[[Int[Tensor, " rows"], int], UInt8[Tensor, "rows channels height width"] | None]
"""Decodes validation images again from their files: row numbers and size in pixels; None: there are no files."""


class Mend(NamedTuple):
    """Another reading of a checkpoint, under which it is better."""

    what: str
    option: str
    """Option of the URI that states it."""
    before: float
    after: float
    """Accuracies on the images that did not choose it."""
    others: tuple[str, ...]
    """Options that did about as well."""
    sure: bool
    """Whether chance is ruled out; otherwise there are too few images."""


def check(
    teacher: Teacher,
    data: Data,
    logits: Float[Tensor, "examples classes"],
    *,
    reload: Reload | None = None,
    hottest: float = 30.0,
    originals: Originals | None = None,
) -> TeacherRecord:
    """Check that a teacher fits the data, and return its record.

    Args:
        teacher: The teacher.
        data: The study's data.
        logits: The teacher's logits on the validation split.
        reload: Loads the teacher with a further option; None: other weights in its file are not tried.
        hottest: Highest temperature that a method may use.
        originals: Decodes images in the teacher's own size; None: they are not compared with the stored ones.

    Raises:
        TeacherError: The number of classes differs, logits are not finite, the balanced accuracy is not above chance,
            or another reading of the checkpoint is clearly better.
    """
    check_logits(teacher, data, logits)
    labels = data.validation.labels
    top1, balanced = float(metrics.top1(logits, labels)), metrics.balanced_top1(logits, labels)
    notes = list(teacher.notes)
    # The members of an ensemble are checked themselves.
    own = teacher.uri.startswith(TRAINED_HERE) or bool(teacher.members)
    mend = None if own or top1 > 1 - LEAST_GAIN else better_reading(teacher, data, logits, reload=reload)
    if mend is not None:
        before, after = percent(mend.before), percent(mend.after)
        found = f"{before} of validation images right as it is read, {after} with {mend.what}"
        if not mend.sure:
            notes.append(f"it may be read wrongly: {found} ({mend.option}); too few images to be sure")
        elif teacher.accepted:
            notes.append(f"accepted although {found}")
        else:
            others = f" ({', '.join(mend.others)}: about as well)" if mend.others else ""
            hint = f"state it: {with_option(teacher.uri, mend.option)}{others}"
            kept = f"or keep it as it is: {with_option(teacher.uri, 'accept=yes')}"
            raise teacher.refused(found, f"{hint}; {kept}", MisreadError)
    p = chance_p(logits.argmax(dim=1), labels)
    if p >= SIGNIFICANCE:
        chance = f"{percent(1 / data.num_classes)}, p = {p:.2g}"
        found = f"balanced validation accuracy {percent(balanced)} is not above chance ({chance}"
        found += f" of {len(labels)} images; {SIGNIFICANCE:g} is needed)"
        if not teacher.accepted:
            raise teacher.refused(found, _at_chance_hint(teacher))
        notes.append(f"accepted although its {found}")
    sharp = float((logits.double() / hottest).softmax(dim=1).amax(dim=1).mean())
    if sharp > TOO_SHARP:
        notes.append(
            f"its logits lie so far apart that even at temperature {hottest:g}, the highest of this space, one class "
            f"has {percent(sharp)} of the probability: there is little to learn from it beyond its first class; scale "
            "its logits down, or raise the temperatures in search.methods"
        )
    if originals is not None and not own:
        notes += gain_at_own_size(teacher, data, logits, originals)
    return TeacherRecord(
        name=teacher.name,
        uri=teacher.uri,
        architecture=teacher.architecture,
        fingerprint=teacher.fingerprint,
        cost=cost_of(teacher, data),
        normalisation=teacher.normalisation.name,
        val_top1=top1,
        val_nll=float(metrics.nll(logits, labels)),
        val_ece=float(metrics.expected_calibration_error(logits, labels)),
        val_balanced_top1=balanced,
        notes=tuple(notes),
    )


def hottest_of(space: Space) -> float:
    """Return the highest temperature at which a method of a space may use the logits of a teacher."""
    names = ("tau", "tau_target", "tau_other", "tau_max")
    found = [TAU_MAX] if "isats" in space.search.methods else []
    for dimensions in space.search.methods.values():
        limits = (bounds(dimension) for name, dimension in dimensions.items() if name in names)
        found += [float(it[1]) for it in limits if it is not None]
    return max(found, default=TAU_MAX)


def with_equals(records: Sequence[TeacherRecord]) -> list[TeacherRecord]:
    """Return records of teachers, in which teachers with equal fingerprints have a note that names the others."""
    found = []
    for record in records:
        equal = [it.name for it in records if it.fingerprint == record.fingerprint and it.name != record.name]
        if equal:
            note = f"the same network with the same weights as {listed(equal)}: their logits are equal"
            record = record.model_copy(update={"notes": (*record.notes, note)})
        found.append(record)
    return found


def cost_of(teacher: Teacher, data: Data) -> TeacherCostRecord:
    """Return the cost of a teacher for an image of the data; that of an ensemble is the sum over its members."""
    if teacher.cost is not None:
        return teacher.cost
    if not teacher.members:
        _, height, width = data.image_shape
        shape = (teacher.channels, teacher.input_size or height, teacher.input_size or width)
        found = measure(teacher.module, image_shape=shape)
        return TeacherCostRecord(params=found.params, macs=found.macs, size_bytes=found.size_bytes)
    costs = [cost_of(member, data) for member in teacher.members]
    return TeacherCostRecord(
        params=_sum(it.params for it in costs),
        macs=_sum(it.macs for it in costs),
        size_bytes=_sum(it.size_bytes for it in costs),
    )


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Return a sum; None if a number is unknown."""
    known = list(numbers)
    return None if None in known else sum(it for it in known if it is not None)


def check_logits(teacher: Teacher, data: Data, logits: Float[Tensor, "examples classes"]) -> None:
    """Check the number of classes and that all logits are finite.

    Raises:
        TeacherError: The number of classes differs, or logits are not finite.
    """
    if logits.shape[1] != data.num_classes:
        raise TeacherError(
            f"teacher {teacher.uri}: {logits.shape[1]} classes, but {data.name} has {data.num_classes}",
            "name a teacher trained on these classes",
        )
    bad = int((~logits.isfinite()).any(dim=1).sum())
    if bad:
        raise teacher.refused(
            f"logits are not finite for {bad} of {len(logits)} images",
            "the checkpoint is damaged or its normalisation is wrong (?norm=NAME): name another one",
        )


def chance_p(predicted: Int[Tensor, " examples"], labels: Int[Tensor, " examples"]) -> float:
    """Return the probability of a balanced accuracy at least as high if predictions did not depend on the image.

    Then the hits of class c are binomial: the number of its images, and the share of all images that are predicted as
    c. The expected balanced accuracy is one over the number of classes, whatever the shares. The distribution of the
    mean over classes is simulated with a fixed seed.
    """
    classes = int(max(predicted.max(), labels.max())) + 1
    counts = np.bincount(labels.cpu().numpy(), minlength=classes)
    shares = np.bincount(predicted.cpu().numpy(), minlength=classes) / len(labels)
    hits = np.bincount(labels[predicted == labels].cpu().numpy(), minlength=classes)
    present = counts > 0
    counts, shares, hits = counts[present], shares[present], hits[present]
    draws = np.random.default_rng(0)
    reached, observed = 0, float((hits / counts).sum())
    for _ in range(20):  # in parts, for the memory of many classes
        simulated = draws.binomial(counts, shares, size=(_SIMULATED // 20, len(counts)))
        reached += int(((simulated / counts).sum(axis=1) >= observed - 1e-12).sum())
    return (1 + reached) / (1 + _SIMULATED)


def better_reading(
    teacher: Teacher, data: Data, logits: Float[Tensor, "examples classes"], *, reload: Reload | None = None
) -> Mend | None:
    """Return another reading of a checkpoint that is clearly better; None: there is none.

    Readings are compared on one half of at most 512 validation images. The best must be at least 5 points better on
    the other half, and better by McNemar's exact test, corrected for the number of readings. A reading that is at least
    10 points better on the first half and 5 on the other is returned too, as unsure. Arguments are those of `check`.
    """
    labels = data.validation.labels
    rows = torch.linspace(0, len(labels) - 1, min(MOST_IMAGES, len(labels)), device=labels.device).round().long()
    own = logits.argmax(dim=1) == labels
    tried: list[tuple[str, str, Bool[Tensor, " examples"], Bool[Tensor, " examples"]]] = []
    order = _class_order(logits, labels, data)
    if order is not None:
        names = ",".join(quote(data.classes[index], safe=" ") for index in order)
        option = f"classes={names}" if data.num_classes <= _LONGEST_LIST else "classes=FILE"
        moved = order.to(labels.device)[logits.argmax(dim=1)]
        shown = names if len(names) <= 60 else f"{names[:57]}..."
        tried.append((f"the order of its classes {shown}", option, own, moved == labels))
    if teacher.table is None:
        trial = _Trial(teacher, data.validation.images[rows], labels[rows], own[rows])
        for what, option, other in _readings(teacher, data, reload):
            found = trial.compare(other)
            if found is not None:
                tried.append((what, option, *found))
    if not tried:
        return None
    gains = [float((after[::2].double() - before[::2].double()).mean()) for _, _, before, after in tried]
    near = [place for place, gain in enumerate(gains) if gain >= max(gains) - ABOUT_AS_WELL]
    what, option, before, after = tried[near[0]]
    others = tuple(tried[place][1] for place in near[1:])
    before, after = before[1::2], after[1::2]
    gain = float((after.double() - before.double()).mean())
    sure = mcnemar_p(before, after) * len(tried) < SIGNIFICANCE
    # The best of several gains is partly luck on the half that chose it. Where the test is not sure, the gain must
    # therefore be twice as large there.
    if gain < LEAST_GAIN or (not sure and max(gains) < 2 * LEAST_GAIN):
        return None
    return Mend(what, option, float(before.double().mean()), float(after.double().mean()), others, sure)


class _Trial:
    """Compares other readings of a teacher with the teacher itself within a limited time.

    Images with even numbers choose a reading; the others test it. `own` tells on which images the teacher is right.
    """

    def __init__(self, teacher: Teacher, images: Tensor, labels: Tensor, own: Tensor) -> None:
        self._images, self._labels, self._own, self._ends = images, labels, own, time.monotonic() + MOST_SECONDS
        self._size, self._image_s = teacher.input_size or images.shape[-1], seconds_per_image(teacher, images)
        right = float(own.double().mean())
        self._screening_s = SCREENING_S[0] * right + SCREENING_S[1] * (1 - right)

    def compare(self, other: Teacher) -> tuple[Bool[Tensor, " examples"], Bool[Tensor, " examples"]] | None:
        """Return on which images the teacher and another reading are right; None: it is worse, or takes too long."""
        image_s = self._image_s * ((other.input_size or self._images.shape[-1]) / self._size) ** 2
        pairs = len(self._own) // 2
        if image_s * min(SCREENED[0][0], pairs) > min(self._screening_s, self._left_s()):
            return None
        for count, worse in SCREENED:
            rows = 2 * _spread(pairs, count)
            hits = self._hits(other, rows, image_s)
            if hits is None or hits.sum() < self._own[rows].sum() - worse:
                return None
        # A reading takes half of the time that is left, two images to a pair, so that later readings are tried too.
        fit = min(pairs, int(self._left_s() / (4 * image_s)))
        if 2 * fit < SCREENED[-1][0] and fit < pairs:
            return None
        rows = (2 * _spread(pairs, fit)[:, None] + torch.arange(2)).flatten()
        hits = self._hits(other, rows, image_s)
        return None if hits is None else (self._own[rows], hits)

    def _left_s(self) -> float:
        return self._ends - time.monotonic()

    def _hits(self, other: Teacher, rows: Tensor, image_s: float) -> Bool[Tensor, " examples"] | None:
        try:
            return hits_within(other, self._images[rows], self._labels[rows], image_s=image_s, ends=self._ends)
        except (RuntimeError, TeacherError):  # a network may not take another size
            return None


def _spread(total: int, count: int) -> Int[Tensor, " rows"]:
    """Return `count` of the numbers below `total`, or all of them, evenly spaced."""
    return torch.linspace(0, total - 1, min(total, count)).round().long()


def seconds_per_image(teacher: Teacher, images: UInt8[Tensor, "examples channels height width"]) -> float:
    """Measure the time of a forward pass per image, on few images if it is long."""
    seconds = 0.0
    for count in (2, 16):  # two images include the cost of a first call, which is small beside that of a slow network
        began = time.monotonic()
        logits_of(teacher, images[:count]).cpu()
        seconds = (time.monotonic() - began) / min(count, len(images))
        if seconds * count > STEP_S:
            break
    return max(seconds, 1e-6)


def hits_within(
    teacher: Teacher,
    images: UInt8[Tensor, "examples channels height width"],
    labels: Int[Tensor, " examples"],
    *,
    image_s: float,
    ends: float,
) -> Bool[Tensor, " examples"] | None:
    """Return on which images a teacher is right; None: the time is over before all are done.

    Images take about `image_s` seconds each; the time is over at `ends` on the monotonic clock.
    """
    step, hits = max(1, int(STEP_S / image_s)), []
    for some, right in zip(images.split(step), labels.split(step), strict=True):
        if time.monotonic() > ends:
            return None
        hits.append(logits_of(teacher, some).argmax(dim=1) == right)
    return torch.cat(hits)


def gain_at_own_size(
    teacher: Teacher, data: Data, logits: Float[Tensor, "examples classes"], originals: Originals
) -> list[str]:
    """Return a note if a teacher is clearly better on images that are decoded in its own, larger size.

    `logits` are those on the validation split.
    """
    stored, size, labels = data.image_shape[1], teacher.input_size, data.validation.labels
    if size is None or size <= stored or teacher.table is not None:
        return []
    began = time.monotonic()
    image_s = seconds_per_image(teacher, data.validation.images)
    rows = _spread(len(labels), min(MOST_IMAGES, int(MOST_ORIGINALS_S / 2 / image_s)))
    if len(rows) < min(LEAST_ORIGINALS, len(labels)):
        return []
    images = originals(rows, size)
    if images is None:
        return []
    rows = rows.to(labels.device)
    ends = began + MOST_ORIGINALS_S
    after = hits_within(teacher, images.to(labels.device), labels[rows], image_s=image_s, ends=ends)
    if after is None:
        return []
    before = float((logits[rows].argmax(dim=1) == labels[rows]).double().mean())
    gain = float(after.double().mean()) - before
    if gain <= OWN_SIZE_GAIN:
        return []
    return [
        f"{percent(before + gain)} of {len(rows)} validation images right if they are read from their files at its own "
        f"size of {size}x{size}, {percent(before)} as they are stored at {stored}x{stored}: "
        f"--set data.image_size={size}"
    ]


def may_have_seen_validation(profile: ProfileRecord) -> str:
    """Return a note about a teacher that is nearly perfect, on validation as on its training images; else nothing."""
    train, held = profile.train, profile.validation
    if min(train.top1, held.top1) < SEEN or held.nll > SAME_NLL * train.nll:
        return ""
    return (
        f"{percent(train.top1)} right on train and {percent(held.top1)} on validation, with an NLL of "
        f"{train.nll:.2g} and {held.nll:.2g}: it may have been trained on the validation images"
    )


def mcnemar_p(before: Bool[Tensor, " examples"], after: Bool[Tensor, " examples"]) -> float:
    """Return the one-sided p-value of McNemar's exact test that `after` is right more often than `before`."""
    from scipy.stats import binom

    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    return float(binom.sf(gained - 1, gained + lost, 0.5)) if gained + lost else 1.0


def _readings(teacher: Teacher, data: Data, reload: Reload | None) -> Iterator[tuple[str, str, Teacher]]:
    """Yield other readings of a teacher: what differs, the option that states it, and the teacher."""
    size = teacher.input_size or data.image_shape[1]
    for other in dict.fromkeys((data.image_shape[1], *SIZES)):
        if other != size:
            yield f"images of {other}x{other}", f"size={other}", replace(teacher, input_size=other)
    for it in named_normalisations(teacher.channels):
        if (it.mean, it.std) != (teacher.normalisation.mean, teacher.normalisation.std):
            yield f"the normalisation {it.name!r}", f"norm={it.name}", replace(teacher, normalisation=it)
    if teacher.normalisation.name != "data":
        own = data_normalisation(data, teacher.channels)
        yield "the normalisation 'data'", "norm=data", replace(teacher, normalisation=own)
    if teacher.channels == 3 and data.image_shape[0] == 3:
        order = "rgb" if teacher.bgr else "bgr"
        yield f"channels in the order {order.upper()}", f"order={order}", replace(teacher, bgr=not teacher.bgr)
    if reload is not None:
        for kind in teacher.other_weights:
            try:
                yield f"its {kind} weights", f"weights={kind}", reload(f"weights={kind}")
            except AutodistillError:
                continue


def _class_order(logits: Tensor, labels: Tensor, data: Data) -> Int[Tensor, " classes"] | None:
    """Return the class of the data for each output that fits best on every second image; None: the order as it is."""
    from scipy.optimize import linear_sum_assignment

    classes = data.num_classes
    chosen, predicted = labels[::2], logits.argmax(dim=1)[::2]
    if int(labels.bincount(minlength=classes).min()) < 2 * LEAST_PER_CLASS:
        return None
    confusion = (classes * predicted + chosen).bincount(minlength=classes**2).view(classes, classes)
    _, order = linear_sum_assignment(confusion.cpu().numpy(), maximize=True)
    found = torch.from_numpy(order)
    return None if torch.equal(found, torch.arange(classes)) else found


def _at_chance_hint(teacher: Teacher) -> str:
    scheme = teacher.uri.partition(":")[0]
    if scheme == "adapt":
        return "autodistill adapted it to these images: raise adapt.epochs, or lower adapt.lr"
    if scheme == "assistant":
        return "autodistill distilled it from its teacher: raise ladder.epochs, or change plain_kd.soft_weight"
    if scheme == "ladder" and "@" in teacher.uri:
        return "autodistill stopped its training early: name a later epoch after @"
    if scheme == "ladder":
        return "autodistill trained it on these images: raise ladder.epochs, or name trained teachers with --teacher"
    if teacher.table is not None:
        return "check that its rows are in the order of the data's own files, or name them by file"
    return (
        "check that it was trained on these classes (?classes=FILE states their order) and its normalisation "
        "(?norm=NAME); ?accept=yes keeps it"
    )
