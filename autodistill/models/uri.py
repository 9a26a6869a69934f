"""URIs of teachers and students: `SCHEME:TARGET?key=value&key=value`, percent-encoded where it must be."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote

from autodistill.errors import AutodistillError, ConfigError, TeacherError, near
from autodistill.local_files import exists, local_path
from autodistill.usercode import value

FILE_SCHEMES = ("file", "onnx", "logits")
"""Schemes whose target is a file."""
FACTS = ("name", "norm", "mean", "std", "size", "interpolation", "order", "classes", "accept")
"""Options of all sources that run a network."""
RESERVED = (*FACTS, "arch", "weights", "width")
"""Options that are never arguments of a factory; `arg.KEY=VALUE` passes them."""
OF_STUDENTS = ("name", "weights", "size", "interpolation", "norm", "mean", "std")
"""Reserved options that students have."""
LONGEST_NAME = 60
ENCODED = "in a URI, write ?, &, # and % of a name as %3F, %26, %23 and %25"
"""How to name a file whose name has signs with a meaning in URIs."""


class NamedWeights(NamedTuple):
    """The weights that a network starts from, as its URI names them. Without file and publisher, there are none."""

    file: str = ""
    """Path of a file of weights."""
    kind: str = ""
    """Which weights of the file: `raw`, `ema`, or the key under which the file holds them; empty: not stated."""
    published: str = ""
    """Name of published weights: that of torchvision, or `published` for those of timm."""

    @property
    def name(self) -> str:
        """What records call the weights: the name of the file, or of the published weights."""
        return Path(self.file).name or self.published


class Uri(NamedTuple):
    """The parts of a URI."""

    text: str
    scheme: str
    target: str
    options: Mapping[str, str]
    role: Literal["teacher", "student"] = "teacher"

    def refused(self, message: str, hint: str = "") -> AutodistillError:
        """Return the error that names this URI."""
        kind = TeacherError if self.role == "teacher" else ConfigError
        return kind(f"{self.role} {self.text}: {message}", hint)

    def arguments(self) -> dict[str, Any]:
        """Return the options that are arguments of a factory, as JSON values where they are JSON."""
        return {key.removeprefix("arg."): value(text) for key, text in self.options.items() if key not in RESERVED}

    def check_options(self, allowed: Sequence[str]) -> None:
        """Refuse options that a source does not have; the message lists near matches."""
        for option in self.options:
            if option not in allowed:
                raise self.refused(
                    f"unknown option {option!r} ({near(option, allowed)})",
                    f"options follow the target: {with_option(without_options(self.text), f'{allowed[0]}=VALUE')}; "
                    + ENCODED,
                )

    def numbers(self, option: str) -> tuple[float, ...] | None:
        """Return an option of comma-separated numbers; None: not given. Anything else is refused."""
        text = self.options.get(option)
        if text is None:
            return None
        try:
            found = tuple(float(part) for part in text.split(","))
        except ValueError:
            found = ()
        if not found or not all(map(math.isfinite, found)):
            raise self.refused(
                f"{option}={text}: allowed are numbers, one per channel, separated by commas",
                f"for example {option}=0.5,0.5,0.5",
            )
        return found

    def choice(self, option: str, allowed: Sequence[str]) -> str | None:
        """Return an option that has a few values; None: not given. Other values are refused."""
        value = self.options.get(option)
        if value is not None and value not in allowed:
            raise self.refused(f"{option}={value} is unknown ({near(value, allowed)})", "or leave it out")
        return value

    def weights(self) -> NamedWeights:
        """Return the weights that the URI names.

        They are the file of `file:`, `onnx:` and `logits:`, where `weights` is `raw`, `ema` or a key of the file.
        Elsewhere `weights` is FILE, FILE#raw, FILE#ema, FILE#KEY or `none`; `torchvision:NAME@WEIGHTS` and `timm:`
        name published weights. An empty option is refused, and one beside `@WEIGHTS`.
        """
        if self.scheme in FILE_SCHEMES:
            if self.options.get("weights") == "":
                raise self.refused("weights= is empty", "allowed are raw, ema and the key of weights in the file")
            return NamedWeights(self.target, self.options.get("weights", ""))
        stated = self.options.get("weights")
        published = self.target.partition("@")[2] if self.scheme == "torchvision" else ""
        if published and stated is not None:
            raise self.refused("weights= beside @WEIGHTS", "state either @WEIGHTS, or weights=FILE")
        if self.scheme == "timm" and stated in (None, "published"):
            published = "published"
        if stated is None or published:
            return NamedWeights(published=published)
        if stated == "none":
            return NamedWeights()
        if not stated:
            raise self.refused("weights= is empty", "allowed are FILE, FILE#raw, FILE#ema, FILE#KEY and none")
        file, _, kind = stated.rpartition("#")
        # A # may belong to the name of the file.
        is_key = bool(kind) and not exists(stated) and exists(file)
        return NamedWeights(file, kind) if file and (is_key or kind in ("raw", "ema")) else NamedWeights(stated)

    def no_file(self, path: Path) -> AutodistillError:
        """Return the error for a file that does not exist."""
        found = "is a folder, not a file" if path.is_dir() else "no such file"
        instead = ", or leave --teacher out for the ladder" if self.role == "teacher" else ""
        return self.refused(f"{found}: {path}", f"check the path{instead}; {ENCODED}")

    def size(self) -> int | None:
        """Return the stated input size in pixels, an integer; None: not given. Anything else is refused."""
        text = self.options.get("size")
        if text is None:
            return None
        if not text.isdecimal() or not 1 <= int(text) <= 4096:
            raise self.refused(
                f"size={text}: allowed is a height and width in pixels from 1 to 4096",
                "for example size=224",
            )
        return int(text)


def parse(text: str, role: Literal["teacher", "student"] = "teacher") -> Uri:
    """Split a URI. A file whose name contains `?` or `%` is found under its own name first."""
    before = without_options(text)
    scheme, _, target = before.partition(":")
    as_named = scheme in FILE_SCHEMES and exists(target)
    # A plus stands for itself: names of files contain it.
    query = text[len(before) + 1 :].replace("+", "%2B")
    options = dict(parse_qsl(query, keep_blank_values=True))
    return Uri(text, scheme, target if as_named else unquote(target), options, role)


def without_options(text: str) -> str:
    """Return the scheme and the target of a URI as they are written."""
    scheme, _, rest = text.partition(":")
    if scheme in FILE_SCHEMES:
        places = [place for place, sign in enumerate(rest) if sign == "?"]
        for end in (len(rest), *reversed(places)):
            if exists(rest[:end]):
                return f"{scheme}:{rest[:end]}"
    return text.partition("?")[0]


def name_of(text: str) -> str:
    """Return the name of a teacher in tables: its `name` option, or a part of its target.

    Characters that a file name should not contain become `-`.
    """
    uri = parse(text.removeprefix("adapt:"))
    if "name" in uri.options:
        return _clean(uri.options["name"])
    if uri.scheme == "python":
        file = uri.weights().file
        return _clean(Path(file).stem if file else uri.target.rpartition(":")[2])
    if uri.scheme in FILE_SCHEMES:
        path = Path(uri.target)
        return _clean(path.name.removesuffix(".pth.tar") if path.name.endswith(".pth.tar") else path.stem)
    if uri.scheme == "timm":
        return _clean(uri.target.rpartition("/")[2].rpartition(":")[2])
    # Names of members may contain @.
    return _clean(uri.target if uri.scheme == "ensemble" else uri.target.partition("@")[0])


def student_name(text: str) -> str:
    """Return the name of a student from elsewhere: its `name` option, or its scheme and target.

    The name can be the name of a file. A hash of the URI is added where the URI says more than the name.
    """
    uri = parse(text, "student")
    if "name" in uri.options:
        return _clean(uri.options["name"])[:LONGEST_NAME]
    target = uri.target
    if uri.scheme == "python":
        place, _, factory = target.rpartition(":")
        target = f"{Path(place).stem if place.endswith('.py') else place}-{factory}"
    name = _clean(f"{uri.scheme}-{target}")
    if not uri.options and not {"/", "\\"} & set(uri.target) and len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 7]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def with_option(uri: str, option: str) -> str:
    """Set an option of a URI: `key=value` replaces another value of the same key."""
    target = without_options(uri)
    query = uri[len(target) + 1 :]
    kept = [part for part in query.split("&") if part and part.partition("=")[0] != option.partition("=")[0]]
    return f"{target}?{'&'.join([*kept, option])}"


def files_of(text: str) -> dict[str, dict[str, Path]]:
    """Return the local files that a URI needs, but for those of Python code.

    Returns:
        For each name in the URI, the paths of its files, relative to the folder of the named file. The first belongs
        to the named file itself, or lies in the named folder.
    """
    uri, found = parse(text), dict[str, dict[str, Path]]()
    for name in _names(uri):
        path = local_path(name).absolute()
        if path.is_dir():
            found[name] = {f"{path.name}/{it.name}": it for it in sorted(path.iterdir()) if it.is_file()}
        else:
            found[name] = {path.name: path}
    if uri.scheme == "onnx":
        from autodistill.models.onnx_graph import external_files  # needs the extra [onnx]

        path = local_path(uri.target).absolute()
        # Loading the teacher has refused weights outside of its folder.
        found[uri.target] |= {name: path.parent / name for name in external_files(path)}
    return found


def timm_target(target: str) -> str:
    """Return the target of a `timm:` URI for timm: that of `local-dir:` is a folder."""
    return f"{LOCAL_TIMM}{local_path(target.removeprefix(LOCAL_TIMM))}" if target.startswith(LOCAL_TIMM) else target


LOCAL_TIMM = "local-dir:"


def _names(uri: Uri) -> list[str]:
    """Return the files and folders that a URI names, but for those of Python code."""
    found = []
    if uri.scheme in FILE_SCHEMES:
        found.append(uri.target)
    elif uri.weights().file:
        found.append(uri.weights().file)
    if uri.scheme == "timm" and uri.target.startswith(LOCAL_TIMM):
        found.append(uri.target.removeprefix(LOCAL_TIMM))
    if "classes" in uri.options and exists(uri.options["classes"]):
        found.append(uri.options["classes"])
    return found


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "teacher"
