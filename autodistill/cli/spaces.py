"""`spaces list|show|cp|check`."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

from autodistill.cli import console
from autodistill.config import shipped
from autodistill.errors import ConfigError, StoreError, near
from autodistill.store import write_text


def list_spaces() -> None:
    """Print the names and purposes of the shipped spaces."""
    rows = [(name, tomllib.loads(text).get("purpose", "")) for name, text in sorted(shipped().items())]
    console.show_table("Search spaces", ("name", "purpose"), rows)


def show_space(name: str) -> None:
    """Print a shipped space."""
    console.show_text(_text(name).rstrip())


def copy_space(name: str, file: Path) -> None:
    """Copy a shipped space to a new file."""
    if file.exists():
        raise StoreError(f"{file}: exists already", "name a new file, or remove this one")
    write_text(file, _text(name))
    console.show_note(f"wrote {file}. Next: autodistill spaces check {file}")


def check_space(file: str, overrides: Sequence[str]) -> None:
    """Check a space and print all its values."""
    from autodistill.config import dump, load
    from autodistill.study import KNOWN

    console.show_text(dump(load(file, known=KNOWN, overrides=overrides)).rstrip())
    console.show_note(f"{file} is valid. Next: autodistill search --student mobilenetv2 --space {file}")


def _text(name: str) -> str:
    spaces = shipped()
    if name not in spaces:
        raise ConfigError(f"unknown space {name!r} ({near(name, spaces)})")
    return spaces[name]
