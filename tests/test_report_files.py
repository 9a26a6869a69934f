"""What lies in a report's folder: the same bytes twice, a published schema, older records, the committed examples."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from factories import STUDIES, confirmed, profiled, study, with_settings
from json_schema import SCHEMAS, faults, schema_of
from pydantic import BaseModel
from record_parts import kd

from autodistill.records import read_record, read_study, to_json
from autodistill.report import render
from autodistill.stats.verdict import judged
from autodistill.studies import rendered

pytestmark = pytest.mark.slow

REPORTS = Path(__file__).parents[1] / "reports"
EXAMPLES = (
    "fashion-mnist-mobilenetv2",
    "digits-mobilenetv2-resnet8-0.5",
    "cifar10-mobilenetv2-0.5",
    "cifar10-methods",
)
EXAMPLE = "fashion-mnist-mobilenetv2"
RENDER = """
import sys
from autodistill.__main__ import run
sys.argv = ["autodistill", "report", "study", "--out", sys.argv[1]]
try:
    run()
finally:
    assert not {"torch", "optuna"} & set(sys.modules)
"""


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_processes_write_the_same_bytes_without_torch(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.json").write_text(to_json(profiled(study(40))), encoding="utf-8")
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", RENDER, seed], cwd=tmp_path, env=environment, check=True)
    written = snapshot(tmp_path / "1")
    assert len(written) > 8
    assert written == snapshot(tmp_path / "2")


def published(name: str) -> dict[str, Any]:
    return json.loads(files("autodistill").joinpath(f"{name}.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return published("study")


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_published_schema_is_the_models(name: str, repository: Path, update_golden: bool) -> None:
    folder = repository / "autodistill"
    made = schema_of(SCHEMAS[name])
    if update_golden:
        (folder / f"{name}.schema.json").write_text(made, encoding="utf-8")
    kept = (folder / f"{name}.schema.json").read_text(encoding="utf-8")
    assert kept == made, "the records changed: `make golden` writes the schema anew"


@pytest.mark.parametrize("name", ["nothing", "20 trials", "all failed", "profiled"])
def test_records_follow_the_schema(name: str, schema: dict[str, Any]) -> None:
    assert faults(json.loads(to_json(STUDIES[name]())), schema, schema) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"schema_version": 99}, ".schema_version: 99"),
        ({"state": "done"}, ".state: 'done'"),
        ({"name": 3}, ".name: no string"),
        ({"extra": 1}, ".extra: unknown"),
        ({"trials": [{}]}, ".trials[0].number: missing"),
    ],
)
def test_what_is_no_record_breaks_the_schema(change: dict[str, Any], fault: str, schema: dict[str, Any]) -> None:
    assert fault in faults({**json.loads(to_json(study(1))), **change}, schema, schema)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_its_record_gives(name: str, update_golden: bool, tmp_path: Path) -> None:
    """Words and figures; the charts' bytes may differ with Matplotlib's version."""
    rendered(read_record(REPORTS / name / "study.json"), tmp_path)
    if update_golden:
        shutil.rmtree(REPORTS / name)
        shutil.copytree(tmp_path, REPORTS / name)
    kept, made = snapshot(REPORTS / name), snapshot(tmp_path)
    assert kept.keys() == made.keys()
    for page in sorted(tmp_path.rglob("report.html")):
        folder = page.parent.relative_to(tmp_path)
        assert told(REPORTS / name / folder) == told(page.parent), "`make golden` renders the examples anew"


def test_there_is_an_example_of_one_student_and_of_several() -> None:
    assert {type(read_record(REPORTS / name / "study.json")) for name in EXAMPLES} == set(SCHEMAS.values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_follows_the_schema(name: str) -> None:
    record = json.loads((REPORTS / name / "study.json").read_text(encoding="utf-8"))
    schema = published(record.get("kind", "study"))
    assert faults(record, schema, schema) == []


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["example", *STUDIES])
def test_a_record_of_required_fields_alone_still_renders(name: str, version: int, tmp_path: Path) -> None:
    """Older than any: what has a default was not there yet."""
    record = read_study(REPORTS / EXAMPLE / "study.json") if name == "example" else STUDIES[name]()
    old = tmp_path / "study.json"
    old.write_text(json.dumps({**oldest(record), "schema_version": version}), encoding="utf-8")
    page = render(read_study(old), tmp_path / "report").read_text(encoding="utf-8")
    assert record.data.name in page


@pytest.mark.parametrize("version", [1, 2])
def test_a_verdict_from_before_there_was_a_basis_still_renders(version: int, tmp_path: Path) -> None:
    """A report judges anew, so it says what the record did not know yet."""
    table = {"a": [0.790, 0.7904, 0.7896], "b": [0.78, 0.78, 0.78], None: [0.77, 0.7705, 0.7695]}
    record = judged(with_settings(confirmed(table), {"a": kd("a")}))
    assert record.recommendation is not None
    assert record.recommendation.basis == "configurations"
    found = json.loads(to_json(record))
    del found["recommendation"]["basis"]
    for one in found["recommendation"]["contrasts"]:
        del one["basis"]
    old = tmp_path / "study.json"
    old.write_text(json.dumps({**found, "schema_version": version}), encoding="utf-8")
    read = read_study(old)
    assert read.recommendation is not None
    assert read.recommendation.basis is None
    assert {one.basis for one in read.recommendation.contrasts} == {None}
    assert judged(read) == record
    page = render(read, tmp_path / "report").read_text(encoding="utf-8")
    assert "A clear winner among configurations" in page
    assert "These settings of a beat those of b" in page


def told(folder: Path) -> tuple[list[str], str]:
    """The words and figures of the page, one item for each piece of text, and the markdown."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    body = re.sub(r"(?s)<style>.*?</style>", "", page)
    words = (html.unescape(" ".join(one.split())) for one in re.split(r"<[^>]*>", body))
    return [one for one in words if one], (folder / "report.md").read_text(encoding="utf-8")


def oldest(value: Any) -> Any:
    """A record, with all records in it, as a mapping of the fields that have no default."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields.items()
        kept = [name for name, field in fields if field.is_required() or name in ("trials", "teachers", "finalists")]
        return {name: oldest(getattr(value, name)) for name in kept}
    if isinstance(value, dict):
        return {name: oldest(one) for name, one in value.items()}
    return [oldest(one) for one in value] if isinstance(value, tuple) else value
