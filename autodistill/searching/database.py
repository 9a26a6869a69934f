"""Copy the trials of a search to a database, for dashboards. The search never reads the copy for decisions.

A copy is either the study's own SQLite file, given as a `Path`, or a database given by its address. An address can hold
a password. Show it with `redacted`, and messages of drivers with `scrubbed`. Functions that look into a database write
nothing: `optuna.storages.RDBStorage` itself creates missing tables, and writes a version before it reports that the
database has another one.
"""

import contextlib
import importlib.util
import itertools
import re
import secrets
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, text

from autodistill.errors import ConfigError, StoreError, StudyError, VersionError

IDENTITY = "autodistill:identity"
"""Attribute of an Optuna study: identity of the autodistill study that it copies."""
COORDINATOR = "autodistill:coordinator"
"""Attribute of an Optuna study: random id of the process that writes it."""
EVERY_S = 1.0
"""Seconds between two writes, at least."""
SHARE = 20
"""After a write or failure that took t seconds, the next write waits SHARE * t."""
AGAIN_S = 5.0
"""Seconds between two attempts while the database is away, at least."""
START_S = 5.0
"""How long a server that does not answer is tried when a command starts: it may be starting too."""
PAUSE_S = 0.3
"""Seconds between two attempts at the start."""
CONNECT_S = 10
"""Most seconds for a connection; with a server that drops packets it would otherwise take minutes."""
BUSY_S = 5.0
"""Seconds that a locked SQLite file is waited for."""
CREATIONS = 5
"""Attempts to create Optuna's tables while another process does the same."""
MOST_PARAMETERS = 4
"""Parameters of a foreign study that an error names."""

SQLITE = "sqlite:///"
SERVER = re.compile(
    r"postgres(ql(\+psycopg)?)?://([^@:/?#\s]*(:(?P<password>[^@/?#\s]*))?@)?"
    r"(\[[0-9a-fA-F:]+\]|[^@:/?#\[\]\s]*)(:\d+)?(/[^@?#\s]*)?(\?(?P<query>[^@]*))?"
)
"""Addresses whose password cannot be taken for another part."""
AWAY = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError, OSError)
"""Errors of a database that is away, locked, full or damaged."""
FAILURES = (*AWAY, StoreError, optuna.exceptions.OptunaError, KeyError)
"""Errors of a write. KeyError: the study was removed."""
UNAVAILABLE = ("locked", "unable to open", "disk I/O error", "disk is full")
"""Parts of SQLite's messages about a file that may be all right."""

T = TypeVar("T")


class NotOptunas(Exception):
    """A file or table that Optuna did not make, or a damaged one."""


class StudyFound(NamedTuple):
    """An Optuna study as it lies in a database."""

    identity: str | None
    """Identity of the autodistill study that it copies; None: autodistill did not make it."""
    description: str
    """For example `12 trials over depth, lr, minimize`."""


class Mirror:
    """Copies trials to a database: the study's own SQLite file, or the address of a database.

    While the database is away, a warning is shown; the trials are written when it is back. A copy that differs is
    written again. `identity` distinguishes studies of the same `name` in a database.

    Raises:
        VersionError: Another version of Optuna made the database.
        StoreError: The database cannot be reached, or holds another study of this name; nothing was written.
    """

    def __init__(self, database: Path | str, *, name: str, identity: str, say: Callable[[str], object]) -> None:
        self._database = database
        self._shown = redacted(database)
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
            StudyError: Another process has begun to coordinate this study.
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
            if not self._away:
                reason = reason_of(error, self._database)
                self._say(f"{self._shown}: cannot be written ({reason}); the study goes on")
            self._away = True
        else:
            if self._away:
                self._say(f"{self._shown}: is back and up to date")
            self._away = False
        pause = AGAIN_S if self._away else EVERY_S
        self._next = begun + max(pause, SHARE * (time.monotonic() - begun))

    def _write(self, trials: Sequence[FrozenTrial], *, exact: bool) -> None:
        if isinstance(self._database, Path) and not self._database.exists():
            self._close()  # the file was removed, and the open connection would still write to the removed file
        if self._storage is None:
            if isinstance(self._database, Path):
                self._storage = self._own_file(self._database)
            else:
                self._storage = open_storage(self._database, patience_s=0.0)  # a study does not wait for its copy
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

    def _own_file(self, path: Path) -> RDBStorage:
        """Open the study's own file; a file that cannot be used is set aside."""
        try:
            if path.exists():
                _check_file(path, self._name, self._identity)
        except (NotOptunas, VersionError) as error:
            aside = set_aside(path, "old" if isinstance(error, VersionError) else "damaged")
            reason = str(error).removeprefix(f"{path}: ")
            self._say(f"{path}: {reason}; moved to {aside.name} and written again")
        return _opened(path)

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


