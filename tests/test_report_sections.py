"""What the sections say, against figures worked out by hand."""

from typing import Any

import pytest
from factories import LADDER, bare, confirmed, study
from record_parts import failed_run, finalist, isats, kd, run, targets, trial
from scipy.stats import spearmanr

from autodistill.formatting import EMPTY
from autodistill.records import RaceRecord, TrialParams
from autodistill.report.method import budget_info, citations, environment_info, limits_info, method_info, timing_info
from autodistill.report.parts import Section, rank_correlation
from autodistill.report.trials import MAX_CURVES, MAX_POINTS, curves_info, failures_info, trials_info
from autodistill.report.verdict import leaderboard_info, mismatch_info
from autodistill.stats.verdict import recommend


def drawn(section: Section) -> tuple[Any, ...]:
    """Return what the chart of a section draws."""
    return section.figure.draw.args


def test_leaderboard_by_hand() -> None:
    record = study(20)
    table = leaderboard_info(record).table
    rows = {row.cells[0].text: [cell.text for cell in row.cells] for row in table.rows}
    assert list(rows)[-2:] == ["no teacher", "plain KD"]
    best = max(one.full.val_top1 for one in record.trials if one.full and one.params.teacher == "ladder-m")
    assert rows["ladder-m"][1:5] == ["85.8 %", "24 k", "5", f"{100 * best:.1f} %"]
    verdict = recommend(record)
    top = verdict.ranking[0]
    assert rows[top.teacher][5] == f"{100 * top.confirmed_test_top1:.1f} %"
    assert [column.label for column in table.columns][6] == "P(best)"
    assert rows[top.teacher][6] == f"{top.p_best:.2f}"
    assert rows["no teacher"][6] == "< 0.01"
    assert rows["plain KD"][6] == EMPTY
    assert table.rows[0].cells[0].text == top.teacher
    assert [row.cells[0].text for row in table.rows if row.mark == "pick"] == [verdict.teacher]
    kd = table.rows[-1].cells
    in_use = table.rows[0].cells[8].below
    assert in_use.startswith("in use: tau target ")
    assert (kd[5].below, kd[8].text) == ("unconfirmed, 1 run", "TS (tau 4, tau student 4), soft weight 0.9")


def test_why_an_interval_is_missing() -> None:
    record = confirmed({"a": [0.76, 0.82], None: [0.70, 0.70]})
    cells = leaderboard_info(record).table.rows[0].cells
    assert (cells[5].text, cells[5].below) == ("79.0 %", "interval wider than 50 points, 2 seeds")
    assert cells[7].below == "interval wider than 50 points"
    cells = leaderboard_info(confirmed({"a": [0.76], None: [0.70]})).table.rows[0].cells
    assert (cells[5].text, cells[5].below) == ("76.0 %", "too few seeds, 1 seed")
    assert cells[7].below == "too few seeds"


def test_a_race_is_explained_where_there_was_one() -> None:
    record = confirmed({None: [0.7, 0.71, 0.72], "a": [0.8, 0.81, 0.82], "b": [0.75, 0.76, 0.77]})
    plan = record.plan.model_copy(update={"race": RaceRecord(first=3, seeds=5)})
    assert "Racing" not in dict(method_info(record).terms)
    assert "over 3 confirm seeds" in dict(method_info(record.model_copy(update={"plan": plan})).terms)["Racing"]


def test_mismatch_by_hand() -> None:
    scores = {"ladder-s": 0.77, "ladder-m": 0.79, "ladder-l": 0.78, "ladder-xl": 0.76}
    trials = [
        trial(number, isats(name), state="complete", score=val) for number, (name, val) in enumerate(scores.items())
    ]
    record = study(0).model_copy(update={"trials": tuple(trials), "plain_kd": None})
    info = mismatch_info(record)
    # Teacher ranks 1 2 3 4, student ranks 2 4 3 1: 1 - 6 (1 + 4 + 0 + 9) / (4 x 15) = -0.4.
    assert info.figure.finding == (
        "With equal settings, the most accurate teacher, ladder-xl (91.1 %), made student 4 of 4, 3.0 points below the "
        "best (Spearman -0.40 over 4 teachers)."
    )
    assert info.note == (
        "All students have the same settings: ISATS (target ratio 1.67), soft weight 0.5. Each of 4 points is one run "
        "on validation; its seed noise was not measured. With the number of parameters the Spearman correlation is "
        "-0.40."
    )
    assert info.figure.table.caption == "Teacher accuracy and its student with equal settings, on validation"
    columns = [column.label for column in info.figure.table.columns]
    assert columns == ["Teacher", "Teacher accuracy", "Student", "Own best settings, test", "Params", "Teacher MACs"]
    rows = [[cell.text for cell in row.cells[:4]] for row in info.figure.table.rows]
    assert rows[0] == ["ladder-s", "70.2 %", "77.0 %", EMPTY]
    assert [row[2] for row in rows] == ["77.0 %", "79.0 %", "78.0 %", "76.0 %"]


