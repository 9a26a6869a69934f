"""Databases of Optuna studies: addresses, what lies in a database, and how it is opened.

An address can hold a password. Show it with `redacted`, and messages of drivers with `scrubbed`. Functions that look
into a database write nothing: `optuna.storages.RDBStorage` itself creates missing tables, and writes a version before
it reports that the database has another one.
"""

import importlib.util
import json
import re
import shlex
import sqlite3
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy import Connection, text

from autodistill.errors import ConfigError, StoreError, VersionError

START_S = 5.0
"""How long a server that does not answer is tried when a command starts: it may be starting too."""
PAUSE_S = 0.3
"""Seconds between two attempts."""
CONNECT_S = 10
"""Most seconds for a connection; with a server that drops packets it would otherwise take minutes."""
BUSY_S = 5.0
"""Seconds that a locked SQLite file is waited for."""
CREATIONS = 5
"""Attempts to create Optuna's tables while another process does the same."""

SQLITE = "sqlite:///"
_SERVER = re.compile(
    r"(?P<driver>postgres|postgresql|postgresql\+psycopg)://"
    r"(?:(?P<user>[^@:/?#\s]*)(?P<password>:[^@/?#\s]*)?@)?"
    r"(?P<place>(?:\[[0-9a-fA-F:]+\]|[^@:/?#\[\]\s]*)(?::\d+)?(?:/[^@?#\s]*)?)"
    r"(?P<query>\?[^@]*)?",
)
AWAY = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError, OSError)
"""Errors of a database that is away, locked, full or damaged."""
UNAVAILABLE = ("locked", "unable to open", "disk I/O error", "disk is full")
"""Parts of SQLite's messages about a file that may be all right."""

T = TypeVar("T")


FIRST_WITH_ALEMBIC = 12
"""Value of `version_info.schema_version` since Optuna keeps the version of its tables in `alembic_version`."""
COLUMNS = {"study_id", "study_name"}
"""Of Optuna's table `studies`, in every version."""
MOST_PARAMETERS = 4
"""Parameters of a foreign study that an error names."""


class NotOptunas(Exception):
    """A file or table that Optuna did not make, or a damaged one."""


class Schema(NamedTuple):
    """Version of Optuna's tables in a database."""

    revision: str
    """The newest change of the tables that was made there; empty: before Optuna counted them."""
    library: str
    """Version of Optuna that created them."""
    older: bool
    """Whether the installed Optuna can upgrade them; if not, a newer Optuna made them."""


class StudyFound(NamedTuple):
    """An Optuna study as it lies in a database."""

    attrs: Mapping[str, Any]
    directions: tuple[str, ...]
    trials: int
    params: tuple[str, ...]
    """Names of all parameters of its trials."""


def redacted(url: str) -> str:
    """Return the address of a database without password and query.

    Where the password cannot be told for certain, only the kind of database is left.
    """
    if url.startswith(SQLITE):
        return url.partition("?")[0]
    found = _SERVER.fullmatch(url)
    if found is None:
        driver = re.match(r"(postgres|postgresql|postgresql\+psycopg)://", url)
        return f"{driver[0]}***" if driver else "***"
    password = ":***" if found["password"] else ""
    user = f"{found['user']}{password}@" if found["user"] is not None else ""
    return f"{found['driver']}://{user}{found['place']}{'?***' if found['query'] else ''}"


def scrubbed(message: str, url: str) -> str:
    """Return a driver's message without the secrets of the address."""
    found = _SERVER.fullmatch(url)
    secrets = {url, url.partition("://")[2]}
    if found is not None:
        secrets |= {(found["password"] or "")[1:], *re.split("[?&=]", found["query"] or "")[1:]}
    secrets |= {unquote(secret) for secret in secrets}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        message = message.replace(secret, "***")
    return message


def checked_address(url: str) -> str:
    """Return an address that can be opened with the installed packages.

    Raises:
        ConfigError: the address is of an unknown kind, or its driver is missing.
    """
    if not url.startswith(SQLITE) and _SERVER.fullmatch(url) is None:
        raise ConfigError(
            f"--storage {redacted(url)}: is no address of a database "
            "(allowed: postgresql://USER@HOST/DATABASE, sqlite:///FILE)",
            "in a password, write signs other than letters and digits in percent code: %40 for @, %2F for /",
        )
    if is_server(url) and importlib.util.find_spec("psycopg") is None:
        raise ConfigError(
            f"--storage {redacted(url)}: needs the driver psycopg", "pip install 'kd-autodistill[postgres]'"
        )
    return url


