"""The command line. Everything that is science is in the search space; flags are operational.

Exit codes: 0 done, 1 the run failed, 2 usage, configuration, missing teacher or data, 130 after Ctrl-C.
"""

from pathlib import Path
from typing import Annotated

import typer

from autodistill.cli.options import (
    DataName,
    Device,
    Format,
    Offline,
    OutputFormat,
    Overrides,
    Run,
    SpaceName,
    Student,
    Teachers,
    Workers,
)

app = typer.Typer(
    name="autodistill",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From which teacher, at which temperatures and loss weights, should this small student learn?\n\n"
    "`autodistill search --student mobilenetv2 --budget 20`\n\n"
    "Exit codes: 0 done, 1 the run failed, 2 usage, configuration, missing teacher or data, 130 after Ctrl-C.",
)
spaces_app = typer.Typer(no_args_is_help=True, help="List, show, copy and check search spaces.")
teachers_app = typer.Typer(no_args_is_help=True, help="Train, list and check teachers.")
app.add_typer(spaces_app, name="spaces")
app.add_typer(teachers_app, name="teachers")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from autodistill import __version__
        from autodistill.console import show_text

        show_text(f"kd-autodistill {__version__}")
        raise typer.Exit


@app.command()
def search(
    student: Student,
    teacher: Teachers = None,
    data: DataName = "",
    space: SpaceName = "",
    budget: Annotated[
        str, typer.Option(help="Total cost: 20 full trainings of the student, 600ep, 8h. Default: the space's.")
    ] = "",
    study: Annotated[
        str, typer.Option(help="Name of the study; default: SPACE-STUDENT. The same name resumes.")
    ] = "",
    seed: Annotated[int | None, typer.Option(help="Seed of the search and of its training runs.")] = None,
    device: Device = "auto",
    workers: Workers = None,
    overrides: Overrides = None,
    max_trials: Annotated[int | None, typer.Option(min=1, help="Most searched trials, priors included.")] = None,
    timeout: Annotated[str, typer.Option(help="Stop after this long (90s, 30m, 8h); the same command resumes.")] = "",
    cache_size: Annotated[str, typer.Option(help="Most disk for teacher logits.")] = "8GB",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, estimate, write nothing.")] = False,
    offline: Offline = False,
    output: OutputFormat = Format.TABLE,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")] = False,
) -> None:
    """Find the teacher for a student, within a budget; the same command resumes."""
    from autodistill import commands

    request = commands.search_request(
        student=student,
        teachers=teacher or (),
        data=data,
        space=space,
        budget=budget,
        study=study,
        seed=seed,
        device=device,
        workers=workers,
        overrides=overrides or (),
        max_trials=max_trials,
        timeout=timeout,
        cache_size=cache_size,
        offline=offline,
    )
    if dry_run:
        commands.dry_run(request, as_json=output is Format.JSON)
    else:
        commands.search(request, output=output.value, quiet=quiet)


@app.command()
def report(
    run: Run,
    to: Annotated[Path | None, typer.Option("--out", help="Folder; default: reports/STUDY.")] = None,
) -> None:
    """Render a study's report again: HTML, markdown, JSON. Needs no torch and no GPU."""
    from autodistill import showing

    showing.write_report(run, to)


@app.command()
def show(
    run: Run,
    output: OutputFormat = Format.TABLE,
    everything: Annotated[bool, typer.Option("--all", help="All trials, not the best twenty.")] = False,
) -> None:
    """Print a study: its recommendation, the teachers, the trials."""
    from autodistill import showing

    showing.show(run, output=output.value, everything=everything)


@app.command()
def train(
    run: Annotated[str, typer.Option("--from", help="A study: trains what it recommends.")] = "",
    student: Annotated[str, typer.Option(help="Without --from: the network to train.")] = "",
    teacher: Annotated[str, typer.Option(help="Without --from: the teacher's URI; none: labels alone.")] = "",
    data: DataName = "",
    space: SpaceName = "",
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(help="Initialisation and batch order.")] = 0,
    device: Device = "auto",
    to: Annotated[Path, typer.Option("--out", help="File for the student's weights.")] = Path("student.safetensors"),
    with_validation: Annotated[
        bool, typer.Option("--with-validation", help="Train on train and validation; only test is left to score.")
    ] = False,
    offline: Offline = False,
) -> None:
    """Train one student in full: a study's recommendation, or one teacher with the space's prior."""
    from autodistill import commands

    request = commands.search_request(
        student=student,
        teachers=(teacher,) if teacher else (),
        data=data,
        space=space,
        device=device,
        overrides=overrides or (),
        offline=offline,
    )
    commands.train(request, run=run, seed=seed, to=to, with_validation=with_validation)


