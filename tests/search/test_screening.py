"""Which of many teachers are tried."""

import pytest
from record_parts import teacher

from autodistill.config import Space
from autodistill.errors import ConfigError
from autodistill.records import Metric, TeacherRecord
from autodistill.searching import make_plan, screen


def checkpoint(uri: str, accuracy: float, *, size: int = 1000, weights: str = "") -> TeacherRecord:
    record = teacher(uri.removeprefix("file:"), val_top1=accuracy, size=size)
    return record.model_copy(update={"uri": uri, "architecture": "resnet", "fingerprint": weights or uri})


EPOCHS = [
    checkpoint(f"file:run/epoch{epoch:03}.pt", accuracy) for epoch, accuracy in ((80, 0.7), (160, 0.8), (240, 0.9))
]
OTHERS = [checkpoint("file:wide.pt", 0.75, size=4000), checkpoint("file:small.pt", 0.6, size=500)]


def tried_of(given: list[TeacherRecord], *, count: int, metric: Metric = "top1") -> list[str]:
    left_out = screen(given, count=count, metric=metric)
    return [it.name for it in given if it.name not in left_out]


def test_the_best_checkpoint_of_each_training_comes_before_a_second_checkpoint() -> None:
    assert tried_of([*EPOCHS, *OTHERS], count=3) == ["run/epoch240.pt", "wide.pt", "small.pt"]
    left_out = screen([*EPOCHS, *OTHERS], count=3, metric="top1")
    assert list(left_out) == ["run/epoch160.pt", "run/epoch080.pt"]


def test_the_reason_names_accuracy_rank_and_sibling() -> None:
    left_out = screen([*EPOCHS, *OTHERS], count=3, metric="top1")
    assert left_out["run/epoch160.pt"] == (
        "accuracy 80.0 % on validation, rank 4 of 5, after run/epoch240.pt, probably a checkpoint of the same "
        "training; the budget pays for first trials with 3 teachers"
    )


def test_teachers_stay_in_the_order_in_which_they_were_given() -> None:
    given = [*OTHERS, *EPOCHS]
    assert tried_of(given, count=5) == [it.name for it in given]


def test_early_stopped_teachers_are_siblings_of_the_whole_training_and_assistants_are_not() -> None:
    uris = ("ladder:resnet56", "ladder:resnet56@80", "ladder:resnet56@160?name=late")
    given = [checkpoint(uri, 0.9 - 0.1 * place) for place, uri in enumerate(uris)]
    given += [checkpoint(f"assistant:resnet56?teacher=resnet{it}", 0.5) for it in (20, 110)]
    assert tried_of(given, count=3) == [uris[0], *(it.name for it in given[3:])]


def test_equal_weights_are_siblings_whatever_their_names() -> None:
    given = [checkpoint("file:a.pt", 0.9, weights="w"), checkpoint("file:copy.pt", 0.9, weights="w"), *OTHERS]
    assert tried_of(given, count=3) == ["a.pt", "wide.pt", "small.pt"]


def test_names_that_differ_in_numbers_are_no_siblings_if_the_networks_differ() -> None:
    given = [checkpoint("file:resnet20.th", 0.7, size=270), checkpoint("file:resnet56.th", 0.9, size=850), OTHERS[1]]
    assert tried_of(given, count=2) == ["resnet20.th", "resnet56.th"]


def test_the_metric_of_the_search_ranks() -> None:
    balanced = [it.model_copy(update={"val_balanced_top1": 1 - it.val_top1}) for it in OTHERS]
    assert tried_of(balanced, count=1, metric="balanced_top1") == ["small.pt"]


@pytest.mark.parametrize(
    ("teachers", "budget", "tried"),
    # Beyond 4 teachers, each costs a rung of a third. No teacher 1, priors 4, confirm 8 and reruns 2 are 15, and from a
    # budget of 23 on label smoothing takes 3.
    [
        (4, "20", 4),
        (5, "15", 4),
        (6, "16", 4),
        (6, "17", 5),
        (6, "20", 6),
        (12, "20", 7),
        (24, "20", 7),
        (40, "20", 7),
        (24, "30", 13),
        (40, "30", 13),
    ],
)
def test_a_quarter_of_the_search_pays_for_more_than_four_teachers(teachers: int, budget: str, tried: int) -> None:
    plan = make_plan(Space(), teachers=teachers, requested=budget)
    assert plan.tried == tried
    assert plan.search >= 3 * (tried - 4) / 3
    parts = plan.no_teacher + plan.plain_kd + plan.priors + plan.search + plan.reruns + plan.confirm
    parts += plan.label_smoothing
    assert parts == pytest.approx(float(budget))


def test_a_budget_that_cannot_even_screen_is_refused_with_the_smallest_that_can() -> None:
    with pytest.raises(ConfigError, match=r"24 teachers \(the plan would try 4\): the smallest is 14"):
        make_plan(Space(), teachers=24, requested="13")
    assert make_plan(Space(), teachers=24, requested="14").tried == 4