def open_storage(url: str, *, patience_s: float | None = None) -> RDBStorage:
    """Open a database, and create Optuna's tables in an empty database.

    Args:
        url: address of the database.
        patience_s: how long a server that does not answer is tried; None: `START_S`.

    Raises:
        ConfigError: the address is of an unknown kind, or its driver is missing.
        VersionError: another version of Optuna made the tables; nothing was written.
        StoreError: the server does not answer, nothing can be written, or a file or table is not Optuna's.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if _exists(checked_address(url)):
        _reached(url, lambda: _looked(url), patience_s)
    return _reached(url, lambda: _opened(url), patience_s)


def open_file(path: Path) -> RDBStorage:
    """Open a study's own SQLite file, and create the file and Optuna's tables where they are missing.

    No address is involved, so the path may have any characters.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pool = {"poolclass": sqlalchemy.pool.QueuePool, "pool_size": 1}
    return _with_tables("sqlite://", {"creator": lambda: _write_ahead(_connected(path)), **pool})


def check_file(path: Path, name: str) -> Mapping[str, Any] | None:
    """Read everything in a study's own SQLite file, without changing the file.

    Args:
        path: an existing file.
        name: of the only study that the file may hold.

    Returns:
        The attributes of the study; None where the file holds no study yet.

    Raises:
        VersionError: another version of Optuna made the file.
        NotOptunas: the file is damaged, or holds something else.
        SQLAlchemyError: the file is locked or cannot be opened.
    """
    if path.is_dir():
        raise NotOptunas("is a folder, not a file")
    try:
        return _checked(path, name)
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError, ValueError, LookupError) as error:
        reason = reason_of(error)
        if any(text in reason for text in UNAVAILABLE):
            raise
        raise NotOptunas(reason) from error


def _checked(path: Path, name: str) -> Mapping[str, Any] | None:
    with read_only(path).connect() as connection:
        if (other := other_schema(connection)) is not None:
            raise _of_another_version(f"{SQLITE}{path}", other)
        tables = sqlalchemy.inspect(connection).get_table_names()
        if not tables:
            return None
        if "studies" not in tables:
            raise NotOptunas(f"its table {tables[0]} is not Optuna's")
        names = [str(it) for (it,) in connection.execute(text("SELECT study_name FROM studies"))]
        for other_name in names:
            found = study_in(connection, other_name)
            if other_name != name and found is not None:
                raise NotOptunas(f"holds another study, {other_name} ({describe(found)})")
    storage = RDBStorage(
        "sqlite://",
        engine_kwargs={"creator": partial(_connected, path, mode="ro"), "poolclass": sqlalchemy.pool.NullPool},
        skip_table_creation=True,
        skip_compatibility_check=True,
    )
    try:
        for study in storage.get_all_studies():
            storage.get_all_trials(study._study_id, deepcopy=False)
            return study.user_attrs
        return None
    finally:
        close_storage(storage)


def close_storage(storage: RDBStorage) -> None:
    """Close the connections of a database."""
    storage.remove_session()
    storage.engine.dispose()


def find_study(url: str, name: str) -> StudyFound | None:
    """Return a study of a database, or None where there is no such study or no such file; writes nothing.

    Raises:
        ConfigError: as `checked_address`.
        VersionError, StoreError: as `open_storage`.
    """
    return _reached(url, lambda: _looked(url, name)) if _exists(checked_address(url)) else None


def unreachable(url: str, error: BaseException) -> StoreError:
    """Return the error for a database that cannot be used."""
    way = "start the database, or correct the address" if is_server(url) else "name another file, or repair this one"
    return StoreError(
        f"--storage {redacted(url)}: cannot be used ({reason_of(error, url)})",
        f"{way}; the same command then continues",
    )


