"""Who is confirmed: the best teachers, and always the most accurate teacher."""

import pytest

from autodistill.records import TrialParams
from autodistill.searching.stages import finalists_of
from autodistill.searching.state import Candidate


def candidate(teacher: str, *scores: float, weight: float = 0.9) -> Candidate:
    params = TrialParams(teacher=teacher, method="ts", method_params={"tau": 4.0}, tau_student=4.0, soft_weight=weight)
    return Candidate(f"{teacher}-{weight}", None, params, scores)


FOUND = [candidate("a", 0.7), candidate("a", 0.9, 0.5, weight=0.5), candidate("b", 0.8), candidate("c", 0.6)]


def teachers(chosen: list[Candidate]) -> list[str | None]:
    return [it.params.teacher for it in chosen]


def test_a_teacher_s_finalist_is_its_best_configuration_by_mean_score() -> None:
    chosen = finalists_of(FOUND, count=3)
    assert teachers(chosen) == ["b", "a", "c"]
    assert [it.params.soft_weight for it in chosen] == [0.9, 0.9, 0.9]


@pytest.mark.parametrize(
    ("reference", "expected"),
    [("c", ["b", "c"]), ("a", ["b", "a"]), ("b", ["b", "a"]), ("failed", ["b", "a"]), (None, ["b", "a"])],
)
def test_the_reference_takes_the_last_place_unless_it_has_one(reference: str | None, expected: list[str]) -> None:
    assert teachers(finalists_of(FOUND, count=2, reference=reference)) == expected


def test_a_single_place_goes_to_the_best() -> None:
    assert teachers(finalists_of(FOUND, count=1, reference="c")) == ["b"]
