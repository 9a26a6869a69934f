"""Runs that a study has done before."""

from collections.abc import Iterator, Sequence

from autodistill.records import Event, RunEnded, RunRequest
from autodistill.search import Source
from autodistill.store import RunFolder, kept_result
from autodistill.workers import Message, Pool, ViewsTask
from autodistill.workers.crew import Crew


def remembered(
    folder: RunFolder, requests: Sequence[RunRequest] | Source, pool: Pool | Crew, *, views: int
) -> Iterator[Event]:
    """Results that are kept are not trained again.

    Args:
        views: size of the pool of views.
    """
    if callable(requests):
        yield from _events_of(pool.run(lambda: _known(folder, requests())))
        return
    kept = {request.run: kept_result(folder, request) for request in requests}
    yield from (ended for ended in kept.values() if ended is not None)
    missing = [request for request in requests if kept[request.run] is None]
    # Machines that share no folder would compute logits for nobody but themselves.
    ahead = [] if isinstance(pool, Crew) else _views_of(missing, most=views)
    yield from _events_of(pool.run([*missing, *ahead]))


def _views_of(runs: Sequence[RunRequest], *, most: int) -> list[ViewsTask]:
    """What a worker that has no run left can do for those that have one."""
    needed: dict[str, int] = {}
    for run in runs:
        if run.params.teacher is not None:
            needed[run.params.teacher] = max(needed.get(run.params.teacher, 0), min(run.last_epoch, most))
    return [ViewsTask(name=name, views=count) for name, count in needed.items()]


def _known(folder: RunFolder, request: RunRequest | None) -> RunRequest | RunEnded | None:
    return (kept_result(folder, request) or request) if request is not None else None


def _events_of(messages: Iterator[Message]) -> Iterator[Event]:
    return (message for message in messages if isinstance(message, Event))
