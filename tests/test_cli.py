"""The command line as a person meets it: streams, exit codes, messages."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from factories import study
from fake_trainer import Behaviour, behave
from small_studies import faking, without_workers
from typer.testing import CliRunner

from autodistill import __main__ as entry
from autodistill import __version__, running
from autodistill.cli import app
from autodistill.errors import AutodistillError, ConfigError, StoreError, StudyError
from autodistill.records import EpochEvent, StudyRecord, to_json

pytestmark = pytest.mark.slow

SETTINGS = (
    "data.train=150",
    "data.validation=60",
    "data.test=60",
    "training.epochs=2",
    "training.rung_epochs=1",
    "ladder.epochs=6",
    "confirm.seeds=2",
)
SPACE = ["--space", "smoke", *(part for setting in SETTINGS for part in ("--set", setting))]
TINY = ["--student", "resnet8:0.25", "--workers", "1", *SPACE]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "autodistill", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """As `run`, in this process, which has imported torch already."""

    def run_here(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["autodistill", *arguments])
        with pytest.raises(SystemExit) as end:
            entry.run()
        return subprocess.CompletedProcess(arguments, end.value.code or 0, *capsys.readouterr())

    return run_here


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands in this process start no worker process."""
    without_workers(monkeypatch)


def invoke(*arguments: str) -> str:
    found = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def error_of(*arguments: str) -> AutodistillError:
    found = CliRunner().invoke(app, arguments)
    assert isinstance(found.exception, AutodistillError), found.output
    return found.exception


def keep(trials: int) -> StudyRecord:
    """Write a finished study to ./runs."""
    record = study(trials)
    folder = Path("runs") / record.name
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(to_json(record))
    return record


def test_a_search_ends_with_a_result_a_report_and_the_next_command(here, alone):
    asked = ["search", *TINY, "--set", 'ladder.architectures=["resnet8:0.25"]', "--budget", "7"]
    found = run(*asked)
    assert found.returncode == 0, found.stderr
    assert "Teachers" in found.stdout
    assert "plan: 7 full trainings" in found.stderr
    assert found.stderr.strip().splitlines()[-1] == (
        "Report: reports/smoke-resnet8-0.25/report.html   Next: autodistill train --from smoke-resnet8-0.25"
    )
    written = {path.name for path in Path("reports/smoke-resnet8-0.25").iterdir()}
    assert written >= {"report.html", "report.md", "study.json"}
    again = here(*asked, "--format", "json")
    assert again.returncode == 0
    assert again.stderr == ""
    document = json.loads(again.stdout)
    assert document["schema_version"] == 2
    assert document["state"] == "complete"
    trained = here("train", "--from", "smoke-resnet8-0.25", "--out", "mine.safetensors")
    assert trained.returncode == 0, trained.stderr
    assert "a new training, with seed 0 and other weights than those of the study's confirm runs" in trained.stderr
    assert "without training: autodistill export smoke-resnet8-0.25" in trained.stderr
    assert "mine.safetensors, of this new training with seed 0" in trained.stdout
    shipped = here("export", "smoke-resnet8-0.25", "--format", "safetensors")
    assert re.search(
        r"weights of the study's (confirm run of (trial \d|plain KD)|no teacher), seed 100\d\n", shipped.stdout
    )
    assert "the one with the best validation accuracy; nothing was trained" in shipped.stderr
    mine = here(
        "export", "smoke-resnet8-0.25", "--format", "safetensors", "--weights", "mine.safetensors", "--out", "x"
    )
    assert "weights of a new training on train (seed 0)" in mine.stdout
    assert "nothing was trained" not in mine.stderr
    assert Path("mine.safetensors").stat().st_size > 1000


def test_a_trained_network_passes_the_check_of_teachers(here):
    network = ["--student", "resnet8:0.25", *SPACE, "--set", "training.epochs=15", "--out", "mine.safetensors"]
    trained = here("train", *network)
    assert trained.returncode == 0, trained.stderr
    checked = here("teachers", "check", "file:mine.safetensors", *SPACE, "--format", "json")
    assert checked.returncode == 0, checked.stderr
    (teacher,) = json.loads(checked.stdout)["teachers"]
    assert teacher["architecture"] == "resnet8:0.25"
    assert teacher["val_top1"] > 0.3


def test_a_dry_run_writes_nothing(here, alone):
    found = here("search", *TINY, "--student", "resnet8:0.5", "--dry-run")
    assert found.returncode == 0, found.stderr
    assert "all 2 studies: at most" in found.stderr
    assert re.search(r"wall time +about .*: start-up \d", found.stdout)
    assert "no teacher 1 + priors with plain KD 2 + search 2" in found.stdout
    assert "teacher check" in found.stdout
    assert found.stderr.rstrip().endswith(" --workers 1"), "as given"
    assert list(Path().iterdir()) == []


