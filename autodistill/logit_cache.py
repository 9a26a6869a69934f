"""Teacher logits on disk. The logits of a teacher on a view are computed once and read by all processes.

The cache stores raw logits in float16, not probabilities, so that temperatures can change. The process that computes
a view also reads the stored rows, so that results do not depend on which process computed the view.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float16
from torch import Tensor

from autodistill.data import Data
from autodistill.data.views import PLAIN_VIEW, View, take_view
from autodistill.errors import CacheError, InUseError, StoreError
from autodistill.stopwatch import Stopwatch
from autodistill.store import digest, locked, write_bytes
from autodistill.teachers import Teacher, check_logits, computed_as, logits_of
from autodistill.teachers.teacher import mean_logits
from autodistill.tensors import raw_bytes

FORMAT = 2
DTYPE = torch.float16

Logits = Float16[Tensor, "examples classes"]

Part = tuple[object, ...]
"""Name of the images that a teacher is run on: a view of the training split, or the validation split."""

VALIDATION: Part = ("validation",)
PLAIN: Part = ("train",)
"""The training split without augmentation, for teachers that know no other view of it."""


def estimated_bytes(*, teachers: int, views: int, examples: int, classes: int) -> int:
    """Estimate the size of a study's logits on disk."""
    return teachers * views * examples * classes * DTYPE.itemsize


def training_part(view: View, number: int) -> Part:
    """Return the name of view `number` of the training split."""
    return ("train", *view, number)


def logits_path(root: Path, teacher: str, data: str, part: Part, *, device: torch.device) -> Path:
    """Return the path of a teacher's logits below the cache folder, as a device of this machine computes them."""
    return root / logits_name(teacher, data, part, computed_as=computed_as(device), version=torch.__version__)


def logits_name(teacher: str, data: str, part: Part, *, computed_as: str, version: str) -> str:
    """Return the path of a teacher's logits relative to the cache folder, as any machine computes them.

    `teacher` and `data` are fingerprints. `computed_as` is the result of `teachers.computed_as` on that machine, and
    `version` its version of torch.
    """
    key = digest(FORMAT, teacher, data, part, str(DTYPE), computed_as, version)
    return f"logits/{teacher[:16]}/{key}.safetensors"


def missing_views(
    root: Path, teacher: str, data: str, *, view: View, views: int, device: torch.device
) -> tuple[int, ...]:
    """Return the numbers of the first `views` views whose logits are not in the cache folder `root`."""
    parts = (training_part(view, number) for number in range(views))
    paths = [logits_path(root, teacher, data, part, device=device) for part in parts]
    return tuple(number for number, path in enumerate(paths) if not path.exists())


