"""Decoded images are kept in one file: found again, shared, checked, and written by one process at a time."""

import errno
import hashlib
import io
import itertools
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_files import forbid_network, write_fashion, write_images
from PIL import Image

from autodistill.config import DataSpec
from autodistill.data import Data, from_worker, load, to_worker, with_validation
from autodistill.data import decoding as decoding_module
from autodistill.data import images as images_module
from autodistill.data.decoding import BOOT, serve
from autodistill.data.images import DamagedStore, open_store
from autodistill.data.views import View, take_view
from autodistill.errors import DataError, StoreError
from autodistill.store import locked


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_network(monkeypatch)


@pytest.fixture
def cache() -> Path:
    return Path(os.environ["AUTODISTILL_CACHE"]) / "images"


@pytest.fixture
def spec(tmp_path: Path) -> DataSpec:
    return DataSpec(name=f"folder:{write_images(tmp_path / 'pets', ('cat', 'dog'), count=25)}")


class Decoded:
    """Counts what `load` decodes, by its progress, and keeps what it says."""

    def __init__(self) -> None:
        self.images = 0
        self.lines: list[str] = []

    def load(self, spec: DataSpec) -> Data:
        self.images = 0
        self.lines.clear()
        return load(spec, progress=self._progress, say=self.lines.append)

    def _progress(self, done: int, total: int) -> None:
        assert 0 < done <= total
        self.images = done


@pytest.fixture
def decoded() -> Decoded:
    return Decoded()


def file_of(data: Data) -> Path:
    assert data.file is not None
    return data.file


def stores(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*.images"))


def pixels_by_file(folder: Path) -> dict[bytes, str]:
    """Independently of the package: decoded pixels to class."""
    return {np.asarray(Image.open(path)).tobytes(): path.parent.name for path in folder.glob("*/*.png")}


def oracle_fingerprint(data: Data) -> str:
    """As the fingerprint was defined when images were resident: every later version has to keep to it."""
    digest = hashlib.sha256()
    for images, labels in (data.train, data.validation, data.test):
        digest.update(f"{tuple(images.shape)};".encode())
        digest.update(np.ascontiguousarray(images.numpy()).tobytes())
        digest.update(labels.numpy().astype(np.int64).tobytes())
    return digest.hexdigest()


def test_images_are_decoded_once_and_found_again(spec: DataSpec, cache: Path, decoded: Decoded) -> None:
    once = decoded.load(spec)
    assert decoded.images == 50
    again = decoded.load(spec)
    assert decoded.images == 0
    assert once.file == again.file == stores(cache)[0]
    assert once.fingerprint == again.fingerprint == oracle_fingerprint(again)
    assert (once.mean, once.std, once.classes) == (again.mean, again.std, again.classes)
    files = pixels_by_file(Path(spec.name.partition(":")[2]))
    for split, other in zip(
        (once.train, once.validation, once.test), (again.train, again.validation, again.test), strict=True
    ):
        assert torch.equal(split.images, other.images)
        for image, label in zip(other.images, other.labels, strict=True):
            assert files[image.permute(1, 2, 0).numpy().tobytes()] == again.classes[int(label)]


@pytest.mark.parametrize("change", [{"split_seed": 3}, {"train": 20}, {"validation": 4, "test": 30}, {"pool": 5}])
def test_another_split_or_pooling_decodes_nothing(
    spec: DataSpec, tmp_path: Path, decoded: Decoded, monkeypatch: pytest.MonkeyPatch, change: dict[str, int]
) -> None:
    changed = spec.model_copy(update=change)
    expected = load(changed)
    monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path / "other"))
    load(spec)
    with monkeypatch.context() as patched:
        patched.setattr("autodistill.data.folders.decode_files", None)
        found = load(changed)
    assert found.file != expected.file
    assert found.fingerprint == expected.fingerprint == oracle_fingerprint(found)
    assert (found.mean, found.std) == (expected.mean, expected.std)


