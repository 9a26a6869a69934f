"""Estimate the duration of a study from measured seconds per step and per image, its runs and its workers."""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from autodistill import teachers
from autodistill.data.views import View
from autodistill.errors import StudyError
from autodistill.executors import (
    Executor,
    Line,
    MeasureStudentTask,
    MeasureTeacherTask,
    OnEvent,
    StudentTimes,
    Task,
    TeacherTimes,
)
from autodistill.formatting import about, plural
from autodistill.logit_cache import missing_views
from autodistill.methods import shapes_of
from autodistill.records import (
    TRAINED_HERE,
    EpochEvent,
    Event,
    PhaseStarted,
    PlanRecord,
    Record,
    RunEnded,
    StudyRecord,
    TaskProgress,
    TimePlanned,
    TrialParams,
)
from autodistill.searching import prior_params, wave_settings
from autodistill.searching.plan import PROTECTED_PRIORS, parse_budget, wave_size
from autodistill.store import cache_root
from autodistill.study.measurements import Facts, facts, forget, keep, once, recall
from autodistill.study.resolve import StudySpec, in_seconds, plan_of
from autodistill.study.resuming import kept_screening
from autodistill.teachers import adaptation, assistants, ladder
from autodistill.teachers.ladder import load_trained
from autodistill.teachers.profile import MOST_ROWS

MEASURE_S = 0.4
"""Approximate duration of the measurement of one part."""
MEASURING_S = 4.0
"""Approximate duration of all measurements, divided among the tasks."""
PARTS = 3
"""Approximate number of parts that a task measures."""
FITTINGS = 6
"""Plans that are tried, at most, to find the largest that ends within a budget of time."""
REPORT_S = 2.0
"""Duration of the report, mostly Matplotlib: 1.9 s with 20 trials, 2.5 s with 200 (2 cores of an AMD EPYC)."""
WRONG, LEAST_JUDGED_S = 1.5, 5.0
"""A measurement is wrong if runs took this many times longer or shorter than planned; below 5 s this is noise."""

ENOUGH_S, ENOUGH_SHARE = 3.0, 0.02
"""Seconds and share of the plan from which the pace of a study is extrapolated; earlier, start-up of a phase
dominates."""
APART = ("teachers", "profiles", "report")
"""Phases with their own pace; in all other phases students are trained."""


class TeacherCosts(NamedTuple):
    """Seconds of a teacher on one worker, and its views without logits."""

    training_s: float
    """Whole training, or its rest after that of another teacher, with the logits that an assistant learns from; 0 if
    the teacher is trained."""
    view_s: float
    """Logits of one view."""
    profile_s: float
    """Profile, with the logits of the validation split if views are missing."""
    views: frozenset[int]
    """Views whose logits are not in the cache."""
    taught_s: float = 0.0
    """Part of the training that the logits of an assistant's teacher take."""

    def logits_s(self, views: range) -> float:
        """Return the seconds to compute the views in `views` that the cache lacks."""
        return self.view_s * len(self.views.intersection(views))


class Costs(NamedTuple):
    """Seconds on one worker."""

    epoch_s: float
    """An epoch of a student with a teacher, with its share of validations."""
    test_s: float
    run_s: float
    """A run without its epochs."""
    teachers: Mapping[str, TeacherCosts]

    def seconds(self, epochs: int, *, tested: bool = False) -> float:
        """Return the seconds of a run whose logits are in the cache."""
        return self.run_s + epochs * self.epoch_s + self.test_s * tested


class Estimate(NamedTuple):
    """Estimated cost of a study."""

    plan: PlanRecord
    time: TimePlanned | None
    """None if a worker could not measure a part."""
    cache_bytes: int


def estimate(spec: StudySpec, executor: Executor, on_event: OnEvent, *, start_up_s: float = 0.0) -> Estimate:
    """Measure some steps of the student and its teachers on the workers; write nothing to the study folder.

    `start_up_s` are the seconds that this command has taken for imports and checks, as the study's command will.
    """
    costs = measure(spec, executor, on_event)
    plan = plan_for(spec, costs)
    planned = planned_time(plan, costs, executor.workers, spec) if costs else None
    if planned is not None and start_up_s:
        planned = planned.model_copy(update={"phases_s": {"start-up": start_up_s, **planned.phases_s}})
    return Estimate(plan, planned, spec.cache_size)