def test_the_mismatch_is_one_of_teachers_with_equal_settings() -> None:
    """Of four teachers three have plain KD in common. Better runs with other settings count for nothing."""
    scores = [(kd("ladder-s"), 0.77), (kd("ladder-m"), 0.76), (kd("ladder-m"), 0.75), (isats("ladder-m"), 0.9)]
    trials = [trial(number, params, state="complete", score=val) for number, (params, val) in enumerate(scores)]
    trials.append(trial(4, isats("ladder-l"), state="complete", score=0.95))
    baseline = run("baselines/kd", kd("ladder-xl"), val=0.78)
    record = study(0).model_copy(update={"trials": tuple(trials), "plain_kd": baseline})
    info = mismatch_info(record)
    rows = {row.cells[0].text: row.cells[2].text for row in info.figure.table.rows}
    # ladder-m: (0.76 + 0.75) / 2.
    assert rows == {"ladder-s": "77.0 %", "ladder-m": "75.5 %", "ladder-xl": "78.0 %"}
    assert info.figure.finding == (
        "With equal settings, the most accurate teacher, ladder-xl (91.1 %), made the best student (Spearman +0.50 "
        "over 3 teachers)."
    )
    assert info.note == (
        "All students have the same settings: TS (tau 4, tau student 4), soft weight 0.9. Each of 3 points is the mean "
        "of up to 2 runs on validation; its seed noise was not measured. 1 teacher had no full run with these "
        "settings. With the number of parameters the Spearman correlation is +0.50."
    )
    assert [(one.name, student) for one, student in drawn(info)[0]] == [
        ("ladder-s", 0.77),
        ("ladder-m", pytest.approx(0.755)),
        ("ladder-xl", 0.78),
    ]


def test_without_common_settings_there_is_no_mismatch() -> None:
    apart = [trial(n, isats(name, ratio=1 + n), state="complete", score=0.7) for n, name in enumerate(LADDER)]
    info = mismatch_info(study(20).model_copy(update={"trials": tuple(apart), "plain_kd": None}))
    assert (info.figure, info.table) == (None, None)
    assert info.note == (
        "Capacity mismatch is shown for two or more teachers that were trained in full with the same settings."
    )
    assert mismatch_info(bare({})).note == info.note
    equal = tuple(trial(n, isats(name), state="complete", score=0.7) for n, name in enumerate(LADDER))
    unlisted = study(20).model_copy(update={"trials": equal, "teachers": ()})
    assert mismatch_info(unlisted).note == info.note


@pytest.mark.parametrize(("noises", "within"), [(2.8, True), (2.9, False)])
def test_a_mismatch_within_seed_noise_is_said_to_be(noises: float, within: bool) -> None:
    """Two runs differ by less than twice the deviation of a difference, 2 x sqrt(2) = 2.83 times that of a run."""
    record = study(20)
    noise = recommend(record).seed_std
    assert noise is not None
    scores = {"ladder-s": 0.7, "ladder-l": 0.78, "ladder-xl": 0.78 - noises * noise}
    trials = [trial(n, isats(name), state="complete", score=val) for n, (name, val) in enumerate(scores.items())]
    info = mismatch_info(record.model_copy(update={"trials": tuple(trials), "plain_kd": None}))
    place = f"made student 2 of 3, {100 * noises * noise:.1f} points below the best"
    assert f"{place}, which is within the noise of two runs (Spearman" in info.figure.finding or not within
    assert f"{place} (Spearman" in info.figure.finding or within
    assert "bars are two standard deviations of a run's seed noise either way" in info.note


