"""Training runs that are not there yet: results are kept by key, and looked for before anything is trained."""

from collections.abc import Callable, Mapping, Sequence

from autodistill.executors import Executor, LogitsTask, OnEvent, Task, TrainTask
from autodistill.records import FoundRun, KeptResult, RunResult, RunSpec, run_ended
from autodistill.store import StudyFolder, copy_from_sibling, digest, read_result

RESULT_VERSION = 1
"""Raised when the same specification gives another result."""


def run_key(spec: RunSpec, *, teacher: str, common: Mapping[str, object]) -> str:
    """Return the key of a run: equal keys have equal results.

    Rung, `evaluate_on`, device, threads and version of torch are not part of the key; the kept result records them.

    Args:
        spec: the run.
        teacher: fingerprint of its teacher; empty where it has none.
        common: what all runs of a study share: data, student, recipe, views.
    """
    params = spec.params.model_dump(mode="json", exclude={"teacher"})
    return digest(RESULT_VERSION, common, teacher, params, spec.seed, spec.epochs)


class RunStore:
    """The runs of a study.

    Args:
        folder: of the study.
        key_of: returns the key of a run.
        views: size of the pool of views that epochs cycle through.
        failures: results of failed runs that the study's record holds, by the name of the run. They stay failures,
            because decisions rest on them.
        on_found: is called with each run whose result was copied from another study.
    """

    def __init__(
        self,
        folder: StudyFolder,
        key_of: Callable[[RunSpec], str],
        *,
        views: int,
        failures: Mapping[str, RunResult],
        on_found: Callable[[FoundRun], object] = lambda _: None,
    ) -> None:
        self._folder, self._key_of, self._views = folder, key_of, views
        self._failures, self._on_found = failures, on_found

    def find(self, spec: RunSpec) -> KeptResult | None:
        """Return the result of a run, from this study or from another study in the same folder; None: train it."""
        if (failure := self._failures.get(spec.run)) is not None:
            return KeptResult(result=failure, wall_s=0.0)
        key = self._key_of(spec)
        kept = read_result(self._folder, key)
        if kept is None or kept.answer(spec) is None:
            kept = copy_from_sibling(self._folder, key, spec)
        answer = kept.answer(spec) if kept is not None else None
        if answer is not None and answer.study:
            self._on_found(FoundRun(run=spec.run, key=key, study=answer.study))
        return answer

    def tasks(self, specs: Sequence[RunSpec]) -> list[TrainTask]:
        """Return a task for each run that is not there."""
        return [TrainTask(spec=spec, key=self._key_of(spec)) for spec in specs if self.find(spec) is None]

    def train(self, specs: Sequence[RunSpec], executor: Executor, on_event: OnEvent) -> list[RunResult]:
        """Train the runs that are not there yet; return the results of all in their order."""
        results: dict[str, RunResult] = {}
        missing: dict[str, TrainTask] = {}
        again: list[RunSpec] = []
        for spec in specs:
            key, kept = self._key_of(spec), self.find(spec)
            if kept is not None:
                results[spec.run] = kept.result
                on_event(run_ended(kept, reused=True))
            elif key in missing:  # the same checkpoint under two names
                again.append(spec)
            else:
                missing[key] = TrainTask(spec=spec, key=key)
        tasks = list(missing.values())
        for found in executor.run(tasks, on_event, meanwhile=logits_ahead(tasks, views=self._views)):
            assert isinstance(found, KeptResult)
            results[found.result.run] = found.result
        if again:
            results |= {result.run: result for result in self.train(again, executor, on_event)}
        return [results[spec.run] for spec in specs]


def logits_ahead(tasks: Sequence[TrainTask], *, views: int) -> list[Task]:
    """Return tasks that compute the logits which runs will need, in the order in which their epochs need them."""
    needed: dict[str, int] = {}
    for task in tasks:
        name = task.spec.params.teacher
        if name is not None:
            needed[name] = max(needed.get(name, 0), min(task.spec.last_epoch, views))
    return [
        LogitsTask(name=name, view=view)
        for view in range(max(needed.values(), default=0))
        for name, count in needed.items()
        if view < count
    ]
