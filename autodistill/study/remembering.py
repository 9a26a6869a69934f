"""Runs that a study has done before."""

from collections.abc import Iterator, Sequence

from autodistill.records import Event, RunEnded, RunRequest
from autodistill.search import Source
from autodistill.store import RunFolder, kept_result
from autodistill.workers import Message, Pool
from autodistill.workers.crew import Crew


def remembered(folder: RunFolder, requests: Sequence[RunRequest] | Source, pool: Pool | Crew) -> Iterator[Event]:
    """Results that are kept are not trained again."""
    if callable(requests):
        yield from _events_of(pool.run(lambda: _known(folder, requests())))
        return
    kept = {request.run: kept_result(folder, request) for request in requests}
    yield from (ended for ended in kept.values() if ended is not None)
    yield from _events_of(pool.run([request for request in requests if kept[request.run] is None]))


def _known(folder: RunFolder, request: RunRequest | None) -> RunRequest | RunEnded | None:
    return (kept_result(folder, request) or request) if request is not None else None


def _events_of(messages: Iterator[Message]) -> Iterator[Event]:
    return (message for message in messages if isinstance(message, Event))
