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
from autodistill.store import digest, locked, writing
from autodistill.teachers import Teacher, check_logits, logits_of
from autodistill.views import View, take_view

FORMAT = 1
BYTES_PER_LOGIT = 2

Logits = Float16[Tensor, "examples classes"]


def estimated_bytes(*, teachers: int, views: int, examples: int, classes: int) -> int:
    """Size on disk of a study's logits."""
    return teachers * views * examples * classes * BYTES_PER_LOGIT


class LogitCache:
    """The logits of teachers on one dataset.

    Args:
        root: the user's cache folder; shared by studies.
        say: called with a line when something was mended.
    """

    def __init__(self, root: Path, *, data: Data, view: View, say: Callable[[str], None]) -> None:
        self._root = root / "logits"
        self._data = data
        self._view = view
        self._say = say
        self.computed = 0
        """Times a teacher was run by this process."""
        self.read = 0

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

    def _viewed(self, number: int) -> Tensor:
        images = self._data.train.images
        everything: Int[Tensor, " examples"] = torch.arange(len(images), device=images.device)
        return take_view(images, everything, view=self._view, epoch=number)

    def _get(self, teacher: Teacher, part: tuple[object, ...], images: Callable[[], Tensor]) -> Logits:
        path = self._path(teacher, part)
        found = self._load(path)
        if found is None:
            with locked(path.parent / "lock"):
                found = self._load(path)
                if found is None:
                    self._write(path, self._compute(teacher, images()))
                    found = self._load(path)
        if found is None:
            raise CacheError(f"{path}: was written and cannot be read back", "check the disk; set AUTODISTILL_CACHE")
        return found

    def _path(self, teacher: Teacher, part: tuple[object, ...]) -> Path:
        key = digest(FORMAT, teacher.fingerprint, self._data.fingerprint, part, "float16", torch.__version__)
        return self._root / teacher.fingerprint[:16] / f"{key}.safetensors"

    def _compute(self, teacher: Teacher, images: Tensor) -> Logits:
        self.computed += 1
        logits = logits_of(teacher, images)
        check_logits(teacher, self._data, logits)
        stored = logits.half()
        if not bool(stored.isfinite().all()):
            largest = float(logits.abs().max())
            raise CacheError(
                f"teacher {teacher.name}: a logit of {largest:.3g} does not fit into float16 (65504)",
                "scale the teacher's last layer down: a common factor can be undone by the temperature",
            )
        return stored.cpu()

    def _write(self, path: Path, logits: Logits) -> None:
        with writing(path) as temporary:
            safetensors.torch.save_file({"logits": logits}, temporary, {"sha256": _sha256(logits)})

    def _load(self, path: Path) -> Logits | None:
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                logits: Tensor = file.get_tensor("logits")
                whole = (file.metadata() or {}).get("sha256") == _sha256(logits)
        except (safetensors.SafetensorError, OSError):
            whole = False
        if not whole:
            self._say(f"{path}: damaged cache file; computed again")
            path.unlink(missing_ok=True)
            return None
        self.read += 1
        return logits


def _sha256(logits: Tensor) -> str:
    return hashlib.sha256(logits.contiguous().numpy().tobytes()).hexdigest()
