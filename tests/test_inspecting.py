"""`teachers inspect`, from the command to its page: teachers that are trained, and those that are not."""

import json
from pathlib import Path

import pytest

from autodistill.cli.teachers import inspect_teachers, show_inspection
from autodistill.config import load as load_space
from autodistill.data import load as load_data
from autodistill.errors import ConfigError
from autodistill.records import InspectionRecord
from autodistill.store import cache_root
from autodistill.study import KNOWN
from autodistill.training import train_teacher

pytestmark = pytest.mark.slow

OVERRIDES = ('ladder.architectures=["resnet8:0.25", "resnet8:0.5", "resnet8"]', "ladder.epochs=5")


def test_inspecting_trained_teachers(capsys, tmp_path: Path):
    space = load_space("smoke", known=KNOWN, overrides=OVERRIDES)
    data = load_data(space.data)
    for architecture in ("resnet8:0.25", "resnet8:0.5"):
        list(train_teacher(f"ladder:{architecture}", root=cache_root(), data=data, space=space))
    inspect_teachers(space="smoke", overrides=OVERRIDES, device="cpu", workers=1, output="json", to=tmp_path)
    printed = capsys.readouterr()
    record = InspectionRecord.model_validate(json.loads(printed.out))
    assert [one.name for one in record.teachers] == ["resnet8:0.25", "resnet8:0.5"]
    assert record.agreement.teachers == ("resnet8:0.25", "resnet8:0.5")
    for one in record.teachers:
        assert one.profile.validation.top1 == pytest.approx(one.val_top1)
        assert one.profile.validation.nll == pytest.approx(one.val_nll, rel=1e-5)
        assert one.profile.train.examples == 200
    left_out = "left out, not trained yet: resnet8. To train them: autodistill teachers train --space smoke"
    assert left_out in printed.err
    assert str(tmp_path / "teachers.html") in printed.err
    assert "resnet8:0.5" in (tmp_path / "teachers.html").read_text(encoding="utf-8")

    show_inspection(record)
    tables = capsys.readouterr().out
    for caption in (
        "Teachers by size",
        "Other classes under softmax",
        "Temperatures of the other classes under ISATS",
        "Agreement on the order",
    ):
        assert caption in tables
    assert (
        "The variance of the other classes rises, then falls, as teachers grow. Checking this takes three teachers"
        in tables
    )


def test_inspecting_teachers_of_which_none_is_trained():
    with pytest.raises(ConfigError, match=r"none of the teachers is trained yet: resnet8:0\.25, resnet8") as error:
        inspect_teachers(space="smoke", device="cpu", workers=1, output="table", to=None)
    assert error.value.hint == "autodistill teachers train --space smoke"
    flags = {"data": "digits", "overrides": ["ladder.epochs=7", 'purpose="a b"'], "device": "cpu", "workers": 1}
    with pytest.raises(ConfigError) as error:
        inspect_teachers(**flags, output="table", to=None)
    assert error.value.hint == (
        "autodistill teachers train --data digits --space digits --set ladder.epochs=7 --set 'purpose=\"a b\"'"
    )
