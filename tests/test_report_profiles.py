"""The report's sections about the teachers: by hand, at the ends, and as the page of `teachers inspect`."""

import json
import math
import re
from pathlib import Path

import pytest
from factories import bare, hostile_names, profiled, study
from record_parts import isats, kd, profile, trial

from autodistill.records import AgreementRecord, InspectionRecord, ProfileRecord, StudyRecord, TeacherCostRecord
from autodistill.report import render, render_inspection
from autodistill.report.canvas import chart
from autodistill.report.parts import spread_out
from autodistill.report.teachers import (
    SCORES,
    agreement_info,
    course,
    knowledge_info,
    scores_info,
    spread_info,
    temperatures_info,
)
from autodistill.report.verdict import mismatch_info

pytestmark = pytest.mark.slow

FOUR = {"s": 0.70, "m": 0.86, "l": 0.89, "xl": 0.91}


def with_profiles(*heights: float) -> StudyRecord:
    """A study whose teachers, by size, have these variances at every temperature, with a hundredth of error."""
    record = bare({f"t{place}": 0.8 for place in range(len(heights))})
    teachers = tuple(
        one.model_copy(update={"profile": flat(height)}) for one, height in zip(record.teachers, heights, strict=True)
    )
    return record.model_copy(update={"teachers": teachers})


def flat(height: float) -> ProfileRecord:
    found = profile(0)
    update = {"inherent_variance": height, "derived_variance": height}
    update |= {"inherent_variance_error": 0.01, "derived_variance_error": 0.01}
    return found.model_copy(update={"spread": tuple(one.model_copy(update=update) for one in found.spread)})


def inspection(record: StudyRecord) -> InspectionRecord:
    return InspectionRecord(data=record.data, teachers=record.teachers, agreement=record.agreement)


@pytest.mark.parametrize(
    ("means", "signs"),
    [
        ([1, 2, 3, 2, 1], "+-"),
        ([1, 2, 3], "+"),
        ([3, 2, 1], "-"),
        ([3, 1, 3], "-+"),
        ([1, 3, 1, 3], "+-+"),
        ([1, 1.02, 1.01, 1.02], ""),
        ([1, 1.02, 1.04, 1.06, 1.08], "+"),
        ([2], ""),
    ],
)
def test_course_takes_steps_within_two_standard_errors_for_none(means, signs):
    assert course([float(one) for one in means], [0.01] * len(means)) == signs


@pytest.mark.parametrize(
    ("heights", "start", "way"),
    [
        ((1, 3, 2, 1), "Seen here: over 4 teachers", "rises, then falls"),
        ((1, 2, 3), "Only the rise is seen here", "rises"),
        ((3, 2, 1), "Only the fall is seen here", "falls"),
        ((3, 1, 2), "Not seen here", "falls, then rises"),
        ((1, 2, 1, 2), "Not seen here", "goes up and down, with 2 turns"),
        ((1, 1, 1), "Not seen here", "does not change beyond its error"),
        ((1, 2), "Checking this takes three teachers; there are 2 profiles", ""),
    ],
)
def test_the_variance_claim_stands_beside_what_was_measured(heights, start, way):
    said, measured = knowledge_info(with_profiles(*map(float, heights))).points[0]
    assert said == "The variance of the other classes rises, then falls, as teachers grow."
    assert measured.startswith(start)
    if way:
        largest = f"t{heights.index(max(heights))}"
        assert f"the derived variance at tau 4 {way}, with its largest value at {largest}" in measured
        assert measured.endswith(f"the inherent variance {way}.")


@pytest.mark.parametrize(("rho", "start"), [(0.9, "Seen here"), (0.5, "Seen in part"), (0.1, "Not seen here")])
def test_the_order_claim_stands_beside_what_was_measured(rho, start):
    record = with_profiles(1.0, 2.0, 3.0)
    matrix = ((1.0, rho, rho + 0.02), (rho, 1.0, rho + 0.04), (rho + 0.02, rho + 0.04, 1.0))
    found = AgreementRecord(examples=7, teachers=("t0", "t1", "t2"), spearman=matrix, kendall=matrix)
    _, measured = knowledge_info(record.model_copy(update={"agreement": found})).points[1]
    assert measured.startswith(f"{start}: over 3 pairs the mean Spearman correlation is {rho + 0.02:.2f}, ")
    assert f"from {rho:.2f} (t0 and t1) to {rho + 0.04:.2f}, and Kendall's {rho + 0.02:.2f}. " in measured
    assert knowledge_info(record).points[1][1] == "There is no pair of teachers to compare."


