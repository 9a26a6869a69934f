"""Method grids over a made-up scoring function: equal cost for all cells, exact budget, resume, failures."""

import math
from typing import Any

import pytest
from search_runs import SHAPES, Trainer, score, started, teacher

from autodistill.config import GridSpec, PriorSpec, Space, nearest_prior
from autodistill.errors import ConfigError, EveryRunFailed
from autodistill.records import RunSpec, StudyRecord, TrialRecord
from autodistill.searching import SearchSpec, SearchState, make_grid_plan, run_grid

THREE = ("weak", "mid", "strong")
METHODS = ("ts", "isats")


def grid_space(*, shared: bool = False, **changes: Any) -> Space:
    own = {name: Space().search.methods[name] for name in METHODS}
    tree = {"search": {"methods": {name: {} for name in METHODS}}, "grid": {"shared_settings": shared}, **changes}
    space = Space.model_validate(tree)
    return space.model_copy(update={"search": space.search.model_copy(update={"methods": own})})


def grid_spec(*names: str, budget: str = "", recorded=(), space: Space | None = None) -> SearchSpec:
    space = space or grid_space()
    plan = make_grid_plan(space, teachers=len(names), requested=budget)
    teachers = tuple(teacher(name) for name in names)
    return SearchSpec(space=space, plan=plan, teachers=teachers, shapes=SHAPES, recorded=tuple(recorded))


def priors(space: Space) -> dict[str, PriorSpec]:
    wanted = {"tau": 4.0, "soft_weight": 0.9, "target_ratio": 5 / 3}
    return {name: nearest_prior(space.search, name, wanted) for name in space.search.methods}


def measured(spec: SearchSpec, trainer: Trainer | None = None) -> SearchState:
    state, _ = started(spec, trainer or Trainer())
    run(state)
    return state


def run(state: SearchState) -> None:
    run_grid(state, priors(state.spec.space))


def by_cell(state: SearchState) -> dict[tuple[str, str], list[TrialRecord]]:
    found: dict[tuple[str, str], list[TrialRecord]] = {}
    for trial in state.trials:
        found.setdefault((str(trial.params.method), str(trial.params.teacher)), []).append(trial)
    return found


@pytest.mark.parametrize("settings", [1, 2, 3, 4, 7])
def test_every_cell_is_tuned_at_the_same_cost_and_the_plan_is_exact(settings):
    full, rung, cells, seeds = 30, 10, 6, 3
    tuning = settings * rung + math.ceil(settings / 3) * (full - rung)
    epochs = cells * tuning + cells * seeds * full + 2 * seeds * full
    spec = grid_spec(*THREE, budget=f"{epochs}ep")
    assert spec.plan.settings == settings
    state = measured(spec)
    assert state.spent_epochs == epochs
    found = by_cell(state)
    assert set(found) == {(method, name) for method in METHODS for name in THREE}
    for trials in found.values():
        assert len(trials) == settings
        assert sum(it.state == "complete" for it in trials) == math.ceil(settings / 3)


def test_the_first_setting_is_the_publications_and_all_teachers_try_the_same_settings():
    state = measured(grid_spec(*THREE))
    found = by_cell(state)
    for method in METHODS:
        tried = [[it.params.model_copy(update={"teacher": None}) for it in found[method, name]] for name in THREE]
        assert tried[0] == tried[1] == tried[2]
        assert len({str(it) for it in tried[0]}) == 3
    first = found["ts", "weak"][0]
    assert (first.kind, first.params.method_params, first.params.soft_weight) == ("prior", {"tau": 4.0}, 0.9)


def test_only_the_best_of_three_settings_at_the_rung_goes_on_and_the_best_full_run_is_confirmed():
    def scores(run: RunSpec) -> float:
        return score(run) + 0.1 * run.params.soft_weight if run.params.teacher else score(run)

    state = measured(grid_spec(*THREE, budget="38"), Trainer(scores=scores))
    for trials in by_cell(state).values():
        for wave in {it.wave for it in trials}:
            own = [it for it in trials if it.wave == wave]
            assert [it.number for it in own if it.full] == [max(own, key=lambda it: it.rung.val_top1).number]
            assert all("only the best goes on" in it.reason for it in own if it.state == "pruned")
    assert state.grid is not None
    assert len(state.grid.cells) == 6
    for cell in state.grid.cells:
        trials = [it for it in by_cell(state)[cell.method, cell.teacher] if it.full]
        assert cell.trial == max(trials, key=lambda it: it.full.val_top1).number
        assert [run.seed for run in cell.runs] == [1000, 1001, 1002]
        assert all(run.test_top1 is not None and run.params == cell.params for run in cell.runs)


def test_no_teacher_and_label_smoothing_share_the_confirm_seeds():
    state = measured(grid_spec(*THREE))
    assert state.grid is not None
    for runs in (state.grid.no_teacher, state.grid.label_smoothing):
        assert [run.seed for run in runs] == [1000, 1001, 1002]
        assert all(run.params.teacher is None and run.test_top1 is not None for run in runs)
    assert {str(run.params.method_params) for run in state.grid.label_smoothing} == {"{'label_smoothing': 0.1}"}


def test_too_small_a_budget_names_the_smallest_and_what_to_cut():
    with pytest.raises(ConfigError) as caught:
        make_grid_plan(grid_space(), teachers=3, requested="20")
    # 2 methods x 3 teachers x (1 + 3 seeds) + 2 x 3
    assert "a grid of 2 methods x 3 teachers: the smallest is 30 " in caught.value.message
    assert caught.value.hint == "raise --budget, or reduce methods to 1 or teachers to 1"
    assert make_grid_plan(grid_space(), teachers=3, requested="30").settings == 1