def reason_of(error: BaseException, url: str = "") -> str:
    """Return the driver's own message: Optuna's wrapper names no cause."""
    while isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, sqlalchemy.exc.PendingRollbackError):
        return "the connection was lost"
    lines = str(getattr(error, "orig", None) or error).splitlines()
    return scrubbed(lines[0] if lines else type(error).__name__, url)


def is_server(url: str) -> bool:
    """Return whether an address names a server, not a file."""
    return not url.startswith(SQLITE)


def _reached(url: str, call: Callable[[], T], patience_s: float | None = None) -> T:
    """Return the result of a first call of a database; a server gets some seconds to start."""
    begun, patience_s = time.monotonic(), START_S if patience_s is None else patience_s
    while True:
        try:
            return call()
        except NotOptunas as error:
            raise StoreError(
                f"--storage {redacted(url)}: {error}", "name another database; this one was not changed"
            ) from error
        except AWAY as error:
            if not is_server(url) or time.monotonic() - begun >= patience_s:
                raise unreachable(url, error) from error
        time.sleep(PAUSE_S)


def _opened(url: str) -> RDBStorage:
    if url.startswith(SQLITE):
        storage = _with_tables(url, {"connect_args": {"timeout": BUSY_S}})
        sqlalchemy.event.listen(storage.engine, "connect", lambda connection, _: _write_ahead(connection))
        storage.engine.dispose()
        return storage
    # Mostly one connection a process: servers allow about a hundred.
    kept = {"pool_size": 1, "max_overflow": 2, "connect_args": _waits()}
    return _with_tables(_with_driver(url), kept)


def _with_tables(url: str, kept: dict[str, Any]) -> RDBStorage:
    """Open Optuna's storage, whose version was checked. Where two processes create tables at once, one tries again."""
    # A storage whose creation fails cannot be closed, so it must not keep connections.
    unpooled: dict[str, Any] = {name: kept[name] for name in ("creator", "connect_args") if name in kept}
    unpooled["poolclass"] = sqlalchemy.pool.NullPool
    for attempt in range(CREATIONS):
        try:
            close_storage(RDBStorage(url, engine_kwargs=unpooled, skip_compatibility_check=True))
            break
        except sqlalchemy.exc.DatabaseError as error:
            beaten = isinstance(error, sqlalchemy.exc.IntegrityError) or "already exists" in str(error)
            if not beaten or attempt + 1 == CREATIONS:
                raise
            time.sleep(PAUSE_S)
    return RDBStorage(url, engine_kwargs=kept, skip_table_creation=True, skip_compatibility_check=True)


def _exists(url: str) -> bool:
    if is_server(url) or Path(_path_of(url)).exists():
        return True
    folder = Path(_path_of(url)).parent
    if not folder.is_dir():
        raise StoreError(f"--storage {redacted(url)}: cannot be used ({folder}: no such folder)", "make the folder")
    return False


def _path_of(url: str) -> str:
    """Return the path of a database that is a file."""
    return url.removeprefix(SQLITE).partition("?")[0]


def _looked(url: str, name: str | None = None) -> StudyFound | None:
    if not is_server(url) and Path(_path_of(url)).is_dir():
        raise NotOptunas("is a folder, not a file")
    with (_unpooled(url) if is_server(url) else read_only(_path_of(url))).connect() as connection:
        if (other := other_schema(connection)) is not None:
            raise _of_another_version(url, other)
        return None if name is None else study_in(connection, name)


