"""Workers in threads of this process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from simulated import Simulated

from autodistill.queue.messages import Setup
from autodistill.queue.serving import Tools, serve


class Hand:
    """A worker in a thread of this process."""

    def __init__(
        self, url: str, study: str, *, furnish=Simulated, adapt=lambda setup: setup, wait_s: float = 20.0
    ) -> None:
        self.said: list[str] = []
        self.end: str | BaseException = ""
        self.stop = threading.Event()
        self.places: list[Simulated] = []

        def furnished(setup: Setup) -> Simulated:
            self.places.append(furnish(setup))
            return self.places[-1]

        tools = Tools(furnished, adapt, self.said.append, self.stop, wait_s)
        self._thread = threading.Thread(target=self._work, args=(url, study, tools))
        self._thread.start()

    def _work(self, url: str, study: str, tools: Tools) -> None:
        try:
            self.end = serve(url, study, tools)
        except BaseException as error:  # noqa: BLE001
            self.end = error

    def join(self) -> str | BaseException:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.end

    @property
    def trained(self) -> list[tuple[str, int]]:
        return [epoch for place in self.places for epoch in place.trained]


@contextmanager
def hands(url: str, study: str, count: int, **options) -> Iterator[list[Hand]]:
    found = [Hand(url, study, **options) for _ in range(count)]
    try:
        yield found
    finally:
        for one in found:
            one.stop.set()
            one.join()
