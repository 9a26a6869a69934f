"""Databases as other programs, other versions of Optuna and users leave them."""

from typing import Any

import optuna
import sqlalchemy

from autodistill.searching.database import close_storage, open_storage

NAME = "a-study"
SCHEMAS = {
    "older": (12, "2.10.1", "v2.6.0.a"),
    "newer": (12, "9.0.0", "v9.0.0.a"),
    "before revisions were counted": (11, "0.8.0", None),
}
"""Schema version, version of Optuna and revision, as databases hold them."""
# As optuna/storages/_rdb/models.py of version 2.10.1 has them, as far as a look needs them.
TABLES = """
CREATE TABLE studies (study_id INTEGER NOT NULL PRIMARY KEY, study_name VARCHAR(512) NOT NULL);
CREATE TABLE version_info (version_info_id INTEGER NOT NULL PRIMARY KEY, schema_version INTEGER,
    library_version VARCHAR(256));
CREATE TABLE study_directions (study_direction_id INTEGER NOT NULL PRIMARY KEY, direction VARCHAR(8) NOT NULL,
    study_id INTEGER NOT NULL, objective INTEGER NOT NULL);
CREATE TABLE study_user_attributes (study_user_attribute_id INTEGER NOT NULL PRIMARY KEY, study_id INTEGER,
    key VARCHAR(512), value_json VARCHAR(2048));
CREATE TABLE trials (trial_id INTEGER NOT NULL PRIMARY KEY, number INTEGER, study_id INTEGER,
    state VARCHAR(8) NOT NULL);
CREATE TABLE trial_values (trial_value_id INTEGER NOT NULL PRIMARY KEY, trial_id INTEGER NOT NULL, objective INTEGER,
    value FLOAT NOT NULL, step INTEGER)
"""


def engine_of(url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(
        url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sqlalchemy.NullPool
    )


def execute(url: str, *statements: str) -> None:
    with engine_of(url).begin() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))


def of_version(url: str, case: str) -> None:
    """Make a database as another version of Optuna does."""
    schema, library, revision = SCHEMAS[case]
    execute(
        url,
        *TABLES.split(";"),
        f"INSERT INTO studies VALUES (1, '{NAME}')",
        "INSERT INTO study_directions VALUES (1, 'MINIMIZE', 1, 0)",
        f"INSERT INTO version_info VALUES (1, {schema}, '{library}')",
        "INSERT INTO trials VALUES (1, 0, 1, 'COMPLETE')",
    )
    if revision is not None:
        execute(
            url,
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
            f"INSERT INTO alembic_version VALUES ('{revision}')",
        )


def users_study(url: str, *directions: str, name: str = NAME, trials: int = 3) -> None:
    """Make a study as a user's own script does."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(url)
    study = optuna.create_study(storage=storage, study_name=name, directions=directions)
    study.set_user_attr("owner", "somebody")

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        found = trial.suggest_float("lr", 1e-4, 1.0, log=True) + trial.suggest_int("depth", 1, 4)
        return (found,) * len(directions)

    study.optimize(objective, n_trials=trials)
    close_storage(storage)


def contents(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables."""
    with engine_of(url).connect() as connection:
        tables = sqlalchemy.inspect(connection).get_table_names()
        return {
            table: sorted(
                (tuple(row) for row in connection.execute(sqlalchemy.text(f"SELECT * FROM {table}"))), key=str
            )
            for table in tables
        }


def count_of_trials(url: str) -> int:
    """Return the number of trials in a database, of all its studies."""
    with engine_of(url).connect() as connection:
        return int(connection.execute(sqlalchemy.text("SELECT count(*) FROM trials")).scalar_one())


def trials_in(url: str, name: str = NAME) -> list[optuna.trial.FrozenTrial]:
    """Return the trials of a study as Optuna's own function loads them."""
    storage = open_storage(url)
    try:
        return optuna.load_study(study_name=name, storage=storage).trials
    finally:
        close_storage(storage)