def _unpooled(url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(_with_driver(url), poolclass=sqlalchemy.pool.NullPool, connect_args=_waits())


def _waits() -> dict[str, int]:
    # Without a limit, a write to a machine that has vanished blocks for a quarter of an hour.
    return {"connect_timeout": CONNECT_S, "tcp_user_timeout": 1000 * CONNECT_S}


def _of_another_version(url: str, other: Schema) -> VersionError:
    upgrade = f"upgrade it with `optuna storage upgrade --storage {shlex.quote(redacted(url))}`"
    return VersionError(
        f"--storage {redacted(url)}: its tables were made by Optuna {other.library}"
        f" (revision {other.revision or 'none'}), here is Optuna {optuna.__version__} (revision {revisions()[0]})",
        f"{upgrade if other.older else 'install that Optuna'}, or name another database; nothing was written",
    )


def _with_driver(url: str) -> str:
    return re.sub(r"^(postgres|postgresql)://", "postgresql+psycopg://", url)


def _connected(path: str | Path, *, mode: str = "rwc") -> sqlite3.Connection:
    address = f"file:{quote(str(Path(path).absolute()))}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=BUSY_S, check_same_thread=False)


def _write_ahead(connection: sqlite3.Connection) -> sqlite3.Connection:
    # A dashboard that reads and the study that writes do not lock each other out, and a commit need not wait for the
    # disk: the file is a copy.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def read_only(path: str | Path) -> sqlalchemy.Engine:
    """Return an engine that reads a SQLite file, and neither creates nor changes it."""
    creator = partial(_connected, path, mode="ro")
    return sqlalchemy.create_engine("sqlite://", creator=creator, poolclass=sqlalchemy.pool.NullPool)


def other_schema(connection: Connection) -> Schema | None:
    """Return the version of Optuna's tables where it is another one than the installed Optuna's.

    Tables that another process is creating at this moment are no other version.

    Raises:
        NotOptunas: the table `studies` was not made by Optuna.
    """
    there = sqlalchemy.inspect(connection)
    if not there.has_table("studies"):
        return None
    if missing := COLUMNS - {column["name"] for column in there.get_columns("studies")}:
        raise NotOptunas(f"its table studies is not Optuna's: it has no column {min(missing)}")
    revision = (
        _one(connection, "SELECT version_num FROM alembic_version") if there.has_table("alembic_version") else None
    )
    made = None
    if there.has_table("version_info"):
        made = connection.execute(text("SELECT schema_version, library_version FROM version_info")).first()
    if revision is None:
        numbered = made is not None and made[0] >= FIRST_WITH_ALEMBIC
        fresh = made is None and not _one(connection, "SELECT count(*) FROM studies")
        return None if numbered or fresh else Schema("", made[1] if made else "unknown", older=True)
    known = revisions()
    if revision == known[0]:
        return None
    return Schema(str(revision), str(made[1]) if made else "unknown", older=revision in known)


@cache
def revisions() -> tuple[str, ...]:
    """Return the Alembic revisions that the installed Optuna knows, the newest first."""
    from alembic.script import ScriptDirectory

    scripts = Path(optuna.storages.__file__).parent / "_rdb" / "alembic"
    return tuple(it.revision for it in ScriptDirectory(str(scripts)).walk_revisions())


def study_in(connection: Connection, name: str) -> StudyFound | None:
    """Return a study of a database with tables of the installed Optuna's version, or None."""
    if not sqlalchemy.inspect(connection).has_table("studies"):
        return None
    id = _one(connection, "SELECT study_id FROM studies WHERE study_name = :name", name=name)
    if id is None:
        return None
    attrs = "SELECT key, value_json FROM study_user_attributes WHERE study_id = :id"
    directions = "SELECT direction FROM study_directions WHERE study_id = :id ORDER BY objective"
    params = (
        "SELECT DISTINCT param_name FROM trial_params JOIN trials ON trial_params.trial_id = trials.trial_id "
        "WHERE trials.study_id = :id ORDER BY param_name"
    )
    return StudyFound(
        {key: _parsed(value) for key, value in connection.execute(text(attrs), {"id": id})},
        tuple(str(direction).lower() for (direction,) in connection.execute(text(directions), {"id": id})),
        int(_one(connection, "SELECT count(*) FROM trials WHERE study_id = :id", id=id) or 0),
        tuple(str(param) for (param,) in connection.execute(text(params), {"id": id})),
    )


def describe(found: StudyFound) -> str:
    """Return a study in words: `12 trials over depth and lr, minimize`."""
    params = list(found.params[:MOST_PARAMETERS])
    params += [f"{len(found.params) - MOST_PARAMETERS} more"] if len(found.params) > MOST_PARAMETERS else []
    over = f" over {', '.join(params)}" if params else ""
    return f"{found.trials} trial{'s' if found.trials != 1 else ''}{over}, {' and '.join(found.directions)}"


def _one(connection: Connection, query: str, **values: Any) -> Any:
    return connection.execute(text(query), values).scalar()


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
