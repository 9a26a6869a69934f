"""An Optuna study in memory, and the database that keeps it.

A sampler looks at every trial several times for each that it suggests: with 200 of them in a database that took a
fifth of a second. Only one process at a time decides on trials, so it reads them once, suggests in memory, and writes
each down whole: what another process finds was either decided on or not.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from autodistill.storage import close_storage, patience_of, patiently

Say = Callable[[str], object]


class KeptStudy:
    """A study that suggests in memory.

    Args:
        kept: the study in its database; None: it lives in memory alone.

    Raises:
        StorageInternalError, OperationalError: the database cannot be read.
    """

    def __init__(self, kept: optuna.Study | None = None) -> None:
        self._kept = kept
        self._read()

    def trials(self) -> Sequence[FrozenTrial]:
        """All trials; not to be changed."""
        return self.memory.get_trials(deepcopy=False)

    def ask(self, sampler: optuna.samplers.BaseSampler, enqueued: Mapping[str, object] | None = None) -> Trial:
        """The next trial, in memory only until it is `write`n.

        Args:
            enqueued: parameters that it shall have.
        """
        self.memory.sampler = sampler
        if enqueued is not None:
            self.memory.enqueue_trial(dict(enqueued))
        return self.memory.ask()

    def write(self, number: int, *, say: Say, hold: Callable[[], None]) -> None:
        """Write the newest trial down. Where somebody else has been faster, who lost the study since, theirs counts.

        Args:
            say: told when the database is away; it is waited for.
            hold: raises where another process decides by now.
        """
        if self._kept is None:
            return
        storage, study = self._kept._storage, self._kept._study_id

        def written() -> bool:
            hold()
            with contextlib.suppress(KeyError):  # also of an attempt whose connection was lost before the answer
                storage.get_trial_id_from_study_id_trial_number(study, number)
                return False
            made = storage.create_new_trial(study, self.trials()[number])
            return storage.get_trial_number_from_id(made) == number

        if not patiently(written, say=say, patience_s=patience_of(storage)):
            hold()
            patiently(self._read, say=say, patience_s=patience_of(storage))

    def report(self, number: int, scores: Mapping[int, float], *, say: Say) -> None:
        """Report scores of a trial by epoch."""
        frozen = self.trials()[number]
        new = {epoch: score for epoch, score in scores.items() if epoch not in frozen.intermediate_values}
        for epoch, score in new.items():
            Trial(self.memory, frozen._trial_id).report(score, epoch)
        for epoch, score in new.items():
            self._told(number, functools.partial(_report, epoch, score), say)

    def end(self, number: int, state: TrialState, *, score: float | None, reason: str, say: Say) -> None:
        """End a trial; ending it again changes nothing.

        Args:
            score: None where it has none of its own: of a pruned trial Optuna takes the last one reported.
            reason: why it ended early; empty: it did not.
        """
        frozen = self.trials()[number]
        if frozen.state.is_finished():
            return
        if reason:
            Trial(self.memory, frozen._trial_id).set_user_attr("reason", reason)
            self._told(number, lambda kept, id: kept.set_trial_user_attr(id, "reason", reason), say)
        self.memory.tell(number, score, state=state)
        values = self.trials()[number].values
        self._told(number, lambda kept, id: kept.set_trial_state_values(id, state, values), say)

    def close(self) -> None:
        """Give the database back."""
        if self._kept is not None:
            close_storage(self._kept._storage)

    def _read(self) -> None:
        self.memory = optuna.create_study(direction="maximize")
        if self._kept is not None:
            self.memory.add_trials(self._kept.get_trials(deepcopy=False))

    def _told(self, number: int, tell: Callable[[BaseStorage, int], object], say: Say) -> None:
        if self._kept is None:
            return
        storage, study = self._kept._storage, self._kept._study_id

        def told() -> None:
            # Told before, by an attempt whose connection was lost before the answer.
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                tell(storage, storage.get_trial_id_from_study_id_trial_number(study, number))

        patiently(told, say=say, patience_s=patience_of(storage))


def _report(epoch: int, score: float, storage: BaseStorage, trial: int) -> None:
    storage.set_trial_intermediate_value(trial, epoch, score)
