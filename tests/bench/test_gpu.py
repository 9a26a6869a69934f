"""The GPU benchmarks' code, eagerly on the CPU: it runs, and without the device it says so."""

import importlib
import queue
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def in_one_process(monkeypatch: pytest.MonkeyPatch, beside_each_other: None) -> None:
    """The processes of `gpu_many.py` as threads: to start them takes longer than all the rest."""

    class Threads:
        Barrier, Queue = threading.Barrier, queue.Queue

        @staticmethod
        def Process(**given: Any) -> threading.Thread:
            return threading.Thread(**given)

    monkeypatch.setattr(importlib.import_module("gpu_many").multiprocessing, "get_context", lambda _: Threads)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("gpu_step", ["eager"]),
        ("gpu_targets", ["tau_other"]),
        ("gpu_many", ["alone", "processes", "streams", "fused"]),
    ],
)
def test_it_runs_on_a_cpu_and_prints_its_table(name, rows, capsys):
    importlib.import_module(name).main(["--device", "cpu", "--tiny", "--rounds", "1"])
    shown = capsys.readouterr().out
    assert all(row in shown for row in rows)
    assert "CPU: no figure of note" in shown


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["gpu_step", "gpu_targets"])
def test_it_runs_on_a_gpu(name, capsys):
    importlib.import_module(name).main(["--tiny", "--rounds", "1"])
    assert "NVIDIA" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["gpu_step", "gpu_many", "gpu_targets"])
def test_without_a_device_it_says_so_in_a_line(name, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as left:
        importlib.import_module(name).main([])
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_figure_that_falls_short_is_an_exit(monkeypatch):
    gpu_targets = importlib.import_module("gpu_targets")
    monkeypatch.setattr(gpu_targets, "MOST_S", 0.0)
    with pytest.raises(SystemExit, match=r"short of the list: tau_other"):
        gpu_targets.main(["--device", "cpu", "--tiny", "--rounds", "1", "--check"])