def test_scores_by_hand():
    scores = {"s": 0.77, "m": 0.79, "l": 0.78, "xl": 0.76}
    trials = [trial(n, isats(name), state="complete", score=val) for n, (name, val) in enumerate(scores.items())]
    info = scores_info(profiled(study(0, teachers=FOUR)).model_copy(update={"trials": tuple(trials), "plain_kd": None}))
    got = {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in info.table.rows}
    assert len(got) == len(SCORES) + 1
    # Students rank 2 4 3 1 by the size of their teachers, and accuracy ranks the teachers 1 2 3 4.
    assert got["accuracy, more is better"] == ["xl", "3.0", "-0.40"]
    assert got["parameters, less is better"] == ["s", "2.0", "+0.40"]
    assert got["ratio of the two largest probabilities, less is better"] == ["s", "2.0", "+0.40"]
    assert got["derived variance at tau 4, more is better"][0] == "xl"
    assert got["a teacher drawn at random"][1] == f"{100 * (0.02 + 0 + 0.01 + 0.03) / 4:.1f}"
    assert info.text == (
        "With equal settings, taking the most accurate teacher, xl, would have cost 3.0 points against the best "
        "choice in this study; taking a teacher at random, 1.5 points on average."
    )
    assert info.note.endswith(
        "Regret is measured against the best student on validation. All students have the same settings, ISATS (target "
        "ratio 1.67), soft weight 0.5, and a single run each: seed noise counts as regret too."
    )
    assert "4 teachers are too few" in info.note
    assert f"1 in {math.factorial(4)}" in info.note
    regrets = [float(row.cells[2].text) for row in info.table.rows[:-1]]
    assert regrets == sorted(regrets)


def test_a_score_that_an_older_profile_lacks_is_left_out():
    record = profiled(study(20, teachers=FOUR))
    one = record.teachers[0]
    train = one.profile.train.model_copy(update={"top_two_log_ratio": None})
    old = one.model_copy(update={"profile": one.profile.model_copy(update={"train": train})})
    info = scores_info(record.model_copy(update={"teachers": (old, *record.teachers[1:])}))
    labels = [row.cells[0].text for row in info.table.rows]
    assert len(labels) == len(SCORES)
    assert not any("two largest" in label for label in labels)
    assert "8 scores have as many chances" in info.note


def test_scores_compare_students_of_equal_settings():
    """Three teachers have ISATS in common, s over two runs; that xl has a better run of its own counts for nothing."""
    scores = {"s": 0.77, "m": 0.79, "xl": 0.76}
    trials = [trial(n, isats(name), state="complete", score=val) for n, (name, val) in enumerate(scores.items())]
    trials += [trial(3, isats("s"), state="complete", score=0.75), trial(4, kd("xl"), state="complete", score=0.9)]
    trials += [trial(5, kd("l"), state="complete", score=0.8)]
    record = profiled(study(0, teachers=FOUR)).model_copy(update={"trials": tuple(trials), "plain_kd": None})
    info = scores_info(record)
    got = {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in info.table.rows}
    # Students: s 0.76, m 0.79, xl 0.76.
    assert got["accuracy, more is better"][:2] == ["xl", "3.0"]
    assert got["a teacher drawn at random"][1] == f"{100 * (0.03 + 0 + 0.03) / 3:.1f}"
    assert "ISATS (target ratio 1.67), soft weight 0.5, and up to 2 runs each: seed noise counts" in info.note
    assert "3 teachers are too few" in info.note
    apart = [trial(n, isats(name, ratio=1 + n), state="complete", score=0.7) for n, name in enumerate(FOUR)]
    assert scores_info(record.model_copy(update={"trials": tuple(apart)})).table is None


