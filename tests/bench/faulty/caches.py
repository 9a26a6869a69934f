"""A cache that cannot be written, and files that were damaged."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from small_studies import NAME

from faulty.disks import on_small_disks, protect
from faulty.lab import WAYS, Lab, finished, ill_said, unlike, wait_for
from faulty.processes import command, kill
from faulty.studies import REAL, results


def read_only_cache(lab: Lab) -> list[str]:
    """A warm one serves all the same; a cold one is refused."""
    return on_small_disks(lab, "read-only", {"warm": "cache", "cold": "cache"}, _read_only)


def _read_only(lab: Lab, place: Path, state: str, more: list[str]) -> list[str]:
    cache = place / "cache"
    if state == "warm":
        shutil.copytree(lab.calm.cache, cache, dirs_exist_ok=True)
    protect(cache)
    os.environ["AUTODISTILL_CACHE"] = str(cache)
    run = command(place, state, [*REAL, *more])
    code = run.end()
    if state == "cold":
        return ill_said(run, code, "Read-only file system")
    return finished(run) + unlike(lab.calm, place, {})


def corrupted_files(lab: Lab) -> list[str]:
    """Flipped bits, cut and replaced files: mended, or refused by name, and the study ends as without."""
    found = []
    for way in WAYS:
        for name, damage in DAMAGES.items():
            place = lab.place(f"damage-{way}-{name}")
            lab.warm_cache(place)
            lines = _damaged(lab, place, lab.options(way), name, damage)
            found += [f"{way}, {name}: {line}" for line in lines]
    return found


def _damaged(lab: Lab, place: Path, more: list[str], name: str, damage: Callable[[Path], object]) -> list[str]:
    os.environ["AUTODISTILL_CACHE"] = str(place / "cache")
    begun = command(place, "begun", [*REAL, *more])
    if not wait_for(place, "runs/*/trials/0002/**/result.json"):
        return ["the study did not get there"]
    kill(begun.pid)
    seen = results(place)
    damage(place)
    run = command(place, "damaged", [*REAL, *more])
    code = run.end()
    if code:
        lines = ill_said(run, code, "damaged", "cannot be read")
        shutil.rmtree(place / "cache")
        run = command(place, "mended", [*REAL, *more])
        return [*lines, *finished(run), *unlike(lab.calm, place, seen)]
    said = [] if name == "state" or "damaged" in run.said else ["a damaged file was used or mended without a word"]
    return said + unlike(lab.calm, place, seen)


def _flip(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 0x40
    path.write_bytes(bytes(content))


def _logits(place: Path) -> None:
    files = sorted((place / "cache").glob("logits/*/*.safetensors"))
    for number, path in enumerate(files):
        if number % 3 == 0:
            _flip(path, 0.7)
        elif number % 3 == 1:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        else:
            path.write_bytes(b"")


def _teacher(place: Path) -> None:
    for path in (place / "cache").glob("ladder/*/*.safetensors"):
        _flip(path, 0.8)


def _state(place: Path) -> None:
    """What the study keeps beside its results; of the space the record keeps a copy."""
    folder = place / "runs" / NAME
    for name in ("plan.json", "env.json", "run.toml", "study.db", "study.db-wal"):
        if (folder / name).exists():
            (folder / name).write_bytes(b"\x00garbage")
    (folder / "trials" / "0002" / "full").mkdir(parents=True, exist_ok=True)
    (folder / "trials" / "0002" / "full" / "checkpoint.pt").write_bytes(b"garbage")


DAMAGES: dict[str, Callable[[Path], object]] = {"logits": _logits, "teacher": _teacher, "state": _state}
