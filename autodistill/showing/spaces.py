"""Shipped search spaces: listed, printed, copied."""

import tomllib
from pathlib import Path

from autodistill import console
from autodistill.config import shipped
from autodistill.errors import ConfigError, StoreError, near
from autodistill.store import write_text


def list_spaces() -> None:
    rows = [(name, tomllib.loads(text).get("purpose", "")) for name, text in sorted(shipped().items())]
    console.show_table("Search spaces", ("name", "purpose"), rows)


def show_space(name: str) -> None:
    console.show_text(_text(name).rstrip())


def copy_space(name: str, file: Path) -> None:
    if file.exists():
        raise StoreError(f"{file}: exists already", "name a new file, or remove it first")
    write_text(file, _text(name))
    console.show_note(f"{file} written. Next: autodistill spaces check {file}")


def _text(name: str) -> str:
    spaces = shipped()
    if name not in spaces:
        raise ConfigError(f"unknown space {name!r} ({near(name, spaces)})")
    return spaces[name]
