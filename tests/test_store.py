import errno
import json
import os
import resource
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autodistill.errors import StoreError
from autodistill.records import EpochRecord, KeptResult, RunResult, RunSpec, RunTimes, TrialParams
from autodistill.store import (
    StudyFolder,
    cache_root,
    copy_from_sibling,
    differences,
    digest,
    locked,
    locked_study,
    read_result,
    seed_from,
    write_bytes,
    write_result,
    write_text,
    writing,
)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the system refuse to write more than `size` bytes into a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Hashes and seeds


def test_digests_are_those_of_the_json_text() -> None:
    # printf '%s' '[1, "a", {"b": [2.5, null], "c": "x"}]' | sha256sum | cut -c1-16
    assert digest(1, "a", {"c": "x", "b": (2.5, None)}) == "3620ab0abb186dcb"
    assert digest(1, "a") != digest("1a") != digest("1", "a")


def test_seeds_are_the_same_for_ever() -> None:
    # The first four bytes of SHA-256 over 16-byte little-endian numbers, halved.
    assert [seed_from(0), seed_from(1, 2), seed_from(2, 1), seed_from(-1)] == [
        2139366299,
        368683249,
        930161185,
        1246946093,
    ]


def test_seeds_of_neighbours_are_spread() -> None:
    seeds = [seed_from(seed, number) for seed in range(20) for number in range(50)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert sum(seeds) / 1000 / 2**31 == pytest.approx(0.5, abs=0.04)


# Writing


def write_half(path: Path, error: type[BaseException]) -> None:
    with writing(path) as temporary:
        temporary.write_text("half")
        raise error


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "x.json"
    write_text(path, "früher")
    assert path.read_text(encoding="utf-8") == "früher"
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            write_half(path, error)
    assert path.read_text(encoding="utf-8") == "früher"
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["x.json"]


@pytest.mark.parametrize("content", [b"x" * 5000, b""])
def test_the_new_file_is_not_seen_before_it_is_whole(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "x", []
    path.write_bytes(b"old")
    sync = os.fsync

    def look(descriptor: int) -> None:
        seen.append((path.read_bytes(), os.fstat(descriptor).st_size))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    write_bytes(path, content)
    assert seen == [(b"old", len(content))]
    assert path.read_bytes() == content


def test_a_write_that_the_system_refuses_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_bytes(path, b"old")
    with largest_file(1000), pytest.raises(StoreError) as caught:
        write_bytes(path, b"x" * 5000)
    assert caught.value.message == f"{path}: cannot be written (File too large)"
    assert "AUTODISTILL_CACHE" in caught.value.hint
    assert caught.value.exit_code == 2
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_disk_that_is_full_at_the_last_moment_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "x"
    write_bytes(path, b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    path = tmp_path / "file" / "below" / "x"
    with pytest.raises(StoreError, match=r"below/x: cannot be written \(Not a directory\)"):
        write_text(path, "x")
    with pytest.raises(StoreError, match=r"cannot be written \(Not a directory\)"), locked(path):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="Permission denied"):
        write_text(tmp_path / "x", "x")
    with pytest.raises(StoreError, match="Permission denied"), locked(tmp_path / "lock"):
        pass
    tmp_path.chmod(0o700)


# Locks


def test_a_study_s_folder_is_its_owner_s_alone_unless_it_was_shared_before(tmp_path: Path) -> None:
    def rights(folder: Path) -> int:
        return stat.S_IMODE(folder.stat().st_mode)

    made, shared = StudyFolder(tmp_path / "runs" / "made"), StudyFolder(tmp_path / "runs" / "shared")
    shared.path.mkdir(parents=True)
    shared.path.chmod(0o770)
    for folder, expected in ((made, 0o700), (shared, 0o770)):
        with locked_study(folder), pytest.raises(StoreError, match="in use"), locked_study(folder):
            pass
        assert rights(folder.path) == expected
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match=r"cannot be written \(Not a directory\)"),
        locked_study(StudyFolder(tmp_path / "file" / "x")),
    ):
        pass


