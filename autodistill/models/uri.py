"""URIs of teachers and students: `SCHEME:TARGET?key=value&key=value`, percent-encoded where it must be."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from autodistill.errors import AutodistillError, ConfigError, TeacherError, near
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
        is_key = bool(kind) and not _exists(stated) and _exists(file)
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
    as_named = scheme in FILE_SCHEMES and _exists(target)
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
            if _exists(rest[:end]):
                return f"{scheme}:{rest[:end]}"
    return text.partition("?")[0]


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError):  # such as a name that is too long
        return False


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


class UriFile(NamedTuple):
    """A local file that a URI needs."""

    part: str
    """Part of the URI that names it: `target`, `weights` or `classes`."""
    name: str
    """Its path relative to the folder of what the part names."""
    path: Path
    top: str
    """Name of what the part names: that of the file, or of a folder around it."""


def files_of(text: str) -> tuple[UriFile, ...]:
    """Return the local files that a URI needs. Modules that a `python:` file imports are not among them."""
    uri = parse(text)
    found = []
    for part, path in _places(uri).items():
        if part == "target" and uri.scheme == "timm":
            below = sorted(it for it in path.iterdir() if it.is_file()) if path.is_dir() else []
            found += [UriFile(part, f"{path.name}/{it.name}", it, path.name) for it in below]
        else:
            found.append(UriFile(part, path.name, path, path.name))
        if part == "target" and uri.scheme == "onnx":
            from autodistill.models.onnx_graph import external_files  # needs the extra [onnx]

            # Loading the teacher has refused weights outside of its folder.
            found += [UriFile(part, name, path.parent / name, path.name) for name in external_files(path)]
    return tuple(found)


def moved(text: str, places: Mapping[str, Path] = {}) -> str:
    """Return a URI whose files lie elsewhere. It reads the same on a machine that does not have the files.

    `places` are the new paths of what its parts name, by part as in `files_of`.
    """
    uri = parse(text)
    options = dict(uri.options)
    target = uri.target
    for part, path in places.items():
        if part == "target" and uri.scheme == "python":
            target = f"{path}:{uri.target.rpartition(':')[2]}"
        elif part == "target":
            target = f"{_LOCAL_TIMM}{path}" if uri.scheme == "timm" else str(path)
        else:
            kind = uri.weights().kind if part == "weights" else ""
            options[part] = f"{path}{'#' if kind else ''}{kind}"
    query = "&".join(f"{quote(key)}={quote(value, safe=_PLAIN)}" for key, value in options.items())
    return f"{uri.scheme}:{quote(target, safe=_PLAIN)}{'?' if query else ''}{query}"


_LOCAL_TIMM = "local-dir:"
_PLAIN = "/:@,+#*[]~ "
"""Characters that stand for themselves everywhere in a URI."""


def _places(uri: Uri) -> dict[str, Path]:
    """Return the local paths that a URI names, by part."""
    named: dict[str, str] = {}
    factory_file = uri.target.rpartition(":")[0]
    if uri.scheme in FILE_SCHEMES:
        named["target"] = uri.target
    elif uri.scheme == "python" and factory_file.endswith(".py"):
        named["target"] = factory_file
    elif uri.scheme == "timm" and uri.target.startswith(_LOCAL_TIMM):
        named["target"] = uri.target.removeprefix(_LOCAL_TIMM)
    if uri.scheme not in FILE_SCHEMES and uri.weights().file:
        named["weights"] = uri.weights().file
    if "classes" in uri.options and _exists(uri.options["classes"]):
        named["classes"] = uri.options["classes"]
    return {part: Path(path).expanduser() for part, path in named.items()}


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "teacher"
