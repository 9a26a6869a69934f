"""Where the files that a user names lie: under their names, or on a node of a cluster as copies."""

from collections.abc import Mapping
from pathlib import Path

_COPIES: dict[str, Path] = {}
"""Copies that this process uses, by the names that the user gave the files."""


def use_copies(copies: Mapping[str, Path]) -> None:
    """Let this process use copies of files, by the names that the user gave the files. Earlier copies are forgotten."""
    _COPIES.clear()
    _COPIES.update(copies)


def local_path(name: str) -> Path:
    """Return the path of a file or folder that the user named."""
    return _COPIES.get(name) or Path(name).expanduser()


def exists(name: str) -> bool:
    """Return whether the user's name is that of a file or folder."""
    try:
        return name in _COPIES or Path(name).expanduser().exists()
    except (OSError, ValueError):  # such as a name that is too long
        return False
