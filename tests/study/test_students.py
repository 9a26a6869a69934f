"""Several students: checked together, limited before training, each with a study of its own, then compared."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from small_studies import LATENCY, TINY, core, fake, faking, options, placed

from autodistill import studies
from autodistill.cli import show
from autodistill.errors import AutodistillError, ConfigError, StoreError
from autodistill.options import StudentsToSearch, students_to_search
from autodistill.records import (
    ComparisonRecord,
    Event,
    LatencyRecord,
    Note,
    StudentBudget,
    latency_of,
    read_record,
    read_study,
    to_json,
)
from autodistill.running import command_of
from autodistill.study import resolve, resolve_all, run_students, within
from autodistill.study.resolve import student_latency

pytestmark = pytest.mark.slow

STUDENTS = ("resnet8:0.25", "resnet8:0.5")
NAME = "smoke-resnet8-0.25-resnet8-0.5"


def asked_for(students=STUDENTS, **flags) -> StudentsToSearch:
    given = {"space": "smoke", "budget": "11", "workers": 1, "overrides": TINY, **flags}
    return students_to_search(students=students, **given)


def refusal(asked: StudentsToSearch) -> AutodistillError:
    with pytest.raises((ConfigError, StoreError)) as caught:
        within(resolve_all(asked.options), asked.limits)
    return caught.value


def run(asked: StudentsToSearch, on_event=lambda _: None) -> ComparisonRecord:
    students, left_out = within(resolve_all(asked.options), asked.limits)
    students = tuple(it._replace(latency=it.latency or LATENCY) for it in students)
    return run_students(
        students, on_event, name=asked.name, command=asked.command, left_out=left_out, executor_for=faking
    )


class Compared(NamedTuple):
    record: ComparisonRecord
    events: list[Event]
    place: Path


@pytest.fixture(scope="module")
def comparison(faked, tmp_path_factory) -> Compared:
    """Two students; the study of the first is finished already."""
    place, events = tmp_path_factory.mktemp("compared"), []
    shutil.copytree(faked.place / "runs", place / "runs")
    with placed(place):
        return Compared(run(asked_for(), events.append), events, place)


@pytest.fixture
def compared(comparison) -> Compared:
    """The finished comparison in this folder."""
    shutil.copytree(comparison.place / "runs", "runs")
    return comparison


def test_a_student_s_study_is_the_one_it_has_alone(faked, compared, capsys):
    record, events, _ = compared
    assert record.state == "complete"
    assert [study.student.name for study in record.studies] == list(STUDENTS)
    assert core(record.studies[0]) == core(faked.record), "which was there already"
    assert read_study(Path("runs", "smoke-resnet8-0.5", "study.json")) == record.studies[1]
    assert record == read_record(Path("runs", NAME, "study.json"))
    assert "student 2 of 2: resnet8:0.5, study smoke-resnet8-0.5" in {it.text for it in events if isinstance(it, Note)}
    assert {row.student for row in record.choice.rows} == set(STUDENTS)
    assert all(row.costs["latency_ms"] == latency_of(record.study(row.student)).median_ms for row in record.choice.rows)
    folder, chosen = studies.study_of(NAME)
    assert chosen == record.study(record.choice.student)
    assert folder.path.name == chosen.name
    with pytest.raises(StoreError, match="compares several students") as caught:
        read_study(Path("runs", NAME, "study.json"))
    assert "smoke-resnet8-0.5" in caught.value.hint
    _shown_and_rendered(record, capsys)


def _shown_and_rendered(record: ComparisonRecord, capsys: pytest.CaptureFixture[str]) -> None:
    show.show(NAME, output="table", pareto=True, sort="params")
    text = capsys.readouterr().out
    assert record.choice.sentence in text
    assert "up to" in text
    show.show(NAME, output="csv")
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("student,study,teacher,method,test_top1")
    assert len(rows) == 2
    with pytest.raises(ConfigError, match="--sort own: unknown here"):
        show.show(NAME, output="table", sort="own")
    page = studies.rendered(record, Path("page")).read_text()
    assert record.choice.sentence.replace(" %", "\N{NO-BREAK SPACE}%") in page
    assert "<script" not in page
    for study in record.studies:
        assert f"students/{study.name}/report.html" in page
        assert Path("page", "students", study.name, "report.html").exists()
        assert f"students/{study.name}/report.md" in Path("page", "report.md").read_text()
    assert read_record(Path("page", "study.json")).studies[0].name == record.studies[0].name


def test_a_resumed_comparison_never_knows_less_than_before(compared):
    whole = compared.record
    path = Path("runs", "smoke-resnet8-0.5", "study.json")
    for run_of in whole.studies[1].finalists[1].runs:
        Path("runs", "smoke-resnet8-0.5", "results", f"{run_of.key}.json").unlink()
    path.write_text(to_json(whole.studies[1].model_copy(update={"state": "running"})))
    record = run(asked_for(timeout="0.000001"))
    assert [study.name for study in record.studies] == [study.name for study in whole.studies]
    assert record.state == "running"
    assert core(run(asked_for()).studies[1]) == core(whole.studies[1])


def test_the_command_holds_what_followed_from_this_machine_for_all_students_alike():
    asked = asked_for(cache_size="8001")
    students = resolve_all(asked.options)
    assert [one.pins for one in students] == [{"data.views": 2}] * 2
    assert command_of(asked, students).endswith("--set data.views=2")
    mixed = (students[0], students[1]._replace(pins={}))
    assert "data.views" not in command_of(asked, mixed)


def test_a_record_cannot_name_a_folder_elsewhere(compared, tmp_path):
    record = compared.record
    study = record.studies[0].model_copy(update={"name": "../../elsewhere"})
    with pytest.raises(StoreError, match="not a plain folder name"):
        studies.rendered(record.model_copy(update={"studies": (study,)}), tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_a_timeout_leaves_the_comparison_running(done):
    record = run(asked_for(timeout="0.01"))
    assert record.state == "running"
    assert [study.state for study in record.studies] in (["complete"], ["complete", "running"])
    with pytest.raises(StoreError, match="not all students are searched yet"):
        studies.study_of(NAME)


def test_students_over_a_limit_are_named_and_not_trained():
    asked = asked_for(max_params="10k")
    students, left_out = within(resolve_all(asked.options), asked.limits)
    assert [one.student.name for one in students] == ["resnet8:0.25"]
    assert [one.student.name for one in left_out] == ["resnet8:0.5"]
    (ratio,) = left_out[0].excess.values()
    assert ratio == left_out[0].student.cost.params / 10_000 > 1


def test_an_impossible_budget_says_who_comes_nearest():
    error = refusal(asked_for(("resnet8:0.5", "resnet8:0.25"), max_params="1k", max_macs="1G"))
    assert "resnet8:0.25 comes nearest (5.14 times the limit on params)" in error.message
    assert "resnet8:0.5: 19.8 k params (limit 1 k params)" in error.message
    assert error.exit_code == 2
    assert (
        "the student breaks its limits: resnet8:0.5: 80.7 kB (limit 1 kB)"
        in refusal(asked_for(("resnet8:0.5",), max_size="1KB")).message
    )


def test_latency_is_measured_once_and_kept(finished):
    known = latency_of(finished)
    spec = resolve(options())
    assert student_latency(spec, finished) == known
    assert within([spec], StudentBudget(latency_ms=known.median_ms * 1.01)) == ((spec._replace(latency=known),), ())
    with pytest.raises(ConfigError, match=r"ms \(limit"):
        within([spec], StudentBudget(latency_ms=known.median_ms / 2))


def test_latency_of_another_device_is_measured_anew(done):
    """The study without training holds a latency that is made up."""
    assert latency_of(done) == LATENCY
    found = student_latency(resolve(options()), done)
    assert found.device != LATENCY.device
    assert isinstance(found, LatencyRecord)
    assert found.median_ms > 0


def test_what_is_wrong_with_several_students_is_said_at_once():
    error = refusal(asked_for(("resnet9", "mobilenet")))
    assert "resnet9" in error.message
    assert "'mobilenet'" in error.message
    assert "named twice" in refusal(asked_for(("resnet8:0.5", "resnet8:0.5"))).message


@pytest.mark.parametrize(
    ("flag", "text"), [("max_params", "many"), ("max_macs", "-1"), ("max_size", "0MB"), ("max_latency", "5 minutes")]
)
def test_limits_that_are_none(flag, text):
    with pytest.raises(ConfigError, match=f"--{flag.replace('_', '-')} {text}: must be a number above 0"):
        asked_for(**{flag: text})


def test_a_limit_is_the_number_that_was_written():
    assert asked_for(max_params="2.01M").limits.params == 2_010_000
    with pytest.raises(ConfigError, match="must be at least 1"):
        asked_for(max_params="0.4")


def test_limits_are_read_with_their_units_and_are_in_the_command():
    asked = asked_for(max_params="2.5M", max_macs="100M", max_size="10MB", max_latency="5ms", study="pair")
    assert asked.limits == StudentBudget(params=2_500_000, macs=100_000_000, size_bytes=10_000_000, latency_ms=5.0)
    assert asked.name == "pair"
    assert [one.study for one in asked.options] == ["pair-resnet8-0.25", "pair-resnet8-0.5"]
    start = "autodistill search --student resnet8:0.25 --student resnet8:0.5 --space smoke --max-params 2500000"
    assert asked.command.startswith(f"{start} --max-macs 100000000 --max-size 10000000 --max-latency 5 --budget 11")
    assert "--study pair" in asked.command
    again = students_to_search(students=STUDENTS, space="smoke", max_latency="5")
    assert again.limits.latency_ms == 5.0


@pytest.mark.parametrize(
    ("flag", "text", "written"),
    [("max_latency", "1234567us", "1234.567"), ("max_latency", "0.01us", "1e-05"), ("max_params", "1M", "1000000")],
)
def test_the_command_of_a_study_holds_its_limits_with_all_digits(flag, text, written):
    asked = asked_for(**{flag: text})
    words = asked.command.split()
    assert words[words.index(f"--{flag.replace('_', '-')}") + 1] == written
    assert asked_for(**{flag: written}).limits == asked.limits


def test_a_comparison_takes_no_folder_of_a_study(done):
    with pytest.raises(StoreError, match="holds the study of a single student") as found:
        run(asked_for(study="smoke-resnet8-0.25"))
    assert found.value.exit_code == 2
    assert fake(options()) == done


def test_a_study_takes_no_folder_of_a_comparison(compared):
    with pytest.raises(StoreError, match="compares several students"):
        resolve(options(study=NAME))


def test_a_stopped_comparison_continues_with_the_same_command(comparison):
    """The second student's study is stopped by an error of the first's events."""

    def fail(event: Event) -> None:
        if isinstance(event, Note) and event.text.startswith("student 2 of 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(asked_for(), fail)
    kept = read_record(Path("runs", NAME, "study.json"))
    assert kept.state == "running"
    assert [study.state for study in kept.studies] == ["complete"]
    record = run(asked_for())
    assert [core(study) for study in record.studies] == [core(study) for study in comparison.record.studies]
