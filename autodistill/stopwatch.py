"""Seconds by part of the work."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator


class Stopwatch:
    """Adds up seconds by part; a part inside another counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inside = 0.0

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block. On a GPU it must end with a value on the host: launches return before they are done."""
        begun, outer, self._inside = time.perf_counter(), self._inside, 0.0
        try:
            yield
        finally:
            took = time.perf_counter() - begun
            self.seconds[name] += took - self._inside
            self._inside = outer + took
