"""More teachers than the budget tries: which are left out, and that a continued study keeps the choice."""

import pytest
from small_studies import fake, options

from autodistill.records import StudyRecord
from autodistill.study import resolve

pytestmark = pytest.mark.slow

SIX = tuple(
    f"ladder:{name}" for name in ("resnet8:0.25", "resnet8:0.5", "resnet8", "resnet8:0.75", "vgg8:0.25", "vgg8:0.5")
)
LAST = "ladder:resnet14:0.25"


def tried(record: StudyRecord) -> list[str | None]:
    return [trial.params.teacher for trial in record.trials if trial.kind == "prior"]


def test_the_most_accurate_teachers_are_tried_and_the_others_have_a_reason():
    """No teacher 1, four first trials 4, confirm 5 and search 1: nothing is left for a fifth teacher."""
    record = fake(options(teachers=SIX, budget="11"))
    accuracy = {it.name: it.val_top1 for it in record.teachers}
    assert record.plan.tried == len(tried(record)) == 4
    assert len(record.screened_out) == 2
    assert set(tried(record)) | set(record.screened_out) == set(accuracy)
    assert min(accuracy[str(name)] for name in tried(record)) >= max(accuracy[name] for name in record.screened_out)
    assert all("rank" in reason for reason in record.screened_out.values())
    assert record.spent_epochs <= record.plan.total_epochs


def test_the_cache_holds_a_profile_of_each_teacher_and_all_views_of_those_that_are_tried():
    """Six teachers, of which four are tried, and runs of 3 epochs."""
    row = 100 * 10 * 2
    asked = options(teachers=SIX, budget="11")
    assert resolve(asked).cache_size == (4 * 3 + 2) * row
    for limit, views in ((14, None), (13, 2), (9, 1)):
        spec = resolve(asked.model_copy(update={"cache_bytes": limit * row}))
        assert spec.space.data.views == views
        assert spec.cache_size <= limit * row
    fake(asked)
    assert resolve(asked.model_copy(update={"budget": "20"})).tried == 4, "the choice of the study stays"


def test_a_larger_budget_and_a_teacher_that_joins_keep_the_choice():
    first = fake(options(teachers=SIX, budget="11"))
    longer = fake(options(teachers=SIX, budget="20"))
    assert longer.screened_out == first.screened_out
    assert longer.trials[: len(first.trials)] == first.trials
    assert longer.plan.tried == 4
    joined = fake(options(teachers=(*SIX, LAST), budget="24"))
    assert joined.screened_out == first.screened_out
    assert tried(joined) == [*tried(first), "resnet14:0.25"]
    assert joined.spent_epochs <= joined.plan.total_epochs
