"""Launchers: a job script that holds no secret and does what it says, and workers as tasks of a Ray cluster."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from autodistill.cli import app
from autodistill.commands import launching
from autodistill.errors import ConfigError, StudyError

JOB = launching.Job("digits-x", 8, 1, 4, "04:00:00", ("partition=gpu",))
SECRET = "postgresql://me:hidden@db/kd"


def script(job: launching.Job = JOB, folder: Path = Path("/home/me/kd")) -> str:
    return launching.slurm_script(job, folder=folder, cache=Path("/shared/cache"))


def parses(text: str) -> bool:
    return subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).returncode == 0


def test_the_job_script_asks_for_an_array_of_workers_that_queues_again():
    found = script()
    asked = [line.removeprefix("#SBATCH --") for line in found.splitlines() if line.startswith("#SBATCH")]
    assert asked == [
        "job-name=autodistill-digits-x",
        "array=0-7",
        "cpus-per-task=4",
        "gres=gpu:1",
        "time=04:00:00",
        "signal=B:USR1@120",
        "requeue",
        "open-mode=append",
        "partition=gpu",
    ]
    assert found.startswith("#!/bin/bash\n")
    assert f"{sys.executable} -m autodistill worker --study digits-x &" in found
    assert parses(found)
    assert not parses(found + "\nif"), "bash can tell"
    assert "gres" not in script(JOB._replace(gpus=0))


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30))
def test_any_name_and_folder_make_a_script_that_bash_reads(text):
    if not text.isprintable():
        with pytest.raises(ConfigError, match="cannot stand in a job script"):
            script(JOB._replace(study=text))
        return
    found = script(JOB._replace(study=text), Path("/home") / text.replace("/", ""))
    quoted = found.partition("worker --study ")[2].splitlines()[0].removesuffix(" &")
    heard = subprocess.run(["bash", "-c", f'set -- {quoted}; printf %s "$1"'], capture_output=True)
    assert heard.stdout == text.encode()


STANDINS = {
    "python": 'trap "echo told; exit ${CODE:-0}" USR1; echo "works $*"; for i in $(seq 100); do sleep 0.05; done',
    "scontrol": 'echo "scontrol $*"',
}


def run_script(tmp_path: Path, *, told: bool, code: int = 0) -> tuple[int, str]:
    """The script with stand-ins for the worker and for SLURM."""
    for name, body in STANDINS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    text = script(folder=tmp_path).replace(sys.executable, str(tmp_path / "python"))
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "AUTODISTILL_STORAGE": SECRET}
    environment |= {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "CODE": str(code)}
    with subprocess.Popen(["bash", "-c", text], env=environment, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        first = job.stdout.readline()
        if told:
            job.send_signal(signal.SIGUSR1)
        rest = job.stdout.read()
    return job.returncode, first + rest


def test_a_job_whose_time_is_nearly_up_hands_back_and_queues_again(tmp_path):
    assert run_script(tmp_path, told=True) == (
        0,
        "works -m autodistill worker --study digits-x\ntold\nscontrol requeue 7_3\n",
    )


def test_a_job_that_failed_does_not_queue_again(tmp_path):
    code, said = run_script(tmp_path, told=True, code=1)
    assert code == 1
    assert "scontrol" not in said


def test_a_script_without_a_database_stops_at_once(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "AUTODISTILL_STORAGE"}
    found = subprocess.run(["bash", "-c", script(folder=tmp_path)], env=environment, capture_output=True, text=True)
    assert found.returncode
    assert "AUTODISTILL_STORAGE" in found.stderr


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["launch", *arguments])


def test_slurm_prints_or_submits_and_never_shows_the_address(tmp_path, monkeypatch):
    printed = invoke("slurm", "--study", "s", "--workers", "2", "--storage", SECRET)
    assert printed.exit_code == 0
    assert printed.stdout.rstrip("\n") == launching.slurm_script(
        launching.Job("s", 2, 1, 4, "04:00:00", ()), folder=Path.cwd(), cache=launching.cache_root().absolute()
    ).rstrip("\n")
    assert "hidden" not in printed.output
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    told = 'grep -c "" >&2; echo "Submitted $AUTODISTILL_STORAGE" | tr -d "\\n" | wc -c'
    (tmp_path / "sbatch").write_text(f"#!/bin/bash\n{told}\n")
    (tmp_path / "sbatch").chmod(0o755)
    submitted = invoke("slurm", "--study", "s", "--workers", "2", "--storage", SECRET, "--submit")
    assert submitted.stdout.strip() == str(len(f"Submitted {SECRET}"))
    (tmp_path / "sbatch").write_text("#!/bin/bash\necho 'invalid partition' >&2; exit 1\n")
    refused = invoke("slurm", "--study", "s", "--workers", "2", "--storage", SECRET, "--submit")
    assert isinstance(refused.exception, StudyError)
    assert "invalid partition" in refused.exception.message


def test_launchers_need_a_database_and_what_they_launch_with(monkeypatch):
    for command in (("slurm", "--submit"), ("ray",)):
        found = invoke(*command, "--study", "s", "--workers", "1").exception
        assert isinstance(found, ConfigError)
        assert "--storage is missing" in found.message
    monkeypatch.setenv("PATH", "")
    missing = invoke("slurm", "--submit", "--study", "s", "--workers", "1", "--storage", SECRET).exception
    assert "no sbatch" in missing.message
    monkeypatch.setitem(sys.modules, "ray", None)
    found = invoke("ray", "--study", "s", "--workers", "1", "--storage", SECRET).exception
    assert isinstance(found, ConfigError)
    assert "kd-autodistill[ray]" in found.hint
