"""The model card: runs as it reads, says what the record says, escapes what users wrote."""

import re

import pytest
from factories import HOSTILE
from small_exports import HAS_ONNX, TEACHER, TEACHER_NAME, raw_images

from autodistill.export.card import card

pytestmark = pytest.mark.slow


def test_the_cards_examples_run(study, exported):
    place, _ = exported
    blocks = re.findall(r"```python\n(.*?)```", (place / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 1 + HAS_ONNX
    for code in blocks:
        names = {"images": raw_images(study)[:3].contiguous()}
        exec(code.replace('"student', f'"{place}/student'), names)
        assert tuple(names["logits"].shape) == (3, 10)
        assert names["classes"][3] == "3"


def _within(row):
    """Two seeds: their interval can be wider than half the scale, and is none then."""
    if row.low is None:
        return "interval wider than 50 points"
    return f"95 % interval {100 * row.low:.1f} % to {100 * row.high:.1f} %"


def test_the_card_says_what_the_record_says(study, record, exported):
    (spec, _), (place, found) = study, exported
    text = (place / "README.md").read_text()
    row = next(it for it in record.recommendation.ranking if it.params == TEACHER)
    for expected in (
        f"| Parameters | {record.student.cost.params:,} |",
        f"| MACs per image | {record.student.cost.macs:,} |",
        f"{100 * row.confirmed_test_top1:.1f} % ({_within(row)})",
        "2 seeds, trained on train alone for 3 epochs",
        f"{100 * found.test_top1:.1f} % of 90 images, measured at export",
        "TS (tau 4, tau student 4), soft weight 0.5",
        "(1 - 0.5) x CE(label, f) + 0.5 x 4^2 x CE(teacher, softmax(f / 4))",
        "averaged over the batch",
        "12, the cost of 4.0 full trainings",
        "| Wall time | 1 min 05 s |",
        f"| Teacher {TEACHER_NAME} | to be filled in |",
        "| Data digits | to be filled in |",
        "| Average | blocks of 2 x 2 pixels (in the graph) |",
        f"| Mean | {spec.data.mean[0]:.6g} (in the graph) |",
        "| Channels | one, grey |",
        "N x 1 x 8 x 8",
        "arXiv:2405.13078",
    ):
        assert expected in text


def test_the_front_matter_is_yaml_whatever_the_names(record, exported):
    yaml = pytest.importorskip("yaml")
    _, found = exported
    for name in HOSTILE:
        hostile = record.model_copy(update={"data": record.data.model_copy(update={"name": name})})
        head = card(hostile, found).split("---\n")[1]
        (entry,) = yaml.safe_load(head)["model-index"]
        assert entry["results"][0]["metrics"][0]["value"] == pytest.approx(found.test_top1, abs=1e-6)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_from_users_are_escaped(record, exported, name):
    _, found = exported
    classes = (name, *record.data.classes[1:])
    student = record.student.model_copy(update={"name": name})
    data = record.data.model_copy(update={"name": name, "classes": classes})
    verdict = record.recommendation.model_copy(update={"sentence": name})
    update = {"student": student, "data": data, "recommendation": verdict, "command": name, "name": name}
    text = card(record.model_copy(update=update), found)
    plain = card(record, found)
    assert text.startswith("---\n")
    body = "\n".join(line for line in text.split("---\n", 2)[2].splitlines() if not line.startswith("    "))
    assert not re.search(r"<(script|img|/style|!--)", body)
    assert not re.search(r"(?<!\\)\[link", body)
    assert "\x00" not in text
    assert "\x1b" not in text
    # A name can add no line, and so no heading, list, fence or table row.
    assert text.count("\n") == plain.count("\n")
