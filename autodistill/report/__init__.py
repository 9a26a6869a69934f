"""Reports: a record as HTML, markdown, JSON and charts.

A section is a pure function of the record in `SECTIONS`. The templates lay out all sections alike.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from autodistill.errors import StoreError
from autodistill.formatting import clean, markdown, redact
from autodistill.records import ComparisonRecord, InspectionRecord, StudyRecord, to_json
from autodistill.report import method, methods, teachers, trials, verdict
from autodistill.report.parts import Answer, Section
from autodistill.report.places import without_folders
from autodistill.stats.students import judged_students
from autodistill.stats.verdict import judged
from autodistill.store import write_text

TEACHER_SECTIONS: dict[str, Callable[[StudyRecord | InspectionRecord], Section]] = {
    "notes": teachers.notes_info,
    "knowledge": teachers.knowledge_info,
}
"""Sections that need only teachers, not a study."""

SECTIONS: dict[str, Callable[[StudyRecord], Section]] = {
    "why": verdict.why_info,
    "leaderboard": verdict.leaderboard_info,
    "controls": verdict.controls_info,
    "mismatch": verdict.mismatch_info,
    **TEACHER_SECTIONS,
    "trials": trials.trials_info,
    "curves": trials.curves_info,
    "importance": trials.importance_info,
    "failures": trials.failures_info,
    "budget": method.budget_info,
    "method": method.method_info,
    "environment": method.environment_info,
}
"""The sections of a study's report, in the order of the page, by the anchor of their heading."""

GRID_SECTIONS: dict[str, Callable[[StudyRecord], Section]] = {
    "why": methods.grid_why,
    "mismatch": methods.capacity_info,
    "cells": methods.cells_info,
    "shared": methods.shared_info,
    **TEACHER_SECTIONS,
    **{name: SECTIONS[name] for name in ("trials", "curves", "failures", "budget", "method", "environment")},
}
"""The sections of the report of a method grid."""

_BLANK_LINES = re.compile(r"\n{3,}")
_PER_CENT = re.compile(r"(?<=\d) %")


def render(record: StudyRecord, out_dir: Path) -> Path:
    """Write `report.md`, `study.json`, `charts/*.svg` and last `report.html`, each atomically; return the last path.

    Raises:
        StoreError: the folder cannot be written.
    """
    record = without_folders(judged(record))
    is_grid = record.grid is not None
    sections = {name: section(record) for name, section in (GRID_SECTIONS if is_grid else SECTIONS).items()}
    answer = methods.grid_answer(record) if is_grid else verdict.answer_info(record)
    return _write(record, answer, sections, out_dir, "report")


def render_comparison(record: ComparisonRecord, out_dir: Path) -> Path:
    """Write the page that compares several students as `render` does, and each student's report below `students/`.

    Raises:
        StoreError: the folder cannot be written.
    """
    record = without_folders(judged_students(record))
    if wrong := [study.name for study in record.studies if Path(study.name).name != study.name]:
        raise StoreError(f"study {wrong[0]!r}: the name is not a plain folder name", "restore the original name")
    for study in record.studies:
        render(study, out_dir / "students" / study.name)
    answer, sections = verdict.comparison_answer(record), verdict.comparison_sections(record)
    return _write(record, answer, sections, out_dir, "comparison")


def _write(
    record: StudyRecord | ComparisonRecord,
    answer: Answer,
    sections: Mapping[str, Section],
    out_dir: Path,
    template: str,
) -> Path:
    charts = _charts(sections.values())
    for name, svg in charts.items():
        write_text(out_dir / "charts" / f"{name}.svg", svg)
    write_text(out_dir / "study.json", redact(to_json(record)))
    values = {"record": record, "answer": answer, "sections": sections}
    write_text(out_dir / "report.md", as_markdown(f"{template}.md.j2", **values))
    write_text(out_dir / "report.html", _as_html(f"{template}.html.j2", charts, **values))
    return out_dir / "report.html"


def render_inspection(record: InspectionRecord, out_dir: Path) -> Path:
    """Write `teachers.html`, the sections on dark knowledge for teachers without a study; return its path.

    Raises:
        StoreError: the folder cannot be written.
    """
    record = without_folders(record)
    sections = {name: section(record) for name, section in TEACHER_SECTIONS.items()}
    page = _as_html("inspection.html.j2", _charts(sections.values()), record=record, sections=sections)
    write_text(out_dir / "teachers.html", page)
    return out_dir / "teachers.html"


def _charts(sections: Iterable[Section]) -> dict[str, str]:
    """Draw the charts of sections and of their parts, by name."""
    charts = {}
    for section in sections:
        if section.figure:
            charts[section.figure.name] = section.figure.draw().decode()
        charts |= _charts(section.parts)
    return charts


def _as_html(template: str, charts: Mapping[str, str], **values: Any) -> str:
    """Return one HTML page without scripts or outside requests; charts are embedded."""
    embedded = {
        name: f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}" for name, svg in charts.items()
    }
    return _html().get_template(template).render(charts=embedded, **values)


def as_markdown(template: str, **values: Any) -> str:
    """Render a template as markdown in which all values are escaped."""
    return _BLANK_LINES.sub("\n\n", _markdown().get_template(template).render(values))


@cache
def _html() -> Environment:
    """Return the environment of HTML templates. It escapes all values and keeps per cent signs with their numbers."""
    environment = _environment(lambda text: _PER_CENT.sub("\N{NO-BREAK SPACE}%", text))
    environment.filters["verbatim"] = lambda text: escape(clean(text))
    environment.filters["words"] = _words
    return environment


@cache
def _markdown() -> Environment:
    """Return the environment of markdown templates, which escapes all values for markdown."""
    environment = _environment(lambda text: Markup(markdown(text)))
    environment.filters["fenced"] = _fenced
    environment.filters["verbatim"] = lambda text: Markup(" ".join(clean(text).split()))
    # JSON strings are valid YAML strings; without line breaks, because YAML knows more of them than JSON.
    environment.filters["yaml"] = lambda text: Markup(json.dumps(" ".join(clean(text).split()), ensure_ascii=False))
    return environment


def _environment(shown: Callable[[str], str]) -> Environment:
    """Return an environment that applies `shown` to every value but markup, so that no template can forget it."""
    return Environment(
        loader=PackageLoader("autodistill.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else shown(clean(str(value))),
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