def test_scores_count_profiled_teachers_with_a_full_run_only():
    record = profiled(study(2, teachers=FOUR)).model_copy(update={"plain_kd": None})
    assert len({run.params.teacher for run in (one.full for one in record.trials) if run}) == 2
    assert "2 teachers are too few" in scores_info(record).note
    assert {row.cells[3].text for row in scores_info(record).table.rows} == {"\N{EN DASH}"}
    teachers = (record.teachers[0].model_copy(update={"profile": None}), *record.teachers[1:])
    assert scores_info(record.model_copy(update={"teachers": teachers})).table is None
    assert scores_info(inspection(record)).table is None
    many = scores_info(profiled(study(120, teachers=hostile_names(40))))
    assert "too few" not in many.note


def test_histograms_and_bounds_by_hand():
    record = profiled(study(4, teachers=FOUR))
    info = temperatures_info(record)
    assert list(info.figure.draw.args[0]) == list(FOUR)
    assert info.figure.finding == (
        "The median tau other lies between 2.0 and 2.3; s has the most samples at a bound, 1.0 %."
    )
    rows = [[cell.text for cell in row.cells] for row in info.figure.table.rows]
    assert rows[1] == ["m", "86.0 %", "2.1", "1.0 %", "99.0 %", "0.0 %", "0.0 %", "14.0 %"]
    assert "target ratio 1.67" in info.figure.table.note
    assert "tau other from 0.5 to 30" in info.figure.table.note
    stuck = record.teachers[1].profile.tau_other.model_copy(update={"at_lower": 0.5, "at_upper": 0.2})
    odd = record.teachers[1].model_copy(
        update={"profile": record.teachers[1].profile.model_copy(update={"tau_other": stuck})}
    )
    finding = temperatures_info(record.model_copy(update={"teachers": (record.teachers[0], odd)})).figure.finding
    assert "m has the most samples at a bound, 70.0 %, so the bounds determine its temperatures." in finding


def test_heat_map_is_ordered_by_size_and_puts_spearman_below():
    record = profiled(study(4, teachers=FOUR))
    upside_down = record.model_copy(update={"teachers": record.teachers[::-1]})
    for one in (record, upside_down):
        info = agreement_info(one)
        assert info.figure.draw.args[0] == list(FOUR)
        rows = [[cell.text for cell in row.cells[1:]] for row in info.figure.table.rows]
        assert rows[0] == ["\N{EN DASH}", "0.81", "0.72", "0.63"]
        assert rows[3] == ["0.70", "0.80", "0.90", "\N{EN DASH}"]
    assert "Least alike are xl and s (Spearman 0.70, Kendall 0.63)" in agreement_info(record).figure.finding


def test_two_teachers_without_an_order_have_no_heat_map():
    blank_matrix = ((1.0, None), (None, None))
    found = AgreementRecord(examples=7, teachers=("t0", "t1"), spearman=blank_matrix, kendall=blank_matrix)
    record = with_profiles(1.0, 2.0).model_copy(update={"agreement": found})
    assert agreement_info(record).figure is None
    assert knowledge_info(record).points[1][1] == "There is no pair of teachers to compare."


def test_of_forty_teachers_eight_are_drawn_the_ends_among_them_and_the_page_says_so():
    record = profiled(study(120, teachers=hostile_names(40)))
    by_size = [one.name for one in sorted(record.teachers, key=lambda one: (one.cost.params, one.name))]
    spread, temperatures = spread_info(record), temperatures_info(record)
    for shown, note in (
        ([one.name for one in spread.figure.draw.args[0]], spread.note),
        (list(temperatures.figure.draw.args[0]), temperatures.note),
        (agreement_info(record).figure.draw.args[0], agreement_info(record).note),
    ):
        assert len(shown) == 8
        assert (shown[0], shown[-1]) == (by_size[0], by_size[-1])
        assert "8 of 40 teachers shown" in note
    assert len(knowledge_info(record).table.rows) == 40
    assert spread_out([1, 2, 3], 8) == [1, 2, 3]


def test_a_record_from_before_there_were_profiles_has_no_such_section(tmp_path: Path):
    text = study().model_dump_json(exclude={"agreement": True, "teachers": {"__all__": {"profile"}}})
    assert "profile" not in json.loads(text)["teachers"][0]
    old = StudyRecord.model_validate_json(text)
    assert old == study()
    html = render(old, tmp_path).read_text(encoding="utf-8")
    assert "Dark knowledge" not in html
    assert "Dark knowledge" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert {path.stem for path in (tmp_path / "charts").glob("*.svg")}.isdisjoint(
        ("knowledge", "temperatures", "agreement")
    )


