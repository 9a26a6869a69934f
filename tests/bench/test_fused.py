"""Students trained as one network, against the trainer that trains them one by one, in float64 on the CPU.

Training magnifies differences of rounding: in float32, weights of a MobileNetV2 that differ by 1e-7 are 0.02 apart
after two epochs. In float64 the two ways still agree to seven digits then on any processor, and a real fault shows.
"""

from collections.abc import Iterator

import pytest
import torch
from bench.fused import Fused, Trial, fuse, taken_apart
from torch import Tensor, nn

from autodistill import data
from autodistill.config import TrainingSpec
from autodistill.data import Data, Split
from autodistill.data.views import View
from autodistill.models import build
from autodistill.records import TrialParams
from autodistill.training import Execution, Recipe, supervise, train
from autodistill.training.step import StepRunner

CLASSES, SIZE, EPOCHS = 5, 8, 2
STUDENTS = ("mobilenetv2:0.1", "vgg8:0.1", "resnet8x4:0.1", "resnet8:0.5", "wrn_16_2:0.2")


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have steps computed in float64, which the trainer's own conversions to float32 would prevent."""

    def normalise(images: Tensor, **statistics: tuple[float, ...]) -> Tensor:
        return data.normalise(images, **statistics).double()

    for module in ("autodistill.training.step", "bench.fused"):
        monkeypatch.setattr(f"{module}.normalise", normalise)
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    # As on a GPU, where trials are fused.
    monkeypatch.setattr("autodistill.training.step.cpu_network", lambda model: model)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def student(name: str, seed: int) -> nn.Module:
    return build(name, num_classes=CLASSES, in_channels=3, image_size=SIZE, seed=seed)


def pictures() -> Data:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (48, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    part = Split(images.contiguous(memory_format=torch.channels_last), torch.arange(48) % CLASSES)
    return Data("p", tuple("abcde"), part, part, part, (0.5,) * 3, (0.25,) * 3, "p")


def teacher(number: int) -> Tensor:
    return 3 * torch.randn(48, CLASSES, generator=torch.Generator().manual_seed(number))


def trial(name: str, k: int, count: int = EPOCHS) -> Trial:
    """Seed, learning rate, temperature and weight differ from one trial to the next."""
    params = TrialParams(
        teacher="t", method="ts", method_params={"tau": 1.0 + k}, tau_student=1.0 + k, soft_weight=0.3 + 0.2 * k
    )
    taught = supervise(params, logits=teacher, labels=pictures().train.labels)
    spec = TrainingSpec(epochs=9, batch_size=16, lr=0.005 * (k + 1), precision="float32", evaluate_every=9)
    return Trial(student(name, k), Recipe(spec, View(0, 1, True), 9, count, k), taught)


def alone(name: str, k: int, count: int = EPOCHS) -> tuple[nn.Module, list[float]]:
    one = trial(name, k, count)
    curve = list(train(one.model, pictures(), one.recipe, supervision=one.supervision))
    return one.model, [it.train_loss for it in curve]


def epochs(fused: Fused, numbers: range) -> list[Tensor]:
    found = []
    for number in numbers:
        steps = fused.begin_epoch(number)
        for _ in range(steps):
            fused()
        found.append(fused.sums / steps)
    return found


def assert_close(state: dict[str, Tensor], model: nn.Module) -> None:
    """Up to another order of additions."""
    expected = model.state_dict()
    for name, value in state.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-7, atol=1e-9, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("name", STUDENTS)
def test_a_fused_network_computes_what_its_students_do(name):
    models = [student(name, seed).eval() for seed in range(3)]
    images = torch.randn(4, 3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    found = fuse(models).eval()(images.flatten(1, 2)).view(4, 3, CLASSES)
    for k, model in enumerate(models):
        torch.testing.assert_close(found[:, k], model(images[:, k]), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "count"),
    [pytest.param(STUDENTS[0], 1, marks=pytest.mark.slow), *((name, EPOCHS) for name in STUDENTS[1:3])],
)
def test_trials_trained_together_end_as_they_do_alone(name, count):
    """A MobileNetV2 takes one epoch: grouped convolutions are slow in float64."""
    fused = Fused([trial(name, k, count) for k in range(3)], pictures())
    curves = epochs(fused, range(count))
    for k, state in enumerate(fused.states()):
        model, losses = alone(name, k, count)
        assert [float(curve[k]) for curve in curves] == pytest.approx(losses, rel=1e-9)
        assert_close(state, model)


@pytest.mark.usefixtures("float64")
def test_survivors_go_on_as_if_nobody_had_left():
    fused = Fused([trial("resnet8:0.5", k) for k in range(3)], pictures())
    epochs(fused, range(1))
    left = fused.compact([0, 2])
    epochs(left, range(1, EPOCHS))
    assert len(left.states()) == 2
    for k, state in zip((0, 2), left.states(), strict=True):
        assert_close(state, alone("resnet8:0.5", k)[0])


def test_a_layer_that_would_mix_students_is_refused():
    with pytest.raises(ValueError, match="0: LayerNorm cannot be fused"):
        fuse([nn.Sequential(nn.LayerNorm(8)) for _ in range(2)])


def test_taken_apart_is_what_was_put_in():
    models = [student("mobilenetv2:0.1", seed) for seed in range(2)]
    like = models[0].state_dict()
    for state, model in zip(taken_apart(dict(fuse(models).state_dict()), like, 2), models, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_records_the_fused_step():
    said: list[str] = []
    data, curves = pictures().to("cuda"), []
    for mode in ("eager", "graph"):
        trials = [trial("resnet8:0.5", k, 3) for k in range(3)]
        fused = Fused([one._replace(model=one.model.to("cuda")) for one in trials], data)
        execute = StepRunner(fused, Execution(mode, said.append))
        curve = []
        for number in range(3):
            execute(fused.begin_epoch(number))
            curve += fused.sums.tolist()
        curves.append(curve)
    assert said == []
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)
