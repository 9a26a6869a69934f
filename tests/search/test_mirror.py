"""The copy of the trials in a database: complete, made anew where it differs, and never in the way of the search."""

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from databases import NAME, contents, count_of_trials, execute, of_version, trials_in, users_study
from search_runs import Trainer, kill_after, search, search_spec

from autodistill.errors import StoreError, StudyError
from autodistill.records import PhaseStarted, TrialEnded
from autodistill.searching import Mirror, database
from autodistill.searching.database import close_storage, open_storage, redacted, set_aside

pytestmark = pytest.mark.slow
NAMES, BUDGET = ("weak", "mid"), "20"


@pytest.fixture(autouse=True)
def _eager(monkeypatch):
    """Write at every event, and wait little for a database that is away."""
    monkeypatch.setattr(database, "EVERY_S", 0.0)
    monkeypatch.setattr(database, "AGAIN_S", 0.2)
    monkeypatch.setattr(database, "SHARE", 0)
    monkeypatch.setattr(database, "BUSY_S", 0.1)


@pytest.fixture
def rarely(monkeypatch, _eager):
    """Write at the first event and at the end."""
    monkeypatch.setattr(database, "EVERY_S", 100.0)


@pytest.fixture(scope="module")
def calm():
    """An undisturbed search without a database."""
    return search(search_spec(*NAMES, budget=BUDGET))[0]


class Mirrored:
    """A search whose trials are copied to a database."""

    def __init__(
        self, place: Path | str, *, identity: str = "ours", recorded=(), trainer: Trainer | None = None
    ) -> None:
        self.said: list[str] = []
        self.copy = Mirror(place, name=NAME, identity=identity, say=self.said.append)
        self.trainer, self.spec = trainer or Trainer(), search_spec(*NAMES, budget=BUDGET, recorded=recorded)

    def search(self, watch=lambda *_: None):
        trials = []

        def watched(event, state):
            nonlocal trials
            trials = state.sampler.trials
            self.copy.write(trials)
            watch(event, state)

        try:
            return search(self.spec, self.trainer, watch=watched)[0]
        finally:
            self.copy.close(trials)


def seen(trials) -> list[tuple]:
    names = ("number", "state", "values", "params", "distributions", "intermediate_values", "user_attrs")
    return [tuple(getattr(trial, name) for name in names) for trial in trials]


def address(place: Path | str) -> str:
    return place if isinstance(place, str) else f"sqlite:///{place}"


@pytest.fixture(params=["own file", "sqlite", "server"])
def place(request, tmp_path) -> Path | str:
    """Where a study can have its copy."""
    if request.param == "own file":
        return tmp_path / "study.db"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/kd.db"
    name = "".join(it if it.isalnum() else "_" for it in request.node.name.lower())
    return request.getfixturevalue("postgres").fresh(f"m{name[-50:]}")


on_file_and_server = pytest.mark.parametrize("place", ["own file", "server"], indirect=True)


def study_id(place: Path | str) -> int:
    storage = open_storage(address(place))
    try:
        return storage.get_study_id_from_name(NAME)
    finally:
        close_storage(storage)


def test_the_copy_holds_all_trials_and_the_search_is_the_same(place, calm):
    mirrored = Mirrored(place)
    state = mirrored.search()
    assert (state.trials, state.finalists) == (calm.trials, calm.finalists)
    assert seen(trials_in(address(place))) == seen(calm.sampler.trials)
    assert {it.state.name for it in calm.sampler.trials} == {"COMPLETE", "PRUNED"}
    assert any(it.intermediate_values.keys() == {10, 30} for it in trials_in(address(place)))
    assert mirrored.said == []


def test_the_copy_follows_the_search(place):
    states = set()

    def watch(event, state):
        if isinstance(event, TrialEnded | PhaseStarted):
            copied = trials_in(address(place))
            assert seen(copied) == seen(state.sampler.trials)
            states.update(it.state.name for it in copied)

    Mirrored(place).search(watch)
    assert states == {"RUNNING", "COMPLETE", "PRUNED"}


def test_writes_are_seconds_apart_and_the_last_state_is_written(monkeypatch, tmp_path, calm):
    monkeypatch.setattr(database, "EVERY_S", 100.0)
    counts = []

    def watch(event, _):
        if isinstance(event, PhaseStarted):
            counts.append(len(trials_in(f"sqlite:///{tmp_path}/study.db")))

    Mirrored(tmp_path / "study.db").search(watch)
    assert counts == [1] * 4, "first stage, search, reruns, confirm"
    assert len(trials_in(f"sqlite:///{tmp_path}/study.db")) == len(calm.trials)


