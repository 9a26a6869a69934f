"""Leave folders of the owner's machine out of what is published."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from autodistill.records import Record

R = TypeVar("R", bound=Record)

_ABSOLUTE = re.compile(r"(?:^(?:[a-z][a-z-]*:)*|[?&][\w.]+=)((?:~?/|[A-Za-z]:[\\/])[^?&#]+)")
"""An absolute path: a whole text, the target of a URI, or the value of one of its options."""
_NAMING = ("name", "root", "uri", "source", "student", "teachers", "data")
"""Keys whose values name files and folders."""


def without_folders(record: R) -> R:
    """Return a record in which files and folders of the user lose the folders above them.

    `folder:/home/me/photos` becomes `folder:photos`, everywhere but in commands, which stay as they were typed. Names
    of classes stay too.
    """
    document = record.model_dump(mode="json")
    shorter = {path: re.split(r"[\\/]", path)[-1] for path in _paths(document)}
    shorter |= {path.removesuffix(name): "" for path, name in shorter.items() if len(path) - len(name) > len("~/")}
    if not shorter:
        return record
    # The longest first: a folder may lie in another.
    longest = sorted(shorter, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, longest))})")
    return type(record).model_validate(_replaced(document, pattern, shorter))


def _paths(document: Any, key: str = "") -> Iterator[str]:
    if isinstance(document, Mapping):
        for name, value in document.items():
            yield from _paths(value, key if key == "teachers" and isinstance(value, str) else name)
    elif isinstance(document, list):
        for value in document:
            yield from _paths(value, key)
    elif isinstance(document, str) and key in _NAMING:
        yield from (path.rstrip("\\/") for path in _ABSOLUTE.findall(document) if path.strip("~\\/"))


def _replaced(document: Any, pattern: re.Pattern[str], shorter: Mapping[str, str]) -> Any:
    if isinstance(document, dict):
        kept = ("command", "classes")
        return {key: value if key in kept else _replaced(value, pattern, shorter) for key, value in document.items()}
    if isinstance(document, list):
        return [_replaced(value, pattern, shorter) for value in document]
    return pattern.sub(lambda found: shorter[found[0]], document) if isinstance(document, str) else document
