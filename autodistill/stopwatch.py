"""A stopwatch that measures parts of the work."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator


class Stopwatch:
    """Sums seconds by part. The time of a part inside another part counts for the inner part only."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inside = 0.0

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block. On a GPU the block must wait for its result, because kernel launches return immediately."""
        begun, outer, self._inside = time.perf_counter(), self._inside, 0.0
        try:
            yield
        finally:
            took = time.perf_counter() - begun
            self.seconds[name] += took - self._inside
            self._inside = outer + took
