"""Addresses show no password; databases that hold something else are refused, and nothing is written to them."""

import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import optuna
import pytest
import sqlalchemy
from databases import NAME, SCHEMAS, contents, execute, of_version, users_study
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autodistill.errors import ConfigError, StoreError, VersionError
from autodistill.searching import Mirror, refuse_foreign
from autodistill.searching import database as database_module
from autodistill.searching.database import (
    check_address,
    close_storage,
    find_study,
    open_storage,
    reason_of,
    redacted,
    revisions,
    scrubbed,
)
from autodistill.store import StudyFolder
from autodistill.study.resolve import check_places

SHOWN = {
    "postgresql://me:***@db.example:5432/kd",
    "postgresql://me@db.example:5432/kd?***",
    "postgresql://me:@db.example:5432/kd",
    "postgresql://***",
}
nasty = st.text(st.sampled_from("@:/?#%&=[]+ \n\\'\"$aZ0é"), max_size=8) | st.text(max_size=12)


@settings(deadline=None)
@given(nasty)
@example("p@evil.example/x?")
@example("123?x@h")
@example("pa/ss")
@example(":@")
def test_no_password_is_ever_shown(password):
    """The address that is shown is one of a few, whatever the password is."""
    for secret in (password, quote(password, safe="")):
        for url in (
            f"postgresql://me:{secret}@db.example:5432/kd",
            f"postgresql://me@db.example:5432/kd?password={secret}",
        ):
            shown = redacted(url)
            assert shown in SHOWN or (password[:1] == "@" and shown.startswith("postgresql://me:***@")), shown


@settings(deadline=None)
@given(nasty.filter(lambda it: len(it) > 2))
def test_no_password_passes_in_a_message_of_a_driver(password):
    """A driver is only ever given a valid address."""
    quoted = quote(password, safe="")
    for url in (f"postgresql://me:{quoted}@db.example/kd", f"postgresql://db.example/kd?password={quoted}"):
        check_address(url)
        said = scrubbed(f"refused: <{url}> <{quoted}> <{password}>", url)
        assert said.startswith("refused: <")
        assert password not in said.replace("***", "")
        assert quoted not in said.replace("***", "")


def refusal(url: str) -> str:
    """Return the error about an address, without the address; empty: there is none."""
    try:
        check_address(url)
    except ConfigError as error:
        return (error.message + error.hint).replace(redacted(url), "")
    return ""


@settings(deadline=None)
@given(nasty)
@example("allowed")
def test_no_error_names_a_password(password):
    """A password that is a word of the error itself is not named by it."""
    own_words = refusal("mysql://db/kd")
    assert "allowed" in own_words
    for url in (f"postgresql://me:{password}@db.example:1/kd", f"mysql://me:{password}@db/kd"):
        assert len(password) < 6 or password in own_words or password not in refusal(url)


def test_an_address_without_a_secret_is_shown_whole():
    assert redacted("sqlite:///runs/a@b.db?timeout=3") == "sqlite:///runs/a@b.db"
    assert redacted("postgresql://db/kd") == "postgresql://db/kd"
    assert redacted("postgresql://me@[::1]:5432/kd") == "postgresql://me@[::1]:5432/kd"


@pytest.mark.parametrize(
    "url", ["mysql://u:secret@h/d", "runs/study.db", "redis://x", "postgresql://u:sec@ret@h/d", "", "journal:kd.log"]
)
def test_an_unknown_kind_of_address_is_refused_with_what_is_allowed(url):
    for call in (open_storage, lambda it: refuse_foreign(it, NAME), _mirror):
        with pytest.raises(ConfigError, match="allowed: postgresql://") as found:
            call(url)
        assert "sec" not in found.value.message


def _mirror(url, identity="ours"):
    return Mirror(url, name=NAME, identity=identity, say=lambda _: None)


def test_a_missing_driver_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="needs the driver psycopg") as found:
        open_storage("postgresql://h/d")
    assert "kd-autodistill[postgres]" in found.value.hint


def test_a_server_that_is_not_there_is_reported_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(database_module, "START_S", 0.2)
    pytest.importorskip("psycopg")
    url = f"postgresql://me:hidden@/kd?host={tmp_path}"
    for call in (open_storage, lambda it: find_study(it, "x"), _mirror):
        with pytest.raises(StoreError, match="cannot be used") as found:
            call(url)
        assert found.value.exit_code == 2
        assert "hidden" not in str(found.value) + found.value.hint
        assert "start the database" in found.value.hint
    with pytest.raises(StoreError, match="cannot be used"):
        open_storage(f"sqlite:///{tmp_path}/nowhere/study.db")


def test_looking_for_a_study_creates_nothing(tmp_path):
    url = f"sqlite:///{tmp_path}/a.db"
    assert find_study(url, "x") is None
    refuse_foreign(url, "x")
    assert list(tmp_path.iterdir()) == []
    storage = open_storage(url)
    assert find_study(url, "x") is None
    optuna.create_study(storage=storage, study_name="x")
    assert find_study(url, "x") is not None
    close_storage(storage)


def test_the_reason_of_an_error_is_the_driver_s():
    """Optuna's own message is about invalid data."""
    wrapped = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    wrapped.__cause__ = sqlalchemy.exc.OperationalError("q", {}, Exception("database or disk is full\nand more"))
    assert reason_of(wrapped) == "database or disk is full"


def test_importing_the_command_line_imports_no_driver():
    code = "import sys, autodistill.cli; print('psycopg' in sys.modules, 'sqlalchemy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False False"


