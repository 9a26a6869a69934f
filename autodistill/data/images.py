"""Files of decoded images, which every process of a machine maps into memory, and the cache of these files.

The cache has a folder for each location of image files and each way to decode them. In this folder, each file holds
the images of one split and one pooling. A missing or damaged file is written again: from another file with the same
images, if there is one, otherwise from the dataset's own files.

Layout of a file:

- a preamble: format, position and length of the header, SHA-256 of the header; it is written last
- from byte 4096: the images of training, validation, test and no split, in this order, as (height, width, channels)
- the labels of the images, then their numbers in the dataset, as int64
- the header, as JSON, with a CRC-32 checksum for each block of 4 MiB between byte 4096 and the header
"""

import contextlib
import errno
import hashlib
import mmap
import os
import platform
import shutil
import struct
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Int, UInt8
from pydantic import ValidationError
from torch import Tensor

from autodistill.config import DataSpec
from autodistill.data.decoding import Progress, write_at
from autodistill.data.reading import with_duplicates
from autodistill.data.splits import (
    Content,
    Files,
    Labels,
    Numbers,
    Split,
    Splits,
    average_pool,
    chunks,
    demand_pool,
    fingerprint,
    split_rows,
    statistics,
)
from autodistill.errors import DataError, InUseError, StoreError
from autodistill.machine import usable_cores
from autodistill.records import ReadingRecord, Record
from autodistill.store import cache_root, digest, locked, writing

KEPT = 4
"""Largest number of files in a folder: other splits, poolings and older contents. The last used files are kept."""

ALWAYS_VERIFIED_BYTES = 2**30
"""Smaller files are compared with their checksums at every start, which takes less than a second. Larger files are
compared once after each start of the machine and after each change."""

MAGIC = b"autodistill images, format 1".ljust(32)
_PREAMBLE = struct.Struct("<32sQQ32s")
"""Magic, first byte and length of the header, SHA-256 of the header."""
PIXELS_AT = 4096
BLOCK_BYTES = 4 * 2**20
_NUMBER = np.dtype("<i8")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Say = Callable[[str], None]
"""Function that shows a line of text to the user."""

Names = Callable[[], Sequence[str]]
"""Function that returns the name of each example in the dataset."""


class DamagedStore(Exception):
    """A file is not a file of images, or was changed after it was written. The message gives the reason."""


class Header(Record):
    """Description of the images in a file."""

    index: str
    """Digest of the files from which the images were read."""
    pool: int
    """Side of the blocks of pixels that were averaged; 1: none."""
    shape: tuple[int, int, int]
    """Channels, height, width."""
    parts: dict[str, int]
    """Number of examples in each part of the dataset. Examples are numbered consecutively through all parts."""
    splits: tuple[int, int, int]
    """Number of images in the training, validation and test split. Images of no split follow them."""
    classes: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    fingerprint: str = ""
    """SHA-256 of pixels and labels of the splits."""
    checksums: tuple[int, ...] = ()
    """CRC-32 of each block."""
    margin: int = 0
    """Pixels on every side by which the images exceed the image size."""
    reading: ReadingRecord | None = None


@dataclass(frozen=True)
class Stored:
    """Images mapped from a file. Only pages that were read are in memory, once for all processes."""

    path: Path
    header: Header
    images: UInt8[Tensor, "rows channels height width"]
    row_labels: Int[Tensor, " rows"]
    numbers: Int[Tensor, " rows"]
    """Number of each row's example in the dataset."""

    @property
    def splits(self) -> Splits:
        """The splits, without copies."""
        sizes = [*self.header.splits, len(self.images) - sum(self.header.splits)]
        pairs = zip(self.images.split(sizes), self.row_labels.split(sizes), strict=True)
        train, validation, test, _ = (Split(*pair) for pair in pairs)
        return Splits(train, validation, test)

    @property
    def labels(self) -> Labels:
        """The labels in the order of the examples' numbers."""
        by_number = torch.empty_like(self.row_labels)
        by_number[self.numbers] = self.row_labels
        sizes = self.header.parts
        arrays = [labels.numpy() for labels in by_number.split([*sizes.values()])]
        return Labels(self.header.classes, dict(zip(sizes, arrays, strict=True)))


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
    if found is not None:
        return found
    lock = path.parent / "lock"
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(lock, timeout_s=0))
        except InUseError:
            say("another process decodes these images: waiting for it")
            held.enter_context(locked(lock))
        for left in lock.parent.glob(".*.tmp"):  # of killed processes
            _remove(left)
        found = _kept(path, index, lambda text: None) or _written(path, files, index, spec, progress)
        for old in _others(path)[KEPT - 1 :]:
            _remove(old)
            _remove(_stamp(old))
    return found


