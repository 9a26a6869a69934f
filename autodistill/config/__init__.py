"""The search space: shipped TOML < `--space FILE` < `--set key=value`, validated all at once."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from autodistill.config.models import (
    Choice,
    ConfirmSpec,
    DataSpec,
    Dimension,
    LadderSpec,
    PlainKDSpec,
    PriorSpec,
    Range,
    SearchSpec,
    Space,
    Spec,
    StudentSpec,
    TrainingSpec,
    bounds,
)
from autodistill.config.names import Known, prior_outside, unknown_names
from autodistill.errors import ConfigError, near


def shipped() -> dict[str, str]:
    """Shipped spaces, name to TOML text."""
    folder = resources.files("autodistill.search_spaces")
    found = (entry for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return {entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8") for entry in found}


def load(name: str, *, known: Known, overrides: Sequence[str] = ()) -> Space:
    """Read a shipped space by name, or a file by path, and apply `key=value` overrides.

    Raises:
        ConfigError: with every mistake at once, each with file, key, value and what is allowed.
    """
    text, source = _read(name)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{source}: no valid TOML: {error}", "`autodistill spaces show digits` prints one"
        ) from error
    mistakes = []
    for override in overrides:
        mistakes += list(_apply(tree, override))
    return parse(tree, source=source, known=known, mistakes=mistakes)


def parse(tree: Mapping[str, Any], *, source: str, known: Known, mistakes: Sequence[str] = ()) -> Space:
    """Validate a parsed space.

    Raises:
        ConfigError: with every mistake at once.
    """
    space, wrong = _validated(tree)
    lines = [*mistakes, *wrong, *unknown_names(space, known)]
    # A mistaken rule would be reported a second time as one that the prior does not fit.
    found = [f"{source}: {line}" for line in lines or prior_outside(space)]
    if found:
        count = f"{len(found)} mistakes\n" if len(found) > 1 else ""
        raise ConfigError(
            count + "\n".join(found), "`autodistill spaces check FILE` checks a space without running it"
        )
    return space


def dump(space: Space) -> str:
    """Render a resolved space as TOML; `load` reads it back to an equal one."""
    return tomli_w.dumps(space.model_dump(mode="json", exclude_none=True))


def _read(name: str) -> tuple[str, str]:
    spaces = shipped()
    if name in spaces:
        return spaces[name], f"search_spaces/{name}.toml"
    path = Path(name)
    if not path.suffix and not path.exists():
        raise ConfigError(f"unknown space {name!r} ({near(name, spaces)})", "or name a .toml file")
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error})", "`autodistill spaces cp digits FILE` writes one"
        ) from error


def _apply(tree: dict[str, Any], override: str) -> Iterator[str]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        yield f"--set {override}: must be key=value, for example training.epochs=20"
        return
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, leaf = key.strip().split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            yield f"--set {override}: {parent} is a value, not a table"
            return
    tree[leaf] = value


def _validated(tree: Mapping[str, Any]) -> tuple[Space, list[str]]:
    """The space without its mistaken keys, and the mistakes: so that names are checked as well in one go."""
    kept, wrong = deepcopy(dict(tree)), list[str]()
    while True:
        try:
            return Space.model_validate(kept), wrong
        except ValidationError as error:
            wrong += _readable(error)
            for item in error.errors():
                _remove(kept, item["loc"])


def _remove(tree: dict[str, Any], loc: Sequence[int | str]) -> None:
    """Drop the deepest key of `loc` that exists; the whole tree where the mistake has no key of its own."""
    node: Any = tree
    last: tuple[dict[str, Any], str] | None = None
    for part in loc:
        if not (isinstance(node, dict) and part in node):
            break
        last = node, str(part)
        node = node[part]
    if last is None:
        tree.clear()
    else:
        del last[0][last[1]]


def _readable(error: ValidationError) -> Iterator[str]:
    seen: set[str] = set()
    for item in error.errors():
        path = [str(part) for part in item["loc"]]
        # pydantic puts the tried member of a union behind the key; people wrote only the key.
        path = [part for part in path if not part.startswith(("tuple[", "float", "str", "Range", "function-"))]
        key = ".".join(path)
        if item["type"] == "extra_forbidden":
            line = f"{key}: unknown key ({near(path[-1], _fields(path[:-1]))})"
        else:
            # A table that is wrong as a whole is known to whoever wrote it; its message names the numbers.
            got = "" if isinstance(item["input"], dict) else f" (got {item['input']!r:.80})"
            line = f"{key or 'space'}: {item['msg'].removeprefix('Value error, ')}{got}"
        if line not in seen:
            seen.add(line)
            yield line


def _fields(path: Sequence[str]) -> list[str]:
    spec: type[Spec] = Space
    for part in path:
        field = spec.model_fields.get(part)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, Spec)):
            return list(Range.model_fields)
        spec = inner
    return list(spec.model_fields)


__all__ = [
    "Choice",
    "ConfirmSpec",
    "DataSpec",
    "Dimension",
    "Known",
    "LadderSpec",
    "PlainKDSpec",
    "PriorSpec",
    "Range",
    "SearchSpec",
    "Space",
    "Spec",
    "StudentSpec",
    "TrainingSpec",
    "bounds",
    "dump",
    "load",
    "parse",
    "shipped",
]