def test_the_method_says_what_reruns_are_for_and_who_prunes_whom() -> None:
    record = study(20)
    terms = dict(method_info(record).terms)
    assert "behind other rung scores of the same teacher and method" in terms["Pruning"]
    assert "teachers and methods never prune each other" in terms["Pruning"]
    assert "Reruns" not in terms
    reruns = tuple(run(f"reruns/{name}-5", isats(name), val=0.7) for name in ("ladder-l", "ladder-xl"))
    said = dict(method_info(record.model_copy(update={"reruns": reruns})).terms)["Reruns"]
    assert "the settings of its best run were trained with each of the 2 leading teachers" in said
    assert "each teacher with the better of its own best settings and the shared settings" in said
    own = (reruns[0], run("reruns/0003-5", kd("ladder-xl"), val=0.7))
    older = dict(method_info(record.model_copy(update={"reruns": own})).terms)["Reruns"]
    assert "shared settings" not in older, "an older study trained each leader's own settings again"


def test_plain_kd_is_a_full_run_of_its_teacher() -> None:
    record = study(20)
    teacher = record.plain_kd.params.teacher
    best = record.plain_kd.model_copy(update={"curve": run("kd", record.plain_kd.params, val=0.95).curve})
    cells = {
        row.cells[0].text: row.cells
        for row in leaderboard_info(record.model_copy(update={"plain_kd": best})).table.rows
    }
    assert cells[teacher][4].text == "95.0 %"


def test_rank_correlation_is_scipys() -> None:
    x, y = [0.1, 0.5, 0.5, 0.7, 0.9, 0.2], [3.0, 1.0, 2.0, 2.0, 2.0, 9.0]
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert rank_correlation([1.0, 2.0], [1.0, 2.0]) is None


def test_trial_notes_warn_about_bounds_displacement_and_replicates() -> None:
    record = study(12)
    odd = record.trials[11]
    summary = targets(at_lower=0.7, displaced=0.12)
    odd = odd.model_copy(update={"rung": odd.rung.model_copy(update={"targets": summary}), "full": None})
    notes = trials_info(record.model_copy(update={"trials": (odd,)})).table.rows[0].cells[-1].text
    assert "replicate of trial 5" in notes
    assert "at a bound for 70 % of the samples that the teacher gets right" in notes
    assert "lost its first place in 12 %" in notes
    plain = record.trials[0].model_copy(update={"reason": ""})
    assert "bound" not in trials_info(record.model_copy(update={"trials": (plain,)})).table.rows[0].cells[-1].text


def test_long_studies_show_the_best_trials() -> None:
    record = study(1000)
    shown = {row.cells[0].text for row in trials_info(record).table.rows}
    best = max((one for one in record.trials if one.full), key=lambda one: one.full.val_top1)
    assert str(best.number) in shown
    assert len(drawn(curves_info(record))[0]) == MAX_CURVES


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    long = run("long", TrialParams(), val=0.7, epochs=240)
    curve = drawn(curves_info(bare({}).model_copy(update={"no_teacher": long})))[0][0]
    assert len(curve.points) == MAX_POINTS
    assert (curve.points[0][0], curve.points[-1]) == (1, (240, 0.7))
    epochs = [epoch for epoch, _ in curve.points]
    assert sorted(set(epochs)) == epochs


def test_saving_by_hand() -> None:
    """Twenty trials pruned after 4 of 12 epochs: 240 epochs not spent, 80 spent on rungs."""
    info = curves_info(study(20, state="pruned"))
    assert info.text == (
        "Pruning stopped 20 of 20 trials at the rung: 240 epochs (20.0 full-training equivalents) not spent; all rungs "
        "together cost 80 epochs (6.7 full-training equivalents)."
    )
    assert {curve.end for curve in drawn(info)[0][2:]} == {"pruned"}


def test_budget_counts_a_shared_run_once() -> None:
    baseline = run("baselines/none", TrialParams(), val=0.77, test=0.77, seed=1000)
    one = finalist(None, {1001: 0.77})
    record = bare({}).model_copy(
        update={"no_teacher": baseline, "finalists": (one.model_copy(update={"runs": (baseline, *one.runs)}),)}
    )
    spent = {name: spent for name, (_, spent) in drawn(budget_info(record))[0].items()}
    assert spent == {"no teacher": 1.0, "plain KD": 0.0, "priors": 0.0, "search": 0.0, "confirm": 1.0}


