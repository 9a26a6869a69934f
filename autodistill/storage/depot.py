"""Where machines that share no folder leave files for each other: an artifact store of Optuna's."""

import hashlib
import importlib.util
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import Boto3ArtifactStore, FileSystemArtifactStore

from autodistill.errors import ConfigError, StoreError
from autodistill.store import Depot, write_bytes

FILE, S3 = "file://", "s3://"
SEAL_BYTES = 32
_BUCKET = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[\w!.*'()/-]*))?")


def checked_depot(url: str) -> str:
    """An address that can be opened with what is installed.

    Raises:
        ConfigError: it is of an unknown kind, or its library is missing.
    """
    if not url.startswith(FILE + "/") and _BUCKET.fullmatch(url) is None:
        raise ConfigError(
            f"--artifacts {url}: is no place for files (allowed: s3://BUCKET/PREFIX, file:///FOLDER)",
            "keys and endpoint come from AWS's usual variables, AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and so on",
        )
    if url.startswith(S3) and importlib.util.find_spec("boto3") is None:
        raise ConfigError(f"--artifacts {url}: needs the library boto3", "pip install 'kd-autodistill[s3]'")
    return url


def open_depot(url: str, roots: Mapping[str, Path]) -> Depot:
    """A depot for the files below some folders, which lie elsewhere on every machine.

    Args:
        roots: name to folder; files are known by a folder's name and their path below it.

    Raises:
        ConfigError: as `checked_depot`.
        StoreError: when used: the depot cannot be reached, read or written.
    """
    store, prefix = _opened(checked_depot(url))

    def key(path: Path) -> str:
        name, root = next((name, root) for name, root in roots.items() if path.is_relative_to(root))
        return prefix + "--".join((name, *path.relative_to(root).parts))

    def fetch(path: Path) -> bool:
        if path.exists():
            return True
        content = _content(store, key(path), url)
        if content is not None:
            write_bytes(path, content)
        return content is not None

    def leave(path: Path) -> None:
        content = path.read_bytes()
        try:
            store.write(key(path), io.BytesIO(hashlib.sha256(content).digest() + content))
        except _failures() as error:
            raise _unusable(url, error) from error

    return Depot(fetch, leave)


def _opened(url: str) -> tuple[Any, str]:
    if url.startswith(FILE):
        folder = Path(url.removeprefix(FILE))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(url, error) from error
        return FileSystemArtifactStore(folder), ""
    found = _BUCKET.fullmatch(url)
    assert found is not None
    prefix = (found["prefix"] or "").strip("/")
    return Boto3ArtifactStore(found["bucket"]), f"{prefix}/" if prefix else ""


def _content(store: Any, key: str, url: str) -> bytes | None:
    """What was left there whole; a torn file is as none, and is left anew by whoever makes it again."""
    try:
        with store.open_reader(key) as file:
            found = bytes(file.read())
    except optuna.artifacts.exceptions.ArtifactNotFound:
        return None
    except _failures() as error:
        raise _unusable(url, error) from error
    seal, content = found[:SEAL_BYTES], found[SEAL_BYTES:]
    return content if hashlib.sha256(content).digest() == seal else None


def _failures() -> tuple[type[Exception], ...]:
    if importlib.util.find_spec("boto3") is None:
        return (OSError,)
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return (OSError, Boto3Error, BotoCoreError, ClientError)


def _unusable(url: str, error: Exception) -> StoreError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return StoreError(f"--artifacts {url}: cannot be used ({reason})", "mend it; the same command then goes on")