def open_store(path: Path, *, verify: bool = True) -> Stored:
    """Map a file of images, read-only.

    Args:
        path: The file.
        verify: Whether to compare all blocks with their checksums. The header is always verified.

    Raises:
        FileNotFoundError, NotADirectoryError: The file does not exist.
        DamagedStore: The file is not what was written.
        StoreError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:  # opened once only: another process may replace the file meanwhile
            header, end = _header(file)
            if verify:
                pairs = zip(_checksums(file, end), header.checksums, strict=True)
                if wrong := sum(one != other for one, other in pairs):
                    raise DamagedStore(f"{wrong} of {len(header.checksums)} blocks differ from their checksums")
            return _mapped(path, header, file)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read ({error.strerror or error})", "give it back its permissions"
        ) from error


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
    """Write a file from another file of the same images, or from a new file without pooling; map it."""
    for other in _others(path):
        with contextlib.suppress(DamagedStore, FileNotFoundError):
            base = open_store(other, verify=not _was_verified(other))
            if base.header.index == index and base.header.pool in (1, spec.pool):
                break
    else:
        base = _decoded(files, index, spec, progress)
        if spec.pool == 1:
            return base
    return _store(path, spec, index, _derived(base, spec), files.names, progress)


def _decoded(files: Files, index: str, spec: DataSpec, progress: Progress) -> Stored:
    """Decode the dataset's files into a file of images without pooling."""
    content = files.read(progress)
    _, height, width = content.shape
    demand_pool(spec.pool, height=height, width=width, margin=content.margin)

    def write(target: Path, offset: int, places: Numbers, progress: Progress) -> None:
        content.write(target, offset, places, progress)
        if files.index() != index:
            raise DataError(
                f"{files.place[0]}: files were changed or removed while they were read",
                "run the command again when nothing writes there",
            )

    whole = spec.model_copy(update={"pool": 1})
    return _store(_path(files, index, whole), whole, index, content._replace(write=write), files.names, progress)


