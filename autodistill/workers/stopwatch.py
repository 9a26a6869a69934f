"""Where a run's time goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by part, summed over the times that a part was entered."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.parts_s: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self.add(part, time.monotonic() - begun)

    def add(self, part: str, seconds: float) -> None:
        self.parts_s[part] = self.parts_s.get(part, 0.0) + seconds

    def stop(self, rest: str) -> float:
        """Seconds since it was made; what no part took goes to `rest`."""
        wall_s = time.monotonic() - self.started
        self.add(rest, wall_s - sum(self.parts_s.values()))
        return wall_s
