"""The run folder: paths, one owner at a time, writes that are whole or not there, hashes."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs
from filelock import FileLock, Timeout
from pydantic import ValidationError

from autodistill.errors import InUseError, StoreError
from autodistill.records import RunEnded, RunRequest, TrialRecord, to_json

_SHOWN = 12
"""Differences between two studies that an error lists."""
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EDQUOT)
"""Errors of a disk without space, a file over the limit, and a failing disk."""
_PLACES = "studies lie in ./runs, teachers and logits where AUTODISTILL_CACHE says"


def cache_root() -> Path:
    """The user's cache folder: `AUTODISTILL_CACHE`, else the platform's."""
    named = os.environ.get("AUTODISTILL_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("autodistill", appauthor=False))


def digest(*parts: object) -> str:
    """A short stable hash of plain data (16 hexadecimal digits)."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seed_from(*parts: int) -> int:
    """A seed in [0, 2^31) for the named parts: related inputs give unrelated seeds."""
    data = b"".join(part.to_bytes(16, "little", signed=True) for part in parts)
    return int.from_bytes(hashlib.sha256(data).digest()[:4], "little") >> 1


def _go_on() -> None:
    pass


@contextlib.contextmanager
def writing(path: Path, *, hold: Callable[[], None] = _go_on) -> Iterator[Path]:
    """Give a temporary name beside `path`; on success it is flushed to disk and takes the place of `path`.

    Write through Python's files: torch and safetensors report a full disk by errors of their own, not by OSError.

    Args:
        hold: called right before that; what it raises leaves `path` as it was.

    Raises:
        StoreError: the folder is read-only or the disk is full; `path` is then as it was.
    """
    # Machines that share the folder can have processes of one number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as file:  # Windows flushes no file that is open for reading alone
            os.fsync(file.fileno())
        hold()
        temporary.replace(path)
    except OSError as error:
        way = "free space" if error.errno in _FULL else "give a writable folder"
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})", f"{way}; {_PLACES}") from error
    finally:
        # A folder that was never made has nothing to clear away.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, *, hold: Callable[[], None] = _go_on) -> None:
    """Write a whole file or none; `hold` as in `writing`.

    Raises:
        StoreError: the folder is read-only or the disk is full; `path` is then as it was.
    """
    with writing(path, hold=hold) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file or none; errors as `write_bytes`."""
    write_bytes(path, text.encode())


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float | int = -1) -> Iterator[None]:
    """Hold the lock file `path`; wait for ever by default.

    Raises:
        InUseError: another process holds it after `timeout_s`.
        StoreError: the folder cannot be written.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout_s)
    except Timeout as error:
        raise InUseError(
            f"{path.parent}: in use by another autodistill process",
            "wait for it to end, or give this study another name with --study",
        ) from error
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror or error})", f"give a writable folder; {_PLACES}"
        ) from error
    try:
        yield
    finally:
        lock.release()


class RunFolder(NamedTuple):
    """Where a study lives: `runs/STUDY/`."""

    path: Path

    @property
    def space(self) -> Path:
        """The resolved space, itself runnable."""
        return self.path / "run.toml"

    @property
    def identity(self) -> Path:
        """What makes this study this study, as JSON; a command with another one is refused."""
        return self.path / "identity.json"

    @property
    def environment(self) -> Path:
        return self.path / "env.json"

    @property
    def record(self) -> Path:
        return self.path / "study.json"

    @property
    def database(self) -> Path:
        """Optuna's storage."""
        return self.path / "study.db"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    def result(self, run: str) -> Path:
        return self.path / run / "result.json"

    def checkpoint(self, run: str) -> Path:
        return self.path / run / "checkpoint.pt"

    def weights(self, run: str) -> Path:
        return self.path / run / "student.safetensors"


@contextlib.contextmanager
def owned(folder: RunFolder) -> Iterator[None]:
    """Be the one process that decides on a study.

    Its folder is made for its owner alone: what lies there is trusted when the study goes on. One that is there keeps
    its permissions, so that a team can share it.

    Raises:
        InUseError: another process does.
        StoreError: the folder cannot be written.
    """
    with contextlib.suppress(OSError):  # which `locked` then meets too, and tells
        folder.path.parent.mkdir(parents=True, exist_ok=True)
        folder.path.mkdir(mode=0o700, exist_ok=True)
    with locked(folder.lock, timeout_s=0):
        yield


