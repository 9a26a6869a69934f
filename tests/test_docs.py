"""The documentation: each example is complete and runs, files and options that are named exist."""

import contextlib
import io
import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from small_studies import without_workers
from torch import nn

from autodistill import __main__ as entry
from autodistill import teachers
from autodistill.data import DATASETS
from autodistill.methods import METHODS
from autodistill.models import MODELS, build
from autodistill.models.uri import FACTS, RESERVED
from autodistill.records import read_record

REPOSITORY = Path(__file__).parents[1]
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def sections(page: str) -> dict[str, list[tuple[str, str]]]:
    """Return the blocks of code of each section that has commands to run."""
    found: dict[str, list[tuple[str, str]]] = {}
    for part in re.split(r"^## ", (REPOSITORY / page).read_text(encoding="utf-8"), flags=re.MULTILINE):
        blocks = BLOCK.findall(part)
        if any(kind == "sh" for kind, _ in blocks):
            found[part.splitlines()[0].removeprefix("# ")] = blocks
    return found


EXAMPLES = [(page, title) for page in PAGES for title in sections(page)]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let commands run in this process, which has imported torch already, and leave it as it was."""
    without_workers(monkeypatch)
    monkeypatch.setattr(sys, "argv", sys.argv)
    with mock.patch.dict(MODELS), mock.patch.dict(teachers.SOURCES), mock.patch.dict(DATASETS):
        yield


def run(line: str) -> str:
    """Run a command in this process; return what it printed."""
    program, *arguments = shlex.split(line)
    shown, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(said):
        if program == "python":
            runpy.run_path(*arguments, run_name="__main__")
        else:
            assert program == "autodistill", line
            sys.argv = [program, *arguments]
            with pytest.raises(SystemExit) as end:
                entry.run()
            assert not end.value.code, f"{line}\n{said.getvalue()}"
    return shown.getvalue()


def run_example(page: str, title: str) -> str:
    """Write the files of a section and run its commands; return what the last one printed."""
    shown = ""
    for kind, code in sections(page)[title]:
        name = re.match(r"# file: (\S+)\n", code)
        if kind == "python" and name:
            Path(name[1]).write_text(code)
        elif kind == "sh":
            for line in code.replace("\\\n", " ").splitlines():
                shown = run(line)
    return shown


@pytest.mark.slow
@pytest.mark.parametrize(("page", "title"), EXAMPLES, ids=[f"{page}: {title}" for page, title in EXAMPLES])
def test_an_example_runs(here, page, title):
    shown = run_example(page, title)
    records = [read_record(path) for path in Path("runs").glob("*/study.json")]
    assert [record.state for record in records] == ["complete"] * (title != "Options")
    match title:
        case "A student":
            (record,) = records
            assert shown == "plain:0.5 4\n"
            assert Path("tiny.safetensors").exists()
        case "A dataset":
            assert shown == "('horizontal', 'vertical', 'none')\n"
            assert Path("s.safetensors").exists()
        case "A teacher source":
            (record,) = records
            by_name = {teacher.name: teacher for teacher in record.teachers}
            assert by_name["regression.npz"].val_top1 > 0.95
            assert by_name["regression.npz"].architecture == "logistic regression"
        case "A method":
            assert shown == "['python:focal.py:focal', 'ts']\n"
            ((_, code),) = [block for block in sections(page)[title] if block[0] == "python"]
            assert len(code.strip().splitlines()) <= 25
        case "From Python":
            (record,) = records
            assert (Path("page") / "report.html").exists()
            assert json.loads((Path("page") / "study.json").read_text())["name"] == record.name
            assert (Path("shipped") / "student.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "key", "part"), [("docs/images.md", "data", "2 classes"), ("docs/students.md", "student", "small")]
)
def test_the_file_of_a_page_works_in_the_command_of_the_page(here, page, key, part):
    """Up to the first training."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    ((name, code),) = re.findall(r"^```python\n# file: (\S+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    Path(name).write_text(code)
    (command,) = re.findall(rf"^    (autodistill search .*{name}.*)$", text, re.MULTILINE)
    (student,) = json.loads(run(f"{command} --dry-run --format json"))["students"]
    assert part in student[key]


@pytest.mark.slow
def test_the_first_command_of_the_readme_runs_on_files_as_people_have_them(here):
    """Up to the first training; photographs of mixed sizes, three checkpoints in three wrappings."""
    draw = np.random.default_rng(0)
    for name in ("cat", "dog", "owl"):
        Path("photos", name).mkdir(parents=True)
        for number in range(60):
            height, width = draw.integers(40, 90, 2)
            pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"photos/{name}/{number}.jpg")
    shape = {"num_classes": 3, "in_channels": 3, "image_size": 32}
    resnet, wrn = (build(name, **shape, seed=0).state_dict() for name in ("resnet56", "wrn_16_2"))
    torch.save(
        {"epoch": 9, "state_dict": {f"module.{key}": value for key, value in resnet.items()}}, "resnet56.pth.tar"
    )
    torch.save({"params": {f"_orig_mod.model.{key}": value for key, value in wrn.items()}}, "wrn.ckpt")
    code = "from torch import nn\ndef net(num_classes):\n    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), "
    Path("nets.py").write_text(f"{code}nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, num_classes))\n")
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))
    torch.save(network.state_dict(), "net.th")
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    command = re.search(
        r"^    (autodistill search --student \S+ --data folder:photos.*?)\n\n", text, re.DOTALL | re.MULTILINE
    )
    shown = json.loads(run(f"{command[1].replace(chr(92) + chr(10), ' ')} --dry-run --format json"))
    assert "--set" not in command[1]
    (student,) = shown["students"]
    assert student["teachers"] == "resnet56, wrn, net"
    assert student["run folder"] == "runs/photos-mobilenetv2-0.5"
    assert "3 classes" in student["data"]


def test_every_scheme_and_option_of_teachers_is_documented():
    text = (REPOSITORY / "docs/teachers.md").read_text(encoding="utf-8")
    assert [scheme for scheme in teachers.SOURCES if f"`{scheme}:" not in text] == []
    assert [option for option in {*FACTS, *RESERVED} if f"`{option}" not in text] == []


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_documented_with_settings_ranges_and_parameters(name):
    text = (REPOSITORY / "docs/methods.md").read_text(encoding="utf-8")
    settings = text.partition("## Settings")[2].partition("## Where")[0]
    (row,) = [line for line in settings.splitlines() if line.startswith(f"| `{name}` |")]
    method = METHODS[name]
    _, _, weights, given, ranges, _ = row.split("|")
    values = {key: "5/3" if value == 5 / 3 else f"{value:g}" for key, value in method.settings.items()}
    assert [it for it in values.items() if f"`{it[0]}` {it[1]}" not in given] == []
    for key, found in method.ranges.items():
        assert re.search(rf"`{key}`[^,]* {found.low:g} to {found.high:g}", ranges), key
    assert ("soft_weight" in weights) == method.shape.is_weighted
    assert [key for key in method.accepted if f"`{key}`" not in text] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_of_the_repository_lead_somewhere(page):
    place = REPOSITORY / page
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", place.read_text(encoding="utf-8"))
    assert [link for link in links if not (place.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_modules_and_tests_that_a_page_names_exist(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:autodistill|tests|search_spaces)/[\w/.-]+)`", text)
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


def test_functions_and_classes_that_the_architecture_names_exist():
    text = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`([A-Z][a-z]\w+|[a-z]+_\w+)`", text))
    code = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "autodistill").rglob("*.py"))
    defined = set(re.findall(r"^\s*(?:def|class) (\w+)", code, re.MULTILINE))
    assert names - defined - {"logit_cache"} == set()
