import math

import numpy as np
import pytest
from factories import STUDIES, bare, confirmed, study, with_control, with_settings
from record_parts import failed_run, finalist, isats, kd, run, trial
from scipy import stats

from autodistill.formatting import points
from autodistill.records import Contrast, RaceRecord, Recommendation, StudyRecord, TeacherCostRecord, TrialParams
from autodistill.report.verdict import answer_info
from autodistill.stats import accuracy_error, compare, difference_error
from autodistill.stats.evidence import collect
from autodistill.stats.verdict import recommend

pytestmark = pytest.mark.slow

NOTHING = [0.770, 0.772, 0.774]


def contrast(verdict: Recommendation, teacher: str, versus: str | None) -> Contrast:
    return next(one for one in verdict.contrasts if (one.teacher, one.versus) == (teacher, versus))


def shifted(by: float, noise: tuple[float, ...] = (0.0, 0.0004, -0.0004)) -> list[float | None]:
    """The baseline's scores plus a gain, with residuals of its own."""
    return [score + by + extra for score, extra in zip(NOTHING, noise, strict=True)]


def test_two_finalists_are_scipys_paired_t() -> None:
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
    found = collect(confirmed({None: rows[0], "a": rows[1], "b": rows[2]}), threshold=0.002).seed_noise
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
    assert any("small is the cheaper one (MACs per image: " in reason for reason in verdict.reasons)


def test_a_tied_teacher_of_unknown_cost_comes_after_those_of_known_cost() -> None:
    record = confirmed({"table": shifted(0.0195), "large": shifted(0.020, (0.002, 0, -0.002)), None: NOTHING})
    unknown = TeacherCostRecord(params=None, macs=None, size_bytes=None)
    teachers = [it.model_copy(update={"cost": unknown}) if it.name == "table" else it for it in record.teachers]
    verdict = recommend(record.model_copy(update={"teachers": tuple(teachers)}))
    assert verdict.teacher == "large"
    assert "take the cheapest one of known cost, teacher large" in verdict.sentence
    assert any("table unknown" in reason for reason in verdict.reasons)
    both = tuple(it.model_copy(update={"cost": unknown}) for it in record.teachers)
    assert (
        "take one of them, because their costs are unknown"
        in recommend(record.model_copy(update={"teachers": both})).sentence
    )


def test_a_cheaper_teacher_behind_no_teacher_is_passed_over() -> None:
    """Its interval leaves open whether it helps, but its mean is below: a teacher whose mean is not comes first."""
    wide = (0.004, 0.0, -0.004)
    table = {"small": shifted(-0.0005, wide), "middle": shifted(0.001, wide[::-1]), "large": shifted(0.003)}
    verdict = recommend(confirmed({**table, None: NOTHING}))
    assert (verdict.verdict, verdict.teacher) == ("no_clear_difference", "middle")
    level = "teacher whose students were on average no worse than without a teacher"
    assert f": take the cheapest {level}, teacher middle with " in verdict.sentence
    assert any(reason.startswith(f"middle is the cheapest {level} (MACs per image: ") for reason in verdict.reasons)
    del table["large"]
    alone = recommend(confirmed({**table, None: NOTHING}))
    assert alone.teacher == "middle"
    assert f": take the only {level}, teacher middle with " in alone.sentence


def test_teachers_that_are_all_behind_no_teacher_are_said_to_be() -> None:
    wide = (0.004, 0.0, -0.004)
    table = {"small": shifted(-0.0007, wide), "large": shifted(-0.0005, wide[::-1]), None: NOTHING}
    verdict = recommend(confirmed(table))
    assert (verdict.verdict, verdict.teacher, verdict.versus_no_teacher) == ("no_teacher", None, "cannot_tell")
    assert verdict.sentence.startswith("No teacher was ahead of training on labels alone for ")
    assert verdict.sentence.endswith("so whether a teacher helps cannot be told yet.")
    assert answer_info(confirmed(table)).headline == "No teacher was ahead of labels alone"


def test_at_least_is_the_lower_end_at_the_level_of_naming() -> None:
    one, other = shifted(0.020, (0.002, 0, -0.002)), shifted(0.010)
    verdict = recommend(confirmed({"a": one, "b": other}))
    expected = stats.ttest_rel(one, other).confidence_interval(0.925)
    assert contrast(verdict, "a", "b").at_least == pytest.approx(expected.low)


