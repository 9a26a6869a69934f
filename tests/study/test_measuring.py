"""What this machine has measured is kept in the cache folder and not measured again."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_studies import Here, request

from autodistill.store import cache_root
from autodistill.study import estimate, estimates, fitting, prepare, sharing
from autodistill.study.measuring import forget_if_wrong
from autodistill.study.sharing import Tried, tried
from autodistill.training.probing import Timing

pytestmark = pytest.mark.slow


def stored() -> set[Path]:
    return set(cache_root().glob("measured/*.json"))


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the pools that estimates start."""
    sizes: list[int] = []

    class Counted(Here):
        def __init__(self, size: int, *given: object, **named: object) -> None:
            sizes.append(size)
            super().__init__(size, *given, **named)

    monkeypatch.setattr(estimates, "Pool", Counted)
    return sizes


def test_a_second_plan_is_the_first_and_starts_no_worker(pools):
    first = estimate(prepare(request()))
    assert len(stored()) == 3, "the student and two teachers"
    again = estimate(prepare(request(budget="12", study="another")))
    assert pools == [1]
    assert again.time.phases_s["teachers"] == first.time.phases_s["teachers"]


@pytest.mark.parametrize(
    ("change", "measured_again"),
    [
        ({"student": "resnet8:0.3"}, 1),
        ({"more": ("training.batch_size=20",)}, 3),
        ({"more": ("data.pool=2", "data.crop=0")}, 3),
        ({"workers": 2}, 3),
        ({"more": ('ladder.architectures=["resnet8:0.25"]',)}, 0),
        ({"more": ("training.epochs=4", "data.train=80", "search.seed=5")}, 0),
    ],
)
def test_what_a_measurement_depends_on_is_measured_again(pools, change, measured_again):
    estimate(prepare(request()))
    before = stored()
    estimate(prepare(request(*change.pop("more", ()), **change)))
    assert len(stored() - before) == measured_again
    assert len(pools) == 1 + bool(measured_again)


@pytest.mark.parametrize("name", ["torch", "capability"])
def test_another_torch_or_instruction_set_measures_again(pools, monkeypatch, name):
    estimate(prepare(request()))
    if name == "torch":
        monkeypatch.setattr(torch, "__version__", "99.0")
    else:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    estimate(prepare(request()))
    assert len(stored()) == 6


def damage(path: Path) -> None:
    path.write_text("{")


@pytest.mark.parametrize("spoil", [damage, Path.unlink])
def test_a_damaged_measurement_is_made_again(pools, spoil: Callable[[Path], None]):
    estimate(prepare(request()))
    one = min(stored())
    spoil(one)
    estimate(prepare(request()))
    assert len(pools) == 2
    assert len(stored()) == 3


def test_a_teacher_that_was_measured_untrained_is_known_when_it_is_trained(pools, reference, warm):
    """The reference study measured its teachers before it trained them."""

    def of_teachers() -> set[str]:
        return {path.name for path in stored() if path.name.startswith("teacher")}

    before = of_teachers()
    assert before
    assert estimate(prepare(request(workers=2))).time is not None
    assert of_teachers() == before


def test_the_faster_number_format_is_tried_once(monkeypatch):
    asked = []
    monkeypatch.setattr(fitting, "faster_precision", lambda *_: asked.append(1) or "bfloat16")
    for study in ("one", "two"):
        prepared = prepare(request("training.precision=auto", study=study))
        assert prepared.space.training.precision == "bfloat16"
    assert len(asked) == 1
    prepare(request("training.precision=auto", student="resnet8:0.3"))
    assert len(asked) == 2


def test_steps_are_tried_on_a_gpu_once(monkeypatch):
    asked = []

    def timed(*_: object, mode: str) -> Timing:
        asked.append(mode)
        return Timing(0.0, {"eager": 2.0, "graph": 1.0}[mode])

    prepared = prepare(request())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 1000 * len(asked))
    monkeypatch.setattr(type(prepared.data), "to", lambda self, _: self)
    monkeypatch.setattr(sharing, "measured", timed)
    found = [tried(prepared.space, prepared.data, student="s", device=torch.device("cuda:0")) for _ in range(2)]
    assert found == [Tried(mode="graph", peak_bytes=2000)] * 2
    assert asked == ["eager", "graph"]


@pytest.mark.parametrize(
    ("planned", "took", "left"),
    [
        (60.0, 61.0, 3),
        (60.0, 89.0, 3),
        (60.0, 41.0, 3),
        (60.0, 91.0, 2),
        (60.0, 39.0, 2),
        (1.0, 4.0, 3),
        (640.0, 4.0, 2),
    ],
)
def test_a_measurement_that_a_study_proves_wrong_is_forgotten(pools, planned, took, left):
    """Phases of other work do not judge the student's measurement."""
    prepared = prepare(request())
    estimate(prepared)
    others = {"teachers": 5.0, "report": 2.0}
    forget_if_wrong(prepared, {"search": planned, **others}, {"search": took, "teachers": 900.0, "start-up": 9.0})
    assert len(stored()) == left
