"""Measure what the parts of a study take, on workers as the study has them; each network once per machine."""

import statistics
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import torch

from autodistill import teachers
from autodistill.data.views import View
from autodistill.ladder import file_uri
from autodistill.logit_cache import missing_views
from autodistill.methods import RULES
from autodistill.records import Event, TrialParams
from autodistill.search import prior_params
from autodistill.store import cache_root
from autodistill.study.measurements import Facts, facts, forget, keep, recall
from autodistill.study.pace import APART
from autodistill.study.preparing import Prepared
from autodistill.study.simulating import Costs, TeacherCosts
from autodistill.teachers.profile import MOST_ROWS
from autodistill.workers import Message, Probe, ProbeTask, Task, TeacherProbe, TeacherProbeTask

TAU_STUDENT_FROM = {name: rule.tau_student_from for name, rule in RULES.items()}
PROBE_S = 0.4
"""About how long each thing is measured."""
MEASURING_S = 4.0
"""About how long all measuring may take, shared out among the workers' tasks."""
WRONG, LEAST_JUDGED_S = 1.5, 5.0
"""A measurement is wrong where runs took this many times longer or shorter than planned; below 5 s that is noise."""
PARTS = 3
"""Things that a task measures, about."""

Run = Callable[[Sequence[Task]], Iterator[Message]]


def measure(prepared: Prepared, run: Run) -> Generator[Event, None, Costs | None]:
    """Measure what the parts of a study take on its workers while all of them are at work, unless it is known.

    Args:
        prepared: the study.
        run: does tasks and yields their messages, as `Pool.run`.

    Returns:
        None where a worker could not tell. Yields the workers' warnings.
    """
    known = kept_costs(prepared)
    if known is not None:
        return known
    workers, student, asked = prepared.expected_workers, _student_facts(prepared), _teacher_facts(prepared)
    names = [name for name in prepared.teachers if _known_teacher(prepared, name) is None]
    probes = workers if recall(Probe, student) is None else 0
    seconds = min(PROBE_S, MEASURING_S * workers / max(1, probes + len(names)) / PARTS)
    tasks: list[Task] = [ProbeTask(params=_probed_params(prepared), seconds=seconds)] * probes
    untrained = prepared.untrained
    tasks += [
        TeacherProbeTask(name=name, untrained=prepared.teachers[name] in untrained, seconds=seconds)
        for name in reversed(names)
    ]
    found = yield from _answers(run, tasks)
    students = [it for it in found if isinstance(it, Probe)]
    if probes and len(students) == probes:
        keep(_mean(students), student)
    for it in found:
        if isinstance(it, TeacherProbe):
            keep(it.model_copy(update={"name": ""}), asked[it.name])
    return kept_costs(prepared)


def kept_costs(prepared: Prepared) -> Costs | None:
    """Return what the parts of a study take, from measurements of this machine; None where some are missing."""
    student = recall(Probe, _student_facts(prepared))
    teachers = {name: _known_teacher(prepared, name) for name in prepared.teachers}
    if student is None or None in teachers.values():
        return None
    return _costs(prepared, student, {name: it for name, it in teachers.items() if it is not None})


def forget_if_wrong(prepared: Prepared, planned_s: Mapping[str, float], took_s: Mapping[str, float]) -> None:
    """Remove the student's kept measurement where the phases of a study show that it was wrong.

    Args:
        prepared: the study.
        planned_s: seconds by phase, as they were planned.
        took_s: seconds by phase.
    """
    phases = [it for it in planned_s if it not in APART and it in took_s]
    planned, took = (sum(seconds[it] for it in phases) for seconds in (planned_s, took_s))
    if max(planned, took) >= LEAST_JUDGED_S and not planned / WRONG <= took <= planned * WRONG:
        forget(Probe, _student_facts(prepared))


