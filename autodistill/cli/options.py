"""Options that several commands share."""

from enum import StrEnum
from typing import Annotated

import typer


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


Students = Annotated[
    list[str],
    typer.Option(
        "--student",
        help="Network to train, such as mobilenetv2 or mobilenetv2:0.5 (width; default: the space's). Repeatable.",
    ),
]
Teachers = Annotated[
    list[str] | None,
    typer.Option(
        "--teacher",
        help="URI of a teacher: file:CKPT?arch=NAME, torchvision:NAME@WEIGHTS, ladder:. Repeatable. "
        "Default: the space's.",
    ),
]
DataName = Annotated[
    str, typer.Option("--data", help="digits, fashion-mnist, cifar10, cifar100, folder:PATH. Default: the space's.")
]
SpaceName = Annotated[str, typer.Option("--space", help="Shipped search space or TOML file. Default: the dataset's.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Set a key of the space, such as training.epochs=20. Repeatable.")
]
Device = Annotated[str, typer.Option(help="Device of all training: cpu, cuda, cuda:N, or auto (a GPU if available).")]
Offline = Annotated[bool, typer.Option("--offline", help="Download nothing.")]
Workers = Annotated[
    str,
    typer.Option(
        help="Number of worker processes. auto: 1 to 4 on each GPU, as its memory allows; without a GPU one per core, "
        "at most one per GB of memory."
    ),
]
Storage = Annotated[
    str,
    typer.Option(
        "--storage",
        envvar="AUTODISTILL_STORAGE",
        show_envvar=True,
        help="Database that gets a copy of the trials for dashboards: postgresql://USER@HOST/DATABASE or "
        "sqlite:///FILE. Default: a SQLite file in the study folder.",
    ),
]
Ray = Annotated[
    str,
    typer.Option(
        "--ray",
        help="Run on a Ray cluster: auto (this machine's), HOST:PORT, or local (a new one on this machine).",
    ),
]
PerGpu = Annotated[int, typer.Option(min=1, help="With --ray: number of workers that share a GPU.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="With --ray: accept a cluster on a network without token authentication.")
]
OutputFormat = Annotated[Format, typer.Option("--format", help="Format of the result on stdout.")]
Run = Annotated[str, typer.Argument(help="Name or folder of a study.")]
Budget = Annotated[
    str,
    typer.Option(help="Total cost: 20 (full trainings), 600ep (epochs), 8h or 30min (time). Default: the space's."),
]
AuditPruning = Annotated[
    bool,
    typer.Option("--audit-pruning", help="After the study, train the best pruned trials in full, outside the budget."),
]
