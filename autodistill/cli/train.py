"""`train`: train one student in full. `export`: write the recommended student for deployment."""

from pathlib import Path
from typing import Any

from autodistill import console
from autodistill.console import percent
from autodistill.errors import ConfigError
from autodistill.export import chosen, left_out
from autodistill.formatting import command_line, count
from autodistill.options import search_options
from autodistill.running import describe_student
from autodistill.shipping import export_study, train_student


def train(*, run: str, seed: int, to: Path, with_validation: bool, teacher: str = "", **flags: Any) -> None:
    """Train one student in full, write its weights and print its accuracy."""
    if run and flags.get("space"):
        raise ConfigError("--space beside --from: the study sets the space", "remove --space, or --from")
    options = search_options(teachers=[teacher] if teacher else (), **flags)
    if run:
        console.show_note(
            f"a new training, with seed {seed} and other weights than those of the study's confirm runs; to ship the "
            f"weights of the best confirm run without training: {command_line('export', run)}"
        )
    spec, trained = train_student(options, run=run, seed=seed, to=to, with_validation=with_validation)
    rows = [
        ("student", describe_student(spec)),
        ("configuration", console.described(trained.params)),
        ("trained on", f"{trained.trained_on.replace('+', ' + ')}, {trained.images:,} images"),
        ("validation %", "not scored: trained on" if with_validation else percent(trained.val_top1)),
        ("test %", percent(trained.test_top1)),
        ("test %, balanced over classes", percent(trained.test_balanced_top1)),
        ("weights", f"{to}, of this new training with seed {trained.seed}"),
    ]
    console.show_table("Trained", ("", ""), rows)
    if run:
        console.show_note(f"Next: {command_line('export', run, '--weights', to)}")


def export(run: str, *, weights: Path | None, formats: str, to: Path | None) -> None:
    """Export the recommended student of a study and print the files written."""
    names = chosen(formats)
    to, result = export_study(run, to=to, formats=names, weights=weights)
    rows = [
        (file.file, count(file.size_bytes) + "B", f"{file.max_difference:.2g}", file.changed, file.about)
        for file in result.files
    ]
    columns = ("file", ">size", ">largest difference", ">other top-1", "what")
    title = f"Exported to {to} (logits against the student's on {result.images:,} test images)"
    console.show_table(title, columns, rows)
    console.show_text(f"test accuracy {percent(result.test_top1)} %, weights of {result.source}")
    if weights is None:
        console.show_note(
            "chosen: of the confirm runs of the recommended configuration the one with the best validation accuracy; "
            "nothing was trained. For a new training, also on the validation images: "
            f"{command_line('train', '--from', run)}, then export with --weights FILE"
        )
    if not formats:
        for name in left_out(names):
            console.show_note(f"{name} left out: pip install 'kd-autodistill[{name}]' and export again")
    console.show_note(f"Next: fill in the licences in {to / 'README.md'}")
