"""A run folder, a cache or a file of theirs that cannot be used is refused before any work."""

import os
from pathlib import Path

import pytest
from small_studies import NAME, core, drive, everything, kept, request, results

from autodistill.errors import StoreError
from autodistill.store import cache_root, demand_folder
from autodistill.study import prepare

pytestmark = pytest.mark.slow

FILES = ["study.json", "identity.json", "run.toml", "env.json", "plan.json", "carried.json", "study.db", "lock"]


def refused(message: str, *, study: str = "") -> None:
    before = everything(Path(), cache_root())
    with pytest.raises(StoreError, match=message) as found:
        prepare(request(study=study))
    assert found.value.exit_code == 2
    assert found.value.hint
    assert everything(Path(), cache_root()) == before


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_the_place_of_a_file_is_named(name):
    Path("runs", "mine", name).mkdir(parents=True)
    refused(rf"^runs/mine/{name}: cannot be read \(a folder, not a file\)", study="mine")


@pytest.mark.parametrize("place", ["runs", f"runs/{NAME}"])
def test_a_file_in_the_place_of_a_folder_is_named(place):
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).touch()
    refused(rf"^{place}: cannot be written \(a file, not a folder\)")


@pytest.mark.parametrize("place", [Path("runs"), Path("runs") / NAME])
@pytest.mark.parametrize(("allowed", "verb"), [(os.R_OK | os.X_OK, "written"), (os.X_OK, "read"), (0, "read")])
def test_a_folder_of_another_user_is_named(place, allowed, verb, monkeypatch):
    """As root, who may all, tests run too: what the system says is made up."""
    place.mkdir(parents=True)
    before = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: mode | allowed == allowed if Path(path) == place else before(path, mode)
    )
    refused(rf"^{place}: cannot be {verb} \(no permission\)")


def test_a_file_of_another_user_is_named(monkeypatch):
    path = Path("runs", NAME, "study.json")
    path.parent.mkdir(parents=True)
    path.touch()
    before = os.access
    monkeypatch.setattr(os, "access", lambda at, mode: Path(at) != path and before(at, mode))
    refused(rf"^{path}: cannot be read \(no permission\)")


@pytest.mark.parametrize("part", ["", "images", "ladder", "logits"])
def test_a_file_in_the_place_of_the_cache_is_named(part, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "cache" / part
    place.parent.mkdir(exist_ok=True)
    place.touch()
    refused(rf"^{place}: cannot be written \(a file, not a folder\)")


def test_a_cache_that_may_only_be_read_is_allowed(tmp_path, monkeypatch):
    before = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and before(path, mode))
    demand_folder(tmp_path, writable=False)
    with pytest.raises(StoreError, match="cannot be written"):
        demand_folder(tmp_path)


def test_a_result_that_cannot_be_read_is_named(finished):
    record, path = kept(), results(Path())[0]
    content = path.read_bytes()
    Path("runs", NAME, "study.json").unlink()
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match=rf"{path.name}: cannot be read \(Is a directory\)"):
        drive(request())
    path.rmdir()
    path.write_bytes(content)
    assert core(drive(request())) == core(record)


def test_an_own_database_of_another_version_is_made_again(finished):
    """The very study goes on as if nothing had been; what is said comes as a warning."""
    import sqlite3

    record, said = kept(), []
    Path("runs", NAME, "study.json").unlink()
    with sqlite3.connect(Path("runs", NAME, "study.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v9.0.0.a'")
    connection.close()
    again = drive(request(), lambda event: said.append(getattr(event, "text", "")))
    assert core(again) == core(record)
    assert Path("runs", NAME, "study.db.old").exists()
    assert any("revision v9.0.0.a" in it and "made again from the kept results" in it for it in said)
