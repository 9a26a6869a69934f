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
        help="Network to train, repeatable; the space gives its width unless it is named: mobilenetv2:0.5.",
    ),
]
Teachers = Annotated[
    list[str] | None,
    typer.Option(
        "--teacher", help="Teacher by URI, repeatable: file:CKPT?arch=NAME, torchvision:NAME@WEIGHTS, ladder:."
    ),
]
DataName = Annotated[
    str, typer.Option("--data", help="Dataset: digits, fashion-mnist, cifar10, cifar100, folder:PATH.")
]
SpaceName = Annotated[str, typer.Option("--space", help="Shipped search space or TOML file; default: the dataset's.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key of the space, repeatable: training.epochs=20.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:0, or auto.")]
Offline = Annotated[bool, typer.Option("--offline", help="Download nothing.")]
Workers = Annotated[
    str,
    typer.Option(
        help="Processes here; auto: one per core that has a gigabyte of memory, on each GPU 1 to 8 by its memory."
    ),
]
Storage = Annotated[
    str,
    typer.Option(
        "--storage",
        envvar="AUTODISTILL_STORAGE",
        show_envvar=True,
        help="Database: postgresql://USER@HOST/DATABASE, sqlite:///FILE, journal:FILE on a shared folder. "
        "Default: a SQLite file in the run folder.",
    ),
]
Artifacts = Annotated[
    str,
    typer.Option(
        "--artifacts",
        help="Depot for workers that share no folder with the search: s3://BUCKET/PREFIX, file:///FOLDER.",
    ),
]
SharedStorage = Annotated[
    str,
    typer.Option(
        "--storage",
        envvar="AUTODISTILL_STORAGE",
        show_envvar=True,
        help="The database that the search was given: postgresql://USER@HOST/DATABASE, sqlite:///FILE, journal:FILE.",
    ),
]
OutputFormat = Annotated[Format, typer.Option("--format", help="What stdout carries.")]
Run = Annotated[str, typer.Argument(help="A study's name, or its folder.")]
Budget = Annotated[
    str, typer.Option(help="Total cost: 20 full trainings of the student, 600ep, 8h. Default: the space's.")
]
Asynchronous = Annotated[
    bool,
    typer.Option(
        "--async",
        help="Ask for trials whenever a worker is free, not in waves: nobody idles, no two studies are equal, "
        "each trial keeps an audit trail.",
    ),
]
AuditPruning = Annotated[
    bool, typer.Option("--audit-pruning", help="Then train the best pruned trials to the end, outside the budget.")
]
