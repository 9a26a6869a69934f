import errno
import json
import os
import resource
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autodistill.errors import StoreError
from autodistill.records import EpochRecord, RunEnded, RunRecord, TrialParams
from autodistill.store import (
    RunFolder,
    cache_root,
    claim,
    digest,
    locked,
    owned,
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

    made, shared = RunFolder(tmp_path / "runs" / "made"), RunFolder(tmp_path / "runs" / "shared")
    shared.path.mkdir(parents=True)
    shared.path.chmod(0o770)
    for folder, expected in ((made, 0o700), (shared, 0o770)):
        with owned(folder), pytest.raises(StoreError, match="in use"), owned(folder):
            pass
        assert rights(folder.path) == expected
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match=r"cannot be written \(Not a directory\)"),
        owned(RunFolder(tmp_path / "file" / "x")),
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


# The run folder


def test_the_cache_lies_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"
    monkeypatch.delenv("AUTODISTILL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "theirs"))
    assert cache_root().name == "autodistill"


def test_everything_of_a_study_lies_below_its_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "s")
    own = [folder.space, folder.identity, folder.environment, folder.record, folder.database, folder.lock]
    run = [folder.result("trials/0007/short"), folder.checkpoint("trials/0007/short"), folder.weights("a")]
    assert len(set(own + run)) == 9
    assert all(path.is_relative_to(tmp_path / "s") for path in own + run)
    assert run[0] == tmp_path / "s" / "trials" / "0007" / "short" / "result.json"


ENDED = RunEnded(
    record=RunRecord(
        run="trials/0001/short",
        params=TrialParams(teacher="wrn", rule="ts", rule_params={"tau": 4.0}, soft_weight=0.5),
        seed=3,
        epochs=2,
        state="complete",
        curve=(
            EpochRecord(epoch=1, train_loss=0.1 + 0.2, hard_loss=1e-300),
            EpochRecord(epoch=2, train_loss=1 / 3, hard_loss=2.5, val_top1=0.7),
        ),
    ),
    wall_s=1.5,
    views_computed=2,
)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert read_result(folder, ENDED.record.run) is None
    write_result(folder, ENDED)
    assert read_result(folder, ENDED.record.run) == ENDED.model_copy(update={"reused": True})
    assert read_result(folder, "trials/0002/short") is None


def test_a_damaged_result_is_as_none(tmp_path: Path) -> None:
    folder, run = RunFolder(tmp_path), ENDED.record.run
    write_result(folder, ENDED)
    path = folder.result(run)
    whole = path.read_bytes()
    other = json.loads(whole)
    other["record"]["run"] = "trials/0002/short"
    damaged = [b"", b"{}", b"null", b"\xff\xfe\x00", whole[:-3], whole[: len(whole) // 2], b"[" + whole]
    damaged += [whole.replace(b'"seed"', b'"sead"'), json.dumps(other).encode()]
    for content in damaged:
        path.write_bytes(content)
        assert read_result(folder, run) is None
    write_result(folder, ENDED)
    assert read_result(folder, run) is not None


# Whose folder it is


IDENTITY = {"student": "resnet8", "space": {"training": {"lr": 0.1, "epochs": 3}}, "teachers": {"a": "file:a.pt"}}


def test_a_folder_belongs_to_the_study_that_came_first(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "s")
    claim(folder, IDENTITY)
    claim(folder, {**IDENTITY, "space": {"training": {"epochs": 3, "lr": 0.1}}})
    other = {**IDENTITY, "student": "vgg8", "space": {"training": {"lr": 0.2, "epochs": 3}}, "teachers": {"b": "x"}}
    with pytest.raises(StoreError) as caught:
        claim(folder, other)
    assert caught.value.message.splitlines() == [
        f"{folder.path}: belongs to another study:",
        "  space.training.lr: there 0.1, asked for 0.2",
        "  student: there 'resnet8', asked for 'vgg8'",
        "  teachers.a: there 'file:a.pt', asked for None",
        "  teachers.b: there None, asked for 'x'",
    ]
    assert "--study" in caught.value.hint
    claim(folder, IDENTITY)


def test_many_differences_are_counted(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    claim(folder, {f"key{number:02}": number for number in range(15)})
    with pytest.raises(StoreError) as caught:
        claim(folder, {f"key{number:02}": -1 for number in range(15)})
    assert caught.value.message.splitlines()[-2:] == ["  key11: there 11, asked for -1", "  and 3 more"]


def test_a_folder_that_cannot_say_whose_it_is_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    claim(folder, IDENTITY)
    whole = folder.identity.read_bytes()
    for content in (b"", whole[:-5], b"\xff"):
        folder.identity.write_bytes(content)
        with pytest.raises(StoreError, match=r"identity\.json: damaged"):
            claim(folder, IDENTITY)


def test_a_study_goes_on_where_its_images_were_moved_and_nowhere_else(tmp_path):
    folder = RunFolder(tmp_path / "study")
    folder.path.mkdir()

    def of(name: str, data: str, epochs: int = 3) -> dict[str, object]:
        return {"data": data, "space": {"data": {"name": name, "root": ""}, "training": {"epochs": epochs}}}

    claim(folder, of("folder:/here", "abc"))
    claim(folder, of("folder:/there", "abc"))
    with pytest.raises(
        StoreError, match=r"data: there 'abc', asked for 'def'\n  space\.data\.name: there 'folder:/here'"
    ):
        claim(folder, of("folder:/there", "def"))
    with pytest.raises(StoreError, match=r"another study:\n  space\.training\.epochs: there 3, asked for 4$"):
        claim(folder, of("folder:/there", "abc", epochs=4))