def test_an_interval_of_half_the_scale_is_none() -> None:
    """Two seeds: t is 12.7, so differences of 0.06 and 0.12 give an interval 76 points wide."""
    verdict = recommend(confirmed({"a": [0.76, 0.82], None: [0.70, 0.70]}))
    found = contrast(verdict, "a", None)
    assert (found.low, found.high) == (None, None)
    assert found.at_least is not None
    assert verdict.ranking[0].low is None
    # Equal accuracies on 10,000 images: each may have been rounded by up to 0.005 points.
    half_width = stats.t.ppf(0.975, 1) * 1e-4 / math.sqrt(12 * 2)
    assert (verdict.ranking[1].low, verdict.ranking[1].high) == pytest.approx((0.70 - half_width, 0.70 + half_width))
    assert "+9.0 points against no teacher (interval wider than 50 points)" in verdict.sentence
    one = recommend(confirmed({"a": [0.79], None: [0.70]}))
    assert "+9.0 points against no teacher (too few seeds for an interval)" in one.sentence


def test_the_probability_of_being_best_is_shown_for_each_finalist() -> None:
    table = {"a": shifted(0.010), "b": shifted(0.0102, (0.001, 0, -0.001)), None: NOTHING}
    ranking = recommend(confirmed(table)).ranking
    assert sum(row.p_best or 0 for row in ranking) == pytest.approx(1)
    assert ranking[-1].p_best == pytest.approx(0, abs=0.01)
    assert 0.5 < (ranking[0].p_best or 0) < 0.9
    lone = recommend(confirmed({"a": [0.78], "b": [0.79]}))
    assert [row.p_best for row in lone.ranking] == [None, None]


def test_the_gap_between_search_and_confirmed_value_is_told_for_each_finalist() -> None:
    """The factory's validation scores lie 0.004 below test, its search scores are 0.8."""
    verdict = recommend(confirmed({"a": shifted(0.020), "b": shifted(0.010), None: NOTHING}))
    gaps = {row.teacher: row.search_gap for row in verdict.ranking}
    assert gaps["a"] == pytest.approx(0.8 - (0.772 + 0.020 - 0.004))
    assert gaps["b"] == pytest.approx(0.8 - (0.772 + 0.010 - 0.004))
    told = [reason for reason in verdict.reasons if reason.startswith("On validation, ")]
    assert "On validation, b had 80.0 % in the search and 77.8 % over the confirm seeds: +2.2 points" in told[1]


def test_the_test_sets_size_has_an_error_of_its_own() -> None:
    verdict = recommend(confirmed({"a": shifted(0.020), None: NOTHING}))
    assert verdict.ranking[0].sampling == pytest.approx(math.sqrt(0.792 * 0.208 / 10_000))
    assert contrast(verdict, "a", None).sampling == pytest.approx(difference_error(0.792, 0.772, images=10_000))
    assert any(
        "A test set of 10,000 images gives one accuracy a standard error of 0.4 points" in reason
        and reason.endswith("; the intervals do not include it.")
        for reason in verdict.reasons
    )


def test_sampling_errors_by_counting_images() -> None:
    """10 images, 8 and 6 right: where the errors overlap most, 2 images differ; where least, 6 do."""
    nested = [1] * 2 + [0] * 8
    apart = [1] * 4 + [-1] * 2 + [0] * 4
    assert difference_error(0.8, 0.6, images=10) == pytest.approx(
        [float(np.std(signs)) / math.sqrt(10) for signs in (nested, apart)]
    )
    assert accuracy_error(0.8, images=10) == pytest.approx(float(np.std([1] * 8 + [0] * 2)) / math.sqrt(10))


def raced(table: dict[str | None, list[float | None]], *, first: int = 3, seeds: int = 5) -> StudyRecord:
    """A race of five seeds each; None: a run that was not asked for."""
    record = confirmed(table)
    finalists = tuple(
        one.model_copy(update={"runs": tuple(run for run in one.runs if run.state == "complete")})
        for one in record.finalists
    )
    plan = record.plan.model_copy(update={"race": RaceRecord(first=first, seeds=seeds)})
    return record.model_copy(update={"finalists": finalists, "plan": plan})


