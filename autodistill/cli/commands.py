"""The Typer commands. The search space sets everything scientific; flags are operational.

Each command imports its code when it runs, so that `--help` needs neither torch nor Optuna.
"""

from pathlib import Path
from typing import Annotated

import typer

from autodistill.cli.options import (
    AuditPruning,
    Budget,
    DataName,
    Device,
    Format,
    Insecure,
    Offline,
    OutputFormat,
    Overrides,
    PerGpu,
    Ray,
    Run,
    SpaceName,
    Storage,
    Students,
    Teachers,
    Workers,
)

SpaceArgument = Annotated[str, typer.Argument(help="Name of a shipped space.")]

spaces_app = typer.Typer(no_args_is_help=True, help="List, show, copy and check search spaces.")
teachers_app = typer.Typer(no_args_is_help=True, help="List, train, check and inspect teachers.")
cluster_app = typer.Typer(no_args_is_help=True, help="Run a search on a cluster.")

app = typer.Typer(
    name="autodistill",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From which teacher, at which temperatures and loss weights, should this small student learn?\n\n"
    "`autodistill search --student mobilenetv2 --budget 20`\n\n"
    "Exit codes: 0 done, 1 the run failed, 2 usage, configuration, missing teacher or data, "
    "130 after Ctrl-C or a signal.",
)
app.add_typer(spaces_app, name="spaces")
app.add_typer(teachers_app, name="teachers")
app.add_typer(cluster_app, name="cluster")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from autodistill import __version__
        from autodistill.cli.console import show_text

        show_text(f"kd-autodistill {__version__}")
        raise typer.Exit


@app.command()
def search(
    student: Students,
    teacher: Teachers = None,
    data: DataName = "",
    space: SpaceName = "",
    budget: Budget = "",
    study: Annotated[str, typer.Option(help="Name of the study, new or to resume. Default: SPACE-STUDENT.")] = "",
    seed: Annotated[int | None, typer.Option(help="Seed of search and training. Default: the space's.")] = None,
    device: Device = "auto",
    workers: Workers = "auto",
    ray: Ray = "",
    per_gpu: PerGpu = 1,
    insecure: Insecure = False,
    storage: Storage = "",
    overrides: Overrides = None,
    max_params: Annotated[str, typer.Option(help="Most parameters of a student, such as 2.5M.")] = "",
    max_macs: Annotated[str, typer.Option(help="Most MACs of a student for one image, such as 100M.")] = "",
    max_size: Annotated[str, typer.Option(help="Largest float32 weights of a student, such as 10MB.")] = "",
    max_latency: Annotated[str, typer.Option(help="Longest time for one image on this device, such as 5ms.")] = "",
    max_trials: Annotated[int | None, typer.Option(min=1, help="Most trials of the search, priors included.")] = None,
    audit_pruning: AuditPruning = False,
    timeout: Annotated[str, typer.Option(help="Stop after this time: 90s, 30m, 8h. Default: no limit.")] = "",
    cache_size: Annotated[str, typer.Option(help="Most disk space for teacher logits.")] = "8GB",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and estimate only; start no study.")] = False,
    offline: Offline = False,
    output: OutputFormat = Format.TABLE,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")] = False,
) -> None:
    """Find the best teacher for each student within a budget. The same command resumes a study."""
    from autodistill.cli import search as command
    from autodistill.cli.flags import search_family

    family = search_family(
        students=student,
        teachers=teacher or (),
        data=data,
        space=space,
        budget=budget,
        study=study,
        seed=seed,
        device=device,
        workers=workers,
        ray=ray,
        per_gpu=per_gpu,
        insecure=insecure,
        storage=storage,
        overrides=overrides or (),
        max_params=max_params,
        max_macs=max_macs,
        max_size=max_size,
        max_latency=max_latency,
        max_trials=max_trials,
        audit_pruning=audit_pruning,
        timeout=timeout,
        cache_size=cache_size,
        offline=offline,
    )
    if dry_run:
        command.dry_run(family, as_json=output is Format.JSON)
    else:
        command.search(family, output=output.value, quiet=quiet)


@app.command()
def report(
    run: Run,
    to: Annotated[Path | None, typer.Option("--out", help="Folder to write. Default: reports/STUDY.")] = None,
) -> None:
    """Render the report of a study as HTML, markdown and JSON. Needs no torch and no GPU."""
    from autodistill.cli import show as command

    command.write_report(run, to)


@app.command()
def show(
    run: Run,
    output: OutputFormat = Format.TABLE,
    sort: Annotated[
        str,
        typer.Option(help="Teachers by test, val, own, params, macs; students by test, params, macs, size, latency."),
    ] = "test",
    pareto: Annotated[bool, typer.Option("--pareto", help="Show only the Pareto front of accuracy and cost.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Print again after each run, until the last.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Show all trials instead of the best 20.")] = False,
) -> None:
    """Print the recommendation of a study and the teachers, trials or students behind it."""
    from autodistill.cli import show as command

    if watch:
        command.watch(run, output=output.value, everything=everything, pareto=pareto, sort=sort)
        return
    command.show(run, output=output.value, everything=everything, pareto=pareto, sort=sort)


