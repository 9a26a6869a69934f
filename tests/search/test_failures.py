"""Causes of failed runs, and the error that ends a search without any result."""

import pytest

from autodistill.config import TrainingSpec
from autodistill.records import RunResult, TrialParams
from autodistill.searching.stages import every_run_failed

DIED = "the worker process died 3 times (last: signal 6, SIGABRT) while training the run {}; 1.2 GB of memory were free"


def failed(name: str, error: str) -> RunResult:
    return RunResult(run=name, params=TrialParams(), seed=0, epochs=4, state="failed", error=error)


def test_causes_are_told_apart_and_counted_whatever_their_epoch_or_run():
    runs = [
        failed("c", DIED.format("c") + "\n    corrupted size vs. prev_size"),
        failed("a", "the loss became nan in epoch 1"),
        failed("b", "the loss became nan in epoch 13"),
        failed("d", DIED.format("d")),
        failed("e", "the loss became nan in epoch 2"),
        failed("f", ""),
    ]
    assert every_run_failed(runs, training=TrainingSpec()).message.splitlines() == [
        "all 6 runs of the first stage failed:",
        "  3 x the loss became nan: a, b, e",
        "  2 x the worker process died 3 times (last: signal 6, SIGABRT): c, d",
        "  1 x no cause recorded: f",
    ]


def test_the_error_names_runs_causes_and_the_next_step():
    runs = [failed(f"trials/{number:04}/rung", "the loss became inf in epoch 1") for number in range(9)]
    error = every_run_failed(runs, training=TrainingSpec(lr=1e6))
    first, cause = error.message.splitlines()
    assert first == "all 9 runs of the first stage failed:"
    assert cause.startswith("  9 x the loss became inf: trials/0000/rung, trials/0001/rung")
    assert cause.endswith("trials/0005/rung, and 3 more")
    assert "training.lr, which is 1e+06: --set training.lr=0.05, in a new study (--study NAME)" in error.hint


@pytest.mark.parametrize("other", ["out of memory with batches of 64", DIED.format("x")])
def test_a_lower_rate_is_advised_only_where_every_run_diverged(other):
    runs = [failed("a", "the loss became nan in epoch 1"), failed("b", other)]
    error = every_run_failed(runs, training=TrainingSpec())
    assert "training.lr" not in error.hint
    assert "correct the causes above" in error.hint
