"""Wall clocks that jump by an hour, in every process by itself: nothing that is decided may look at them."""

import os
import runpy
from pathlib import Path

from small_studies import NAME

from faulty.lab import WAYS, Lab, finished, unlike
from faulty.processes import command
from faulty.studies import REAL

JUMPING = Path(__file__).parent / "jumping"


def clock_set(lab: Lab) -> list[str]:
    found = []
    for way in WAYS:
        place = lab.place(f"clock-{way}")
        os.environ["AUTODISTILL_CACHE"] = str(lab.warm_cache(place))
        more = lab.options(way)
        search = command(place, "search", [*REAL, *more, *["--workers", "0"] * bool(more)], before=_jump)
        joining = ["worker", "--study", NAME, "--device", "cpu", *more]
        workers = [command(place, f"worker-{n}", joining, before=_jump) for n in range(2 * bool(more))]
        lines = [*finished(search), *(line for it in workers for line in finished(it))]
        lines += unlike(lab.calm, place, {})
        lines += ["a worker was taken for dead"] * ("lost the worker" in search.said)
        found += [f"{way}: {line}" for line in lines]
    return found


def _jump() -> None:
    """Here, and in processes that are started from here."""
    paths = [str(JUMPING), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    runpy.run_path(str(JUMPING / "sitecustomize.py"))
