"""Teacher logits on disk: each (teacher, view) is computed once, by whoever needs it first, and read by all.

The cache keeps raw logits in float16, never probabilities: temperatures stay free. The reader that
computed a view gets the stored rows too, so nothing depends on who came first.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float16, Int
from torch import Tensor

from autodistill.data import Data
from autodistill.errors import CacheError
from autodistill.stopwatch import Stopwatch
from autodistill.store import NO_DEPOT, Depot, digest, locked, write_bytes
from autodistill.teachers import Teacher, check_logits, computed_as, logits_of
from autodistill.views import View, take_view

FORMAT = 1
DTYPE = torch.float16

Logits = Float16[Tensor, "examples classes"]


def estimated_bytes(*, teachers: int, views: int, examples: int, classes: int) -> int:
    """Size on disk of a study's logits."""
    return teachers * views * examples * classes * DTYPE.itemsize


class LogitCache:
    """The logits of teachers on one dataset.

    Args:
        root: the user's cache folder; shared by studies.
        say: called with a line when something was mended.
        watch: told what reading and writing take, and what the teachers.
        depot: where other machines leave theirs.
    """

    def __init__(
        self,
        root: Path,
        *,
        data: Data,
        view: View,
        say: Callable[[str], None],
        watch: Stopwatch | None = None,
        depot: Depot = NO_DEPOT,
    ) -> None:
        self._root = root / "logits"
        self._data = data
        self._view = view
        self._say = say
        self._watch = watch or Stopwatch()
        self._depot = depot
        self.computed = 0
        """Times a teacher was run by this process."""

    def training(self, teacher: Teacher, number: int) -> Logits:
        """Logits on view `number` of the training split.

        Raises:
            CacheError: a logit that float16 cannot hold.
            TeacherError: logits that are not finite, or of another class count.
        """
        return self._get(teacher, ("train", *self._view, number), lambda: self._viewed(number))

    def validation(self, teacher: Teacher) -> Logits:
        """Logits on the validation split as it is."""
        return self._get(teacher, ("validation",), lambda: self._data.validation.images)

    def missing(self, teacher: Teacher, views: int) -> tuple[int, ...]:
        """Those of the first views whose logits nobody has computed."""
        paths = (self._path(teacher, ("train", *self._view, number)) for number in range(views))
        return tuple(number for number, path in enumerate(paths) if not path.exists())

    def _viewed(self, number: int) -> Tensor:
        images = self._data.train.images
        everything: Int[Tensor, " examples"] = torch.arange(len(images), device=images.device)
        return take_view(images, everything, view=self._view, epoch=number)

    def _get(self, teacher: Teacher, part: tuple[object, ...], images: Callable[[], Tensor]) -> Logits:
        with self._watch.part("cache"):
            return self._found(teacher, self._path(teacher, part), images)

    def _found(self, teacher: Teacher, path: Path, images: Callable[[], Tensor]) -> Logits:
        found = _read(path)
        if found is None and not path.exists() and self._depot.fetch(path):
            found = _read(path)
        if found is None:
            with locked(path.parent / "lock"):
                found = _read(path)
                if found is None:
                    if path.exists():
                        self._say(f"{path}: damaged cache file; computed again")
                    self._make(teacher, path, images)
                    found = _read(path)
        if found is None:
            raise CacheError(f"{path}: was written and cannot be read back", "check the disk; set AUTODISTILL_CACHE")
        return found

    def _make(self, teacher: Teacher, path: Path, images: Callable[[], Tensor]) -> None:
        damaged = path.exists()
        logits = self._compute(teacher, images())
        # Two machines can be at it at once, and differ in the last bits: whoever left it first is right.
        if damaged or not self._depot.fetch(path):
            _write(path, logits)
            self._depot.leave(path)

    def _path(self, teacher: Teacher, part: tuple[object, ...]) -> Path:
        how = computed_as(self._data.train.images.device)
        key = digest(FORMAT, teacher.fingerprint, self._data.fingerprint, part, str(DTYPE), how, torch.__version__)
        return self._root / teacher.fingerprint[:16] / f"{key}.safetensors"

    def _compute(self, teacher: Teacher, images: Tensor) -> Logits:
        self.computed += 1
        with self._watch.part("teacher"):
            logits = logits_of(teacher, images)
            check_logits(teacher, self._data, logits)
        stored = logits.to(DTYPE)
        if not bool(stored.isfinite().all()):
            largest = float(logits.abs().max())
            raise CacheError(
                f"teacher {teacher.name}: a logit of {largest:.3g} does not fit into float16 (65504)",
                "scale the teacher's last layer down: a common factor can be undone by the temperature",
            )
        return stored.cpu()


def _write(path: Path, logits: Logits) -> None:
    write_bytes(path, safetensors.torch.save({"logits": logits}, {"sha256": _sha256(logits)}))


def _read(path: Path) -> Logits | None:
    """What a file holds; None where it is missing or damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            logits: Tensor = file.get_tensor("logits")
            whole = (file.metadata() or {}).get("sha256") == _sha256(logits)
    except (safetensors.SafetensorError, OSError):
        return None
    return logits if whole else None


def _sha256(logits: Tensor) -> str:
    """Covers type and shape too, which a damaged header can change under whole values."""
    found = hashlib.sha256(f"{logits.dtype}{tuple(logits.shape)}".encode())
    found.update(logits.contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