def refuse_foreign(url: str, name: str, *, identity: str = "") -> None:
    """Check that a database holds no other study of this name; write nothing.

    `identity` is that of this study; empty: accept any study that autodistill made.

    Raises:
        VersionError: Another version of Optuna made the database.
        StoreError: The database holds another study of this name, or a study that autodistill did not make.
    """
    found = find_study(url, name)
    if found is None:
        return
    way = "give this study another name with --study, or name another database"
    if found.identity is None:
        raise StoreError(
            f"--storage {redacted(url)}: holds a study by the name of {name} that autodistill did not make "
            f"({found.description})",
            f"{way}; nothing was written",
        )
    if identity and found.identity != identity:
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


def redacted(url: Path | str) -> str:
    """Return a file, or the address of a database without password and query.

    Where the password cannot be told for certain, only the kind of database is left.
    """
    if isinstance(url, Path):
        return str(url)
    if url.startswith(SQLITE):
        return url.partition("?")[0]
    if SERVER.fullmatch(url) is None:
        kind = re.match(r"postgres(ql(\+psycopg)?)?://", url)
        return f"{kind[0] if kind else ''}***"
    address, query = sqlalchemy.make_url(url), "?***" if "?" in url else ""
    return address.set(query={}).render_as_string() + query


def scrubbed(message: str, url: str) -> str:
    """Return a driver's message without the secrets of the address."""
    secrets = {url, url.partition("://")[2]}
    if found := SERVER.fullmatch(url):
        secrets |= {found["password"] or "", *re.split("[&=]", found["query"] or "")}
    secrets |= {unquote(secret) for secret in secrets}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        message = message.replace(secret, "***")
    return message


def reason_of(error: BaseException, place: Path | str = "") -> str:
    """Return the driver's own message: Optuna's wrapper names no cause."""
    while isinstance(error, StoreError | optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, sqlalchemy.exc.PendingRollbackError):
        return "the connection was lost"
    lines = str(getattr(error, "orig", None) or error).splitlines()
    message = lines[0] if lines else type(error).__name__
    return scrubbed(message, place) if isinstance(place, str) else message


def open_storage(url: str, *, patience_s: float | None = None) -> RDBStorage:
    """Open a database, and create Optuna's tables in an empty database.

    A server that does not answer is tried for `patience_s` seconds; None: `START_S`.

    Raises:
        ConfigError: The address is of an unknown kind, or its driver is missing.
        VersionError: Another version of Optuna made the tables; nothing was written.
        StoreError: The server does not answer, nothing can be written, or a file or table is not Optuna's.
    """

    def opened() -> RDBStorage:
        _look(url)
        return _opened(url)

    return _reached(url, opened, START_S if patience_s is None else patience_s)


def find_study(url: str, name: str) -> StudyFound | None:
    """Return a study of a database; None where there is no such study or no such file. Errors as `open_storage`."""
    return _reached(url, lambda: _look(url, name), START_S)


def close_storage(storage: RDBStorage) -> None:
    """Close the connections of a database."""
    storage.remove_session()
    storage.engine.dispose()


def check_address(url: str) -> None:
    """Raise `ConfigError` if an address is of an unknown kind, or if its driver is missing."""
    if not url.startswith(SQLITE) and SERVER.fullmatch(url) is None:
        raise ConfigError(
            f"--storage {redacted(url)}: is no address of a database "
            "(allowed: postgresql://USER@HOST/DATABASE, sqlite:///FILE)",
            "in a password, write signs other than letters and digits in percent code: %40 for @, %2F for /",
        )
    if _file(url) is None and importlib.util.find_spec("psycopg") is None:
        raise ConfigError(
            f"--storage {redacted(url)}: needs the driver psycopg", "pip install 'kd-autodistill[postgres]'"
        )


