"""The verdict about the methods of a grid: its figures against hand-computed values, and its sentences."""

import numpy as np
import pytest
from grids import grid, table_of
from scipy import stats as scipy_stats

from autodistill.stats.methods import ALONE_FAILED, judge_grid

ALONE = [0.700, 0.702, 0.701]
SMOOTH = [0.710, 0.713, 0.711]
APART = {
    "ts": {"small": 0.72, "middle": 0.73, "large": 0.70},
    "dkd": {"small": 0.76, "middle": 0.77, "large": 0.78},
    "isats": {"small": 0.74, "middle": 0.75, "large": 0.75},
}


def verdict(table, *, no_teacher=ALONE, label_smoothing=SMOOTH, **more):
    return judge_grid(grid(table, no_teacher=no_teacher, label_smoothing=label_smoothing, **more), threshold=0.002)


def test_a_clear_best_method_is_named_with_its_lead():
    table = table_of(APART)
    found = verdict(table)
    assert (found.verdict, found.method) == ("best_method", "dkd")
    assert [row.name for row in found.methods] == ["dkd", "isats", "ts"]
    means = {name: np.mean([table[name, teacher] for teacher in ("small", "middle", "large")]) for name in APART}
    for row in found.methods:
        assert row.test_top1 == pytest.approx(means[row.name])
        assert row.seeds == 3
    lead = next(it for it in found.contrasts if (it.better, it.worse) == ("dkd", "isats"))
    assert lead.difference == pytest.approx(means["dkd"] - means["isats"])
    assert lead.low < lead.difference < lead.high
    assert "DKD is the best of 3 methods for mobilenetv2:0.25 on fashion-mnist" in found.sentence
    assert f"+{100 * lead.difference:.1f} points over ISATS" in found.sentence
    assert found.seeds_to_settle is None


def test_methods_within_the_noise_are_not_told_apart():
    close = {"ts": {"a": 0.70, "b": 0.71, "c": 0.72}, "dkd": {"a": 0.705, "b": 0.715, "c": 0.725}}
    found = verdict(table_of(close, noise=0.01))
    assert (found.verdict, found.method) == ("no_clear_difference", None)
    assert "cannot be told apart from" in found.sentence
    assert f"; about {found.seeds_to_settle} seeds would tell" in found.sentence
    assert found.detectable > 0.005


def test_the_interval_of_a_row_is_that_of_students_t():
    scores = [0.70, 0.71, 0.73]
    found = verdict({("ts", "only"): scores, ("dkd", "only"): [0.6, 0.62, 0.61]})
    row = next(it for it in found.cells if it.method == "ts")
    low, high = scipy_stats.t.interval(0.95, 2, np.mean(scores), scipy_stats.sem(scores))
    assert (row.low, row.high) == pytest.approx((low, high))


def test_cells_are_compared_with_no_teacher_and_label_smoothing_and_the_reasons_count_them():
    below = {"ts": {"a": 0.705, "b": 0.705, "c": 0.705}, "dkd": {"a": 0.706, "b": 0.706, "c": 0.80}}
    found = verdict(table_of(below, noise=0.0003))
    gains = {(it.better, it.worse): it for it in found.gains}
    assert len(gains) == 12
    assert gains["ts / a", "label smoothing"].high < 0
    assert gains["dkd / c", "label smoothing"].low > 0
    assert any("1 of 6 cells is better than label smoothing, 5 worse" in reason for reason in found.reasons)
    assert any(reason.startswith("The best cell is DKD from c: 80.0 %") for reason in found.reasons)


def test_a_grid_that_does_not_beat_label_smoothing_says_so():
    found = verdict(table_of({"ts": {"a": 0.70, "b": 0.70, "c": 0.70}}))
    assert "No cell is shown to be better than label smoothing (3 cells), 3 are worse." in found.reasons
    assert not any("Not compared" in reason or "Left out" in reason for reason in found.reasons)
    assert (found.verdict, found.method, found.detectable) == ("only_one", "ts", None)
    assert "TS was measured alone" in found.sentence