def test_pooled_images_are_pooled_once_and_other_files_are_decoded_once(
    spec: DataSpec, cache: Path, tmp_path: Path, decoded: Decoded
) -> None:
    fashion = DataSpec(name="fashion-mnist", root=str(write_fashion(tmp_path / "fashion")))
    for kept, images, shape in ((spec.model_copy(update={"pool": 2}), 50, (3, 5, 5)), (fashion, 90, (1, 28, 28))):
        once = decoded.load(kept)
        assert (decoded.images, once.image_shape) == (images, shape)
        again = decoded.load(kept)
        assert decoded.images == 0
        assert once.fingerprint == again.fingerprint == oracle_fingerprint(again)
    assert len(stores(cache)) == 3


def test_touched_and_moved_folders_are_decoded_again_to_the_same_fingerprint(
    spec: DataSpec, tmp_path: Path, decoded: Decoded
) -> None:
    once = decoded.load(spec)
    for path in (tmp_path / "pets").glob("*/*.png"):
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
    touched = decoded.load(spec)
    assert decoded.images == 50
    (tmp_path / "pets").rename(tmp_path / "animals")
    moved = decoded.load(DataSpec(name=f"folder:{tmp_path / 'animals'}"))
    assert decoded.images == 50
    assert once.fingerprint == touched.fingerprint == moved.fingerprint


def test_a_changed_image_and_a_renamed_class_are_noticed(spec: DataSpec, tmp_path: Path) -> None:
    once = load(spec)
    path = tmp_path / "pets" / "cat" / "3.png"
    pixels = np.array(Image.open(path))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    changed = load(spec)
    assert changed.fingerprint != once.fingerprint
    (tmp_path / "pets" / "dog").rename(tmp_path / "pets" / "fox")
    renamed = load(spec)
    assert renamed.classes == ("cat", "fox")
    assert renamed.fingerprint == changed.fingerprint  # class names are no part of it
    path.unlink()
    assert len(load(spec).train.labels) < len(renamed.train.labels) + 1


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 4]))


