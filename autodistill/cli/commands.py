"""The Typer commands. The search space sets everything scientific; flags are operational.

Each command imports its code when it runs, so that `--help` needs neither torch nor Optuna.
"""

import functools
import importlib
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from autodistill.errors import StoreError, lookup

TARGETS = {
    "folder": "folder:PATH",
    "arrays": "arrays:FILE.npz",
    "python": "python:FILE.py:FACTORY",
    "torchvision": "torchvision:NAME",
}
"""Values of `--data` for datasets that need a target."""
STUDENT = (
    "Network to train: mobilenetv2, mobilenetv2:0.5 (width; default: the space's), torchvision:NAME@WEIGHTS, "
    "timm:NAME, python:FILE.py:FACTORY."
)


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


Teachers = Annotated[
    list[str] | None,
    typer.Option(
        "--teacher",
        help="URI of a teacher: file:CKPT?arch=NAME, python:FILE.py:FACTORY, torchvision:NAME@WEIGHTS, timm:NAME, "
        "onnx:FILE, logits:FILE, ensemble:NAME+NAME, adapt:URI, ladder:, ladder:NETWORK@EPOCH, ladder:imagenet, "
        "assistant:NETWORK?teacher=NAME. A folder or pattern in file: names every checkpoint in it. Repeatable. "
        "Default: the space's.",
    ),
]
DataName = Annotated[
    str,
    typer.Option(
        "--data",
        help="folder:PATH, arrays:FILE.npz, python:FILE.py:FACTORY, torchvision:NAME, digits, fashion-mnist, cifar10, "
        "cifar100. Default: the space's.",
    ),
]
SpaceName = Annotated[str, typer.Option("--space", help="Shipped search space or TOML file. Default: the dataset's.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Set a key of the space, such as training.epochs=20. Repeatable.")
]
Device = Annotated[str, typer.Option(help="Device of all training: cpu, cuda, cuda:N, or auto (a GPU if available).")]
Offline = Annotated[bool, typer.Option("--offline", help="Download nothing.")]
Download = Annotated[bool, typer.Option("--download", help="Download the dataset with torchvision, if it is missing.")]
Workers = Annotated[
    str,
    typer.Option(
        help="Number of worker processes. auto: 1 to 4 on each GPU, as its memory allows; without a GPU one per core, "
        "at most one per GB of memory."
    ),
]
Seed = Annotated[int | None, typer.Option(help="Seed of search and training. Default: the space's.")]
Ray = Annotated[
    str,
    typer.Option(help="Run on a Ray cluster: auto (this machine's), HOST:PORT, or local (a new one on this machine)."),
]
PerGpu = Annotated[int, typer.Option(min=1, help="With --ray: number of workers that share a GPU.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="With --ray: accept a cluster on a network without token authentication.")
]
Storage = Annotated[
    str,
    typer.Option(
        envvar="AUTODISTILL_STORAGE",
        show_envvar=True,
        help="Database that gets a copy of the trials for dashboards: postgresql://USER@HOST/DATABASE or "
        "sqlite:///FILE. Default: a SQLite file in the study folder.",
    ),
]
Timeout = Annotated[str, typer.Option(help="Stop after this time, with exit code 130: 90s, 30m, 8h. Default: none.")]
CacheSize = Annotated[str, typer.Option(help="Most disk space for teacher logits.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and estimate only; start no study.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]
OutputFormat = Annotated[Format, typer.Option("--format", help="Format of the result on stdout.")]
Run = Annotated[str, typer.Argument(help="Name or folder of a study.")]
ShippedSpace = Annotated[str, typer.Argument(help="Name of a shipped space.")]

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
    "Exit codes: 0 done, 1 the run failed or failed runs leave nothing decided, 2 usage, configuration, missing "
    "teacher or data, 130 stopped before the end by Ctrl-C, a signal or --timeout.",
)
app.add_typer(spaces_app, name="spaces")
app.add_typer(teachers_app, name="teachers")
app.add_typer(cluster_app, name="cluster")


def call(target: str, **parameters: Any) -> None:
    """Import and call a function, `MODULE.FUNCTION` below `autodistill.cli`."""
    module, function = target.split(".")
    getattr(importlib.import_module(f"autodistill.cli.{module}"), function)(**parameters)


def runs(target: str, *, with_workers: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator for a command without a body: it calls `target` with its parameters.

    Where the command starts local workers, their imports begin before its own.
    """

    def decorate(declared: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(declared)
        def command(**parameters: Any) -> None:
            if with_workers and not parameters.get("ray"):
                from autodistill import processes

                processes.start_server()
            call(target, **parameters)

        return command

    return decorate


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from autodistill import __version__

        print(f"kd-autodistill {__version__}")
        raise typer.Exit


@app.command()
@runs("search.search", with_workers=True)
def search(
    students: Annotated[list[str], typer.Option("--student", help=f"{STUDENT} Repeatable.")],
    teachers: Teachers = None,
    data: DataName = "",
    space: SpaceName = "",
    budget: Annotated[
        str,
        typer.Option(help="Total cost: 20 (full trainings), 600ep (epochs), 8h or 30min (time). Default: the space's."),
    ] = "",
    study: Annotated[str, typer.Option(help="Name of the study, new or to resume. Default: SPACE-STUDENT.")] = "",
    seed: Seed = None,
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
    audit_pruning: Annotated[
        bool,
        typer.Option(
            "--audit-pruning", help="After the study, train the best pruned trials in full, outside the budget."
        ),
    ] = False,
    timeout: Timeout = "",
    cache_size: CacheSize = "8GB",
    dry_run: DryRun = False,
    offline: Offline = False,
    download: Download = False,
    output: OutputFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Find the best teacher for each student within a budget. The same command resumes a study."""


@app.command()
@runs("search.compare", with_workers=True)
def compare(
    students: Annotated[list[str], typer.Option("--student", help=STUDENT)],
    teachers: Teachers = None,
    methods: Annotated[
        str,
        typer.Option(
            "--method",
            help="Methods, separated by commas: ts, ats, isats, dkd, dist, nkd, ttm, wttm, python:FILE.py:FUNCTION. "
            "Default: ts,isats,dkd.",
        ),
    ] = "",
    data: DataName = "",
    space: SpaceName = "",
    budget: Annotated[
        str,
        typer.Option(
            help="Total cost: 60 (full trainings), 900ep (epochs), 8h (time). Default: 3 settings for each method and "
            "teacher."
        ),
    ] = "",
    study: Annotated[
        str, typer.Option(help="Name of the study, new or to resume. Default: methods-DATA-STUDENT.")
    ] = "",
    seed: Seed = None,
    device: Device = "auto",
    workers: Workers = "auto",
    ray: Ray = "",
    per_gpu: PerGpu = 1,
    insecure: Insecure = False,
    storage: Storage = "",
    overrides: Overrides = None,
    timeout: Timeout = "",
    cache_size: CacheSize = "8GB",
    dry_run: DryRun = False,
    offline: Offline = False,
    download: Download = False,
    output: OutputFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Compare methods over several teachers, tuned at equal cost, on new seeds. The same command resumes a study."""


@app.command()
@runs("show.write_report")
def report(
    run: Run, to: Annotated[Path | None, typer.Option("--out", help="Folder to write. Default: reports/STUDY.")] = None
) -> None:
    """Render the report of a study as HTML, markdown and JSON. Needs no torch and no GPU."""


@app.command()
@runs("show.show")
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


@app.command()
@runs("train.train")
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
    download: Download = False,
) -> None:
    """Train one student in full: the recommendation of a study, or one teacher with the space's prior.

    This is a new training, with weights of its own. `export` ships the weights of a study's best confirm run.
    """


@app.command()
@runs("train.export")
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
    """Export the recommended student: weights, graphs that include the preprocessing, a model card.

    Without --weights nothing is trained: of the confirm runs of the recommendation, the best on validation is shipped.
    """


@app.command()
@runs("show.show_environment")
def env(output: OutputFormat = Format.TABLE) -> None:
    """Print versions, device and folders, for bug reports."""


@teachers_app.command("list")
@runs("teachers.list_teachers")
def teachers_list(
    teachers: Teachers = None,
    data: DataName = "",
    space: SpaceName = "",
    overrides: Overrides = None,
    offline: Offline = False,
    download: Download = False,
    output: OutputFormat = Format.TABLE,
) -> None:
    """List the teachers of a space with their sizes and, if trained, their accuracy."""


@teachers_app.command("train")
@runs("teachers.train_teachers", with_workers=True)
def teachers_train(
    teachers: Teachers = None,
    data: DataName = "",
    space: SpaceName = "",
    overrides: Overrides = None,
    device: Device = "auto",
    workers: Workers = "auto",
    offline: Offline = False,
    download: Download = False,
) -> None:
    """Train the missing teachers of a space: default ladder, assistants, adapted ones; all later studies use them."""


@teachers_app.command("adapt")
@runs("teachers.adapt_teachers", with_workers=True)
def teachers_adapt(
    source: Annotated[
        list[str],
        typer.Argument(
            help="URIs of pretrained networks: torchvision:NAME@WEIGHTS, timm:NAME, file:CKPT, "
            "python:FILE.py:FACTORY?weights=FILE, or ladder:imagenet."
        ),
    ],
    data: DataName = "",
    space: SpaceName = "",
    overrides: Overrides = None,
    device: Device = "auto",
    workers: Workers = "auto",
    offline: Offline = False,
    download: Download = False,
) -> None:
    """Fine-tune pretrained networks with a new head on your classes; `--teacher adapt:SOURCE` uses them."""


@teachers_app.command("check")
@runs("teachers.check_teachers")
def teachers_check(
    teacher: Annotated[
        list[str], typer.Argument(help="URIs: file:CKPT?arch=NAME&norm=imagenet, torchvision:NAME@WEIGHTS.")
    ],
    data: DataName = "",
    space: SpaceName = "",
    overrides: Overrides = None,
    offline: Offline = False,
    download: Download = False,
    output: OutputFormat = Format.TABLE,
) -> None:
    """Run the checks of `search` on teachers."""


@teachers_app.command("inspect")
@runs("teachers.inspect_teachers", with_workers=True)
def teachers_inspect(
    teacher: Annotated[list[str] | None, typer.Argument(help="URIs of teachers. Default: the space's.")] = None,
    data: DataName = "",
    space: SpaceName = "",
    overrides: Overrides = None,
    device: Device = "auto",
    workers: Workers = "auto",
    offline: Offline = False,
    download: Download = False,
    output: OutputFormat = Format.TABLE,
    to: Annotated[Path | None, typer.Option("--out", help="Folder for the same as an HTML page.")] = None,
) -> None:
    """Print the profiles of teachers, without training: calibration, variances, temperatures, agreement."""


@spaces_app.command("ls", hidden=True)
@spaces_app.command("list")
def spaces_list() -> None:
    """List the shipped spaces."""
    import tomllib

    from autodistill.config import shipped
    from autodistill.console import show_table

    rows = [(name, tomllib.loads(text).get("purpose", "")) for name, text in sorted(shipped().items())]
    show_table("Search spaces", ("name", "purpose"), rows)


@spaces_app.command("show")
def spaces_show(name: ShippedSpace) -> None:
    """Print a shipped space."""
    from autodistill.config import shipped
    from autodistill.console import show_text

    show_text(lookup("space", name, shipped()).rstrip())


@spaces_app.command("cp")
def spaces_cp(name: ShippedSpace, file: Annotated[Path, typer.Argument(help="New file.")]) -> None:
    """Copy a shipped space to a new file for editing."""
    from autodistill.config import shipped
    from autodistill.console import show_note
    from autodistill.formatting import command_line
    from autodistill.store import write_text

    if file.exists():
        raise StoreError(f"{file}: exists already", "name a new file, or remove this one")
    write_text(file, lookup("space", name, shipped()))
    show_note(f"wrote {file}. Next: {command_line('spaces', 'check', file)}")


@spaces_app.command("check")
def spaces_check(
    file: Annotated[str, typer.Argument(help="TOML file, or name of a shipped space.")], overrides: Overrides = None
) -> None:
    """Check a space and print all its values."""
    from autodistill.config import dump, load
    from autodistill.console import show_note, show_text
    from autodistill.formatting import command_line
    from autodistill.study import KNOWN

    space = load(file, known=KNOWN, overrides=overrides or ())
    show_text(dump(space).rstrip())
    data = TARGETS.get(space.data.name, "")  # a space for own images does not name them
    verb = "search" if space.grid is None else "compare"
    search = command_line(verb, "--student", "mobilenetv2", space=file, data=data, set=overrides)
    show_note(f"{file} is valid. Next: {search}")


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
    from autodistill.cli.cluster import slurm_script
    from autodistill.console import show_note, show_text

    show_text(slurm_script(search, nodes=nodes, gpus=gpus, cpus=cpus, time=time, sbatch=sbatch or ()).rstrip())
    show_note("Next: save it as job.sh, then `sbatch job.sh`; the folders must be visible on all nodes")
