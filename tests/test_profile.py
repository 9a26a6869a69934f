"""Profiles against loops over samples, brute force over temperatures and SciPy; then as a worker makes them."""

import inspect
import itertools
import math
from pathlib import Path

import pytest
import torch
from executor_parts import Here
from method_oracles import log_dv, softmax_loop, variance_loop
from record_parts import teacher
from scipy import stats
from scipy.optimize import minimize_scalar
from small_studies import ISATS_FIRST

from autodistill.config import load as load_space
from autodistill.data import load as load_data
from autodistill.data.views import View
from autodistill.executors import (
    AgreementTask,
    CheckTask,
    Profiled,
    ProfileTask,
    Result,
    SerialExecutor,
    Task,
    TrainTeacherTask,
    WorkerContext,
    perform,
)
from autodistill.logit_cache import LogitCache
from autodistill.methods import METHODS
from autodistill.models import build
from autodistill.records import AgreementRecord, Event, Note, PhaseStarted, ProfileRecord
from autodistill.study import KNOWN, prepare_teachers
from autodistill.teachers import profile as profiles
from autodistill.teachers import save
from autodistill.teachers.profile import BINS, TEMPERATURES, agreement, fit_temperature, profile, sample


def made(rows: int = 60, classes: int = 6, *, seed: int = 0, lift: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=generator)
    logits = 2 * torch.randn(rows, classes, generator=generator)
    logits[torch.arange(rows), labels] += lift
    return logits.half(), labels


LOGITS, LABELS = made()
VALIDATION, ANSWERS = made(40, seed=1)


def found(**kwargs: object) -> ProfileRecord:
    return profile(LOGITS, LABELS, VALIDATION, ANSWERS, **kwargs)


def rows_of(logits: torch.Tensor, labels: torch.Tensor) -> list[tuple[list[float], int]]:
    return list(zip(logits.double().tolist(), labels.tolist(), strict=True))


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def test_scores_by_a_loop():
    for split, logits, labels in (("train", LOGITS, LABELS), ("validation", VALIDATION, ANSWERS)):
        probs = [(softmax_loop(row, label, 1, 1, "raw"), label) for row, label in rows_of(logits, labels)]
        got = getattr(found(), split)
        assert got.examples == len(labels)
        assert got.top1 == pytest.approx(mean([max(p) == p[y] for p, y in probs]))
        assert got.nll == pytest.approx(mean([-math.log(p[y]) for p, y in probs]), rel=1e-5)
        assert got.target_probability == pytest.approx(mean([p[y] for p, y in probs]), rel=1e-5)


def test_spread_by_a_loop():
    spread = found().spread
    assert [one.tau for one in spread] == pytest.approx([0.5 * 2 ** (half / 2) for half in range(13)], rel=1e-5)
    assert {1.0, 2.0, 4.0, 8.0, 16.0} <= {one.tau for one in spread}
    for tau, got in zip(TEMPERATURES, spread, strict=True):
        average, inherent, derived = [], [], []
        for row, label in rows_of(LOGITS, LABELS):
            others = [p for j, p in enumerate(softmax_loop(row, label, tau, tau, "raw")) if j != label]
            average.append(mean(others))
            derived.append(variance_loop(others))
            inherent.append(variance_loop([p / sum(others) for p in others]))
        assert got.derived_average == pytest.approx(mean(average), rel=1e-5)
        assert got.inherent_variance == pytest.approx(mean(inherent), rel=1e-5)
        assert got.derived_variance == pytest.approx(mean(derived), rel=1e-5)
        assert got.inherent_variance_error == pytest.approx(stats.sem(inherent), rel=1e-5)
        assert got.derived_variance_error == pytest.approx(stats.sem(derived), rel=1e-5)


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_temperature_is_the_best_and_undoes_a_factor(factor):
    def nll(log_tau: float) -> float:
        probs = [
            softmax_loop([factor * v for v in row], y, math.exp(log_tau), math.exp(log_tau), "raw")[y]
            for row, y in rows_of(VALIDATION, ANSWERS)
        ]
        return mean([-math.log(p) for p in probs])

    best = minimize_scalar(nll, bounds=(math.log(0.01), math.log(100)), method="bounded", options={"xatol": 1e-7})
    tau = fit_temperature(factor * VALIDATION.double(), ANSWERS)
    assert tau == pytest.approx(math.exp(best.x), rel=1e-5)
    assert tau == pytest.approx(factor * fit_temperature(VALIDATION, ANSWERS), rel=1e-6)


