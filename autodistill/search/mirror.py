"""Copy the trials of a search to a database, for dashboards. The search never reads the copy for decisions."""

import contextlib
import itertools
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from autodistill.errors import StoreError, StudyError, VersionError
from autodistill.search.database import (
    AWAY,
    NotOptunas,
    check_file,
    close_storage,
    describe,
    find_study,
    open_file,
    open_storage,
    reason_of,
    redacted,
)

IDENTITY = "autodistill:identity"
"""Attribute of an Optuna study: identity of the autodistill study that it copies."""
COORDINATOR = "autodistill:coordinator"
"""Attribute of an Optuna study: random id of the process that writes it."""
FAILURES = (*AWAY, StoreError, optuna.exceptions.OptunaError, KeyError)
"""Errors of a write. KeyError: the study was removed."""
EVERY_S = 1.0
"""Seconds between two writes, at least."""
SHARE = 20
"""After a write or failure that took t seconds, the next write waits SHARE * t."""
AGAIN_S = 5.0
"""Seconds between two attempts while the database is away, at least."""


class Mirror:
    """Copies trials to a database.

    While the database is away, a warning is shown; the trials are written when it is back. A copy that differs is
    written again.

    Args:
        database: The study's own SQLite file, or the address of a database.
        name: Name of the Optuna study.
        identity: Distinguishes studies of the same name in a database.
        say: Receives messages that the database is away or was set aside.

    Raises:
        VersionError: Another version of Optuna made the database.
        StoreError: The database cannot be reached, or holds another study of this name; nothing was written.
    """

    def __init__(self, database: Path | str, *, name: str, identity: str, say: Callable[[str], object]) -> None:
        self._database = database
        self._shown = redacted(database) if isinstance(database, str) else str(database)
        self._name, self._identity, self._say = name, identity, say
        self._coordinator, self._coordinates = secrets.token_hex(8), False
        self._storage: RDBStorage | None = None
        self._next, self._away = 0.0, False
        if isinstance(database, str):
            refuse_foreign(database, name, identity=identity)

    def write(self, trials: Sequence[FrozenTrial]) -> None:
        """Bring the copy up to date, at most every `EVERY_S` seconds.

        The copy may be ahead of `trials`, while a search that continues reads its recorded trials.

        Raises:
            StudyError: another process has begun to coordinate this study.
        """
        if time.monotonic() >= self._next:
            self._attempt(trials, exact=False)

    def close(self, trials: Sequence[FrozenTrial]) -> None:
        """Write the last state, and close the database. A search without trials leaves the copy as it is."""
        if trials:
            with contextlib.suppress(StudyError):
                self._attempt(trials, exact=True)
        self._close()

    def _attempt(self, trials: Sequence[FrozenTrial], *, exact: bool) -> None:
        """Write, and warn where that is not possible."""
        begun = time.monotonic()
        try:
            self._write(trials, exact=exact)
        except FAILURES as error:
            self._close()
            cause = error.__cause__ if isinstance(error, StoreError) and error.__cause__ else error
            url = self._database if isinstance(self._database, str) else ""
            if not self._away:
                self._say(f"{self._shown}: cannot be written ({reason_of(cause, url)}); the study goes on")
            self._away = True
            self._next = begun + max(AGAIN_S, SHARE * (time.monotonic() - begun))
            return
        if self._away:
            self._say(f"{self._shown}: is back and up to date")
        self._away = False
        self._next = begun + max(EVERY_S, SHARE * (time.monotonic() - begun))

    def _write(self, trials: Sequence[FrozenTrial], *, exact: bool) -> None:
        if isinstance(self._database, Path) and not self._database.exists():
            self._close()  # the file was removed, and the open connection would still write to the removed file
        if self._storage is None:
            self._storage = self._opened()
        study = self._study(self._storage)
        kept = self._storage.get_all_trials(study, deepcopy=False)
        too_many = exact and len(kept) > len(trials)
        if too_many or not all(_agree(*pair, exact=exact) for pair in zip(kept, trials, strict=False)):
            self._storage.delete_study(study)
            study, kept = self._created(self._storage), []
        for copy, trial in zip(kept, trials, strict=False):
            _update(self._storage, copy, trial)
        for trial in trials[len(kept) :]:
            self._storage.create_new_trial(study, template_trial=trial)

    def _opened(self) -> RDBStorage:
        if isinstance(self._database, str):
            return open_storage(self._database, patience_s=0.0)  # a study does not wait for its copy
        path, suffix = self._database, "damaged"
        try:
            attrs = check_file(path, self._name) if path.exists() else None
            if attrs is None or attrs.get(IDENTITY) == self._identity:
                return open_file(path)
            reason = "holds another study of this name"
        except VersionError as error:
            suffix, reason = "old", error.message.partition(f"{path}: ")[2]
        except NotOptunas as error:
            reason = str(error)
        aside = set_aside(path, suffix)
        self._say(f"{path}: {reason}; moved to {aside.name} and written again")
        return open_file(path)

    def _study(self, storage: RDBStorage) -> int:
        """Return the study's number in the database. The study is created, or taken over from an earlier process."""
        try:
            study = storage.get_study_id_from_name(self._name)
        except KeyError:  # this is the first write, or the study was removed
            return self._created(storage)
        attrs = storage.get_study_user_attrs(study)
        if attrs.get(IDENTITY) != self._identity:  # it was created after `refuse_foreign` had looked
            raise StoreError(f"holds another study by the name of {self._name}")
        if attrs.get(COORDINATOR) != self._coordinator:
            if self._coordinates:
                raise StudyError(
                    f"another autodistill coordinates study {self._name} in {self._shown} by now",
                    "this one stops; every finished run is kept",
                )
            storage.set_study_user_attr(study, COORDINATOR, self._coordinator)
        self._coordinates = True
        return study

    def _created(self, storage: RDBStorage) -> int:
        study = storage.create_new_study([StudyDirection.MAXIMIZE], self._name)
        storage.set_study_user_attr(study, IDENTITY, self._identity)
        storage.set_study_user_attr(study, COORDINATOR, self._coordinator)
        self._coordinates = True
        return study

    def _close(self) -> None:
        if self._storage is not None:
            with contextlib.suppress(*FAILURES):
                close_storage(self._storage)
        self._storage = None