def test_slopes_are_points_per_doubling_of_macs():
    """Teachers grow fourfold, two doublings: 4 points more from one to the next are 2 points per doubling."""
    falling = {"a": 0.74, "b": 0.70, "c": 0.66}
    found = verdict(table_of({"ts": falling, "dkd": {"a": 0.70, "b": 0.74, "c": 0.78}}, noise=1e-6))
    slopes = {it.method: it for it in found.slopes}
    assert slopes["ts"].slope == pytest.approx(-0.02, abs=1e-4)
    assert slopes["dkd"].slope == pytest.approx(0.02, abs=1e-4)
    assert slopes["ts"].high < 0 < slopes["dkd"].low
    assert any("Per doubling of the teacher's MACs" in reason for reason in found.reasons)


def test_two_teachers_have_no_slope():
    assert verdict(table_of({"ts": {"a": 0.7, "b": 0.7}, "dkd": {"a": 0.7, "b": 0.7}})).slopes == ()


@pytest.mark.parametrize("broken", [[None, None, None], [0.7, None, None], [0.99, None, None]])
def test_a_method_whose_runs_failed_is_left_out_and_named(broken):
    table = {**table_of({"ts": {"a": 0.70, "b": 0.71}, "dkd": {"a": 0.75, "b": 0.76}})}
    table |= {("isats", "a"): broken, ("isats", "b"): broken}
    found = verdict(table)
    assert (found.method, found.methods[-1].name) == ("dkd", "isats")
    assert "Not compared, because too many of its runs failed: ISATS." in found.reasons
    assert "ISATS" not in found.sentence


def test_a_teacher_without_enough_runs_is_left_out_of_all_means_and_named():
    table = table_of(APART)
    table["ts", "large"] = [0.7, None, None]
    found = verdict(table)
    assert found.teachers == ("small", "middle")
    assert "on average over 2 teachers" in found.sentence
    assert "Left out of the means of all methods, because runs failed: large." in found.reasons
    dkd = next(row for row in found.methods if row.name == "dkd")
    assert dkd.test_top1 == pytest.approx(np.mean([table["dkd", "small"], table["dkd", "middle"]]))


def test_a_grid_in_which_too_much_failed_says_so():
    table = {("ts", "a"): [0.7, 0.71, 0.7], ("dkd", "a"): [0.7, None, None]}
    found = verdict(table)
    assert found.verdict == "unconfirmed"
    assert found.sentence.startswith("Too many runs failed: fewer than two methods")
    alone = verdict({("ts", "a"): [None, None, None]})
    assert (alone.verdict, alone.sentence) == ("unconfirmed", ALONE_FAILED)


def test_a_failed_run_takes_its_seed_from_its_method():
    table = table_of(APART)
    table["ts", "small"] = [None, *table["ts", "small"][1:]]
    row = next(it for it in verdict(table).methods if it.name == "ts")
    assert row.seeds == 2


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"state": "running"}, "The study is still running, so nothing is decided."),
        (
            {"no_teacher": [0.7], "label_smoothing": [0.7]},
            "One seed gives no interval, so the methods are not compared: set confirm.seeds to 2 or more.",
        ),
    ],
    ids=["running", "one seed"],
)
def test_nothing_is_decided_while_it_runs_or_with_one_seed(more, sentence):
    table = {cell: scores[: 1 if "no_teacher" in more else 3] for cell, scores in table_of(APART).items()}
    found = verdict(table, **more)
    assert (found.verdict, found.method, found.contrasts) == ("unconfirmed", None, ())
    assert [row.name for row in found.methods] == ["dkd", "isats", "ts"]
    assert all(row.test_top1 is not None for row in (*found.methods, *found.baselines, *found.cells))
    assert found.sentence == sentence


