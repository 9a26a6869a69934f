"""The report of a method grid: what its sections say, for every kind of grid, and that any name is shown harmlessly."""

import re

import pytest
from factories import HOSTILE
from grids import grid, table_of

from autodistill.cli.show import show_record
from autodistill.records import StudyRecord
from autodistill.report import GRID_SECTIONS, render
from autodistill.report.methods import capacity_info, cells_info, grid_answer, grid_why, shared_info
from autodistill.stats.verdict import judged

MEANS = {
    "ts": {"small": 0.72, "middle": 0.73, "large": 0.70},
    "dkd": {"small": 0.76, "middle": 0.77, "large": 0.78},
}
ALONE, SMOOTH = [0.700, 0.702, 0.701], [0.710, 0.713, 0.711]


def made(means=MEANS, **more) -> StudyRecord:
    more = {"no_teacher": ALONE, "label_smoothing": SMOOTH, **more}
    return judged(grid(table_of(means), **more))


def test_the_answer_and_the_tables_show_the_verdict():
    record = made()
    answer = grid_answer(record)
    assert (answer.verdict, answer.headline) == ("winner", "A best method")
    assert ("Best method", "DKD") in [fact[:2] for fact in answer.facts]
    why = grid_why(record)
    assert [row.cells[0].text for row in why.table.rows] == ["DKD", "TS", "no teacher", "label smoothing"]
    assert [row.cells[0].text for row in why.tables[0].rows] == ["DKD - TS"]
    cells = cells_info(record).table
    assert [[cell.text for cell in row.cells[:2]] for row in cells.rows] == [
        [method, teacher] for method in ("TS", "DKD") for teacher in ("small", "middle", "large")
    ]


def test_the_figure_has_a_line_for_each_method_by_the_teachers_size():
    section = capacity_info(made())
    lines, baselines, half_width = section.figure.draw.args
    assert list(lines) == ["TS", "DKD"]
    for line in lines.values():
        assert len(line) == 3
        assert [macs for macs, _ in line] == sorted(macs for macs, _ in line)
    assert set(baselines) == {"no teacher", "label smoothing"}
    assert 0 < half_width < 0.01
    assert [row.cells[0].text for row in section.figure.table.rows] == ["small", "middle", "large"]
    assert len(section.tables[0].rows) == 2
    assert section.figure.draw().startswith(b"<svg")


def test_without_shared_settings_the_report_says_how_to_get_them_and_with_them_shows_them():
    assert "--set grid.shared_settings=true" in shared_info(made()).text
    shared = {("ts", name): [0.7, 0.7, 0.7] for name in ("small", "middle", "large")}
    table = shared_info(made(shared=shared)).table
    assert [row.cells[3].text for row in table.rows] == ["70.0 %"] * 3
    assert table.rows[0].cells[5].text.startswith("+2")


def odd_grids() -> dict[str, StudyRecord]:
    """Grids of every shape: running, one method, one teacher, one seed, failed runs, no MACs, a user's method."""
    failed = table_of(MEANS)
    failed["ts", "small"] = [None, None, None]
    unknown = made()
    teachers = tuple(
        it.model_copy(update={"cost": it.cost.model_copy(update={"macs": None})}) for it in unknown.teachers
    )
    nothing = made()
    empty = nothing.grid.model_copy(update={"cells": (), "no_teacher": (), "label_smoothing": (), "verdict": None})
    one_seed = {cell: scores[:1] for cell, scores in table_of(MEANS).items()}
    return {
        "running": made(state="running"),
        "nothing yet": nothing.model_copy(update={"state": "running", "grid": empty, "trials": ()}),
        "one method": made({"ts": MEANS["ts"]}),
        "one teacher": made({"ts": {"a": 0.7}, "dkd": {"a": 0.75}}),
        "one seed": judged(grid(one_seed, no_teacher=[0.7], label_smoothing=[0.7])),
        "failed": judged(grid(failed, no_teacher=ALONE, label_smoothing=[None, 0.71, 0.71])),
        "unknown MACs": judged(unknown.model_copy(update={"teachers": teachers})),
        "of the user": made({"ts": MEANS["ts"], "python:my.py:focal": MEANS["dkd"]}),
        "no noise": judged(
            grid({cell: [0.7] * 3 for cell in table_of(MEANS)}, no_teacher=[0.7] * 3, label_smoothing=[0.7] * 3)
        ),
    }


@pytest.mark.parametrize("name", odd_grids())
def test_every_grid_is_rendered_and_shown(name, tmp_path, capsys):
    record = odd_grids()[name]
    page = render(record, tmp_path).read_text()
    assert "By which method should" in page
    assert not re.search(r"\bnan\b", page.split("<main>")[1])
    assert (tmp_path / "report.md").read_text().startswith("# By which method should")
    show_record(record)
    shown = capsys.readouterr().out
    assert not re.search(r"\bnan\b", shown)


def test_names_of_the_user_are_escaped(tmp_path):
    names = dict.fromkeys(HOSTILE, 0.7)
    record = made({"ts": names})
    page = render(record, tmp_path).read_text()
    assert "<script" not in page
    assert "<img src=http" not in page


def test_the_report_of_equal_records_has_equal_bytes(tmp_path):
    one, other = (render(made(), tmp_path / name).parent for name in ("one", "other"))
    for file in sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file()):
        assert (one / file).read_bytes() == (other / file).read_bytes(), file


def test_every_section_is_a_function_of_the_record_alone():
    record = made()
    for section in GRID_SECTIONS.values():
        assert section(record) == section(record)
