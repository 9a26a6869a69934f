import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from teacher_files import coloured, digits, network, ready
from torch import Tensor, nn

from autodistill import logit_cache as cache_module
from autodistill.data import Data
from autodistill.data.views import View, take_view
from autodistill.errors import CacheError, StoreError, TeacherError
from autodistill.logit_cache import LogitCache, estimated_bytes, missing_views
from autodistill.teachers import Normalisation, Teacher, logits_of
from autodistill.teachers.teacher import ensemble, mean_logits

VIEW = View(7, 1, False)
OWN = Normalisation("data", digits().mean, digits().std)


class Counting(nn.Module):
    """A network that counts the images it is shown, and may change its answers."""

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda logits: logits, *, seed: int = 0) -> None:
        super().__init__()
        self.inner = network(seed=seed)
        self.change = change
        self.images = 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return self.change(self.inner(images))


def teacher_of(module: nn.Module, *, normalisation: Normalisation = OWN) -> Teacher:
    return ready(module, name="t", uri="file:t.pt", architecture="x", normalisation=normalisation, channels=1)


def cache_of(root: Path, *, data: Data | None = None, view: View = VIEW) -> tuple[LogitCache, list[str]]:
    said: list[str] = []
    return LogitCache(root, data=data or digits(), view=view, say=said.append), said


def missing(root: Path, teacher: Teacher, views: int) -> tuple[int, ...]:
    device = torch.device("cpu")
    return missing_views(root, teacher.fingerprint, digits().fingerprint, view=VIEW, views=views, device=device)


def stored(root: Path) -> list[Path]:
    return sorted(root.rglob("*.safetensors"))


def test_each_view_is_computed_once_and_kept_for_everybody(tmp_path: Path) -> None:
    module = Counting()
    teacher, (cache, said) = teacher_of(module), cache_of(tmp_path)
    first = [cache.training(teacher, number) for number in (0, 1)] + [cache.validation(teacher)]
    assert cache.computed == 3
    assert module.images == 250 + 250 + 200
    later, _ = cache_of(tmp_path)
    for reader in (cache, later):
        again = [reader.training(teacher, number) for number in (0, 1)] + [reader.validation(teacher)]
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert (cache.computed, later.computed) == (3, 0)
    assert module.images == 700
    assert said == []
    assert len(stored(tmp_path)) == 3


@pytest.mark.parametrize("batch", [256, 64])
def test_rows_are_the_teachers_logits_in_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr("autodistill.teachers.teacher.BATCH", batch)
    module = Counting()
    teacher, (cache, _), data = teacher_of(module), cache_of(tmp_path), digits()
    everything = torch.arange(250)
    for number in (0, 3):
        found = cache.training(teacher, number)
        images = take_view(data.train.images, everything, view=VIEW, epoch=number)
        assert found.dtype == torch.float16
        assert torch.equal(found, logits_of(teacher, images).half())
    assert torch.equal(cache.validation(teacher), logits_of(teacher, data.validation.images).half())


def test_the_file_holds_what_was_estimated(tmp_path: Path) -> None:
    cache, _ = cache_of(tmp_path)
    cache.training(teacher_of(Counting()), 0)
    assert estimated_bytes(teachers=1, views=1, examples=250, classes=10) == 5000
    assert stored(tmp_path)[0].stat().st_size == pytest.approx(5000, abs=400)
    assert estimated_bytes(teachers=2, views=30, examples=250, classes=10) == 300_000


def test_whatever_could_change_a_logit_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, data = teacher_of(Counting()), digits()
    other_stats = OWN._replace(mean=(0.5,))
    views = [VIEW, VIEW._replace(seed=8), VIEW._replace(crop=2), VIEW._replace(flip=True)]
    asked: list[tuple[Teacher, Data, View, int]] = [(teacher, data, view, 0) for view in views]
    asked += [(teacher, data, VIEW, 1), (teacher, replace(data, fingerprint="other"), VIEW, 0)]
    asked += [
        (teacher_of(Counting(seed=1)), data, VIEW, 0),
        (teacher_of(Counting(), normalisation=other_stats), data, VIEW, 0),
    ]
    for count, (its, on, view, number) in enumerate(asked, start=1):
        cache, _ = cache_of(tmp_path, data=on, view=view)
        cache.training(its, number)
        assert cache.computed == 1
        assert len(stored(tmp_path)) == count
    monkeypatch.setattr(torch, "__version__", "3.0.0")
    cache, _ = cache_of(tmp_path)
    cache.training(teacher, 0)
    assert cache.computed == 1
    monkeypatch.setattr(cache_module, "FORMAT", cache_module.FORMAT + 1)
    cache.training(teacher, 0)
    assert cache.computed == 2
    assert len(stored(tmp_path)) == len(asked) + 2