@app.command()
def train(
    run: Annotated[str, typer.Option("--from", help="Study whose recommendation to train.")] = "",
    student: Annotated[str, typer.Option(help="Without --from: network to train.")] = "",
    teacher: Annotated[str, typer.Option(help="Without --from: URI of the teacher. Default: labels alone.")] = "",
    data: DataName = "",
    space: SpaceName = "",
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(help="Seed of initialisation and batch order.")] = 0,
    device: Device = "auto",
    to: Annotated[Path, typer.Option("--out", help="New file for the weights.")] = Path("student.safetensors"),
    with_validation: Annotated[
        bool, typer.Option("--with-validation", help="Train on training and validation images; score on test only.")
    ] = False,
    offline: Offline = False,
) -> None:
    """Train one student in full: the recommendation of a study, or one teacher with the space's prior."""
    from autodistill.cli import train as command
    from autodistill.cli.flags import search_options

    options = search_options(
        student=student,
        teachers=(teacher,) if teacher else (),
        data=data,
        space=space,
        device=device,
        overrides=overrides or (),
        offline=offline,
    )
    command.train(options, run=run, seed=seed, to=to, with_validation=with_validation)


@app.command()
def export(
    run: Run,
    weights: Annotated[
        Path | None, typer.Option(help="Weights written by `train --from RUN`. Default: the best confirm run's.")
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", help="safetensors, pt2, onnx, separated by commas. Default: all installed.")
    ] = "",
    to: Annotated[Path | None, typer.Option("--out", help="New folder. Default: exports/STUDY.")] = None,
) -> None:
    """Export the recommended student: weights, graphs that include the preprocessing, a model card."""
    from autodistill.cli import train as command

    command.export(run, weights=weights, formats=formats, to=to)


@app.command()
def env(output: OutputFormat = Format.TABLE) -> None:
    """Print versions, device and folders, for bug reports."""
    from autodistill.cli.show import show_environment

    show_environment(as_json=output is Format.JSON)


@teachers_app.command("list")
def teachers_list(
    teacher: Teachers = None,
    data: DataName = "",
    space: SpaceName = "",
    overrides: Overrides = None,
    offline: Offline = False,
    output: OutputFormat = Format.TABLE,
) -> None:
    """List the teachers of a space with their sizes and, if trained, their accuracy."""
    from autodistill.cli import teachers as command
    from autodistill.cli.flags import search_options

    options = search_options(teachers=teacher or (), data=data, space=space, overrides=overrides or (), offline=offline)
    command.list_teachers(options, as_json=output is Format.JSON)


@teachers_app.command("train")
def teachers_train(
    data: DataName = "",
    space: SpaceName = "",
    overrides: Overrides = None,
    device: Device = "auto",
    workers: Workers = "auto",
) -> None:
    """Train the default ladder of a space; all later studies use it."""
    from autodistill.cli import teachers as command
    from autodistill.cli.flags import search_options

    options = search_options(data=data, space=space, overrides=overrides or (), device=device, workers=workers)
    command.train_teachers(options)


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
    """Run the checks of `search` on teachers."""
    from autodistill.cli import teachers as command
    from autodistill.cli.flags import search_options

    options = search_options(teachers=teacher, data=data, space=space, overrides=overrides or (), offline=offline)
    command.check_teachers(options, as_json=output is Format.JSON)


@teachers_app.command("inspect")
def teachers_inspect(
    teacher: Annotated[list[str] | None, typer.Argument(help="URIs of teachers. Default: the space's.")] = None,
    data: DataName = "",
    space: SpaceName = "",
    overrides: Overrides = None,
    device: Device = "auto",
    workers: Workers = "auto",
    offline: Offline = False,
    output: OutputFormat = Format.TABLE,
    to: Annotated[Path | None, typer.Option("--out", help="Folder for the same as an HTML page.")] = None,
) -> None:
    """Print the profiles of teachers, without training: calibration, variances, temperatures, agreement."""
    from autodistill.cli import teachers as command
    from autodistill.cli.flags import search_options

    options = search_options(
        teachers=teacher or (),
        data=data,
        space=space,
        overrides=overrides or (),
        device=device,
        workers=workers,
        offline=offline,
    )
    command.inspect_teachers(options, as_json=output is Format.JSON, to=to)


@spaces_app.command("ls", hidden=True)
@spaces_app.command("list")
def spaces_ls() -> None:
    """List the shipped spaces."""
    from autodistill.cli import spaces as command

    command.list_spaces()


@spaces_app.command("show")
def spaces_show(name: SpaceArgument) -> None:
    """Print a shipped space."""
    from autodistill.cli import spaces as command

    command.show_space(name)


@spaces_app.command("cp")
def spaces_cp(name: SpaceArgument, file: Annotated[Path, typer.Argument(help="New file.")]) -> None:
    """Copy a shipped space to a new file for editing."""
    from autodistill.cli import spaces as command

    command.copy_space(name, file)


@spaces_app.command("check")
def spaces_check(
    file: Annotated[str, typer.Argument(help="TOML file, or name of a shipped space.")],
    overrides: Overrides = None,
) -> None:
    """Check a space and print all its values."""
    from autodistill.cli import spaces as command

    command.check_space(file, overrides or ())


@cluster_app.command("slurm")
def cluster_slurm(
    search: Annotated[list[str], typer.Argument(help="Options of `autodistill search`, after --.")],
    nodes: Annotated[int, typer.Option(min=1, help="Number of nodes.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs per node.")] = 1,
    cpus: Annotated[int, typer.Option(min=1, help="Cores per node.")] = 4,
    time: Annotated[str, typer.Option(help="Time limit of sbatch; the job requeues until done.")] = "04:00:00",
    sbatch: Annotated[
        list[str] | None, typer.Option("--sbatch", help="Further option of sbatch, such as partition=gpu. Repeatable.")
    ] = None,
) -> None:
    """Print a SLURM script that runs a search on all nodes of one job, with Ray."""
    from autodistill.cli.cluster import Job, slurm

    slurm(Job(nodes, gpus, cpus, time, tuple(sbatch or ())), search)
