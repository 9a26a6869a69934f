"""Which worker does which task: shared by the executors that have several workers."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from autodistill.executors.base import Done, LogitsTask, Result, Task, longest_first


@dataclass(kw_only=True)
class Slot:
    """The task of a worker."""

    task: Task | None = None
    place: int | None = None
    """Place of the task among those that `run` was given; None: the result is dropped."""


class TaskDeaths:
    """Counts the workers that died on each task, over all calls of `run`."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self.teachers: set[str] = set()
        """Teachers that killed a worker which computed their logits before a run needed them."""

    def add(self, task: Task) -> None:
        """Count a death."""
        self._counts[task.model_dump_json()] += 1
        if isinstance(task, LogitsTask):
            self.teachers.add(task.name)

    def of(self, task: Task) -> int:
        """Return how many workers died on a task."""
        return self._counts[task.model_dump_json()]


class TaskQueue:
    """The tasks of one call of `Executor.run`, and their results.

    Args:
        tasks: are all completed, the longest first.
        meanwhile: are given to workers that would otherwise be idle.
        slots: of the workers. A task that a worker is doing already is adopted.
        deaths: of earlier tasks; logits of deadly teachers are not computed meanwhile.
    """

    def __init__(
        self, tasks: Sequence[Task], meanwhile: Sequence[Task], slots: Sequence[Slot], deaths: TaskDeaths
    ) -> None:
        self._tasks, self._slots, self._deaths = tasks, slots, deaths
        self._waiting, self._meanwhile = deque(longest_first(tasks)), deque(meanwhile)
        self.results: dict[int, Result] = {}
        """By place."""
        for slot in slots:
            slot.place = next((place for place in self._waiting if tasks[place] == slot.task), None)
            if slot.place is not None:
                self._waiting.remove(slot.place)

    @property
    def is_complete(self) -> bool:
        return len(self.results) == len(self._tasks)

    def in_order(self) -> list[Result]:
        """Return the results in the order of the tasks."""
        return [self.results[place] for place in range(len(self._tasks))]

    def assign(self, slot: Slot) -> Task | None:
        """Give a free worker its next task; None where there is none."""
        if self._waiting:
            slot.place = self._waiting.popleft()
            slot.task = self._tasks[slot.place]
        else:
            slot.place, slot.task = None, self._next_meanwhile()
        return slot.task

    def end(self, slot: Slot, done: Done) -> None:
        """Take the result of a worker's task.

        Raises:
            AutodistillError: the task ended with an error.
        """
        place, slot.task, slot.place = slot.place, None, None
        if place is None or done.stopped:
            return
        if done.error is not None:
            raise done.error
        self.results[place] = done.result

    def put_back(self, place: int) -> None:
        """Let another worker do a task."""
        self._waiting.append(place)

    def clear(self) -> None:
        """Give out no further task."""
        self._waiting.clear()
        self._meanwhile.clear()

    def _next_meanwhile(self) -> Task | None:
        while self._meanwhile:
            task = self._meanwhile.popleft()
            deadly = isinstance(task, LogitsTask) and task.name in self._deaths.teachers
            if not deadly and all(slot.task != task for slot in self._slots):
                return task
        return None
