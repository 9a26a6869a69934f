"""Where tasks hang: an Optuna study whose trials are tasks."""

import contextlib
import os
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from autodistill.storage import open_storage, patiently

_TASK, _LEASE, _SETUP, _CHAIR, _RANK = "task", "lease", "setup", "chair", "rank"
_OPEN = (TrialState.WAITING, TrialState.RUNNING)


class Entry(NamedTuple):
    """A task as it hangs there."""

    id: int
    state: TrialState
    task: str
    setup: str
    """Hash of the setup that it was asked under."""
    generation: int
    """Who holds an older one holds nothing."""
    deaths: int
    beat: int
    """The holder's sign of life; -1: none yet."""
    worker: str
    said: tuple[str, ...]
    """The last progress."""
    told: int
    """How many messages of progress there were in all."""
    answer: tuple[str, ...] | None


class Board:
    """The tasks of one study. Several processes use it at once; every method bears being called again."""

    def __init__(self, storage: BaseStorage, study: int) -> None:
        self.storage = storage
        self._study = study

    def facts(self) -> dict[str, Any]:
        """What all workers should know."""
        return dict(self.storage.get_study_user_attrs(self._study))

    def publish(self, **facts: Any) -> None:
        for key, value in facts.items():
            self.storage.set_study_user_attr(self._study, key, value)

    def put(self, task: str, *, setup: str, rank: int = 0, deaths: int = 0, new: bool = False) -> int:
        """Hang a task up; where it hangs already, waiting or at work, that one.

        Args:
            rank: those of a higher one are taken first.
            new: it is known that it does not hang there, which a look at all would tell slowly.
        """
        for entry in () if new else self.unfinished():
            if (entry.task, entry.setup) == (task, setup):
                return entry.id
        return self._create({_TASK: task, _SETUP: setup, _RANK: rank, _LEASE: [0, deaths]})

    def chair(self) -> Entry:
        """The place of whoever coordinates: an entry without a task, the first if two came at once."""
        found = [it for it in self._trials(_OPEN) if _CHAIR in it.user_attrs]
        if not found:
            self._create({_CHAIR: True, _LEASE: [0, 0]})
            return self.chair()
        return _entry(min(found, key=lambda it: it.number))

    def unfinished(self) -> list[Entry]:
        return [_entry(it) for it in self._trials(_OPEN) if _TASK in it.user_attrs]

    def everything(self) -> list[Entry]:
        """All tasks. Through Optuna's cache, where there is one: of finished ones nothing is read twice."""
        return [_entry(it) for it in self._trials(None) if _TASK in it.user_attrs]

    def entry(self, id: int) -> Entry:
        return _entry(self.storage.get_trial(id))

    def claim(self, entry: Entry) -> bool:
        """Whether it is now ours, under the generation that it was seen with."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            return self.storage.set_trial_state_values(entry.id, TrialState.RUNNING)
        return False

    def take(self) -> Entry | None:
        """Claim a task that waits, the first of the highest rank; one query where none does."""
        found = [it for it in self._trials((TrialState.WAITING,)) if _TASK in it.user_attrs]
        waiting = [_entry(it) for it in sorted(found, key=lambda it: (-it.user_attrs.get(_RANK, 0), it.number))]
        while waiting:
            entry = waiting.pop(0)
            if self.claim(entry):
                return entry
            # Others are at the head of the line too: all would lose to the same one again and again.
            random.Random(os.getpid() + entry.id).shuffle(waiting)
        return None

    def live(self, entry: Entry, beat: int, *, worker: str, said: Sequence[str], told: int) -> None:
        sign = {"beat": beat, "worker": worker, "said": list(said), "told": told}
        self.storage.set_trial_user_attr(entry.id, f"life/{entry.generation}", sign)

    def finish(self, entry: Entry, answer: Sequence[str], *, said: Sequence[str] = (), told: int = 0) -> None:
        whole = {"messages": list(answer), "said": list(said), "told": told}
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.storage.set_trial_user_attr(entry.id, f"answer/{entry.generation}", whole)
            self.storage.set_trial_state_values(entry.id, TrialState.COMPLETE, (0.0,))

    def reopen(self, entry: Entry, *, died: bool) -> None:
        """Let another worker have it: from here on the entry's holder holds nothing."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            lease = [entry.generation + 1, entry.deaths + died]
            self.storage.set_trial_user_attr(entry.id, _LEASE, lease)
            self.storage.set_trial_state_values(entry.id, TrialState.WAITING)

    def withdraw(self, entry: Entry) -> bool:
        """Take a task down; False where it was answered before."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            return self.storage.set_trial_state_values(entry.id, TrialState.FAIL)
        return self.entry(entry.id).state == TrialState.FAIL

    def _create(self, attrs: dict[str, Any]) -> int:
        waiting = create_trial(state=TrialState.WAITING, user_attrs=attrs)
        return self.storage.create_new_trial(self._study, template_trial=waiting)

    def _trials(self, states: tuple[TrialState, ...] | None) -> list[FrozenTrial]:
        return self.storage.get_all_trials(self._study, deepcopy=False, states=states)


def open_board(url: str, study: str, *, cached: bool = False) -> Board:
    """The board of a study, made if it is not there.

    Args:
        cached: for whoever looks at all tasks again and again.
    """
    storage = open_storage(url)
    if cached:
        storage = optuna.storages.get_storage(storage)
    return patiently(lambda: _made(storage, board_name(study)))


def _made(storage: BaseStorage, name: str) -> Board:
    with contextlib.suppress(optuna.exceptions.DuplicatedStudyError):
        storage.create_new_study([StudyDirection.MAXIMIZE], name)
    return Board(storage, storage.get_study_id_from_name(name))


def board_name(study: str) -> str:
    return f"{study}/tasks"


def _entry(trial: FrozenTrial) -> Entry:
    attrs = trial.user_attrs
    generation, deaths = attrs[_LEASE]
    life = attrs.get(f"life/{generation}", {})
    answer = attrs.get(f"answer/{generation}")
    return Entry(
        id=trial._trial_id,
        state=trial.state,
        task=attrs.get(_TASK, ""),
        setup=attrs.get(_SETUP, ""),
        generation=generation,
        deaths=deaths,
        beat=life.get("beat", -1),
        worker=life.get("worker", ""),
        said=tuple((answer or life).get("said", ())),
        told=(answer or life).get("told", 0),
        answer=None if answer is None else tuple(answer["messages"]),
    )
