"""Reports: a record as HTML, markdown, JSON and charts.

A section is a pure function of the record in `SECTIONS` and a block in both templates.
"""

import base64
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from autodistill.errors import StoreError
from autodistill.formatting import clean, markdown, redact
from autodistill.records import ComparisonRecord, InspectionRecord, StudyRecord, to_json
from autodistill.report.charts import CHARTS, pareto_chart
from autodistill.report.controls import controls_info, replicates_info
from autodistill.report.importance import importance_info, pair_info, slices_info
from autodistill.report.method import budget_info, environment_info, method_info
from autodistill.report.scores import scores_info
from autodistill.report.students import students_info
from autodistill.report.teachers import agreement_info, knowledge_info, temperatures_info
from autodistill.report.trials import curves_info, failures_info, reruns_info, trials_info
from autodistill.report.verdict import leaderboard_info, mismatch_info, recommendation_info
from autodistill.stats.students import judged_students
from autodistill.stats.verdict import judged
from autodistill.store import write_text

TEACHER_SECTIONS: dict[str, Callable[[StudyRecord | InspectionRecord], Any]] = {
    "knowledge": knowledge_info,
    "temperatures": temperatures_info,
    "agreement": agreement_info,
    "scores": scores_info,
}
"""Sections that need only teachers, not a study."""

SECTIONS: dict[str, Callable[[StudyRecord], Any]] = {
    "recommendation": recommendation_info,
    "leaderboard": leaderboard_info,
    "controls": controls_info,
    "mismatch": mismatch_info,
    **TEACHER_SECTIONS,
    "trials": trials_info,
    "curves": curves_info,
    "reruns": reruns_info,
    "importance": importance_info,
    "slices": slices_info,
    "pair": pair_info,
    "replicates": replicates_info,
    "failures": failures_info,
    "budget": budget_info,
    "method": method_info,
    "environment": environment_info,
}
"""The data functions of a study's report, in the order of the page."""

_BLANK_LINES = re.compile(r"\n{3,}")
_PER_CENT = re.compile(r"(?<=\d) %")


def render(record: StudyRecord, out_dir: Path) -> Path:
    """Write `report.html`, `report.md`, `study.json` and `charts/*.svg`, each atomically.

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
    """Write the page that compares several students, and each student's report below `students/`.

    Returns:
        The path of `report.html`, which is written last.

    Raises:
        StoreError: the folder cannot be written.
    """
    record = judged_students(record)
    studies, choice = record.studies, record.choice
    if wrong := [study.name for study in studies if Path(study.name).name != study.name]:
        raise StoreError(f"study {wrong[0]!r}: the name is not a plain folder name", "restore the original name")
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
    """Write `teachers.html`, the sections on dark knowledge for teachers without a study.

    Returns:
        The path of `teachers.html`.

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
    """Return one HTML page without scripts or outside requests; charts are embedded."""
    embedded = {name: f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}" for name, svg in charts.items()}
    return _html().get_template(template).render(record=record, charts=embedded, **infos)


def as_markdown(
    record: StudyRecord | ComparisonRecord,
    infos: Mapping[str, Any],
    charts: Mapping[str, bytes],
    *,
    template: str = "report.md.j2",
) -> str:
    """Return the same sections as markdown for a pull request; charts are links."""
    linked = {name: f"charts/{name}.svg" for name in charts}
    text = _markdown().get_template(template).render(record=record, charts=linked, **infos)
    return _BLANK_LINES.sub("\n\n", text)


@cache
def _html() -> Environment:
    """Return the environment of HTML templates. It escapes all values and keeps per cent signs with their numbers."""
    environment = _environment(
        lambda value: value if isinstance(value, Markup) else _PER_CENT.sub("\N{NO-BREAK SPACE}%", clean(str(value)))
    )
    environment.filters["verbatim"] = lambda text: escape(clean(text))
    environment.filters["words"] = _words
    return environment


@cache
def _markdown() -> Environment:
    """Return the environment of markdown templates, which escapes all values for markdown."""
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
    """Wrap each word of a command in a span. Lines then break between words, not at the hyphens of an option."""
    return Markup(" ").join(Markup("<span>{}</span>").format(word) for word in clean(text).split(" "))


def _fenced(text: str) -> Markup:
    """Return a code block with a fence that is longer than any run of backticks inside it."""
    text = clean(text)
    fence = "```"
    while fence in text:
        fence += "`"
    return Markup(f"{fence}\n{text}\n{fence}")
