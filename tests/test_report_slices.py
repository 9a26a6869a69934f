"""Importance with its spread, slices, the pair and replicates: the words and figures by hand."""

import pytest
from factories import bare, study
from record_parts import isats, kd, trial

from autodistill.records import ImportanceRecord, StudyRecord, TrialRecord
from autodistill.report.charts import pair_chart
from autodistill.report.trials import MAX_DRAWN, importance_info, pair_info, replicates_info, slices_info


def searched(count: int, **importance: dict[str, float] | dict[str, dict[str, float]]) -> StudyRecord:
    """Trial k of n: ratio 1 + k / n, weight 0.5 where k is even and 0.6 else, rung score 0.6 + k / 1000."""
    trials = [
        trial(
            number,
            isats("ladder-m", ratio=1 + number / count, soft_weight=0.5 + 0.1 * (number % 2)),
            state="complete",
            score=0.63 + number / 1000,
        ).model_copy(update={"replicate_of": None})
        for number in range(count)
    ]
    found = ImportanceRecord(n=count, **importance)
    return study(0).model_copy(update={"trials": tuple(trials), "importance": found})


def rescored(one: TrialRecord, score: float) -> TrialRecord:
    assert one.rung is not None
    last = one.rung.curve[-1].model_copy(update={"val_top1": score})
    short = one.rung.model_copy(update={"curve": (*one.rung.curve[:-1], last)})
    return one.model_copy(update={"rung": short})


def test_a_lead_within_the_forests_spread_is_said() -> None:
    def finding(gap: float) -> str:
        shares, spread = {"teacher": 0.4 + gap, "method": 0.4}, {"teacher": 0.03, "method": 0.04}
        record = searched(30, shares=shares, shares_std=spread)
        return importance_info(record).figure.finding

    # The spread of the difference is 0.05: 9 points lie within twice that, 11 do not.
    assert finding(0.09) == (
        "The largest share of variance, 49 ± 3 %, goes to teacher (n = 30 rung scores); "
        "method, 40 ± 4 %, is within the spread of the forests."
    )
    assert finding(0.11) == "The largest share of variance, 51 ± 3 %, goes to teacher (n = 30 rung scores)."


def test_importance_of_an_older_record_has_no_spread() -> None:
    info = importance_info(searched(30, shares={"teacher": 0.7, "method": 0.3}))
    assert [cell.text for row in info.figure.table.rows for cell in row.cells] == [
        "teacher",
        "70 %",
        "method",
        "30 %",
    ]
    assert info.note == ""


@pytest.mark.parametrize("count", [29, 30])
def test_slices_start_at_thirty_scored_trials(count: int) -> None:
    record = searched(count, within_method={"isats": {"target_ratio": 0.8, "soft_weight": 0.2}})
    assert (slices_info(record).figure is None) == (pair_info(record).figure is None) == (count == 29)
    if count == 29:
        assert slices_info(record).note == "Slices take at least 30 scored trials; there are 29."


def test_a_failed_short_run_is_no_scored_trial() -> None:
    record = searched(30)
    failed = trial(30, isats("ladder-m"), state="failed", score=0.7)
    assert slices_info(record.model_copy(update={"trials": (*record.trials[1:], failed)})).figure is None


def test_slices_by_hand() -> None:
    """Thirty trials: scores rise with the ratio, thirds of ten have means 0.6045, 0.6145 and 0.6245."""
    within = {"isats": {"target_ratio": 0.8, "soft_weight": 0.2}}
    info = slices_info(searched(30, shares={"soft_weight": 0.1}, within_method=within))
    slices, *_ = info.figure.draw.args
    assert [one.name for one in slices] == ["ISATS: target ratio", "soft weight"]
    cells = [(cell.text, cell.below) for cell in info.figure.table.rows[0].cells]
    assert cells[1:] == [("30", ""), ("60.5 %", "1 to 1.3"), ("61.5 %", "1.33 to 1.63"), ("62.5 %", "1.67 to 1.97")]
    assert info.figure.finding == (
        "ISATS: target ratio: the highest third of its values, 1.67 to 1.97, has the best mean rung score, 62.5 %; "
        "the worst third has 60.5 %."
    )
    assert [(point.x, point.y) for point in slices[0].points[:2]] == [
        (1.0, pytest.approx(0.6)),
        (pytest.approx(31 / 30), pytest.approx(0.601)),
    ]


def test_importance_orders_the_slices_and_rules_count_by_their_trials() -> None:
    record = searched(30)
    tau = [trial(30 + place, kd("ladder-m"), state="complete", score=0.7) for place in range(10)]
    varied = [
        one.model_copy(update={"params": one.params.model_copy(update={"method_params": {"tau": 1.0 + place}})})
        for place, one in enumerate(tau)
    ]
    shares = ImportanceRecord(
        n=40, shares={"soft_weight": 0.3}, within_method={"isats": {"target_ratio": 0.5}, "ts": {"tau": 0.9}}
    )
    both = record.model_copy(update={"trials": (*record.trials, *varied), "importance": shares})
    # 0.5 x 30/40 = 0.375, then 0.3, then 0.9 x 10/40 = 0.225.
    assert [one.name for one in slices_info(both).figure.draw.args[0]] == [
        "ISATS: target ratio",
        "soft weight",
        "TS: tau",
    ]


