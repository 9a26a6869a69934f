"""Runs that a study has done before."""

from collections import deque
from collections.abc import Iterator, Sequence

from autodistill.queue.terms import longest_first
from autodistill.records import Event, RunEnded, RunRequest
from autodistill.search import Source
from autodistill.store import RunFolder, kept_result
from autodistill.study.simulating import NONE_CERTAIN, Certain
from autodistill.workers import Message, Pool, Task, ViewTask
from autodistill.workers.crew import Crew


def remembered(
    folder: RunFolder,
    requests: Sequence[RunRequest] | Source,
    pool: Pool | Crew,
    *,
    views: int,
    certain: Certain = NONE_CERTAIN,
    workers: int = 1,
) -> Iterator[Event]:
    """Results that are kept are not trained again.

    Args:
        views: size of the pool of views.
        certain: what idle workers may train beside them.
        workers: of the pool.
    """
    if callable(requests):
        yield from _events_of(pool.run(lambda: _known(folder, requests())))
        return
    kept = {request.run: kept_result(folder, request) for request in requests}
    yield from (ended for ended in kept.values() if ended is not None)
    missing = [request for request in requests if kept[request.run] is None]
    if isinstance(pool, Crew):
        # Machines that share no folder would compute logits for nobody but themselves.
        yield from _events_of(pool.run(missing))
        return
    there = {it.run for it in certain.runs if kept_result(folder, it) is not None}
    filling = certain.beside(missing, {*kept, *there}, workers)
    yield from _events_of(_filled(pool, missing, filling, _views_of(missing, most=views)))


def _filled(
    pool: Pool, runs: Sequence[RunRequest], filling: Sequence[RunRequest], views: Sequence[ViewTask]
) -> Iterator[Message]:
    """Train runs; workers that would idle train `filling`, of which nothing is heard until it is asked for.

    Or, while there are runs under way, they compute the views that those need.
    """
    waiting, ahead, under_way = longest_first([*runs, *filling]), deque(views), {it.run for it in runs}
    unasked = {it.run for it in filling}

    def given() -> Task | RunEnded | None:
        return waiting() or (ahead.popleft() if ahead and under_way else None)

    for message in pool.run(given):
        if isinstance(message, RunEnded):
            under_way.discard(message.record.run)
        run = message.record.run if isinstance(message, RunEnded) else getattr(message, "run", None)
        if run not in unasked:
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
