"""Importance with its spread, and replicates: the words and figures by hand."""

from factories import bare, study
from record_parts import isats, trial

from autodistill.records import ImportanceRecord, StudyRecord, TrialRecord
from autodistill.report.trials import importance_info, replicates_info


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