def _derived(base: Stored, spec: DataSpec) -> Content:
    """Return the images of a file as the content of another, which has another split or is pooled."""
    size, header = spec.pool // base.header.pool, base.header
    channels, height, width = header.shape
    demand_pool(size, height=height, width=width, margin=header.margin)

    def write(target: Path, offset: int, places: Numbers, progress: Progress) -> None:
        pooled = (average_pool(chunk, size=size) if size > 1 else chunk for chunk in chunks(base.images))
        write_images(pooled, target, offset, places[base.numbers.numpy()], progress)

    shape = (channels, height // size, width // size)
    return Content(base.labels, shape, write, margin=header.margin, reading=header.reading)


def _store(path: Path, spec: DataSpec, index: str, content: Content, names: Names | None, progress: Progress) -> Stored:
    """Write a file of images atomically, and map it."""
    labels, shape = content.labels, content.shape
    rows = split_rows(labels, spec)
    total = sum(map(len, labels.parts.values()))
    chosen = np.concatenate(rows)
    numbers = np.concatenate([chosen, np.setdiff1d(np.arange(total), chosen)]).astype(_NUMBER)
    places = np.empty_like(numbers)
    places[numbers] = np.arange(total)
    row_labels = np.concatenate([*labels.parts.values()])[numbers].astype(_NUMBER)
    labels_at = _labels_at(shape, total)
    end = labels_at + 2 * total * _NUMBER.itemsize
    header = Header(
        index=index,
        pool=spec.pool,
        shape=shape,
        parts={name: len(part) for name, part in labels.parts.items()},
        splits=(len(rows[0]), len(rows[1]), len(rows[2])),
        classes=labels.classes,
        margin=content.margin,
        reading=content.reading,
    )
    with _full_disk_told(path, end), writing(path) as temporary:
        _reserve(temporary, end)
        content.write(temporary, PIXELS_AT, places, progress)
        with temporary.open("r+b") as file:
            file.seek(labels_at)
            file.write(row_labels.tobytes() + numbers.tobytes())
        text = _described(temporary, header, end, names).model_dump_json().encode()
        with temporary.open("r+b") as file:
            file.seek(end)
            file.write(text)
            file.seek(0)
            file.write(_PREAMBLE.pack(MAGIC, end, len(text), hashlib.sha256(text).digest()))
    _note_verified(path)
    return open_store(path, verify=False)


def write_images(images: Iterable[Tensor], target: Path, offset: int, places: Numbers, progress: Progress) -> None:
    """Write images, in chunks of (examples, channels, height, width), to the rows `places` of an existing file.

    Row 0 starts at byte `offset`.
    """
    done = 0
    with target.open("r+b", buffering=0) as file:
        for chunk in images:
            rows = chunk.permute(0, 2, 3, 1).reshape(len(chunk), -1).contiguous().numpy()
            for row, place in zip(rows, places[done : done + len(rows)].tolist(), strict=True):
                write_at(file, offset + place * row.nbytes, row.data)
            done += len(rows)
            progress(done, len(places))


def _labels_at(shape: tuple[int, int, int], rows: int) -> int:
    pixels = rows * shape[0] * shape[1] * shape[2]
    return PIXELS_AT + -(-pixels // _NUMBER.itemsize) * _NUMBER.itemsize


def _described(temporary: Path, header: Header, end: int, names: Names | None) -> Header:
    """Return the header with statistics, fingerprint and checksums of the images, and those that occur twice."""
    with temporary.open("rb") as file:
        stored = _mapped(temporary, header, file)
        checksums = _checksums(file, end)
    splits = stored.splits
    mean, std = statistics(splits.train.images)
    found: dict[str, Any] = {"mean": mean, "std": std, "fingerprint": fingerprint(splits), "checksums": checksums}
    if header.margin:  # the same pixels with another margin are other images
        found["fingerprint"] = hashlib.sha256(f"margin {header.margin} {found['fingerprint']}".encode()).hexdigest()
    if header.reading is not None:
        parts = header.parts.items()
        named = names() if names else [f"{part} {row}" for part, size in parts for row in range(size)]
        found["reading"] = with_duplicates(header.reading, splits, stored.numbers.numpy(), named)
    return header.model_copy(update=found)


def _header(file: BinaryIO) -> tuple[Header, int]:
    """Read the header; return it and its position."""
    first = file.read(_PREAMBLE.size)
    if len(first) < _PREAMBLE.size:
        raise DamagedStore("truncated")
    magic, begin, length, digest = _PREAMBLE.unpack(first)
    if magic != MAGIC:
        raise DamagedStore("not a file of images in this version's format")
    size = file.seek(0, os.SEEK_END)
    if size != begin + length:
        raise DamagedStore(f"{size:,} bytes, {begin + length:,} were written")
    file.seek(begin)
    text = file.read()
    if hashlib.sha256(text).digest() != digest:
        raise DamagedStore("its header differs from its checksum")
    try:
        return Header.model_validate_json(text), begin
    except ValidationError as error:
        raise DamagedStore("its header has another version") from error


def _checksums(file: BinaryIO, end: int) -> tuple[int, ...]:
    """Return the CRC-32 of each block. The blocks are not mapped: mapped pages count as memory of this process."""
    turn = threading.Lock()

    def checksum(begin: int) -> int:
        count = min(BLOCK_BYTES, end - begin)
        if hasattr(os, "pread"):
            return zlib.crc32(os.pread(file.fileno(), count, begin))
        with turn:  # on Windows, threads share the position of a file
            file.seek(begin)
            block = file.read(count)
        return zlib.crc32(block)

    with ThreadPoolExecutor(usable_cores()) as pool:  # zlib releases the interpreter lock
        return tuple(pool.map(checksum, range(PIXELS_AT, end, BLOCK_BYTES)))


def _mapped(path: Path, header: Header, file: BinaryIO) -> Stored:
    whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    channels, height, width = header.shape
    rows = sum(header.parts.values())
    with warnings.catch_warnings():
        # Nothing writes to the images. A write would end this process without changing the file or others' memory.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        pixels = torch.frombuffer(whole, dtype=torch.uint8, offset=PIXELS_AT, count=rows * channels * height * width)
        numbers = torch.frombuffer(whole, dtype=torch.int64, offset=_labels_at(header.shape, rows), count=2 * rows)
    images = pixels.view(rows, height, width, channels).permute(0, 3, 1, 2)
    return Stored(path, header, images, numbers[:rows], numbers[rows:])


def _reserve(path: Path, size: int) -> None:
    """Create a file of `size` bytes and reserve its blocks on the disk, if the system supports that."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)
                return
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
        file.truncate(size)


@contextlib.contextmanager
def _full_disk_told(path: Path, needed: int) -> Iterator[None]:
    free = shutil.disk_usage(path.parent).free
    full = StoreError(
        f"{path}: the decoded images need {needed:,} bytes, {free:,} bytes are free on that disk",
        "free space, let AUTODISTILL_CACHE name a folder on a larger disk, or set a smaller data.image_size",
    )
    if free < needed:
        raise full
    try:
        yield
    except StoreError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL:
            raise full from error
        raise


def _others(path: Path) -> list[Path]:
    """Return the other files in the folder, the last used first."""

    def last_use(other: Path) -> float:
        times = [0.0]
        for file in (other, _stamp(other)):
            with contextlib.suppress(OSError):
                times.append(file.stat().st_mtime)
        return max(times)

    return sorted((other for other in path.parent.glob("*.images") if other != path), key=last_use, reverse=True)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # on Windows: a process still maps the file
        path.unlink()


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
