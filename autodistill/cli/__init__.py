"""The command line: Typer commands, progress display, tables."""

from autodistill.cli.commands import app

__all__ = ["app"]