def _reached(url: str, call: Callable[[], T], patience_s: float) -> T:
    """Return the result of a first call of a database; a server gets some seconds to start."""
    check_address(url)
    begun, server = time.monotonic(), _file(url) is None
    while True:
        try:
            return call()
        except NotOptunas as error:
            raise StoreError(
                f"--storage {redacted(url)}: {error}", "name another database; this one was not changed"
            ) from error
        except AWAY as error:
            if not server or time.monotonic() - begun >= patience_s:
                way = "name another file, or repair this one"
                if server:
                    way = "start the database, or correct the address"
                raise StoreError(
                    f"--storage {redacted(url)}: cannot be used ({reason_of(error, url)})",
                    f"{way}; the same command then continues",
                ) from error
        time.sleep(PAUSE_S)


def _file(place: Path | str) -> Path | None:
    """Return the file of a SQLite database; None for a server."""
    if isinstance(place, Path):
        return place
    return Path(place.removeprefix(SQLITE).partition("?")[0]) if place.startswith(SQLITE) else None


def _connecting(place: Path | str, mode: str = "rwc") -> tuple[str, dict[str, Any]]:
    """Return the address and the arguments by which SQLAlchemy connects; `mode` is SQLite's."""
    file = _file(place)
    if file is None:
        # Without a limit, a write to a machine that has vanished blocks for a quarter of an hour.
        waits = {"connect_timeout": CONNECT_S, "tcp_user_timeout": 1000 * CONNECT_S}
        address = re.sub(r"^(postgres|postgresql)://", "postgresql+psycopg://", str(place))
        return address, {"poolclass": sqlalchemy.pool.NullPool, "connect_args": waits}

    def connect() -> sqlite3.Connection:
        address = f"file:{quote(str(file.absolute()))}?mode={mode}"
        connection = sqlite3.connect(address, uri=True, timeout=BUSY_S, check_same_thread=False)
        if mode != "ro":
            # A dashboard that reads and the study that writes do not lock each other out, and a commit need not wait
            # for the disk: the file is a copy.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    return "sqlite://", {"poolclass": sqlalchemy.pool.NullPool, "creator": connect}


def _opened(place: Path | str) -> RDBStorage:
    """Open Optuna's storage, whose version was checked, and create missing tables."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    address, how = _connecting(place)
    for attempt in range(CREATIONS):
        try:
            # A storage whose creation fails cannot be closed, so it must not keep connections.
            close_storage(RDBStorage(address, engine_kwargs=dict(how), skip_compatibility_check=True))
            break
        except sqlalchemy.exc.DatabaseError as error:  # another process may have created the tables at the same time
            beaten = isinstance(error, sqlalchemy.exc.IntegrityError) or "already exists" in str(error)
            if not beaten or attempt + 1 == CREATIONS:
                raise
            time.sleep(PAUSE_S)
    # Mostly one connection a process: servers allow about a hundred.
    pool = {"poolclass": sqlalchemy.pool.QueuePool, "pool_size": 1, "max_overflow": 2}
    return RDBStorage(address, engine_kwargs={**how, **pool}, skip_table_creation=True, skip_compatibility_check=True)


@contextlib.contextmanager
def _reading(place: Path | str) -> Iterator[Connection]:
    """Connect to a database of the installed Optuna's version; neither create nor change anything."""
    file = _file(place)
    if file is not None and file.is_dir():
        raise NotOptunas("is a folder, not a file")
    address, how = _connecting(place, mode="ro")
    with sqlalchemy.create_engine(address, **how).connect() as connection:
        _check_version(connection, place)
        yield connection


def _look(url: str, name: str = "") -> StudyFound | None:
    """Check the version of a database, and return its study of a name; None where there is no such study or file."""
    file = _file(url)
    if file is not None and not file.exists():
        if not file.parent.is_dir():
            raise StoreError(
                f"--storage {redacted(url)}: cannot be used ({file.parent}: no such folder)", "make the folder"
            )
        return None
    with _reading(url) as connection:
        return _study_in(connection, name) if sqlalchemy.inspect(connection).has_table("studies") else None


