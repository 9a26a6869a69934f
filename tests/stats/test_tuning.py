"""Which settings teachers have in common, and whether two finalists compare teachers or configurations."""

from collections.abc import Sequence

import pytest
from factories import bare, confirmed, with_control, with_settings
from record_parts import failed_run, isats, kd, run, trial

from autodistill.records import Basis, RunResult, StudyRecord, TrialParams
from autodistill.stats.tuning import basis, common_settings

ISATS = isats(None)
KD = kd("any").model_copy(update={"teacher": None})
SEEDS = (1000, 1001, 1002)


def searched(*scores: tuple[TrialParams, float]) -> StudyRecord:
    """A study of three teachers by the full runs of its trials: configurations with their validation accuracy."""
    done = [trial(number, params, state="complete", score=score) for number, (params, score) in enumerate(scores)]
    return bare({"a": 0.8, "b": 0.8, "c": 0.8}).model_copy(update={"trials": tuple(done)})


# Common settings


@pytest.mark.parametrize(
    "record",
    [
        bare({}),
        searched((isats("a"), 0.7)),
        searched((isats("a"), 0.7), (isats("a"), 0.8)),
        searched((isats("a"), 0.7), (kd("b"), 0.8), (isats("c", ratio=2.0), 0.9)),
        searched((isats("a"), 0.7), (isats("b", soft_weight=0.4), 0.8)),
    ],
)
def test_without_two_teachers_of_equal_settings_there_are_no_common_settings(record: StudyRecord) -> None:
    assert common_settings(record) is None


def test_only_full_runs_that_ended_with_a_teacher_count() -> None:
    record = searched((isats("a"), 0.7))
    others = (
        trial(1, isats("b"), state="pruned", score=0.8),
        trial(2, isats("b"), state="failed", score=0.8),
        trial(3, isats("b"), state="complete", score=0.8).model_copy(
            update={"full": failed_run("trials/0003/full", isats("b")).model_copy(update={"curve": ()})}
        ),
    )
    alone = run("baselines/none", ISATS, val=0.8)
    update = {"trials": (*record.trials, *others), "plain_kd": alone, "no_teacher": alone}
    assert common_settings(record.model_copy(update=update)) is None


def test_settings_of_more_teachers_come_before_those_of_higher_accuracy() -> None:
    scores = [(isats(name), 0.70) for name in "abc"] + [(kd(name), 0.90) for name in "ab"]
    for order in (scores, scores[::-1]):
        found = common_settings(searched(*order))
        assert found is not None
        assert found.settings == ISATS
        assert found.top1 == {"a": 0.70, "b": 0.70, "c": 0.70}
        assert found.runs == 1


def test_of_settings_with_equally_many_teachers_those_of_the_highest_mean_are_taken() -> None:
    """0.75 on average with one settings, 0.76 with the other, which does not have the best run."""
    scores = [(isats("a"), 0.70), (isats("b"), 0.80), (kd("a"), 0.76), (kd("b"), 0.76)]
    for order in (scores, scores[::-1]):
        found = common_settings(searched(*order))
        assert found is not None
        assert (found.settings, found.top1) == (KD, {"a": 0.76, "b": 0.76})


def test_the_accuracy_of_a_teacher_is_the_mean_of_its_runs_and_many_runs_weigh_no_more() -> None:
    """Over teachers 0.755 and 0.752; over runs it would be 0.735 and 0.752."""
    scores = [(isats("a"), 0.70), (isats("a"), 0.72), (isats("a"), 0.71), (isats("b"), 0.80)]
    found = common_settings(searched(*scores, (kd("a"), 0.752), (kd("b"), 0.752)))
    assert found is not None
    assert (found.settings, found.runs) == (ISATS, 3)
    assert found.top1 == {"a": pytest.approx(0.71), "b": pytest.approx(0.80)}


def test_runs_of_plain_kd_and_reruns_are_runs_of_the_search() -> None:
    record = searched((isats("a"), 0.7))
    rerun = run("reruns/shared-1-5", kd("b"), val=0.76)
    record = record.model_copy(update={"plain_kd": run("baselines/kd", kd("a"), val=0.74), "reruns": (rerun,)})
    found = common_settings(record)
    assert found is not None
    assert (found.settings, found.top1, found.runs) == (KD, {"a": 0.74, "b": 0.76}, 1)


def test_a_run_that_is_listed_twice_counts_once() -> None:
    """The first trial of a is the study's plain KD: 0.70 and 0.80 are 0.75, with 0.70 twice 0.733."""
    record = searched((kd("a"), 0.70), (kd("b"), 0.78), (kd("a"), 0.80))
    found = common_settings(record.model_copy(update={"plain_kd": record.trials[0].full}))
    assert found is not None
    assert found.top1 == {"a": pytest.approx(0.75), "b": 0.78}
    assert found.runs == 2


def test_the_order_of_parameters_makes_no_other_settings() -> None:
    one, other = isats("a"), isats("b")
    one = one.model_copy(update={"method_params": {"x": 1.0, "y": 2.0}})
    other = other.model_copy(update={"method_params": {"y": 2.0, "x": 1.0}})
    found = common_settings(searched((one, 0.7), (other, 0.8)))
    assert found is not None
    assert found.top1 == {"a": 0.7, "b": 0.8}


