"""A study folder, a cache or a file of theirs that cannot be used is refused before any work."""

import os
import sqlite3
from pathlib import Path

import pytest
from small_studies import NAME, core, everything, fake, kept, options, results

from autodistill.errors import StoreError
from autodistill.store import cache_root, check_folder
from autodistill.study import resolve

pytestmark = pytest.mark.slow

FILES = ["study.json", "space.toml", "study.db", "lock"]


def refused(message: str, *, study: str = "") -> None:
    before = everything(Path(), cache_root())
    with pytest.raises(StoreError, match=message) as found:
        resolve(options(study=study))
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
    """Tests run as root too, who may do everything: what the system says is made up."""
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
    check_folder(tmp_path, writable=False)
    with pytest.raises(StoreError, match="cannot be written"):
        check_folder(tmp_path)


def test_a_result_that_cannot_be_read_is_named(done):
    path = results(Path())[0]
    content = path.read_bytes()
    Path("runs", NAME, "study.json").unlink()
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match=rf"{path.name}: cannot be read \(Is a directory\)"):
        fake(options())
    path.rmdir()
    path.write_bytes(content)
    assert core(fake(options())) == core(done)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not whole JSON"),
        (b'{"schema_version": 2, "name"', "not whole JSON"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b"[]", "not a study record"),
        (b'{"name": "mine"}', "not a study record"),
        (b'{"schema_version": 99}', "schema_version 99, this autodistill reads up to 2"),
        (b'{"schema_version": 2}', "name: Field required"),
        (b'{"schema_version": 2, "kind": "comparison", "studies": []}', "compares several students"),
    ],
)
def test_a_damaged_or_foreign_record_is_refused_and_nothing_is_lost(done, content, message):
    path = Path("runs", NAME, "study.json")
    whole = path.read_bytes()
    path.write_bytes(content)
    refused(rf"^{path}: {message}")
    assert path.read_bytes() == content
    path.write_bytes(whole)
    assert fake(options()) == done


def test_a_record_with_a_damaged_space_is_refused(done):
    path = Path("runs", NAME, "study.json")
    path.write_text(path.read_text().replace('"batch_size":', '"batch_sise":'))
    refused(rf"^{path}: space: damaged")


def test_a_study_of_version_1_can_be_shown_but_not_continued(repository):
    path = Path("runs", NAME, "study.json")
    path.parent.mkdir(parents=True)
    path.write_bytes((repository / "tests" / "files" / "study-version-1.json").read_bytes())
    refused(rf"^{path}: was made by an older autodistill: it can be shown and reported, not continued")
    assert kept().schema_version == 2, "read as a record of today"


def test_a_folder_of_version_1_without_a_record_is_refused():
    path = Path("runs", NAME, "identity.json")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    refused(rf"^runs/{NAME}: holds a study of an older autodistill")


def test_an_own_database_of_another_version_is_made_again(done):
    said = []
    Path("runs", NAME, "study.json").unlink()
    with sqlite3.connect(Path("runs", NAME, "study.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v9.0.0.a'")
    connection.close()
    again = fake(options(), lambda event: said.append(getattr(event, "text", "")))
    assert core(again) == core(done)
    assert Path("runs", NAME, "study.db.old").exists()
    assert any("v9.0.0.a" in it and "moved to study.db.old and written again" in it for it in said)
