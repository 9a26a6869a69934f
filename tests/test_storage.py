"""Addresses of databases show no secret; a database that goes away is waited for, one that was never there is not."""

import contextlib
import math
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import optuna
import pytest
import sqlalchemy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.storages._cached_storage import _CachedStorage as Cached
from search_runs import FOUR, Trainer, question, run

from autodistill import storage as storage_module
from autodistill.errors import ConfigError, StoreError, StudyError
from autodistill.search import Outcome, copy_study, search
from autodistill.search.keeping import KeptStudy
from autodistill.search.opening import unwritable
from autodistill.storage import checked, close_storage, holds_study, open_storage, patiently, redacted, scrubbed

pytestmark = pytest.mark.slow

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
    """The address shown is one of these whatever the password is: it cannot tell anything about it."""
    for secret in (password, quote(password, safe="")):
        for url in (
            f"postgresql://me:{secret}@db.example:5432/kd",
            f"postgresql://me@db.example:5432/kd?password={secret}",
        ):
            shown = redacted(url)
            assert shown in SHOWN or (password[:1] == "@" and shown.startswith("postgresql://me:***@")), shown


@settings(deadline=None)
@given(nasty.filter(lambda it: len(it) > 2))
def test_no_password_gets_through_in_what_a_driver_says(password):
    """A driver is only ever given an address that was found whole."""
    quoted = quote(password, safe="")
    for url in (f"postgresql://me:{quoted}@db.example/kd", f"postgresql://db.example/kd?password={quoted}"):
        said = scrubbed(f"refused: <{checked(url)}> <{quoted}> <{password}>", url)
        assert said.startswith("refused: <")
        assert password not in said.replace("***", "")
        assert quoted not in said.replace("***", "")


@settings(deadline=None)
@given(nasty)
def test_no_error_names_a_password(password):
    for url in (f"postgresql://me:{password}@db.example:1/kd", f"mysql://me:{password}@db/kd"):
        try:
            checked(url)
        except ConfigError as error:
            told = (error.message + error.hint).replace(redacted(url), "")
            assert len(password) < 6 or password not in told


def test_what_holds_no_secret_is_shown_whole():
    assert redacted("sqlite:///runs/a@b.db?timeout=3") == "sqlite:///runs/a@b.db"
    assert redacted("journal:/shared/kd.log") == "journal:/shared/kd.log"
    assert redacted("postgresql://db/kd") == "postgresql://db/kd"
    assert redacted("postgresql://me@[::1]:5432/kd") == "postgresql://me@[::1]:5432/kd"


@pytest.mark.parametrize(
    "url", ["mysql://u:secret@h/d", "runs/study.db", "redis://x", "postgresql://u:sec@ret@h/d", ""]
)
def test_an_unknown_kind_of_address_is_refused_with_what_is_allowed(url):
    with pytest.raises(ConfigError, match="allowed: postgresql://") as found:
        open_storage(url)
    assert "sec" not in found.value.message


def test_a_missing_driver_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(storage_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="needs the driver psycopg") as found:
        open_storage("postgresql://h/d")
    assert "kd-autodistill[postgres]" in found.value.hint


def test_a_server_that_is_not_there_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(storage_module, "START_S", 0.2)
    pytest.importorskip("psycopg")
    url = f"postgresql://me:hidden@/kd?host={tmp_path}"
    for ask in (open_storage, lambda it: holds_study(it, "x")):
        with pytest.raises(StoreError, match="cannot be used") as found:
            ask(url)
        assert "hidden" not in str(found.value)
    with pytest.raises(StoreError, match="cannot be used"):
        open_storage(f"sqlite:///{tmp_path}/nowhere/study.db")


def test_looking_for_a_study_creates_nothing(tmp_path):
    for url, path in ((f"sqlite:///{tmp_path}/a.db", "a.db"), (f"journal:{tmp_path}/a.log", "a.log")):
        assert not holds_study(url, "x")
        assert not (tmp_path / path).exists()
        storage = open_storage(url)
        assert not holds_study(url, "x")
        optuna.create_study(storage=storage, study_name="x")
        assert holds_study(url, "x")
        close_storage(storage)


