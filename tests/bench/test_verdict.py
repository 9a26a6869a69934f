"""The simulation of the verdict, small: it runs, and its check can fail."""

import sys
from dataclasses import replace

import pytest
from bench import verdict
from bench.verdict import Design, falls_short, grid_falls_short, grid_table, simulate, simulate_grid


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(verdict, "STUDIES", 1500)
    monkeypatch.setattr(verdict, "RACED_STUDIES", 500)
    monkeypatch.setattr(verdict, "GRIDS", 500)


@pytest.mark.parametrize("design", [Design(3, 3, "equal", raced=False), Design(4, 5, "one doubled", raced=True)])
def test_the_verdict_holds_in_a_small_simulation(few, design):
    """Standard errors of half a point: gross faults only."""
    rows = simulate(design)
    assert len(rows) == len(verdict.LEADS)
    assert all(0.92 < row.coverage < 0.985 and row.wrong < 0.065 for row in rows)
    found = [row.right for row in rows]
    assert found[-1] > 0.5
    assert found[0] < 0.04
    assert (rows[-1].unspent > 0) is design.raced


def test_what_falls_short_is_named(few):
    good = replace(simulate(Design(2, 3, "equal", raced=False))[0], coverage=0.95, wrong=0.04)
    assert falls_short(good) == []
    assert falls_short(replace(good, coverage=0.92)) == ["coverage 92.0% is outside 93% to 97%"]
    assert falls_short(replace(good, coverage=0.98)) == ["coverage 98.0% is outside 93% to 97%"]
    assert falls_short(replace(good, wrong=0.05)) == ["5.0% name a winner that is worse or within the threshold"]


@pytest.mark.parametrize("noise", ["0.3, a method 0.6", "0.3, 2 % of the runs fail"])
def test_a_grids_intervals_hold_in_a_small_simulation(few, noise):
    """Standard errors of one point: gross faults only."""
    row = simulate_grid(3, noise)
    assert 0.91 < row.joint < 0.985
    assert 0.94 < row.cells < 0.975
    assert max(row.wrong) < 0.04
    assert row.right[-1] > 0.5 > 0.1 > row.right[0]
    assert len(list(grid_table([row]))) == 3


def test_what_a_grid_misses_is_named(few):
    good = replace(simulate_grid(3, "0.2"), joint=0.95, cells=0.95, by_pair=(0.94, 0.96), wrong=(0.01,) * 5, power=0.8)
    assert grid_falls_short(good) == []
    assert grid_falls_short(replace(good, joint=0.92)) == ["joint coverage 92.0% is outside 93% to 97%"]
    assert grid_falls_short(replace(good, cells=0.98)) == ["cell coverage 98.0% is outside 93% to 97%"]
    worst = replace(good, by_pair=(0.91, 0.96))
    assert grid_falls_short(worst) == ["a pair's coverage 91.0% is outside 93% to 97%"]
    assert grid_falls_short(replace(worst, noise="0.3, a cell 0.6")) == []
    named = replace(good, wrong=(0.01, 0.05, 0.0, 0.0, 0.0))
    assert grid_falls_short(named) == ["5.0% name a method that is not better by the threshold"]
    weak = replace(good, power=0.6)
    assert grid_falls_short(weak) == ["the smallest difference is found in 60.0%, not in 80%"]


@pytest.mark.parametrize(("most_wrong", "fails"), [(1.0, False), (0.0, True)])
def test_check_exits_with_1_where_a_design_falls_short(monkeypatch, capsys, few, most_wrong, fails):
    monkeypatch.setattr(verdict, "MOST_WRONG", most_wrong)
    monkeypatch.setattr(verdict, "COVERAGE", (0.9, 0.99))
    monkeypatch.setattr(verdict, "FINALISTS", (2,))
    monkeypatch.setattr(verdict, "SEEDS", (3,))
    monkeypatch.setattr(verdict, "searches", dict)
    monkeypatch.setattr(verdict, "grids", list)
    monkeypatch.setattr(sys, "argv", ["verdict.py", "--check"])
    if fails:
        with pytest.raises(SystemExit, match="1"):
            verdict.main()
    else:
        verdict.main()
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(verdict.NOISES) + 5 + 5


def test_check_exits_with_1_where_a_grid_falls_short(monkeypatch, capsys, few):
    bad = replace(simulate_grid(3, "0.2"), joint=0.5)
    monkeypatch.setattr(verdict, "designs", list)
    monkeypatch.setattr(verdict, "searches", dict)
    monkeypatch.setattr(verdict, "grids", lambda: [bad])
    monkeypatch.setattr(sys, "argv", ["verdict.py", "--check"])
    with pytest.raises(SystemExit, match="1"):
        verdict.main()
    assert "grid of 3 seeds, noise 0.2: joint coverage 50.0% is outside" in capsys.readouterr().err
