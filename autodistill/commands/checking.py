"""`env` and `spaces check`."""

from collections.abc import Sequence
from importlib import metadata

import torch

from autodistill import console
from autodistill.config import dump, load
from autodistill.store import cache_root
from autodistill.study import KNOWN, environment


def env(*, as_json: bool) -> None:
    """Print versions, device and folders."""
    found = environment("cuda" if torch.cuda.is_available() else "cpu")
    found |= {"cache": str(cache_root()), "foreign package": _foreign()}
    if as_json:
        console.show_json({"schema_version": 1, **found})
    else:
        console.show_table("Environment", ("", ""), found.items())


def check_space(file: str, overrides: Sequence[str]) -> None:
    """Validate a space and print it resolved."""
    console.show_text(dump(load(file, known=KNOWN, overrides=overrides)).rstrip())
    console.show_note(f"{file} is well-formed. Next: autodistill search --student mobilenetv2 --space {file}")


def _foreign() -> str:
    try:
        return f"autodistill {metadata.version('autodistill')}: make a fresh environment"
    except metadata.PackageNotFoundError:
        return "none"
