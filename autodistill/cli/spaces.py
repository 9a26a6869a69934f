"""`autodistill spaces`."""

from pathlib import Path
from typing import Annotated

import typer

from autodistill.cli.options import (
    Overrides,
)

SpaceArgument = Annotated[str, typer.Argument(help="A shipped space.")]

spaces_app = typer.Typer(no_args_is_help=True, help="List, show, copy and check search spaces.")


@spaces_app.command("ls", hidden=True)
@spaces_app.command("list")
def spaces_ls() -> None:
    """List the shipped spaces."""
    from autodistill import showing

    showing.list_spaces()


@spaces_app.command("show")
def spaces_show(name: SpaceArgument) -> None:
    """Print a shipped space."""
    from autodistill import showing

    showing.show_space(name)


@spaces_app.command("cp")
def spaces_cp(name: SpaceArgument, file: Annotated[Path, typer.Argument(help="A new file, to edit.")]) -> None:
    """Copy a shipped space to a file to edit."""
    from autodistill import showing

    showing.copy_space(name, file)


@spaces_app.command("check")
def spaces_check(
    file: Annotated[str, typer.Argument(help="TOML file, or the name of a shipped space.")],
    overrides: Overrides = None,
) -> None:
    """Check a space and print it resolved."""
    from autodistill import commands

    commands.check_space(file, overrides or ())
