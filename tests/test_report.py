import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from factories import HOSTILE, STUDIES, bare, confirmed, hostile_names, profiled, study

from autodistill.errors import StoreError
from autodistill.formatting import clean, duration, markdown, short
from autodistill.records import StudyRecord, read_study
from autodistill.report import SECTIONS, render
from autodistill.report.canvas import COLOURS, MARKERS
from autodistill.stats.verdict import recommend

pytestmark = pytest.mark.slow

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


def links_of(node: ElementTree.Element) -> list[str]:
    """Return what an element of an SVG refers to."""
    return [value for name, value in node.attrib.items() if name.rpartition("}")[2] in ("href", "src")]


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
        assert tag == "img" or "src" not in attributes
        if tag == "img":
            assert attributes["alt"]
            kind, _, svg = (attributes["src"] or "").partition(",")
            assert kind == "data:image/svg+xml;base64"
            links = [value for node in ElementTree.fromstring(base64.b64decode(svg)).iter() for value in links_of(node)]
            assert all(link.startswith("#") for link in links)
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


def test_every_section_and_part_is_on_the_page_and_in_markdown(rendered: tuple[StudyRecord, Path]) -> None:
    record, folder = rendered
    record = record.model_copy(update={"recommendation": recommend(record)})
    sections = {name: found for name, section in SECTIONS.items() if (found := section(record))}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<h2 id="(?!recommendation")(\w+)">([^<]*)', page) == [
        (name, section.heading) for name, section in sections.items()
    ]
    assert re.findall(r'<li><a href="#(\w+)"', page) == list(sections)
    parts = [part for section in sections.values() for part in section.parts if part and part.heading]
    assert re.findall(r"<(?:h3|summary)>(?!The numbers<)([^<]*)", page) == [part.heading for part in parts]
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^## (.*)", text)[1:] == [section.heading for section in sections.values()]
    assert re.findall(r"(?m)^### (.*)", text) == [part.heading for part in parts if not part.code]
    for section in (*sections.values(), *parts):
        for words in (section.text, section.note):
            assert markdown(clean(words)) in text


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


VERSION_1 = Path(__file__).parent / "files" / "study-version-1.json"


def test_a_record_of_version_1_renders(tmp_path: Path) -> None:
    """The file is that of a study which the last release with version 1 made."""
    record = read_study(VERSION_1)
    page = render(record, tmp_path).read_text(encoding="utf-8")
    assert record.schema_version == 2
    assert {trial.params.method for trial in record.trials} == {"ts", "ats", "isats"}
    assert all(trial.rung is not None for trial in record.trials)
    assert len(record.reruns) == 2
    assert record.recommendation is not None
    assert record.recommendation.teacher in page
    assert "repeats this study run for run" in page


def test_an_asynchronous_study_of_version_1_renders_and_promises_no_equal_study(tmp_path: Path) -> None:
    """Its trials hold an audit trail, which no report shows; its command does not repeat it."""
    document = json.loads(VERSION_1.read_text(encoding="utf-8"))
    document["plan"]["asynchronous"] = True
    for trial in document["trials"]:
        trial["audit_trail"] = {"sampler_seed": 1, "known": [[0, 1]], "running": [2], "rivals": {"0": 0.5}}
    (tmp_path / "study.json").write_text(json.dumps(document), encoding="utf-8")
    page = render(read_study(tmp_path / "study.json"), tmp_path / "async").read_text(encoding="utf-8")
    for words in ("<dt>Suggestions</dt>", "does not repeat this study run for run"):
        assert words in page
    assert "repeats this study run for run" not in page
    for text in (page, (tmp_path / "async" / "report.md").read_text(encoding="utf-8")):
        assert "audit trail" not in text.lower()
        assert "sampler seed" not in text.lower()


def test_import_is_light() -> None:
    code = "import sys, autodistill.report; print([m for m in ('torch', 'optuna', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_forty_teachers_look_different() -> None:
    looks = {(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]) for place in range(40)}
    assert len(looks) == 40


def test_words() -> None:
    assert short("a" * 40 + "b" * 40, 12) == "aaaaaaa\N{HORIZONTAL ELLIPSIS}bbbb"
    assert [duration(value) for value in (3.21, 61, 7380.0)] == ["3.2 s", "1 min 01 s", "2 h 03 min"]
    assert clean("a\x00b\u202ec") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"


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


@pytest.mark.parametrize("trials", [3, 20, 40])
@pytest.mark.parametrize("notes", [(), ("read as it is", "another")])
def test_blank_lines_stand_between_sections_only(tmp_path: Path, trials: int, notes: tuple[str, ...]) -> None:
    record = study(trials)
    teachers = tuple(it.model_copy(update={"notes": notes}) for it in record.teachers)
    render(record.model_copy(update={"teachers": teachers}), tmp_path)
    page = (tmp_path / "report.html").read_text()
    page = re.sub(r"(<(pre|style)[^>]*>).*?(</\2>)", r"\1\3", page, flags=re.DOTALL)
    whole = page.split("\n")
    blank = [number for number, line in enumerate(whole[:-1]) if not line.strip()]
    assert blank
    for number in blank:
        assert whole[number - 1] in ("</section>", "</nav>")
        assert whole[number + 1].startswith(("<section", "<nav"))
    lines = (tmp_path / "report.md").read_text().split("\n")
    assert "\n\n\n" not in "\n".join(line.strip() for line in lines)
    for row, after in pairwise(lines):
        assert not row.startswith("|") or after.startswith("|") or not after, "text would be a row of the table"
