"""Loading of search spaces: a shipped TOML file or a user's own, `--set key=value` overrides, validation.

All mistakes are reported together.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w
from pydantic import ValidationError

from autodistill.config.schema import Range, Space, Spec, bounds, describe, holds
from autodistill.errors import ConfigError, near

RENAMED = {
    "search.rules": "search.methods",
    "search.second_looks": "search.reruns",
    "prior.rule": "prior.method",
    "training.short_epochs": "training.rung_epochs",
}
"""Keys of older versions."""


class Known(NamedTuple):
    """Names that a space may use. The caller passes them in, because the registries belong to higher layers."""

    datasets: Sequence[str]
    architectures: Sequence[str]
    methods: Mapping[str, Sequence[str]]
    """Parameters of each method."""
    losses: Sequence[str]


def shipped() -> dict[str, str]:
    """Return the TOML text of each shipped space by name."""
    folder = resources.files("autodistill.search_spaces")
    found = (entry for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return {entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8") for entry in found}


def load(name: str, *, known: Known, overrides: Sequence[str] = ()) -> Space:
    """Load a search space.

    Args:
        name: Name of a shipped space, or path of a TOML file.
        known: Names that the space may use.
        overrides: `key=value` pairs that replace values of the file.

    Raises:
        ConfigError: The space has mistakes. The message lists all of them, each with file, key, value and the allowed
            values.
    """
    text, source = _read(name)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{source}: not valid TOML: {error}", "`autodistill spaces show digits` prints a valid space"
        ) from error
    mistakes = []
    for override in overrides:
        mistakes += list(_apply(tree, override))
    return parse(tree, source=source, known=known, mistakes=mistakes)


def parse(tree: Mapping[str, Any], *, source: str, known: Known, mistakes: Sequence[str] = ()) -> Space:
    """Validate a space that was parsed from TOML.

    Args:
        tree: Tables and values.
        source: File name for error messages.
        known: Names that the space may use.
        mistakes: Mistakes found earlier, which are reported with the others.

    Raises:
        ConfigError: The space has mistakes; the message lists all of them.
    """
    space, wrong = _validated(tree)
    lines = [*mistakes, *wrong, *_unknown_names(space, known)]
    # The prior is checked last: a mistake in a method would be reported again as a prior outside the space.
    found = [f"{source}: {line}" for line in lines or _prior_outside(space)]
    if found:
        count = f"{len(found)} mistakes\n" if len(found) > 1 else ""
        raise ConfigError(count + "\n".join(found), "`autodistill spaces check FILE` checks a space without running it")
    return space


def dump(space: Space) -> str:
    """Render a resolved space as TOML, from which `load` reads an equal space."""
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
            f"{path}: cannot be read ({error})", "`autodistill spaces cp digits FILE` writes a valid space"
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
    """Return the space without its mistaken keys, and the mistakes.

    Names can then be checked in the same pass as types and values.
    """
    kept, wrong = deepcopy(dict(tree)), list[str]()
    while True:
        try:
            return Space.model_validate(kept), wrong
        except ValidationError as error:
            wrong += _readable(error)
            for item in error.errors():
                _remove(kept, item["loc"])


def _remove(tree: dict[str, Any], loc: Sequence[int | str]) -> None:
    """Remove the deepest key of `loc` that exists, or the whole tree where the mistake has no key of its own."""
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
        # For a union pydantic appends the tried type to the location; the file contains only the key.
        path = [part for part in path if not part.startswith(("tuple[", "float", "str", "Range", "function-"))]
        key = ".".join(path)
        if key in RENAMED:
            line = f"{key}: is called {RENAMED[key]} now"
        elif item["type"] == "extra_forbidden":
            line = f"{key}: unknown key ({near(path[-1], _fields(path[:-1]))})"
        else:
            # The value of a table is not repeated: the message names the numbers that are wrong.
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


def _unknown_names(space: Space, known: Known) -> Iterator[str]:
    data = space.data.name.split(":")[0]
    if data not in known.datasets:
        yield f"data.name: unknown dataset {data!r} ({near(data, known.datasets)})"
    if space.search.loss not in known.losses:
        yield f"search.loss: unknown loss {space.search.loss!r} ({near(space.search.loss, known.losses)})"
    if not space.teachers:
        yield "teachers: needs at least one URI, for example 'ladder:' or 'file:ckpt.safetensors'"
    for architecture in space.ladder.architectures:
        name = architecture.split(":")[0]
        if name not in known.architectures:
            yield f"ladder.architectures: unknown architecture {name!r} ({near(name, known.architectures)})"
    if not space.search.methods:
        yield f"search.methods: needs at least one of {', '.join(known.methods)}"
    for method, params in space.search.methods.items():
        yield from _unknown_parameters(f"search.methods.{method}", method, params, known)
    yield from _unknown_parameters("prior.params", space.prior.method, space.prior.params, known)


def _prior_outside(space: Space) -> Iterator[str]:
    """Check that the search could suggest the prior, which is the first trial of every teacher."""
    prior, methods = space.prior, space.search.methods
    if prior.method not in methods:
        yield f"prior.method: {prior.method!r} is not searched (search.methods has {', '.join(methods)})"
        return
    wanted = {name: prior.params.get(name) for name in {**methods[prior.method], **prior.params}}
    searched = {f"params.{name}": (methods[prior.method].get(name), value) for name, value in wanted.items()}
    for name, (dimension, value) in {
        **searched,
        "soft_weight": (space.search.soft_weight, prior.soft_weight),
    }.items():
        if dimension is None:
            yield f"prior.{name}: not among search.methods.{prior.method}"
        elif not holds(dimension, value):
            yield f"prior.{name}: {value} is not in {describe(dimension)}; set a value that is"


def _unknown_parameters(where: str, method: str, params: Mapping[str, object], known: Known) -> Iterator[str]:
    if method not in known.methods:
        yield f"{where}: unknown method {method!r} ({near(method, known.methods)})"
        return
    allowed = [*known.methods[method], "tau_student"]
    for name, value in params.items():
        if name not in allowed:
            yield f"{where}.{name}: unknown parameter ({near(name, allowed)})"
        limits = bounds(value) if isinstance(value, Range | tuple | float | int | str) else None
        if limits is not None and limits[0] <= 0:
            yield f"{where}.{name}: must be above 0 (got {limits[0]:g})"
