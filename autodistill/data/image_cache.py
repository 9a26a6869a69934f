"""Cache of decoded images, which all processes of a machine share.

The cache has a folder for each location of image files and each way to decode them. In this folder, each file holds
the images of one split and one pooling, see `image_store`. A missing or damaged file is written again: from another
file with the same images, if there is one, otherwise from the dataset's own files.
"""

import contextlib
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from autodistill.config import DataSpec
from autodistill.data.decoding import Progress
from autodistill.data.image_store import DamagedStore, Stored, open_store, write_rows, write_store
from autodistill.data.splits import Files, Numbers, average_pool, chunks, demand_pool, split_rows
from autodistill.errors import DataError, InUseError
from autodistill.store import cache_root, digest, locked

KEPT = 4
"""Largest number of files in a folder: other splits, poolings and older contents. The last used files are kept."""

ALWAYS_VERIFIED_BYTES = 2**30
"""Smaller files are compared with their checksums at every start, which takes less than a second. Larger files are
compared once after each start of the machine and after each change."""

Say = Callable[[str], None]
"""Function that shows a line of text to the user."""


def mapped(files: Files, spec: DataSpec, *, progress: Progress, say: Say) -> Stored:
    """Map the images of a dataset's files, split and pooled. Decode them first if they are not in the cache.

    One process writes at a time; other processes wait.

    Args:
        files: The dataset's files.
        spec: Split and pooling.
        progress: Called with the number of decoded images and of all images.
        say: Called with a line of text when a file is damaged, or when another process decodes the images.

    Raises:
        DataError: Files cannot be read, or the sizes of the splits are impossible.
        StoreError: The cache folder is read-only, or its disk is full.
    """
    index = files.index()
    path = _path(files, index, spec)
    found = _kept(path, index, say)
    if found is None:
        with _turn(path.parent / "lock", say):
            found = _kept(path, index, _silent) or _written(path, files, index, spec, progress)
            _clear(path)
    return found


def _path(files: Files, index: str, spec: DataSpec) -> Path:
    splits = (spec.train, spec.validation, spec.test, spec.split_seed)
    folder = cache_root() / "images" / f"{files.name}-{digest(*files.place)}"
    return folder / f"{digest(index, splits, spec.pool)}.images"


def _kept(path: Path, index: str, say: Say) -> Stored | None:
    """Map a file of the cache; return None if it is missing or damaged."""
    try:
        found = open_store(path, verify=not _was_verified(path))
        if found.header.index != index:
            raise DamagedStore("it holds other images")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except DamagedStore as damage:
        say(f"{path}: damaged ({damage}); the images are decoded again")
        return None
    _note_verified(path)
    return found


def _written(path: Path, files: Files, index: str, spec: DataSpec, progress: Progress) -> Stored:
    base = next((found for other in _others(path) if (found := _base(other, index, spec.pool))), None)
    if base is None:
        whole = spec.model_copy(update={"pool": 1})
        base = _decoded(_path(files, index, whole), files, index, whole, progress, pool=spec.pool)
        if spec.pool == 1:
            return base
    _derive(path, base, spec, progress)
    _note_verified(path)
    return open_store(path, verify=False)


def _decoded(path: Path, files: Files, index: str, spec: DataSpec, progress: Progress, *, pool: int) -> Stored:
    """Decode the dataset's files, write a file of images and map it.

    Args:
        path: The file.
        files: The dataset's files.
        index: Digest of the dataset's files.
        spec: The split.
        progress: Called with the number of decoded images and of all images.
        pool: Pooling that is applied later; checked before the first image is decoded.
    """
    labels, shape, write = files.read()
    demand_pool(pool, height=shape[1], width=shape[2])

    def fill(target: Path, offset: int, places: Numbers) -> None:
        write(target, offset, places, progress)
        if files.index() != index:
            raise DataError(
                f"{files.place[0]}: files were changed or removed while they were read",
                "run the command again when nothing writes there",
            )

    rows = split_rows(labels, spec)
    write_store(path, index=index, pool=1, labels=labels, rows=rows, shape=shape, fill=fill)
    _note_verified(path)
    return open_store(path, verify=False)


def _derive(path: Path, base: Stored, spec: DataSpec, progress: Progress) -> None:
    """Write a file of images from another file of the same images, in another order or without pooling."""
    size = spec.pool // base.header.pool
    channels, height, width = average_pool(base.images[:1], size=size).shape[1:]

    def fill(target: Path, offset: int, places: Numbers) -> None:
        numbers, done = base.numbers.numpy(), 0
        with target.open("r+b", buffering=0) as file:
            for chunk in chunks(base.images):
                pooled = average_pool(chunk, size=size) if size > 1 else chunk
                write_rows(file, offset, pooled, places[numbers[done : done + len(pooled)]])
                done += len(pooled)
                progress(done, len(numbers))

    labels = base.labels
    write_store(
        path,
        index=base.header.index,
        pool=spec.pool,
        labels=labels,
        rows=split_rows(labels, spec),
        shape=(channels, height, width),
        fill=fill,
    )


def _others(path: Path) -> list[Path]:
    """Return the other files in the folder, the last used first."""
    found = [other for other in path.parent.glob("*.images") if other != path]
    return sorted(found, key=_last_use, reverse=True)


def _last_use(path: Path) -> float:
    times = [0.0]
    for file in (path, _stamp(path)):
        with contextlib.suppress(OSError):
            times.append(file.stat().st_mtime)
    return max(times)


def _base(path: Path, index: str, pool: int) -> Stored | None:
    """Map another file if it contains the same images, with the wanted pooling or without pooling."""
    try:
        found = open_store(path, verify=not _was_verified(path))
    except (DamagedStore, FileNotFoundError):
        return None
    return found if found.header.index == index and found.header.pool in (1, pool) else None


@contextlib.contextmanager
def _turn(lock: Path, say: Say) -> Iterator[None]:
    """Hold the lock of a folder against other processes that write. Remove temporary files of killed processes."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(lock, timeout_s=0))
        except InUseError:
            say("another process decodes these images: waiting for it")
            held.enter_context(locked(lock))
        for left in lock.parent.glob(".*.tmp"):
            _remove(left)
        yield


def _clear(path: Path) -> None:
    for old in _others(path)[KEPT - 1 :]:
        _remove(old)
        _remove(_stamp(old))


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # on Windows: a process still maps the file
        path.unlink()


def _silent(_: str) -> None:
    pass


def _was_verified(path: Path) -> bool:
    """Return whether a large file was verified since this machine was started, and has not changed since then."""
    try:
        return path.stat().st_size > ALWAYS_VERIFIED_BYTES and _stamp(path).read_text() == _state(path)
    except OSError:
        return False


def _note_verified(path: Path) -> None:
    """Record that a file is verified, and the time of its last use."""
    with contextlib.suppress(OSError):  # in a read-only folder the file is verified at every start
        _stamp(path).write_text(_state(path))


def _stamp(path: Path) -> Path:
    return path.with_suffix(".verified")


def _state(path: Path) -> str:
    about = path.stat()
    return f"{_session()} {about.st_ino} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"


def _session() -> str:
    """Return text that changes with each start of this machine; the date if the system does not identify starts."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{platform.node()} {time.strftime('%Y-%m-%d')}"
