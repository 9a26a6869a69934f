"""Start worker processes.

On Linux they are forked from a server process of `multiprocessing` that has imported torch: the import takes seconds,
and happens once, while a command still checks its input. Elsewhere each process imports for itself.
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

METHOD = "forkserver" if sys.platform == "linux" else "spawn"
"""On macOS a fork is not safe once system libraries have run, and Windows has none."""
PRELOADED = ["autodistill.executors.local", "torchvision"]
"""Modules that the server imports. They import all that a worker needs, and neither start threads nor use CUDA."""
SAFE_PATH = "PYTHONSAFEPATH"
ATTEMPTS, PAUSE_S = 3, 0.2
"""Attempts to fork from a server that dies meanwhile, and seconds in between. Then a process imports by itself."""


def start_server() -> None:
    """Start the server without waiting for its imports. Idempotent.

    Python keeps one server per process. If the program of the user has started it, workers import by themselves.
    """
    if METHOD == "forkserver":
        from multiprocessing import forkserver  # not for Windows

        with uninterrupted(), _safe_path():
            forkserver.set_forkserver_preload(PRELOADED)
            forkserver.ensure_running()
        atexit.register(_end_server)


def _end_server() -> None:
    """End a server from which nothing was forked: it may import for seconds, and holds this process's stdout open."""
    from multiprocessing import forkserver

    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)  # no public name
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def start(target: Callable[..., None], *args: object) -> BaseProcess:
    """Start a process that calls an importable function, and that Ctrl-C does not reach."""
    for _ in range(ATTEMPTS):
        start_server()
        with contextlib.suppress(ConnectionError, EOFError):  # the server is dying, and is not yet known to be dead
            return _started(METHOD, target, *args)
        time.sleep(PAUSE_S)
    return _started("spawn", target, *args)


def _started(method: str, target: Callable[..., None], *args: object) -> BaseProcess:
    run = partial(_run, target, dict(os.environ))
    process: BaseProcess = multiprocessing.get_context(method).Process(target=run, args=args, daemon=True)  # type: ignore[attr-defined]
    with uninterrupted(), without_main():
        process.start()
    atexit.unregister(_end_server)
    return process


def _run(target: Callable[..., None], environment: Mapping[str, str], *args: object) -> None:
    """Call a function in the environment of the parent. A forked process begins in the environment of the server."""
    os.environ.clear()
    os.environ.update(environment)
    target(*args)


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Start interpreters in here that do not import modules of the current folder, such as a user's `random.py`."""
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        del os.environ[SAFE_PATH]
        if before is not None:
            os.environ[SAFE_PATH] = before


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Start processes in here that do not run the script of this process again.

    A new process runs it for functions that are pickled from it, and workers get none. A script that searches
    would search again in each of its workers.
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
