"""Networks and datasets that a Python program passes as objects: each becomes a URI.

A function that can be imported becomes `python:MODULE:NAME`, or `python:FILE.py:NAME` if the script that runs defines
it. Other objects exist in this process only; they become `python:given_in_python:NAME`.
"""

import contextlib
import copy
import functools
import hashlib
import inspect
import json
import pickle
import re
import sys
import types
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torch import nn
from torch.utils.data import Dataset

from autodistill import usercode
from autodistill.errors import ConfigError
from autodistill.models.uri import RESERVED, with_option
from autodistill.tensors import raw_bytes

Network = str | nn.Module | Callable[..., Any] | tuple[Any, Mapping[str, object]]
"""A name or URI, a network, a function that returns a network, or a pair of one of these and options of its URI."""
Images = str | Dataset[Any] | tuple[Any, ...] | Mapping[str, Any] | Callable[..., Any]
"""A name or URI, a dataset, several by split, or a function that returns them."""
SPLITS = {2: ("train", "test"), 3: ("train", "validation", "test")}
"""Splits of a tuple of datasets, by its length."""
HERE = "given_in_python"
"""Name of the module that holds objects while a call runs. It has no file."""


class Passed:
    """The objects of a call.

    Args:
        anything: Whether networks may exist in this process only. Worker processes must import them.
        datasets: Whether datasets may exist in this process only. Other machines must import them.
    """

    def __init__(self, *, anything: bool = False, datasets: bool = False) -> None:
        self._anything, self._datasets = anything, datasets
        self._objects: dict[str, Callable[..., Any]] = {}

    def network(self, value: Network, argument: str) -> str:
        """Return the name or URI of a network.

        Args:
            value: The network. `argument` names it in errors.

        Raises:
            ConfigError: It is something else, or worker processes cannot import it.
        """
        if isinstance(value, tuple):
            if len(value) != 2 or not isinstance(value[1], Mapping):
                raise ConfigError(
                    f"{argument}: a tuple must be (network, options)", 'such as (resnet20, {"norm": "cifar10"})'
                )
            return _with_options(self.network(value[0], argument), value[1])
        if isinstance(value, str):
            return value
        if isinstance(value, nn.Module):
            if argument.startswith("student"):
                raise ConfigError(
                    f"{argument}: a {type(value).__name__} object; a student is trained several times from new weights",
                    "pass the class or the function that builds it",
                )
            self._check(self._anything, argument, f"a {type(value).__name__} object", "the function that builds it")
            weights = map(raw_bytes, value.state_dict().values())
            return self._keep(
                type(value).__name__, lambda: copy.deepcopy(value), _source(type(value)), str(value), *weights
            )
        if callable(value):
            return self._function(value, argument, allowed=self._anything)
        raise ConfigError(
            f"{argument}: a {type(value).__name__} is no network", "pass a name, a URI, an nn.Module, or a function"
        )

    def images(self, value: Images) -> str:
        """Return the name or URI of images.

        Raises:
            ConfigError: They are something else, or the machines of a cluster cannot import them.
        """
        if isinstance(value, str):
            return value
        if inspect.isfunction(value) or isinstance(value, type | functools.partial):
            return self._function(value, "data", allowed=self._datasets)
        parts = (
            dict(zip(SPLITS[len(value)], value, strict=True))
            if isinstance(value, tuple) and len(value) in SPLITS
            else value
        )
        if isinstance(parts, Mapping | list | tuple) and not parts:
            raise ConfigError(f"data: an empty {type(parts).__name__}", "pass at least one image of each class")
        for rows in parts.values() if isinstance(parts, Mapping) else [parts]:
            if isinstance(rows, tuple) or not (hasattr(rows, "__getitem__") and hasattr(rows, "__len__")):
                raise ConfigError(
                    f"data: a {type(rows).__name__} is no dataset",
                    "pass a name, a URI, a dataset of (image, label) pairs, (train, test), (train, validation, test), "
                    "a dict of splits, or a function that returns a dataset or such a dict",
                )
        self._check(self._datasets, "data", f"a {type(value).__name__} object", "the function that returns it")
        one = next(iter(parts.values())) if isinstance(parts, Mapping) else parts
        return self._keep(type(one).__name__, lambda: parts, _source(type(one)), _content(parts))

    @contextlib.contextmanager
    def importable(self) -> Iterator[None]:
        """Make the objects importable in this process, as attributes of the module `given_in_python`."""
        module = sys.modules.setdefault(HERE, types.ModuleType(HERE, "Objects that calls of autodistill were given."))
        added = [name for name in self._objects if not hasattr(module, name)]
        for name in added:
            setattr(module, name, self._objects[name])
        try:
            yield
        finally:
            for name in added:
                delattr(module, name)
            if not any(not name.startswith("__") for name in vars(module)):
                sys.modules.pop(HERE, None)

    def _function(self, value: Callable[..., Any], argument: str, *, allowed: bool) -> str:
        """Return the URI of a function or a class; keyword arguments of a `functools.partial` become options."""
        function: Any = value
        arguments: dict[str, Any] = {}
        while isinstance(function, functools.partial) and not function.args:
            function, arguments = function.func, {**function.keywords, **arguments}
        target = importable(function)
        with contextlib.suppress(TypeError):
            if target is not None:
                return _with_options(f"python:{target}", {_option(key): _argument(it) for key, it in arguments.items()})
        name = getattr(function, "__qualname__", type(function).__name__)
        where = "a function inside another or a lambda" if not name.isidentifier() else "defined in this session only"
        self._check(allowed, argument, f"{name}, {where}", "it in a file")
        return self._keep(name, value, _source(value))

    def _check(self, allowed: bool, argument: str, what: str, instead: str) -> None:
        if not allowed:
            raise ConfigError(
                f"{argument}: {what}: worker processes cannot import it",
                f"pass {instead}, as python:FILE.py:FUNCTION, or train in this process with executor='serial'",
            )

    def _keep(self, name: str, function: Callable[..., Any], *content: str | memoryview) -> str:
        digest = hashlib.sha256(b"\0".join(it.encode() if isinstance(it, str) else it for it in content)).hexdigest()
        plain = re.sub(r"\W", "", name.rpartition(".")[2]) or "network"
        key = f"{plain}_{digest[:8]}"
        self._objects[key] = function
        return f"python:{HERE}:{key}"