def test_temperature_stays_within_its_range():
    labels = torch.arange(3)
    assert fit_temperature(torch.eye(3), labels) == pytest.approx(0.01)
    assert fit_temperature(-torch.eye(3), labels) == pytest.approx(100)


def test_calibration_after_scaling():
    got = found()
    probs = [softmax_loop(row, y, got.temperature, got.temperature, "raw") for row, y in rows_of(VALIDATION, ANSWERS)]
    answers = ANSWERS.tolist()
    assert got.calibrated_nll == pytest.approx(
        mean([-math.log(p[y]) for p, y in zip(probs, answers, strict=True)]), rel=1e-5
    )
    gap = 0.0
    for edge in range(15):
        inside = [
            (max(p), p[y] == max(p)) for p, y in zip(probs, answers, strict=True) if edge < 15 * max(p) <= edge + 1
        ]
        gap += abs(sum(sure - right for sure, right in inside)) / len(answers)
    assert got.calibrated_ece == pytest.approx(gap, rel=1e-4)
    assert got.calibrated_nll <= got.validation.nll


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"target_ratio": 3.0, "tau_wrong": 4.0},
        {"tau_target": 4.0, "anchor": "raw", "tau_min": 1.0, "tau_max": 8.0},
    ],
)
def test_tau_other_by_brute_force(params):
    got = found(isats_params=params).tau_other
    low, high = params.get("tau_min", 0.5), params.get("tau_max", 30.0)
    fixed = params.get("tau_target")
    grid = torch.logspace(math.log(low), math.log(high), 4001, base=math.e, dtype=torch.float64)
    curve = log_dv(
        LOGITS,
        LABELS,
        grid.expand(len(LABELS), -1),
        anchor=params.get("anchor", "other_max"),
        ratio=None if fixed else params.get("target_ratio", 5 / 3),
        fixed=fixed,
    )
    best = grid[curve.argmax(dim=1)].tolist()
    right = [row[y] >= max(row) for row, y in rows_of(LOGITS, LABELS)]
    taus = [tau for tau, is_right in zip(best, right, strict=True) if is_right]
    assert got.teacher_right == pytest.approx(mean(right))
    assert got.median == pytest.approx(float(torch.tensor(taus).quantile(0.5)), rel=2e-3)
    assert got.at_lower == pytest.approx(mean([tau <= 1.01 * low for tau in taus]))
    assert got.at_upper == pytest.approx(mean([tau >= high / 1.01 for tau in taus]))
    assert got.edges == pytest.approx([low * (high / low) ** (edge / BINS) for edge in range(BINS + 1)], rel=1e-5)
    inside = [sum(a <= tau < b for tau in taus) / len(taus) for a, b in itertools.pairwise((*got.edges[:-1], math.inf))]
    assert got.shares == pytest.approx(inside, abs=1e-5)
    displaced = 0
    for (row, y), tau, is_right in zip(rows_of(LOGITS, LABELS), best, right, strict=True):
        target = fixed or tau * params.get("target_ratio", 5 / 3)
        probs = softmax_loop(row, y, target, tau, params.get("anchor", "other_max"))
        displaced += is_right and max(probs) > probs[y]
    assert got.displaced == pytest.approx(displaced / len(LABELS))
    assert got.params == {name: value for name, value in params.items() if name != "tau_wrong"}


def test_the_literal_method_displaces_labels_here():
    """So that the column is not 0 in every test."""
    assert found(isats_params={"tau_target": 4.0, "anchor": "raw"}).tau_other.displaced > 0.1


def test_bounds_are_the_methods_own():
    defaults = inspect.signature(METHODS["isats"].temperatures).parameters
    assert (defaults["tau_min"].default, defaults["tau_max"].default) == (profiles.TAU_MIN, profiles.TAU_MAX)
    assert set(METHODS["isats"].params) == set(defaults) - {"logits", "labels"}


