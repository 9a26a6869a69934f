"""The command line. Everything that is science is in the search space; flags are operational.

Exit codes: 0 done, 1 the run failed, 2 usage, configuration, missing teacher or data, 130 after Ctrl-C.
"""

from pathlib import Path
from typing import Annotated

import typer

from autodistill.cli.clusters import launch_app, worker
from autodistill.cli.options import (
    Artifacts,
    Asynchronous,
    AuditPruning,
    Budget,
    DataName,
    Device,
    Format,
    Offline,
    OutputFormat,
    Overrides,
    Run,
    SpaceName,
    Storage,
    Students,
    Teachers,
    Workers,
)
from autodistill.cli.spaces import spaces_app
from autodistill.cli.teachers import teachers_app

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
app.add_typer(spaces_app, name="spaces")
app.add_typer(teachers_app, name="teachers")
app.add_typer(launch_app, name="launch")


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
    student: Students,
    teacher: Teachers = None,
    data: DataName = "",
    space: SpaceName = "",
    budget: Budget = "",
    study: Annotated[
        str, typer.Option(help="Name of the study; default: SPACE-STUDENT. The same name resumes.")
    ] = "",
    seed: Annotated[int | None, typer.Option(help="Seed of the search and of its training runs.")] = None,
    device: Device = "auto",
    workers: Workers = "auto",
    storage: Storage = "",
    artifacts: Artifacts = "",
    overrides: Overrides = None,
    max_params: Annotated[str, typer.Option(help="Limit on the student's parameters: 2.5M.")] = "",
    max_macs: Annotated[str, typer.Option(help="Limit on its MACs for one image: 100M.")] = "",
    max_size: Annotated[str, typer.Option(help="Limit on its float32 weights: 10MB.")] = "",
    max_latency: Annotated[str, typer.Option(help="Limit on one image's time on this device: 5ms.")] = "",
    max_trials: Annotated[int | None, typer.Option(min=1, help="Most searched trials, priors included.")] = None,
    asynchronous: Asynchronous = False,
    audit_pruning: AuditPruning = False,
    timeout: Annotated[str, typer.Option(help="Stop after this long (90s, 30m, 8h); the same command resumes.")] = "",
    cache_size: Annotated[str, typer.Option(help="Most disk for teacher logits.")] = "8GB",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, estimate, start no study.")] = False,
    offline: Offline = False,
    output: OutputFormat = Format.TABLE,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")] = False,
) -> None:
    """Find the teacher for a student, or for each of several, within a budget; the same command resumes."""
    from autodistill import commands

    family = commands.search_family(
        students=student,
        teachers=teacher or (),
        data=data,
        space=space,
        budget=budget,
        study=study,
        seed=seed,
        device=device,
        workers=workers,
        storage=storage,
        artifacts=artifacts,
        overrides=overrides or (),
        max_params=max_params,
        max_macs=max_macs,
        max_size=max_size,
        max_latency=max_latency,
        max_trials=max_trials,
        asynchronous=asynchronous,
        audit_pruning=audit_pruning,
        timeout=timeout,
        cache_size=cache_size,
        offline=offline,
    )
    if dry_run:
        commands.dry_run(family, as_json=output is Format.JSON)
    else:
        commands.search(family, output=output.value, quiet=quiet)


app.command()(worker)


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
    sort: Annotated[
        str,
        typer.Option(help="Teachers by test, val, own, params, macs; students by test, params, macs, size, latency."),
    ] = "test",
    pareto: Annotated[bool, typer.Option("--pareto", help="Only what nothing cheaper is as accurate as.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Print again whenever a run ends, until the study does.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="All trials, not the best twenty.")] = False,
) -> None:
    """Print a study, or students compared: what is recommended, and what it was chosen from."""
    from autodistill import showing

    if watch:
        showing.watch(run, output=output.value, everything=everything, pareto=pareto, sort=sort)
        return
    showing.show(run, output=output.value, everything=everything, pareto=pareto, sort=sort)


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