def away(times: int):
    """A database that fails so often, then answers."""
    left = iter([*[True] * times, False])

    def call() -> str:
        if next(left):
            raise optuna.exceptions.StorageInternalError("wrapped") from sqlalchemy.exc.OperationalError(
                "q", {}, Exception("gone\nfor good")
            )
        return "here"

    return call


def test_a_moment_without_the_database_is_survived_and_said_once():
    said, slept = [], []
    assert patiently(away(8), say=said.append, sleep=slept.append) == "here"
    assert slept == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert said == ["the database does not answer (gone): trying again for up to 180 s"]


def test_a_database_that_stays_away_ends_the_command(monkeypatch):
    clock = map(float, range(0, 1000, 10))
    monkeypatch.setattr(storage_module, "time", SimpleNamespace(monotonic=clock.__next__))
    with pytest.raises(StudyError, match=r"stayed away for 60 s \(gone\)") as found:
        patiently(away(100), patience_s=60.0, sleep=lambda _: None)
    assert found.value.exit_code == 1
    assert "the same command" in found.value.hint


def test_an_error_that_waiting_does_not_mend_is_raised_at_once():
    with pytest.raises(ZeroDivisionError):
        patiently(lambda: 1 / 0)
    with pytest.raises(optuna.exceptions.StorageInternalError):
        patiently(away(1), patience_s=0.0)


def test_a_line_torn_by_a_kill_is_cut_from_a_journal(tmp_path):
    path = tmp_path / "kd.log"
    optuna.create_study(storage=open_storage(f"journal:{path}"), study_name="a").set_user_attr("long", "x" * 9000)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 4, "torn": "' + b"y" * 5000)
    study = optuna.load_study(storage=open_storage(f"journal:{path}"), study_name="a")
    study.set_user_attr("after", 1)
    assert path.read_bytes().startswith(whole + b'{"op_code"')
    assert b"torn" not in path.read_bytes()
    assert optuna.load_study(storage=open_storage(f"journal:{path}"), study_name="a").user_attrs["after"] == 1


def test_a_full_disk_is_a_database_that_is_away_to_a_journal(tmp_path, monkeypatch):
    """The line that did not fit is cut off, the next one is whole."""
    study = optuna.create_study(storage=open_storage(f"journal:{tmp_path}/kd.log"), study_name="a")
    monkeypatch.setattr(storage_module, "PATIENCE_S", 0.05)
    with limited(tmp_path / "kd.log", more=20), pytest.raises(StudyError, match=r"stayed away .*File too large"):
        patiently(lambda: study.set_user_attr("long", "x" * 9000))
    study.set_user_attr("short", 1)
    assert optuna.load_study(storage=study._storage, study_name="a").user_attrs == {"short": 1}


@contextlib.contextmanager
def limited(path: Path, *, more: int) -> Iterator[None]:
    """Let a file grow by so many bytes only: what a full disk refuses is refused by the same calls."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_a_database_says_of_its_disk_reaches_its_owner(tmp_path):
    """Optuna's own words are of invalid data."""
    wrapped = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    wrapped.__cause__ = sqlalchemy.exc.OperationalError("q", {}, Exception("database or disk is full"))
    assert unwritable(tmp_path / "study.db", wrapped).message.endswith("cannot be written (database or disk is full)")