def damages(path: Path) -> Iterator[None]:
    """Damage a whole file in one way after another; the caller makes it whole in between."""
    size = path.stat().st_size
    for place in (0, 40, 4096, size // 2, size - 1200, size - 2):
        flip(path, place)
        yield
    for length in (0, 10, 5000, size - 1):
        os.truncate(path, length)
        yield
    path.write_bytes(path.read_bytes() + b"x")
    yield
    path.write_bytes(b"words" * 5000)
    yield
    content = path.read_bytes()
    path.write_bytes(content.replace(b"format 1", b"format 9", 1))
    yield


def test_a_damaged_file_is_told_and_written_again(spec: DataSpec, cache: Path, decoded: Decoded) -> None:
    whole = load(spec)
    file = file_of(whole)
    content, lines = file.read_bytes(), []
    for _ in damages(file):
        found = decoded.load(spec)
        assert decoded.images == 50
        (line,) = decoded.lines
        assert line.startswith(f"{file}: damaged (")
        assert file.read_bytes() == content
        assert oracle_fingerprint(found) == whole.fingerprint
        lines.append(line)
    assert len(lines) == 13
    assert "not a file of images in this version's format" in lines[-1], "of another version"
    assert len(stores(cache)) == 1


def test_another_folder_s_file_under_this_name_is_not_used(spec: DataSpec, tmp_path: Path, decoded: Decoded) -> None:
    file = file_of(load(spec))
    other = load(DataSpec(name=f"folder:{write_images(tmp_path / 'more', ('cat', 'dog'), count=30)}"))
    shutil.copy(file_of(other), file)
    decoded.load(spec)
    assert decoded.images == 50
    assert "it holds other images" in decoded.lines[0]


def test_a_damaged_file_is_not_copied_from(spec: DataSpec, decoded: Decoded) -> None:
    file = file_of(load(spec))
    flip(file, 4100)
    other = spec.model_copy(update={"split_seed": 5})
    found = decoded.load(other)
    assert oracle_fingerprint(found) == found.fingerprint
    shutil.rmtree(file.parent)
    assert load(other).fingerprint == found.fingerprint


def test_a_large_file_is_verified_once_for_each_start_of_the_machine(
    spec: DataSpec, decoded: Decoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images_module, "ALWAYS_VERIFIED_BYTES", 100)
    file = file_of(load(spec))
    verified: list[bool] = []
    opened = images_module.open_store
    monkeypatch.setattr(
        images_module,
        "open_store",
        lambda path, *, verify=True: verified.append(verify) or opened(path, verify=verify),
    )
    decoded.load(spec)
    assert verified == [False]
    monkeypatch.setattr(images_module, "_session", lambda: "started again")
    decoded.load(spec)
    decoded.load(spec)
    assert verified == [False, True, False]
    flip(file, 5000)  # which changes the file's times
    decoded.load(spec)
    assert "blocks differ" in decoded.lines[0]
    assert decoded.images == 50


def test_a_pool_that_does_not_divide_the_size_is_refused_before_anything_is_decoded(
    spec: DataSpec, cache: Path, decoded: Decoded
) -> None:
    with pytest.raises(DataError, match=r"data\.pool = 3 does not divide 10x10 images"):
        decoded.load(spec.model_copy(update={"pool": 3}))
    assert decoded.images == 0
    assert not stores(cache)


def test_header_checksums_and_map_are_of_one_file_though_another_takes_its_place(
    spec: DataSpec, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(spec)
    (path,) = stores(cache)
    before = open_store(path)
    first = before.images.clone()
    other = tmp_path / "other.images"
    content = bytearray(path.read_bytes())
    content[4096] ^= 1
    other.write_bytes(content)
    opened = Path.open

    def replaced_once_open(self: Path, *given: Any, **named: Any) -> Any:
        file = opened(self, *given, **named)
        if self == path and other.exists():
            other.replace(path)
        return file

    monkeypatch.setattr(Path, "open", replaced_once_open)
    assert torch.equal(open_store(path).images, first)
    with pytest.raises(DamagedStore, match="1 of 1 blocks differ"):
        open_store(path)


def test_without_pread_blocks_are_read_one_after_another(
    spec: DataSpec, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(spec)
    (path,) = stores(cache)
    monkeypatch.setattr(images_module, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(images_module, "usable_cores", lambda: 4)
    with path.open("rb") as file:
        end = path.stat().st_size
        found = images_module._checksums(file, end)
        monkeypatch.delattr(os, "pread", raising=False)
        assert images_module._checksums(file, end) == found
    content = path.read_bytes()
    assert found == tuple(zlib.crc32(content[begin : begin + 1000]) for begin in range(4096, end, 1000))


def test_a_full_disk_names_file_and_bytes_and_leaves_nothing(
    spec: DataSpec, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(cache.parent)
    needed = 4096 + 50 * (3 * 10 * 10 + 8 + 8)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
        with pytest.raises(StoreError, match=f"{needed:,} bytes, {needed - 1:,} bytes are free") as caught:
            load(spec)
    assert caught.value.message.startswith(str(cache))
    assert "AUTODISTILL_CACHE" in caught.value.hint
    with monkeypatch.context() as patched:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patched.setattr(os, "posix_fallocate", full, raising=False)
        with pytest.raises(StoreError, match="bytes are free on that disk"):
            load(spec)
        patched.delattr(os, "posix_fallocate")
        patched.setattr("autodistill.data.decoding.decode_rows", full)
        with pytest.raises(StoreError, match="bytes are free on that disk"):
            load(spec)
    assert [path.name for path in cache.glob("*/*")] == ["lock"]
    load(spec)


def test_a_read_only_cache_serves_what_it_has_and_refuses_the_rest(
    spec: DataSpec, cache: Path, decoded: Decoded
) -> None:
    if os.geteuid() == 0:
        pytest.skip("the superuser may write everywhere")
    once = load(spec)
    folder = file_of(once).parent
    folder.chmod(0o500)
    try:
        assert decoded.load(spec).fingerprint == once.fingerprint
        with pytest.raises(StoreError, match="cannot be written"):
            load(spec.model_copy(update={"split_seed": 2}))
    finally:
        folder.chmod(0o700)


def test_a_cache_folder_that_cannot_be_made_is_a_clear_error(
    spec: DataSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="cannot be written"):
        load(spec)


def test_one_process_writes_and_others_wait_for_it(spec: DataSpec, cache: Path, decoded: Decoded) -> None:
    file = file_of(load(spec))
    content = file.read_bytes()
    file.unlink()
    found: list[Data] = []
    waiting = threading.Event()

    def say(line: str) -> None:
        assert "another process decodes these images" in line
        waiting.set()

    def wait() -> None:
        found.append(load(spec, say=say, progress=lambda done, total: pytest.fail("decoded")))

    with locked(file.parent / "lock"):
        other = threading.Thread(target=wait)
        other.start()
        assert waiting.wait(60)
        file.write_bytes(content)
    other.join(60)
    assert oracle_fingerprint(found[0]) == found[0].fingerprint


def test_what_a_killed_process_left_is_cleared_away(spec: DataSpec, cache: Path) -> None:
    file = file_of(load(spec))
    left = file.parent / f".{file.name}.123-abcd.tmp"
    left.write_bytes(bytes(100))
    load(spec.model_copy(update={"split_seed": 1}))
    assert not left.exists()


def test_files_that_were_used_long_ago_are_removed(
    spec: DataSpec, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images_module, "KEPT", 2)
    files = []
    for seed in range(3):
        files.append(load(spec.model_copy(update={"split_seed": seed})).file)
        for path in cache.glob("*/*"):
            os.utime(path, (path.stat().st_atime - 100, path.stat().st_mtime - 100))
        load(spec)
    assert stores(cache) == sorted(path for path in (files[0], files[2]) if path is not None)


def test_files_that_change_while_they_are_read_are_refused(
    spec: DataSpec, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(done: int, total: int) -> None:
        (tmp_path / "pets" / "dog" / "24.png").unlink()

    with pytest.raises(DataError, match="changed or removed while"):
        load(spec, progress=change)
    assert not stores(cache)


def test_splits_are_views_of_one_map_and_no_view_copies_them(spec: DataSpec) -> None:
    data = load(spec)
    whole = with_validation(data)
    storages = {
        part.images.untyped_storage().data_ptr() for part in (data.train, data.validation, data.test, whole.train)
    }
    assert len(storages) == 1
    assert torch.equal(whole.train.images, torch.cat([data.train.images, data.validation.images]))
    assert torch.equal(whole.train.labels, torch.cat([data.train.labels, data.validation.labels]))
    assert whole.train.images.is_contiguous(memory_format=torch.channels_last)
    assert data.to("cpu").train.images.data_ptr() == data.train.images.data_ptr()
    flat = data.train.images.permute(0, 2, 3, 1).flatten(0, 2)
    assert flat.data_ptr() == data.train.images.data_ptr()
    taken = take_view(data.train.images, torch.tensor([3, 1]), view=View(0, 0, False), epoch=0)
    assert torch.equal(taken, data.train.images[[3, 1]])
    resident = load(DataSpec(train=100, validation=50, test=50))
    assert resident.file is None
    joined = torch.cat([resident.train.images, resident.validation.images])
    assert torch.equal(with_validation(resident).train.images, joined)


def test_another_process_is_handed_a_path_and_gets_the_same_data(spec: DataSpec) -> None:
    data = load(spec)
    sent = pickle.dumps(to_worker(data))
    assert len(sent) < 1000
    found = from_worker(pickle.loads(sent), spec)
    assert found.fingerprint == data.fingerprint
    assert torch.equal(found.test.images, data.test.images)
    small = load(DataSpec(train=100, validation=50, test=50))
    assert from_worker(to_worker(small), DataSpec()) is small
    assert to_worker(with_validation(data)).fingerprint != data.fingerprint


def by_processes(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Have a few files decoded as many are."""
    monkeypatch.setattr(decoding_module, "FEW_FILES", 0)
    monkeypatch.setattr(decoding_module, "CHUNK_FILES", 7)
    monkeypatch.setattr(decoding_module, "usable_cores", lambda: count)


def test_many_files_are_decoded_by_processes_to_the_same_pixels(
    spec: DataSpec, cache: Path, decoded: Decoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = load(spec)
    shutil.rmtree(cache)
    by_processes(monkeypatch, 3)
    there = decoded.load(spec)
    assert decoded.images == 50
    assert there.fingerprint == here.fingerprint


def test_damaged_files_are_named_by_processes_too(
    spec: DataSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_processes(monkeypatch, 2)
    for name in ("cat/1.png", "dog/24.png"):
        (tmp_path / "pets" / name).write_bytes(b"words")
    with pytest.raises(DataError, match="not a complete image") as caught:
        load(spec)
    assert len(caught.value.message.splitlines()) == 2


KILLED = "import os; os.kill(os.getpid(), 9)"


@pytest.mark.parametrize(
    ("code", "oom", "told"),
    [
        ("import os, sys; sys.stdin.readline(); os._exit(3)", False, "exit code 3"),
        ("import sys; sys.exit(3)", False, "exit code 3"),
        ("import sys; print('[[', end='', flush=True); sys.exit(4)", False, "exit code 4"),
        (KILLED, False, "signal 9, SIGKILL: killed from outside"),
        (KILLED, True, "SIGKILL: out of memory, by the count of the kernel"),
    ],
)
def test_a_decoding_process_that_dies_is_an_error(
    spec: DataSpec, cache: Path, monkeypatch: pytest.MonkeyPatch, code: str, oom: bool, told: str
) -> None:
    by_processes(monkeypatch, 2)
    kills = itertools.count(step=int(oom))
    monkeypatch.setattr(decoding_module, "BOOT", code)
    monkeypatch.setattr(decoding_module, "free_memory_bytes", lambda: 2_340_000_000)
    monkeypatch.setattr(decoding_module, "oom_kills", lambda: next(kills))
    with pytest.raises(DataError, match=r"died \(.*\) at one of 7 files from .*png to .*png; 2.3 GB of") as caught:
        load(spec)
    assert told in caught.value.message
    assert ("more memory" in caught.value.hint) is oom
    assert not stores(cache)


def test_an_error_without_a_number_reaches_the_process_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("no number")

    monkeypatch.setattr("autodistill.data.decoding.decode_rows", fails)
    answers = io.StringIO()
    before = signal.getsignal(signal.SIGINT)
    try:
        serve(io.StringIO('["target", 0, 4]\n[[0, "a.png"]]\n'), answers)
    finally:
        signal.signal(signal.SIGINT, before)
    assert answers.getvalue() == f"{errno.EIO}\n"


def test_modules_in_the_current_folder_are_not_imported_by_decoding_processes(
    spec: DataSpec, tmp_path: Path, decoded: Decoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "PIL").mkdir()
    for name in ("json.py", "PIL/__init__.py", "signal.py"):
        (tmp_path / name).write_text("raise SystemExit('a file of the user was imported')")
    monkeypatch.chdir(tmp_path)
    by_processes(monkeypatch, 2)
    decoded.load(spec)
    assert decoded.images == 50


def test_a_decoding_process_that_cannot_write_says_why(
    spec: DataSpec, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_processes(monkeypatch, 2)
    full = f"import sys; [*map(lambda _: sys.stdin.readline(), range(3))]; print({errno.ENOSPC}, flush=True)"
    header = decoding_module.ImageHeader(10, 10, "colour", False, False)
    monkeypatch.setattr("autodistill.data.folders.read_headers", lambda files, sizes: [header] * len(files))
    monkeypatch.setattr(decoding_module, "BOOT", full)
    with pytest.raises(StoreError, match="bytes are free on that disk"):
        load(spec)
    assert not stores(cache)


def test_a_decoding_process_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    code = BOOT + "; print([name for name in ('torch', 'numpy', 'torchvision') if name in sys.modules])"
    image = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(image)
    target = tmp_path / "target"
    target.write_bytes(bytes(48))
    lines = f'{__import__("json").dumps(sys.path)}\n["{target}", 0, 4]\n[[0, "{image}"]]\n'
    command = [sys.executable, "-c", code, decoding_module.__file__]
    ended = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["[]", "[]"]


def test_images_larger_than_a_gpu_are_refused_before_they_are_copied(
    spec: DataSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (14_999, 80_000))
    data = load(spec)
    with pytest.raises(DataError, match=r"the images need 0\.00 GB on cuda"):
        data.to("cuda")