def test_another_type_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, _ = cache_of(tmp_path)
    teacher = teacher_of(Counting())
    cache.training(teacher, 0)
    monkeypatch.setattr(cache_module, "DTYPE", torch.bfloat16)
    path = cache._path(teacher, ("train", *VIEW, 0))
    assert path.parent == stored(tmp_path)[0].parent
    assert path != stored(tmp_path)[0]


def test_the_validation_split_has_no_view(tmp_path: Path) -> None:
    teacher = teacher_of(Counting())
    cache_of(tmp_path)[0].validation(teacher)
    other, _ = cache_of(tmp_path, view=View(1, 2, True))
    other.validation(teacher)
    assert other.computed == 0


def test_two_at_once_compute_each_view_once_between_them(tmp_path: Path) -> None:
    def slowly(logits: Tensor) -> Tensor:
        threading.Event().wait(0.03)
        return logits

    module, start = Counting(slowly), threading.Barrier(2)
    teacher, caches = teacher_of(module), [cache_of(tmp_path)[0] for _ in range(2)]
    found: dict[int, list[Tensor]] = {}

    def work(who: int) -> None:
        start.wait()
        found[who] = [caches[who].training(teacher, number) for number in range(3)]

    threads = [threading.Thread(target=work, args=(who,)) for who in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert caches[0].computed + caches[1].computed == 3
    assert module.images == 3 * 250
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))