def test_version_and_help():
    assert invoke("--version") == f"kd-autodistill {__version__}\n"
    assert "Exit codes" in invoke("--help")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("search --student mobilenetv3", "unknown network 'mobilenetv3' (did you mean 'mobilenetv2'"),
        ("search --student mobilenetv2 --data digit", "unknown dataset 'digit' (did you mean 'digits'"),
        ("search --student mobilenetv2 --space digitz", "unknown space 'digitz' (did you mean 'digits'"),
        ("search --student mobilenetv2 --budget 5", "the smallest is 14 ("),
        ("search --student mobilenetv2 --budget much", "--budget much: must be a number above 0"),
        ("search --student mobilenetv2 --dry-run --format csv", "--format csv: a dry run has no table of trials"),
        ("search --student mobilenetv2 --timeout soon", "--timeout soon: must be a number above 0"),
        ("search --student mobilenetv2 --device tpu", "--device tpu: unknown (allowed: auto, cpu, cuda"),
        ("search --student mobilenetv2 --teacher file:none.safetensors", "no such file: none.safetensors"),
        ("search --student mobilenetv2 --teacher ftp:x", "unknown scheme 'ftp'"),
        ("search --student mobilenetv2 --set training.epoch=3", "did you mean 'epochs'"),
        (
            "search --student mobilenetv2 --set training.short_epochs=1",
            "training.short_epochs: is called training.rung_epochs now",
        ),
        ("search --student mobilenetv2 --data folder:nowhere", "nowhere"),
        ("report nothing", "no study 'nothing' here"),
        ("show nothing", "no study 'nothing' here"),
        ("train", "--student: missing"),
        ("train --from kept --space nosuch.toml", "--space beside --from: the study sets the space"),
        ("train --student resnet8 --seed -1", "--seed -1: must be at least 0 and below 2147483648"),
        ("spaces show digitz", "unknown space 'digitz' (did you mean 'digits'"),
    ],
)
def test_bad_input_is_one_clear_error_with_exit_code_2_and_nothing_is_written(arguments, part):
    error = error_of(*arguments.split())
    assert part in error.message
    assert error.exit_code == 2
    assert list(Path().iterdir()) == []


def test_an_error_is_one_line_with_a_hint_on_stderr(here):
    found = here("search", "--student", "mobilenetv2", "--budget", "5")
    assert found.returncode == 2
    assert found.stdout == ""
    lines = found.stderr.splitlines()
    assert lines[0].startswith("error: --budget 5: 5 full trainings are too few for 4 teachers")
    assert lines[1] == "hint: raise --budget, name fewer teachers, or lower confirm.seeds"
    assert "Traceback" not in found.stderr


def test_usage_errors_exit_with_2():
    found = run("serch")
    assert found.returncode == 2
    assert "search" in found.stderr


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (None, 0),
        (KeyboardInterrupt(), 130),
        (StudyError("workers keep dying", "fewer of them"), 1),
        (ConfigError("no", "yes"), 2),
    ],
)
def test_a_command_ends_with_the_code_of_its_outcome(monkeypatch, outcome, code):
    def command(*_: object, **__: object) -> None:
        if outcome:
            raise outcome

    ends: list[int] = []
    monkeypatch.setattr("autodistill.console.show_table", command)
    monkeypatch.setattr(sys, "argv", ["autodistill", "spaces", "list"])
    monkeypatch.setattr(entry.atexit, "_run_exitfuncs", lambda: None)
    monkeypatch.setattr(entry.os, "_exit", ends.append)
    entry.main()
    assert ends == [code]


def test_the_other_project_s_package_is_refused(monkeypatch):
    monkeypatch.setattr(entry.metadata, "version", lambda name: "0.1.29")
    with pytest.raises(ConfigError, match=r"'autodistill' 0\.1\.29, another project") as caught:
        entry.refuse_foreign_package()
    assert "make a fresh environment" in caught.value.hint


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode on this system")
def test_names_that_are_not_utf8_are_refused_before_any_work(monkeypatch, capsys, tmp_path):
    name = os.fsdecode(b"caf\xe9")
    monkeypatch.setattr(sys, "argv", ["autodistill", "search", "--student", "resnet8", "--data", f"folder:{name}"])
    with pytest.raises(SystemExit) as ended:
        entry.run()
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert "error: folder:caf\\udce9: holds bytes that are not UTF-8" in shown
    assert "hint: rename the file or folder" in shown
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    monkeypatch.setattr(sys, "argv", ["autodistill", "spaces", "list"])
    with pytest.raises(SystemExit) as ended:
        entry.run()
    assert ended.value.code == 2


def test_show_prints_tables_json_and_csv():
    kept = keep(12)
    assert "Teachers" in invoke("show", kept.name)
    assert json.loads(invoke("show", kept.name, "--format", "json"))["name"] == kept.name
    rows = list(csv.DictReader(io.StringIO(invoke("show", kept.name, "--format", "csv"))))
    assert len(rows) == len(kept.trials)
    assert rows[0]["teacher"]
    rungs = [trial.rung.val_top1 if trial.rung else None for trial in kept.trials]
    assert [row["rung_val_top1"] for row in rows] == ["" if score is None else str(score) for score in rungs]


