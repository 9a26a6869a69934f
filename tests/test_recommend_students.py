"""Which student to ship: told apart or not, on the Pareto front or not, within which limit."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
from factories import bare, confirmed
from scipy import stats

from autodistill.formatting import amount, listed, quantity
from autodistill.records import CostRecord, StudentBudget, StudyRecord
from autodistill.stats.students import recommend_student
from autodistill.stats.verdict import recommend

FREE = StudentBudget()
SMALL, LARGE = [0.800, 0.801, 0.802], [0.900, 0.902, 0.901]


def searched(
    name: str,
    scores: Sequence[float | None],
    *,
    params: int = 1000,
    macs: int = 1000,
    latency_ms: float | None = None,
) -> StudyRecord:
    """A finished study of a student whose only teacher gave these test accuracies, far above no teacher."""
    record = confirmed({"t": scores, None: [score and score - 0.3 for score in scores]})
    cost = CostRecord(params=params, macs=macs, size_bytes=4 * params)
    timing = {"latency": {"median_ms": latency_ms, "iqr_ms": 0.1, "device": "cpu"}} if latency_ms else {}
    student = record.student.model_copy(update={"name": name, "cost": cost})
    record = record.model_copy(update={"name": f"study-{name}", "student": student, "timing": timing})
    return record.model_copy(update={"recommendation": recommend(record)})


def fronts(*studies: StudyRecord) -> Mapping[str, Sequence[str]]:
    return {row.student: row.front for row in recommend_student(studies, limits=FREE).rows}


def test_a_student_that_is_told_apart_wins_whatever_it_costs():
    choice = recommend_student([searched("a", SMALL), searched("b", LARGE, macs=9000)], limits=FREE)
    assert (choice.verdict, choice.student, choice.study) == ("winner", "b", "study-b")
    assert choice.sentence.startswith("On fashion-mnist, ship b, taught by t with ISATS (target ratio 1.67)")
    (contrast,) = choice.contrasts
    assert (contrast.student, contrast.versus) == ("b", "a")
    assert contrast.difference == pytest.approx(0.1)


def test_the_interval_of_two_students_is_that_of_a_paired_t_test():
    (contrast,) = recommend_student([searched("a", SMALL), searched("b", LARGE)], limits=FREE).contrasts
    expected = stats.ttest_rel(LARGE, SMALL).confidence_interval(0.95)
    assert (contrast.low, contrast.high) == pytest.approx((expected.low, expected.high))


def test_of_students_that_are_not_told_apart_the_cheaper_is_shipped():
    near = [0.898, 0.904, 0.900]
    choice = recommend_student([searched("b", LARGE, macs=9000), searched("a", near, macs=100)], limits=FREE)
    assert (choice.verdict, choice.student) == ("no_clear_difference", "a")
    assert "ship the cheaper one, a" in choice.sentence
    assert any("MACs per image: b 9 k, a 100" in reason for reason in choice.reasons)


def test_the_front_is_by_cost():
    found = fronts(
        searched("small", SMALL, params=10, macs=500),
        searched("large", LARGE, params=90, macs=400),
        searched("beaten", [0.7, 0.71, 0.72], params=95, macs=500),
    )
    assert found == {
        "small": ("params", "size_bytes"),
        "large": ("params", "macs", "size_bytes"),
        "beaten": (),
    }
    assert list(found) == ["large", "small", "beaten"], "best first"


def test_equals_share_a_front():
    assert set(map(len, fronts(searched("a", SMALL), searched("b", SMALL)).values())) == {3}


def test_latency_counts_where_it_was_measured():
    found = fronts(searched("a", SMALL, latency_ms=2.0), searched("b", LARGE))
    assert "latency_ms" in found["a"]
    assert "latency_ms" not in found["b"]


def test_a_line_for_each_limit_at_which_the_answer_changes():
    studies = [
        searched("s", SMALL, params=10),
        searched("worse", [0.7, 0.7, 0.71], params=20),
        searched("l", LARGE, params=90),
    ]
    lines = [line for line in recommend_student(studies, limits=FREE).lines if line.kind == "params"]
    assert [(line.limit, line.student, line.teacher) for line in lines] == [(10, "s", "t"), (90, "l", "t")]
    assert all(one.test_top1 < other.test_top1 for one, other in pairwise(lines))


def test_at_equal_cost_a_line_names_the_better_student_alone():
    studies = [searched("a", SMALL, params=10), searched("b", LARGE, params=10)]
    lines = [line for line in recommend_student(studies, limits=FREE).lines if line.kind == "params"]
    assert [line.student for line in lines] == ["b"]


def test_students_without_a_confirm_run_come_last_and_alone_are_unconfirmed():
    bad = bare({"t": 0.9})
    choice = recommend_student([bad, searched("a", SMALL)], limits=FREE)
    assert [row.student for row in choice.rows] == ["a", bad.student.name]
    assert (choice.verdict, choice.student, choice.rows[1].front) == ("unconfirmed", "a", ())
    assert "only one student is confirmed so far, so none can be preferred" in choice.sentence
    assert f"{bad.student.name} was not confirmed on test." in choice.reasons
    alone = recommend_student([bad], limits=FREE)
    assert (alone.verdict, alone.lines, alone.contrasts) == ("unconfirmed", (), ())


def test_a_student_with_one_run_has_no_interval_and_is_not_told_apart():
    choice = recommend_student([searched("a", [0.95, None, None], macs=5), searched("b", SMALL)], limits=FREE)
    assert choice.verdict == "no_clear_difference"
    assert choice.contrasts[0].low is None


def test_where_no_teacher_helps_the_student_is_trained_without_one():
    record = confirmed({"t": [0.70, 0.71, 0.70], None: [0.80, 0.81, 0.80]})
    record = record.model_copy(update={"recommendation": recommend(record)})
    choice = recommend_student([record], limits=StudentBudget(params=300_000))
    assert choice.rows[0].teacher is None
    assert choice.rows[0].test_top1 == pytest.approx(math.fsum([0.80, 0.81, 0.80]) / 3)
    assert "within 300 k params, ship mobilenetv2:0.25, trained without a teacher" in choice.sentence


def test_limits_and_by_how_much_they_are_broken():
    limits = StudentBudget(params=1000, latency_ms=5)
    assert limits.given == {"params": 1000, "latency_ms": 5}
    assert limits.excess({"params": 1500, "macs": 9, "size_bytes": 9, "latency_ms": 5}) == {"params": 1.5}
    assert limits.excess({"params": 1000, "macs": 9, "size_bytes": 9}) == {}


@pytest.mark.parametrize(
    ("kind", "number", "words", "bare_words"),
    [
        ("params", 2_500_000, "2.5 M params", "2.5 M"),
        ("macs", 98_700, "98.7 k MACs", "98.7 k"),
        ("size_bytes", 10_000_000, "10 MB", "10 MB"),
        ("latency_ms", 0.4581, "0.458 ms", "0.458 ms"),
        ("params", 999, "999 params", "999"),
        ("params", 999_499, "999 k params", "999 k"),
        ("params", 999_500, "1 M params", "1 M"),
        ("size_bytes", 999_999, "1 MB", "1 MB"),
        ("macs", 999.9, "1 k MACs", "1 k"),
        ("macs", 1.234e15, "1230 T MACs", "1230 T"),
        ("latency_ms", 1234, "1230 ms", "1230 ms"),
        ("latency_ms", 0.0000123, "0.0000123 ms", "0.0000123 ms"),
    ],
)
def test_costs_in_words(kind, number, words, bare_words):
    assert (amount(kind, number), quantity(kind, number)) == (words, bare_words)


def test_lists_in_words():
    assert [listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