def test_what_tuning_for_each_teacher_gains_is_said():
    table = table_of(APART)
    shared = {cell: [score - 0.01 for score in scores] for cell, scores in table.items() if cell[0] != "isats"}
    found = verdict(table, shared=shared)
    gains = {it.method: it for it in found.tuning}
    assert {name: it.gain for name, it in gains.items()} == pytest.approx({"ts": 0.01, "dkd": 0.01})
    assert gains["ts"].low == pytest.approx(0.01)
    assert any("gains, in points: TS +1.0 (95 % interval +1.0 to +1.0) and DKD" in it for it in found.reasons)


def test_slopes_are_compared_between_methods():
    found = verdict(table_of({"ts": {"a": 0.74, "b": 0.70, "c": 0.66}, "dkd": {"a": 0.7, "b": 0.7, "c": 0.7}}))
    (contrast,) = found.slope_contrasts
    assert (contrast.better, contrast.worse) == ("dkd", "ts")
    assert contrast.difference == pytest.approx(0.02, abs=2e-3)
    assert contrast.low > 0
    assert any(reason.startswith("Methods whose slopes differ") for reason in found.reasons)


def test_a_teacher_with_which_no_method_beats_label_smoothing_is_named():
    means = {"ts": {"a": 0.705, "b": 0.80, "c": 0.80}, "dkd": {"a": 0.706, "b": 0.80, "c": 0.80}}
    reasons = verdict(table_of(means)).reasons
    assert "With a, no method is shown to be better than label smoothing." in reasons


def test_a_method_of_the_user_is_named_by_its_function():
    table = table_of({"python:my.py:focal": {"a": 0.75, "b": 0.75}, "ts": {"a": 0.70, "b": 0.70}})
    found = verdict(table)
    assert found.method == "python:my.py:focal"
    assert found.sentence.startswith("focal is the best of 2 methods")


def test_students_at_chance_are_said_to_have_learned_nothing():
    """Ten classes of the same size: chance is 10 %, with an error of 0.3 points on 10,000 images."""
    low = {name: {"a": 0.1, "b": 0.103, "c": 0.1} for name in ("ts", "dkd")}
    found = verdict(table_of(low, noise=1e-4), no_teacher=[0.1] * 3, label_smoothing=[0.1] * 3)
    assert any(reason.startswith("No student is above chance (10.0 %)") for reason in found.reasons)
    assert not any("above chance" in reason for reason in verdict(table_of(APART)).reasons)


def test_chance_is_the_share_of_the_largest_class_of_the_test_set():
    """600 of 1,000 test images are of a class: an accuracy of 0.7 is above chance, 0.6 is not."""
    sizes = {"classes": ("a", "b", "c"), "counts": ((10, 5, 5), (1, 1, 1), (600, 200, 200)), "test": 1000}

    def reasons(score: float) -> str:
        table = {("ts", "a"): [score] * 3, ("dkd", "a"): [score] * 3}
        record = grid(table, no_teacher=[0.6] * 3, label_smoothing=[0.6] * 3)
        record = record.model_copy(update={"data": record.data.model_copy(update=sizes)})
        return " ".join(judge_grid(record, threshold=0.002).reasons)

    assert "No student is above chance (60.0 %)" in reasons(0.6)
    assert "above chance" not in reasons(0.7)


def test_cells_that_are_shown_to_be_worse_than_a_control_are_counted():
    reasons = verdict(table_of({"ts": {"a": 0.60, "b": 0.60, "c": 0.7114}})).reasons
    assert any("No cell is shown to be better than label smoothing (3 cells), 2 are worse." in it for it in reasons)


def test_equal_settings_are_no_gain_of_tuning():
    record = grid(table_of({"ts": {"a": 0.7, "b": 0.7}}), no_teacher=ALONE, label_smoothing=SMOOTH)
    same = record.grid.model_copy(update={"shared": record.grid.cells})
    assert judge_grid(record.model_copy(update={"grid": same}), threshold=0.002).tuning == ()