def plan_for(spec: StudySpec, costs: Costs | None, *, kept: StudyRecord | None = None) -> PlanRecord:
    """Return the plan; a time budget becomes the number of epochs of a study that ends in this time.

    The choice of teachers in the record of an earlier process stays.

    Raises:
        ConfigError: The budget is too small.
        StudyError: The budget is a time, and the duration of an epoch could not be measured.
    """
    timed = in_seconds(spec.budget)
    if costs is None and timed:
        raise StudyError(
            f"--budget {spec.budget}: the duration of an epoch could not be measured",
            "see the warning above; --budget 20 is the cost of 20 full trainings",
        )
    refused = kept.left_out if kept else ()
    if costs is None or not timed:
        return plan_without(spec, refused, None, kept=kept)
    wanted_s, epochs_per_s = parse_budget(spec.budget).amount, spec.options.workers / costs.epoch_s
    for _ in range(FITTINGS):
        plan = plan_without(spec, refused, epochs_per_s, kept=kept)
        planned_s = planned_time(plan, costs, spec.options.workers, spec).wall_s
        if planned_s <= wanted_s:
            break
        # Teachers, tests, the report and workers that wait take time too.
        epochs_per_s *= 0.99 * wanted_s / planned_s
    return plan


def plan_without(
    spec: StudySpec, refused: Collection[str], epochs_per_s: float | None, *, kept: StudyRecord | None
) -> PlanRecord:
    """Return the plan of a study without the teachers that did not pass their check."""
    names, screened_out = [name for name in spec.teachers if name not in refused], kept_screening(spec, kept)
    plan = plan_of(
        spec.space,
        spec.options,
        teachers=len(names),
        epochs_per_s=epochs_per_s,
        tried=None if screened_out is None else len([name for name in names if name not in screened_out]),
    )
    # The default budget of a method grid follows from the number of teachers, and stays when teachers are left out.
    return plan.model_copy(update={"requested": spec.budget})


def planned_time(
    plan: PlanRecord, costs: Costs, workers: int, spec: StudySpec, *, kept: StudyRecord | None = None
) -> TimePlanned:
    """Return the seconds left of a study, by phase; epochs of the kept record are not planned again."""
    phases_of = _student_phases if plan.settings is None else _grid_phases
    phases, logits_s = phases_of(plan, costs, workers, spec)
    done = kept.spent_epochs if kept else 0
    left: dict[str, float] = {}
    for phase, (seconds, epochs) in phases.items():
        share = max(0.0, 1 - done / epochs) if epochs else 1.0
        left[phase], done = seconds * share, max(0, done - epochs)
    teacher_costs = list(costs.teachers.values())
    first_views = [cost.view_s for cost in teacher_costs if 0 in cost.views]
    profiles = sorted([cost.profile_s for cost in teacher_costs] + first_views, reverse=True)
    training_s = _training_time(costs, workers, spec)
    # Workers that wait for teachers train runs without a teacher.
    idle = training_s * workers - sum(cost.training_s for cost in teacher_costs)
    first = "tuning" if plan.settings else "baselines and priors"
    left[first] = max(left[first] - idle / workers, left[first] / 2)
    phases_s = {"teachers": training_s + makespan(profiles, workers), **left, "report": REPORT_S}
    taught_s = sum(cost.taught_s for cost in teacher_costs)
    return TimePlanned(phases_s=phases_s, logits_s=logits_s + sum(first_views) + taught_s)


def _training_time(costs: Costs, workers: int, spec: StudySpec) -> float:
    """Return the time until all teachers are trained, each after those that it learns from or continues."""
    free, ends = [0.0] * workers, dict[str, float]()
    names = list(costs.teachers)[::-1]

    def end(name: str) -> float:
        if name not in ends:
            begin = max((end(other) for other in spec.waits_for(name, names)), default=0.0)
            if seconds := costs.teachers[name].training_s:
                worker = free.index(min(free))
                free[worker] = begin = max(free[worker], begin) + seconds
            ends[name] = begin
        return ends[name]

    return max([end(name) for name in names], default=0.0)


