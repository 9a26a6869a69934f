"""The database of a study: where it may lie, how its address is shown, how a moment without it is survived.

An address can hold a password, so it is shown `redacted` and what drivers say is `scrubbed`.
"""

import importlib.util
import re
import shlex
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage

from autodistill.errors import ConfigError, StoreError, StudyError, VersionError
from autodistill.storage.journal import NotOptunas, open_journal
from autodistill.storage.looking import (
    Schema,
    StudyFound,
    other_schema,
    read_only,
    revisions,
    study_in,
    study_of,
)

PATIENCE_S = 180.0
"""A database that stays away for longer ends the command; the same command goes on when it is back."""
START_S = 5.0
"""Patience with a server that is just starting; one that was never there should be said soon."""
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
CONNECT_S = 10
"""Most seconds for a connection; a packet that is dropped would otherwise cost minutes."""

CREATIONS = 5
"""Tries to create what a database needs while others do the same."""

SQLITE, JOURNAL = "sqlite:///", "journal:"
_SERVER = re.compile(
    r"(?P<driver>postgres|postgresql|postgresql\+psycopg)://"
    r"(?:(?P<user>[^@:/?#\s]*)(?P<password>:[^@/?#\s]*)?@)?"
    r"(?P<place>(?:\[[0-9a-fA-F:]+\]|[^@:/?#\[\]\s]*)(?::\d+)?(?:/[^@?#\s]*)?)"
    r"(?P<query>\?[^@]*)?",
)
_ALLOWED = "allowed: postgresql://USER@HOST/DATABASE, sqlite:///FILE, journal:FILE"
AWAY = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)
"""What a database that is away raises."""

T = TypeVar("T")


def redacted(url: str) -> str:
    """The address of a database as it may be shown: without password and query.

    Where it cannot be told for sure what the password is, only the kind of database is left.
    """
    if url.startswith(JOURNAL):
        return url
    if url.startswith(SQLITE):
        return url.partition("?")[0]
    found = _SERVER.fullmatch(url)
    if found is None:
        driver = re.match(r"(postgres|postgresql|postgresql\+psycopg)://", url)
        return f"{driver[0]}***" if driver else "***"
    password = ":***" if found["password"] else ""
    user = f"{found['user']}{password}@" if found["user"] is not None else ""
    return f"{found['driver']}://{user}{found['place']}{'?***' if found['query'] else ''}"


def scrubbed(text: str, url: str) -> str:
    """What a driver said, without what its address must not show."""
    found = _SERVER.fullmatch(url)
    secrets = {url, url.partition("://")[2]}
    if found is not None:
        secrets |= {(found["password"] or "")[1:], *re.split("[?&=]", found["query"] or "")[1:]}
    secrets |= {unquote(secret) for secret in secrets}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def checked(url: str) -> str:
    """An address that can be opened with what is installed.

    Raises:
        ConfigError: it is of an unknown kind, or its driver is missing.
    """
    if not url.startswith((SQLITE, JOURNAL)) and _SERVER.fullmatch(url) is None:
        raise ConfigError(
            f"--storage {redacted(url)}: is no address of a database ({_ALLOWED})",
            "a password with other signs than letters and digits is written in percent code: %40 for @, %2F for /",
        )
    if _is_server(url) and importlib.util.find_spec("psycopg") is None:
        raise ConfigError(
            f"--storage {redacted(url)}: needs the driver psycopg", "pip install 'kd-autodistill[postgres]'"
        )
    return url


def open_storage(url: str) -> BaseStorage:
    """Open a database, and create Optuna's tables in an empty database.

    Raises:
        ConfigError: the address is of an unknown kind, or its driver is missing.
        VersionError: another version of Optuna made the tables; nothing was written.
        StoreError: nobody answers there, nothing can be written, or a file or table is not Optuna's.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if _exists(checked(url)):
        _reached(url, lambda: _looked(url))
    return _reached(url, lambda: _opened(url))


def _reached(url: str, call: Callable[[], T]) -> T:
    """Return what a first call of a database returns."""
    try:
        return patiently(call, patience_s=START_S if _is_server(url) else 0.0)
    except (StudyError, *AWAY, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        cause = error.__cause__ if isinstance(error, StudyError) and error.__cause__ else error
        raise unreachable(url, cause) from cause
    except NotOptunas as error:
        raise StoreError(
            f"--storage {redacted(url)}: {error}", "name another database; this one is as it was"
        ) from error


def unreachable(url: str, error: BaseException) -> StoreError:
    way = "start the database, or mend the address" if _is_server(url) else "name another file, or mend this one"
    return StoreError(
        f"--storage {redacted(url)}: cannot be used ({reason_of(error, url)})",
        f"{way}; the same command then goes on",
    )


def _opened(url: str) -> BaseStorage:
    if url.startswith(JOURNAL):
        return open_journal(_path_of(url))
    if url.startswith(SQLITE):
        storage = _tables(url, {"connect_args": {"timeout": 60}})
        sqlalchemy.event.listen(storage.engine, "connect", _write_ahead)
        sqlalchemy.event.listen(storage.engine, "begin", _begin_at_once)
        storage.engine.dispose()
        return storage
    # Mostly one connection a process: servers allow about a hundred.
    kept = {"pool_size": 1, "max_overflow": 2, "connect_args": {"connect_timeout": CONNECT_S}}
    return _tables(_with_driver(url), kept)


def _tables(url: str, kept: dict[str, Any]) -> RDBStorage:
    """Optuna's storage. Of two who create its tables at once, the second meets them half made: it looks again."""
    for _ in range(CREATIONS):
        try:
            return RDBStorage(url, engine_kwargs=kept)
        except sqlalchemy.exc.DatabaseError as error:
            if isinstance(error, sqlalchemy.exc.OperationalError) and "already exists" not in str(error):
                raise
            time.sleep(0.3)
    return RDBStorage(url, engine_kwargs=kept)


