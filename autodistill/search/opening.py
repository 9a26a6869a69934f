"""Opening a study's database: whose study lies there, what becomes of a file that cannot be used."""

import contextlib
import itertools
from pathlib import Path

import optuna
import sqlalchemy

from autodistill.errors import StoreError, VersionError
from autodistill.queue.board import board_name
from autodistill.search.asking import fits
from autodistill.search.carrying import carry, study_name
from autodistill.search.keeping import KeptStudy, Say
from autodistill.search.question import Question
from autodistill.storage import (
    SQLITE,
    close_storage,
    find_study,
    open_storage,
    patience_of,
    patiently,
    reason_of,
    redacted,
    unreachable,
)
from autodistill.storage.looking import describe

IDENTITY = "autodistill:identity"
"""Attribute of an Optuna study: which of autodistill's studies it is."""


def open_study(question: Question, database: Path | str | None, *, say: Say = lambda _: None) -> KeptStudy:
    """Create or open the study in a database, readable by `optuna-dashboard`; None: the study lives in memory.

    Args:
        question: what is searched.
        database: the study's own SQLite file, or the address of any storage. A file of its own that cannot be used is
            set aside: the search asks again from the kept results and ends up with an equal one.
        say: told that a file was set aside, and why.

    Raises:
        VersionError: another version of Optuna made the storage.
        StoreError: it cannot be reached or written, or holds another study of this name; nothing was written to it.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if database is None:
        return KeptStudy()
    if isinstance(database, str):
        if question.identity:
            refuse_foreign(
                database, study_name(question), identity=question.identity, board=board_name(question.name)
            )
        return _opened(question, database)
    try:
        return _own(question, database)
    except VersionError as error:
        suffix, reason = "old", error.message.partition(f"{database}: ")[2]
    except (
        StoreError,
        sqlalchemy.exc.DatabaseError,
        optuna.exceptions.StorageInternalError,
        ValueError,
        KeyError,
    ) as error:
        _demand_damage(database, error)
        wrapped = isinstance(error, StoreError) and error.__cause__ is not None
        suffix, reason = "damaged", reason_of(error.__cause__ or error if wrapped else error)
    aside = set_aside(database, suffix)
    say(f"{database}: {reason}; moved to {aside.name} and made again from the kept results")
    return _own(question, database)


def refuse_foreign(url: str, name: str, *, identity: str, board: str) -> None:
    """Check that the study of a name in a database is this one, if there is any; writes nothing.

    Args:
        identity: of this study; empty: any study that autodistill made will do.
        board: name of the Optuna study that holds this study's tasks.

    Raises:
        VersionError: another version of Optuna made the database.
        StoreError: the study is another one, or autodistill did not make it.
    """
    found, tasks = find_study(url, name), find_study(url, board)
    foreign = f"--storage {redacted(url)}: holds a study by the name of {{}} that autodistill did not make ({{}})"
    way = "give this one its own name with --study NAME, or name another database; nothing was written"
    if tasks is not None and (tasks.params or tasks.directions != ("maximize",)):
        raise StoreError(foreign.format(board, describe(tasks)), way)
    if found is None:
        return
    kept = found.attrs.get(IDENTITY)
    # A process that died right after it had created the study left no identity there, but its board.
    begun = tasks is not None and not found.trials and not found.attrs
    if kept is None and not begun:
        raise StoreError(foreign.format(name, describe(found)), way)
    if kept is not None and identity and kept != identity:
        raise StoreError(
            f"--storage {redacted(url)}: holds another study by the name of {name}",
            "give this one its own name with --study",
        )


def set_aside(path: Path, suffix: str) -> Path:
    """Rename a database that cannot be used, with the files that belong to it; earlier ones keep their names."""
    places = (path.with_name(f"{path.name}.{suffix}{f'-{it}' if it > 1 else ''}") for it in itertools.count(1))
    aside = next(it for it in places if not it.exists())
    for journal in ("-wal", "-shm", "-journal"):  # SQLite would apply an old one to the new file
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + journal).replace(aside.with_name(aside.name + journal))
    path.replace(aside)
    return aside


def unwritable(database: Path | str | None, error: Exception) -> StoreError:
    """Return the error for a database that fails amidst a study."""
    if isinstance(database, str):
        return unreachable(database, error)
    reason = reason_of(error)
    return StoreError(f"{database}: cannot be written ({reason})", "free space; the same command goes on from here")


def _own(question: Question, database: Path) -> KeptStudy:
    """Open the study's own file.

    Raises:
        ValueError: it holds a study that is not this one.
        KeyError: its tables are not Optuna's.
    """
    url = f"{SQLITE}{database}"
    found = find_study(url, study_name(question))
    if found is not None and found.directions != ("maximize",):
        raise ValueError(f"holds another study ({describe(found)})")
    study = _opened(question, url)
    if not all(fits(trial, question) for trial in study.trials()):
        study.close()
        raise ValueError("holds trials of another study")
    return study


def _demand_damage(database: Path, error: Exception) -> None:
    """Raise where a file cannot be opened or locked; return where its content is damaged."""
    cause = error.__cause__ if isinstance(error, StoreError) else error
    while isinstance(cause, optuna.exceptions.StorageInternalError) and cause.__cause__ is not None:
        cause = cause.__cause__
    missing = "no such" in str(cause) or "has no column" in str(cause)  # of a table that is not Optuna's
    if isinstance(cause, sqlalchemy.exc.OperationalError) and not missing and not database.is_dir():
        raise unwritable(database, cause) from error


def _opened(question: Question, url: str) -> KeptStudy:
    storage = open_storage(url)
    with contextlib.ExitStack() as failed:
        failed.callback(close_storage, storage)
        study = patiently(lambda: _joined(question, storage), patience_s=patience_of(storage))
        failed.pop_all()
    return study


def _joined(question: Question, storage: optuna.storages.BaseStorage) -> KeptStudy:
    study = optuna.create_study(
        storage=storage, study_name=study_name(question), direction="maximize", load_if_exists=True
    )
    if IDENTITY not in study.user_attrs and question.identity:
        study.set_user_attr(IDENTITY, question.identity)
    carry(study, question)
    return KeptStudy(study)