def test_a_race_that_stops_early_decides_by_wider_intervals() -> None:
    """Nine of 15 runs: the first of up to three looks on the way, 0.05 x 0.1 / 3 of the error probability."""
    table = {"a": shifted(0.020), "b": shifted(0.010, (0.0004, 0, -0.0004)), None: NOTHING}
    at_once, early = recommend(confirmed(table)), recommend(raced(table))
    wide, narrow = contrast(early, "a", "b"), contrast(at_once, "a", "b")
    assert (wide.low, wide.high) == (narrow.low, narrow.high)
    assert wide.at_least < narrow.at_least
    assert any("6 of 15 runs were not needed" in r and "by 99.83 % intervals" in r for r in early.reasons)
    pairs = compare(np.array(list(table.values())))
    expected = pairs.difference[0, 1] - pairs.half_width(1 - 0.075 * 0.1 / 3)[0, 1]
    assert wide.at_least == pytest.approx(expected)


def test_a_race_that_spends_all_decides_by_nearly_the_whole_error() -> None:
    longer = [0.771, 0.773, 0.772]
    table = {
        "a": [*shifted(0.020), *(score + 0.020 for score in longer)],
        "b": [*shifted(0.0195), *(score + 0.0195 for score in longer)],
        None: [*NOTHING, None, None, None],
    }
    verdict = recommend(raced(table))
    assert verdict.verdict == "no_clear_difference"
    assert any("all 15 runs went" in r and "by 95.50 % intervals" in r for r in verdict.reasons)


def test_a_single_teacher_never_races() -> None:
    verdict = recommend(raced({"a": shifted(0.020), None: NOTHING}))
    assert not any("raced" in reason for reason in verdict.reasons)


def test_of_tied_teachers_one_that_is_known_to_help_comes_before_a_cheaper_one() -> None:
    found = recommend(
        confirmed({"cheap": [0.976, 0.984, 0.972], "dear": [0.980, 0.983, 0.982], None: [0.958, 0.974, 0.970]})
    )
    assert (found.verdict, found.teacher, found.versus_no_teacher) == ("no_clear_difference", "dear", "helps")
    assert "take the only teacher that is known to help, teacher dear" in found.sentence


def test_a_cheap_teacher_that_does_not_help_is_no_way_out() -> None:
    table = {"cheap": shifted(0.0004), "dear": shifted(0.0017), None: NOTHING}
    verdict = recommend(confirmed(table))
    assert contrast(verdict, "cheap", None).high < 0.002
    assert (verdict.verdict, verdict.teacher) == ("no_clear_difference", "dear")


def test_no_help() -> None:
    verdict = recommend(confirmed({"a": shifted(-0.003), "b": shifted(-0.004), None: NOTHING}))
    assert (verdict.verdict, verdict.teacher, verdict.versus_no_teacher) == ("no_teacher", None, "does_not_help")
    assert verdict.params == TrialParams()
    assert "train it without a teacher, 77.2 % test accuracy (3 seeds); the best teacher, a with" in verdict.sentence


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


def test_a_missing_run_costs_its_own_pairs_a_seed() -> None:
    table = {"a": [0.790, 0.780, 0.784], None: [None, 0.770, 0.771], "b": [0.785, 0.781, 0.779]}
    verdict = recommend(confirmed(table))
    rows = np.array([[math.nan if score is None else score for score in scores] for scores in table.values()])
    pairs = compare(rows)
    found = contrast(verdict, "a", None)
    assert found.difference == pytest.approx((0.780 - 0.770 + 0.784 - 0.771) / 2)
    assert found.high == pytest.approx(found.difference + pairs.half_width(0.95)[0, 1])
    assert contrast(verdict, "a", "b").difference == pytest.approx((0.005 - 0.001 + 0.005) / 3)
    assert "1 of 3 confirm runs of no teacher failed." in verdict.reasons
    assert any("3 finalists x 3 seeds, 1 run missing" in reason for reason in verdict.reasons)