def test_a_lock_is_held_by_one_and_given_back(tmp_path: Path) -> None:
    lock = tmp_path / "study" / "lock"
    with locked(lock), pytest.raises(StoreError) as caught, locked(lock, timeout_s=0):
        pass
    assert caught.value.message == f"{tmp_path}/study: in use by another autodistill process"
    assert "--study" in caught.value.hint
    with pytest.raises(ZeroDivisionError), locked(lock, timeout_s=0):
        raise ZeroDivisionError
    with locked(lock, timeout_s=0.0):
        pass


def test_who_comes_second_waits(tmp_path: Path) -> None:
    lock, order, started = tmp_path / "lock", [], threading.Event()

    def second() -> None:
        started.set()
        with locked(lock):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(lock):
        thread.start()
        started.wait()
        thread.join(0.1)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


# The study folder


def test_the_cache_lies_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"
    monkeypatch.delenv("AUTODISTILL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "theirs"))
    assert cache_root().name == "autodistill"


def test_everything_of_a_study_lies_below_its_folder(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "s")
    own = [folder.record, folder.space, folder.database, folder.lock]
    run = [folder.result("0a1b"), folder.checkpoint("0a1b"), folder.weights("0a1b")]
    assert len(set(own + run)) == 7
    assert all(path.is_relative_to(tmp_path / "s") for path in own + run)
    assert run[0] == tmp_path / "s" / "results" / "0a1b.json"


RUN = RunSpec(
    run="trials/0001/rung",
    params=TrialParams(teacher="wrn", method="ts", method_params={"tau": 4.0}, soft_weight=0.5),
    seed=3,
    epochs=3,
    rung=2,
    until=2,
)
CURVE = (
    EpochRecord(epoch=1, train_loss=0.1 + 0.2, hard_loss=1e-300),
    EpochRecord(epoch=2, train_loss=1 / 3, hard_loss=2.5, val_top1=0.7),
    EpochRecord(epoch=3, train_loss=1 / 3, hard_loss=2.5, val_top1=0.8, test_top1=0.75),
)
FULL = RUN.model_copy(update={"run": "trials/0001/full", "until": None, "begun_epochs": 2})
CONFIRM = RUN.model_copy(update={"run": "confirm/1", "rung": None, "until": None, "evaluate_on": "validation+test"})


def result(spec: RunSpec = RUN, *, key: str = "0a1b", epochs: int = 2, **more: Any) -> KeptResult:
    record = RunResult(**spec.kept(), key=key, state=more.pop("state", "complete"), curve=CURVE[:epochs])
    return KeptResult(result=record, **{"wall_s": 1.5, "parts_s": {"student": 1.5}, "views_computed": 2, **more})


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    assert read_result(folder, "0a1b") is None
    write_result(folder, result())
    assert read_result(folder, "0a1b") == result()
    assert read_result(folder, "0a1c") is None


def test_a_damaged_result_is_as_none(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    write_result(folder, result())
    path = folder.result("0a1b")
    whole = path.read_bytes()
    other = json.loads(whole)
    other["result"]["key"] = "0a1c"
    damaged = [b"", b"{}", b"null", b"\xff\xfe\x00", whole[:-3], whole[: len(whole) // 2], b"[" + whole]
    damaged += [whole.replace(b'"seed"', b'"sead"'), json.dumps(other).encode()]
    for content in damaged:
        path.write_bytes(content)
        assert read_result(folder, "0a1b") is None
    write_result(folder, result())
    assert read_result(folder, "0a1b") is not None


# One result for all runs of a key


def test_a_result_answers_its_own_run() -> None:
    found = result().answer(RUN)
    assert found == result()


def test_a_full_result_answers_its_rung_with_the_epochs_and_times_of_the_rung() -> None:
    rung = RunTimes(wall_s=0.5, parts_s={"student": 0.5}, views_computed=1)
    found = result(FULL, epochs=3, rung=rung).answer(RUN)
    assert (found.result.run, found.result.until, found.result.begun_epochs) == ("trials/0001/rung", 2, 0)
    assert found.result.curve == CURVE[:2]
    assert found.result.spent_epochs == 2
    assert (found.wall_s, found.parts_s, found.views_computed) == (0.5, {"student": 0.5}, 1)
    assert result(FULL, epochs=3).answer(RUN).wall_s == 0.0, "another run has taken that time"


def test_a_full_result_answers_a_full_run_without_the_test_score_that_was_not_asked_for() -> None:
    found = result(CONFIRM, epochs=3).answer(FULL)
    assert found.result.spent_epochs == 1, "the rung has paid for the others"
    assert [it.test_top1 for it in found.result.curve] == [None, None, None]
    assert found.result.val_top1 == 0.8
    assert result(CONFIRM, epochs=3).answer(CONFIRM).result.test_top1 == 0.75


def test_a_result_that_does_not_suffice_answers_nothing() -> None:
    assert result().answer(FULL) is None, "too short"
    unscored = result(FULL, epochs=3)
    last = CURVE[2].model_copy(update={"test_top1": None})
    curve = (*CURVE[:2], last)
    unscored = unscored.model_copy(update={"result": unscored.result.model_copy(update={"curve": curve})})
    assert unscored.answer(FULL) is not None
    assert unscored.answer(CONFIRM) is None, "no test score"
    assert result(CONFIRM, epochs=3).answer(RUN.model_copy(update={"rung": 1, "until": 1})) is None, "no score there"


def test_a_failure_answers_runs_that_end_after_it_only() -> None:
    failed = result(FULL, epochs=2, state="failed")
    assert failed.answer(FULL).result.state == "failed"
    rung = failed.answer(RUN)
    assert (rung.result.state, rung.result.error, rung.result.curve) == ("complete", "", CURVE[:2])


def test_files_of_a_key_are_copied_from_another_study(tmp_path: Path) -> None:
    mine, other, third = (StudyFolder(tmp_path / name) for name in ("mine", "other", "third"))
    write_result(third, result())
    assert copy_from_sibling(mine, "0a1b", FULL) is None, "it does not suffice"
    assert not mine.path.exists()
    write_result(other, result(FULL, epochs=3))
    write_bytes(other.weights("0a1b"), b"weights")
    write_bytes(other.checkpoint("0a1b"), b"checkpoint")
    found = copy_from_sibling(mine, "0a1b", FULL)
    assert found is not None
    assert (found.study, found.wall_s, found.views_computed) == ("other", 0.0, 0)
    assert read_result(mine, "0a1b") == found
    assert found.result == result(FULL, epochs=3).result
    assert mine.weights("0a1b").read_bytes() == b"weights"
    assert mine.checkpoint("0a1b").read_bytes() == b"checkpoint"
    assert copy_from_sibling(StudyFolder(tmp_path / "fourth"), "0a1c", FULL) is None


# Differences


def test_differences_name_key_and_values() -> None:
    there = {"student": "resnet8", "space": {"training": {"lr": 0.1, "epochs": 3}}, "teachers": {"a": "file:a.pt"}}
    asked = {"student": "vgg8", "space": {"training": {"epochs": 3, "lr": 0.2}}, "teachers": {"b": "x"}}
    assert list(differences(there, asked)) == [
        "space.training.lr: there 0.1, asked for 0.2",
        "student: there 'resnet8', asked for 'vgg8'",
        "teachers.a: there 'file:a.pt', asked for None",
        "teachers.b: there None, asked for 'x'",
    ]
    assert list(differences(there, json.loads(json.dumps(there)))) == []
    (long,) = differences({"a": "x" * 1000}, {"a": "y"})
    assert len(long) < 250
