"""How the report writes names, figures and durations. Display only: nothing here changes a record."""

import re
import unicodedata

from autodistill.formatting import count, interval, percent, plural, points, probability, recipe, short

__all__ = ["EMPTY", "clean", "count", "duration", "interval", "markdown", "maybe", "percent", "plural", "points"]
__all__ += ["probability", "recipe", "redact", "short"]

EMPTY = "\N{EN DASH}"

_CREDENTIALS = re.compile(r"(\w+://[^\s:/@\"]*:)[^\s/@\"]+@")
_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def redact(text: str) -> str:
    """Hide the password of every URL."""
    return _CREDENTIALS.sub(r"\1***@", text)


def clean(text: str) -> str:
    """Make a user's text printable: no control, direction or surrogate characters, and no password of a URL."""
    if text.isascii() and text.isprintable():
        return redact(text)
    shown = (
        char
        if char in "\n\r\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co")
        else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )
    return redact("".join(shown))


def markdown(text: str) -> str:
    """Escape for markdown, one line, table cells included."""
    flat = " ".join(text.split()).translate(_HTML)
    return _MARKDOWN.sub(lambda match: "\\" + match.group(), flat)


def maybe(fraction: float | None) -> str:
    return EMPTY if fraction is None else percent(fraction)


def duration(seconds: int | float) -> str:
    """`41.2 s`, `5 min 01 s`, `2 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
