"""`autodistill teachers`."""

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
    SpaceName,
    Teachers,
    Workers,
)

teachers_app = typer.Typer(no_args_is_help=True, help="Train, list and check teachers.")


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
    workers: Workers = "auto",
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
    workers: Workers = "auto",
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
