"""`launch`: has a cluster start workers."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from autodistill import console
from autodistill.errors import ConfigError, StudyError
from autodistill.storage import checked
from autodistill.store import cache_root

WARNING_S = 120
"""Before a job's time is up: an epoch should fit in."""


class Job(NamedTuple):
    """What a cluster is asked for."""

    study: str
    workers: int
    gpus: int
    cpus: int
    time: str
    options: Sequence[str]
    """More of sbatch's, without their dashes."""


def slurm(job: Job, *, storage: str, submit: bool) -> None:
    """Print a job script that starts workers, or submit it.

    Raises:
        ConfigError: something cannot stand in a script, or no database is named.
        StudyError: sbatch refused it.
    """
    script = slurm_script(job, folder=Path.cwd(), cache=cache_root().absolute())
    if not submit:
        console.show_text(script.rstrip("\n"))
        console.show_note("sbatch passes AUTODISTILL_STORAGE on to the jobs: it is in no script")
        return
    if not storage:
        raise ConfigError("launch slurm --submit: which database? --storage is missing", "or set AUTODISTILL_STORAGE")
    environment = {**os.environ, "AUTODISTILL_STORAGE": checked(storage)}
    try:
        told = subprocess.run(["sbatch"], input=script, text=True, capture_output=True, env=environment, check=True)
    except FileNotFoundError as error:
        raise ConfigError(
            "launch slurm --submit: there is no sbatch here", "without --submit it is printed"
        ) from error
    except subprocess.CalledProcessError as error:
        raise StudyError(
            f"sbatch refused the job: {error.stderr.strip()}", "give what it misses with --sbatch"
        ) from error
    console.show_text(told.stdout.strip())


def slurm_script(job: Job, *, folder: Path, cache: Path) -> str:
    """An array of workers. It holds names and paths only; the database's address comes with the environment."""
    for text in (job.study, job.time, *job.options):
        if not text.isprintable():
            raise ConfigError(f"launch slurm: {text!r} cannot stand in a job script", "give plain words")
    wanted = [
        f"job-name=autodistill-{shlex.quote(job.study)}",
        f"array=0-{job.workers - 1}",
        f"cpus-per-task={job.cpus}",
        *([f"gres=gpu:{job.gpus}"] if job.gpus else []),
        f"time={shlex.quote(job.time)}",
        f"signal=B:USR1@{WARNING_S}",
        *("requeue", "open-mode=append", *job.options),
    ]
    worker = shlex.join([sys.executable, "-m", "autodistill", "worker", "--study", job.study])
    template = resources.files("autodistill.commands").joinpath("slurm.sh").read_text(encoding="utf-8")
    for name, value in {
        "@OPTIONS@": "\n".join(f"#SBATCH --{option}" for option in wanted),
        "@FOLDER@": shlex.quote(str(folder)),
        "@CACHE@": shlex.quote(str(cache)),
        "@WORKER@": worker,
    }.items():
        template = template.replace(name, value)
    return template


def ray(job: Job, *, storage: str, address: str, per_gpu: int) -> None:
    """Have a Ray cluster run workers; returns when the study is complete.

    Raises:
        ConfigError: Ray is not installed, no database is named, or there is no GPU to share.
        AutodistillError: what ended every worker.
    """
    from autodistill.workers import remote

    if not storage:
        raise ConfigError("launch ray: which database? --storage is missing", "or set AUTODISTILL_STORAGE")
    if per_gpu > 1 and job.gpus != 1:
        raise ConfigError(f"launch ray: --per-gpu {per_gpu} shares one GPU, --gpus is {job.gpus}", "leave one out")
    ends = remote.run(
        checked(storage),
        job.study,
        workers=job.workers,
        gpus=job.gpus,
        cpus=job.cpus,
        per_gpu=per_gpu,
        address=address,
        cache=cache_root().absolute(),
    )
    try:
        for line in ends:
            console.show_note(line)
    except KeyboardInterrupt:
        console.show_note("interrupted: the workers end; what they were at goes on with whoever works for the study")
        sys.exit(130)
