"""The fault test, short: a kill of a worker on local processes and on Ray, and of the coordinator on Ray.

Kills of a coordinator with local processes are in `study/test_resuming.py`.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize(("executor", "scenarios"), [("local", ["workers"]), ("ray", ["workers", "coordinator"])])
def test_a_kill_of_a_worker_and_of_the_coordinator_loses_nothing(executor, scenarios):
    if executor == "ray":
        pytest.importorskip("ray")
    script = Path(__file__).with_name("faults.py")
    found = subprocess.run(
        [sys.executable, script, "--scenario", *scenarios, "--executor", executor, "--kills", "1", "--check"],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    for scenario in scenarios:
        assert f"{scenario}: wrong: 0" in found.stdout