def test_a_resumed_search_goes_on_with_its_copy_and_never_shortens_it(place, calm):
    first, record = Mirrored(place), []
    with pytest.raises(KeyboardInterrupt):
        first.search(kill_after(24, record))
    before, id = len(trials_in(address(place))), study_id(place)
    assert before > 4
    resumed = Mirrored(place, recorded=record, trainer=first.trainer)
    counts = []
    state = resumed.search(lambda *_: counts.append(count_of_trials(address(place))))
    assert min(counts) == before
    assert state.trials == calm.trials
    assert seen(trials_in(address(place))) == seen(calm.sampler.trials)
    assert study_id(place) == id, "it was not made anew"
    assert resumed.said == []


def test_a_search_that_ends_before_its_first_trial_leaves_the_copy(place, rarely):
    Mirrored(place).search()
    before = contents(address(place))
    Mirrored(place).copy.close(())
    assert contents(address(place)) == before


CHANGES: dict[str, tuple[str, ...]] = {
    "a trial less": (  # first, while numbers of trials are known
        *(f"DELETE FROM {table} WHERE trial_id = 3" for table in ("trial_values", "trial_intermediate_values")),
        *(f"DELETE FROM {table} WHERE trial_id = 3" for table in ("trial_user_attributes", "trial_system_attributes")),
        "DELETE FROM trial_params WHERE trial_id = 3",
        "DELETE FROM trials WHERE trial_id = 3",
    ),
    "a state": ("UPDATE trials SET state = 'FAIL' WHERE number = 0",),
    "a value": ("UPDATE trial_values SET value = 0.123",),
    "a score": ("UPDATE trial_intermediate_values SET intermediate_value = 0.123",),
    "scores removed": ("DELETE FROM trial_intermediate_values",),
    "a parameter": ("UPDATE trial_params SET param_value = 0.25 WHERE param_name = 'soft_weight'",),
    "a reason": ("UPDATE trial_user_attributes SET value_json = '\"because\"' WHERE key = 'reason'",),
}
"""Changes that the next write finds."""
LATER_FOUND: dict[str, tuple[str, ...]] = {
    "a running trial": ("UPDATE trials SET state = 'FAIL' WHERE state = 'RUNNING'",),
    "a trial more": ("INSERT INTO trials (number, study_id, state) SELECT 99, study_id, 'WAITING' FROM studies",),
}
"""Changes by which a copy may be ahead of the search; a later write finds them."""


@on_file_and_server
def test_a_copy_that_somebody_changed_is_made_anew(place, calm):
    """One change after another, from the first pruned trial on, each of which the next write finds."""
    left, changed = list(CHANGES), ""

    def watch(_, state):
        nonlocal changed
        trials = state.sampler.trials
        if changed:
            assert seen(trials_in(address(place))) == seen(trials), changed
            changed = ""
        elif left and any(it.state.name == "PRUNED" for it in trials):
            changed = left.pop(0)
            execute(address(place), *CHANGES[changed])
            assert seen(trials_in(address(place))) != seen(trials), changed

    mirrored = Mirrored(place)
    assert mirrored.search(watch).trials == calm.trials
    assert (left, changed) == ([], "")
    assert seen(trials_in(address(place))) == seen(calm.sampler.trials)
    assert mirrored.said == []


@on_file_and_server
@pytest.mark.parametrize("change", LATER_FOUND)
def test_a_copy_that_is_not_ahead_but_changed_is_made_anew_in_the_end(change, place, calm):
    count = 0

    def watch(event, _):
        nonlocal count
        count += 1
        if count == 24:
            execute(address(place), *LATER_FOUND[change])

    mirrored = Mirrored(place)
    assert mirrored.search(watch).trials == calm.trials
    assert seen(trials_in(address(place))) == seen(calm.sampler.trials)
    assert mirrored.said == []


def test_a_finished_copy_that_somebody_changed_is_made_anew_by_the_next_process(place, calm, rarely):
    first = Mirrored(place)
    first.search()
    execute(address(place), *CHANGES["a value"])
    Mirrored(place, recorded=calm.trials, trainer=first.trainer).search()
    assert seen(trials_in(address(place))) == seen(calm.sampler.trials)