@app.command()
def export(
    run: Run,
    weights: Annotated[
        Path | None, typer.Option(help="What `train --from RUN` wrote; default: the study's best confirm run.")
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", help="safetensors, pt2, onnx, joined by commas; default: all that can be had.")
    ] = "",
    to: Annotated[Path | None, typer.Option("--out", help="A new folder; default: exports/STUDY.")] = None,
) -> None:
    """Write the recommended student to ship: weights, graphs with the preprocessing inside, a model card."""
    from autodistill import commands

    commands.export(run, weights=weights, formats=formats, to=to)


@app.command()
def env(output: OutputFormat = Format.TABLE) -> None:
    """Print versions, device and folders: paste it into a bug report."""
    from autodistill import commands

    commands.env(as_json=output is Format.JSON)


@spaces_app.command("ls")
def spaces_ls() -> None:
    """List the shipped spaces."""
    from autodistill import showing

    showing.list_spaces()


@spaces_app.command("show")
def spaces_show(name: str) -> None:
    """Print a shipped space."""
    from autodistill import showing

    showing.show_space(name)


@spaces_app.command("cp")
def spaces_cp(name: str, file: Path) -> None:
    """Copy a shipped space to a file to edit."""
    from autodistill import showing

    showing.copy_space(name, file)


@spaces_app.command("check")
def spaces_check(file: str, overrides: Overrides = None) -> None:
    """Check a space and print it resolved."""
    from autodistill import commands

    commands.check_space(file, overrides or ())


@teachers_app.command("list")
def teachers_list(
    teacher: Teachers = None,
    data: DataName = "",
    space: SpaceName = "",
    overrides: Overrides = None,
    offline: Offline = False,
    output: OutputFormat = Format.TABLE,
) -> None:
    """List a space's teachers with their size and, where trained, their accuracy."""
    from autodistill import commands

    request = commands.search_request(
        teachers=teacher or (), data=data, space=space, overrides=overrides or (), offline=offline
    )
    commands.list_teachers(request, as_json=output is Format.JSON)


@teachers_app.command("train")
def teachers_train(
    data: DataName = "",
    space: SpaceName = "",
    overrides: Overrides = None,
    device: Device = "auto",
    workers: Workers = None,
) -> None:
    """Train the ladder of a space and keep it for every later study."""
    from autodistill import commands

    request = commands.search_request(
        data=data, space=space, overrides=overrides or (), device=device, workers=workers
    )
    commands.train_teachers(request)


@teachers_app.command("check")
def teachers_check(
    teacher: Annotated[
        list[str], typer.Argument(help="URIs: file:CKPT?arch=NAME&norm=imagenet, torchvision:NAME@WEIGHTS.")
    ],
    data: DataName = "",
    space: SpaceName = "",
    overrides: Overrides = None,
    offline: Offline = False,
    output: OutputFormat = Format.TABLE,
) -> None:
    """Check teachers as `search` would before it starts."""
    from autodistill import commands

    request = commands.search_request(
        teachers=teacher, data=data, space=space, overrides=overrides or (), offline=offline
    )
    commands.check_teachers(request, as_json=output is Format.JSON)


@teachers_app.command("inspect")
def teachers_inspect(
    teacher: Annotated[list[str] | None, typer.Argument(help="URIs; none: those of the space.")] = None,
    data: DataName = "",
    space: SpaceName = "",
    overrides: Overrides = None,
    device: Device = "auto",
    workers: Workers = None,
    offline: Offline = False,
    output: OutputFormat = Format.TABLE,
    to: Annotated[Path | None, typer.Option("--out", help="Folder for an HTML page of the same.")] = None,
) -> None:
    """Show what teachers know before any student is trained: calibration, variances, temperatures, agreement."""
    from autodistill import commands

    request = commands.search_request(
        teachers=teacher or (),
        data=data,
        space=space,
        overrides=overrides or (),
        device=device,
        workers=workers,
        offline=offline,
    )
    commands.inspect_teachers(request, as_json=output is Format.JSON, to=to)
