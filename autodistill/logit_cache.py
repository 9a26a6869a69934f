"""Teacher logits on disk: each (teacher, view) is computed once, by whoever needs it first, and read by all.

The cache keeps raw logits in float16, never probabilities: temperatures stay free. The reader that
computed a view gets the stored rows too, so nothing depends on who came first.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float16
from torch import Tensor

from autodistill.data import Data
from autodistill.data.views import View, take_view
from autodistill.errors import CacheError, InUseError
from autodistill.stopwatch import Stopwatch
from autodistill.store import NO_DEPOT, Depot, digest, locked, write_bytes
from autodistill.teachers import Teacher, check_logits, computed_as, logits_of

FORMAT = 2
DTYPE = torch.float16

Logits = Float16[Tensor, "examples classes"]

Part = tuple[object, ...]
"""Of the data that a teacher is run over: a view of the training split, or the validation split."""

VALIDATION: Part = ("validation",)


def estimated_bytes(*, teachers: int, views: int, examples: int, classes: int) -> int:
    """Size on disk of a study's logits."""
    return teachers * views * examples * classes * DTYPE.itemsize


def training_part(view: View, number: int) -> Part:
    """Return the name of view `number` of the training split."""
    return ("train", *view, number)


def logits_path(root: Path, teacher: str, data: str, part: Part, *, device: torch.device) -> Path:
    """Return the file of a teacher's logits, given the fingerprints of teacher and data."""
    key = digest(FORMAT, teacher, data, part, str(DTYPE), computed_as(device), torch.__version__)
    return root / "logits" / teacher[:16] / f"{key}.safetensors"


def missing_views(
    root: Path, teacher: str, data: str, *, view: View, views: int, device: torch.device
) -> tuple[int, ...]:
    """Return the numbers of the first `views` views whose logits are not in the cache folder `root`."""
    parts = (training_part(view, number) for number in range(views))
    paths = [logits_path(root, teacher, data, part, device=device) for part in parts]
    return tuple(number for number, path in enumerate(paths) if not path.exists())


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
        self._root = root
        self._data = data
        self._view = view
        self._say = say
        self._watch = watch or Stopwatch()
        self._depot = depot
        self.computed = 0
        """Times a teacher was run by this process."""

    def training(self, teacher: Teacher, number: int, *, later: Iterable[int] = ()) -> Logits:
        """Logits on view `number` of the training split.

        Args:
            later: views that the caller will need too: computed while another process is at this one.

        Raises:
            CacheError: a logit that float16 cannot hold.
            TeacherError: logits that are not finite, or of another class count.
        """
        return self._get(teacher, training_part(self._view, number), [training_part(self._view, it) for it in later])

    def validation(self, teacher: Teacher) -> Logits:
        """Logits on the validation split as it is."""
        return self._get(teacher, VALIDATION)

    def ahead(self, teacher: Teacher, number: int) -> None:
        """Compute a view that is missing, unless another process is at it."""
        part = training_part(self._view, number)
        if not self._path(teacher, part).exists():
            with self._watch.part("cache"):
                self._made(teacher, part, wait=False)

    def _logits(self, teacher: Teacher, part: Part) -> Tensor:
        number = part[-1]
        if not isinstance(number, int):
            return logits_of(teacher, self._data.validation.images)
        images = self._data.train.images
        # Batch by batch: a view of all images, and the places of its pixels, would take nine times their memory.
        return logits_of(
            teacher, images, take=lambda examples: take_view(images, examples, view=self._view, epoch=number)
        )

    def _get(self, teacher: Teacher, part: Part, later: Sequence[Part] = ()) -> Logits:
        with self._watch.part("cache"):
            path = self._path(teacher, part)
            found = _read(path)
            if found is None:
                self._see_to(teacher, part, later)
                found = _read(path)
        if found is None:
            raise CacheError(f"{path}: was written and cannot be read back", "check the disk; set AUTODISTILL_CACHE")
        return found

    def _see_to(self, teacher: Teacher, part: Part, later: Sequence[Part]) -> None:
        """Have a part computed: here, or by another process that is at it, which leaves time for later ones here."""
        if self._made(teacher, part, wait=False):
            return
        path = self._path(teacher, part)
        for other in later:
            if path.exists():
                break
            if not self._path(teacher, other).exists():
                self._made(teacher, other, wait=False)
        self._made(teacher, part, wait=True)

    def _made(self, teacher: Teacher, part: Part, *, wait: bool) -> bool:
        """Compute a part that is missing or damaged; False where another process is at it and is not waited for."""
        path = self._path(teacher, part)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(path.with_suffix(".lock"), timeout_s=-1 if wait else 0))
            except InUseError:
                return False
            if _read(path) is None:
                if path.exists():
                    self._say(f"{path}: damaged cache file; computed again")
                self._fill(teacher, path, part)
        return True

    def _fill(self, teacher: Teacher, path: Path, part: Part) -> None:
        """Fetch a part that another machine left, or compute it and leave it for them."""
        damaged = path.exists()
        if not damaged and self._depot.fetch(path):
            return
        logits = self._compute(teacher, part)
        # Two machines can be at it at once, and differ in the last bits: whoever left it first is right.
        if damaged or not self._depot.fetch(path):
            _write(path, logits)
            self._depot.leave(path)

    def _path(self, teacher: Teacher, part: Part) -> Path:
        device = self._data.train.images.device
        return logits_path(self._root, teacher.fingerprint, self._data.fingerprint, part, device=device)

    def _compute(self, teacher: Teacher, part: Part) -> Logits:
        self.computed += 1
        with self._watch.part("teacher"):
            logits = self._logits(teacher, part)
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
