"""Databases that are not ours: of another Optuna version, with a study of the user's own, or no database at all.

Nothing is written to them, and the error names what is there and what to do.
"""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from search_runs import FOUR, Trainer, question
from search_runs import run as run_search
from small_studies import NAME, request

from autodistill import storage as storage_module
from autodistill.errors import AutodistillError, StoreError, VersionError
from autodistill.records import Event, Note
from autodistill.search import Outcome, refuse_foreign, search
from autodistill.search.opening import IDENTITY, set_aside
from autodistill.storage import close_storage, find_study, holds_study, open_storage
from autodistill.storage.looking import describe, revisions
from autodistill.study import prepare

slow = pytest.mark.slow

SCHEMAS = {
    "older": (12, "2.10.1", "v2.6.0.a"),
    "newer": (12, "9.0.0", "v9.0.0.a"),
    "before revisions were counted": (11, "0.8.0", None),
}
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


def write(url: str, *statements: str) -> None:
    with engine_of(url).begin() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))


def of_version(url: str, schema: int, library: str, revision: str | None, *, name: str = NAME) -> None:
    write(
        url,
        *TABLES.split(";"),
        f"INSERT INTO studies VALUES (1, '{name}')",
        "INSERT INTO study_directions VALUES (1, 'MINIMIZE', 1, 0)",
        f"INSERT INTO version_info VALUES (1, {schema}, '{library}')",
        "INSERT INTO trials VALUES (1, 0, 1, 'COMPLETE')",
    )
    if revision is not None:
        write(
            url,
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
            f"INSERT INTO alembic_version VALUES ('{revision}')",
        )


def contents(url: str) -> dict[str, list[tuple[Any, ...]]]:
    with engine_of(url).connect() as connection:
        tables = sqlalchemy.inspect(connection).get_table_names()
        return {
            table: sorted(
                (tuple(row) for row in connection.execute(sqlalchemy.text(f"SELECT * FROM {table}"))), key=str
            )
            for table in tables
        }


