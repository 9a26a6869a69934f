"""The study folder: its paths, its lock, atomic writes, results by key, hashes."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs
from filelock import FileLock, Timeout

from autodistill.errors import InUseError, StoreError
from autodistill.records import KeptResult, RunSpec, RunTimes, to_json

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EDQUOT)
"""Errors of a full disk, a file over the size limit or quota, and a failing disk."""
_CHECKSUM = "checksum"
"""Key of a result's file: JSON alone does not show that a digit has changed."""
_WRITABLE = "give a writable folder"
_PLACES = "studies lie in ./runs, teachers and logits in AUTODISTILL_CACHE"


def _unusable(path: Path, verb: str, reason: object, hint: str = _WRITABLE) -> StoreError:
    return StoreError(f"{path}: cannot be {verb} ({reason})", f"{hint}; {_PLACES}")


def cache_root() -> Path:
    """Return the user's cache folder: `AUTODISTILL_CACHE`, or the platform's default."""
    folder = os.environ.get("AUTODISTILL_CACHE")
    return Path(folder) if folder else Path(platformdirs.user_cache_dir("autodistill", appauthor=False))


def digest(*parts: object) -> str:
    """Return a short stable hash of JSON data (16 hexadecimal digits)."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seed_from(*parts: int) -> int:
    """Return a seed in [0, 2^31) from integers; related integers give unrelated seeds."""
    data = b"".join(part.to_bytes(16, "little", signed=True) for part in parts)
    return int.from_bytes(hashlib.sha256(data).digest()[:4], "little") >> 1


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it to `path`.

    Write with Python's file objects: torch and safetensors report a full disk by their own errors, not by OSError.

    Raises:
        StoreError: The folder is read-only or the disk is full; `path` is unchanged.
    """
    # The random part is needed because process ids can coincide on machines that share the folder.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as file:  # Windows cannot flush a file opened for reading only
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        hint = "free space" if error.errno in _FULL else _WRITABLE
        raise _unusable(path, "written", error.strerror or error, hint) from error
    finally:
        with contextlib.suppress(OSError):  # the folder may not exist
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        StoreError: The folder is read-only or the disk is full; `path` is unchanged.
    """
    with writing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically; errors as for `write_bytes`."""
    write_bytes(path, text.encode())


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float | int = -1) -> Iterator[None]:
    """Hold the lock file `path`; by default, wait for it without limit.

    Raises:
        InUseError: Another process still holds the lock after `timeout_s`.
        StoreError: The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path).acquire(timeout=timeout_s)
    except Timeout as error:
        hint = "wait for it to end, or give this study another name with --study"
        raise InUseError(f"{path.parent}: in use by another autodistill process", hint) from error
    except OSError as error:
        raise _unusable(path, "written", error.strerror or error) from error
    with held:
        yield


class StudyFolder(NamedTuple):
    """Paths of a study folder, `runs/STUDY/`. Results, weights and checkpoints of runs are stored by key."""

    path: Path

    @property
    def record(self) -> Path:
        return self.path / "study.json"

    @property
    def space(self) -> Path:
        """The resolved search space, which can be run as it is."""
        return self.path / "space.toml"

    @property
    def database(self) -> Path:
        """Optuna's copy of the trials."""
        return self.path / "study.db"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    def result(self, key: str) -> Path:
        return self.path / "results" / f"{key}.json"

    def weights(self, key: str) -> Path:
        return self.path / "weights" / f"{key}.safetensors"

    def checkpoint(self, key: str) -> Path:
        return self.path / "checkpoints" / f"{key}.pt"


@contextlib.contextmanager
def locked_study(folder: StudyFolder) -> Iterator[None]:
    """Hold the lock of a study, so that one process decides on it.

    A new folder is accessible to its owner only, because its content is trusted when the study continues. An existing
    folder keeps its permissions, so that a team can share it.

    Raises:
        InUseError: Another process holds the lock.
        StoreError: The folder cannot be written.
    """
    with contextlib.suppress(OSError):  # `locked` raises the same error, with a message
        folder.path.parent.mkdir(parents=True, exist_ok=True)
        folder.path.mkdir(mode=0o700, exist_ok=True)
    with locked(folder.lock, timeout_s=0):
        for unfinished in folder.path.rglob(".*.tmp"):  # of a process that was killed while it wrote
            unfinished.unlink(missing_ok=True)
        yield