def test_failures_are_listed_with_reasons() -> None:
    record = bare({}).model_copy(update={"no_teacher": failed_run("baselines/none", TrialParams())})
    (row,) = failures_info(record).table.rows
    assert "non-finite in epoch 2" in row.cells[-1].text
    assert failures_info(bare({})).table is None


def test_method_names_what_the_intervals_leave_out() -> None:
    words = " ".join(limits_info(study(20)).points)
    assert "Split and view noise are not in the intervals" in words
    accuracy = recommend(study(20)).ranking[0].confirmed_test_top1
    assert f"{100 * (accuracy * (1 - accuracy) / 10000) ** 0.5:.1f} points (standard error" in words
    terms = dict(method_info(study(20)).terms)
    assert "4,000 train, 4,000 validation and 10,000 test" in terms["Data"]
    assert "averaged over the batch" in terms["Loss"]


def test_environment_renders_what_is_there() -> None:
    timing = {row.cells[0].text: row.cells[1].text for row in timing_info(study(20)).table.rows}
    assert timing == {
        "teachers": "21.4 s",
        "search": "3 min 10 s",
        "confirm": "1 min 17 s",
        "all phases": "4 min 49 s",
        "2 training runs, summed over the workers": "41.0 s",
        "of these, teachers over views that were not cached": "4.0 s",
        "of these, cached logits, read or waited for": "0.5 s",
        "of these, the student's training": "35.0 s",
        "of these, evaluation of the student": "1.5 s",
        "teacher runs over a view of the data, all others cached": "48",
    }
    record = study(20)
    phases = {"start-up": 5.0, "teachers": 20.0, "search": 45.0}
    times = {"phases_s": phases, "planned_s": {"teachers": 18.0, "search": 42.5, "report": 2.0}}
    rows = timing_info(record.model_copy(update={"timing": times})).table.rows
    found = {row.cells[0].text: row.cells[1].text for row in rows}
    assert list(found)[:5] == ["start-up", "teachers", "search", "all phases", "planned before the first run"]
    assert found["planned before the first run"] == "1 min 00 s; took 1 min 05 s", "the report is yet to be written"
    odd = bare({}).model_copy(update={"space": {"a": None, "b": [1, None]}, "environment": {"x": None, "ok": True}})
    assert [part.code for part in environment_info(odd).parts if part.code] == ["b = [\n    1,\n]"]
    assert timing_info(odd).table is None


def test_the_publications_of_the_searched_methods_of_plain_kd_and_of_optuna_are_cited():
    def cited(*methods: str) -> str:
        space = {"search": {"methods": {name: {} for name in methods}}}
        return " ".join(citations(study(20).model_copy(update={"space": space})))

    for paper in ("10.1007/s11704-025-41434-w", "arXiv:2405.13078", "NeurIPS 2022", "1503.02531", "Akiba"):
        assert paper in cited("isats", "ats")
    assert "2203.08679" in cited("dkd")
    assert "ISATS" not in cited("dkd", "python:my.py:focal")


def test_plain_kd_as_a_trial_is_confirmed_where_it_is_a_finalist_and_counts_once():
    """The first trial of the most accurate teacher is plain KD: one curve, one part of the budget, no lone run."""
    record = confirmed({"a": [0.7, 0.7, 0.71], "b": [0.8, 0.81, 0.8], None: [0.5, 0.5, 0.51]})
    first = trial(0, kd("b"), state="complete", score=0.8, kind="prior")
    finalists = tuple(
        one.model_copy(update={"params": kd("b"), "trial": 0}) if one.teacher == "b" else one
        for one in record.finalists
    )
    plan = record.plan.model_copy(update={"plain_kd": 0.0})
    update = {"trials": (first,), "plain_kd": first.full, "finalists": finalists, "plan": plan}
    record = record.model_copy(update=update)
    (row,) = [it for it in leaderboard_info(record).table.rows if it.cells[0].text == "plain KD"]
    assert any("confirmed above" in cell.below for cell in row.cells)
    assert not any("Plain KD is one run" in point for point in limits_info(record).points)
    assert "plain KD" not in [it.cells[0].text for it in budget_info(record).figure.table.rows]
    assert [it.cells[0].text for it in curves_info(record).figure.table.rows].count("plain KD") == 0