def test_profiles_are_on_the_page_and_in_markdown(tmp_path: Path):
    html = render(profiled(study()), tmp_path).read_text(encoding="utf-8")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for words in ("Dark knowledge", "The variance of the other classes rises, then falls", "drawn at random"):
        assert words in html
        assert words in text
    assert '<a href="#knowledge">' in html
    for name in ("knowledge", "temperatures", "agreement"):
        assert f"(charts/{name}.svg)" in text
        assert (tmp_path / "charts" / f"{name}.svg").exists()


@pytest.mark.parametrize("count", [1, 40])
def test_an_inspection_is_a_page_of_these_sections_alone(count: int, tmp_path: Path):
    names = hostile_names(40)
    record = inspection(profiled(bare(dict(list(names.items())[:count]))))
    assert InspectionRecord.model_validate_json(record.model_dump_json()) == record
    page = render_inspection(record, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert page.name == "teachers.html"
    assert re.findall(r"<h[123][^>]*>(?:<em>)?([^<]*)", text)[:2] == [
        "What do these teachers know about ",
        "Dark knowledge",
    ]
    assert "Leaderboard" not in text
    assert "<script" not in text
    assert text.count("<img") == (3 if count > 1 else 2)
    assert len(text) < 250_000
    assert render_inspection(record, tmp_path / "again").read_bytes() == page.read_bytes()


def test_mismatch_shows_size_and_seed_noise():
    info = mismatch_info(study(20))
    rho = re.search(r"Spearman (\S+) over 4 teachers", info.figure.finding)[1]
    # Here the bigger teacher is the more accurate one.
    assert f"With the number of parameters the Spearman correlation is {rho}." in info.note
    assert "two standard deviations of a run's seed noise" in info.note
    assert "its seed noise was not measured" in mismatch_info(study(20, seeds=0)).note
    tested = {row.cells[0].text: row.cells[3] for row in info.figure.table.rows}
    assert "seeds" in tested["ladder-l"].below
    assert tested["ladder-s"].text == "\N{EN DASH}"


def test_slim_charts_keep_a_users_decimals():
    svg = chart(lambda figure: figure.add_subplot().set_title("net-0.123456 & <b>"))().decode()
    assert "net-0.123456 &amp; &lt;b&gt;" in svg
    assert "DejaVu" not in svg
    assert max(len(digits) for tag in re.findall(r"<[^>]*>", svg) for digits in re.findall(r"\.(\d+)", tag)) <= 2


def test_markers_tell_lines_of_one_colour_apart():
    info = spread_info(profiled(study(8, teachers={f"t{place}": 0.8 for place in range(8)})))
    svg = info.figure.draw().decode()
    assert len(set(re.findall(r'<path id="i\d+" d="([^"]*)"', svg))) >= 7


def test_a_teacher_of_unknown_cost_is_shown_and_left_out_of_orders_by_size(tmp_path: Path) -> None:
    record = profiled(study(teachers=FOUR))
    unknown = TeacherCostRecord(params=None, macs=None, size_bytes=None)
    teachers = (
        record.teachers[0].model_copy(update={"cost": unknown, "notes": ("a table & its <rows>",)}),
        *record.teachers[1:],
    )
    record = record.model_copy(update={"teachers": teachers})
    first = record.teachers[0].name
    info = knowledge_info(record)
    assert info.table is not None
    assert info.table.rows[-1].cells[0].text == first
    assert info.table.rows[-1].cells[1].text == "unknown"
    assert "over 3 teachers from" in info.points[0][1]
    scores = scores_info(record).table
    assert scores is not None
    assert not any(line.cells[0].text.startswith("parameters") for line in scores.rows)
    page = render(record, tmp_path)
    assert "a table &amp; its &lt;rows&gt;" in page.read_text()
    markdown = (tmp_path / "report.md").read_text()
    assert "## Notes on the teachers" in markdown
    assert "unknown MACs" in markdown
    nobody = tuple(one.model_copy(update={"cost": unknown}) for one in record.teachers)
    render(record.model_copy(update={"teachers": nobody}), tmp_path / "nobody")