@pytest.fixture(params=["sqlite", pytest.param("server", marks=slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "server":
        name = "".join(it if it.isalnum() else "_" for it in request.node.name.lower())
        return str(request.getfixturevalue("postgres").fresh(name[-50:]))
    return f"sqlite:///{tmp_path}/kd.db"


def refused(call: Callable[[], object]) -> AutodistillError:
    with pytest.raises(StoreError) as found:
        call()
    assert found.value.exit_code == 2
    return found.value


def searching(url: str, *, name: str = NAME) -> Callable[[], object]:
    asked = question(*FOUR)._replace(name=name, identity="ours")
    return lambda: list(search(asked, Outcome(), run=Trainer(), database=url))


@pytest.mark.parametrize("case", SCHEMAS)
def test_a_database_of_another_optuna_version_is_refused_and_left_as_it_is(case, url):
    schema, library, revision = SCHEMAS[case]
    of_version(url, schema, library, revision)
    before = contents(url)
    calls: list[Callable[[], object]] = [
        lambda: open_storage(url),
        lambda: holds_study(url, NAME),
        lambda: prepare(request(storage=url)),
        searching(url),
    ]
    for call in calls:
        error = refused(call)
        assert isinstance(error, VersionError)
        assert f"made by Optuna {library} (revision {revision or 'none'})" in error.message
        assert f"here is Optuna {optuna.__version__} (revision {revisions()[0]})" in error.message
        assert ("optuna storage upgrade --storage" in error.hint) == (case != "newer")
        assert ("install that Optuna" in error.hint) == (case == "newer")
        assert contents(url) == before


def test_the_newest_known_revision_is_that_of_a_fresh_database(url):
    close_storage(open_storage(url))
    assert contents(url)["alembic_version"] == [(revisions()[0],)]
    assert not holds_study(url, NAME)


def test_tables_that_another_process_is_creating_are_no_other_version(url):
    """It creates `studies` first, then its version, then the number of its revision."""
    write(url, "CREATE TABLE studies (study_id INTEGER PRIMARY KEY, study_name VARCHAR(512))")
    assert not holds_study(url, NAME)
    write(
        url, "CREATE TABLE version_info (version_info_id INTEGER, schema_version INTEGER, library_version VARCHAR(9))"
    )
    assert not holds_study(url, NAME)
    write(url, "INSERT INTO version_info VALUES (1, 12, '5.0.0')")
    assert not holds_study(url, NAME)


def test_a_table_of_another_program_is_refused(url):
    write(
        url,
        "CREATE TABLE studies (id INTEGER PRIMARY KEY, patient VARCHAR(80))",
        "INSERT INTO studies VALUES (1, 'x')",
    )
    before = contents(url)
    for call in (lambda: open_storage(url), lambda: prepare(request(storage=url)), searching(url)):
        assert "its table studies is not Optuna's: it has no column study_id" in refused(call).message
        assert contents(url) == before


FOREIGN = {
    "same direction": ["maximize"],
    "other direction": ["minimize"],
    "two objectives": ["maximize", "minimize"],
}


def users_study(url: str, directions: list[str], *, name: str = NAME, trials: int = 3) -> None:
    """A study as a user's own script makes it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(url)
    study = optuna.create_study(storage=storage, study_name=name, directions=directions)
    study.set_user_attr("owner", "somebody")

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        found = trial.suggest_float("lr", 1e-4, 1.0, log=True) + trial.suggest_int("depth", 1, 4)
        return (found,) * len(directions)

    study.optimize(objective, n_trials=trials)
    close_storage(storage)


@pytest.mark.parametrize("case", FOREIGN)
def test_a_study_of_the_users_own_is_refused_and_left_as_it_is(case, url):
    users_study(url, FOREIGN[case])
    before = contents(url)
    for call in (lambda: prepare(request(storage=url)), searching(url)):
        error = refused(call)
        assert f"holds a study by the name of {NAME} that autodistill did not make" in error.message
        assert f"(3 trials over depth, lr, {' and '.join(FOREIGN[case])})" in error.message
        assert "--study NAME" in error.hint
        assert contents(url) == before
    assert prepare(request(storage=url, study="another")).folder.path.name == "another"


def test_a_study_of_the_users_own_in_a_journal_is_refused_and_left_as_it_is(tmp_path):
    url, path = f"journal:{tmp_path}/kd.log", tmp_path / "kd.log"
    users_study(url, ["minimize"])
    before = path.read_bytes()
    for call in (lambda: prepare(request(storage=url)), searching(url)):
        assert "3 trials over depth, lr, minimize" in refused(call).message
        assert path.read_bytes() == before


def test_an_empty_study_is_the_users_own_unless_its_tasks_are_there(file):
    users_study(file, ["maximize"], trials=0)
    refused(lambda: refuse_foreign(file, NAME, identity="ours", board=f"{NAME}/tasks"))
    storage = open_storage(file)
    optuna.create_study(storage=storage, study_name="begun", direction="maximize")
    optuna.create_study(storage=storage, study_name="begun/tasks", direction="maximize")
    close_storage(storage)
    refuse_foreign(file, "begun", identity="ours", board="begun/tasks")


def test_a_study_of_the_users_own_under_the_name_of_the_tasks_is_refused(file):
    users_study(file, ["minimize"], name=f"{NAME}/tasks")
    assert f"by the name of {NAME}/tasks" in refused(lambda: prepare(request(storage=file))).message


def test_another_study_of_autodistills_is_refused(url):
    searching(url)()
    before = contents(url)
    other = question(*FOUR)._replace(name=NAME, identity="theirs")
    error = refused(lambda: list(search(other, Outcome(), run=Trainer(), database=url)))
    assert f"holds another study by the name of {NAME}" in error.message
    assert contents(url) == before
    found = find_study(url, NAME)
    assert found is not None
    assert found.attrs[IDENTITY] == "ours"
    searching(url)()


@pytest.mark.parametrize("kind", ["sqlite:///", "journal:"])
@pytest.mark.parametrize("content", [b"no database\n" * 99, b'{"op_code": 99}\n', b"5\n", bytes(range(256))])
def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(kind, content, tmp_path):
    path = tmp_path / "kd.db"
    path.write_bytes(content)
    url = f"{kind}{path}"
    for call in (lambda: open_storage(url), lambda: prepare(request(storage=url)), searching(url)):
        error = refused(call)
        assert str(path) in error.message
        assert path.read_bytes() == content
    assert [it.name for it in tmp_path.iterdir()] == ["kd.db"]


@pytest.mark.parametrize("kind", ["sqlite:///", "journal:"])
def test_a_folder_is_refused_and_so_is_a_file_in_no_folder(kind, tmp_path):
    assert "is a folder, not a file" in refused(lambda: prepare(request(storage=f"{kind}{tmp_path}"))).message
    nowhere = f"{kind}{tmp_path}/nowhere/kd.db"
    assert f"{tmp_path}/nowhere: no such folder" in refused(lambda: prepare(request(storage=nowhere))).message


@slow
def test_a_password_is_not_shown(monkeypatch, postgres):
    monkeypatch.setattr(storage_module, "other_schema", lambda _: storage_module.Schema("v0", "1.0", older=True))
    url = postgres.url.replace("postgresql://postgres:", "postgresql://postgres:hidden")
    error = refused(lambda: open_storage(url))
    assert "hidden" not in error.message + error.hint


def test_a_study_is_described_by_its_trials_parameters_and_directions():
    found = storage_module.StudyFound({}, ("minimize",), 1, ())
    assert describe(found) == "1 trial, minimize"
    many = found._replace(trials=7, params=tuple("abcdef"), directions=("maximize", "minimize"))
    assert describe(many) == "7 trials over a, b, c, d, 2 more, maximize and minimize"


def newer(path: Path) -> None:
    path.unlink()
    of_version(f"sqlite:///{path}", *SCHEMAS["newer"], name="a-study")


def older(path: Path) -> None:
    path.unlink()
    of_version(f"sqlite:///{path}", *SCHEMAS["older"], name="a-study")


def somebody_elses(path: Path) -> None:
    path.unlink()
    users_study(f"sqlite:///{path}", ["maximize"], name="a-study")


def of_two_objectives(path: Path) -> None:
    path.unlink()
    users_study(f"sqlite:///{path}", ["maximize", "minimize"], name="a-study")


def other_columns(path: Path) -> None:
    path.unlink()
    write(f"sqlite:///{path}", "CREATE TABLE studies (study_id INTEGER, study_name VARCHAR(9))")
    write(f"sqlite:///{path}", "CREATE TABLE trials (id INTEGER)")


def damaged_inside(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def columns(path: Path, table: str) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]


DAMAGE: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "newer": (newer, "old", "its tables were made by Optuna 9.0.0 (revision v9.0.0.a)"),
    "older": (older, "old", "its tables were made by Optuna 2.10.1 (revision v2.6.0.a)"),
    "no database": (lambda path: path.write_bytes(b"not a database " * 99) and None, "damaged", "not a database"),
    "somebody else's": (somebody_elses, "damaged", "holds trials of another study"),
    "two objectives": (of_two_objectives, "damaged", "(3 trials over depth, lr, maximize and minimize)"),
    "other columns": (other_columns, "damaged", "Record does not exist"),
    "damaged inside": (damaged_inside, "damaged", "malformed"),
    "cut": (cut, "damaged", "malformed"),
    "folder": (folder, "damaged", "is a folder, not a file"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Outcome, bytes]:
    path, trainer = tmp_path_factory.mktemp("whole") / "study.db", Trainer()
    outcome, _ = run_search(question(*FOUR), trainer, path)
    return trainer, outcome, path.read_bytes()


@pytest.mark.parametrize("case", DAMAGE)
def test_a_studys_own_database_that_cannot_be_used_is_set_aside_and_made_again(case, tmp_path, whole):
    trainer, outcome, content = whole
    damage, suffix, reason = DAMAGE[case]
    path, count = tmp_path / "study.db", len(trainer.asked)
    path.write_bytes(content)
    (tmp_path / f"study.db.{suffix}").write_bytes(b"an earlier one")
    damage(path)
    kept = path.read_bytes() if path.is_file() else b""
    again, events = run_search(question(*FOUR), trainer, path)
    assert again.trials == outcome.trials
    assert len(trainer.asked) == count, "results are kept"
    aside = tmp_path / f"study.db.{suffix}-2"
    if case == "other columns":  # Optuna adds its tables before it finds that these are not its own
        assert columns(aside, "studies") == ["study_id", "study_name"]
    else:
        assert aside.is_dir() if case == "folder" else aside.read_bytes().startswith(kept[:99])
    assert (tmp_path / f"study.db.{suffix}").read_bytes() == b"an earlier one"
    assert said(events)[0].startswith(f"{path}: ")
    assert reason in said(events)[0]
    assert said(events)[0].endswith(f"moved to {aside.name} and made again from the kept results")
    third, events = run_search(question(*FOUR), trainer, path)
    assert third.trials == outcome.trials
    assert said(events) == []


def said(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


def test_files_that_belong_to_a_database_go_with_it(tmp_path):
    for name in ("study.db", "study.db-wal", "study.db-shm"):
        (tmp_path / name).write_text(name)
    assert set_aside(tmp_path / "study.db", "old") == tmp_path / "study.db.old"
    (tmp_path / "study.db").write_text("next")
    assert set_aside(tmp_path / "study.db", "old") == tmp_path / "study.db.old-2"
    found = {it.name: it.read_text() for it in tmp_path.iterdir()}
    assert found == {
        "study.db.old": "study.db",
        "study.db.old-wal": "study.db-wal",
        "study.db.old-shm": "study.db-shm",
        "study.db.old-2": "next",
    }


def test_a_database_that_is_locked_is_not_set_aside(tmp_path, monkeypatch):
    def locked(_: object) -> None:
        raise sqlalchemy.exc.OperationalError("BEGIN IMMEDIATE", {}, Exception("database is locked"))

    run_search(question(*FOUR), Trainer(), tmp_path / "study.db")
    monkeypatch.setattr(storage_module, "_opened", locked)
    with pytest.raises(StoreError, match=r"study\.db: cannot be written \(database is locked\)"):
        run_search(question(*FOUR), Trainer(), tmp_path / "study.db")
    assert not list(tmp_path.glob("*.damaged"))
