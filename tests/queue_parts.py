"""What tests of the queue share: a pace, a setup, a task whose worker is silent."""

from pathlib import Path

from simulated import Simulated, epoch_of, record_of

from autodistill.config import Space
from autodistill.queue.board import Board, Entry, open_board
from autodistill.queue.lease import Lease
from autodistill.queue.messages import Setup
from autodistill.queue.terms import Pace
from autodistill.queue.wire import to_wire
from autodistill.records import RunEnded, RunRecord, RunRequest
from autodistill.store import RunFolder, write_text
from autodistill.workers import crew as crew_module

QUICK = Pace(beat_s=0.05, lease_s=20.0, look_s=0.01, idle_s=0.05)
HASTY = QUICK.model_copy(update={"lease_s": 1.5})
"""Where a lease is to end: a machine under load may stop a living thread for a second."""


def setup(place: Path) -> Setup:
    runs = place / "runs" / "s"
    write_text(RunFolder(runs).identity, "{}")
    teachers = {"a": "file:a", "b": "file:b"}
    return Setup(
        space=Space(), student="x", teachers=teachers, views=1, device="cpu", runs=str(runs), cache=str(place)
    )


def ended(messages) -> dict[str, RunEnded]:
    found = [it for it in messages if isinstance(it, RunEnded)]
    assert len({it.record.run for it in found}) == len(found), "counted twice"
    return {it.record.run: it for it in found}


def name_of(url: str, tmp_path: Path) -> str:
    return f"study-{tmp_path.name}"


def orphaned(url: str, name: str, place: Path, run: RunRequest) -> tuple[Board, Entry, Lease]:
    """A task whose worker is silent: it was claimed and gave one sign of life."""
    board = open_board(url, name)
    key = crew_module.digest(setup(place).model_dump(mode="json"))
    board.put(to_wire(run), setup=key)
    entry = board.take()
    assert entry is not None
    lease = Lease(board, entry, worker="gone:1", pace=QUICK)
    lease._live()
    return board, entry, lease


class Slow(Simulated):
    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, epoch_s=0.03)


def whole_record(run: RunRequest) -> RunRecord:
    return record_of(run, tuple(epoch_of(run, n) for n in range(1, run.epochs + 1)))