def holds_study(url: str, name: str) -> bool:
    """Return whether a study of this name exists; errors as `find_study`."""
    return find_study(url, name) is not None


def find_study(url: str, name: str) -> StudyFound | None:
    """Return a study of a database, or None where there is no such study or no such file; writes nothing.

    Raises:
        ConfigError: as `checked`.
        VersionError, StoreError: as `open_storage`.
    """
    return _reached(url, lambda: _looked(url, name)) if _exists(checked(url)) else None


def _exists(url: str) -> bool:
    if _is_server(url) or Path(_path_of(url)).exists():
        return True
    folder = Path(_path_of(url)).parent
    if not folder.is_dir():
        raise StoreError(f"--storage {redacted(url)}: cannot be used ({folder}: no such folder)", "make the folder")
    return False


def _path_of(url: str) -> str:
    """Path of a database that is a file."""
    return url.removeprefix(JOURNAL) if url.startswith(JOURNAL) else url.removeprefix(SQLITE).partition("?")[0]


def _looked(url: str, name: str | None = None) -> StudyFound | None:
    if not _is_server(url) and Path(_path_of(url)).is_dir():
        raise NotOptunas("is a folder, not a file")
    if url.startswith(JOURNAL):
        found = _opened(url)
        return None if name is None else study_of(found, name)
    with (read_only(_path_of(url)) if url.startswith(SQLITE) else _unpooled(url)).connect() as connection:
        if (other := other_schema(connection)) is not None:
            raise _of_another_version(url, other)
        return None if name is None else study_in(connection, name)


def _unpooled(url: str) -> sqlalchemy.Engine:
    waits = {"connect_timeout": CONNECT_S}
    return sqlalchemy.create_engine(_with_driver(url), poolclass=sqlalchemy.pool.NullPool, connect_args=waits)


def _of_another_version(url: str, other: Schema) -> VersionError:
    upgrade = f"upgrade it with `optuna storage upgrade --storage {shlex.quote(redacted(url))}`"
    return VersionError(
        f"--storage {redacted(url)}: its tables were made by Optuna {other.library}"
        f" (revision {other.revision or 'none'}), here is Optuna {optuna.__version__} (revision {revisions()[0]})",
        f"{upgrade if other.older else 'install that Optuna'}, or name another database; nothing was written",
    )


def close_storage(storage: BaseStorage) -> None:
    """Give a database back: connections and files stay open otherwise."""
    storage.remove_session()
    engine = getattr(getattr(storage, "_backend", storage), "engine", None)
    if engine is not None:
        engine.dispose()


def patiently(
    call: Callable[[], T],
    *,
    say: Callable[[str], object] = lambda _: None,
    patience_s: float | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """Call again, at growing intervals, while the database is away; the call must be idempotent.

    Args:
        say: told once, when it is away at the second call too: the first may only have met a lost connection.
        patience_s: None: the usual minutes; 0: an error is raised as it comes.
        sleep: waits between two calls.

    Raises:
        StudyError: it stayed away.
    """
    begun, pause = time.monotonic(), SHORTEST_PAUSE_S
    patience_s = PATIENCE_S if patience_s is None else patience_s
    while True:
        try:
            return call()
        except AWAY as error:
            if not patience_s:
                raise
            reason = reason_of(error)
            if time.monotonic() - begun > patience_s:
                raise StudyError(
                    f"the database stayed away for {patience_s:g} s ({reason})",
                    "every finished run is kept: when it is back, the same command goes on",
                ) from error
            if pause == 2 * SHORTEST_PAUSE_S:
                say(f"the database does not answer ({reason}): trying again for up to {patience_s:g} s")
        sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def patience_of(storage: BaseStorage) -> float:
    """Seconds to wait for a database that went away; a file next to the study does not come back by itself."""
    engine = getattr(getattr(storage, "_backend", storage), "engine", None)
    return 0.0 if engine is not None and engine.name == "sqlite" else PATIENCE_S


def reason_of(error: BaseException, url: str = "") -> str:
    """The driver's own words: Optuna's wrapper names no cause."""
    while isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, sqlalchemy.exc.PendingRollbackError):
        return "the connection was lost"
    lines = str(getattr(error, "orig", None) or error).splitlines()
    return scrubbed(lines[0] if lines else type(error).__name__, url)


def _is_server(url: str) -> bool:
    return not url.startswith((SQLITE, JOURNAL))


def _with_driver(url: str) -> str:
    return re.sub(r"^(postgres|postgresql)://", "postgresql+psycopg://", url)


def _begin_at_once(connection: sqlalchemy.Connection) -> None:
    # By itself Python begins at the first write: of two processes that claim a task both would have seen it wait.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _write_ahead(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None
    # Readers (a dashboard) and the study do not lock each other out, and a commit need not wait for the disk:
    # what a power cut could take here is asked again from the results, which are flushed.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
