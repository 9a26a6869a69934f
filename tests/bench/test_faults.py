"""The fault test, short: a few kills of workers and coordinators over small studies."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
def test_a_kill_of_a_worker_and_of_the_coordinator_loses_nothing():
    """On local processes, and on Ray where it is installed; one undisturbed study is compared with all others."""
    script, scenarios = Path(__file__).with_name("faults.py"), ("workers", "coordinator")
    executor = [] if importlib.util.find_spec("ray") else ["--executor", "local"]
    found = subprocess.run(
        [sys.executable, script, "--scenario", *scenarios, *executor, "--kills", "1", "--check"],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    for scenario in scenarios:
        assert f"{scenario}: wrong: 0" in found.stdout