def importable(function: Any) -> str | None:
    """Return `MODULE:NAME` or `FILE.py:NAME` of a function or class; None: another process cannot import it."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    found = sys.modules.get(module or "")
    file = getattr(found, "__file__", None)
    if not name.isidentifier() or file is None or getattr(found, name, None) is not function:
        return None
    if module != "__main__":
        return f"{module}:{name}"
    spec = getattr(found, "__spec__", None)
    if spec is not None:  # python -m MODULE
        return f"{spec.name}:{name}"
    path = Path(file).resolve()
    if path.suffix != ".py" or not path.is_file():
        return None
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{name}"


def _option(key: str) -> str:
    return f"arg.{key}" if key in RESERVED else key


def _argument(value: Any) -> str:
    """Return an argument of a factory as an option of a URI; raises `TypeError` for what is no JSON."""
    if isinstance(value, str) and usercode.value(value) == value:  # other texts would be read as JSON
        return value
    return json.dumps(value)


def _with_options(uri: str, options: Mapping[str, object]) -> str:
    """Add options to a URI. Sequences become comma-separated, as in `mean=0.5,0.5,0.5`."""
    for key, value in options.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
        uri = with_option(uri, f"{key}={quote(text, safe='/:,+~@#.-_')}")
    return uri


def _source(value: Any) -> str:
    """Return what decides what a function builds: its code, its arguments, and the plain values that it refers to."""
    if isinstance(value, functools.partial):
        return f"{_source(value.func)} {value.args!r} {sorted(value.keywords.items())!r}"
    try:
        code = inspect.getsource(value)
    except (OSError, TypeError):
        code = repr(getattr(getattr(value, "__code__", None), "co_code", getattr(value, "__qualname__", type(value))))
    if not inspect.isfunction(value):
        return code
    found = inspect.getclosurevars(value)
    plain = {
        key: it
        for key, it in {**found.globals, **found.nonlocals}.items()
        if isinstance(it, str | int | float | tuple | None)
    }
    return f"{code} {sorted(plain.items())!r} {value.__defaults__!r} {value.__kwdefaults__!r}"


class _Hash:
    """A file that keeps the hash of what is written to it."""

    def __init__(self) -> None:
        self.found = hashlib.sha256()

    def write(self, data: Any) -> None:
        self.found.update(data)


def _content(value: Any) -> str:
    """Return a hash of an object's content; a new one every time for an object that cannot be pickled."""
    file = _Hash()
    try:
        pickle.Pickler(file).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RuntimeError, LookupError, OSError):
        return uuid.uuid4().hex
    return file.found.hexdigest()
