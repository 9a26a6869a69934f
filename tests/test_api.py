"""`import autodistill as ad`: searches from Python, with names, URIs and objects as arguments."""

import functools
import multiprocessing
import shlex
import shutil
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest
import torch
import user_networks
from small_studies import core, recommending, without_workers
from torch import nn
from typer.testing import CliRunner
from user_networks import Small, checkpoint, small, trained

import autodistill as ad
from autodistill import api, console
from autodistill.cli import app
from autodistill.errors import ConfigError, StoreError, TeacherError
from autodistill.objects import HERE, Passed
from autodistill.records import StudyRecord, to_json

SETTINGS = {
    "data.train": 150,
    "data.validation": 100,
    "data.test": 100,
    "training.epochs": 2,
    "training.rung_epochs": 1,
    "confirm.seeds": 2,
}
OPTIONS = {"norm": "half", "name": "net"}
STUDENT = "resnet8:0.25"


def search(student=STUDENT, **given) -> ad.Study:
    asked = {"space": "smoke", "budget": 11, "settings": SETTINGS, "executor": "serial", "progress": False}
    return ad.search(student, **{**asked, **given})


def refusal(**given) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        search(**given)
    assert list(Path().iterdir()) == []
    return caught.value


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, autodistill as ad; print(sorted({'torch', 'optuna', 'numpy'} & set(sys.modules)), dir(ad))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("[] [")
    assert all(f"'{name}'" in found.stdout for name in ("Study", "load_study", "search"))


def test_a_name_stays_a_name_and_an_importable_function_becomes_a_uri():
    passed = Passed()
    assert passed.network("mobilenetv2:0.5", "student") == "mobilenetv2:0.5"
    assert passed.network(small, "student") == "python:user_networks:small"
    assert passed.network(Small, "student") == "python:user_networks:Small"
    assert passed.network(functools.partial(small, channels=8), "student") == "python:user_networks:small?channels=8"
    reserved = functools.partial(small, size=3, name="x y")
    assert passed.network(reserved, "student") == "python:user_networks:small?arg.size=3&arg.name=x%20y"
    options = {"weights": "my nets/a+b.th", "mean": (0.5, 0.25, 1)}
    assert passed.network((small, options), "teachers[0]") == (
        "python:user_networks:small?weights=my%20nets/a+b.th&mean=0.5,0.25,1"
    )
    assert passed.network(("file:a.pth?arch=vgg8", {"norm": "cifar10"}), "t") == "file:a.pth?arch=vgg8&norm=cifar10"


def test_objects_that_differ_have_other_names_and_equal_ones_the_same():
    passed = Passed(anything=True)

    def of_width(channels: int):
        return lambda: Small(channels)

    narrow, wide = (passed.network(of_width(channels), "student") for channels in (4, 8))
    assert narrow != wide
    assert narrow == passed.network(of_width(4), "student")
    network = Small()
    before = passed.network(network, "teachers[0]")
    assert before == passed.network(network, "teachers[1]")
    with torch.no_grad():
        network.linear.bias += 1
    assert before != passed.network(network, "teachers[0]")
    assert before.startswith(f"python:{HERE}:Small_")


def in_a_notebook():
    """Return a function that is defined in no file, as those of a notebook's cells."""
    cell = types.ModuleType("cell")
    exec("def mine():\n    return None\nmine.__module__ = 'cell'", vars(cell))
    return cell.mine