class LogitCache:
    """Cache of teachers' logits on one dataset.

    Args:
        root: The user's cache folder, which studies share.
        data: The dataset.
        view: The augmentation of the training split.
        say: Called with a line of text when a damaged file is replaced.
        watch: Measures the seconds spent on reading and writing (`cache`) and on running teachers (`teacher`).
        on_write: Called with the path of each file that is written.
    """

    def __init__(
        self,
        root: Path,
        *,
        data: Data,
        view: View,
        say: Callable[[str], None],
        watch: Stopwatch | None = None,
        on_write: Callable[[Path], object] = lambda _: None,
    ) -> None:
        self._root, self._data, self._view = root, data, view
        self._say, self._watch, self._on_write = say, watch or Stopwatch(), on_write
        self.computed = 0
        """How often this process has run a teacher. An ensemble counts once, together with its members."""

    def training(self, teacher: Teacher, number: int, *, later: Iterable[int] = ()) -> Logits:
        """Return the logits of a view of the training split, computed if they are missing or damaged.

        Args:
            teacher: The teacher.
            number: Number of the view.
            later: Numbers of views that the caller needs later. While another process computes view `number`, this
                process computes those that are missing.

        Raises:
            CacheError: A logit does not fit into float16.
            TeacherError: Logits are not finite, or have another class count.
            StoreError: The cache folder is read-only, or its disk full.
        """
        return self._get(teacher, self._part(teacher, number), (self._part(teacher, it) for it in later))

    def validation(self, teacher: Teacher) -> Logits:
        """Return the logits of the validation split without augmentation; errors as for `training`."""
        return self._get(teacher, VALIDATION)

    def ahead(self, teacher: Teacher, number: int) -> None:
        """Compute a view of the training split in advance, if it is missing and no other process computes it."""
        part = self._part(teacher, number)
        if not self._path(teacher, part).exists():
            with self._watch.part("cache"):
                self._fill(teacher, part, wait=False)

    def _part(self, teacher: Teacher, number: int) -> Part:
        return PLAIN if teacher.knows_one_view else training_part(self._view, number)

    def _get(self, teacher: Teacher, part: Part, later: Iterable[Part] = ()) -> Logits:
        with self._watch.part("cache"):
            path = self._path(teacher, part)
            found = _read(path)
            if found is None:
                if not self._fill(teacher, part, wait=False):
                    for other in later:
                        if path.exists():
                            break
                        if not self._path(teacher, other).exists():
                            self._fill(teacher, other, wait=False)
                    self._fill(teacher, part, wait=True)
                found = _read(path)
        if found is None:
            raise StoreError(f"{path}: was written and cannot be read back", "check the disk; set AUTODISTILL_CACHE")
        return found

    def _fill(self, teacher: Teacher, part: Part, *, wait: bool) -> bool:
        """Compute and write a part that is missing or damaged.

        Returns:
            Whether the file is complete; False where another process computes it and `wait` is False.
        """
        path = self._path(teacher, part)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(path.with_suffix(".lock"), timeout_s=-1 if wait else 0))
            except InUseError:
                return False
            if _read(path) is None:
                if path.exists():
                    self._say(f"{path}: damaged cache file; computed again")
                logits = self._compute(teacher, part)
                write_bytes(path, safetensors.torch.save({"logits": logits}, {"sha256": _sha256(logits)}))
                self._on_write(path)
        return True

    def _path(self, teacher: Teacher, part: Part) -> Path:
        device = self._data.train.images.device
        return logits_path(self._root, teacher.fingerprint, self._data.fingerprint, part, device=device)

    def _compute(self, teacher: Teacher, part: Part) -> Logits:
        count = self.computed + 1
        with self._watch.part("teacher"):
            logits = self._logits(teacher, part)
            self.computed = count  # without the members of an ensemble
            check_logits(teacher, self._data, logits)
        stored = logits.to(DTYPE)
        if not bool(stored.isfinite().all()):
            largest = float(logits.abs().max())
            raise CacheError(
                f"teacher {teacher.name}: a logit of {largest:.3g} does not fit into float16 (65504)",
                "scale the teacher's last layer down: a common factor can be undone by the temperature",
            )
        return stored.cpu()

    def _logits(self, teacher: Teacher, part: Part) -> Tensor:
        """Run a teacher, combine the members of an ensemble, or take the rows of a table, which knows no views."""
        images = self._data.train.images
        if teacher.members:
            # Always from the cache: rows of a member that are not rounded would give other bits.
            return mean_logits([self._get(it, part).to(images.device).float() for it in teacher.members])
        if teacher.table is not None:
            examples = self._data.examples
            assert examples is not None  # checked when the table was loaded
            return teacher.table[examples.validation if part == VALIDATION else examples.train].to(images.device)
        if part == VALIDATION:
            return logits_of(teacher, self._data.validation.images)
        number = part[-1]
        view, epoch = (self._view, number) if isinstance(number, int) else (PLAIN_VIEW, 0)
        # Batch by batch: a view of all images, with the indices of its pixels, takes nine times their memory.
        take = partial(take_view, images, view=view, epoch=epoch, margin=self._data.margin)
        return logits_of(teacher, images, take=take)


def is_whole(path: Path) -> bool:
    """Return whether a file of logits exists and is undamaged."""
    return _read(path) is not None


def _read(path: Path) -> Logits | None:
    """Read a file of logits; return None if it is missing or damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            logits: Tensor = file.get_tensor("logits")
            whole = (file.metadata() or {}).get("sha256") == _sha256(logits)
    except (safetensors.SafetensorError, OSError):
        return None
    return logits if whole else None


def _sha256(logits: Tensor) -> str:
    """Hash type, shape and values: a damaged header can change type and shape of undamaged values."""
    found = hashlib.sha256(f"{logits.dtype}{tuple(logits.shape)}".encode())
    found.update(raw_bytes(logits))
    return found.hexdigest()
