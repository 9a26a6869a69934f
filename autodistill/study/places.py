"""Where a study reads and writes: whether it can, before any work."""

from collections.abc import Sequence

from autodistill.queue.board import board_name
from autodistill.search import refuse_foreign
from autodistill.store import RunFolder, cache_root, demand_folder, demand_usable


def check_places(folders: Sequence[RunFolder], *, storage: str) -> None:
    """Check the cache, run folders and the database, before data and teachers are loaded; writes nothing.

    A cache that holds all that is needed may be read-only.

    Args:
        folders: of the studies that are to run.
        storage: address of the database that they share; empty: each has a file of its own.

    Raises:
        ConfigError: the address is of an unknown kind, or its driver is missing.
        StoreError: one of the places cannot be used, or holds something else.
    """
    for part in ("images", "ladder", "logits"):
        demand_folder(cache_root() / part, writable=False)
    for folder in folders:
        demand_usable(folder)
        if storage:
            refuse_foreign(storage, folder.path.name, identity="", board=board_name(folder.path.name))
