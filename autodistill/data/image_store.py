"""A file of decoded images, which every process of a machine maps into memory.

Layout of the file:

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
import shutil
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Int, UInt8
from pydantic import ValidationError
from torch import Tensor

from autodistill.data.splits import Labels, Numbers, Split, SplitRows, Splits, fingerprint, statistics
from autodistill.errors import StoreError
from autodistill.machine import usable_cores
from autodistill.records import Record
from autodistill.store import writing

MAGIC = b"autodistill images, format 1".ljust(32)
_PREAMBLE = struct.Struct("<32sQQ32s")
"""Magic, first byte and length of the header, SHA-256 of the header."""
PIXELS_AT = 4096
BLOCK_BYTES = 4 * 2**20
_NUMBER = np.dtype("<i8")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    """SHA-256 of pixels and labels of the splits."""
    checksums: tuple[int, ...]
    """CRC-32 of each block."""

    @property
    def rows(self) -> int:
        return sum(self.parts.values())


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
        sizes = [*self.header.splits, self.header.rows - sum(self.header.splits)]
        pairs = zip(self.images.split(sizes), self.row_labels.split(sizes), strict=True)
        train, validation, test, _ = (Split(*pair) for pair in pairs)
        return Splits(train, validation, test)

    @property
    def labels(self) -> Labels:
        """The labels in the order of the examples' numbers."""
        by_number = torch.empty_like(self.row_labels)
        by_number[self.numbers] = self.row_labels
        counts = self.header.parts
        parts = dict(zip(counts, np.split(by_number.numpy(), np.cumsum([*counts.values()])[:-1]), strict=True))
        return Labels(self.header.classes, parts["train"], parts.get("validation"), parts.get("test"))


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
                _verify(file, header.checksums, end)
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read ({error.strerror or error})", "give it back its permissions"
        ) from error
    return _mapped(path, header, whole)


def write_store(
    path: Path,
    *,
    index: str,
    pool: int,
    labels: Labels,
    rows: SplitRows,
    shape: tuple[int, int, int],
    fill: Callable[[Path, int, Numbers], None],
) -> None:
    """Write a file of images atomically.

    Args:
        path: The file.
        index: Digest of the files from which the images are read.
        pool: Side of the blocks of pixels that were averaged.
        labels: Labels of all examples.
        rows: Numbers of the examples in each split.
        shape: Channels, height, width.
        fill: `fill(path, offset, rows)` writes the image of each example to its row; rows start at byte `offset`.

    Raises:
        StoreError: The disk is full, or the folder is read-only.
    """
    total = sum(len(part) for part in labels.parts.values())
    chosen = np.concatenate(rows)
    numbers = np.concatenate([chosen, np.setdiff1d(np.arange(total), chosen)]).astype(_NUMBER)
    places = np.empty_like(numbers)
    places[numbers] = np.arange(total)
    row_labels = np.concatenate([*labels.parts.values()])[numbers].astype(_NUMBER)
    labels_at = _labels_at(shape, total)
    end = labels_at + 2 * total * _NUMBER.itemsize
    header = Header(
        index=index,
        pool=pool,
        shape=shape,
        parts={name: len(part) for name, part in labels.parts.items()},
        splits=(len(rows.train), len(rows.validation), len(rows.test)),
        classes=labels.classes,
        mean=(),
        std=(),
        fingerprint="",
        checksums=(),
    )
    with _full_disk_told(path, end), writing(path) as temporary:
        _reserve(temporary, end)
        fill(temporary, PIXELS_AT, places)
        with temporary.open("r+b") as file:
            file.seek(labels_at)
            file.write(row_labels.tobytes() + numbers.tobytes())
        header = _described(temporary, header, end)
        text = header.model_dump_json().encode()
        with temporary.open("r+b") as file:
            file.seek(end)
            file.write(text)
            file.seek(0)
            file.write(_PREAMBLE.pack(MAGIC, end, len(text), hashlib.sha256(text).digest()))


def write_rows(
    file: BinaryIO, offset: int, images: UInt8[Tensor, "examples channels height width"], places: Numbers
) -> None:
    """Write images to the given rows of an unbuffered file; row 0 starts at byte `offset`."""
    rows = images.permute(0, 2, 3, 1).reshape(len(images), -1).contiguous().numpy()
    for row, place in zip(rows, places.tolist(), strict=True):
        file.seek(offset + place * row.nbytes)
        left = row.data
        while left:
            left = left[file.write(left) :]


def _labels_at(shape: tuple[int, int, int], rows: int) -> int:
    pixels = rows * shape[0] * shape[1] * shape[2]
    return PIXELS_AT + -(-pixels // _NUMBER.itemsize) * _NUMBER.itemsize


def _described(temporary: Path, header: Header, end: int) -> Header:
    """Return the header with statistics, fingerprint and checksums of the images."""
    with temporary.open("rb") as file:
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        checksums = _checksums(file, end)
    splits = _mapped(temporary, header, whole).splits
    mean, std = statistics(splits.train.images)
    found = {"mean": mean, "std": std, "fingerprint": fingerprint(splits), "checksums": checksums}
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


def _verify(file: BinaryIO, checksums: tuple[int, ...], end: int) -> None:
    found = _checksums(file, end)
    wrong = [number for number, pair in enumerate(zip(found, checksums, strict=True)) if pair[0] != pair[1]]
    if wrong:
        raise DamagedStore(f"{len(wrong)} of {len(checksums)} blocks differ from their checksums")


def _checksums(file: BinaryIO, end: int) -> tuple[int, ...]:
    """Return the CRC-32 of each block. The blocks are not mapped: mapped pages count as memory of this process."""
    turn = threading.Lock()

    def read(begin: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(file.fileno(), count, begin)
        with turn:  # on Windows, threads share the position of a file
            file.seek(begin)
            return file.read(count)

    def checksum(begin: int) -> int:
        return zlib.crc32(read(begin, min(BLOCK_BYTES, end - begin)))

    with ThreadPoolExecutor(usable_cores()) as pool:  # zlib releases the interpreter lock
        return tuple(pool.map(checksum, range(PIXELS_AT, end, BLOCK_BYTES)))


def _mapped(path: Path, header: Header, whole: mmap.mmap) -> Stored:
    channels, height, width = header.shape
    rows, pixels_each = header.rows, channels * height * width
    labels_at = _labels_at(header.shape, rows)
    with warnings.catch_warnings():
        # Nothing writes to the images. A write would end this process without changing the file or others' memory.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        pixels = torch.frombuffer(whole, dtype=torch.uint8, offset=PIXELS_AT, count=rows * pixels_each)
        numbers = torch.frombuffer(whole, dtype=torch.int64, offset=labels_at, count=2 * rows)
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
