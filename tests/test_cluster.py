"""`cluster slurm`: the printed script is a valid shell script that holds what was asked for, and nothing else."""

import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autodistill.cli import app
from autodistill.cli.cluster import slurm_script
from autodistill.errors import ConfigError

SEARCH = ("--student", "mobilenetv2", "--data", "folder:/data/my photos; rm -rf x", "--budget", "40")


def script(search: tuple[str, ...] = SEARCH, *, gpus: int = 4) -> str:
    return slurm_script(search, nodes=2, gpus=gpus, cpus=16, time="08:00:00", sbatch=("partition=gpu",))


def test_the_script_asks_for_the_resources_and_runs_the_search_on_all_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my studies").mkdir()
    monkeypatch.chdir(tmp_path / "my studies")
    text = script()
    for line in ("nodes=2", "gpus-per-node=4", "cpus-per-task=16", "time=08:00:00", "partition=gpu", "requeue"):
        assert f"#SBATCH --{line}\n" in text
    assert "ray symmetric-run" in text
    assert "'folder:/data/my photos; rm -rf x' --budget 40 --ray auto" in text
    assert f"cd '{tmp_path}/my studies'" in text
    assert "RAY_AUTH_MODE=token" in text
    (tmp_path / "job.sh").write_text(text)
    subprocess.run(["bash", "-n", tmp_path / "job.sh"], check=True)
    assert "gpus-per-node" not in script(gpus=0)


@pytest.mark.parametrize(
    ("search", "named"),
    [(("--budget", "20"), "--student is missing"), ((*SEARCH, "--ray", "auto"), "--ray"), ((*SEARCH, "a\nb"), "a\\nb")],
)
def test_a_search_that_cannot_stand_in_the_script_is_refused(search: tuple[str, ...], named: str) -> None:
    with pytest.raises(ConfigError) as error:
        script(search)
    assert named in error.value.message
    assert error.value.hint


def test_the_signal_reaches_the_search_and_not_the_script_around_it() -> None:
    """The pattern matches the console script's own command line, and no line that only mentions the command."""
    (line,) = [line for line in script().splitlines() if "pkill" in line]
    pattern = line.split('-f "')[1].split('"')[0]
    running = "/venv/bin/python /venv/bin/autodistill search --student mobilenetv2 --ray auto"
    around = ["srun ray symmetric-run --address a:1 -- autodistill search --student mobilenetv2", line]
    found = subprocess.run(["grep", "-cE", pattern], input=running, capture_output=True, text=True).stdout
    assert found == "1\n"
    for other in around:
        assert subprocess.run(["grep", "-cE", pattern], input=other, capture_output=True, text=True).stdout == "0\n"


def test_the_command_prints_the_script_to_stdout() -> None:
    found = CliRunner().invoke(app, ["cluster", "slurm", "--nodes", "2", "--", "--student", "mobilenetv2"])
    assert found.exit_code == 0
    assert found.stdout.startswith("#!/bin/bash\n#SBATCH --job-name=autodistill\n")
