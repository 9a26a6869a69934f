"""How a step is executed: what each way computes, when it gives up, and which one is chosen."""

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from toy_runs import dropping, linear, recipe, same, supervision, teacher, toy

from autodistill.data.views import View
from autodistill.methods import METHODS
from autodistill.records import Mode, TrialParams
from autodistill.training import Execution, supervise, train
from autodistill.training import step as step_module
from autodistill.training.probing import Timing, faster_step, measured
from autodistill.training.step import WARM_UP, Step, StepRunner, batches

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_a_recording_that_no_device_can_make_is_an_eager_run_and_said_once():
    plain, other, said = dropping(), dropping(), []
    first = list(train(plain, toy(), recipe(), supervision=supervision()))
    again = list(train(other, toy(), recipe(), supervision=supervision(), execution=Execution("graph", said.append)))
    assert said == ["training steps are executed eagerly, not by graph: no CUDA device"]
    assert first == again
    assert same(plain, other)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The real compiler's front half, with a back end that takes no seconds; what it was given."""
    given: list[nn.Module] = []
    plain = torch.compile

    def quick(model: nn.Module, *, dynamic: bool) -> Callable[[Tensor], Tensor]:
        given.append(model)
        return plain(model, dynamic=dynamic, backend="eager")

    monkeypatch.setattr(torch, "compile", quick)
    return given


def test_a_compiled_run_is_the_eager_one(compiler):
    plain, other, said = linear(), linear(), []
    first = list(train(plain, toy(), recipe(), supervision=supervision()))
    again = list(train(other, toy(), recipe(), supervision=supervision(), execution=Execution("compiled", said.append)))
    assert compiler == [other]
    assert said == []
    for one, two in zip(first, again, strict=True):
        assert one.train_loss == pytest.approx(two.train_loss, rel=1e-5)
    for one, two in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.fixture
def broken_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(inputs: Tensor) -> Tensor:
        raise RuntimeError("no working compiler\nand more")

    monkeypatch.setattr(torch, "compile", lambda model, *, dynamic: fail)


@pytest.mark.usefixtures("broken_compiler")
def test_a_compiler_that_fails_is_an_eager_run_and_said_once():
    plain, other, said = dropping(), dropping(), []
    first = list(train(plain, toy(), recipe()))
    again = list(train(other, toy(), recipe(), execution=Execution("compiled", said.append)))
    assert said == ["training steps are executed eagerly, not by compiled: no working compiler"]
    assert [record.train_loss for record in again] == [record.train_loss for record in first]


class OnGpu(Step):
    """A step that says it is on a GPU and counts."""

    def __init__(self) -> None:
        self.device = torch.device("cuda")
        self.model, self.taken = nn.Identity(), 0
        self.forward = self.network = self.model

    def __call__(self) -> None:
        self.forward(torch.zeros(1))
        self.taken += 1


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for CUDA's recordings and notes them: the recorded step is called at every replay."""
    noted: list[str] = []

    def record(step: Callable[[], None]) -> Callable[[], None]:
        noted.append("recorded")
        return lambda: (noted.append("replayed"), step())

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(step_module, "_recorded", record)
    return noted


def test_a_run_is_recorded_once_after_its_warm_up_and_every_step_is_taken_once(recordings):
    step = OnGpu()
    execute = StepRunner(step, Execution("graph"))
    for steps in (2, 5, 4):
        execute(steps)
    assert recordings == ["recorded"] + ["replayed"] * (11 - WARM_UP)
    assert step.taken == 11


def test_a_recording_that_fails_is_an_eager_run_without_a_lost_or_a_doubled_step(monkeypatch, recordings):
    def fail(step: object) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    step, said = OnGpu(), []
    monkeypatch.setattr(step_module, "_recorded", fail)
    StepRunner(step, Execution("graph", said.append))(7)
    assert step.taken == 7
    assert said == [
        "training steps are executed eagerly, not by graph: operation not permitted when stream is capturing"
    ]


@pytest.mark.usefixtures("broken_compiler")
def test_without_a_working_compiler_a_gpu_records_and_takes_every_step_once(recordings):
    step, said = OnGpu(), []
    StepRunner(step, Execution("compiled", said.append))(11)
    assert recordings == ["recorded"] + ["replayed"] * (11 - WARM_UP)
    assert step.taken == 11
    assert said == ["training steps are recorded, not compiled: no working compiler"]


