"""Every error a user can meet, with its exit code.

AutodistillError
├── ConfigError     2  a flag, a TOML key, a budget that cannot hold its plan
├── DataError       2  images or labels that are missing, mixed up or too few
├── TeacherError    2  a checkpoint that is missing, foreign, broken or at chance
├── StoreError      2  a folder that is read-only, is full, or holds another study
│   ├── InUseError  2  a folder that another process works in
│   └── VersionError  2  a database that another version of Optuna made
├── CacheError      1  teacher logits that cannot be stored as they are
├── ExportError     1  a student that a file format cannot carry unchanged
├── TrialError      1  one training run that failed (recorded; the study goes on)
└── StudyError      1  a study that cannot go on
    └── EveryRunFailed  1  a study in which all runs of the first stage failed
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class AutodistillError(Exception):
    """An error with a way out: `message` says what, where and what is allowed, `hint` what to do next."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type["AutodistillError"], tuple[str, str]]:
        # Exceptions cross process boundaries; the default would drop the hint.
        return type(self), (self.message, self.hint)


class ConfigError(AutodistillError):
    exit_code = 2


class DataError(AutodistillError):
    exit_code = 2


class TeacherError(AutodistillError):
    exit_code = 2


class StoreError(AutodistillError):
    exit_code = 2


class InUseError(StoreError):
    pass


class VersionError(StoreError):
    pass


class CacheError(AutodistillError):
    pass


class ExportError(AutodistillError):
    pass


class TrialError(AutodistillError):
    pass


class StudyError(AutodistillError):
    pass


class EveryRunFailed(StudyError):
    pass


def near(name: str, allowed: Iterable[str]) -> str:
    """Render the allowed names, near matches first: `did you mean 'isats'? allowed: ats, isats, ts`."""
    names = sorted(allowed)
    matches = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    guess = f"did you mean {' or '.join(repr(match) for match in matches)}? " if matches else ""
    return f"{guess}allowed: {', '.join(names)}"


def lookup(kind: str, name: str, registry: Mapping[str, T]) -> T:
    """Return `registry[name]`.

    Raises:
        ConfigError: the name is not registered; the message carries near matches.
    """
    if name not in registry:
        raise ConfigError(f"unknown {kind} {name!r} ({near(name, registry)})")
    return registry[name]
