"""Files of a folder of teachers that do not pass their check: they are left out, and the study goes on without them.

The fake trainer refuses files whose names begin with `bad`, unless an ensemble or an assistant needs them.
"""

from pathlib import Path

import pytest
import torch
from small_studies import Killed, core, fake, kill_after, options

from autodistill.errors import StoreError, TeacherError
from autodistill.models import build
from autodistill.records import Event, Note, StudyRecord
from autodistill.study import SearchOptions

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("uncopied")]


def folder(place: Path, *names: str) -> str:
    """Write a folder of networks; return its URI."""
    place.mkdir()
    for seed, name in enumerate(names):
        module = build("resnet8:0.25", num_classes=10, in_channels=1, image_size=8, seed=seed)
        torch.save(module.state_dict(), place / f"{name}.pt")
    return f"file:{place}?norm=none"


def asked(uri: str, *more: str, budget: str = "11", **flags: object) -> SearchOptions:
    return options(teachers=(uri, *more), budget=budget, **flags)


def plans(events: list[Event]) -> list[str]:
    return [it.text for it in events if isinstance(it, Note) and it.text.startswith("plan: ")]


def same_study(record: StudyRecord, other: StudyRecord) -> bool:
    left_out = {"name", "command", "found", "timing", "environment"}
    return record.model_dump(exclude=left_out) == other.model_dump(exclude=left_out)


def test_the_plan_and_the_trials_are_those_of_the_other_teachers(tmp_path: Path) -> None:
    uri, events = folder(tmp_path / "nets", "bad0", "good0", "bad1", "good1"), list[Event]()
    record = fake(asked(uri), events.append)
    others = fake(asked(f"file:{tmp_path}/nets/good*.pt?norm=none", study="others"))
    assert record.left_out == dict.fromkeys(("bad0", "bad1"), "it is not above chance")
    assert (record.plan, record.trials, record.teachers) == (others.plan, others.trials, others.teachers)
    warnings = [it.text for it in events if isinstance(it, Note) and it.warning]
    assert [it for it in warnings if "left out" in it] == [
        f"teacher bad{number} is left out: it is not above chance" for number in range(2)
    ]
    assert len(plans(events)) == 2, "with all teachers, and without those that are left out"


@pytest.mark.parametrize("count", [2, 8, 14, 22, 30])
def test_an_interrupted_study_continues_to_the_same_end(tmp_path: Path, count: int) -> None:
    uri, events = folder(tmp_path / "nets", "bad0", "good0", "good1"), list[Event]()
    whole = fake(asked(uri))
    with pytest.raises(Killed):
        fake(asked(uri, study="killed"), kill_after(count))
    again = fake(asked(uri, study="killed"), events.append)
    assert same_study(again, whole)
    assert plans(events)[-1] == "plan: 11 full trainings = no teacher 1 + priors with plain KD 2 + search 3 + confirm 5"
    assert len(plans(events)) <= 2


def test_a_budget_of_time_keeps_its_epochs(tmp_path: Path) -> None:
    uri = folder(tmp_path / "nets", "bad0", "good0", "good1")
    with pytest.raises(Killed):
        fake(asked(uri, budget="0.04m"), kill_after(20))
    kept = StudyRecord.model_validate_json(next(Path("runs").glob("*/study.json")).read_text())
    again = fake(asked(uri, budget="0.04m"))
    assert again.plan == kept.plan
    assert again.plan.tried == 2


def test_a_file_that_was_left_out_may_be_removed(tmp_path: Path) -> None:
    uri = folder(tmp_path / "nets", "bad0", "good0", "good1")
    first = fake(asked(uri))
    (tmp_path / "nets" / "bad0.pt").unlink()
    longer = fake(asked(uri, budget="14"))
    assert not longer.left_out
    assert longer.trials[: len(first.trials)] == first.trials
    (tmp_path / "nets" / "good0.pt").unlink()
    with pytest.raises(StoreError, match="holds another study"):
        fake(asked(uri, budget="15"))


def test_a_teacher_joins_a_study_with_a_file_that_was_left_out(tmp_path: Path) -> None:
    uri = folder(tmp_path / "nets", "bad0", "good0", "good1")
    first = fake(asked(uri))
    joined = fake(asked(uri, "ladder:resnet8:0.5", budget="16"))
    assert list(joined.left_out) == ["bad0"]
    assert joined.trials[: len(first.trials)] == first.trials
    assert {it.params.teacher for it in joined.trials} == {"good0", "good1", "resnet8:0.5"}
    assert joined.spent_epochs <= joined.plan.total_epochs


def test_a_grid_without_a_budget_tries_as_many_settings_as_for_the_other_teachers(tmp_path: Path) -> None:
    uri = folder(tmp_path / "nets", "bad0", "good0")
    record = fake(asked(uri, budget="", methods=("ts", "dkd")))
    assert record.grid is not None
    assert (record.grid.settings, {it.teacher for it in record.grid.cells}) == (3, {"good0"})
    assert record.spent_epochs == record.plan.total_epochs
    events = list[Event]()
    assert core(fake(asked(uri, budget="", methods=("ts", "dkd")), events.append)) == core(record)
    assert any(isinstance(it, Note) and "this study is finished" in it.text for it in events)


def test_a_file_that_an_ensemble_needs_is_not_refused(tmp_path: Path) -> None:
    uri = folder(tmp_path / "nets", "bad0", "bad1", "good0", "good1")
    record = fake(asked(uri, "ensemble:bad0+good0", budget="14"))
    assert list(record.left_out) == ["bad1"]
    assert [it.name for it in record.teachers] == ["bad0", "good0", "good1", "bad0-good0"]
    with pytest.raises(TeacherError, match="no checkpoint passes its check") as caught:
        fake(asked(f"file:{tmp_path}/nets/bad1*?norm=none", f"file:{tmp_path}/nets/good0.pt?norm=none", study="none"))
    assert "\n  bad1 (file:" in caught.value.message
