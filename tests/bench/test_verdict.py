"""The simulation of the verdict, small: it runs, and its check can fail."""

import sys
from dataclasses import replace

import pytest
from bench import verdict
from bench.verdict import Design, falls_short, simulate


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(verdict, "STUDIES", 1500)
    monkeypatch.setattr(verdict, "RACED_STUDIES", 500)


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


@pytest.mark.parametrize(("most_wrong", "fails"), [(1.0, False), (0.0, True)])
def test_check_exits_with_1_where_a_design_falls_short(monkeypatch, capsys, few, most_wrong, fails):
    monkeypatch.setattr(verdict, "MOST_WRONG", most_wrong)
    monkeypatch.setattr(verdict, "COVERAGE", (0.9, 0.99))
    monkeypatch.setattr(verdict, "FINALISTS", (2,))
    monkeypatch.setattr(verdict, "SEEDS", (3,))
    monkeypatch.setattr(verdict, "searches", dict)
    monkeypatch.setattr(sys, "argv", ["verdict.py", "--check"])
    if fails:
        with pytest.raises(SystemExit, match="1"):
            verdict.main()
    else:
        verdict.main()
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(verdict.NOISES) + 5