def test_finalists_rank_by_what_they_are_worth_not_by_lucky_seeds() -> None:
    """b is 0.002 better on every seed that both have; a missed the bad one."""
    good, bad = 0.79, 0.75
    table = {"a": [good, good, None], "b": [good + 0.002, good + 0.002, bad], None: [0.77, 0.771, 0.73]}
    verdict = recommend(confirmed(table))
    assert [row.teacher for row in verdict.ranking] == ["b", "a", None]
    assert verdict.ranking[1].confirmed_test_top1 == pytest.approx(good)


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
    assert "no teacher beat training without a teacher (95.0 %" in recommend(record).sentence


def test_unconfirmed_on_short_runs_alone() -> None:
    record = study(20, state="pruned").model_copy(update={"plain_kd": None})
    best = max((one.rung for one in record.trials if one.rung), key=lambda short: short.val_top1)
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


def test_what_would_settle_it_is_data_and_words() -> None:
    table = {"a": shifted(0.014, (0.003, 0, -0.003)), "b": shifted(0.010), None: NOTHING}
    verdict = recommend(confirmed(table))
    assert verdict.verdict == "no_clear_difference"
    pair, gain = verdict.seeds_to_settle[0], verdict.seeds_to_settle[1:]
    assert (pair.teacher, pair.versus, gain) == ("a", "b", ())
    assert pair.seeds is not None
    assert 3 < pair.seeds < 50
    assert f"To tell a from b would take about {pair.seeds} seeds, at the measured difference and noise." in (
        verdict.reasons
    )
    unclear = recommend(confirmed({"a": [0.785, 0.770, 0.778], None: NOTHING}))
    assert [(one.teacher, one.versus) for one in unclear.seeds_to_settle] == [("a", None)]
    close = recommend(confirmed({"a": shifted(0.0115, (0.001, 0, -0.001)), "b": shifted(0.010), None: NOTHING}))
    assert [one.seeds for one in close.seeds_to_settle] == [None]
    assert any("it lies within the 0.2 points that count" in reason for reason in close.reasons)


# Teachers or configurations

WON = {"right": shifted(0.020, (0.0004, 0, -0.0004)), "big": shifted(0.010), None: NOTHING}
SEEDS = (1000, 1001, 1002)


def own_settings(table: dict[str | None, list[float | None]], *names: str) -> StudyRecord:
    """A study in which these teachers' finalists have plain KD and all others ISATS."""
    return with_settings(confirmed(table), {name: kd(name) for name in names})


def searched(record: StudyRecord, *params: TrialParams) -> StudyRecord:
    trials = tuple(trial(number, one, state="complete", score=0.7) for number, one in enumerate(params))
    return record.model_copy(update={"trials": trials})


def test_a_winner_with_equal_settings_is_about_teachers() -> None:
    verdict = recommend(confirmed(WON))
    assert (verdict.verdict, verdict.basis) == ("winner", "teachers")
    assert contrast(verdict, "right", "big").basis == "teachers"
    assert [contrast(verdict, name, None).basis for name in ("right", "big")] == [None, None]
    assert answer_info(confirmed(WON)).headline == "A clear winner"
    assert verdict.sentence.endswith(" points over no teacher (95 % interval +1.9 to +2.1).")
    assert "settings" not in " ".join((verdict.sentence, *verdict.reasons))
    assert verdict.reasons[0].startswith("right against big: +1.0 points (95 % interval ")
    assert verdict.reasons[0].endswith("): told apart.")


def test_a_winner_whose_rival_never_had_its_settings_is_about_configurations() -> None:
    record = own_settings(WON, "right")
    equal, verdict = recommend(confirmed(WON)), recommend(record)
    assert (verdict.verdict, verdict.teacher, verdict.basis) == ("winner", "right", "configurations")
    found, before = contrast(verdict, "right", "big"), contrast(equal, "right", "big")
    assert found.basis == "configurations"
    assert found.model_copy(update={"basis": "teachers"}) == before, "the figures are the same"
    assert verdict.sentence == (
        equal.sentence.replace(
            "ISATS (target ratio 1.67), soft weight 0.5", "TS (tau 4, tau student 4), soft weight 0.9"
        )
        + " These settings of right beat those of big; these teachers were not compared with equal settings."
    )
    assert answer_info(record).headline == "A clear winner among configurations"
    assert verdict.reasons[0].startswith("right against big, each with its own settings: +1.0 points (95 % interval ")
    assert verdict.reasons[0].endswith("): told apart.")
    assert verdict.reasons[1] == (
        "big was not trained in full with TS (tau 4, tau student 4), soft weight 0.9, so the difference may come from "
        "the settings. To compare the teachers with equal settings takes 3 more runs over the confirm seeds; from a "
        "budget of 40 on they are part of the study."
    )