def test_show_cuts_at_twenty_trials_and_says_so():
    name = keep(40).name
    short, long = invoke("show", name), invoke("show", name, "--all")
    assert "20 of 40; --all shows all" in short
    assert len(long.splitlines()) == len(short.splitlines()) + 20


def test_report_says_where_it_lies_and_takes_a_path():
    kept = keep(12)
    assert invoke("report", kept.name) == f"reports/{kept.name}/report.html\n"
    assert invoke("report", f"runs/{kept.name}", "--out", "elsewhere") == "elsewhere/report.html\n"
    assert Path("elsewhere/report.md").exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"schema_version": 1, "name"', "not whole JSON"),
        ('{"schema_version": 99}', "schema_version 99, this autodistill reads up to 2"),
        ("[]", "not a study record"),
        ('{"schema_version": 1}', "Field required"),
    ],
)
def test_a_broken_record_is_named(text, part):
    Path("runs/broken").mkdir(parents=True)
    Path("runs/broken/study.json").write_text(text)
    error = error_of("report", "broken")
    assert isinstance(error, StoreError)
    assert part in error.message


def test_spaces_are_listed_shown_copied_and_checked():
    assert "fashion-mnist" in invoke("spaces", "ls")
    assert "[training]" in invoke("spaces", "show", "digits")
    invoke("spaces", "cp", "digits", "mine.toml")
    assert "epochs = 32" in invoke("spaces", "check", "mine.toml")
    assert "exists already" in error_of("spaces", "cp", "digits", "mine.toml").message


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["digits"], "--space digits"),
        (["folder"], "--space folder --data folder:PATH"),
        (["folder", "--set", "data.name=folder:my photos"], "--space folder --set 'data.name=folder:my photos'"),
        (["my space.toml"], "--space 'my space.toml'"),
    ],
)
def test_the_command_after_a_check_of_a_space_is_complete_and_quoted(arguments, command):
    copied = CliRunner().invoke(app, ["spaces", "cp", "digits", "my space.toml"])
    assert copied.stderr == "wrote my space.toml. Next: autodistill spaces check 'my space.toml'\n"
    found = CliRunner().invoke(app, ["spaces", "check", *arguments])
    assert found.stderr == f"{arguments[0]} is valid. Next: autodistill search --student mobilenetv2 {command}\n"


def test_env_is_a_table_or_json():
    assert "torch" in invoke("env")
    found = json.loads(invoke("env", "--format", "json"))
    assert found["autodistill"] == __version__


def test_ctrl_c_ends_a_search_with_130_and_the_command_that_continues(here, monkeypatch):
    """The signal comes while the first runs are trained."""

    def interrupted(event: object) -> None:
        if isinstance(event, EpochEvent):
            raise KeyboardInterrupt

    monkeypatch.setattr("autodistill.console.Display.show", lambda self, event: interrupted(event))
    found = here("search", *TINY)
    assert found.returncode == 130
    continuing = "interrupted; every finished run is kept. Continue with: autodistill search --student resnet8"
    assert found.stderr.strip().splitlines()[-1].startswith(continuing)
    assert json.loads(Path("runs/smoke-resnet8-0.25/study.json").read_text())["state"] == "running"


@pytest.mark.parametrize("kind", ["search", "compare"])
def test_runs_that_failed_so_that_nothing_is_decided_end_a_command_with_1(here, monkeypatch, kind):
    monkeypatch.setattr(running, "local_executor", lambda spec, **_: faking(spec))
    behave({"confirm/*": Behaviour(fails_at=1), "grid/*": Behaviour(fails_at=1)})
    found = here(kind, *TINY, *(["--method", "ts"] if kind == "compare" else []))
    assert found.returncode == 1, found.stderr
    said = {"search": "its confirm runs failed: mend", "compare": "Too many runs failed: the method has no"}[kind]
    assert said in found.stdout
    assert list(Path("reports").glob("*/report.html"))


def test_a_timeout_ends_with_130_and_the_same_command_continues(here, alone):
    quiet = here("search", *TINY, "--timeout", "0.001s", "--quiet")
    assert quiet.returncode == 130
    assert quiet.stderr.startswith("--timeout: stopped before the end. Continue with: autodistill search --student")
    found = here("search", *TINY, "--timeout", "0.001s")
    assert found.returncode == 130, found.stderr
    assert "--timeout: stopped after 0.001 s; the same command continues" in found.stderr
    assert found.stderr.strip().splitlines()[-1].partition("Next: ")[2].startswith("autodistill search --student")
    assert "Teachers" in found.stdout
    assert json.loads(invoke("show", "smoke-resnet8-0.25", "--format", "json"))["state"] == "running"


def test_a_damaged_study_is_refused_with_exit_code_2(here):
    path = Path("runs/smoke-resnet8-0.25/study.json")
    path.parent.mkdir(parents=True)
    path.write_text('{"schema_version": 2, "name"')
    found = here("search", *TINY)
    assert found.returncode == 2
    assert found.stderr.startswith(f"error: {path}: not whole JSON")
    assert path.read_text() == '{"schema_version": 2, "name"'