def _student_phases(
    plan: PlanRecord, costs: Costs, workers: int, spec: StudySpec
) -> tuple[dict[str, tuple[float, int]], float]:
    """Return seconds and epochs of each phase, and the seconds of all logits but those of view 0."""
    full, rung, rest = plan.epochs_full, plan.epochs_rung, plan.epochs_rest
    count = min(plan.tried or len(costs.teachers), len(costs.teachers))
    teacher_costs = list(costs.teachers.values())[-count:]  # which teachers are tried is not known yet
    no_teacher = plan.race.first if plan.race else spec.space.confirm.seeds
    first = [costs.seconds(full, tested=True)] * no_teacher
    plain_kd = 1 if plan.plain_kd else 0
    first += [costs.seconds(full)] * plain_kd + [costs.seconds(rung)] * count
    first_epochs = full * (no_teacher + plain_kd) + rung * count
    # Each teacher computes the views of a rung, a promoted teacher all views. Plain KD uses the strongest teacher.
    promoted = min(count, PROTECTED_PRIORS)
    rung_logits = sum(cost.logits_s(range(1, rung)) for cost in teacher_costs)
    rung_logits += teacher_costs[-1].logits_s(range(rung, full))
    later_logits = sum(cost.logits_s(range(rung, full)) for cost in teacher_costs[:-1][-promoted:])
    phases: dict[str, tuple[float, int]] = {
        "baselines and priors": (makespan(sorted(first, reverse=True), workers) + rung_logits / workers, first_epochs)
    }
    left, eta, owed, seconds, epochs = round(plan.search * full) + promoted * rest, spec.space.search.eta, 0.0, 0.0, 0
    trials = count
    while True:
        size = wave_size(plan, left=left - promoted * rest, eta=eta)
        size = size if plan.max_trials is None else min(size, plan.max_trials - trials)
        if not promoted and not size:
            break
        seconds += makespan([costs.seconds(rest)] * promoted + [costs.seconds(rung)] * size, workers)
        spent = promoted * rest + size * rung
        left, epochs, trials, owed = left - spent, epochs + spent, trials + size, owed + size / eta
        promoted = min(int(owed), max(0, left) // rest)
        owed -= promoted
    phases["search"] = seconds + later_logits / workers, epochs
    confirm = round(plan.confirm + plan.label_smoothing) - no_teacher + 1
    for phase, runs in (("reruns", round(plan.reruns)), ("confirm", confirm), ("controls", round(plan.controls))):
        if runs:
            run_s = costs.seconds(full, tested=phase != "reruns")
            phases[phase] = makespan([run_s] * runs, workers), runs * full
    return phases, rung_logits + later_logits


def _grid_phases(
    plan: PlanRecord, costs: Costs, workers: int, spec: StudySpec
) -> tuple[dict[str, tuple[float, int]], float]:
    """Return seconds and epochs of each phase of a method grid, and the seconds of all logits but those of view 0."""
    full, seeds, wave = plan.epochs_full, spec.space.confirm.seeds, wave_settings(spec.space)
    cells, settings = len(spec.space.search.methods) * len(costs.teachers), plan.settings or 1
    logits_s = sum(cost.logits_s(range(1, full)) for cost in costs.teachers.values())
    promoted = [costs.seconds(plan.epochs_rest)] * (cells * math.ceil(settings / wave))
    rungs = [costs.seconds(plan.epochs_rung)] * (cells * settings)
    baselines = [costs.seconds(full, tested=True)] * (2 * seeds)
    epochs = round((plan.priors + plan.search) * full) + 2 * seeds * full
    phases = {"tuning": (makespan([*baselines, *promoted, *rungs], workers) + logits_s / workers, epochs)}
    for phase, runs in (("confirm", cells * seeds), ("controls", round(plan.controls))):
        if runs:
            phases[phase] = makespan([costs.seconds(full, tested=True)] * runs, workers), runs * full
    return phases, logits_s


def makespan(durations: Sequence[float], workers: int) -> float:
    """Return the time until all tasks are done if each goes to the first free worker."""
    free = [0.0] * workers
    for seconds in durations:
        free[free.index(min(free))] += seconds
    return max(free)


def measure(spec: StudySpec, executor: Executor, on_event: OnEvent) -> Costs | None:
    """Return the costs of a study's parts, measured on all workers at once if this machine has not kept them.

    None: a worker could not measure a part.
    """
    executor.ready()  # processes that start would slow down what is measured, and their start is no work of the plan
    workers, untrained = executor.workers, spec.untrained
    of_student = _student_facts(spec)
    of_teachers = {
        name: _facts(spec, teacher=spec.fingerprints.get(name, uri), trained=uri not in untrained)
        for name, uri in spec.teachers.items()
    }
    student, known = recall(StudentTimes, of_student), dict[str, TeacherTimes]()
    for name, of in of_teachers.items():
        # For a trained teacher, a measurement from before its training is valid too.
        if times := recall(TeacherTimes, of) or recall(TeacherTimes, {**of, "trained": False}):
            known[name] = times
    ensembles = [name for name, uri in spec.teachers.items() if teachers.is_ensemble(uri)]
    names = [name for name in reversed(spec.teachers) if name not in known and name not in ensembles]
    copies = workers if student is None else 0
    seconds = min(MEASURE_S, MEASURING_S * workers / max(1, copies + len(names)) / PARTS)
    tasks: list[Task] = [MeasureStudentTask(params=_measured_params(spec), seconds=seconds)] * copies
    tasks += [
        MeasureTeacherTask(name=name, untrained=spec.teachers[name] in untrained, seconds=seconds) for name in names
    ]
    results = executor.run(tasks, on_event) if tasks else []
    students = [times for times in results[:copies] if isinstance(times, StudentTimes)]
    if copies and len(students) == copies:
        student = _mean(students)
        keep(student, of_student)
    for name, found in zip(names, results[copies:], strict=True):
        if isinstance(found, TeacherTimes):
            known[name] = found
            keep(found, of_teachers[name])
    for name in ensembles:
        members = teachers.members_of(spec.teachers[name], spec.teachers)
        if all(member in known for member in members):
            known[name] = TeacherTimes(view_s=sum(known[member].view_s for member in members))
    if student is None or len(known) < len(spec.teachers):
        return None
    return _costs(spec, student, {name: known[name] for name in spec.teachers})


def _costs(spec: StudySpec, student: StudentTimes, teacher_times: Mapping[str, TeacherTimes]) -> Costs:
    training, unready = spec.space.training, spec.unready
    train, held_out, tested = (len(split.labels) for split in (spec.data.train, spec.data.validation, spec.data.test))
    steps = max(1, train // training.batch_size)
    profile_s = student.profile_s * min(train, MOST_ROWS)
    teacher_costs = {}
    for name, times in teacher_times.items():
        new = name in unready
        trained_here = spec.teachers[name].startswith(TRAINED_HERE)
        training_s = _training_s(spec, name, times.training, steps) if new and trained_here else 0.0
        views = frozenset(range(spec.views) if new else _missing_views(spec, name))
        logits_s = times.view_s * held_out if views else 0.0
        teacher_costs[name] = TeacherCosts(training_s, times.view_s * train, profile_s + logits_s, views)
    _add_assistants(spec, teacher_costs)
    epoch_s = max(student.training.seconds(steps), student.targets.seconds(steps))
    validation_s = student.evaluation_s * held_out / training.evaluate_every
    run_s = student.build_s + student.fit_s * train
    return Costs(epoch_s + validation_s, student.evaluation_s * tested, run_s, teacher_costs)


def _add_assistants(spec: StudySpec, costs: dict[str, TeacherCosts]) -> None:
    """Count the logits that an assistant learns from as part of its training: they are in the cache afterwards."""
    for name, uri in spec.teachers.items():
        if uri.startswith(assistants.SCHEME) and costs[name].training_s:
            teacher = assistants.assistant_of(uri).teacher
            views, taught = range(assistants.views_of(spec.space)), costs[teacher]
            missing = taught.views.intersection(views) | set(views[spec.views :])
            taught_s = taught.view_s * len(missing)
            costs[name] = costs[name]._replace(training_s=costs[name].training_s + taught_s, taught_s=taught_s)
            costs[teacher] = taught._replace(views=taught.views - missing)


def _training_s(spec: StudySpec, name: str, epoch: Line, steps: int) -> float:
    """Return the seconds of the training of a teacher. Of a ladder's, earlier epochs may be another's."""
    uri = spec.teachers[name]
    if not uri.startswith(adaptation.SCHEME):
        before = [0]
        if uri.startswith(ladder.SCHEME):
            last = ladder.epochs_of(uri, spec.space)
            before += [it for it in ladder.checkpoints_of(spec.path_of(uri)) if it is not None and it < last]
            others = [it for it in spec.teachers.values() if ladder.continues(uri, it)]
            before += [ladder.epochs_of(it, spec.space) for it in others if it in spec.untrained]
        return epoch.seconds(steps) * (ladder.epochs_of(uri, spec.space) - max(before))
    adapt = spec.space.adapt
    steps = max(1, len(spec.data.train.labels) // adapt.batch_size)
    # While only the head is trained, a step is a forward pass, about a third of a whole step.
    return epoch.seconds(steps) * (adapt.epochs + adapt.head_epochs / 3)


def forget_if_wrong(spec: StudySpec, planned_s: Mapping[str, float], took_s: Mapping[str, float]) -> None:
    """Remove the student's kept measurement if planned and taken seconds of the phases show that it was wrong."""
    phases = [phase for phase in planned_s if phase not in APART and phase in took_s]
    planned, took = (sum(seconds[phase] for phase in phases) for seconds in (planned_s, took_s))
    if max(planned, took) >= LEAST_JUDGED_S and not planned / WRONG <= took <= planned * WRONG:
        forget(StudentTimes, _student_facts(spec))


def _facts(spec: StudySpec, **more: object) -> Facts:
    """Return what a measurement depends on; several workers share a machine's memory bandwidth or its GPU."""
    options = spec.options
    return facts(spec.data, spec.space, device=options.device, mode=spec.sharing.mode, workers=options.workers, **more)


def _student_facts(spec: StudySpec) -> Facts:
    params = _measured_params(spec)
    return _facts(
        spec,
        student=spec.student.key[0],
        stem_stride=spec.student.key[1],
        method=params.method,
        method_params=params.method_params,
        precision=spec.space.training.precision,
    )


def _measured_params(spec: StudySpec) -> TrialParams:
    return prior_params(spec.space, next(iter(spec.teachers)), shapes_of(spec.space.search.methods))


def _mean(times: Sequence[StudentTimes]) -> StudentTimes:
    """Return the mean over workers that measured at the same time."""

    def mean(values: Sequence[Any]) -> Any:
        if isinstance(values[0], dict):
            return {key: mean([value[key] for value in values]) for key in values[0]}
        return statistics.fmean(values)

    return StudentTimes.model_validate(mean([time.model_dump() for time in times]))


def _missing_views(spec: StudySpec, name: str) -> tuple[int, ...]:
    """Return the views of a trained teacher without logits in the cache."""
    data_spec = spec.space.data
    return missing_views(
        cache_root(),
        _fingerprint(spec, name),
        spec.data.fingerprint,
        view=View(data_spec.view_seed, data_spec.crop, data_spec.flip),
        views=spec.views,
        device=torch.device(spec.options.device),
    )


def _fingerprint(spec: StudySpec, name: str) -> str:
    uri = spec.teachers[name]
    if name in spec.fingerprints:
        return spec.fingerprints[name]
    if not teachers.is_ensemble(uri):
        return _ladder_fingerprint(spec, uri)
    members = teachers.members_of(uri, spec.teachers)
    return teachers.ensemble_fingerprint([_fingerprint(spec, member) for member in members])


class TeacherFile(Record):
    """Fingerprint of a teacher file."""

    fingerprint: str


def _ladder_fingerprint(spec: StudySpec, uri: str) -> str:
    """Return the fingerprint of a teacher that autodistill has trained. It is kept: loading a network takes seconds."""
    path = spec.path_of(uri)
    stat = path.stat()
    of = {"path": str(path), "written_ns": stat.st_mtime_ns, "bytes": stat.st_size, "torch": torch.__version__}

    def loaded() -> TeacherFile:
        found = load_trained(uri, path, data=spec.data, offline=spec.options.offline)
        return TeacherFile(fingerprint=found.fingerprint)

    return once(TeacherFile, of, loaded).fingerprint


class Pace:
    """Estimates the remaining time: planned seconds times seconds taken per planned second of the same kind of work."""

    def __init__(self, planned: TimePlanned) -> None:
        self._planned = planned.phases_s
        self._coming = list(planned.phases_s)
        self._took: dict[str, tuple[float, float]] = {}
        """Seconds taken and planned of finished phases, by kind of work."""
        self._phase, self._begun, self._epochs, self._done = "", 0.0, 0, 0

    def note(self, event: Event, now: float) -> None:
        """Account for an event at time `now` in seconds."""
        if isinstance(event, PhaseStarted):
            if self._phase:
                self._took[_kind(self._phase)] = self._measured(now)
            self._phase, self._begun, self._epochs, self._done = event.phase, now, event.epochs, 0
            self._coming = [phase for phase in self._coming if phase != event.phase]
        elif isinstance(event, EpochEvent | TaskProgress):
            self._done += 1
        elif isinstance(event, RunEnded) and event.reused:
            self._epochs -= event.record.spent_epochs

    def left_s(self, now: float) -> float | None:
        """Return the seconds left; None while too little is measured."""
        taken, planned = self._measured(now)
        if not self._phase or taken < ENOUGH_S or planned < ENOUGH_SHARE * sum(self._planned.values()):
            return None
        kind = _kind(self._phase)
        ratios = {other: took / meant for other, (took, meant) in self._took.items() if meant > 0}
        ratios[kind] = taken / planned
        current = (1 - self._share()) * self._planned.get(self._phase, 0.0) * ratios[kind]
        return current + sum(ratios.get(_kind(phase), 1.0) * self._planned[phase] for phase in self._coming)

    def _measured(self, now: float) -> tuple[float, float]:
        """Return the seconds taken and planned so far, of all work of the current kind."""
        took, planned = self._took.get(_kind(self._phase), (0.0, 0.0))
        return took + now - self._begun, planned + self._share() * self._planned.get(self._phase, 0.0)

    def _share(self) -> float:
        """Return the share of the phase that is done; a phase without epochs counts as done."""
        return min(1.0, self._done / self._epochs) if self._epochs > 0 else 1.0


def describe_time(planned: TimePlanned) -> str:
    """Format planned time: `about 4 min: teachers 2 min, search 50 s; teacher logits are 12 s of it`."""
    phases = ", ".join(f"{phase} {about(seconds)}" for phase, seconds in planned.phases_s.items() if seconds >= 0.5)
    logits = f"; teacher logits are {about(planned.logits_s)} of it" if planned.logits_s >= 0.5 else ""
    return f"about {about(planned.wall_s)}: {phases or 'nothing to train'}{logits}"


def describe_plan(plan: PlanRecord, *, teachers: int | None = None) -> str:
    """Format a plan: `20 full trainings = no teacher 1 + priors with plain KD 4 + search 5 + reruns 2 + confirm 8`.

    If the plan tries fewer than `teachers` teachers, the text says so.
    """
    if plan.settings is not None:
        return _describe_grid_plan(plan)
    parts = {
        "no teacher": plan.no_teacher,
        "plain KD": plan.plain_kd,
        "priors" if plan.plain_kd else "priors with plain KD": plan.priors,
        "search": plan.search,
        "reruns": plan.reruns,
        "confirm": plan.confirm,
        "label smoothing": plan.label_smoothing,
        "controls": plan.controls,
    }
    costs = " + ".join(f"{part} {_amount(cost, digits=3)}" for part, cost in parts.items() if cost)
    text = f"{_amount(plan.equivalents)} full trainings = {costs}"
    if teachers is not None and plan.tried is not None and plan.tried < teachers:
        text += f"; {plan.tried} of {teachers} teachers are tried, the most accurate checkpoint of each training first"
    return text


def _describe_grid_plan(plan: PlanRecord) -> str:
    """Format the plan of a method grid."""
    parts = {
        "tuning": plan.priors + plan.search,
        "confirm": plan.confirm + plan.no_teacher,
        "label smoothing": plan.label_smoothing,
        "shared settings": plan.controls,
    }
    costs = " + ".join(f"{part} {_amount(cost)}" for part, cost in parts.items() if cost)
    used = sum(parts.values())
    return (
        f"{_amount(used)} of {_amount(plan.equivalents)} full trainings = {costs}; "
        f"{plural(plan.settings or 1, 'setting')} per cell (the smallest budget is {_amount(used - plan.search)})"
    )


def _amount(trainings: float, *, digits: int = 4) -> str:
    return f"{trainings:.{digits}g}" if trainings < 1000 else f"{trainings:,.0f}"


def _kind(phase: str) -> str:
    return phase if phase in APART else "students"
