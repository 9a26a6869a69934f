"""Start worker processes.

On Linux they are forked from a server process of `multiprocessing` that has imported torch. The import takes seconds.
It happens once, while a command still checks its input. On other systems each process imports torch itself.
"""

import atexit
import contextlib
import multiprocessing
import os
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path

METHOD = "forkserver" if sys.platform == "linux" else "spawn"
"""Start method of `multiprocessing`. Windows cannot fork. On macOS, system libraries may fail in a forked process."""
PRELOADED = ["autodistill.executors.local", "torchvision"]
"""Modules that the server imports. They import all that a worker needs, and neither start threads nor use CUDA."""
ATTEMPTS, PAUSE_S = 3, 0.2
"""Attempts to fork a process while servers die, and seconds between attempts. After them the process is spawned."""
_servers = set[int]()
"""Servers that this module has started, by their process IDs."""


def start_server() -> bool:
    """Start the server without waiting for its imports; return whether processes can be forked from it. Idempotent.

    Python keeps one server per process. A server that the program of the user has started is left alone: it may have
    imported the user's script.
    """
    if METHOD != "forkserver" or (_server() is not None and _server() not in _servers):
        return False
    from multiprocessing import forkserver  # not for Windows

    # The server finds modules where this process finds them. `-c`, by which Python starts it, adds the current folder.
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(it or root for it in sys.path)
    try:
        with uninterrupted(), _in_environment(PYTHONSAFEPATH="1", PYTHONPATH=path):
            forkserver.set_forkserver_preload(PRELOADED)
            forkserver.ensure_running()
    except (
        OSError
    ):  # the path of its socket is too long, the folder is full, or a fork of the server's parent calls this
        return False
    if (server := _server()) is not None and server not in _servers:
        _servers.add(server)
        atexit.register(_end_server, server)
    return True


def _server() -> int | None:
    """Return the process ID of the last server, which may have died. `multiprocessing` has no public name for it."""
    from multiprocessing import forkserver

    return getattr(forkserver._forkserver, "_forkserver_pid", None)


def _end_server(server: int) -> None:
    """End a server whose processes have ended: readers of this process's stdout would wait for the server's end."""
    if _server() == server and not multiprocessing.active_children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, signal.SIGTERM)


def start(target: Callable[..., None], *args: object) -> BaseProcess:
    """Start a process that calls an importable function, and that Ctrl-C does not reach."""
    for _ in range(ATTEMPTS):
        if not start_server():
            break
        with contextlib.suppress(OSError, EOFError):  # the server is dying, and is not yet known to be dead
            return _started("forkserver", target, *args)
        time.sleep(PAUSE_S)
    with uninterrupted():  # a forked process has the signal mask of the server
        return _started("spawn", target, *args)


def _started(method: str, target: Callable[..., None], *args: object) -> BaseProcess:
    run = partial(_run, target, dict(os.environ))
    process: BaseProcess = multiprocessing.get_context(method).Process(target=run, args=args, daemon=True)  # type: ignore[attr-defined]
    with without_main():
        process.start()
    return process


def _run(target: Callable[..., None], environment: Mapping[str, str], *args: object) -> None:
    """Call a function in the environment of the parent. A forked process begins in the environment of the server."""
    os.environ.clear()
    os.environ.update(environment)
    target(*args)


@contextlib.contextmanager
def _in_environment(**variables: str) -> Iterator[None]:
    """Set environment variables in the context."""
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Start processes in here that do not run the script of this process again.

    A new process runs the script to find functions that the script defines, and workers need none of them. A script
    that searches would search again in each of its workers.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Start processes in here that Ctrl-C does not reach: their parent ends them.

    Windows cannot block signals. There a worker ignores Ctrl-C from its first line on.
    """
    if not hasattr(signal, "pthread_sigmask"):  # such systems have no resource tracker either
        yield
        return
    # The tracker unblocks the signal when it is started: start it first.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
