"""For every Python that has it on its path: a wall clock that is set an hour back or forward all the time."""

import datetime
import os
import random
import sys
import time

REAL, HOUR = time.time, 3600.0
_CHANCE = random.Random(os.getpid())


def jumped() -> float:
    """Seconds since the epoch, as somebody who sets the clock would have them."""
    return REAL() + _CHANCE.choice((-HOUR, 0.0, HOUR))


class Jumping(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
        return datetime.datetime.fromtimestamp(jumped(), tz)


def jump() -> None:
    """Let the clock jump in this process, Optuna's own name for it included."""
    time.time = jumped
    time.time_ns = lambda: int(jumped() * 1e9)
    for name, module in tuple(sys.modules.items()):
        if name.startswith("optuna") and module.__dict__.get("datetime") is datetime.datetime:
            module.datetime = Jumping  # type: ignore[attr-defined]


jump()
