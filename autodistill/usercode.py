"""Import of code that a user names: `FILE.py` or a module."""

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from autodistill.errors import AutodistillError, TrialError, near
from autodistill.local_files import local_path

USER_FILE = "autodistill_user_"
"""How the names of modules begin that are files of the user."""
_NEIGHBOURS: dict[str, dict[str, ModuleType]] = {}
"""Modules that files of the user have imported from the folder of these files, by folder and name."""
_IMPORTED: dict[Path, bytes] = {}
"""Source code of these files and modules when they were imported, by path."""
_NOT_BESIDE = {*sys.stdlib_module_names, "numpy", "torch", "torchvision"}
"""Modules that a file of the user gets from Python and its environment, whatever lies beside the file."""
_NOT_OF_A_USER = {*_NOT_BESIDE, "autodistill", "jaxtyping", "optuna", "pydantic", "ray", "safetensors"}
"""Packages whose code is never a loss or a student that a user names."""
_CALLS = {("contextlib", "inner"), ("autodistill.models.students", "forward")}
"""Modules and functions through which this package calls losses and students in a run."""
Refused = Callable[[str, str], AutodistillError]
"""Makes an error of a message and a hint; it names what the user wrote."""


@contextlib.contextmanager
def errors_as(refused: Callable[[BaseException], AutodistillError | None]) -> Iterator[None]:
    """Turn any error of the user's code into the error of autodistill that `refused` makes; None: leave it as it is.

    This is the only place that catches all errors. Errors of autodistill and lack of memory pass unchanged.
    """
    import torch

    try:
        yield
    except (AutodistillError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        if (found := refused(error)) is None:
            raise
        raise found from error


def run_failed(error: BaseException) -> TrialError | None:
    """Return the failure of a run by an error of the user's code, with its place; None for another error."""
    # Python replaces a StopIteration that passes a generator, here the training loop, and names it as the cause.
    error = error.__cause__ if isinstance(error.__cause__, StopIteration) else error
    places = [
        (frame.f_globals.get("__name__", ""), frame, line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    # Calls of losses pass `contained`, those of students `Wrapped`. Callbacks, which show progress, pass neither.
    calls = [(name, frame.f_code.co_name) in _CALLS for name, frame, _ in places]
    outside = [
        it
        for number, it in enumerate(places)
        if it[0].startswith(USER_FILE) or (any(calls[:number]) and it[0].partition(".")[0] not in _NOT_OF_A_USER)
    ]
    if not outside:
        return None
    # The line of the user's own file says more than that of a package that it calls.
    _, frame, line = ([it for it in outside if it[0].startswith(USER_FILE)] or outside)[-1]
    file = os.path.basename(frame.f_code.co_filename)
    return TrialError(f"{said(error)} ({file}, line {line})", f"mend {file}, then repeat the command")


def said(error: BaseException) -> str:
    """Return the type of an error and the first line of its text: `ValueError: no such layer`."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def place_of(error: BaseException) -> str:
    """Return file and line of the deepest frame of an error that is the user's own code; empty: there is none."""
    import torch

    installed = os.path.dirname(os.path.dirname(os.path.abspath(torch.__file__)))
    libraries = tuple(
        f"{folder}{os.sep}" for folder in (installed, os.path.dirname(__file__), os.path.dirname(os.__file__))
    )
    frames = [it for it in traceback.extract_tb(error.__traceback__) if os.path.isfile(it.filename)]
    own = [it for it in frames if not os.path.abspath(it.filename).startswith(libraries)]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else ""


def function(target: str, refused: Refused) -> tuple[Callable[..., Any], bytes]:
    """Import a function: `FILE.py:NAME` or `MODULE:NAME`.

    Returns:
        The function, and its source code: that of its file, and of the modules beside a `FILE.py` that it imports.

    Raises:
        AutodistillError: The file or module cannot be imported, or has no such function.
    """
    place, _, name = target.rpartition(":")
    if not place or not name.isidentifier():
        raise refused("names no function", "write python:FILE.py:FUNCTION or python:MODULE:FUNCTION")
    module, code = _imported(place, refused)
    found = getattr(module, name, None)
    if not callable(found):
        names = [key for key, it in vars(module).items() if callable(it) and not key.startswith("_")]
        raise refused(f"{place} has no function {name!r} ({near(name, names)})", "check the name of the function")
    return found, code


def call(target: str, function: Callable[..., Any], arguments: Mapping[str, Any], refused: Refused) -> Any:
    """Call a user's function; refuse it if the arguments do not fit or the function fails."""
    place, _, name = target.rpartition(":")
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise refused(
            f"{name}{inspect.signature(function)}: {error}",
            "options other than the documented ones are arguments of the function",
        ) from error
    except ValueError:  # a callable without a signature
        pass
    hint = f"call {name} of {place} yourself to see where"
    with errors_as(lambda error: refused(f"{name} failed: {said(error)}", hint)), _contained(_file_of(function)):
        return function(**arguments)


def contained(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a user's function for many calls, which writes to stderr and leaves torch's settings as they were."""
    return _settings_kept()(function)


@contextlib.contextmanager
def _settings_kept() -> Iterator[None]:
    """Restore torch's settings, and send standard output, which is for results, to stderr."""
    import torch

    gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)


def _file_of(factory: Callable[..., Any]) -> str | None:
    """Return the file of a function; None: it has no source code of its own."""
    try:
        return inspect.getsourcefile(inspect.unwrap(factory))
    except TypeError:
        return None


def value(text: str) -> Any:
    """Return the JSON value of an argument, or the text itself where it is no JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _imported(place: str, refused: Refused) -> tuple[Any, bytes]:
    """Import a file or a module; return it with its source code."""
    hint = "write python:FILE.py:FACTORY with a path to the file, or install the module in this environment"
    with errors_as(lambda error: refused(f"{place} cannot be imported: {said(error)}", hint)):
        if not place.endswith(".py"):
            module = importlib.import_module(place)
            file = getattr(module, "__file__", None)
            return module, Path(file).read_bytes() if file else b""
        path = local_path(place).resolve()
        if not path.is_file():
            raise refused(f"no such file: {path}", "check the path")
        sources = {path.parent / file: content for file, content in _sources(path).items()}
        code = b"".join(
            content if file == path else b"\0".join((b"", file.relative_to(path.parent).as_posix().encode(), content))
            for file, content in sources.items()
        )
        if any(_IMPORTED.get(file, content) != content for file, content in sources.items()):
            _NEIGHBOURS.pop(str(path.parent), None)  # the modules beside the file are imported again
        _IMPORTED.update(sources)
        name = f"{USER_FILE}{path.stem}_{hashlib.sha256(str(path).encode() + code).hexdigest()[:12]}"
        if name not in sys.modules:
            _run_file(path, name)
        return sys.modules[name], code


def source_files(place: str) -> dict[str, bytes]:
    """Return the source code of a file of the user and of the modules beside it that it imports.

    Keys are paths relative to the folder of the file, the file itself first. Modules of the environment,
    `python:MODULE:FUNCTION`, have no files of their own.
    """
    return _sources(local_path(place).resolve()) if place.endswith(".py") else {}


def _sources(path: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes()}
    left = [path.name]
    while left:
        file = left.pop()
        for name in sorted(_imported_names(found[file], file)):
            base = path.parent.joinpath(*name.split("."))
            for module in (base / "__init__.py", base.with_name(f"{base.name}.py")):
                inner = module.relative_to(path.parent).as_posix()
                if inner not in found and module.is_file():
                    found[inner] = module.read_bytes()
                    left.append(inner)
    return {path.name: found.pop(path.name), **dict(sorted(found.items()))}


def _imported_names(code: bytes, file: str) -> set[str]:
    """Return the dotted names of everything that may be a module in the import statements of a file."""
    try:
        statements = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError):  # the import itself, if there is one, tells what is wrong
        return set()
    package, found = file.split("/")[:-1], set[str]()
    for it in statements:
        if isinstance(it, ast.Import):
            names = [alias.name.split(".") for alias in it.names]
        elif isinstance(it, ast.ImportFrom):
            around = package[: len(package) + 1 - it.level] if it.level else []
            start = [*around, *(it.module or "").split(".")] if it.module else around
            names = [start, *([*start, alias.name] for alias in it.names)]
        else:
            continue
        for parts in names:
            if parts and parts[0] not in _NOT_BESIDE:
                found |= {".".join(parts[:end]) for end in range(1, len(parts) + 1) if parts[end - 1] != "*"}
    return found


def _run_file(path: Path, name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Pickle finds classes by the name of their module.
    sys.modules[name] = module
    with contextlib.ExitStack() as failed:
        failed.callback(sys.modules.pop, name)
        with _contained(str(path)):
            spec.loader.exec_module(module)
        failed.pop_all()  # the module stays if its code ran to the end


@contextlib.contextmanager
def _contained(file: str | None) -> Iterator[None]:
    """Let a user's file import the files beside it, and undo what its code changes for the whole process.

    Files of two folders may import different modules of the same name. The code may change the working folder, the
    arguments of the command and torch's settings.
    """
    import torch

    folder = os.path.dirname(os.path.abspath(file)) if file else ""
    place, arguments, threads = os.getcwd(), sys.argv, torch.get_num_threads()
    known = _NEIGHBOURS.setdefault(folder, {})
    before = {name: sys.modules[name] for name in known if name in sys.modules}
    sys.modules.update(known)
    others = {
        name: sys.modules.pop(name)
        for neighbours in (it for key, it in _NEIGHBOURS.items() if key != folder)
        for name, module in neighbours.items()
        if name not in known and sys.modules.get(name) is module
    }
    there = set(sys.modules)
    sys.path.insert(0, folder)
    sys.argv = [file or ""]
    try:
        with _settings_kept(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)  # the user's files are as they are
            yield
    finally:
        sys.argv = arguments
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
        if folder:
            added = [name for name in set(sys.modules) - there if not name.startswith(USER_FILE)]
            known.update({name: sys.modules[name] for name in added if _lies_in(folder, name)})
        for name in known:
            sys.modules.pop(name, None)
        sys.modules.update({**others, **before})
        os.chdir(place)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _lies_in(folder: str, name: str) -> bool:
    """Return whether an imported module is one of the files or packages in a folder.

    Packages of an environment within the folder, such as `.venv`, are not among them: they are shared by all files.
    """
    top = name.partition(".")[0]
    module = sys.modules.get(top)
    file = getattr(module, "__file__", None)
    # A package lies where its path says: a namespace package has no file.
    places = getattr(module, "__path__", None) or ([file] if file else [])
    return any(os.path.dirname(os.path.abspath(place)) == folder for place in places)
