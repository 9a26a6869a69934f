"""What a database holds, found out without writing to it: the version of Optuna's tables, a study and its owner.

`optuna.storages.RDBStorage` creates missing tables and writes a version before it says that the database has another.
"""

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import optuna
import sqlalchemy
from optuna.storages import BaseStorage
from sqlalchemy import Connection, text

from autodistill.storage.journal import NotOptunas

FIRST_WITH_ALEMBIC = 12
"""Value of `version_info.schema_version` since Optuna keeps the version of its tables in `alembic_version`."""
COLUMNS = {"study_id", "study_name"}
"""Of Optuna's table `studies`, in every version."""
MOST_PARAMETERS = 4
"""Parameters of a foreign study that an error names."""


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


def read_only(path: str) -> sqlalchemy.Engine:
    """Return an engine that reads a SQLite file, and neither creates nor changes it."""
    address = f"file:{quote(str(Path(path).absolute()))}?mode=ro"
    return sqlalchemy.create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(address, uri=True, timeout=60),
        poolclass=sqlalchemy.pool.NullPool,
    )


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


def revisions() -> list[str]:
    """Return the versions of tables that the installed Optuna knows, the newest first."""
    from alembic.script import ScriptDirectory

    scripts = Path(optuna.storages.__file__).parent / "_rdb" / "alembic"
    return [it.revision for it in ScriptDirectory(str(scripts)).walk_revisions()]


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


def study_of(storage: BaseStorage, name: str) -> StudyFound | None:
    """Return a study of a storage that is read as a whole; None where it has no such study."""
    for study in storage.get_all_studies():
        if study.study_name == name:
            trials = storage.get_all_trials(study._study_id, deepcopy=False)
            params = sorted({param for trial in trials for param in trial.params})
            directions = tuple(direction.name.lower() for direction in study.directions)
            return StudyFound(study.user_attrs, directions, len(trials), tuple(params))
    return None


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
