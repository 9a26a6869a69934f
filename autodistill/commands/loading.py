"""Load data while showing how far decoding is."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

from autodistill import console
from autodistill import data as datasets
from autodistill.config.models import DataSpec
from autodistill.data import Data


@contextlib.contextmanager
def shown_loading(*, quiet: bool = False) -> Iterator[Callable[[DataSpec], Data]]:
    """Give `datasets.load` with a display on stderr, which ends with the context."""
    with console.Decoding(quiet=quiet) as shown:
        yield partial(datasets.load, progress=shown.progress, say=shown.say)
