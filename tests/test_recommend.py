import math

import numpy as np
import pytest
from factories import STUDIES, bare, confirmed, finalist, run, study
from scipy import stats

from autodistill.recommend import recommend
from autodistill.recommend.evidence import collect, half_width, residual, seed_noise, seeds_to_settle
from autodistill.recommend.words import points
from autodistill.records import Contrast, Recommendation, StudyRecord, TrialParams

NOTHING = [0.770, 0.772, 0.774]


def contrast(verdict: Recommendation, teacher: str, versus: str | None) -> Contrast:
    return next(one for one in verdict.contrasts if (one.teacher, one.versus) == (teacher, versus))


def shifted(by: float, noise: tuple[float, ...] = (0.0, 0.0004, -0.0004)) -> list[float | None]:
    """The baseline's scores plus a gain, with residuals of its own."""
    return [score + by + extra for score, extra in zip(NOTHING, noise, strict=True)]


def test_interval_by_hand() -> None:
    """By hand: means 2, 4, 3 and 1, 3, 5; residuals of +-1 in four of six cells, 0 in two; 4 / ((2-1)(3-1)) = 2."""
    scores = np.array([[1.0, 3.0, 2.0], [3.0, 3.0, 6.0]])
    # Finalist means 2 and 4, seed means 2, 3, 4, grand mean 3; residuals: 0 1 -1 / 0 -1 1.
    variance, freedom = residual(scores)
    assert (float(variance), freedom) == (pytest.approx(2.0), 2)
    # t(0.975, 2) = 4.30265 from any table; 4.30265 x sqrt(2 x 2 / 3) = 4.96827.
    assert float(half_width(scores)) == pytest.approx(4.96827, abs=1e-4)


def test_two_finalists_are_scipys_paired_t() -> None:
    """With two finalists the pooled residual is the variance of the paired differences, halved."""
    one, other = [0.781, 0.785, 0.780, 0.786], [0.772, 0.779, 0.776, 0.774]
    verdict = recommend(confirmed({None: other, "t": one}))
    expected = stats.ttest_rel(one, other).confidence_interval(0.95)
    found = contrast(verdict, "t", None)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert verdict.seed_std == pytest.approx(np.std(np.subtract(one, other), ddof=1) / math.sqrt(2))


