"""How many tasks hang ahead of the workers, so that none waits for the next one to be decided on."""

SHARE = 16
"""Workers for each task that hangs ahead, beyond the first."""
MOST = 16
"""Tasks hung ahead at once: each is decided on before the results are there that it could have rested on."""


class Reserve:
    """Workers that wait show nowhere: that there are some is seen when what was hung up is gone at the next look."""

    def __init__(self) -> None:
        self._size, self._grew = 1, False

    def wanted(self, *, waiting: int, running: int) -> int:
        """How many tasks to hang up now.

        Args:
            waiting: tasks that nobody has taken yet.
            running: tasks at work.
        """
        gone = self._grew and not waiting
        self._size = min(2 * self._size, max(MOST, 1 + running // SHARE)) if gone else 1 + running // SHARE
        self._grew = self._size > waiting
        return max(0, self._size - waiting)
