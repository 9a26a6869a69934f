"""Parts of the work against a clock that is moved by hand."""

import contextlib

import pytest

from autodistill import stopwatch
from autodistill.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    return now


def test_a_part_inside_another_counts_for_itself_alone(clock):
    watch = Stopwatch()
    with watch.part("cache"):
        clock[0] += 1.0
        with watch.part("teacher"):
            clock[0] += 10.0
        clock[0] += 2.0
    assert watch.seconds == {"cache": 3.0, "teacher": 10.0}


def test_parts_add_up_and_a_failed_one_counts(clock):
    watch = Stopwatch()
    for seconds in (1.0, 2.0):
        with contextlib.suppress(OSError), watch.part("cache"):
            clock[0] += seconds
            raise OSError("disk")
    with watch.part("outer"):
        with watch.part("inner"):
            clock[0] += 4.0
        with watch.part("inner"):
            clock[0] += 5.0
    assert watch.seconds == {"cache": 3.0, "outer": 0.0, "inner": 9.0}
