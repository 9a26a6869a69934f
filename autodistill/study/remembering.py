"""Runs that a study has done before."""

from collections import deque
from collections.abc import Iterator, Sequence

from autodistill.queue.terms import longest_first
from autodistill.records import Event, RunEnded, RunRequest
from autodistill.search import Source
from autodistill.store import RunFolder, kept_result
from autodistill.workers import Message, Pool, Task, ViewTask
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
    run = pool.run(missing) if isinstance(pool, Crew) else _with_views_ahead(pool, missing, most=views)
    yield from _events_of(run)


def _with_views_ahead(pool: Pool, runs: Sequence[RunRequest], *, most: int) -> Iterator[Message]:
    """Have workers that no run is left for compute, while there are runs under way, the views that those need."""
    waiting, views, under_way = longest_first(runs), deque(_views_of(runs, most=most)), {it.run for it in runs}

    def given() -> Task | RunEnded | None:
        return waiting() or (views.popleft() if views and under_way else None)

    for message in pool.run(given):
        if isinstance(message, RunEnded):
            under_way.discard(message.record.run)
        yield message


def _views_of(runs: Sequence[RunRequest], *, most: int) -> list[ViewTask]:
    """Of each run's teacher, in the order in which the epochs come to them."""
    needed: dict[str, int] = {}
    for run in runs:
        if run.params.teacher is not None:
            needed[run.params.teacher] = max(needed.get(run.params.teacher, 0), min(run.last_epoch, most))
    return [
        ViewTask(name=name, view=view)
        for view in range(max(needed.values(), default=0))
        for name, count in needed.items()
        if view < count
    ]


def _known(folder: RunFolder, request: RunRequest | None) -> RunRequest | RunEnded | None:
    return (kept_result(folder, request) or request) if request is not None else None


def _events_of(messages: Iterator[Message]) -> Iterator[Event]:
    return (message for message in messages if isinstance(message, Event))