def refuse_foreign(url: str, name: str, *, identity: str = "") -> None:
    """Check that a database holds no other study of this name; write nothing.

    Args:
        url: Address of the database.
        name: Name of the Optuna study.
        identity: Identity of this study; empty: accept any study that autodistill made.

    Raises:
        VersionError: Another version of Optuna made the database.
        StoreError: The database holds another study of this name, or a study that autodistill did not make.
    """
    found = find_study(url, name)
    if found is None:
        return
    kept, way = found.attrs.get(IDENTITY), "give this study another name with --study, or name another database"
    if kept is None:
        raise StoreError(
            f"--storage {redacted(url)}: holds a study by the name of {name} that autodistill did not make "
            f"({describe(found)})",
            f"{way}; nothing was written",
        )
    if identity and kept != identity:
        raise StoreError(f"--storage {redacted(url)}: holds another study by the name of {name}", way)


def set_aside(path: Path, suffix: str) -> Path:
    """Rename a database that cannot be used, and its journal files; never overwrite files set aside earlier."""
    places = (path.with_name(f"{path.name}.{suffix}{f'-{it}' if it > 1 else ''}") for it in itertools.count(1))
    aside = next(it for it in places if not it.exists())
    for journal in ("-wal", "-shm", "-journal"):  # SQLite would apply an old journal to the new file
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + journal).replace(aside.with_name(aside.name + journal))
    path.replace(aside)
    return aside


def _agree(copy: FrozenTrial, trial: FrozenTrial, *, exact: bool) -> bool:
    """Return whether a copied trial can still become what the trial is, or, if not `exact`, is ahead of the trial."""
    if copy.params != trial.params or copy.distributions != trial.distributions:
        return False
    ours, theirs = trial.intermediate_values, copy.intermediate_values
    if copy.state.is_finished() and (exact or trial.state.is_finished()):
        attrs = {name: copy.user_attrs.get(name) for name in trial.user_attrs}
        return (copy.state, copy.values, theirs, attrs) == (trial.state, trial.values, ours, trial.user_attrs)
    return all(ours[epoch] == score if epoch in ours else not exact for epoch, score in theirs.items())


def _update(storage: RDBStorage, copy: FrozenTrial, trial: FrozenTrial) -> None:
    if copy.state.is_finished():
        return
    for epoch, score in trial.intermediate_values.items():
        if epoch not in copy.intermediate_values:
            storage.set_trial_intermediate_value(copy._trial_id, epoch, score)
    for name, value in trial.user_attrs.items():
        if copy.user_attrs.get(name) != value:
            storage.set_trial_user_attr(copy._trial_id, name, value)
    if trial.state.is_finished():
        storage.set_trial_state_values(copy._trial_id, trial.state, trial.values)
