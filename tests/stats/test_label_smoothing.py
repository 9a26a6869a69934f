"""Label smoothing as a control of a search: its row, its difference to the teacher, and what is said without it."""

import numpy as np
import pytest
from factories import confirmed
from grids import runs_of

from autodistill import stats
from autodistill.records import StudyRecord, TrialParams
from autodistill.report.verdict import leaderboard_info
from autodistill.stats.verdict import recommend

TABLE = {None: [0.70, 0.71, 0.69], "good": [0.80, 0.81, 0.79], "fair": [0.75, 0.76, 0.74]}


def smoothed(scores: list[float | None], table=TABLE) -> StudyRecord:
    params = TrialParams(method_params={"label_smoothing": 0.1})
    runs = runs_of("baselines/label-smoothing", params, scores)
    return confirmed(table).model_copy(update={"label_smoothing": runs})


def test_the_teacher_is_compared_with_label_smoothing_over_common_seeds():
    scores = [0.72, 0.74, 0.70]
    found = recommend(smoothed(scores))
    contrast = found.versus_label_smoothing
    assert (found.teacher, contrast.teacher) == ("good", "good")
    assert contrast.difference == pytest.approx(np.mean(TABLE["good"]) - np.mean(scores))
    # The noise of the pair, with a quarter from the other finalists.
    rows = np.array([TABLE["good"], TABLE["fair"], TABLE[None], scores])
    width = stats.compare(rows).half_width()[0, 3]
    assert (contrast.low, contrast.high) == pytest.approx((contrast.difference - width, contrast.difference + width))
    assert found.label_smoothing.confirmed_test_top1 == pytest.approx(np.mean(scores))
    assert any("good is better than label smoothing, which needs no teacher: +8.0 points" in it for it in found.reasons)


@pytest.mark.parametrize("scores", [[0.80, 0.80, 0.81], [0.85, 0.86, 0.84]])
def test_a_teacher_that_does_not_beat_label_smoothing_is_said_not_to(scores):
    reasons = recommend(smoothed(scores)).reasons
    assert any("good is not shown to be better than label smoothing" in it for it in reasons)


def test_without_label_smoothing_the_report_says_what_includes_it():
    found = recommend(confirmed(TABLE))
    assert (found.label_smoothing, found.versus_label_smoothing) == (None, None)
    (reason,) = [it for it in found.reasons if "abel smoothing" in it]
    assert "a budget that has room for it, 23 in most studies, includes it" in reason
    assert "--set confirm.label_smoothing=true" in reason


def test_a_space_that_excludes_label_smoothing_is_said_to():
    record = confirmed(TABLE).model_copy(update={"space": {"confirm": {"label_smoothing": False}}})
    assert any("was not tried, because the space excludes it." in it for it in recommend(record).reasons)


def test_label_smoothing_changes_no_other_figure():
    without, found = recommend(confirmed(TABLE)), recommend(smoothed([0.72, 0.74, 0.70]))
    assert found.contrasts == without.contrasts
    assert found.ranking == without.ranking
    assert (found.verdict, found.sentence) == (without.verdict, without.sentence)


def test_failed_and_single_runs_give_no_interval():
    assert recommend(smoothed([None, None, None])).versus_label_smoothing is None
    single = recommend(smoothed([0.72, None, None])).versus_label_smoothing
    assert (single.low, single.high) == (None, None)
    assert single.difference == pytest.approx(0.80 - 0.72)


def test_the_leaderboard_has_a_row_for_it():
    rows = [row.cells[0].text for row in leaderboard_info(smoothed([0.72, 0.74, 0.70])).table.rows]
    assert rows == ["good", "fair", "no teacher", "label smoothing"]
