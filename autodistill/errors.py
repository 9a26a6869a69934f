"""All errors shown to users, with their exit codes: 2 for wrong input, 1 for a failure."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

INTERRUPTED = 130
"""Exit code after Ctrl-C or a signal that ends the command, as in a shell: 128 plus the number of SIGINT."""


class AutodistillError(Exception):
    """Base class. `message` says what is wrong, where, and what is allowed; `hint` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")  # tracebacks of Python programs and notebooks show it

    def __reduce__(self) -> tuple[type["AutodistillError"], tuple[str, str]]:
        # Exceptions are pickled between processes; the default drops the hint.
        return type(self), (self.message, self.hint)


class InputError(AutodistillError):
    """Something that the user gave or named is wrong."""

    exit_code = 2


class ConfigError(InputError):
    """A flag or TOML key is wrong, or the budget is too small."""


class DataError(InputError):
    """Images or labels are missing, inconsistent or too few."""


class TeacherError(InputError):
    """A checkpoint is missing, unsuitable, damaged or at chance."""


class MisreadError(TeacherError):
    """A teacher is right more often with another normalisation, order of its classes or size of its input."""


class StoreError(InputError):
    """A folder is read-only, full, or holds another study."""


class InUseError(StoreError):
    """Another process uses the folder."""


class VersionError(StoreError):
    """Another version of Optuna made the database."""


class CacheError(TeacherError):
    """A teacher's logits are too large to be stored."""


class ExportError(AutodistillError):
    """A file format cannot represent the student unchanged."""


class TrialError(AutodistillError):
    """A training run failed; the failure is recorded and the study continues."""


class DivergedError(TrialError):
    """The loss became infinite or NaN."""


class StudyError(AutodistillError):
    """The study cannot continue."""


class EveryRunFailed(StudyError):
    """All runs of the first stage failed."""


def printable(name: str) -> str:
    """Return the name of a file with escapes for bytes that are not UTF-8, which text files cannot hold."""
    return name.encode(errors="backslashreplace").decode()


def near(name: str, allowed: Iterable[str]) -> str:
    """Format allowed names, near matches first: `did you mean 'isats'? allowed: ats, isats, ts`."""
    names = sorted(allowed)
    matches = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    guess = f"did you mean {' or '.join(repr(match) for match in matches)}? " if matches else ""
    return f"{guess}allowed: {', '.join(names)}"


def lookup(kind: str, name: str, registry: Mapping[str, T]) -> T:
    """Return `registry[name]`; raise a ConfigError that lists near matches where the name is not registered."""
    if name not in registry:
        raise ConfigError(f"unknown {kind} {name!r} ({near(name, registry)})")
    return registry[name]