# What a difference is evidence about


def finished(ahead: TrialParams, behind: TrialParams, search: Sequence[tuple[TrialParams, float]] = ()) -> StudyRecord:
    """A study in which teacher b with 0.79, 0.79 and 0.79 is ahead of teacher a with 0.78, 0.77 and 0.76."""
    record = confirmed({"a": [0.78, 0.77, 0.76], "b": [0.79, 0.79, 0.79], None: [0.7, 0.7, 0.7]})
    record = with_settings(record, {"a": behind, "b": ahead})
    return record.model_copy(update={"trials": searched(*search).trials})


def told(record: StudyRecord) -> Basis:
    behind, ahead, _ = record.finalists
    return basis(record, ahead, behind, threshold=0.002)


def test_finalists_of_equal_settings_compare_teachers() -> None:
    assert told(finished(ISATS, ISATS)) == "teachers"
    assert told(finished(ISATS, isats(None, ratio=2.0))) == "configurations"


def with_rerun(record: StudyRecord, one: RunResult) -> StudyRecord:
    return record.model_copy(update={"reruns": (one,)})


def test_a_teacher_that_was_trained_with_the_settings_of_the_one_ahead_is_compared() -> None:
    never = finished(KD, ISATS, [(isats("a"), 0.75), (kd("b"), 0.79)])
    assert told(never) == "configurations"
    in_a_trial = finished(KD, ISATS, [(isats("a"), 0.75), (kd("a"), 0.74)])
    in_a_rerun = with_rerun(never, run("reruns/shared-0-5", kd("a"), val=0.74))
    as_plain_kd = never.model_copy(update={"plain_kd": run("baselines/kd", kd("a"), val=0.74)})
    assert [told(one) for one in (in_a_trial, in_a_rerun, as_plain_kd)] == ["teachers"] * 3


def test_settings_that_were_not_trained_to_the_end_compare_nothing() -> None:
    record = finished(KD, ISATS)
    pruned = (trial(0, kd("a"), state="pruned", score=0.8), trial(1, kd("a"), state="failed", score=0.8))
    assert told(record.model_copy(update={"trials": pruned})) == "configurations"
    without_score = failed_run("baselines/kd", kd("a")).model_copy(update={"curve": ()})
    assert told(record.model_copy(update={"plain_kd": without_score})) == "configurations"


def test_what_the_teacher_ahead_tried_of_the_other_is_no_comparison() -> None:
    assert told(finished(KD, ISATS, [(isats("b"), 0.7), (isats("c"), 0.7), (kd("c"), 0.7)])) == "configurations"


def test_nearly_the_same_settings_compare_nothing() -> None:
    near = kd("a").model_copy(update={"soft_weight": 0.89})
    student = kd("a").model_copy(update={"tau_student": 1.0})
    assert told(finished(KD, ISATS, [(near, 0.7), (student, 0.7)])) == "configurations"


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.770, 0.770, 0.769], "teachers"),  # mean 0.7697 against 0.77
        ([0.770, 0.770, 0.770], "teachers"),  # 0.77: no better
        ([0.771, 0.771, 0.771], "teachers"),  # better by less than the 0.2 points that count
        ([0.780, 0.781, 0.779], "teachers"),  # better, but still a whole point behind 0.79: told apart from it too
        ([0.790, 0.785, 0.788], "configurations"),  # level with 0.79
    ],
)
@pytest.mark.parametrize("tried", [[], [(kd("a"), 0.7)]])
def test_a_control_with_the_settings_of_the_one_ahead_decides(
    scores: list[float], expected: Basis, tried: list[tuple[TrialParams, float]]
) -> None:
    record = finished(KD, ISATS, tried)
    assert told(with_control(record, kd("a"), dict(zip(SEEDS, scores, strict=True)))) == expected


def test_a_control_is_compared_over_the_seeds_that_both_have() -> None:
    """Its two seeds have 0.774 on average: above a's 0.77 over three seeds, below its 0.775 over these two."""
    record = finished(KD, ISATS)
    assert told(with_control(record, kd("a"), {1000: 0.774, 1001: 0.774})) == "teachers"
    assert told(with_control(record, kd("a"), {1000: 0.790, 1001: 0.780})) == "configurations"
    assert told(with_control(record, kd("a"), {1000: 0.774, 1001: 0.774, 1002: None, 1003: 0.9})) == "teachers"


def test_other_controls_decide_nothing() -> None:
    better = dict.fromkeys(SEEDS, 0.99)
    tried, never = finished(KD, ISATS, [(kd("a"), 0.7)]), finished(KD, ISATS)
    others = [("default", kd("a")), ("own", kd("a")), ("shared", kd("b")), ("shared", isats("a", ratio=3.0))]
    for regime, params in others:
        assert told(with_control(tried, params, better, regime=regime)) == "teachers"
        assert told(with_control(never, params, dict.fromkeys(SEEDS, 0.5), regime=regime)) == "configurations"


def test_a_control_without_a_run_is_no_comparison() -> None:
    assert told(with_control(finished(KD, ISATS), kd("a"), dict.fromkeys(SEEDS))) == "configurations"
    assert told(with_control(finished(KD, ISATS), kd("a"), {1003: 0.5})) == "configurations"
