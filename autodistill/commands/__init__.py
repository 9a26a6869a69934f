"""Commands that train or load networks: what the command line asks for, with torch."""

from autodistill.commands.checking import check_space, env
from autodistill.commands.exporting import export
from autodistill.commands.inspecting import inspect_teachers
from autodistill.commands.requests import search_family, search_request, seconds
from autodistill.commands.searching import dry_run, search
from autodistill.commands.teaching import check_teachers, list_teachers, train_teachers
from autodistill.commands.training import train
from autodistill.commands.working import work

__all__ = [
    "check_space",
    "check_teachers",
    "dry_run",
    "env",
    "export",
    "inspect_teachers",
    "list_teachers",
    "search",
    "search_family",
    "search_request",
    "seconds",
    "train",
    "train_teachers",
    "work",
]