def test_a_teacher_that_is_never_right():
    got = profile(-10 * torch.eye(4), torch.arange(4), -10 * torch.eye(4), torch.arange(4)).tau_other
    assert (got.teacher_right, got.median, sum(got.shares), got.at_lower, got.displaced) == (0, None, 0, 0, 0)


def test_two_classes_have_no_tau_other_and_no_variance():
    logits, labels = made(classes=2)
    got = profile(logits, labels, logits, labels)
    assert got.tau_other is None
    assert {one.derived_variance for one in got.spread} == {0.0}
    assert agreement({"a": logits, "b": -logits}, labels) is None


def test_agreement_is_scipys_pair_by_pair():
    teachers = {name: made(seed=3)[0] + (place + 1) * made(seed=9 + place)[0] for place, name in enumerate("abc")}
    labels = made(seed=3)[1]
    got = agreement(teachers, labels)
    assert (got.teachers, got.examples) == (("a", "b", "c"), 60)
    for (left, one), (right, other) in itertools.product(enumerate(teachers.values()), repeat=2):
        rho, tau = [], []
        for row, (reference, y) in zip(one.tolist(), rows_of(other, labels), strict=True):
            mine, theirs = ([v for j, v in enumerate(them) if j != y] for them in (row, reference))
            rho.append(stats.spearmanr(mine, theirs).statistic)
            tau.append(stats.kendalltau(mine, theirs).statistic)
        assert got.spearman[left][right] == pytest.approx(mean(rho), abs=1e-5)
        assert got.kendall[left][right] == pytest.approx(mean(tau), abs=1e-5)
    assert got.spearman[0][0] == 1
    assert got.spearman[0][1] > got.spearman[0][2]


def test_agreement_needs_two_teachers_and_an_order():
    assert agreement({"a": LOGITS}, LABELS) is None
    flat = agreement({"a": LOGITS, "flat": torch.zeros_like(LOGITS)}, LABELS)
    assert flat.spearman == ((1.0, None), (None, None))


def test_large_splits_are_sampled_the_same_way_every_time():
    before = torch.get_rng_state()
    rows = sample(50_000, size=2_000)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    assert torch.equal(rows, sample(50_000, size=2_000))
    assert (len(rows), len(rows.unique())) == (2_000, 2_000)
    assert bool((rows.diff() > 0).all())
    assert 20_000 < float(rows.double().mean()) < 30_000
    assert torch.equal(sample(1_999, size=2_000), torch.arange(1_999))
    assert [len(sample(50_000, size=size)) for size in (3, 10**9)] == [profiles.FEWEST_ROWS, profiles.MOST_ROWS]


def test_a_sampled_profile_is_that_of_its_rows_and_says_so(monkeypatch):
    monkeypatch.setattr(profiles, "MOST_ROWS", 30)
    monkeypatch.setattr(profiles, "FEWEST_ROWS", 1)
    rows, held = sample(60, size=10**6), sample(40, size=10**6)
    assert found() == profile(LOGITS[rows], LABELS[rows], VALIDATION[held], ANSWERS[held])
    assert (found().train.examples, found().validation.examples) == (30, 30)
    both = agreement({"a": LOGITS, "b": made(seed=5)[0]}, LABELS)
    assert both == agreement({"a": LOGITS[rows], "b": made(seed=5)[0][rows]}, LABELS[rows])


def test_records_survive_json_and_keep_six_digits():
    got = found()
    assert ProfileRecord.model_validate_json(got.model_dump_json()) == got
    numbers = [one.derived_variance for one in got.spread]
    assert numbers == [float(f"{number:.6g}") for number in numbers]


@pytest.fixture
def worker(tmp_path, request) -> Here:
    """A worker with two untrained teachers in files; a test may change its space."""
    space = load_space("smoke", known=KNOWN, overrides=getattr(request, "param", ()))
    data = load_data(space.data)
    uris = {}
    for name, seed in (("one", 0), ("two", 1)):
        model = build("resnet8:0.25", num_classes=10, in_channels=1, image_size=8, seed=seed)
        path = tmp_path / f"{name}.safetensors"
        save(path, model, architecture="resnet8:0.25", data=data)
        uris[name] = f"file:{path}"
    return Here(tmp_path, space=space, teachers=uris, views=1)


