"""Method grids as whole studies: on the command line, from Python, resumed, refused, and with runs of other studies."""

import itertools
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from dataset_files import write_images
from small_studies import TINY, Killed, core, drive, fake, idle, kill_after, options, placed, without_workers
from typer.testing import CliRunner

import autodistill as ad
from autodistill import __main__ as entry
from autodistill.cli import app
from autodistill.errors import ConfigError, StoreError, TeacherError
from autodistill.methods import METHODS
from autodistill.records import Note, StudyRecord, read_study
from autodistill.report import render
from autodistill.study import SearchOptions, resolve

NAME = "methods-smoke-resnet8-0.25"
ONE_TEACHER = 'ladder.architectures=["resnet8:0.25"]'


def asked(*more: str, methods: tuple[str, ...] = ("ts", "dkd"), budget: str = "", **flags: Any) -> SearchOptions:
    return options(*more, methods=methods, budget=budget, **flags)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished grid without training."""
    folder = tmp_path_factory.mktemp("grid")
    with placed(folder):
        fake(asked())
    return folder


@pytest.fixture
def whole(place: Path) -> StudyRecord:
    """The finished grid in this folder, with a cold cache."""
    shutil.copytree(place / "runs", "runs")
    return read_study(Path("runs", NAME, "study.json"))


def test_a_grid_is_measured_with_real_training_and_reported(tmp_path):
    methods = ("ts", "isats", "dkd", "dist", "nkd", "wttm")
    record = drive(asked("training.epochs=2", ONE_TEACHER, methods=methods))
    assert record.grid is not None
    assert {(it.method, it.teacher) for it in record.grid.cells} == {(it, "resnet8:0.25") for it in methods}
    for cell in record.grid.cells:
        assert [run.state for run in cell.runs] == ["complete"] * 2
        assert (cell.params.soft_weight is None) == (cell.method in ("dkd", "dist", "nkd", "wttm"))
    assert record.grid.verdict is not None
    assert record.grid.verdict.sentence
    assert record.plan.settings == 3
    assert record.spent_epochs <= record.plan.total_epochs
    assert record.recommendation is None
    assert read_study(Path("runs", NAME, "study.json")) == record
    page = render(record, tmp_path / "report").read_text()
    assert "By which method should" in page


def test_the_same_command_finds_a_finished_grid_and_an_interrupted_grid_goes_on_to_the_same_record(whole):
    assert fake(asked(), executor_for=idle) == whole
    for count in (5, 30, 60):
        study = f"killed-{count}"
        with pytest.raises(Killed):
            fake(asked(study=study), kill_after(count))
        again = fake(asked(study=study))
        assert core(again)["grid"] == core(whole)["grid"]
        assert core(again)["trials"] == core(whole)["trials"]


def test_a_larger_grid_finds_the_runs_of_a_smaller_grid(whole):
    larger = fake(asked(methods=("ts", "dkd", "isats"), study="larger"))
    assert {it.study for it in larger.found} == {NAME}
    assert any(it.run.startswith("confirm/") for it in larger.found)


def test_a_budget_that_cannot_pay_the_grid_is_refused_with_the_smallest_and_what_to_cut():
    # 2 methods x 2 teachers x (1 + 2 seeds) + 2 x 2
    with pytest.raises(ConfigError, match="2 methods x 2 teachers: the smallest is 16 ") as caught:
        resolve(asked(budget="15"))
    assert caught.value.hint == "raise --budget, or reduce methods to 1 or teachers to 1"
    assert not Path("runs").exists()
    assert resolve(asked(budget="16")).budget == "16"


@pytest.mark.parametrize(
    ("methods", "more", "message"),
    [
        (("ts", "dkdd"), (), "--method dkdd: unknown method 'dkdd' (did you mean 'dkd'"),
        (("ts", "ts"), (), "--method ts: named twice"),
        (("ts", "python:nowhere.py:loss"), (), "nowhere.py"),
        (("ts",), ("search.methods.ts.alpha=2",), "search.methods.ts.alpha: unknown parameter"),
        (("dkd",), ("search.methods.dkd.alpha=-1",), "search.methods.dkd: alpha is -1.0: a weight must be at least 0"),
        (("ts", "isats"), ("grid.shared=true",), "grid.shared: unknown key"),
    ],
)
def test_mistakes_are_named_before_any_work(methods, more, message):
    with pytest.raises(ConfigError) as caught:
        resolve(asked(*more, methods=methods))
    assert message in caught.value.message
    assert not Path("runs").exists()


def test_a_setting_that_is_fixed_leaves_the_others_searched():
    space = resolve(asked("search.methods.dkd.alpha=1")).space
    assert space.search.methods["dkd"] == {**METHODS["dkd"].ranges, "alpha": 1.0}
    fixed = resolve(asked("search.methods.isats.tau_target=4", methods=("isats", "ts"))).space.search.methods["isats"]
    assert set(fixed) == {"tau_target", "tau_student"}
    forms = resolve(asked('search.methods.ts.logits=["raw", "standardised"]')).space.search.methods["ts"]
    assert set(forms) == {"tau", "logits"}


def test_a_method_with_nothing_to_search_is_named():
    fixed = [f"search.methods.dkd.{name}=1" for name in METHODS["dkd"].ranges]
    (note,) = resolve(asked(*fixed)).notes
    assert note.startswith("dkd has nothing to search: all settings of its cells are equal.")
    assert "--set 'search.methods.dkd.PARAMETER={low=1, high=4}'" in note


def test_the_order_of_the_methods_changes_nothing():
    whole = fake(asked(methods=("ts", "dkd", "isats")))
    again = fake(asked(methods=("isats", "ts", "dkd")), executor_for=idle)
    assert again == whole


@pytest.mark.parametrize("key", ["prior.method=ts", "search.wave=8", "confirm.label_smoothing=false"])
def test_a_setting_without_effect_is_refused(key):
    with pytest.raises(ConfigError, match="has no effect in a method grid"):
        resolve(asked(key))


def test_with_two_classes_the_default_methods_are_those_that_fit_and_named_methods_are_refused(tmp_path):
    write_images(tmp_path / "two", ["cat", "dog"], count=40)
    sizes = ("data.train=40", "data.validation=20", "data.test=20", "data.crop=0", "training.batch_size=20")
    given = {"data": f"folder:{tmp_path / 'two'}", "methods": ("ts", "isats", "dkd")}
    spec = resolve(asked(*sizes, **given, default_methods=True))
    assert list(spec.space.search.methods) == ["ts"]
    assert "isats, dkd left out, which need 3 classes; compared: ts" in spec.notes
    assert "--method" not in spec.options.command
    with pytest.raises(ConfigError, match=r"isats needs at least 3 classes") as caught:
        resolve(asked(*sizes, **given))
    assert caught.value.hint == "compare other methods: --method ts,ats,nkd,ttm,wttm"


def test_a_grid_of_one_seed_shows_its_scores():
    record = fake(asked("confirm.seeds=1"))
    assert record.grid is not None
    verdict = record.grid.verdict
    assert (verdict.verdict, len(verdict.cells), len(verdict.methods)) == ("unconfirmed", 4, 2)
    assert verdict.sentence.startswith("One seed gives no interval")


def test_the_timeout_ends_a_grid_that_the_same_command_continues(place):
    stopped = fake(asked().model_copy(update={"timeout_s": 1e-9}))
    assert stopped.state == "running"
    shown = CliRunner().invoke(app, ["show", NAME])
    assert shown.exit_code == 0, shown.output
    whole = read_study(place / "runs" / NAME / "study.json")
    assert core(fake(asked()))["grid"] == core(whole)["grid"]


def test_the_space_of_a_grid_is_checked_and_names_compare(whole):
    checked = CliRunner().invoke(app, ["spaces", "check", f"runs/{NAME}/space.toml"])
    assert "Next: autodistill compare" in checked.output
    assert f"runs/{NAME}/space.toml" in checked.output


def test_a_grid_has_no_pareto_front(whole):
    done = CliRunner().invoke(app, ["show", NAME, "--pareto"])
    assert "a method grid has no Pareto front" in str(done.exception)


def test_a_search_and_a_grid_do_not_continue_each_other(whole):
    with pytest.raises(StoreError, match=r"holds another study"):
        fake(options(study=NAME))
    fake(options(study="two"))
    with pytest.raises(StoreError, match=r"holds another study"):
        fake(asked(study="two"))


def test_the_space_of_a_grid_is_no_space_of_a_search(whole):
    with pytest.raises(ConfigError, match=r"only `autodistill compare` measures"):
        resolve(options(study="two").model_copy(update={"space": f"runs/{NAME}/space.toml"}))


def test_a_teacher_does_not_join_a_grid():
    one, other = "ladder:resnet8:0.25", "ladder:resnet8:0.5"
    fake(asked(teachers=(one,)))
    with pytest.raises(StoreError, match="the teachers of a method grid stay the same") as caught:
        fake(asked(teachers=(one, other)))
    assert "--study" in caught.value.hint


def test_a_method_that_fails_with_every_teacher_is_left_out_and_the_grid_goes_on(tmp_path):
    """The loss of this method is NaN for batches of 20 images and more."""
    (tmp_path / "broken.py").write_text(
        "def bad(student_logits, teacher_logits, labels, prepared, ramp, *, strength):\n"
        "    hard = student_logits.logsumexp(1).mean()\n"
        "    bad = (student_logits * (strength if len(labels) < 20 else float('nan'))).mean()\n"
        "    return hard + bad, hard, bad\n"
    )
    name = f"python:{tmp_path / 'broken.py'}:bad"
    record = drive(asked("training.epochs=2", f'search.methods."{name}".strength=1.0', methods=("ts", name)))
    assert record.grid is not None
    assert {cell.method for cell in record.grid.cells} == {"ts"}
    assert record.grid.verdict is not None
    assert any(it.state == "failed" for it in record.trials)
    verdict = record.grid.verdict
    assert (verdict.verdict, [row.name for row in verdict.methods if row.seeds]) == ("unconfirmed", ["ts"])
    assert any(reason.startswith("Every trial of bad failed (") for reason in verdict.reasons)


def test_on_the_command_line(monkeypatch):
    without_workers(monkeypatch)
    sizes = [it for override in TINY for it in ("--set", override)]
    command = [
        "compare",
        "--student",
        "resnet8:0.25",
        "--space",
        "smoke",
        "--method",
        "ts,dkd",
        *sizes,
        "--workers",
        "1",
    ]
    dry = CliRunner().invoke(app, [*command, "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert "3 settings per cell" in dry.output
    assert not Path("runs").exists()
    done = CliRunner().invoke(app, [*command, "--format", "json"])
    assert done.exit_code == 0, done.output
    record = StudyRecord.model_validate_json(done.stdout)
    assert record.grid is not None
    cells = itertools.product(("ts", "dkd"), ("resnet8:0.25", "resnet8:0.5"))
    assert {(it.method, it.teacher) for it in record.grid.cells} == set(cells)
    assert record.command.startswith("autodistill compare --student resnet8:0.25 --space smoke --method ts,dkd")
    shown = CliRunner().invoke(app, ["show", NAME])
    assert shown.exit_code == 0, shown.output
    assert "label smoothing" in shown.output
    csv = CliRunner().invoke(app, ["show", NAME, "--format", "csv"])
    assert csv.exit_code == 0, csv.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--method", ","), "--method: names no method"),
        (("--student", "vgg8"), "--student vgg8: a grid has one student"),
    ],
)
def test_no_method_and_two_students_are_refused(monkeypatch, capsys, more, message):
    monkeypatch.setattr(sys, "argv", ["autodistill", "compare", "--student", "resnet8", *more])
    with pytest.raises(SystemExit) as ended:
        entry.run()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_from_python():
    images = {"data.train": 100, "data.validation": 100, "data.test": 100}
    lengths = {"training.epochs": 2, "training.rung_epochs": 1, "ladder.epochs": 10, "confirm.seeds": 2}
    study = ad.compare(
        "resnet8:0.25",
        methods=["ts", "ttm"],
        space="smoke",
        settings={**images, **lengths, "ladder.architectures": ["resnet8:0.25"]},
        executor="serial",
        progress=False,
    )
    assert {row.method for row in study.leaderboard()} == {"ts", "ttm"}
    assert study.recommendation.sentence
    assert ad.load_study(study.folder).recommendation == study.recommendation
    with pytest.raises(ConfigError, match=r"compare\(\) has no argument 'max_trials'"):
        ad.compare("resnet8:0.25", max_trials=3)
    with pytest.raises(ConfigError, match=r"compare\(\) has no argument 'max_parms' \("):
        ad.compare("resnet8:0.25", max_parms=3)
    with pytest.raises(ConfigError, match=r"methods\[0\]: .* cannot be imported"):
        ad.compare("resnet8:0.25", methods=lambda *_: None)


def test_the_plan_is_told_and_the_time_estimated():
    events: list[object] = []
    fake(asked(), events.append)
    texts = [it.text for it in events if isinstance(it, Note)]
    assert any(text.startswith("plan: ") and "3 settings per cell" in text for text in texts)


def test_a_grid_ships_no_student_and_says_what_does(whole):
    for command in (["train", "--from", NAME], ["export", NAME]):
        done = CliRunner().invoke(app, command)
        assert "compares methods and recommends no student" in str(done.exception)
        assert "autodistill search" in done.exception.hint


def test_own_functions_with_one_name_cannot_be_told_apart_in_a_report():
    with pytest.raises(ConfigError, match="a report would call all of them loss") as caught:
        resolve(asked(methods=("ts", "python:a.py:loss", "python:b.py:loss")))
    assert caught.value.hint == "give the functions different names"


def test_a_setting_of_a_method_that_is_not_compared_is_refused():
    with pytest.raises(ConfigError, match="this method is not compared"):
        resolve(asked("search.methods.nkd.gamma=1"))


@pytest.mark.parametrize("methods", [(), ("ts", "dkd")], ids=["search", "grid"])
def test_a_teacher_that_is_refused_leaves_no_study_in_the_way_of_the_right_command(methods):
    """At chance, as with a wrong option: the command is repeated with the option that the hint names."""
    with pytest.raises(TeacherError, match="not above chance"):
        drive(options("ladder.epochs=1", "ladder.lr=1e-6", methods=methods, budget="" if methods else "11"))
    assert not list(Path("runs").glob("*/study.json"))
    assert fake(options(methods=methods, budget="" if methods else "11")).state == "complete"