@on_file_and_server
@pytest.mark.parametrize("moment", [24, -1])
def test_a_study_that_somebody_deleted_is_written_again(moment, place, calm):
    count = 0

    def watch(event, _):
        nonlocal count
        count += 1
        last = isinstance(event, PhaseStarted) and event.phase == "confirm"
        if count == moment or (moment < 0 and last):
            storage = open_storage(address(place))
            optuna.delete_study(study_name=NAME, storage=storage)
            close_storage(storage)

    mirrored = Mirrored(place)
    assert mirrored.search(watch).trials == calm.trials
    assert seen(trials_in(address(place))) == seen(calm.sampler.trials)
    assert mirrored.said == []


def test_notes_of_users_stay(place):
    """The copy is only made anew where a trial differs."""

    def watch(event, _):
        if isinstance(event, PhaseStarted) and event.phase == "confirm":
            execute(
                address(place),
                "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (2, 'note', '\"mine\"')",
            )

    Mirrored(place).search(watch)
    assert trials_in(address(place))[1].user_attrs["note"] == "mine"


# Servers that go away


def test_a_server_that_is_away_costs_a_warning_and_the_copy_is_complete_when_it_is_back(postgres, calm):
    url, count, away = postgres.fresh("away"), 0, []

    def watch(*_):
        nonlocal count
        count += 1
        if count == 12:
            postgres.stop()
        if 12 < count < 34:
            away.append(len(mirrored.said))
            time.sleep(0.05)
        if count == 34:
            postgres.start()
            time.sleep(0.25)  # until the next attempt

    mirrored = Mirrored(url)
    assert mirrored.search(watch).trials == calm.trials
    shown = redacted(url)
    assert away[-1] == 1
    assert mirrored.said[0].startswith(f"{shown}: cannot be written (")
    assert mirrored.said[0].endswith("); the study goes on")
    assert mirrored.said[1:] == [f"{shown}: is back and up to date"]
    assert seen(trials_in(url)) == seen(calm.sampler.trials)


def test_a_search_does_not_wait_for_a_server_that_is_away(postgres, calm, monkeypatch):
    """A command that starts waits some seconds for its server. A study that runs does not."""
    url, count = postgres.fresh("no_waiting"), 0
    mirrored = Mirrored(url)
    monkeypatch.setattr(database, "START_S", 100.0)
    begun = time.monotonic()

    def watch(*_):
        nonlocal count
        count += 1
        if count == 20:
            postgres.stop()

    try:
        state = mirrored.search(watch)
        took = time.monotonic() - begun
    finally:
        postgres.start()
    assert state.trials == calm.trials
    assert took < database.START_S
    assert len(mirrored.said) == 1, "it said so once"
    Mirrored(url, recorded=state.trials, trainer=mirrored.trainer).search()
    assert seen(trials_in(url)) == seen(calm.sampler.trials)


def test_a_server_that_restarts_loses_nothing(postgres, calm):
    url, count = postgres.fresh("restarts"), 0

    def watch(*_):
        nonlocal count
        count += 1
        if count % 20 == 0:
            postgres.stop()
            postgres.start()

    assert Mirrored(url).search(watch).trials == calm.trials
    assert seen(trials_in(url)) == seen(calm.sampler.trials)


def test_no_password_is_shown_when_a_server_refuses_it(postgres):
    url = postgres.fresh("secret")
    execute(url, "CREATE ROLE me LOGIN PASSWORD 'hidden-one'")
    mine = url.replace("postgres:@", "me:hidden-one@")
    assert mine != url
    mirrored = Mirrored(mine)
    state = mirrored.search()  # `me` may not create tables
    assert len(mirrored.said) == 1
    assert "cannot be written" in mirrored.said[0]
    assert "hidden" not in mirrored.said[0]
    assert len(state.trials) > 4


# Other studies and other processes


@pytest.mark.parametrize("whose", ["user", "autodistill"])
def test_another_study_of_the_same_name_is_refused_and_nothing_is_written(whose, url, rarely):
    if whose == "user":
        users_study(url, "maximize")
    else:
        Mirrored(url, identity="theirs").search()
    before = contents(url)
    with pytest.raises(StoreError, match="study by the name of a-study") as found:
        Mirrored(url)
    assert found.value.exit_code == 2
    assert "give this study another name with --study" in found.value.hint
    assert contents(url) == before


def test_another_study_beside_it_is_left_alone(url, calm, rarely):
    users_study(url, "minimize", name="mine")
    before = seen(trials_in(url, "mine"))
    Mirrored(url).search()
    assert seen(trials_in(url)) == seen(calm.sampler.trials)
    assert seen(trials_in(url, "mine")) == before


