"""A study's record as HTML, markdown and JSON. Nothing upstream knows that reports exist."""

import base64
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from autodistill.errors import StoreError
from autodistill.records import ComparisonRecord, InspectionRecord, StudyRecord, to_json
from autodistill.report.charts import CHARTS
from autodistill.report.sections import SECTIONS, TEACHER_SECTIONS
from autodistill.report.sections.students import students_info
from autodistill.report.student_charts import pareto_chart
from autodistill.report.words import clean, markdown, redact
from autodistill.stats.recommend import judged
from autodistill.stats.students import judged_students
from autodistill.store import write_text

_BLANK_LINES = re.compile(r"\n{3,}")
_PER_CENT = re.compile(r"(?<=\d) %")


def render(record: StudyRecord, out_dir: Path) -> Path:
    """Write `report.html`, `report.md`, `study.json` and `charts/*.svg`, each whole or not at all.

    Returns:
        The path of `report.html`, which is written last.

    Raises:
        StoreError: the folder cannot be written.
    """
    record = judged(record)
    infos = {name: section(record) for name, section in SECTIONS.items()}
    charts = {name: draw(infos[name]) for name, draw in CHARTS.items() if infos[name].figure is not None}
    for name, svg in charts.items():
        write_text(out_dir / "charts" / f"{name}.svg", svg.decode())
    write_text(out_dir / "study.json", redact(to_json(record)))
    write_text(out_dir / "report.md", as_markdown(record, infos, charts))
    write_text(out_dir / "report.html", as_html(record, infos, charts))
    return out_dir / "report.html"


def render_comparison(record: ComparisonRecord, out_dir: Path) -> Path:
    """Write the page of several students, and each student's whole report below `students/`.

    Returns:
        The path of `report.html`, which is written last.

    Raises:
        StoreError: the folder cannot be written.
    """
    record = judged_students(record)
    studies, choice = record.studies, record.choice
    if wrong := [study.name for study in studies if Path(study.name).name != study.name]:
        raise StoreError(f"study {wrong[0]!r}: the name is no plain name of a folder", "give it the name that it had")
    assert choice is not None
    for study in studies:
        render(study, out_dir / "students" / study.name)
    info = students_info(record, choice)
    charts = {"students": pareto_chart(info)} if info.figure else {}
    for name, svg in charts.items():
        write_text(out_dir / "charts" / f"{name}.svg", svg.decode())
    write_text(out_dir / "study.json", redact(to_json(record)))
    infos = {"students": info, "data": studies[0].data}
    write_text(out_dir / "report.md", as_markdown(record, infos, charts, template="comparison.md.j2"))
    write_text(out_dir / "report.html", as_html(record, infos, charts, template="comparison.html.j2"))
    return out_dir / "report.html"


def render_inspection(record: InspectionRecord, out_dir: Path) -> Path:
    """Write `teachers.html`: what a report says about its teachers' dark knowledge, without a study.

    Returns:
        Its path.

    Raises:
        StoreError: the folder cannot be written.
    """
    infos = {name: section(record) for name, section in TEACHER_SECTIONS.items()}
    charts = {name: CHARTS[name](info) for name, info in infos.items() if name in CHARTS and info.figure is not None}
    page = out_dir / "teachers.html"
    write_text(page, as_html(record, infos, charts, template="inspection.html.j2"))
    return page


def as_html(
    record: StudyRecord | InspectionRecord | ComparisonRecord,
    infos: Mapping[str, Any],
    charts: Mapping[str, bytes],
    *,
    template: str = "report.html.j2",
) -> str:
    """One page without script or outside request; charts are embedded."""
    embedded = {name: f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}" for name, svg in charts.items()}
    return _html().get_template(template).render(record=record, charts=embedded, **infos)


def as_markdown(
    record: StudyRecord | ComparisonRecord,
    infos: Mapping[str, Any],
    charts: Mapping[str, bytes],
    *,
    template: str = "report.md.j2",
) -> str:
    """The same sections as text that pastes into a pull request; charts are links."""
    linked = {name: f"charts/{name}.svg" for name in charts}
    text = _markdown().get_template(template).render(record=record, charts=linked, **infos)
    return _BLANK_LINES.sub("\n\n", text)


@cache
def _html() -> Environment:
    """Autoescape is on; a per cent sign stays on the line of its number."""
    environment = _environment(
        lambda value: value if isinstance(value, Markup) else _PER_CENT.sub("\N{NO-BREAK SPACE}%", clean(str(value)))
    )
    environment.filters["verbatim"] = lambda text: escape(clean(text))
    environment.filters["words"] = _words
    return environment


@cache
def _markdown() -> Environment:
    """Autoescape is on and every value leaves as Markup that was escaped for markdown: nothing can be forgotten."""
    environment = _environment(
        lambda value: value if isinstance(value, Markup) else Markup(markdown(clean(str(value))))
    )
    environment.filters["fenced"] = _fenced
    return environment


def _environment(finalize: Any) -> Environment:
    loader = PackageLoader("autodistill.report")
    return Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _words(text: str) -> Markup:
    """A command whose lines break between words only: browsers take the hyphens of an option for a chance too."""
    return Markup(" ").join(Markup("<span>{}</span>").format(word) for word in clean(text).split(" "))


def _fenced(text: str) -> Markup:
    """A code block whose fence is longer than any run of backticks inside it."""
    text = clean(text)
    fence = "```"
    while fence in text:
        fence += "`"
    return Markup(f"{fence}\n{text}\n{fence}")