def test_row_interval_is_scipys_one_sample_t() -> None:
    scores = [0.781, 0.785, 0.780]
    row = recommend(confirmed({"t": scores, None: NOTHING})).ranking[0]
    expected = stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    assert (row.low, row.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert (row.teacher, row.seeds, row.confirmed_test_top1) == ("t", 3, pytest.approx(0.782))


def test_seed_noise_is_the_blocked_f_test() -> None:
    """Against the definition, by loops: F = finalist mean square / residual mean square."""
    rows = [NOTHING, [0.781, 0.780, 0.786], [0.779, 0.783, 0.781]]
    found = seed_noise(collect(confirmed({None: rows[0], "a": rows[1], "b": rows[2]})))
    grand = sum(map(sum, rows)) / 9
    means = [sum(row) / 3 for row in rows]
    seeds = [sum(row[column] for row in rows) / 3 for column in range(3)]
    left = sum((rows[i][j] - means[i] - seeds[j] + grand) ** 2 for i in range(3) for j in range(3)) / 4
    f = 3 * sum((mean - grand) ** 2 for mean in means) / 2 / left
    assert found == (pytest.approx(math.sqrt(left)), pytest.approx(stats.f.sf(f, 2, 4)))


def test_planted_winner() -> None:
    verdict = recommend(
        confirmed({"big": shifted(0.010), None: NOTHING, "right": shifted(0.020, (0.0004, 0, -0.0004))})
    )
    assert (verdict.verdict, verdict.teacher, verdict.versus_no_teacher) == ("winner", "right", "helps")
    assert verdict.params.teacher == "right"
    assert [row.teacher for row in verdict.ranking] == ["right", "big", None]
    assert "take teacher right with ISATS (target ratio 1.67), soft weight 0.5: 79.2 % test" in verdict.sentence
    assert "(3 seeds), +2.0 points over no teacher (95 % interval +1." in verdict.sentence


def test_a_clear_difference_below_the_threshold_names_no_winner() -> None:
    table = {"a": shifted(0.0115), "b": shifted(0.010), None: NOTHING}
    assert recommend(confirmed(table)).verdict == "no_clear_difference"
    assert recommend(confirmed(table), threshold=0.001).verdict == "winner"


def test_tie_takes_the_cheaper_teacher() -> None:
    """The factory's teachers grow in the order of the table, so the second is the dearer one."""
    verdict = recommend(
        confirmed({"small": shifted(0.0195), "large": shifted(0.020, (0.002, 0, -0.002)), None: NOTHING})
    )
    assert (verdict.verdict, verdict.teacher, verdict.versus_no_teacher) == ("no_clear_difference", "small", "helps")
    assert verdict.ranking[0].teacher == "large"
    assert "large and small" in verdict.sentence
    assert "take the cheaper one, teacher small" in verdict.sentence
    assert any("would take about" in reason for reason in verdict.reasons)


def test_a_cheap_teacher_that_does_not_help_is_no_way_out() -> None:
    table = {"cheap": shifted(0.0004), "dear": shifted(0.0017), None: NOTHING}
    verdict = recommend(confirmed(table))
    assert contrast(verdict, "cheap", None).high < 0.002
    assert (verdict.verdict, verdict.teacher) == ("no_clear_difference", "dear")


def test_no_help() -> None:
    verdict = recommend(confirmed({"a": shifted(-0.003), "b": shifted(-0.004), None: NOTHING}))
    assert (verdict.verdict, verdict.teacher, verdict.versus_no_teacher) == ("no_teacher", None, "does_not_help")
    assert verdict.params == TrialParams()
    assert "train it without one, 77.2 % test accuracy (3 seeds); the best teacher, a with" in verdict.sentence


def test_cannot_tell() -> None:
    verdict = recommend(confirmed({"a": [0.785, 0.770, 0.778], None: NOTHING}))
    assert (verdict.verdict, verdict.versus_no_teacher) == ("only_one", "cannot_tell")
    assert "cannot be told yet" in verdict.sentence


@pytest.mark.parametrize("table", [{"a": [0.78], "b": [0.79], None: [0.77]}, {"a": [0.78], "b": [0.79]}])
def test_one_seed_has_no_interval_and_says_so(table: dict[str | None, list[float | None]]) -> None:
    verdict = recommend(confirmed(table))
    assert (verdict.verdict, verdict.teacher, verdict.versus_no_teacher) == (
        "no_clear_difference",
        "a",
        "cannot_tell",
    )
    assert all(one.low is None and one.high is None for one in verdict.contrasts)
    assert verdict.seed_std is None
    assert any("gives no interval" in reason for reason in verdict.reasons)
    assert all(row.low is None for row in verdict.ranking)


def test_missing_runs_shrink_the_layout_to_the_shared_seeds() -> None:
    table = {"a": [0.790, 0.780, 0.784], None: [None, 0.770, 0.771], "b": [0.700, 0.781, 0.779]}
    verdict = recommend(confirmed(table))
    expected = np.array([[0.780, 0.784], [0.781, 0.779], [0.770, 0.771]])
    width = stats.t.ppf(0.975, 2) * math.sqrt(2 * float(residual(expected)[0]) / 2)
    found = contrast(verdict, "a", None)
    assert found.difference == pytest.approx(0.782 - 0.7705)
    assert found.high == pytest.approx(found.difference + width)
    assert "1 of 3 confirm runs of no teacher failed." in verdict.reasons


def test_a_finalist_with_one_run_left_stands_outside() -> None:
    verdict = recommend(confirmed({"a": shifted(0.02), "broken": [0.79, None, None], None: NOTHING}))
    assert contrast(verdict, "a", None).low is not None
    assert contrast(verdict, "a", "broken").low is None
    assert any("broken has a single confirm run" in reason for reason in verdict.reasons)


def test_failed_finalists_and_a_missing_baseline() -> None:
    verdict = recommend(confirmed({"a": shifted(0.02), "dead": [None, None, None]}))
    assert (verdict.verdict, verdict.teacher, verdict.versus_no_teacher) == ("only_one", "a", "cannot_tell")
    assert verdict.ranking[-1].teacher == "dead"
    assert verdict.ranking[-1].confirmed_test_top1 is None
    assert any("3 of 3 confirm runs of dead failed" in reason for reason in verdict.reasons)
    assert any("No run without a teacher" in reason for reason in verdict.reasons)


def test_single_teacher() -> None:
    verdict = recommend(confirmed({"only": shifted(0.02), None: NOTHING}))
    assert (verdict.verdict, verdict.teacher, verdict.versus_no_teacher) == ("only_one", "only", "helps")
    assert "the only one tried" in verdict.sentence


def test_unconfirmed_takes_the_best_full_search_run() -> None:
    record = study(20, seeds=0)
    best = max((one.full for one in record.trials if one.full), key=lambda full: full.val_top1)
    verdict = recommend(record)
    assert (verdict.verdict, verdict.teacher, verdict.params) == ("unconfirmed", best.params.teacher, best.params)
    assert verdict.sentence.startswith("Unconfirmed")
    assert all(row.confirmed_test_top1 is None and row.seeds == 0 for row in verdict.ranking)


def test_unconfirmed_with_all_confirm_runs_failed() -> None:
    assert recommend(confirmed({"a": [None], None: [0.77]})).verdict == "unconfirmed"


def test_unconfirmed_without_a_gain_trains_without_a_teacher() -> None:
    record = study(20, seeds=0).model_copy(update={"no_teacher": run("baselines/none", TrialParams(), val=0.95)})
    assert recommend(record).teacher is None
    assert "no teacher beat training without one (95.0 %" in recommend(record).sentence


def test_unconfirmed_on_short_runs_alone() -> None:
    record = study(20, state="pruned").model_copy(update={"plain_kd": None})
    best = max((one.short for one in record.trials if one.short), key=lambda short: short.val_top1)
    assert recommend(record).params == best.params
    assert "after 4 of 12 epochs" in recommend(record).sentence


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_ends_in_something_to_do(name: str) -> None:
    verdict = recommend(STUDIES[name]())
    assert verdict.sentence.endswith(".")
    assert any(word in verdict.sentence for word in ("take", "train it", "run the same command again"))
    assert verdict.teacher == verdict.params.teacher
    assert verdict.reasons


def test_search_scores_do_not_move_the_verdict() -> None:
    record = confirmed({"a": shifted(0.010), "b": shifted(0.020), None: NOTHING})
    boosted = tuple(one.model_copy(update={"search_val_top1": 0.99}) for one in record.finalists[:1])
    moved = record.model_copy(update={"finalists": boosted + record.finalists[1:], "trials": study(20).trials})
    assert recommend(moved).teacher == recommend(record).teacher == "b"
    assert recommend(moved).contrasts == recommend(record).contrasts


def test_a_teacher_that_the_record_lacks_counts_as_the_dearest() -> None:
    record = confirmed({"small": shifted(0.0195), "large": shifted(0.020, (0.002, 0, -0.002)), None: NOTHING})
    verdict = recommend(record.model_copy(update={"teachers": record.teachers[1:]}))
    assert verdict.teacher == "large"


def test_negative_threshold() -> None:
    with pytest.raises(ValueError, match="threshold"):
        recommend(bare({}), threshold=-0.1)


def test_seeds_to_settle_is_where_the_interval_first_excludes_zero() -> None:
    evidence = collect(confirmed({"a": shifted(0.012, (0.002, 0, -0.002)), "b": shifted(0.010), None: NOTHING}))
    noise = math.sqrt(float(residual(evidence.table)[0]))
    seeds = seeds_to_settle(evidence, 0.002)
    assert seeds is not None

    def width(n: int) -> float:
        return float(stats.t.ppf(0.975, 2 * (n - 1))) * noise * math.sqrt(2 / n)

    assert width(seeds) < 0.002 <= width(seeds - 1)
    assert seeds_to_settle(evidence, 1e-6) is None


def test_points_has_no_minus_zero() -> None:
    assert [points(value) for value in (-0.0004, 0.0, 0.0126, -0.003)] == ["+0.0", "+0.0", "+1.3", "-0.3"]


@pytest.mark.parametrize(("finalists", "seeds"), [(2, 3), (3, 2), (3, 3), (3, 8), (5, 4)])
def test_intervals_cover(finalists: int, seeds: int) -> None:
    """4,000 studies with seed effects larger than the noise: the 95 % interval holds the truth in 93 to 97 %."""
    draw = np.random.default_rng(finalists * 10 + seeds)
    truth = np.linspace(0, 0.01, finalists)
    shared = draw.normal(0, 0.006, size=(4000, 1, seeds))
    scores = truth[:, None] + shared + draw.normal(0, 0.003, size=(4000, finalists, seeds))
    difference = scores[:, -1].mean(axis=-1) - scores[:, 0].mean(axis=-1)
    covered = np.abs(difference - (truth[-1] - truth[0])) <= half_width(scores)
    assert 0.93 <= covered.mean() <= 0.97


def test_a_true_tie_seldom_has_a_winner() -> None:
    """200 studies of two equal teachers: a winner in about 5 %, never in 12 %."""
    draw = np.random.default_rng(3)
    named = 0
    for _ in range(200):
        scores = 0.78 + draw.normal(0, 0.003, size=(3, 3)) + draw.normal(0, 0.004, size=(1, 3))
        record = _quick({"a": scores[0], "b": scores[1], None: scores[2] - 0.02})
        named += recommend(record).verdict == "winner"
    assert named < 24


def _quick(table: dict[str | None, np.ndarray]) -> StudyRecord:
    names = {name: 0.9 for name in table if name}
    finalists = tuple(finalist(name, dict(enumerate(map(float, scores)))) for name, scores in table.items())
    return bare(names).model_copy(update={"finalists": finalists})
