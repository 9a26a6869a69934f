"""All errors shown to users, with their exit codes.

AutodistillError
├── ConfigError     2  wrong flag or TOML key, or too small a budget
├── DataError       2  images or labels are missing, inconsistent or too few
├── TeacherError    2  a checkpoint is missing, unsuitable, damaged or at chance
├── StoreError      2  a folder is read-only, full, or holds another study
│   ├── InUseError  2  another process uses the folder
│   └── VersionError  2  another version of Optuna made the database
├── CacheError      1  teacher logits cannot be stored exactly
├── ExportError     1  a file format cannot represent the student unchanged
├── TrialError      1  a training run failed (recorded; the study continues)
│   └── DivergedError  1  the loss became infinite or NaN
└── StudyError      1  the study cannot continue
    └── EveryRunFailed  1  all runs of the first stage failed
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class AutodistillError(Exception):
    """Base class. `message` says what is wrong, where, and what is allowed; `hint` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type["AutodistillError"], tuple[str, str]]:
        # Exceptions are pickled between processes; the default drops the hint.
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


class DivergedError(TrialError):
    pass


class StudyError(AutodistillError):
    pass


class EveryRunFailed(StudyError):
    pass


def near(name: str, allowed: Iterable[str]) -> str:
    """Format allowed names, near matches first: `did you mean 'isats'? allowed: ats, isats, ts`."""
    names = sorted(allowed)
    matches = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    guess = f"did you mean {' or '.join(repr(match) for match in matches)}? " if matches else ""
    return f"{guess}allowed: {', '.join(names)}"


def lookup(kind: str, name: str, registry: Mapping[str, T]) -> T:
    """Return `registry[name]`.

    Raises:
        ConfigError: The name is not registered; the message lists near matches.
    """
    if name not in registry:
        raise ConfigError(f"unknown {kind} {name!r} ({near(name, registry)})")
    return registry[name]