@pytest.mark.parametrize(("requested", "settings"), [("", 3), ("40", 4), ("39.9", 3), ("33.9", 2)])
def test_the_budget_decides_how_many_settings_each_cell_tries(requested, settings):
    plan = make_grid_plan(grid_space(), teachers=3, requested=requested)
    assert plan.settings == settings
    parts = plan.no_teacher + plan.priors + plan.search + plan.confirm + plan.label_smoothing + plan.controls
    assert parts <= plan.equivalents + 1e-9
    if not requested:
        assert plan.requested == "34"


def test_shared_settings_are_paid_extra_and_trained_with_every_teacher():
    space = grid_space(shared=True)
    assert make_grid_plan(space, teachers=3, requested="48").settings == 1
    with pytest.raises(ConfigError, match="the smallest is 48 "):
        make_grid_plan(space, teachers=3, requested="47")

    def scores(run: RunSpec) -> float:
        # The best setting depends on the teacher.
        better = {"weak": 0.2, "mid": 0.5, "strong": 0.8}.get(run.params.teacher or "", 0.0)
        return score(run) - 0.2 * abs((run.params.soft_weight or 0) - better)

    state = measured(grid_spec(*THREE, space=space), Trainer(scores=scores))
    assert state.grid is not None
    for method in METHODS:
        shared = [it for it in state.grid.shared if it.method == method]
        assert [it.teacher for it in shared] == list(THREE)
        assert len({str(it.params.model_copy(update={"teacher": None})) for it in shared}) == 1
        own = {it.teacher: it for it in state.grid.cells if it.method == method}
        assert any(own[it.teacher].params == it.params for it in shared)
        for it in shared:
            assert [run.seed for run in it.runs] == [1000, 1001, 1002]
            if own[it.teacher].params == it.params:
                assert it.runs == own[it.teacher].runs
    assert state.spent_epochs <= state.spec.plan.total_epochs


def test_a_grid_that_was_interrupted_goes_on_to_the_same_end():
    spec = grid_spec(*THREE, budget="40")
    whole = measured(spec)
    for died in (3, 20, 40, 50):
        trainer = Trainer(dies_after=died)
        state, _ = started(spec, trainer)
        with pytest.raises(KeyboardInterrupt):
            run(state)
        trainer.dies_after = math.inf
        again = measured(spec._replace(recorded=tuple(state.trials)), trainer)
        assert again.grid == whole.grid
        assert again.trials == whole.trials
        assert len({run.run for run in trainer.trained}) == len(trainer.trained)


@pytest.mark.parametrize(("first", "then"), [(2, 3), (4, 7), (7, 4), (1, 10), (3, 6)])
def test_with_another_budget_a_grid_is_the_grid_of_that_budget(first, then):
    def budget(settings: int) -> str:
        return f"{6 * (settings * 10 + math.ceil(settings / 3) * 20) + (6 + 2) * 3 * 30}ep"

    trainer = Trainer()
    begun = measured(grid_spec(*THREE, budget=budget(first)), trainer)
    spec = grid_spec(*THREE, budget=budget(then), recorded=begun.trials)
    found = measured(spec, trainer)
    whole = measured(grid_spec(*THREE, budget=budget(then)))
    assert (found.grid, found.trials) == (whole.grid, whole.trials)


def test_all_first_trials_of_a_grid_have_the_seed_of_the_study():
    state = measured(grid_spec(*THREE))
    assert {it.seed for it in state.trials if it.kind == "prior"} == {0}


def test_equal_scores_at_the_rung_are_ranked_by_number():
    state = measured(grid_spec(*THREE), Trainer(scores=lambda run: 0.5))
    for trials in by_cell(state).values():
        assert [it.state for it in trials] == ["complete", "pruned", "pruned"]
        assert "rank 2 of 3" in trials[1].reason
        assert "rank 3 of 3" in trials[2].reason


def test_the_order_in_which_runs_end_changes_nothing():
    spec = grid_spec(*THREE, budget="40")
    assert measured(spec, Trainer(backwards=True)).grid == measured(spec).grid


def test_a_cell_whose_runs_all_fail_has_no_confirm_runs_and_the_others_go_on():
    def fails(run: RunSpec) -> bool:
        return (run.params.method, run.params.teacher) == ("isats", "mid")

    state = measured(grid_spec(*THREE), Trainer(fails=fails))
    assert state.grid is not None
    assert {(it.method, it.teacher) for it in state.grid.cells} == {
        (method, name) for method in METHODS for name in THREE
    } - {("isats", "mid")}
    assert {it.state for it in by_cell(state)["isats", "mid"]} == {"failed"}


def test_a_grid_in_which_everything_fails_says_so():
    spec = grid_spec(*THREE)
    state, _ = started(spec, Trainer(fails=lambda run: True))
    with pytest.raises(EveryRunFailed):
        run(state)


def test_a_space_with_a_grid_is_read_back():
    space = grid_space(shared=True)
    assert Space.model_validate(space.model_dump(mode="json", exclude_none=True)).grid == GridSpec(shared_settings=True)
    assert "grid" not in Space().model_dump(mode="json", exclude_none=True)


def test_every_run_of_a_grid_is_listed_once():
    state = measured(grid_spec(*THREE))
    names = list(state.results)
    record = StudyRecord.model_construct(
        no_teacher=state.no_teacher,
        plain_kd=None,
        trials=tuple(state.trials),
        reruns=(),
        finalists=(),
        controls=(),
        label_smoothing=state.label_smoothing,
        grid=state.grid,
    )
    assert sorted(run.run for run in record.runs()) == sorted(names)