def test_one_collapsed_run_does_not_flatten_the_others() -> None:
    """Quartiles 0.60725 and 0.62175 of thirty: the floor is 1.5 x 0.0145 below the first."""
    record = searched(30)
    collapsed = rescored(record.trials[0], 0.1)
    info = slices_info(record.model_copy(update={"trials": (collapsed, *record.trials[1:])}))
    assert info.figure.draw.args[1] == pytest.approx(0.60725 - 1.5 * 0.0145)
    assert "1 trial below 58.5 %, drawn at the lower edge." in info.note
    assert info.figure.draw().startswith(b"<svg")


def test_many_trials_are_thinned_and_said_so() -> None:
    info = slices_info(searched(300, within_method={"isats": {"target_ratio": 0.8, "soft_weight": 0.2}}))
    assert {len(one.points) for one in info.figure.draw.args[0]} == {MAX_DRAWN}
    assert f"At most {MAX_DRAWN} of 300 trials drawn in a panel" in info.note
    pair = pair_info(searched(300, within_method={"isats": {"target_ratio": 0.8, "soft_weight": 0.2}}))
    assert sum(map(len, pair.figure.draw.args[2])) == MAX_DRAWN
    assert f"{MAX_DRAWN} of 300 trials drawn" in pair.note


def test_a_space_says_which_axes_are_logarithmic() -> None:
    record = searched(30, within_method={"isats": {"target_ratio": 0.8, "soft_weight": 0.2}})
    space = {"search": {"methods": {"isats": {"target_ratio": {"low": 1, "high": 4, "log": True}}}}}
    assert pair_info(record).figure.draw.args[1] == (False, False)
    spaced = record.model_copy(update={"space": {**space}})
    assert pair_info(spaced).figure.draw.args[1] == (True, False)
    assert [one.log for one in slices_info(spaced).figure.draw.args[0]] == [True, False]


def test_the_pair_by_hand() -> None:
    """Fifths of six by score, which rises with the ratio: the best are trials 24 to 29, with both weights."""
    info = pair_info(searched(30, within_method={"isats": {"target_ratio": 0.8, "soft_weight": 0.2}}))
    names, _, fifths, _ = info.figure.draw.args
    assert names == ("ISATS: target ratio", "ISATS: soft weight")
    assert info.figure.finding == (
        "The best fifth of 30 ISATS trials has target ratio 1.8 to 1.97 and soft weight 0.5 to 0.6."
    )
    assert [cell.text for cell in info.figure.table.rows[0].cells] == [
        "best",
        "6",
        "62.4 to 62.9 %",
        "1.8 to 1.97",
        "0.5 to 0.6",
    ]
    assert [len(fifth) for fifth in fifths] == [6] * 5
    assert fifths[0][0].x == pytest.approx(1 + 29 / 30)


def test_replicates_by_hand() -> None:
    """Pairs 70.0, 70.4 and 71.0, 71.8: squares 0.08 + 0.32 over 2 degrees of freedom, so a deviation of 0.447."""
    first, second = isats("ladder-m"), isats("ladder-l")
    made = [trial(number, (first, second)[number % 2], state="pruned", score=0.7) for number in range(5)]
    scores = (0.700, 0.710, 0.704, 0.718, None)
    trials = [
        (one if score is None else rescored(one, score)).model_copy(
            update={"replicate_of": number - 2 if number in (2, 3) else None}
        )
        for number, (one, score) in enumerate(zip(made, scores, strict=True))
    ]
    info = replicates_info(bare({}).model_copy(update={"trials": tuple(trials)}))
    assert info.text == (
        "2 configurations ran again with another seed: between seeds a rung score has a standard deviation of "
        "0.4 points (2 degrees of freedom)."
    )
    assert [cell.text for cell in info.table.rows[1].cells] == [
        "1, 3",
        "ladder-l",
        "ISATS (target ratio 1.67), soft weight 0.5",
        "71.0 to 71.8 %",
        "0.8",
    ]


def test_nothing_repeated_is_no_section() -> None:
    assert replicates_info(searched(30)).table is None


def test_contours_are_drawn_through_the_pair_where_there_is_a_plane() -> None:
    info = pair_info(searched(60, within_method={"isats": {"target_ratio": 0.8, "soft_weight": 0.2}}))
    names, _, fifths, teachers = info.figure.draw.args
    line = [[point._replace(y=point.x) for point in fifth] for fifth in fifths]
    drawn, flat = info.figure.draw(), pair_chart(names, (False, False), line, teachers)
    assert drawn.count(b"<path") > flat.count(b"<path")
