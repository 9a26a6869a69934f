"""The fault test, short: a few kills over one small study."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

KILLS = ("--kills", "2", "--seed", "5")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_few_kills_lose_nothing():
    """In a process of its own: it forks, and a process with threads should not."""
    script = Path(__file__).with_name("faults.py")
    found = subprocess.run(
        [sys.executable, "-W", "ignore", script, "--scenario", "kills", *KILLS, "--sqlite", "--check"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "seed 5: 2 kills" in found.stdout
    assert "wrong: 0" in found.stdout
