"""Methods of the user: `python:FILE.py:FUNCTION`, from the check of its file to the exported student."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from executor_parts import LADDER, Here, run
from small_studies import core, drive, fake, options, recommending, resolve

from autodistill import api
from autodistill.config import Space, load
from autodistill.data import load as load_data
from autodistill.errors import ConfigError, StoreError
from autodistill.executors import MeasureStudentTask, TrainTask, TrainTeacherTask, ray
from autodistill.export import export_student
from autodistill.methods import METHODS, check_code, code_of, method_named
from autodistill.records import Note, RunSpec, StudyRecord, TrialParams
from autodistill.shipping import train_student
from autodistill.store import StudyFolder, read_result
from autodistill.studies import rendered
from autodistill.study import KNOWN
from autodistill.study.fitting import check_methods
from autodistill.study.resuming import run_key
from autodistill.study.run import local_executor

FOCAL = '''
import torch.nn.functional as F


def focal(student_logits, teacher_logits, labels, prepared, ramp, *, gamma=2.0, tau=4.0):
    """Cross-entropy with the teacher, weighted by what the teacher does not know."""
    hard = F.cross_entropy(student_logits, labels)
    targets = (teacher_logits.float() / tau).softmax(dim=1)
    each = -(targets * (student_logits / tau).log_softmax(dim=1)).sum(dim=1)
    soft = ((1 - targets.amax(dim=1)) ** gamma * each).mean() * tau**2
    return hard + (soft if ramp is None else ramp * soft), hard, soft
'''
NAME = "python:my_loss.py:focal"
ONLY = f'search.methods={{"{NAME}" = {{gamma = {{low = 0.5, high = 4.0}}}}}}'


@pytest.fixture
def file() -> Path:
    path = Path("my_loss.py")
    path.write_text(FOCAL)
    return path


def loaded(text: str) -> Space:
    Path("mine.toml").write_text(text)
    return load("mine.toml", known=KNOWN)


def test_a_function_is_a_method_whose_parameters_are_its_keyword_arguments(file):
    method = method_named(NAME)
    assert method.params == ("gamma", "tau")
    assert (method.shape.is_weighted, method.min_classes, method.couples_batch) == (False, 2, False)
    space = loaded(f'[search.methods."{NAME}"]\ngamma = 2.0\nramp_epochs = 3')
    assert space.search.methods == {NAME: {"gamma": 2.0, "ramp_epochs": 3.0}}
    check_methods(space, 2)
    check_methods(loaded(f'[search.methods."{NAME}"]'), 10)
    overridden = load("smoke", known=KNOWN, overrides=[f'search.methods."{NAME}".gamma=[1.0, 2.0]'])
    assert overridden.search.methods == {NAME: {"gamma": (1.0, 2.0)}}
    with pytest.raises(ConfigError) as once:
        resolve(options(f'search.methods."{NAME}".nosuch=[1.0, 2.0]', methods=("ts", NAME), budget=""))
    assert "nosuch: unknown parameter" in once.value.message
    assert "prior" not in once.value.message


def test_a_file_may_hold_a_whole_method():
    Path("mine.py").write_text(
        "from autodistill.config import Range\nfrom autodistill.methods import METHODS, Method\n"
        "sharp = Method(METHODS['ttm'].loss, METHODS['ttm'].prepare, min_classes=4, settings={'tau': 2.0},\n"
        "               ranges={'tau': Range(low=1.0, high=3.0)})\n"
    )
    space = loaded('[search.methods."python:mine.py:sharp"]')
    assert space.search.methods == {"python:mine.py:sharp": {"tau": method_named("python:mine.py:sharp").ranges["tau"]}}
    assert space.prior.params == {"tau": 2.0}
    check_methods(space, 10)


def test_the_key_follows_from_the_code_and_the_function_and_not_from_the_path(file):
    Path("moved").mkdir()
    shutil.copy(file, "moved/renamed.py")
    other = f"{FOCAL}\n\nsecond = focal\n"
    Path("other.py").write_text(other)
    names = [NAME, "python:moved/renamed.py:focal", f"python:{Path.cwd()}/my_loss.py:focal"]
    names += ["python:other.py:focal", "python:other.py:second"]
    spec = resolve(options(*(f'search.methods."{name}".gamma=2' for name in names)))
    params = TrialParams(teacher="t", method_params={"gamma": 2.0}, soft_weight=None)
    keys = [
        run_key(spec, {"t": "f"}, RunSpec(run="r", params=params.model_copy(update={"method": it}), seed=0, epochs=3))
        for it in (*names, "dkd")
    ]
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys)) == 4
    assert [code_of(name) for name in METHODS] == [""] * len(METHODS)
    assert set(spec.setup.own_methods) == {*names}
    before = code_of(NAME)
    file.write_text(FOCAL.replace("tau**2", "tau"))
    assert code_of(NAME) != before, "the file was read once only"
    Path("helper_of_my_loss.py").write_text("WEIGHT = 2.0\n")
    file.write_text(FOCAL.replace("import", "import helper_of_my_loss\nimport", 1))
    before = code_of(NAME)
    Path("helper_of_my_loss.py").write_text("WEIGHT = 2.25\n")
    assert code_of(NAME) != before, "the code of the module that it imports is part of its code"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("{}['alpha']", "KeyError: 'alpha' (my_loss.py, line 7)"),
        ("helper_that_fails.help_me()", "ValueError: no help (my_loss.py, line 7)"),
        ("raise SystemExit(3)", "SystemExit: 3 (my_loss.py, line 7)"),
        ("raise RuntimeError('mine')", "RuntimeError: mine (my_loss.py, line 7)"),
        ("next(iter(()))", "StopIteration (my_loss.py, line 7)"),
    ],
)
def test_an_error_of_a_method_is_the_failure_of_its_run_and_names_the_line(code, told, tmp_path):
    Path("helper_that_fails.py").write_text("def help_me():\n    raise ValueError('no help\\nat all')\n")
    lines = FOCAL.replace("import", "import helper_that_fails\nimport", 1).splitlines()
    Path("my_loss.py").write_text("\n".join([*lines[:6], f"    {code}", *lines[7:]]))
    worker = Here(tmp_path, own_methods={NAME: code_of(NAME)})
    worker.do(TrainTeacherTask(uri=LADDER))
    task = run("a", teacher="weak")
    params = TrialParams(teacher="weak", method=NAME, method_params={"gamma": 2.0}, soft_weight=None)
    found = worker.do(TrainTask(spec=task.spec.model_copy(update={"params": params}), key=task.key))
    assert (found.result.state, found.result.error) == ("failed", told)
    assert read_result(worker.context.folder, "a") is None, "a mended file is tried again"
    assert worker.do(MeasureStudentTask(params=params, seconds=0)) is None
    assert worker.events == [Note(text=f"how long the study takes is not known: {told}", warning=True)]


def test_label_smoothing_has_its_own_key():
    spec = resolve(options())
    runs = [TrialParams(), *(TrialParams(method_params={"label_smoothing": it}) for it in (0.1, 0.2))]
    assert len({run_key(spec, {}, RunSpec(run="r", params=it, seed=0, epochs=3)) for it in runs}) == 3


def wrong(body: str, arguments: str = "student_logits, teacher_logits, labels, prepared, ramp, *, gamma=2.0") -> str:
    return f"import torch\n\n\ndef focal({arguments}):\n    {body}\n"


LOADING: dict[str, tuple[str, str, str]] = {
    "no file": ("python:gone.py:focal", FOCAL, "method python:gone.py:focal: no such file: "),
    "no function": ("python:my_loss.py:focl", FOCAL, "my_loss.py has no function 'focl' (did you mean 'focal'?"),
    "no name": ("python:my_loss.py", FOCAL, "method python:my_loss.py: "),
    "syntax": (NAME, "def focal(:\n", f"method {NAME}: my_loss.py cannot be imported: SyntaxError"),
    "import": (NAME, "import nothing_of_the_kind\n", "cannot be imported: ModuleNotFoundError"),
    "arguments": (NAME, wrong("pass", "logits, labels"), "its loss has the arguments (logits, labels); it must have "),
    "positional": (
        NAME,
        wrong("pass", "student_logits, teacher_logits, labels, prepared, ramp, gamma=2.0"),
        "it must have (student_logits, teacher_logits, labels, prepared, ramp, *, ...)",
    ),
}


@pytest.mark.parametrize("case", LOADING)
def test_a_file_that_is_no_method_is_refused_with_the_space(case):
    name, code, message = LOADING[case]
    Path("my_loss.py").write_text(code)
    with pytest.raises(ConfigError) as found:
        loaded(f'[search.methods."{name}"]\n[search.methods.ts]\ntua = 4.0')
    assert f"mine.toml: search.methods.{name}: " in found.value.message
    assert message in found.value.message
    assert "search.methods.ts.tua: unknown parameter" in found.value.message


def test_an_unknown_parameter_has_near_matches(file):
    with pytest.raises(
        ConfigError, match=r"focal\.gama: unknown parameter \(did you mean 'gamma'\? allowed: gamma, ramp"
    ):
        loaded(f'[search.methods."{NAME}"]\ngama = 1.0')


THREE = "must return three scalar tensors: the total, the hard and the soft loss"
RUNNING = {
    "error": ("return prepared['entropy']", "KeyError: 'entropy'"),
    "exit": ("raise SystemExit('enough')", "SystemExit: enough"),
    "one scalar": ("return student_logits.mean()", THREE),
    "none": ("return None", THREE),
    "numbers": ("return 1.0, 2.0, 3.0", THREE),
    "two": ("return student_logits.mean(), student_logits.mean()", THREE),
    "vectors": ("return (student_logits.mean(dim=1),) * 3", THREE),
    "no gradient": ("return (torch.tensor(1.0),) * 3", "the total loss has no gradient"),
    "not finite": ("return (student_logits.mean() / 0,) * 3", "is not finite for random logits"),
}


@pytest.mark.parametrize("case", RUNNING)
def test_a_loss_that_fails_is_refused_before_any_work(case):
    body, message = RUNNING[case]
    Path("my_loss.py").write_text(wrong(body))
    with pytest.raises(ConfigError) as found:
        check_methods(loaded(f'[search.methods."{NAME}"]\ngamma = 2.0'), 10)
    assert found.value.message.startswith(f"search.methods.{NAME}: ")
    assert message in found.value.message


def test_a_worker_refuses_another_file_under_the_name(file, tmp_path):
    hashes = {NAME: code_of(NAME)}
    check_code(NAME, hashes)
    context = Here(tmp_path, own_methods=hashes).context
    ray.check_methods(context.setup, "gamma-2")
    file.write_text(FOCAL.replace("tau**2", "tau"))
    params = TrialParams(teacher="weak", method=NAME, soft_weight=None)
    with pytest.raises(ConfigError, match="its code changed since the study began") as found:
        context.supervision(run("r", teacher="weak").spec.model_copy(update={"params": params}))
    assert "--study" in found.value.hint
    with pytest.raises(ConfigError, match=f"node gamma-2: method {NAME}: its code changed") as found:
        ray.check_methods(context.setup, "gamma-2")
    file.unlink()
    with pytest.raises(ConfigError, match=f"node gamma-2: method {NAME}: no such file") as found:
        ray.check_methods(context.setup, "gamma-2")
    assert "install the same module on every node" in found.value.hint


@pytest.mark.slow
def test_a_study_with_other_code_is_another_study(file):
    record = fake(options(ONLY, study="mine"))
    assert {trial.params.method for trial in record.trials} == {NAME}
    assert core(fake(options(ONLY, study="mine"))) == core(record)
    file.write_text(f"# a comment\n{FOCAL}")
    with pytest.raises(StoreError) as refused:
        fake(options(ONLY, study="mine"))
    code = "the code of my_loss.py, or of a module beside it that it imports, has changed since the study began"
    assert refused.value.message.splitlines()[1:] == [f"  method {NAME}: {code}"]


@pytest.mark.slow
def test_a_study_of_a_method_of_the_user_from_workers_to_export(file, warm):
    """Two worker processes; the report and the card name the function, `train` trains its recommendation."""
    one = 'ladder.architectures=["resnet8:0.25"]'
    record = drive(options(ONLY, one, budget="9", workers=2, study="mine"), executor_for=local_executor)
    assert {trial.params.method for trial in record.trials} == {NAME}
    assert all((run.state, run.params.soft_weight) == ("complete", None) for run in taught(record))
    assert "focal (gamma " in rendered(record, Path("page")).with_suffix(".md").read_text()
    found = recommending(record, "resnet8:0.25")
    space = load("runs/mine/space.toml", known=KNOWN)
    kinds = {"formats": ("safetensors",), "load_data": load_data, "say": lambda _: None}
    export_student(found, StudyFolder(Path("runs/mine")), space=space, to=Path("out"), **kinds)
    assert "focal: the user's own function" in Path("out", "README.md").read_text()
    asked = options(ONLY, one, teachers=("ladder:resnet8:0.25",))
    _, trained = train_student(asked, seed=1, to=Path("mine.safetensors"), with_validation=False, quiet=True)
    assert (trained.params.method, trained.params.method_params) == (NAME, {"gamma": 2.0})


def taught(record: StudyRecord) -> list[Any]:
    return [it for trial in record.trials for it in (trial.rung, trial.full) if it is not None]


@pytest.mark.slow
def test_python_takes_the_settings_of_a_method_as_a_mapping(file, monkeypatch):
    asked = []
    monkeypatch.setattr(api, "run_searches", lambda found, **_: asked.append(found) or pytest.skip("unused"))
    settings = {"search.methods": {NAME: {"gamma": 2.0}, "dkd": {}}}
    with pytest.raises(pytest.skip.Exception):
        api.search("resnet8:0.25", space="smoke", settings=settings, executor="serial")
    (one,) = asked[0].options
    assert one.overrides == (f'search.methods."{NAME}".gamma=2.0', "search.methods.dkd={}")
    methods = load(one.space, known=KNOWN, overrides=one.overrides).search.methods
    assert methods == {NAME: {"gamma": 2.0}, "dkd": dict(METHODS["dkd"].ranges)}


def test_a_loss_that_prints_or_changes_the_settings_of_torch_disturbs_nothing(tmp_path, capsys):
    (tmp_path / "noisy.py").write_text(
        "import torch\n\n\n"
        "def noisy(student_logits, teacher_logits, labels, prepared, ramp):\n"
        "    print('noise')\n"
        "    hard = torch.nn.functional.cross_entropy(student_logits, labels)\n"
        "    torch.set_grad_enabled(False)\n"
        "    torch.set_default_dtype(torch.float64)\n"
        "    return hard, hard, hard * 0\n"
    )
    method = method_named(f"python:{tmp_path / 'noisy.py'}:noisy")
    student = torch.randn(4, 3, requires_grad=True)
    total, *_ = method.loss(student, torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), {}, None)
    total.backward()
    assert (torch.is_grad_enabled(), torch.get_default_dtype()) == (True, torch.float32)
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", "noise\n")


def test_a_loss_that_changes_its_inputs_is_refused(tmp_path):
    (tmp_path / "mutating.py").write_text(
        "import torch\n\n\n"
        "def loss(student_logits, teacher_logits, labels, prepared, ramp):\n"
        "    teacher_logits.mul_(2)\n"
        "    hard = torch.nn.functional.cross_entropy(student_logits, labels)\n"
        "    return hard, hard, hard * 0\n"
    )
    with pytest.raises(ConfigError, match="changes its inputs in place"):
        resolve(options(f'search.methods={{"python:{tmp_path / "mutating.py"}:loss" = {{}}}}'))


def test_the_first_setting_of_an_own_loss_is_made_of_its_defaults(file):
    assert method_named(NAME).settings == {"gamma": 2.0, "tau": 4.0}
