"""The audit trails of a study that asks whenever a worker is free, as a report tells them."""

from pathlib import Path

from factories import asynchronous, study

from autodistill.records import AuditTrail
from autodistill.report import render
from autodistill.report.sections.trails import trails_info
from autodistill.report.words import EMPTY


def test_a_trail_names_what_was_known_running_and_judged_by():
    record = asynchronous(study(20))
    rivals = {3: 0.5, 9: 0.75, 11: 0.75, **dict.fromkeys(range(12, 20), 0.25)}
    trail = AuditTrail(sampler_seed=77, known=((0, 4), (6, 6)), running=(5, 7), rivals=rivals)
    trials = [*record.trials[:-1], record.trials[-1].model_copy(update={"audit_trail": trail})]
    table = trails_info(record.model_copy(update={"trials": tuple(trials)})).table
    *_, last = table.rows
    assert [cell.text for cell in last.cells] == [
        "19",
        "77",
        "0 to 4, 6",
        "5, 7",
        "9 (75.0 %), 11 (75.0 %), 3 (50.0 %), 12 (25.0 %), 13 (25.0 %), 14 (25.0 %), 15 (25.0 %), 16 (25.0 %) "
        "and 3 more trials",
    ]
    assert len(table.rows) == sum(it.kind == "search" for it in record.trials)
    first = AuditTrail(sampler_seed=1, known=(), running=())
    alone = record.model_copy(update={"trials": (record.trials[0].model_copy(update={"audit_trail": first}),)})
    assert [cell.text for cell in trails_info(alone).table.rows[0].cells[2:]] == ["none", "none", EMPTY]


def test_the_page_says_how_it_asked_and_promises_no_equal_study(tmp_path: Path):
    page, waves = (
        render(record, tmp_path / name).read_text(encoding="utf-8")
        for name, record in {"async": asynchronous(study(40)), "waves": study(40)}.items()
    )
    assert "<dt>Asking</dt>" in page
    assert "What each trial was decided on" in page
    assert "It will not be equal run for run" in page
    assert "Equal studies are equal" not in page
    for words in ("<dt>Asking</dt>", "decided on", "will not be equal"):
        assert words not in waves
    assert "Audit trails" in (tmp_path / "async" / "report.md").read_text(encoding="utf-8")
    assert "Audit trails" not in (tmp_path / "waves" / "report.md").read_text(encoding="utf-8")
