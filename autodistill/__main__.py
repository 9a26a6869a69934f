"""Entry point of both scripts: check for a conflicting package, then run the command line."""

import atexit
import contextlib
import os
import sys
from importlib import metadata

from autodistill.errors import INTERRUPTED, AutodistillError, ConfigError, printable


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
    # A normal exit takes seconds because Python frees torch's objects one by one. Skip that part only.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def run() -> None:
    """Run the command line; end with `SystemExit`."""
    from autodistill.cli import app

    try:
        refuse_foreign_package()
        refuse_other_encodings()
        app(prog_name="autodistill")
    except AutodistillError as error:
        if os.environ.get("AUTODISTILL_DEBUG"):
            raise
        from autodistill.console import show_error

        show_error(error)
        sys.exit(error.exit_code)


def _interrupted(end: BaseException) -> bool:
    """Return whether Ctrl-C caused an exit; Click's exit code is 1, as after a failure."""
    cause = end.__cause__ or end.__context__
    return isinstance(cause, KeyboardInterrupt) or (cause is not None and _interrupted(cause))


def refuse_foreign_package() -> None:
    """Raise a ConfigError beside another project's package: pip lets both overwrite each other's files silently."""
    try:
        version = metadata.version("autodistill")
    except metadata.PackageNotFoundError:
        return
    raise ConfigError(
        f"the package 'autodistill' {version}, another project, is installed in this environment: "
        "both install the module and the command `autodistill`",
        "make a fresh environment (python -m venv .venv) and install only kd-autodistill into it",
    )


def refuse_other_encodings() -> None:
    """Raise a ConfigError for an argument, or a current folder, with bytes that are not UTF-8."""
    names = sys.argv[1:]
    with contextlib.suppress(FileNotFoundError):  # the current folder was removed
        names.append(os.getcwd())
    for name in names:
        if printable(name) != name:
            raise ConfigError(
                f"{printable(name)}: holds bytes that are not UTF-8, which the files of a study cannot hold",
                "rename the file or folder",
            )


if __name__ == "__main__":
    main()