def _known_teacher(prepared: Prepared, name: str) -> TeacherProbe | None:
    """Return the kept measurement of a teacher: of a trained one, that from before its training serves too."""
    of = _teacher_facts(prepared)[name]
    return recall(TeacherProbe, of) or recall(TeacherProbe, {**of, "trained": False})


def _student_facts(prepared: Prepared) -> Facts:
    params, training = _probed_params(prepared), prepared.space.training
    return facts(
        prepared.data,
        prepared.space,
        device=prepared.request.device,
        student=prepared.student.name,
        stem_stride=prepared.student.stem_stride,
        rule=params.rule,
        rule_params=params.rule_params,
        precision=training.precision,
        mode=prepared.sharing.mode,
        workers=prepared.expected_workers,
    )


def _teacher_facts(prepared: Prepared) -> dict[str, Facts]:
    untrained, device = prepared.untrained, prepared.request.device
    return {
        name: facts(
            prepared.data,
            prepared.space,
            device=device,
            teacher=prepared.fingerprints.get(name, uri),
            trained=uri not in untrained,
            mode=prepared.sharing.mode,
            workers=prepared.expected_workers,
        )
        for name, uri in prepared.teachers.items()
    }


def _probed_params(prepared: Prepared) -> TrialParams:
    return prior_params(prepared.space, next(iter(prepared.teachers)), TAU_STUDENT_FROM)


def _mean(probes: Sequence[Probe]) -> Probe:
    """Return the mean over workers that measured at the same time."""

    def mean(values: Sequence[Any]) -> Any:
        if isinstance(values[0], dict):
            return {key: mean([it[key] for it in values]) for key in values[0]}
        return statistics.fmean(values)

    return Probe.model_validate(mean([it.model_dump() for it in probes]))


def _costs(prepared: Prepared, student: Probe, teachers: Mapping[str, TeacherProbe]) -> Costs:
    data, space = prepared.data, prepared.space
    train, held_out, tested = (len(it.labels) for it in (data.train, data.validation, data.test))
    steps = max(1, train // space.training.batch_size)
    targets_s = student.targets.seconds(steps)
    return Costs(
        epoch_s=max(0.0, student.training.seconds(steps) - targets_s),
        targets_s=targets_s,
        validation_s=student.evaluation_s * held_out,
        test_s=student.evaluation_s * tested,
        run_s=student.build_s + student.fit_s * train,
        profile_s=student.profile_s * min(train, MOST_ROWS),
        teachers={name: _teacher_costs(prepared, name, it, steps) for name, it in teachers.items()},
        held_out=held_out / train,
        views=prepared.views,
        evaluate_every=space.training.evaluate_every,
    )


def _teacher_costs(prepared: Prepared, name: str, found: TeacherProbe, steps: int) -> TeacherCosts:
    untrained = prepared.teachers[name] in prepared.untrained
    training_s = found.training.seconds(steps) * prepared.space.ladder.epochs if untrained else 0.0
    views = range(prepared.views) if untrained else _missing(prepared, name)
    return TeacherCosts(training_s, found.view_s * len(prepared.data.train.labels), frozenset(views))


def _missing(prepared: Prepared, name: str) -> tuple[int, ...]:
    """Return the views whose logits a trained teacher has still to compute."""
    spec, data, uri, root = prepared.space.data, prepared.data, prepared.teachers[name], cache_root()
    fingerprint = prepared.fingerprints.get(name)
    if fingerprint is None:
        fingerprint = teachers.load(file_uri(uri, root=root, data=data, space=prepared.space), data=data).fingerprint
    return missing_views(
        root,
        fingerprint,
        data.fingerprint,
        view=View(spec.view_seed, spec.crop, spec.flip),
        views=prepared.views,
        device=torch.device(prepared.request.device),
    )


def _answers(run: Run, tasks: Sequence[Task]) -> Generator[Event, None, list[Message]]:
    found: list[Message] = []
    for message in run(tasks):
        if isinstance(message, Event):
            yield message
        else:
            found.append(message)
    return found
