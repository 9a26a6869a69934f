"""A workplace on a machine that shares no folder with the others: it fetches what it needs, leaves what it makes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from autodistill.ladder import SCHEME, path_of
from autodistill.queue.messages import AgreementTask, LadderTask, Message, Setup, Task
from autodistill.queue.terms import Terms
from autodistill.records import RunRequest
from autodistill.storage.depot import open_depot
from autodistill.store import Depot, RunFolder, kept_result
from autodistill.workers.tasks import Workplace

ABSENT = (0, 0)


def depot_of(setup: Setup) -> Depot:
    """Of a study's run folder and cache. What else is in the cache tells its files apart by their names."""
    return open_depot(setup.artifacts, {f"study-{setup.identity}": Path(setup.runs), "cache": Path(setup.cache)})


def place_for(setup: Setup) -> "Workplace | Carrier":
    """Where tasks are done: alone, or with a depot where the study names one."""
    place = Workplace(setup)
    if not setup.artifacts:
        return place

    def kept_at(uri: str) -> Path:
        return path_of(uri, root=Path(setup.cache), data=place.study_data, space=setup.space)

    return Carrier(place, depot_of(setup), kept_at)


@runtime_checkable
class Place(Protocol):
    """What is needed of a `Workplace`."""

    setup: Setup
    folder: RunFolder
    terms: Terms
    depot: Depot

    def do(self, task: Task) -> Iterator[Message]: ...


class Carrier:
    """A workplace and its depot.

    Args:
        kept_at: where a teacher of the ladder is kept here.
    """

    def __init__(self, place: Place, depot: Depot, kept_at: Callable[[str], Path]) -> None:
        self._place, self._depot, self._kept_at = place, depot, kept_at
        place.depot = depot

    @property
    def terms(self) -> Terms:
        return self._place.terms

    @terms.setter
    def terms(self, terms: Terms) -> None:
        self._place.terms = terms

    def do(self, task: Task) -> Iterator[Message]:
        """Do one task; what it writes is left in the depot before anybody hears of it."""
        files = self._files(task)
        for path in (*self._teachers(task), *files, *self._begun(task)):
            self._depot.fetch(path)
        if isinstance(task, RunRequest):
            kept = kept_result(self._place.folder, task)
            if kept is not None:
                yield kept.model_copy(update={"reused": False})
                return
        seen = {path: _stamp(path) for path in files}
        for message in self._place.do(task):
            self._leave(seen)
            yield message
        self._leave(seen)

    def _leave(self, seen: dict[Path, tuple[int, int]]) -> None:
        for path, before in seen.items():
            seen[path] = _stamp(path)
            if seen[path] not in (before, ABSENT):
                self._depot.leave(path)

    def _files(self, task: Task) -> list[Path]:
        """What a task writes, the cache's logits apart."""
        if isinstance(task, RunRequest):
            folder = self._place.folder
            # The result last: whoever finds it finds the rest.
            return [folder.checkpoint(task.run), folder.weights(task.run), folder.result(task.run)]
        if isinstance(task, LadderTask):
            path = self._kept_at(task.uri)
            return [path, path.with_suffix(".checkpoint")]
        return []

    def _begun(self, task: Task) -> list[Path]:
        """The checkpoint of another run that this one goes on from."""
        begun_by = task.begun_by if isinstance(task, RunRequest) else ""
        return [self._place.folder.checkpoint(begun_by)] if begun_by else []

    def _teachers(self, task: Task) -> list[Path]:
        """The ladder's that a task uses; those that were given lie where the search says."""
        names = task.names if isinstance(task, AgreementTask) else (getattr(task, "name", None),)
        if isinstance(task, RunRequest):
            names = (task.params.teacher,)
        uris = [self._place.setup.teachers[name] for name in names if name]
        return [self._kept_at(uri) for uri in uris if uri.startswith(SCHEME)]


def _stamp(path: Path) -> tuple[int, int]:
    """Which file it is and when it was written: a clock is too coarse for two writes in a row."""
    found = path.stat() if path.exists() else None
    return (found.st_ino, found.st_mtime_ns) if found else ABSENT


def brought(folder: RunFolder, run: str, depot: Depot) -> None:
    """Fetch what is kept of a run that ended elsewhere."""
    for path in (folder.weights(run), folder.result(run)):
        depot.fetch(path)
