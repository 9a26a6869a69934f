"""Numbers and settings as a reader sees them."""

import pytest

from autodistill.formatting import method_label, recipe
from autodistill.records import TrialParams

RECIPES = [
    (TrialParams(), "no teacher"),
    (TrialParams(method_params={"label_smoothing": 0.1}), "no teacher, label smoothing 0.1"),
    (
        TrialParams(teacher="t", method="isats", method_params={"target_ratio": 5 / 3}, tau_student=4, soft_weight=0.5),
        "ISATS (target ratio 1.67, tau student 4), soft weight 0.5",
    ),
    (
        TrialParams(
            teacher="t", method="dkd", method_params={"beta": 8, "alpha": 1, "logits": "standardised"}, soft_weight=None
        ),
        "DKD (alpha 1, beta 8, logits standardised)",
    ),
    (
        TrialParams(teacher="t", method="dist", method_params={"ramp_epochs": 5}, soft_weight=None),
        "DIST (ramp epochs 5)",
    ),
    (
        TrialParams(teacher="t", method="python:my/loss.py:focal", method_params={"gamma": 2}, soft_weight=None),
        "focal (gamma 2)",
    ),
]


@pytest.mark.parametrize(("params", "words"), RECIPES)
def test_a_configuration_is_named_by_method_and_settings(params, words):
    assert recipe(params) == words


def test_a_method_of_the_user_is_named_by_its_function():
    assert [method_label(name) for name in ("ts", "wttm", "python:losses:focal")] == ["TS", "WTTM", "focal"]