@pytest.mark.parametrize(
    ("network", "part"),
    [
        (lambda: small(), "teachers[0]: test_api"),
        (in_a_notebook(), "teachers[0]: mine, defined in this session only: worker processes cannot import it"),
        (Small(), "teachers[0]: a Small object: worker processes cannot import it"),
        (functools.partial(small, channels=[nn.ReLU()]), "teachers[0]: small"),
    ],
    ids=["lambda", "notebook", "object", "arguments"],
)
def test_what_worker_processes_cannot_import_is_refused_with_two_ways_out(network, part):
    error = refusal(teachers=[network], executor="local")
    assert part.partition("test_api")[0] in error.message
    assert "worker processes cannot import it" in error.message
    assert "python:FILE.py:FUNCTION" in error.hint
    assert "executor='serial'" in error.hint
    assert error.exit_code == 2
    assert error.__notes__ == [f"hint: {error.hint}"]


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"student": Small()}, "student: a Small object; a student is trained several times from new weights"),
        ({"max_param": 3}, "no argument 'max_param' (did you mean 'max_params'"),
        ({"settings": {"training.epoch": 3}}, "did you mean 'epochs'"),
        ({"max_params": "many"}, "--max-params many: must be a number above 0"),
        ({"max_params": 0}, "--max-params 0: must be a number above 0"),
        ({"max_macs": 0}, "--max-macs 0: must be a number above 0"),
        ({"max_size": 0}, "--max-size 0: must be a number above 0"),
        ({"max_latency": 0.0}, "--max-latency 0.0: must be a number above 0"),
        ({"timeout": 0}, "--timeout 0: must be a number above 0"),
        ({"cache_size": 0}, "--cache-size 0: must be a number above 0"),
        ({"budget": 0}, "--budget 0: must be a number above 0"),
        ({"budget": -20}, "--budget -20: must be a number above 0"),
        ({"budget": float("nan")}, "--budget NaN: must be a number above 0"),
        ({"max_trials": 0}, "max_trials=0: must be a whole number of at least 1"),
        ({"ray": "auto"}, "ray='auto': no option of executor='serial'"),
        ({"executor": "local", "ray": "10.0.0.1:6379"}, "ray='10.0.0.1:6379': no option of executor='local'"),
        ({"executor": "local", "per_gpu": 2}, "per_gpu=2: no option of executor='local'"),
        ({"insecure": True}, "insecure=True: no option of executor='serial'"),
        ({"executor": "ray", "per_gpu": 0}, "per_gpu=0: must be a whole number of at least 1"),
        ({"student": []}, "student: an empty list"),
        ({"data": {}}, "data: an empty dict"),
        ({"data": ()}, "data: an empty tuple"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_written(given, part):
    assert part in refusal(**given).message


def broken():
    raise RuntimeError("no weights today")


@pytest.mark.parametrize(
    ("teachers", "found"),
    [("file:none.pt", "teacher file:none.pt: no such file"), (broken, "broken failed: RuntimeError: no weights today")],
)
def test_a_teacher_outside_a_list_is_one_teacher(teachers, found):
    for given in (teachers, [teachers]):
        with pytest.raises(TeacherError) as caught:
            search(teachers=given)
        assert found in caught.value.message


@pytest.mark.parametrize(
    ("budget", "text"),
    [(10000000, "10000000"), (1e7, "10000000"), (20, "20"), (20.5, "20.5"), (0.0000001, "0.0000001"), ("8h", "8h")],
)
def test_a_budget_is_written_without_an_exponent(budget, text, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(asked, **rest):
        assert asked.options[0].budget == text
        assert f"--budget {text} " in asked.command
        raise Stopped

    monkeypatch.setattr(api, "run_searches", stop)
    with pytest.raises(Stopped):
        search(budget=budget)


@pytest.mark.slow
def test_arguments_of_other_types_are_named():
    """In a process of its own, because annotations are checked in this one."""
    code = """
        import autodistill as ad
        for student, given in (
            (3, {}), ("resnet8", {"teachers": [("a", "b", "c")]}), ("resnet8", {"data": 3}),
            ("resnet8", {"executor": "spark"}), ("resnet8", {"data": []}), ("resnet8", {"budget": None}),
        ):
            try:
                ad.search(student, **given)
            except ad.errors.ConfigError as error:
                print(error)
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == [
        "student: a int is no network",
        "teachers[0]: a tuple must be (network, options)",
        "data: a int is no dataset",
        "executor='spark': unknown",
        "data: an empty list",
        "budget=None: must be a number or a text",
    ]


def test_a_study_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="no study 'nothing' here"):
        ad.load_study("nothing")


def test_without_ipywidgets_a_notebook_gets_plain_lines(monkeypatch):
    monkeypatch.setattr(console.importlib.util, "find_spec", lambda name: None)
    notebook = console.Console(force_jupyter=True)
    assert not console._is_live(notebook)
    monkeypatch.setattr(console.importlib.util, "find_spec", lambda name: object())
    assert console._is_live(notebook)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished study with a network object as its teacher, its folder, and what the calls printed."""
    place = tmp_path_factory.mktemp("searched")
    threads, modules = torch.get_num_threads(), set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("AUTODISTILL_CACHE", str(place / "cache"))
        study = search(teachers=[(trained(), OPTIONS)])
    assert torch.get_num_threads() == threads
    assert HERE not in sys.modules.keys() - modules
    return study, place


@pytest.fixture
def study(searched, monkeypatch) -> ad.Study:
    found, place = searched
    monkeypatch.chdir(place)
    monkeypatch.setenv("AUTODISTILL_CACHE", str(place / "cache"))
    return found


@pytest.mark.slow
def test_a_study_has_a_recommendation_and_a_leaderboard(study):
    assert isinstance(study.record, StudyRecord)
    assert study.record.state == "complete"
    assert study.recommendation.teacher in ("net", None)
    assert study.recommendation.sentence in repr(study)
    rows = {row.name: row for row in study.leaderboard()}
    (teacher,) = study.record.teachers
    assert rows["net"].own == teacher.val_top1 > 0.9
    assert rows["no teacher"].seeds == 2
    assert rows["net"].params == 32 * 9 + 32 + 512 * 10 + 10


@pytest.mark.slow
def test_a_study_is_loaded_by_name_and_reported_trained_and_exported(study, tmp_path):
    again = ad.load_study(study.name)
    assert again.record == study.record
    assert ad.load_study(study.folder).name == study.name
    assert again.report(tmp_path / "page") == tmp_path / "page" / "report.html"
    made = study.train(tmp_path / "mine.safetensors", seed=3, progress=False)
    assert (made.study, made.seed, made.images) == (study.name, 3, 150)
    assert 0 <= made.test_top1 <= 1
    with pytest.raises(StoreError, match="exists already"):
        study.train(tmp_path / "mine.safetensors", progress=False)
    exported = study.export(tmp_path / "out", formats=["safetensors"], weights=tmp_path / "mine.safetensors")
    assert [file.file for file in exported.files] == ["student.safetensors"]
    with pytest.raises(StoreError, match="exists already"):
        study.export(tmp_path / "out", formats="safetensors")
    assert exported.test_top1 == pytest.approx(made.test_top1, abs=1e-6)


@pytest.mark.slow
def test_a_network_that_only_its_program_has_cannot_be_trained_with_later(study, tmp_path):
    """Only a recommended teacher is needed."""
    path = tmp_path / study.name / "study.json"
    shutil.copytree(study.folder, path.parent)
    path.write_text(to_json(recommending(study.record, "net")))
    with pytest.raises(TeacherError, match=HERE):
        ad.load_study(path.parent).train(tmp_path / "mine.safetensors", progress=False)
    path.write_text(to_json(recommending(study.record, None)))
    alone = ad.load_study(path.parent).train(tmp_path / "mine.safetensors", progress=False)
    assert alone.params.teacher is None


@pytest.mark.slow
def test_the_same_call_finds_the_finished_study(study, capfd):
    again = search(teachers=[(trained(), OPTIONS)])
    assert again.record == study.record
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_function_of_the_user_is_a_student(study):
    made = search(functools.partial(Small, 4), teachers=[(trained(), OPTIONS)], study="own")
    assert made.record.student.cost.params == 4 * 9 + 4 + 64 * 10 + 10
    by_hand = sum(part.numel() for part in user_networks.student(10).parameters())
    assert made.record.student.cost.params == by_hand


def script(guard: str) -> str:
    """Return a script that searches with a function of its own as the teacher, by workers, below `guard`."""
    body = f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(user_networks.__file__).parent)!r})
        import autodistill as ad
        from user_networks import Small

        print("read")

        def mine():
            return Small()

        {guard}
            study = ad.search({STUDENT!r}, teachers=[(mine, {{"weights": Path("small.pth.tar"), **{OPTIONS!r}}})],
                              workers=1, space="smoke", budget=11, settings={SETTINGS!r}, progress=False)
            print("done", study.record.teachers[0].uri)
    """
    return textwrap.dedent(body)


@pytest.mark.slow
def test_a_script_with_workers_the_serial_executor_and_the_command_line_make_the_same_study(monkeypatch, tmp_path):
    """The functions of a script are imported from its file, in its process and in workers, which do not search again.

    Each search has its own folder and cache: in one folder, the later ones would find the results of the first.
    """
    without_workers(monkeypatch)

    def start(name: str) -> None:
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path / name / "cache"))
        checkpoint(Path())
        Path("script.py").write_text(script('if __name__ == "__main__":'))

    start("script")
    found = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    uri = "python:script.py:mine?weights=small.pth.tar&norm=half&name=net"
    assert found.stdout.splitlines()[-1] == f"done {uri}"
    (folder,) = Path("runs").iterdir()
    local = ad.load_study(folder).record
    assert [teacher.uri for teacher in local.teachers] == [uri]
    start("serial")
    serial = search(teachers=[uri]).record
    start("command")
    command = [*shlex.split(local.command)[1:], "--workers", "1", "--format", "json"]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    typed = ad.load_study(local.name).record
    assert core(serial) == core(typed) == core(local)
    assert serial.found == typed.found == ()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems say of no process that it was forked")
def test_a_process_that_was_forked_after_its_parent_computed_with_threads_searches_too():
    """On several threads it would wait for those of its parent."""
    script = f"""
        import os
        import torch

        torch.set_num_threads(4)
        torch.randn(1000, 1000).softmax(1)
        child = os.fork()
        if child == 0:
            import autodistill as ad

            settings = {{**{SETTINGS!r}, "data.train": 1000}}
            ad.search("resnet8:0.25", space="smoke", budget=11, settings=settings, executor="serial", progress=False)
            assert torch.get_num_threads() > 1
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=120)
    assert ad.load_study("smoke-resnet8-0.25").record.state == "complete"


def test_a_process_that_may_start_no_processes_is_told_before_anything_is_written(monkeypatch):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # as in `multiprocessing.Pool`
    error = refusal(executor="local")
    assert "is a daemonic process, as in multiprocessing.Pool" in error.message
    assert 'executor="serial"' in error.hint


@pytest.mark.slow
def test_a_script_that_searches_whenever_it_is_imported_is_refused():
    checkpoint(Path())
    Path("script.py").write_text(script("if True:"))
    found = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True)
    assert found.returncode == 1
    assert 'put the call below `if __name__ == "__main__":`' in found.stderr
    assert "done" not in found.stdout


def test_a_search_is_refused_while_its_file_is_imported():
    Path("nets.py").write_text("import autodistill as ad\nad.search('resnet8', data='digits')\n")
    with pytest.raises(ConfigError, match="is called whenever this file is imported"):
        search(teachers=["python:nets.py:anything"])