def _check_file(path: Path, name: str, identity: str) -> None:
    """Read everything in a study's own SQLite file, without changing the file.

    Raises:
        VersionError: Another version of Optuna made the file.
        NotOptunas: The file is damaged, or holds something else.
        SQLAlchemyError: The file is locked or cannot be opened.
    """
    try:
        with _reading(path) as connection:
            tables = sqlalchemy.inspect(connection).get_table_names()
            if not tables:
                return
            if "studies" not in tables:
                raise NotOptunas(f"its table {tables[0]} is not Optuna's")
            for other in connection.execute(text("SELECT study_name FROM studies")).scalars().all():
                if other != name and (found := _study_in(connection, other)) is not None:
                    raise NotOptunas(f"holds another study, {other} ({found.description})")
        address, how = _connecting(path, mode="ro")
        storage = RDBStorage(address, engine_kwargs=how, skip_table_creation=True, skip_compatibility_check=True)
        with contextlib.ExitStack() as leaving:
            leaving.callback(close_storage, storage)
            for study in storage.get_all_studies():
                storage.get_all_trials(study._study_id, deepcopy=False)
                if study.user_attrs.get(IDENTITY) != identity:
                    raise NotOptunas("holds another study of this name")
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError, ValueError, LookupError) as error:
        reason = reason_of(error)
        if any(text in reason for text in UNAVAILABLE):
            raise
        raise NotOptunas(reason) from error


def _check_version(connection: Connection, place: Path | str) -> None:
    """Check that the installed Optuna's version made the tables, or that another process is creating them just now.

    Raises:
        VersionError: Another version of Optuna made the tables.
        NotOptunas: Optuna did not make the table `studies`.
    """
    there = sqlalchemy.inspect(connection)
    if not there.has_table("studies"):
        return
    if missing := {"study_id", "study_name"} - {column["name"] for column in there.get_columns("studies")}:
        raise NotOptunas(f"its table studies is not Optuna's: it has no column {min(missing)}")

    def first_value(table: str, column: str) -> Any:
        return connection.execute(text(f"SELECT {column} FROM {table}")).scalar() if there.has_table(table) else None

    revision, known = first_value("alembic_version", "version_num"), revisions()
    being_created = revision is None and not first_value("studies", "count(*)")
    if being_created or revision == known[0]:
        return
    shown = redacted(place)
    upgradable = revision is None or revision in known
    upgrade = f"upgrade it with `optuna storage upgrade --storage {shlex.quote(shown)}`"
    raise VersionError(
        f"{'--storage ' if isinstance(place, str) else ''}{shown}: its tables were made by Optuna "
        f"{first_value('version_info', 'library_version') or 'unknown'} (revision {revision or 'none'}), "
        f"here is Optuna {optuna.__version__} (revision {known[0]})",
        f"{upgrade if upgradable else 'install that Optuna'}, or name another database; nothing was written",
    )


@cache
def revisions() -> tuple[str, ...]:
    """Return the Alembic revisions that the installed Optuna knows, the newest first."""
    from alembic.script import ScriptDirectory

    scripts = Path(optuna.storages.__file__).parent / "_rdb" / "alembic"
    return tuple(it.revision for it in ScriptDirectory(str(scripts)).walk_revisions())


def _study_in(connection: Connection, name: str) -> StudyFound | None:
    def values(query: str) -> list[Any]:
        return list(connection.execute(text(query), {"id": id, "key": IDENTITY}).scalars())

    id = connection.execute(text("SELECT study_id FROM studies WHERE study_name = :name"), {"name": name}).scalar()
    if id is None:
        return None
    identity = values("SELECT value_json FROM study_user_attributes WHERE study_id = :id AND key = :key")
    directions = values("SELECT direction FROM study_directions WHERE study_id = :id ORDER BY objective")
    (count,) = values("SELECT count(*) FROM trials WHERE study_id = :id")
    params = values(
        "SELECT DISTINCT param_name FROM trial_params JOIN trials ON trial_params.trial_id = trials.trial_id "
        "WHERE trials.study_id = :id ORDER BY param_name"
    )
    if len(params) > MOST_PARAMETERS:
        params[MOST_PARAMETERS:] = [f"{len(params) - MOST_PARAMETERS} more"]
    over = f" over {', '.join(params)}" if params else ""
    described = f"{count} trial{'s' if count != 1 else ''}{over}, {' and '.join(map(str.lower, directions))}"
    return StudyFound(identity[0].strip('"') if identity else None, described)