def refusals(url):
    """Return the calls that meet a database before a study starts."""
    return (
        lambda: open_storage(url),
        lambda: refuse_foreign(url, NAME),
        lambda: check_places([StudyFolder(Path("runs", NAME))], storage=url),
        lambda: _mirror(url),
    )


def refused(call):
    with pytest.raises(StoreError) as found:
        call()
    assert found.value.exit_code == 2
    return found.value


@pytest.mark.parametrize("case", SCHEMAS)
def test_a_database_of_another_optuna_version_is_refused_and_left_as_it_is(case, url):
    _, library, revision = SCHEMAS[case]
    of_version(url, case)
    before = contents(url)
    for call in refusals(url):
        error = refused(call)
        assert isinstance(error, VersionError)
        assert f"made by Optuna {library} (revision {revision or 'none'})" in error.message
        assert f"here is Optuna {optuna.__version__} (revision {revisions()[0]})" in error.message
        assert ("optuna storage upgrade --storage" in error.hint) == (case != "newer")
        assert ("install that Optuna" in error.hint) == (case == "newer")
        assert contents(url) == before


def test_the_newest_known_revision_is_that_of_a_new_database(url):
    close_storage(open_storage(url))
    assert contents(url)["alembic_version"] == [(revisions()[0],)]
    assert find_study(url, NAME) is None


def test_tables_that_another_process_is_creating_are_no_other_version(url):
    """Optuna creates `studies` first, then writes its version, then its revision."""
    execute(url, "CREATE TABLE studies (study_id INTEGER PRIMARY KEY, study_name VARCHAR(512))")
    assert find_study(url, NAME) is None
    execute(
        url, "CREATE TABLE version_info (version_info_id INTEGER, schema_version INTEGER, library_version VARCHAR(9))"
    )
    assert find_study(url, NAME) is None
    execute(url, "INSERT INTO version_info VALUES (1, 12, '5.0.0')")
    assert find_study(url, NAME) is None


def test_a_table_of_another_program_is_refused(url):
    execute(
        url,
        "CREATE TABLE studies (id INTEGER PRIMARY KEY, patient VARCHAR(80))",
        "INSERT INTO studies VALUES (1, 'x')",
    )
    before = contents(url)
    for call in refusals(url):
        assert "its table studies is not Optuna's: it has no column study_id" in refused(call).message
        assert contents(url) == before


FOREIGN = {
    "same direction": ["maximize"],
    "other direction": ["minimize"],
    "two objectives": ["maximize", "minimize"],
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_study_of_the_user_is_refused_and_left_as_it_is(case, url):
    users_study(url, *FOREIGN[case])
    before = contents(url)
    for call in refusals(url)[1:]:
        error = refused(call)
        assert f"holds a study by the name of {NAME} that autodistill did not make" in error.message
        assert f"(3 trials over depth, lr, {' and '.join(FOREIGN[case])})" in error.message
        assert "--study" in error.hint
        assert contents(url) == before
    check_places([StudyFolder(Path("runs", "another"))], storage=url)


def test_an_empty_study_is_the_user_s_own(tmp_path):
    url = f"sqlite:///{tmp_path}/kd.db"
    users_study(url, "maximize", trials=0)
    refused(lambda: refuse_foreign(url, NAME, identity="ours"))


@pytest.mark.parametrize("content", [b"no database\n" * 99, b'{"op_code": 99}\n', b"5\n", bytes(range(256))])
def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(content, tmp_path):
    path = tmp_path / "kd.db"
    path.write_bytes(content)
    for call in refusals(f"sqlite:///{path}"):
        error = refused(call)
        assert str(path) in error.message
        assert path.read_bytes() == content
    assert [it.name for it in tmp_path.iterdir()] == ["kd.db"]


def test_a_folder_is_refused_and_so_is_a_file_in_no_folder(tmp_path):
    for call in refusals(f"sqlite:///{tmp_path}"):
        assert "is a folder, not a file" in refused(call).message
    for call in refusals(f"sqlite:///{tmp_path}/nowhere/kd.db"):
        assert f"{tmp_path}/nowhere: no such folder" in refused(call).message


@pytest.mark.slow
def test_a_password_is_not_shown_where_a_version_differs(postgres):
    url = postgres.fresh("hidden")
    of_version(url, "older")
    url = url.replace("postgresql://postgres:", "postgresql://postgres:hidden")
    error = refused(lambda: open_storage(url))
    assert "2.10.1" in error.message
    assert "hidden@" not in error.message + error.hint


@pytest.mark.parametrize(
    ("directions", "params", "trials", "expected"),
    [
        (["minimize"], "", 1, "1 trial, minimize"),
        (["maximize", "minimize"], "abcdef", 7, "7 trials over a, b, c, d, 2 more, maximize and minimize"),
    ],
)
def test_a_study_is_described_by_its_trials_parameters_and_directions(tmp_path, directions, params, trials, expected):
    url = f"sqlite:///{tmp_path}/kd.db"
    storage = open_storage(url)
    study = optuna.create_study(storage=storage, study_name=NAME, directions=directions)
    for _ in range(trials):
        trial = study.ask()
        for name in params:
            trial.suggest_float(name, 0, 1)
    close_storage(storage)
    assert find_study(url, NAME).description == expected


@pytest.mark.slow
def test_clients_that_create_the_tables_of_one_database_at_once_all_succeed(postgres):
    url = postgres.fresh("at_once")
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda _: close_storage(open_storage(url)), range(6)))
    assert contents(url)["alembic_version"] == [(revisions()[0],)]
