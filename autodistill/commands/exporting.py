"""`export`: the recommended student, ready to ship."""

from pathlib import Path

from autodistill import console, showing
from autodistill.commands.loading import shown_loading
from autodistill.config import load
from autodistill.export import chosen, export_student, left_out
from autodistill.formatting import count
from autodistill.study import KNOWN

EXPORTS = Path("exports")


def export(run: str, *, weights: Path | None, formats: str, to: Path | None) -> None:
    """Export a study's recommended student and say what was written."""
    names = chosen(formats)
    folder, record = showing.study_of(run)
    to = to or EXPORTS / record.name
    space = load(str(folder.space), known=KNOWN)
    with shown_loading() as load_data:
        found = export_student(
            record, folder, space=space, to=to, formats=names, weights=weights, load_data=load_data
        )
    rows = [
        (it.file, count(it.size_bytes) + "B", f"{it.max_difference:.2g}", it.changed, it.about) for it in found.files
    ]
    columns = ("file", ">size", ">largest difference", ">other top-1", "what")
    title = f"Exported to {to} (logits against the student's on {record.data.test:,} test images)"
    console.show_table(title, columns, rows)
    console.show_text(f"test accuracy {console.percent(found.test_top1)} %, weights of {found.source}")
    if not formats:
        for name in left_out(names):
            console.show_note(f"{name} left out: pip install 'kd-autodistill[{name}]' and export again")
    console.show_note(f"Next: fill in the licences in {to / 'README.md'}")
