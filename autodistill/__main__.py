"""Entry point of both scripts: checks that the environment is ours alone, then runs the command line."""

import atexit
import contextlib
import os
import sys
from importlib import metadata

from autodistill.errors import AutodistillError, ConfigError

FOREIGN = "autodistill"
"""Another project's distribution that owns the same module and script."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell has it: 128 and the signal's number."""


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        run()
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        code = INTERRUPTED if _interrupted(end) else end.code
    # Python takes torch and all else apart object by object, which takes seconds: do what else belongs to an end.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def run() -> None:
    """Run the command line; ends with `SystemExit`."""
    from autodistill.cli import app

    try:
        refuse_foreign_package()
        app(prog_name="autodistill")
    except AutodistillError as error:
        if os.environ.get("AUTODISTILL_DEBUG"):
            raise
        from autodistill.console import show_error

        show_error(error)
        sys.exit(error.exit_code)


def _interrupted(end: BaseException) -> bool:
    """Click ends with 1 after Ctrl-C, as after a failure."""
    cause = end.__cause__ or end.__context__
    return isinstance(cause, KeyboardInterrupt) or (cause is not None and _interrupted(cause))


def refuse_foreign_package() -> None:
    """pip installs two packages of one module name over each other without a word; both are broken then.

    Raises:
        ConfigError: the other project's package is installed here.
    """
    try:
        version = metadata.version(FOREIGN)
    except metadata.PackageNotFoundError:
        return
    raise ConfigError(
        f"the package {FOREIGN!r} {version}, another project, is installed in this environment: "
        "both own the module and the command `autodistill`",
        "make a fresh environment (python -m venv .venv) and install only kd-autodistill into it",
    )


if __name__ == "__main__":
    main()
