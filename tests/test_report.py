import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from factories import (
    HOSTILE,
    STUDIES,
    bare,
    confirmed,
    failed_run,
    finalist,
    hostile_names,
    isats,
    profiled,
    run,
    study,
    targets,
    trial,
)
from scipy.stats import spearmanr

from autodistill.errors import StoreError
from autodistill.recommend import recommend
from autodistill.records import RaceRecord, StudyRecord, TrialParams, read_study
from autodistill.report import render
from autodistill.report.canvas import COLOURS, MARKERS
from autodistill.report.sections.evidence import MOST_CURVES, MOST_POINTS, curves_info, failures_info, trials_info
from autodistill.report.sections.method import budget_info, environment_info, method_info
from autodistill.report.sections.mismatch import mismatch_info, rank_correlation
from autodistill.report.sections.verdict import leaderboard_info
from autodistill.report.words import EMPTY, clean, duration, markdown, short

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks nesting while it reads; collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module", params=list(STUDIES))
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyRecord, Path]:
    record = STUDIES[request.param]()
    folder = tmp_path_factory.mktemp("report")
    assert render(record, folder) == folder / "report.html"
    return record, folder


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_page_is_one_closed_accessible_file(rendered: tuple[StudyRecord, Path]) -> None:
    text = (rendered[1] / "report.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 400_000
    page = Page(text)
    assert page.open == []
    names = [tag for tag, _ in page.tags]
    assert not {"script", "iframe", "link", "object", "base", "form"} & set(names)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert ("meta", {"http-equiv": "Content-Security-Policy", "content": policy}) in page.tags
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
        assert (attributes.get("src") or "data:").startswith("data:image/svg+xml;base64,"[: len("data:")])
        if tag == "img":
            assert attributes["alt"]
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
    assert names.count("caption") == names.count("table")
    assert next(attributes for tag, attributes in page.tags if tag == "html")["lang"] == "en"


def test_headings_are_in_order_and_links_lead_somewhere(rendered: tuple[StudyRecord, Path]) -> None:
    page = Page((rendered[1] / "report.html").read_text(encoding="utf-8"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"] for tag, attributes in page.tags if tag == "a"} <= {f"#{one}" for one in ids}


def test_study_json_reads_back(rendered: tuple[StudyRecord, Path]) -> None:
    record, folder = rendered
    assert read_study(folder / "study.json") == record.model_copy(update={"recommendation": recommend(record)})


def test_markdown_tables_hold_together(rendered: tuple[StudyRecord, Path]) -> None:
    text = (rendered[1] / "report.md").read_text(encoding="utf-8")
    outside = re.sub(r"(?s)```.*?```", "", text)
    assert "<" not in outside
    assert "\n\n\n" not in text
    for block in re.findall(r"(?m)(?:^\|.*\n)+", outside):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1
        assert re.fullmatch(r"\|(?: -{3}:? \|)+", block.splitlines()[1])


def test_charts_are_whole_and_linked(rendered: tuple[StudyRecord, Path]) -> None:
    folder = rendered[1]
    found = {path.name for path in (folder / "charts").glob("*.svg")}
    for name in found:
        ElementTree.parse(folder / "charts" / name)
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(charts/([a-z]+\.svg)\)", text)) <= found


@pytest.mark.parametrize("name", ["nothing", "20 trials"])
def test_two_renders_are_byte_equal(name: str, tmp_path: Path) -> None:
    render(STUDIES[name](), tmp_path / "one")
    render(read_study(tmp_path / "one" / "study.json"), tmp_path / "two")
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """As teachers, study name and command: shown as they are, in HTML and in markdown, and never as markup."""
    table: dict[str | None, list[float | None]] = {f"{name} a": [0.79, 0.78, 0.785] for name in HOSTILE}
    everything = " ".join(HOSTILE)
    record = confirmed({**table, None: [0.70, 0.705, 0.71]})
    render(record.model_copy(update={"name": everything, "command": f"run {everything}"}), tmp_path)
    written = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(written)
    text = " ".join("".join(page.text).split())
    prose = re.sub(r"(?ms)^(`{3,})\n.*?\n\1$", "", (tmp_path / "report.md").read_text(encoding="utf-8"))
    for name in table:
        assert clean(short(name or "")) in text
        assert markdown(clean(short(name or ""))) in prose
    assert " ".join(clean(everything).split()) in text
    assert "<script" not in written
    assert len([tag for tag, _ in page.tags if tag == "img"]) == len(list((tmp_path / "charts").glob("*.svg")))
    assert "<" not in prose


def test_markdown_escapes() -> None:
    assert markdown("a | b\n<i> _x_ tau_other `c`") == "a \\| b &lt;i&gt; \\_x\\_ tau_other \\`c\\`"


def test_passwords_never_reach_a_report(tmp_path: Path) -> None:
    secret = "postgresql://me:hunter2@db.example/optuna"
    record = study(3).model_copy(update={"command": f"autodistill search --storage {secret}"})
    render(record.model_copy(update={"environment": {"storage": secret}}), tmp_path)
    assert b"postgresql://me:***@db.example/optuna" in snapshot(tmp_path)["study.json"]
    assert not [name for name, content in snapshot(tmp_path).items() if b"hunter2" in content]


def test_a_read_only_folder_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="taken"):
        render(bare({}), tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "a file where the folder should be"


def test_a_failed_render_keeps_the_old_report(tmp_path: Path) -> None:
    render(study(3), tmp_path)
    before = snapshot(tmp_path)
    broken = study(3).model_copy(update={"data": None})
    with pytest.raises(AttributeError):
        render(broken, tmp_path)
    assert snapshot(tmp_path) == before


def test_the_stored_threshold_is_kept(tmp_path: Path) -> None:
    record = bare({})
    render(record.model_copy(update={"recommendation": recommend(record, threshold=0.05)}), tmp_path)
    assert json.loads((tmp_path / "study.json").read_text())["recommendation"]["threshold"] == 0.05


def test_import_is_light() -> None:
    code = "import sys, autodistill.report; print([m for m in ('torch', 'optuna', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_leaderboard_by_hand() -> None:
    record = study(20)
    table = leaderboard_info(record).table
    rows = {row.cells[0].text: [cell.text for cell in row.cells] for row in table.rows}
    assert list(rows)[-2:] == ["no teacher", "plain KD"]
    best = max(one.full.val_top1 for one in record.trials if one.full and one.params.teacher == "ladder-m")
    assert rows["ladder-m"][1:5] == ["85.8 %", "24 k", "5", f"{100 * best:.1f} %"]
    verdict = recommend(record)
    top = verdict.ranking[0]
    assert rows[top.teacher][5] == f"{100 * top.confirmed_test_top1:.1f} %"
    assert [column.label for column in table.columns][6] == "P(best)"
    assert rows[top.teacher][6] == f"{top.p_best:.2f}"
    assert rows["no teacher"][6] == "< 0.01"
    assert rows["plain KD"][6] == EMPTY
    assert table.rows[0].cells[0].text == top.teacher
    assert [row.cells[0].text for row in table.rows if row.mark == "pick"] == [verdict.teacher]
    kd = table.rows[-1].cells
    in_use = table.rows[0].cells[8].below
    assert in_use.startswith("in use: tau target ")
    assert (kd[5].below, kd[8].text) == ("unconfirmed, 1 run", "TS (tau 4, tau student 4), soft weight 0.9")


def test_too_few_seeds_for_an_interval_are_said_to_be() -> None:
    record = confirmed({"a": [0.76, 0.82], None: [0.70, 0.70]})
    cells = leaderboard_info(record).table.rows[0].cells
    assert (cells[5].text, cells[5].below) == ("79.0 %", "too few seeds, 2 seeds")
    assert cells[7].below == "too few seeds"


def test_a_race_is_explained_where_there_was_one() -> None:
    record = confirmed({None: [0.7, 0.71, 0.72], "a": [0.8, 0.81, 0.82], "b": [0.75, 0.76, 0.77]})
    plan = record.plan.model_copy(update={"race": RaceRecord(first=3, seeds=5)})
    assert "Racing" not in dict(method_info(record).points)
    assert "over 3 confirm seeds" in dict(method_info(record.model_copy(update={"plan": plan})).points)["Racing"]


def test_mismatch_by_hand() -> None:
    scores = {"ladder-s": 0.77, "ladder-m": 0.79, "ladder-l": 0.78, "ladder-xl": 0.76}
    trials = [
        trial(number, isats(name), state="complete", score=val) for number, (name, val) in enumerate(scores.items())
    ]
    record = study(0).model_copy(update={"trials": tuple(trials), "plain_kd": None})
    info = mismatch_info(record)
    # Teacher ranks 1 2 3 4, student ranks 2 4 3 1: 1 - 6 (1 + 4 + 0 + 9) / (4 x 15) = -0.4.
    assert info.spearman == pytest.approx(-0.4)
    assert info.regret == pytest.approx(0.03)
    assert info.figure.finding == (
        "The most accurate teacher, ladder-xl (91.1 %), made student 4 of 4, 3.0 points below the best "
        "(Spearman -0.40 over 4 teachers)."
    )


def test_plain_kd_is_a_full_run_of_its_teacher() -> None:
    record = study(20)
    teacher = record.plain_kd.params.teacher
    best = record.plain_kd.model_copy(update={"curve": run("kd", record.plain_kd.params, val=0.95).curve})
    cells = {
        row.cells[0].text: row.cells
        for row in leaderboard_info(record.model_copy(update={"plain_kd": best})).table.rows
    }
    assert cells[teacher][4].text == "95.0 %"


def test_rank_correlation_is_scipys() -> None:
    x, y = [0.1, 0.5, 0.5, 0.7, 0.9, 0.2], [3.0, 1.0, 2.0, 2.0, 2.0, 9.0]
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert rank_correlation([1.0, 2.0], [1.0, 2.0]) is None


def test_trial_notes_warn_about_bounds_displacement_and_replicates() -> None:
    record = study(12)
    odd = record.trials[11]
    summary = targets(at_lower=0.7, displaced=0.12)
    odd = odd.model_copy(update={"short": odd.short.model_copy(update={"targets": summary}), "full": None})
    notes = trials_info(record.model_copy(update={"trials": (odd,)})).table.rows[0].cells[-1].text
    assert "replicate of trial 5" in notes
    assert "at a bound for 70 % of the samples that the teacher gets right" in notes
    assert "lost its first place in 12 %" in notes
    plain = record.trials[0].model_copy(update={"reason": ""})
    assert "bound" not in trials_info(record.model_copy(update={"trials": (plain,)})).table.rows[0].cells[-1].text


def test_long_studies_are_cut_and_say_so() -> None:
    record = study(1000)
    table = trials_info(record).table
    curves = curves_info(record)
    assert len(table.rows) == 100
    assert "100 of 1,000 trials" in table.note
    assert len(curves.curves) == MOST_CURVES
    assert "60 of 1,002 curves shown" in curves.note
    shown = {row.cells[0].text for row in table.rows}
    best = max((one for one in record.trials if one.full), key=lambda one: one.full.val_top1)
    assert str(best.number) in shown


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    long = run("long", TrialParams(), val=0.7, epochs=240)
    curve = curves_info(bare({}).model_copy(update={"no_teacher": long})).curves[0]
    assert len(curve.points) == MOST_POINTS
    assert (curve.points[0][0], curve.points[-1]) == (1, (240, 0.7))
    epochs = [epoch for epoch, _ in curve.points]
    assert sorted(set(epochs)) == epochs


def test_saving_by_hand() -> None:
    """Twenty trials pruned after 4 of 12 epochs: 240 epochs not spent, 80 spent on short runs."""
    info = curves_info(study(20, state="pruned"))
    assert (info.pruned, info.saved_epochs, info.short_epochs) == (20, 240, 80)
    assert "240 epochs (20.0 full-training equivalents) not spent" in info.saving
    assert {curve.mark for curve in info.curves[2:]} == {"pruned"}


def test_budget_counts_a_shared_run_once() -> None:
    baseline = run("baselines/none", TrialParams(), val=0.77, test=0.77, seed=1000)
    one = finalist(None, {1001: 0.77})
    record = bare({}).model_copy(
        update={"no_teacher": baseline, "finalists": (one.model_copy(update={"runs": (baseline, *one.runs)}),)}
    )
    spent = {part.name: part.spent for part in budget_info(record).parts}
    assert spent == {"no teacher": 1.0, "plain KD": 0.0, "priors": 0.0, "search": 0.0, "confirm": 1.0}


def test_failures_are_listed_with_reasons() -> None:
    record = bare({}).model_copy(update={"no_teacher": failed_run("baselines/none", TrialParams())})
    info = failures_info(record)
    assert info.total == 1
    assert "non-finite in epoch 2" in info.table.rows[0].cells[-1].text
    assert failures_info(bare({})).table is None


def test_method_names_what_the_intervals_leave_out() -> None:
    info = method_info(study(20))
    words = " ".join(info.limits)
    assert "Split and view noise are not in the intervals" in words
    accuracy = recommend(study(20)).ranking[0].confirmed_test_top1
    assert f"{100 * (accuracy * (1 - accuracy) / 10000) ** 0.5:.1f} points (standard error" in words
    terms = dict(info.points)
    assert "4,000 train, 4,000 validation and 10,000 test" in terms["Data"]
    assert "averaged over the batch" in terms["Loss"]


def test_environment_renders_what_is_there() -> None:
    info = environment_info(study(20))
    timing = {row.cells[0].text: row.cells[1].text for row in info.timing.rows}
    assert timing == {
        "teachers": "21.4 s",
        "search": "3 min 10 s",
        "confirm": "1 min 17 s",
        "all phases": "4 min 49 s",
        "2 training runs, summed over the workers": "41.0 s",
        "of it: teachers over views that were not cached": "4.0 s",
        "of it: cached logits, read or waited for": "0.5 s",
        "of it: the student's training": "35.0 s",
        "of it: evaluation of the student": "1.5 s",
        "teacher runs over a view of the data, all others cached": "48",
    }
    record = study(20)
    phases = {"start-up": 5.0, "teachers": 20.0, "search": 45.0}
    times = {"phases_s": phases, "planned_s": {"teachers": 18.0, "search": 42.5}}
    timing = environment_info(record.model_copy(update={"timing": times})).timing
    found = {row.cells[0].text: row.cells[1].text for row in timing.rows}
    assert list(found)[:5] == ["start-up", "teachers", "search", "all phases", "planned before the first run"]
    assert found["planned before the first run"] == "1 min 00 s; took 1 min 05 s"
    odd = bare({}).model_copy(update={"space": {"a": None, "b": [1, None]}, "environment": {"x": None, "ok": True}})
    assert environment_info(odd).space == "b = [\n    1,\n]"
    assert environment_info(odd).timing is None
    for paper in ("10.1007/s11704-025-41434-w", "arXiv:2405.13078", "NeurIPS 2022", "1503.02531", "Akiba"):
        assert paper in " ".join(info.citations)


def test_forty_teachers_look_different() -> None:
    looks = {(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]) for place in range(40)}
    assert len(looks) == 40


def test_words() -> None:
    assert short("a" * 40 + "b" * 40, 12) == "aaaaaaa\N{HORIZONTAL ELLIPSIS}bbbb"
    assert [duration(value) for value in (3.21, 61, 7380.0)] == ["3.2 s", "1 min 01 s", "2 h 03 min"]
    assert clean("a\x00b\u202ec") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_contrast_is_at_least_four_and_a_half(scheme: int) -> None:
    """WCAG 2 contrast of every text colour on every background, in the light and the dark scheme."""
    from importlib.resources import files

    css = files("autodistill.report").joinpath("templates", "style.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", css.split(":root")[1 + scheme]))
    for ink in ("ink", "muted", "accent", "good", "open"):
        for ground in ("page", "card", "faint", "pick"):
            light, dark = sorted((_luminance(colours[ink]), _luminance(colours[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)


def test_a_thousand_trials_of_forty_hostile_teachers_fit(tmp_path: Path) -> None:
    """Far below the limit of 500 KB, with at most 60 curves and 100 rows, and a line that says where the rest is."""
    written = render(profiled(study(1000, teachers=hostile_names(40))), tmp_path).read_text(encoding="utf-8")
    assert len(written.encode()) < 400_000
    assert max(body.count("<tr") for body in re.findall(r"(?s)<tbody>(.*?)</tbody>", written)) == 100
    for cut in ("100 of 1,000 trials, those with the best scores,", "60 of 1,002 curves"):
        assert f"{cut} shown; the rest is in study.json." in written
    assert len(read_study(tmp_path / "study.json").trials) == 1000


def test_what_is_not_cut_says_nothing_of_a_rest(tmp_path: Path) -> None:
    assert "the rest is in study.json" not in render(study(20), tmp_path).read_text(encoding="utf-8")