def test_a_winner_whose_rival_was_no_better_with_its_settings_is_about_teachers() -> None:
    record = searched(own_settings(WON, "right"), kd("big"))
    verdict = recommend(record)
    assert (verdict.verdict, verdict.basis) == ("winner", "teachers")
    assert contrast(verdict, "right", "big").basis == "teachers"
    assert verdict.sentence.endswith(" points over no teacher (95 % interval +1.9 to +2.1).")
    assert answer_info(record).headline == "A clear winner"
    assert verdict.reasons[0].startswith("right against big: +1.0 points")


def test_a_winners_sentence_names_the_rivals_without_its_settings_only() -> None:
    table = {**WON, "small": shifted(0.008), "tiny": shifted(0.006)}
    record = searched(own_settings(table, "right"), kd("small"))
    verdict = recommend(record)
    assert (verdict.verdict, verdict.basis) == ("winner", "configurations")
    assert " These settings of right beat those of big and tiny; " in verdict.sentence
    pairs = {other: contrast(verdict, "right", other).basis for other in ("big", "small", "tiny")}
    assert pairs == {"big": "configurations", "small": "teachers", "tiny": "configurations"}
    assert [reason.split(":")[0] for reason in verdict.reasons[:5]] == [
        "right against big, each with its own settings",
        next(reason for reason in verdict.reasons if reason.startswith("big was not trained")),
        "right against small",
        "right against tiny, each with its own settings",
        next(reason for reason in verdict.reasons if reason.startswith("tiny was not trained")),
    ]


def test_a_control_decides_whether_a_winner_is_about_teachers() -> None:
    """big has 0.782 with its own settings."""
    record = own_settings(WON, "right")
    no_better = recommend(with_control(record, kd("big"), dict.fromkeys(SEEDS, 0.781)))
    assert (no_better.verdict, no_better.basis) == ("winner", "teachers")
    assert "not compared" not in no_better.sentence
    still_behind = recommend(with_control(record, kd("big"), dict.fromkeys(SEEDS, 0.785)))
    assert (still_behind.verdict, still_behind.basis) == ("winner", "teachers")
    (right,) = [one for one in record.finalists if one.teacher == "right"]
    level = {run.seed: run.test_top1 for run in right.runs}
    better = recommend(with_control(record, kd("big"), level))
    assert (better.verdict, better.basis) == ("winner", "configurations")
    assert better.reasons[1] == (
        "With the settings of right, TS (tau 4, tau student 4), soft weight 0.9, big was better than with its own "
        "(fair controls): part of the difference comes from the settings."
    )


def test_a_rival_with_a_better_control_was_compared_with_equal_settings() -> None:
    record = with_control(own_settings(WON, "right"), kd("big"), dict.fromkeys(SEEDS, 0.783))
    assert "these teachers were not compared with equal settings" not in recommend(record).sentence


@pytest.mark.parametrize(
    ("params", "scores", "reason"),
    [
        (isats("big"), (0.782, 0.782, 0.782), "big was not trained in full with TS (tau 4, tau student 4)"),
        (kd("big"), (None, None, None), "big failed with TS (tau 4, tau student 4)"),
    ],
    ids=["of other settings", "failed"],
)
def test_a_control_that_says_nothing_about_a_pair_is_not_named(
    params: TrialParams, scores: tuple[float | None, ...], reason: str
) -> None:
    """The shared control has other settings, or its runs failed."""
    record = with_control(own_settings(WON, "right"), params, dict(zip(SEEDS, scores, strict=True)))
    verdict = recommend(record)
    assert verdict.basis == "configurations"
    assert verdict.reasons[1].startswith(reason)
    assert not any("was better than with its own" in reason for reason in verdict.reasons)
    assert not any("budget of 40" in reason for reason in verdict.reasons), "it has controls"