def check_folder(path: Path, *, writable: bool = True) -> None:
    """Check that a folder exists or can be created; write nothing.

    Raises:
        StoreError: A file is in its place, or this user may not read it or, if `writable`, not write to it.
    """
    existing = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    if not existing.is_dir():
        raise _unusable(existing, "written", "a file, not a folder")
    if not os.access(existing, os.R_OK | os.X_OK):
        raise _unusable(existing, "read", "no permission")
    if writable and not os.access(existing, os.R_OK | os.X_OK | os.W_OK):
        raise _unusable(existing, "written", "no permission")


def check_study_folder(folder: StudyFolder) -> None:
    """Check that a study can be created or continued in a folder; write nothing.

    Raises:
        StoreError: As for `check_folder`, or one of the study's files cannot be read.
    """
    check_folder(folder.path)
    for path in (folder.record, folder.space, folder.lock, folder.database):
        if os.path.exists(path) and not (path.is_file() and os.access(path, os.R_OK)):
            reason = "no permission" if path.is_file() else "a folder, not a file"
            hint = "move it away, or give this study another name with --study"
            raise StoreError(f"{path}: cannot be read ({reason})", hint)


def write_result(folder: StudyFolder, kept: KeptResult) -> None:
    """Write the result of a run under its key, with a checksum; the run is never trained again."""
    document = json.loads(to_json(kept))
    document[_CHECKSUM] = digest(document)
    write_text(folder.result(kept.result.key), json.dumps(document, indent=1, sort_keys=True) + "\n")


def read_result(folder: StudyFolder, key: str) -> KeptResult | None:
    """Return the result of a key; None if there is none or its file is damaged.

    Raises:
        StoreError: The file exists but cannot be read.
    """
    path = folder.result(key)
    try:
        document = json.loads(path.read_bytes())
        checksum = document.pop(_CHECKSUM, None)
        kept = KeptResult.model_validate_json(json.dumps(document))
    except (FileNotFoundError, ValueError, AttributeError, TypeError):  # ValidationError is a ValueError
        return None
    except OSError as error:
        hint = "make it readable, or remove it: the run is trained again"
        raise StoreError(f"{path}: cannot be read ({error.strerror})", hint) from error
    whole = checksum is None or checksum == digest(document)
    return kept if whole and kept.result.key == key else None


def copy_from_sibling(folder: StudyFolder, key: str, spec: RunSpec) -> KeptResult | None:
    """Copy the files of a key from another study in the same folder of studies, if its result answers `spec`.

    Returns:
        The result, with the name of that study; None where no study has the result.
    """
    for path in sorted(folder.path.parent.glob(f"*/results/{key}.json")):
        other = StudyFolder(path.parent.parent)
        kept = read_result(other, key) if other.path != folder.path else None
        if kept is None or kept.answer(spec) is None:
            continue
        for place in (StudyFolder.checkpoint, StudyFolder.weights):
            with contextlib.suppress(FileNotFoundError):
                write_bytes(place(folder, key), place(other, key).read_bytes())
        # It cost this study no time.
        kept = kept.model_copy(update={**dict(RunTimes()), "rung": None, "study": other.path.name})
        write_result(folder, kept)
        return kept
    return None


def differences(kept: Any, asked: Any, key: str = "") -> Iterator[str]:
    """Yield a line for each value in which two JSON documents differ."""
    if isinstance(kept, dict) and isinstance(asked, dict):
        for name in sorted({*kept, *asked}):
            yield from differences(kept.get(name), asked.get(name), f"{key}.{name}" if key else name)
    elif kept != asked:
        yield f"{key}: there {kept!r:.200}, asked for {asked!r:.200}"