@pytest.mark.parametrize(
    ("eager", "graph", "steps", "best"),
    [
        ((0.0, 0.1), (1.0, 0.01), 10, "eager"),  # 1.0 s against 1.1
        ((0.0, 0.1), (1.0, 0.01), 1000, "graph"),  # 100 s against 11
        ((0.0, 0.1), (1.0, 0.01), 59_800, "graph"),  # 599 s
        ((0.0, 0.1), (1.0, 0.01), 59_901, "compiled"),  # 600.01 s
        ((0.0, 0.1), None, 10**6, "eager"),
        (None, (1.0, 0.01), 1000, "graph"),
        (None, None, 1000, "eager"),
    ],
)
def test_the_fastest_way_counts_its_own_setup(eager, graph, steps, best):
    timings = {"eager": eager, "graph": graph}

    def measure(mode: Mode) -> Timing | None:
        return Timing(*timings[mode]) if timings[mode] else None

    assert faster_step(measure, steps=steps) == best


def test_a_way_is_timed_on_real_steps(monkeypatch):
    model = linear()
    ticks = SimpleNamespace(perf_counter=iter([0.0, 9.0, 10.0, 13.0]).__next__)
    monkeypatch.setattr("autodistill.training.probing.time", ticks)
    found = measured(lambda: model, toy(), recipe(batch_size=8), mode="eager")
    assert found == Timing(setup_s=6.0, step_s=1.0)  # 3 steps an epoch: 9 s, then 3
    assert not same(model, linear())


def test_a_way_that_falls_back_has_no_time():
    assert measured(linear, toy(), recipe(), mode="graph") is None


def test_steps_that_fail_are_no_way_but_a_want_of_memory_is_said(monkeypatch):
    monkeypatch.setattr("autodistill.training.probing._next_s", lambda epochs: next(epochs) and 1.0)
    steep = recipe(epochs=3, lr=1e30)
    assert measured(linear, toy(), steep, mode="eager") is None

    def full() -> nn.Module:
        model = linear()
        model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
        return model

    with pytest.raises(torch.OutOfMemoryError):
        measured(full, toy(), recipe(epochs=3), mode="eager")


def test_an_epoch_smaller_than_a_batch_is_one_batch():
    assert batches(5, 8, 0).shape == (1, 5)
    assert batches(17, 8, 0).shape == (2, 8)
    assert batches(16, 8, 3).flatten().sort().values.tolist() == list(range(16))


def accumulated(parts: int) -> nn.Module:
    model = linear()
    list(train(model, toy(), recipe(epochs=2)._replace(micro_batches=parts), supervision=supervision()))
    return model


@pytest.mark.parametrize("parts", [2, 3])
def test_micro_batches_add_up_to_the_batch(parts):
    """Without batch statistics, halves and thirds (3, 3 and 2 of 8 images) give the gradient of the whole."""
    for one, two in zip(accumulated(parts).parameters(), accumulated(1).parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_records_the_loss_of_every_method_with_its_ramp(method):
    plan, said = recipe(epochs=6, precision="float32"), []
    data, first = toy().to("cuda"), linear().to("cuda")
    second, settings = copy.deepcopy(first), METHODS[method].settings
    own = {name: value for name, value in settings.items() if name in METHODS[method].params}
    weight = 0.5 if METHODS[method].shape.is_weighted else None
    params = TrialParams(teacher="t", method=method, method_params={**own, "ramp_epochs": 3.0}, soft_weight=weight)
    taught = supervise(params, logits=teacher, labels=toy().train.labels)
    plain = list(train(first, data, plan, supervision=taught))
    other = list(train(second, data, plan, supervision=taught, execution=Execution("graph", said.append)))
    assert said == []
    assert [it.train_loss for it in other] == pytest.approx([it.train_loss for it in plain], rel=1e-3)


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("mode", ["graph", "compiled"])
def test_a_gpu_takes_the_same_steps_recorded_as_eagerly(mode):
    """In float32; the tolerance is that of another order of additions over 36 steps."""
    plan, said = recipe(epochs=12, precision="float32", view=View(3, 1, True)), []
    data, first = toy().to("cuda"), nn.Sequential(*list(dropping())[:5], nn.Linear(20, 4)).to("cuda")
    second = copy.deepcopy(first)
    plain = list(train(first, data, plan, supervision=supervision()))
    other = list(train(second, data, plan, supervision=supervision(), execution=Execution(mode, said.append)))
    assert said == []
    assert [it.train_loss for it in other] == pytest.approx([it.train_loss for it in plain], rel=1e-3)
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-3)
