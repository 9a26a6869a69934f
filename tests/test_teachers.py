import copy
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from teacher_files import ARCHITECTURE, coloured, digits, network, ready, trained
from torch import Tensor, nn

from autodistill.data import Data, Split
from autodistill.errors import TeacherError
from autodistill.teachers import Normalisation, Teacher, check, check_logits, load, logits_of, name_of, save
from autodistill.teachers.checks import chance_p, mcnemar_p
from autodistill.teachers.teacher import BATCH

OWN = Normalisation("data", digits().mean, digits().std)
COLOUR = Normalisation("stated", (0.2, 0.4, 0.6), (0.3, 0.5, 0.7))


def reference(module: nn.Module, images: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """Logits by the definition, in float64."""
    with torch.no_grad():
        return copy.deepcopy(module).double().eval()((images.double() / 255 - mean) / std)


# Reading


def plain(path: Path, state: dict[str, Tensor]) -> str:
    safetensors.torch.save_file(state, path.with_suffix(".safetensors"))
    return f"file:{path}.safetensors?arch={ARCHITECTURE}&norm=none"


def described(path: Path, state: dict[str, Tensor]) -> str:
    facts = {"architecture": ARCHITECTURE, "mean": "[0]", "std": "[1.0]", "format": "pt"}
    safetensors.torch.save_file(state, path.with_suffix(".safetensors"), facts)
    return f"file:{path}.safetensors"


def torch_file(suffix: str, wrap: Callable[[dict[str, Tensor]], object], query: str) -> Callable[..., str]:
    def write(path: Path, state: dict[str, Tensor]) -> str:
        torch.save(wrap(state), path.with_suffix(suffix))
        return f"file:{path}{suffix}?{query}"

    return write


NAMED = f"arch={ARCHITECTURE}&norm=none"
FORMS: dict[str, Callable[[Path, dict[str, Tensor]], str]] = {
    "safetensors": plain,
    "safetensors with metadata": described,
    "a state dict": torch_file(".pt", dict, NAMED),
    "a state dict, .pth": torch_file(".pth", dict, NAMED),
    "state_dict": torch_file(".pt", lambda state: {"state_dict": state, "epoch": 3}, NAMED),
    "model": torch_file(".pth", lambda state: {"model": state, "best": 0.9}, NAMED),
    "net": torch_file(".bin", lambda state: {"net": state}, NAMED),
    "arch": torch_file(".pt", lambda state: {"state_dict": state, "arch": ARCHITECTURE}, "norm=none"),
    "statistics": torch_file(
        ".pt", lambda state: {"model": state, "architecture": ARCHITECTURE, "mean": (0.0,), "std": (1.0,)}, ""
    ),
    "data parallel": torch_file(
        ".pt", lambda state: {"state_dict": {f"module.{key}": it for key, it in state.items()}}, NAMED
    ),
    "compiled": torch_file(".pt", lambda state: {f"_orig_mod.{key}": it for key, it in state.items()}, NAMED),
    "before batch counts": torch_file(
        ".pt", lambda state: {key: it for key, it in state.items() if "num_batches" not in key}, NAMED
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_teacher_is_read_from(form: str, tmp_path: Path) -> None:
    module = trained("none")
    teacher = load(FORMS[form](tmp_path / "wrn", module.state_dict()), data=digits())
    images = digits().validation.images[:60]
    assert torch.allclose(teacher(images).double(), reference(module, images, 0, 1), atol=1e-4)
    assert (teacher.architecture, teacher.name, teacher.channels) == (ARCHITECTURE, "wrn", 1)


def test_what_save_writes_is_all_that_load_needs(tmp_path: Path) -> None:
    data, module = digits(), trained()
    save(tmp_path / "t.safetensors", module, architecture=ARCHITECTURE, data=data, stem_stride=2)
    teacher = load(f"file:{tmp_path}/t.safetensors", data=data)
    assert teacher.normalisation == Normalisation("stated", data.mean, data.std)
    assert teacher.module.conv1.stride == (2, 2)
    assert {key: it.tolist() for key, it in teacher.module.state_dict().items()} == {
        key: it.tolist() for key, it in module.state_dict().items()
    }
    assert os.listdir(tmp_path) == ["t.safetensors"]


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "t.safetensors", network(), architecture=ARCHITECTURE, data=digits())
    assert load("file:~/t.safetensors", data=digits()).name == "t"


def test_a_teacher_of_larger_images_gets_larger_images(tmp_path: Path) -> None:
    data, module = digits(), network("mobilenetv2:0.25", size=16)
    larger = replace(data, train=data.train._replace(images=data.train.images.repeat(1, 1, 2, 2)))
    save(tmp_path / "t.safetensors", module, architecture="mobilenetv2:0.25", data=larger)
    teacher = load(f"file:{tmp_path}/t.safetensors", data=data)
    assert teacher.input_size == 16
    images = data.validation.images[:5]
    inputs = (images.double() / 255 - data.mean[0]) / data.std[0]
    inputs = nn.functional.interpolate(inputs, size=(16, 16), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = module.double().eval()(inputs)
    assert torch.allclose(teacher(images).double(), expected, atol=1e-4)


# Names


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("file:a/wrn.safetensors?arch=wrn_40_2", "wrn"),
        ("file:a/wrn.v2.pt", "wrn.v2"),
        ("file:a/wrn.pt?arch=resnet8&name=big", "big"),
        ("torchvision:resnet50@IMAGENET1K_V2", "resnet50"),
        ("torchvision:resnet50@IMAGENET1K_V2?name=r50", "r50"),
    ],
)
def test_a_teachers_name(uri: str, name: str) -> None:
    assert name_of(uri) == name


def test_a_name_and_a_uri_may_be_given(tmp_path: Path) -> None:
    uri = described(tmp_path / "t", network().state_dict()) + "?name=a"
    assert load(uri, data=digits()).name == "a"
    teacher = load(uri, data=digits(), name="b", shown_as="ladder:x")
    assert (teacher.name, teacher.uri) == ("b", "ladder:x")


# Running a teacher


def test_one_channel_goes_to_all_three() -> None:
    module = network(channels=3)
    teacher = ready(module, name="t", uri="t", architecture="", normalisation=COLOUR, channels=3)
    images = digits().validation.images[:20]
    stats = (torch.tensor(it, dtype=torch.float64)[:, None, None] for it in (COLOUR.mean, COLOUR.std))
    expected = reference(module, torch.cat([images] * 3, dim=1), *stats)
    assert torch.allclose(teacher(images).double(), expected, atol=1e-4)


def test_a_teacher_is_frozen_in_evaluation_mode() -> None:
    module = nn.Sequential(nn.Dropout(0.9), trained())
    teacher = ready(module.train(), name="t", uri="t", architecture="", normalisation=OWN, channels=1)
    before = {key: it.clone() for key, it in module.state_dict().items()}
    images = digits().validation.images
    assert torch.equal(teacher(images), teacher(images))
    assert not teacher(images).requires_grad
    assert all(torch.equal(before[key], it) for key, it in module.state_dict().items())


def test_rows_depend_neither_on_their_company_nor_on_the_caller() -> None:
    teacher = ready(trained(), name="t", uri="t", architecture="", normalisation=OWN, channels=1)
    images = torch.cat([digits().train.images, digits().validation.images])
    other = torch.cat([images[:7], images[7:].flip(0)])
    found = logits_of(teacher, images)
    assert len(images) > BATCH
    assert torch.equal(found[:7], logits_of(teacher, other)[:7])
    assert torch.equal(found[:BATCH], logits_of(teacher, images[:BATCH]))
    assert torch.allclose(found[:3], teacher(images[:3]), atol=1e-4)


def test_half_precision_networks_give_float32_logits() -> None:
    class Half(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :10].half()

    teacher = ready(Half(), name="t", uri="t", architecture="", normalisation=OWN, channels=1)
    assert teacher(digits().validation.images[:2]).dtype == torch.float32


def test_the_fingerprint_covers_strides_normalisation_and_input_size() -> None:
    module = network()
    strided = copy.deepcopy(module)
    strided.conv1.stride = (2, 2)
    known = [(module, OWN, None), (strided, OWN, None), (module, OWN._replace(std=(0.5,)), None), (module, OWN, 16)]
    found = [
        ready(it, name="t", uri="t", architecture="x", normalisation=stats, channels=1, input_size=size).fingerprint
        for it, stats, size in known
    ]
    assert len(set(found)) == len(known)
    named = ready(module, name="u", uri="v", architecture="x", normalisation=OWN._replace(name="stated"), channels=1)
    assert named.fingerprint == found[0]


# Checks


def stated(module: nn.Module | None = None) -> Teacher:
    return ready(module or network(), name="t", uri="file:t.pt", architecture="x", normalisation=OWN, channels=1)


def complaint(teacher: Teacher, logits: Tensor, data: Data | None = None) -> TeacherError:
    with pytest.raises(TeacherError) as caught:
        check(teacher, data or digits(), logits)
    assert teacher.uri in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    logits = nn.functional.one_hot(digits().validation.labels, 10).float()
    check(stated(), digits(), logits)
    logits[[3, 3, 50], [1, 2, 9]] = value
    assert "not finite for 2 of 200 images" in complaint(stated(), logits).message
    with pytest.raises(TeacherError, match="not finite for 2 of 200"):
        check_logits(stated(), digits(), logits)


def test_logits_of_another_class_count_are_refused() -> None:
    assert "9 classes, but digits has 10" in complaint(stated(), torch.zeros(200, 9)).message


def test_accuracy_at_chance_is_refused_and_above_accepted() -> None:
    labels = digits().validation.labels
    random = torch.randint(10, (200,), generator=torch.Generator().manual_seed(0))
    answers = torch.where(torch.arange(200) < 10, labels, random)
    teacher = stated()
    error = complaint(teacher, nn.functional.one_hot(answers, 10).float())
    assert "is not above chance (10.0 %, p = 0." in error.message
    assert "?classes=FILE states their order" in error.hint
    own = complaint(replace(teacher, uri="ladder:resnet8"), nn.functional.one_hot(answers, 10).float())
    assert own.hint.startswith("autodistill trained it on these images: raise ladder.epochs")
    accepted = check(replace(teacher, accepted=True), digits(), nn.functional.one_hot(answers, 10).float())
    assert accepted.notes[0].startswith("accepted although its balanced validation accuracy")
    better = torch.where(torch.arange(200) < 40, labels, random)
    assert check(teacher, digits(), nn.functional.one_hot(better, 10).float()).val_top1 == pytest.approx(0.28, abs=0.03)


def test_the_p_value_of_chance_follows_the_binomial_distribution() -> None:
    """Two classes of 40: guesses of equal shares hit 60 % of both with the probability that binomials give."""
    from scipy.stats import binom

    labels = torch.arange(80) % 2
    right = torch.zeros(80, dtype=torch.bool)
    for label in (0, 1):
        right[(labels == label).nonzero()[:24, 0]] = True
    answers = torch.where(right, labels, 1 - labels)
    assert answers.bincount().tolist() == [40, 40]
    assert chance_p(answers, labels) == pytest.approx(float(binom.sf(47, 80, 0.5)), rel=0.1)


@pytest.mark.parametrize("counts", [[170, 12], [500, 3], [40, 40, 2]])
def test_imbalance_neither_hides_a_perfect_teacher_nor_helps_a_constant_one(counts: list[int]) -> None:
    """The most frequent class has up to 99 % of the images."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    assert chance_p(labels, labels) < 0.001
    assert chance_p(torch.zeros_like(labels), labels) > 0.5


def test_an_untrained_network_is_refused() -> None:
    teacher = stated()
    assert "not above chance" in complaint(teacher, logits_of(teacher, digits().validation.images)).message


def test_mcnemars_test_is_the_binomial_test_of_discordant_pairs() -> None:
    before, after = torch.zeros(12, dtype=torch.bool), torch.ones(12, dtype=torch.bool)
    before[:2] = after[2:4] = True
    after[:2] = False
    before[2:4] = True
    assert mcnemar_p(before, after) == pytest.approx(sum(math.comb(10, k) for k in range(8, 11)) / 2**10)
    assert mcnemar_p(before, before) == 1


def test_a_permuted_head_is_named_with_the_order_that_mends_it() -> None:
    data, teacher = digits(), stated(trained())
    order = [3, 1, 2, 0, 4, 5, 9, 7, 8, 6]
    logits = logits_of(teacher, data.validation.images)[:, order]
    error = complaint(teacher, logits)
    option = "classes=3,1,2,0,4,5,9,7,8,6"
    assert error.hint == f"state it: file:t.pt?{option}; or keep it as it is: file:t.pt?accept=yes"
    kept = check(replace(teacher, accepted=True), data, logits)
    assert "accepted although" in kept.notes[0]


def test_a_teacher_that_is_merely_poor_is_kept() -> None:
    labels = digits().validation.labels
    random = torch.randint(10, (200,), generator=torch.Generator().manual_seed(0))
    poor = torch.where(torch.arange(200) % 3 == 0, labels, random)
    assert check(stated(), digits(), nn.functional.one_hot(poor, 10).float()).notes == ()


def test_what_a_check_records() -> None:
    teacher = stated(trained())
    logits = logits_of(teacher, digits().validation.images)
    record = check(teacher, digits(), logits)
    z, labels = logits.double().numpy(), digits().validation.labels.numpy()
    log_probs = z - np.log(np.exp(z).sum(1, keepdims=True))
    assert record.val_top1 == pytest.approx((z.argmax(1) == labels).mean())
    assert record.val_top1 > 0.9
    assert record.val_nll == pytest.approx(-log_probs[np.arange(200), labels].mean(), rel=1e-5)
    assert 0 <= record.val_ece <= 1
    assert record.cost.params == sum(parameter.numel() for parameter in teacher.module.parameters())
    assert (record.uri, record.normalisation, record.fingerprint) == ("file:t.pt", "data", teacher.fingerprint)


@pytest.mark.parametrize("fitting", ["none", "half"])
def test_a_normalisation_that_nobody_stated_and_does_not_fit(fitting: str, tmp_path: Path) -> None:
    data = digits()
    torch.save({"model": trained(fitting).state_dict()}, tmp_path / "t.pt")
    uri = f"file:{tmp_path}/t.pt?arch={ARCHITECTURE}"
    teacher = load(uri, data=data)
    assert teacher.normalisation == Normalisation("data", data.mean, data.std, assumed=True)
    error = complaint(teacher, logits_of(teacher, data.validation.images))
    assert f"with the normalisation '{fitting}'" in error.message
    assert error.hint == f"state it: {uri}&norm={fitting}; or keep it as it is: {uri}&accept=yes"
    right = load(f"{uri}&norm={fitting}", data=data)
    record = check(right, data, logits_of(right, data.validation.images))
    assert record.val_top1 > 0.9
    assert record.normalisation == fitting
    wrong = load(f"{uri}&norm=data&accept=yes", data=data)
    assert check(wrong, data, logits_of(wrong, data.validation.images)).val_top1 < 0.85


def test_a_wrong_reading_of_which_too_few_images_make_sure_is_noted(tmp_path: Path) -> None:
    data = digits()
    data = replace(data, validation=Split(data.validation.images[:60], data.validation.labels[:60]))
    torch.save({"model": trained("half").state_dict()}, tmp_path / "t.pt")
    teacher = load(f"file:{tmp_path}/t.pt?arch={ARCHITECTURE}&norm=data", data=data)
    (note,) = check(teacher, data, logits_of(teacher, data.validation.images)).notes
    assert note.startswith("it may be read wrongly: ")
    assert note.endswith(" with the normalisation 'half' (norm=half); too few images to be sure")


def test_the_datas_own_statistics_are_taken_where_they_fit(tmp_path: Path) -> None:
    torch.save(trained().state_dict(), tmp_path / "t.pt")
    teacher = load(f"file:{tmp_path}/t.pt?arch={ARCHITECTURE}", data=digits())
    assert teacher.normalisation.assumed
    assert check(teacher, digits(), logits_of(teacher, digits().validation.images)).normalisation == "data"


def test_imagenet_statistics_are_tried_on_three_channels() -> None:
    labels = digits().validation.labels
    images = (20 * labels).to(torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    data = replace(coloured(digits()), validation=Split(images, labels))

    class Reads(nn.Module):
        """Reads the label off a pixel, if that was normalised as ImageNet's are."""

        def forward(self, inputs: Tensor) -> Tensor:
            found = (inputs[:, 2, 0, 0] * 0.225 + 0.406) * 255 / 20
            whole = (found - found.round()).abs() < 1e-3
            return nn.functional.one_hot(torch.where(whole, found.round(), 0).long().clamp(0, 9), 10).float()

    own = Normalisation("data", data.mean, data.std, assumed=True)
    teacher = ready(Reads(), name="t", uri="file:t.pt", architecture="x", normalisation=own, channels=3)
    error = complaint(teacher, logits_of(teacher, images), data)
    assert error.hint.startswith("state it: file:t.pt?norm=imagenet; ")
    assert "100.0 % with the normalisation 'imagenet'" in error.message