def test_of_a_tie_only_the_tied_teachers_say_what_it_is_about() -> None:
    tied = {"small": shifted(0.0195), "large": shifted(0.020, (0.002, 0, -0.002)), None: NOTHING}
    behind = {**tied, "last": shifted(0.002)}
    equal = recommend(confirmed(tied))
    assert (equal.verdict, equal.basis) == ("no_clear_difference", "teachers")
    other = own_settings(tied, "small")
    verdict = recommend(other)
    assert (verdict.verdict, verdict.basis) == ("no_clear_difference", "configurations")
    assert verdict.reasons[0].startswith("large against small, each with its own settings: ")
    assert verdict.reasons[1].startswith(
        "small was not trained in full with ISATS (target ratio 1.67), soft weight 0.5"
    )
    assert answer_info(other).headline == "No clear difference"
    told_apart = recommend(own_settings(behind, "last"))
    assert (told_apart.verdict, told_apart.basis) == ("no_clear_difference", "teachers")
    assert contrast(told_apart, "large", "last").basis == "configurations"


def test_what_the_better_of_a_pair_tried_counts_for_no_pair() -> None:
    """large, which is ahead, was trained with the settings of small, but small not with those of large."""
    tied = {"small": shifted(0.0195), "large": shifted(0.020, (0.002, 0, -0.002)), None: NOTHING}
    record = own_settings(tied, "small")
    assert recommend(searched(record, kd("large"))).basis == "configurations"
    assert recommend(searched(record, isats("small"))).basis == "teachers"


@pytest.mark.parametrize(
    ("record", "verdict"),
    [
        (confirmed({"only": shifted(0.02), None: NOTHING}), "only_one"),
        (own_settings({"a": shifted(-0.003), "b": shifted(-0.004), None: NOTHING}, "a"), "no_teacher"),
        (confirmed({"a": [None], None: [0.77]}), "unconfirmed"),
        (bare({}), "unconfirmed"),
    ],
)
def test_a_verdict_without_a_comparison_of_teachers_has_no_basis(record: StudyRecord, verdict: str) -> None:
    found = recommend(record)
    assert (found.verdict, found.basis) == (verdict, None)
    assert "equal settings" not in found.sentence


def test_one_seed_compares_teachers_or_configurations_too() -> None:
    table: dict[str | None, list[float | None]] = {"a": [0.78], "b": [0.79], None: [0.77]}
    assert contrast(recommend(confirmed(table)), "b", "a").basis == "teachers"
    record = own_settings(table, "b")
    verdict = recommend(record)
    assert (verdict.verdict, verdict.basis) == ("no_clear_difference", "configurations")
    assert contrast(verdict, "b", "a").basis == "configurations"
    assert contrast(verdict, "b", None).basis is None
    assert " takes 1 more run over the confirm seeds" in verdict.reasons[1]


def test_points_has_no_minus_zero() -> None:
    assert [points(value) for value in (-0.0004, 0.0, 0.0126, -0.003)] == ["+0.0", "+0.0", "+1.3", "-0.3"]


def test_a_true_tie_seldom_has_a_winner() -> None:
    """200 studies of two equal teachers: a winner in under 5 %, never in 8 %."""
    draw = np.random.default_rng(3)
    named = 0
    for _ in range(200):
        scores = 0.78 + draw.normal(0, 0.003, size=(3, 3)) + draw.normal(0, 0.004, size=(1, 3))
        record = _quick({"a": scores[0], "b": scores[1], None: scores[2] - 0.02})
        named += recommend(record).verdict == "winner"
    assert named < 16


def _quick(table: dict[str | None, np.ndarray]) -> StudyRecord:
    names = {name: 0.9 for name in table if name}
    finalists = tuple(finalist(name, dict(enumerate(map(float, scores)))) for name, scores in table.items())
    return bare(names).model_copy(update={"finalists": finalists})


def test_a_rival_that_failed_with_the_settings_of_the_winner_is_said_to_have_failed():
    record = confirmed({"big": [0.7, 0.7, 0.7], "right": [0.8, 0.8, 0.8], None: [0.5, 0.5, 0.5]})
    record = with_settings(record, {"big": isats(None), "right": kd("right")})
    failed = failed_run("reruns/shared-1-5", kd("big"))
    verdict = recommend(record.model_copy(update={"reruns": (failed,)}))
    assert verdict.basis == "configurations"
    assert any(it.startswith("big failed with TS (tau 4, tau student 4), soft weight 0.9") for it in verdict.reasons)