def test_a_study_that_appears_while_teachers_are_trained_is_not_written_to(url, calm):
    """Minutes lie between the first look and the first write."""
    mirrored = Mirrored(url)
    users_study(url, "maximize")
    before = contents(url)
    assert mirrored.search().trials == calm.trials
    assert contents(url) == before
    assert len(mirrored.said) == 1
    assert "holds another study by the name of a-study" in mirrored.said[0]


def test_of_two_coordinators_the_older_one_stops(url):
    older, newer = Mirrored(url), Mirrored(url)
    count = 0

    def watch(_, state):
        nonlocal count
        count += 1
        if count == 20:
            newer.search()

    with pytest.raises(StudyError, match="another autodistill coordinates study a-study") as found:
        older.search(watch)
    assert count == 20
    assert found.value.exit_code == 1
    assert "every finished run is kept" in found.value.hint
    assert seen(trials_in(url)) == seen(search(newer.spec)[0].sampler.trials), "the older one wrote nothing more"


def test_the_older_coordinator_stops_after_its_server_was_away_too(postgres):
    """A new connection is no reason to take the study from the process that coordinates it by now."""
    url, count = postgres.fresh("two"), 0
    older, newer = Mirrored(url), Mirrored(url)

    def watch(*_):
        nonlocal count
        count += 1
        if count == 20:
            postgres.stop()
        if count == 30:
            postgres.start()
            newer.search()
            time.sleep(0.25)

    with pytest.raises(StudyError, match="another autodistill coordinates"):
        older.search(watch)
    assert {it.state.name for it in trials_in(url)} == {"COMPLETE", "PRUNED"}


def test_a_later_process_takes_the_study_over(place, rarely):
    first = Mirrored(place)
    first.search()
    attrs = _attrs(place)
    Mirrored(place, trainer=first.trainer).search()
    assert _attrs(place)[database.IDENTITY] == attrs[database.IDENTITY] == "ours"
    assert _attrs(place)[database.COORDINATOR] != attrs[database.COORDINATOR]


def _attrs(place):
    storage = open_storage(address(place))
    try:
        return optuna.load_study(study_name=NAME, storage=storage).user_attrs
    finally:
        close_storage(storage)


# A study's own file


def newer(path: Path) -> None:
    path.unlink()
    of_version(f"sqlite:///{path}", "newer")


def older(path: Path) -> None:
    path.unlink()
    of_version(f"sqlite:///{path}", "older")


def users_of_this_name(path: Path) -> None:
    path.unlink()
    users_study(f"sqlite:///{path}", "maximize", "minimize")


def users_of_another_name(path: Path) -> None:
    path.unlink()
    users_study(f"sqlite:///{path}", "minimize", name="mine")


def another_of_autodistill(path: Path) -> None:
    path.unlink()
    Mirrored(path, identity="theirs").search()


def another_beside(path: Path) -> None:
    users_study(f"sqlite:///{path}", "minimize", name="mine")


def of_another_program(path: Path) -> None:
    path.unlink()
    execute(f"sqlite:///{path}", "CREATE TABLE bookmarks (url TEXT)", "INSERT INTO bookmarks VALUES ('x')")


def other_columns(path: Path) -> None:
    path.unlink()
    execute(
        f"sqlite:///{path}",
        "CREATE TABLE studies (study_id INTEGER, study_name VARCHAR(9))",
        "CREATE TABLE trials (id INTEGER)",
    )


def damaged_inside(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)


def damaged_in_places(path: Path) -> None:
    execute(f"sqlite:///{path}", "UPDATE trial_params SET distribution_json = '{'", "UPDATE trials SET state = 'ODD'")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "newer": (newer, "old", "its tables were made by Optuna 9.0.0 (revision v9.0.0.a)"),
    "older": (older, "old", "its tables were made by Optuna 2.10.1 (revision v2.6.0.a)"),
    "no database": (lambda path: path.write_bytes(b"not a database " * 99), "damaged", "not a database"),
    "user's, of this name": (users_of_this_name, "damaged", "holds another study of this name"),
    "user's, of another name": (
        users_of_another_name,
        "damaged",
        "holds another study, mine (3 trials over depth, lr, minimize)",
    ),
    "another study of autodistill": (another_of_autodistill, "damaged", "holds another study of this name"),
    "another study beside it": (another_beside, "damaged", "holds another study, mine (3 trials"),
    "another program's": (of_another_program, "damaged", "its table bookmarks is not Optuna's"),
    "other columns": (other_columns, "damaged", "no such"),
    "damaged inside": (damaged_inside, "damaged", "malformed"),
    "damaged in places": (damaged_in_places, "damaged", ""),
    "cut": (cut, "damaged", "malformed"),
    "folder": (folder, "damaged", "is a folder, not a file"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Trainer, bytes]:
    """The results of a search, and its file."""
    path, trainer = tmp_path_factory.mktemp("whole") / "study.db", Trainer()
    mirrored = Mirrored(path, trainer=trainer)
    mirrored.search()
    return trainer, path.read_bytes()