def test_a_copy_of_a_study_goes_on_as_the_study_would(tmp_path):
    """It was interrupted with a trial open; the study itself stays as it is."""
    url, asked = f"sqlite:///{tmp_path}/kd.db", question("weak", "mid", budget="14")
    whole, _ = run(asked, Trainer(), tmp_path / "study.db")
    trainer = Trainer(dies_after=6)
    with pytest.raises(KeyboardInterrupt):
        list(search(asked, Outcome(), run=trainer, database=url))
    trainer.dies_after = math.inf
    assert copy_study(asked, url, tmp_path / "copy.db")
    outcome, _ = run(asked, trainer, tmp_path / "copy.db")
    assert outcome.trials == whole.trials
    storage = open_storage(url)
    left = optuna.load_study(storage=storage, study_name=asked.name).trials
    close_storage(storage)
    assert 0 < len(left) < len(whole.trials)
    assert not left[-1].state.is_finished()
    assert not copy_study(asked._replace(name="nobody's"), url, tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


def test_who_creates_a_database_at_the_same_moment_as_somebody_else_finds_it_made(monkeypatch):
    made, before, slept = [], storage_module.RDBStorage, []

    def beaten(*given, **named):
        if not made:
            made.append(True)
            raise sqlalchemy.exc.IntegrityError("CREATE TABLE studies", {}, Exception("duplicate key value"))
        return before(*given, **named)

    monkeypatch.setattr(storage_module, "RDBStorage", beaten)
    monkeypatch.setattr(storage_module.time, "sleep", slept.append)
    close_storage(open_storage("sqlite:///kd.db"))
    assert len(slept) == 1


@pytest.mark.parametrize("after_the_look", [False, True])
def test_a_trial_that_somebody_wrote_in_the_same_moment_is_written_once(tmp_path, monkeypatch, after_the_look):
    """Who has just lost the study asks for the same; what was written second comes later, as a replicate."""
    asked = question("weak", "mid", budget="14")
    whole, _ = run(asked, Trainer(), tmp_path / "study.db")
    create, write, raced = Cached.create_new_trial, KeptStudy.write, []

    def writing(study, number, **named):
        if number == 3 and not raced and not after_the_look:
            raced.append(create(study._kept._storage, study._kept._study_id, study.trials()[3]))
        write(study, number, **named)

    def creating(storage, study, template_trial):
        if template_trial.number == 3 and not raced:
            raced.append(create(storage, study, template_trial))
        return create(storage, study, template_trial)

    monkeypatch.setattr(KeptStudy, "write", writing)
    monkeypatch.setattr(Cached, "create_new_trial", creating)
    outcome, _ = run(asked, Trainer(), tmp_path / "raced.db")
    assert len(raced) == 1
    if after_the_look:
        assert outcome.trials[:4] == whole.trials[:4]
        assert outcome.trials[4].replicate_of == 3
        assert "running" not in {trial.state for trial in outcome.trials}
        assert outcome.spent_epochs <= asked.plan.total_epochs
    else:
        assert outcome.trials == whole.trials


def storages(tmp_path: Path, postgres) -> dict[str, str]:
    return {"journal": f"journal:{tmp_path}/kd.log", "sqlite": f"sqlite:///{tmp_path}/kd.db", "server": postgres.url}


def test_the_search_is_the_same_on_every_storage(tmp_path, postgres):
    first, _ = run(question(*FOUR), Trainer(), tmp_path / "study.db")
    for name, url in storages(tmp_path, postgres).items():
        asked = question(*FOUR)._replace(name=f"same-{name}", identity="ours")
        outcome = Outcome()
        list(search(asked, outcome, run=Trainer(), database=url))
        assert outcome.trials == first.trials
        with pytest.raises(StoreError, match="holds another study by the name of same") as found:
            list(search(asked._replace(identity="theirs"), Outcome(), run=Trainer(), database=url))
        assert found.value.exit_code == 2


def test_a_search_survives_a_restart_of_its_database(postgres, tmp_path):
    first, _ = run(question(*FOUR), Trainer(), tmp_path / "study.db")
    trainer, outcome, restarts = Trainer(), Outcome(), 0
    asked = question(*FOUR)._replace(name="restarted")
    notes = []
    for number, event in enumerate(search(asked, outcome, run=trainer, database=postgres.url)):
        if number == 14:
            postgres.stop()
            postgres.start()
            restarts += 1
        notes += [event.text] if event.__class__.__name__ == "Note" else []
    assert restarts == 1
    assert outcome.trials == first.trials
    assert not notes, "it was there again at the second call"


def test_importing_the_command_line_imports_no_driver():
    code = "import sys, autodistill.cli; print('psycopg' in sys.modules, 'sqlalchemy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False False"