@pytest.mark.parametrize(
    ("worker", "params"),
    [((), {}), ((ISATS_FIRST,), {"target_ratio": 2.0})],
    indirect=["worker"],
    ids=["plain KD first", "ISATS first"],
)
def test_a_worker_profiles_from_cached_logits_alone(worker, params):
    """Temperatures of ISATS are those of the prior, of which a student temperature is no part, or the default's."""
    place, answer = worker.context, worker.do(ProfileTask(name="one"))
    assert isinstance(answer, Profiled)
    train, validation = (place.cache.training(place.teacher("one"), 0), place.cache.validation(place.teacher("one")))
    assert place.cache.computed == 2, "view 0 and validation, which the study needs anyway"
    labels = place.data.train.labels, place.data.validation.labels
    assert answer.profile == profile(train, labels[0], validation, labels[1], isats_params=params)
    assert answer.profile.tau_other.params == params
    worker.do(ProfileTask(name="two"))
    both = worker.do(AgreementTask(names=("one", "two")))
    assert both == agreement({name: place.cache.training(place.teacher(name), 0) for name in ("one", "two")}, labels[0])
    assert place.cache.computed == 4
    cached = answer.model_copy(update={"views_computed": 0})
    assert perform(ProfileTask(name="one"), WorkerContext(place.setup)) == cached, "again on resume, from disk"


def spoil(context: WorkerContext, name: str) -> None:
    """Make a logit of a teacher too large for the cache."""
    with torch.no_grad():
        next(reversed(list(context.teacher(name).module.parameters()))).fill_(1e6)


def test_a_logit_that_the_cache_cannot_hold_costs_the_profile_and_no_more(worker):
    spoil(worker.context, "two")
    assert worker.do(ProfileTask(name="two")) is None
    (note,) = worker.events
    assert isinstance(note, Note)
    assert note.warning
    assert "teacher two has no profile" in note.text
    assert "does not fit into float16" in note.text


def test_a_study_profiles_its_teachers_and_compares_those_that_have_one(worker):
    asked: list[Task] = []

    def work(task: Task, context: WorkerContext) -> Result:
        asked.append(task)
        if isinstance(task, TrainTeacherTask):
            return None
        if isinstance(task, CheckTask):
            return teacher(task.name, val_top1=0.9, size=1)
        if isinstance(task, ProfileTask) and task.name == "broken":
            return None
        return perform(task, context)

    events: list[Event] = []
    with SerialExecutor(worker.context.setup, work=work) as executor:
        names, missing = ("two", "broken", "one"), TrainTeacherTask(uri="ladder:resnet8")
        prepared = prepare_teachers(names, executor, events.append, untrained=[missing], epochs=3)
    assert prepared.views_computed == 2
    teachers, both = prepared.teachers, prepared.agreement
    assert [(one.name, one.profile is None) for one in teachers] == [("two", False), ("broken", True), ("one", False)]
    assert teachers[0].model_copy(update={"profile": None, "notes": ()}) == teacher("two", val_top1=0.9, size=1)
    kinds = [type(task).__name__ for task in asked]
    assert kinds == ["TrainTeacherTask", *["CheckTask", "ProfileTask"] * 3, "AgreementTask"]
    phases = [(it.phase, it.runs, it.epochs) for it in events if isinstance(it, PhaseStarted)]
    assert phases == [("teachers", 1, 3), ("profiles", 0, 0)]
    assert isinstance(both, AgreementRecord)
    assert both.teachers == ("two", "one")


def test_the_same_logits_serve_the_trials(worker):
    worker.do(ProfileTask(name="one"))
    place = worker.context
    spec = place.setup.space.data
    later = LogitCache(
        Path(place.setup.cache),
        data=place.data,
        view=View(spec.view_seed, spec.crop, spec.flip),
        say=lambda line: None,
    )
    later.training(place.teacher("one"), 0)
    assert later.computed == 0