class Busy:
    """Another process in the middle of a view, until it may go on."""

    def __init__(self, cache: LogitCache, number: int) -> None:
        self._at_it, self.go_on = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: cache.training(teacher_of(Counting(self._held_up)), number))
        self._thread.start()
        assert self._at_it.wait(20)

    def __enter__(self) -> "Busy":
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread whether the test passed or failed, so that no later test meets its error."""
        self.go_on.set()
        self._thread.join()

    def _held_up(self, logits: Tensor) -> Tensor:
        self._at_it.set()
        assert self.go_on.wait(20)
        return logits


def test_a_process_that_waits_for_a_view_computes_later_views_meanwhile(tmp_path: Path) -> None:
    first, second = cache_of(tmp_path)[0], cache_of(tmp_path)[0]
    with Busy(first, 0) as other:

        def waved_on(logits: Tensor) -> Tensor:
            other.go_on.set()
            return logits

        teacher = teacher_of(Counting(waved_on))
        found = second.training(teacher, 0, later=range(1, 5))
    assert first.computed == 1
    assert 1 <= second.computed <= 4
    assert len(stored(tmp_path)) == 1 + second.computed
    assert torch.equal(
        found, logits_of(teacher, take_view(digits().train.images, torch.arange(250), view=VIEW, epoch=0)).half()
    )


def test_a_view_is_computed_ahead_unless_it_is_stored_or_being_computed(tmp_path: Path) -> None:
    first, second = cache_of(tmp_path)[0], cache_of(tmp_path)[0]
    teacher = teacher_of(Counting())
    second.training(teacher, 0)
    with Busy(first, 2):
        for number in range(4):
            second.ahead(teacher, number)
        assert missing(tmp_path, teacher, 6) == (2, 4, 5)
    for number in range(4):
        second.ahead(teacher, number)
    assert (first.computed, second.computed) == (1, 3)
    assert missing(tmp_path, teacher, 6) == (4, 5)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda whole: whole[:-1],
    "header cut": lambda whole: whole[:20],
    "empty": lambda whole: b"",
    "one bit flipped": lambda whole: whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:],
    "another type": lambda whole: whole.replace(b'"F16"', b'"I16"'),
    "transposed": lambda whole: whole.replace(b"[250,10]", b"[10,250]"),
    "renamed": lambda whole: whole.replace(b'"logits"', b'"lagits"'),
    "no checksum": lambda whole: safetensors.torch.save(safetensors.torch.load(whole)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_said_and_computed_again(damage: str, tmp_path: Path) -> None:
    teacher = teacher_of(Counting())
    before = cache_of(tmp_path)[0].training(teacher, 0).clone()
    (path,) = stored(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(DAMAGE[damage](whole))
    assert path.read_bytes() != whole, "the damage did nothing: the test shows nothing"
    cache, said = cache_of(tmp_path)
    assert torch.equal(cache.training(teacher, 0), before)
    assert cache.computed == 1
    assert said == [f"{path}: damaged cache file; computed again"]
    assert path.read_bytes() == whole
    cache.training(teacher, 0)
    assert cache.computed == 1
    assert len(said) == 1


def test_a_logit_that_half_precision_cannot_hold_is_an_error(tmp_path: Path) -> None:
    def huge(logits: Tensor) -> Tensor:
        logits[5, 3] = -70_000.0
        return logits

    cache, _ = cache_of(tmp_path)
    with pytest.raises(CacheError) as caught:
        cache.training(teacher_of(Counting(huge)), 0)
    assert caught.value.message == "teacher t: a logit of 7e+04 does not fit into float16 (65504)"
    assert caught.value.hint
    assert caught.value.exit_code == 2, "as of other teachers that cannot be used"
    assert stored(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda logits: logits * float("nan"), "not finite for 250 of 250"),
        (lambda logits: logits[:, :7], "7 classes"),
    ],
)
def test_logits_that_no_teacher_may_have_are_not_stored(
    change: Callable[[Tensor], Tensor], found: str, tmp_path: Path
) -> None:
    cache, _ = cache_of(tmp_path)
    with pytest.raises(TeacherError, match=found):
        cache.training(teacher_of(Counting(change)), 0)
    assert stored(tmp_path) == []


def test_a_full_disk_is_an_error_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    cache, _ = cache_of(tmp_path)
    teacher = teacher_of(Counting())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left on device") as caught:
            cache.training(teacher, 0)
    assert "AUTODISTILL_CACHE" in caught.value.hint
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    cache.training(teacher, 0)
    assert len(stored(tmp_path)) == 1


def test_a_folder_that_cannot_be_written_is_an_error_only_where_something_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    teacher = teacher_of(Counting())
    with pytest.raises(StoreError, match="cannot be written") as caught:
        cache_of(tmp_path / "file")[0].training(teacher, 0)
    assert "AUTODISTILL_CACHE" in caught.value.hint

    def refuse(_: Path, **__: object) -> None:
        raise StoreError("read-only")

    cache, _ = cache_of(tmp_path)
    cache.training(teacher, 0)
    monkeypatch.setattr(cache_module, "locked", refuse)
    assert cache.training(teacher, 0).shape == (250, 10)
    with pytest.raises(StoreError, match="read-only"):
        cache.training(teacher, 1)


def test_three_channels_have_logits_too(tmp_path: Path) -> None:
    data = coloured(digits())
    own = Normalisation("data", data.mean, data.std)
    module = network(channels=3)
    teacher = ready(module, name="t", uri="t", architecture="x", normalisation=own, channels=3)
    cache, _ = cache_of(tmp_path, data=data)
    assert torch.equal(cache.validation(teacher), logits_of(teacher, data.validation.images).half())


def test_an_ensemble_takes_the_logits_of_its_members_from_the_cache(tmp_path: Path) -> None:
    """A member's view is computed once, and the ensemble's logits do not depend on what was computed first."""

    def together(modules: tuple[Counting, Counting]) -> Teacher:
        return ensemble([teacher_of(it) for it in modules], name="e", uri="ensemble:a+b")

    modules = Counting(seed=1), Counting(seed=2)
    both, (cache, _) = together(modules), cache_of(tmp_path / "members first")
    members = [cache.training(it, 3).float() for it in both.members]
    found = cache.training(both, 3)
    assert torch.equal(found, mean_logits(members).half())
    assert [it.images for it in modules] == [250, 250]
    other, _ = cache_of(tmp_path / "ensemble first")
    assert torch.equal(other.training(both, 3), found)
    assert (cache.computed, other.computed) == (3, 1)
    assert [it.images for it in modules] == [500, 500]
    assert torch.equal(other.training(both.members[1], 3).float(), members[1])
    assert torch.equal(other.validation(both), cache.validation(both))
    assert [it.images for it in modules] == [900, 900]