@pytest.mark.parametrize("case", DAMAGE)
def test_an_own_file_that_cannot_be_used_is_set_aside_unchanged_and_written_again(case, tmp_path, whole, calm, rarely):
    trainer, content = whole
    damage, suffix, reason = DAMAGE[case]
    path, count = tmp_path / "study.db", len(trainer.trained)
    path.write_bytes(content)
    (tmp_path / f"study.db.{suffix}").write_bytes(b"an earlier one")
    damage(path)
    kept = path.read_bytes() if path.is_file() else b""
    mirrored = Mirrored(path, recorded=calm.trials, trainer=trainer)
    assert mirrored.search().trials == calm.trials
    assert len(trainer.trained) == count, "results are kept"
    aside = tmp_path / f"study.db.{suffix}-2"
    assert aside.is_dir() if case == "folder" else aside.read_bytes() == kept
    assert (tmp_path / f"study.db.{suffix}").read_bytes() == b"an earlier one"
    (said,) = mirrored.said
    assert said.startswith(f"{path}: ")
    assert reason in said
    assert said.endswith(f"moved to {aside.name} and written again")
    assert seen(trials_in(f"sqlite:///{path}")) == seen(calm.sampler.trials)
    again = Mirrored(path, recorded=calm.trials, trainer=trainer)
    again.search()
    assert again.said == []


def test_an_empty_own_file_is_used(tmp_path, calm, rarely):
    (tmp_path / "study.db").touch()
    mirrored = Mirrored(tmp_path / "study.db")
    mirrored.search()
    assert mirrored.said == []
    assert seen(trials_in(f"sqlite:///{tmp_path}/study.db")) == seen(calm.sampler.trials)


def test_an_own_file_that_somebody_removes_while_the_search_runs_is_written_again(tmp_path, calm):
    def watch(_, state):
        if len(state.trials) == 5:
            (tmp_path / "study.db").unlink(missing_ok=True)

    mirrored = Mirrored(tmp_path / "study.db")
    mirrored.search(watch)
    assert seen(trials_in(f"sqlite:///{tmp_path}/study.db")) == seen(calm.sampler.trials)


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


def test_an_own_file_that_is_locked_is_not_set_aside(tmp_path, calm):
    first = Mirrored(tmp_path / "study.db")
    first.search()
    before = contents(f"sqlite:///{tmp_path}/study.db")
    mirrored = Mirrored(tmp_path / "study.db", recorded=calm.trials, trainer=first.trainer)
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # in write-ahead mode readers are not locked out
        connection.execute("BEGIN EXCLUSIVE")
        assert mirrored.search().trials == calm.trials
    assert mirrored.said == [f"{tmp_path / 'study.db'}: cannot be written (database is locked); the study goes on"]
    assert [it.name for it in tmp_path.iterdir()] == ["study.db"]
    assert contents(f"sqlite:///{tmp_path}/study.db") == before


def test_an_own_file_in_no_folder_costs_a_warning(tmp_path, calm):
    mirrored = Mirrored(tmp_path / "nowhere" / "study.db")
    assert mirrored.search().trials == calm.trials
    assert mirrored.said == [
        f"{tmp_path}/nowhere/study.db: cannot be written (unable to open database file); the study goes on"
    ]


@pytest.mark.parametrize("name", ["50 % {done}", "why?", "a#b", "ü\u6559"])
def test_the_path_of_an_own_file_may_have_any_characters(name, tmp_path, calm, rarely):
    (tmp_path / name).mkdir()
    path = tmp_path / name / "study.db"
    mirrored = Mirrored(path)
    mirrored.search()
    assert mirrored.said == []
    assert [it.name for it in tmp_path.iterdir()] == [name]
    assert [it.name for it in (tmp_path / name).iterdir()] == ["study.db"]
    plain = path.rename(tmp_path / "plain.db")
    assert seen(trials_in(f"sqlite:///{plain}")) == seen(calm.sampler.trials)
