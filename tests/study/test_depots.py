"""A study over machines that share no folder: the same as one on this machine."""

from pathlib import Path

import pytest
from hands import Hand
from small_studies import NAME, core, drive, request

from autodistill.queue.messages import Setup
from autodistill.queue.terms import Pace
from autodistill.workers import carrying, crew
from autodistill.workers.joining import adapted

pytestmark = pytest.mark.slow


def test_a_study_by_a_worker_that_shares_no_folder_is_the_same(reference, tmp_path, monkeypatch):
    """Teachers, their logits, checkpoints, results and weights all go through the depot."""
    monkeypatch.setattr(crew, "PACE", Pace(beat_s=0.3, lease_s=20.0, look_s=0.1, idle_s=0.1))
    url = f"sqlite:///{tmp_path}/kd.db"
    asked = request(workers=0, storage=url, artifacts=f"file://{tmp_path}/depot")

    def elsewhere(setup: Setup) -> Setup:
        return adapted(setup, device="cpu", runs=tmp_path / "runs").model_copy(
            update={"cache": str(tmp_path / "cache")}
        )

    worker = Hand(url, NAME, furnish=carrying.place_for, adapt=elsewhere)
    try:
        record = drive(asked)
    finally:
        worker.stop.set()
        worker.join()
    assert core(record) == core(reference.record)
    ours = {it.relative_to(Path("runs")) for it in Path("runs").glob("*/confirm/**/*.safetensors")}
    assert ours == {it.relative_to(tmp_path / "runs") for it in tmp_path.glob("runs/*/confirm/**/*.safetensors")}
    assert ours
    assert not list(Path("runs").rglob("checkpoint.pt"))
    assert list((tmp_path / "depot").glob("cache--logits--*"))
    assert list((tmp_path / "depot").glob("cache--ladder--*"))