def demand_folder(path: Path, *, writable: bool = True) -> None:
    """Check that a folder is there or can be made; writes nothing.

    Args:
        path: the folder.
        writable: whether files must be made in it.

    Raises:
        StoreError: a file is in its place, or this user may not use it.
    """
    place = next(it for it in (path, *path.parents) if os.path.exists(it))
    if not place.is_dir():
        raise StoreError(f"{place}: cannot be written (a file, not a folder)", f"give a writable folder; {_PLACES}")
    if not os.access(place, os.R_OK | os.X_OK | (os.W_OK if writable else 0)):
        verb = "written" if os.access(place, os.R_OK | os.X_OK) else "read"
        raise StoreError(f"{place}: cannot be {verb} (no permission)", f"give a writable folder; {_PLACES}")


def demand_usable(folder: RunFolder) -> None:
    """Check that a study can be kept in a folder, or gone on with there; writes nothing.

    Raises:
        StoreError: as `demand_folder`, or one of the study's files cannot be read.
    """
    demand_folder(folder.path)
    files = [folder.identity, folder.record, folder.space, folder.environment, folder.lock, folder.database]
    for path in (*files, *(folder.path / name for name in ("plan.json", "carried.json", "order.jsonl"))):
        if os.path.exists(path) and not (path.is_file() and os.access(path, os.R_OK)):
            what = "no permission" if path.is_file() else "a folder, not a file"
            raise StoreError(
                f"{path}: cannot be read ({what})", "move it away, or give this study another name with --study"
            )


class Depot(NamedTuple):
    """Where machines that share no folder leave files for each other."""

    fetch: Callable[[Path], bool]
    """Get a file that is not here from there; returns whether it is here now."""
    leave: Callable[[Path], None]
    """Let the others have a file, in place of an older one."""


NO_DEPOT = Depot(fetch=Path.exists, leave=lambda _: None)
"""All share one folder."""


def write_result(folder: RunFolder, ended: RunEnded, *, hold: Callable[[], None] = _go_on) -> None:
    """Keep a finished run, if `hold` lets it; from here on it is never trained again."""
    write_bytes(folder.result(ended.record.run), to_json(ended).encode(), hold=hold)


def read_result(folder: RunFolder, run: str) -> RunEnded | None:
    """Return the kept result of a run; None where there is none, or a damaged one: the run is then trained again.

    Raises:
        StoreError: there is a file, and it cannot be read.
    """
    path = folder.result(run)
    if not path.exists():
        return None
    try:
        ended = RunEnded.model_validate_json(path.read_bytes())
    except ValidationError:
        return None
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read ({error.strerror})", "make it readable, or remove it: the run is trained again"
        ) from error
    return ended.model_copy(update={"reused": True}) if ended.record.run == run else None


def kept_result(folder: RunFolder, request: RunRequest) -> RunEnded | None:
    """The kept result of this very run; one of a run with other parameters under the same name is none."""
    ended = read_result(folder, request.run)
    if ended is None:
        return None
    asked, found = ((it.params, it.seed, it.epochs, it.until, it.begun_epochs) for it in (request, ended.record))
    return ended if asked == found else None


def forget_checkpoint(folder: RunFolder, trial: TrialRecord) -> None:
    """Remove what an ended trial's short run kept to be gone on with."""
    if trial.short is not None:
        folder.checkpoint(trial.short.run).unlink(missing_ok=True)


def claim(folder: RunFolder, identity: Mapping[str, Any]) -> None:
    """Make a new run folder this study's own, or check that an existing one is.

    Raises:
        StoreError: the folder belongs to a study that differs (the message shows where), or cannot say to which.
    """
    text = json.dumps(identity, indent=1, sort_keys=True) + "\n"
    if not folder.identity.exists():
        write_text(folder.identity, text)
        return
    try:
        kept = json.loads(folder.identity.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{folder.identity}: damaged, so that nobody can say to which study the folder belongs",
            "give this study its own name with --study, or remove the folder",
        ) from error
    lines = list(_differences(kept, asked := json.loads(text)))
    if isinstance(kept, dict) and kept.get("data") == asked.get("data"):  # the same images and labels, moved
        lines = [line for line in lines if not line.startswith(("space.data.name:", "space.data.root:"))]
    if lines:
        more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        shown = "\n  ".join(lines[:_SHOWN] + more)
        raise StoreError(
            f"{folder.path}: belongs to another study:\n  {shown}",
            "repeat the command that started it, or give this one its own name with --study",
        )


def _differences(kept: Any, asked: Any, key: str = "") -> Iterator[str]:
    if isinstance(kept, dict) and isinstance(asked, dict):
        for name in sorted({*kept, *asked}):
            yield from _differences(kept.get(name), asked.get(name), f"{key}.{name}" if key else name)
    elif kept != asked:
        yield f"{key}: there {kept!r:.200}, asked for {asked!r:.200}"
