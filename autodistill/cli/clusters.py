"""Commands for more machines than one: a worker, and what starts many."""

from pathlib import Path
from typing import Annotated

import typer

from autodistill.cli.options import Device, SharedStorage

PerGpu = Annotated[int, typer.Option(min=1, help="Workers that share a GPU: each keeps to its part of the memory.")]
Studies = Annotated[list[str], typer.Option("--study", help="Name of the study, repeatable: one after another.")]


def worker(
    study: Studies,
    storage: SharedStorage = "",
    device: Device = "auto",
    per_gpu: PerGpu = 1,
    runs: Annotated[
        Path | None, typer.Option(help="Where `runs` of the search lies on this machine, if not under the same path.")
    ] = None,
    wait: Annotated[str, typer.Option(help="Longest wait for a study that is not started yet (90s, 10m).")] = "10m",
) -> None:
    """Join a study that shares a database and a run folder; leave when it is complete.

    The run folder, the cache folder (AUTODISTILL_CACHE) and the data must be reachable here: a shared file system,
    and the same working folder or absolute paths; where the search names a depot (--artifacts), the data only.
    SIGTERM, SIGUSR1 and Ctrl-C: keeps a checkpoint at the end of the epoch, hands the task back, ends with 0.
    """
    from autodistill import commands

    wait_s = commands.seconds(wait, "--wait")
    commands.work(study, storage=storage, device=device, runs=runs, wait_s=wait_s, per_gpu=per_gpu)


launch_app = typer.Typer(no_args_is_help=True, help="Have a cluster start workers for a study.")
Study = Annotated[str, typer.Option("--study", help="Name of the study.")]
Count = Annotated[int, typer.Option("--workers", min=1, help="How many workers.")]
Gpus = Annotated[int, typer.Option(min=0, help="GPUs for each worker.")]
Cpus = Annotated[int, typer.Option(min=1, help="Cores for each worker.")]


@launch_app.command("slurm")
def launch_slurm(
    study: Study,
    workers: Count,
    gpus: Gpus = 1,
    cpus: Cpus = 4,
    time: Annotated[str, typer.Option(help="Time of a job, as sbatch reads it; then it queues again.")] = "04:00:00",
    sbatch: Annotated[
        list[str] | None, typer.Option("--sbatch", help="Another option of sbatch, repeatable: partition=gpu.")
    ] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Submit the script instead of printing it.")] = False,
    storage: SharedStorage = "",
) -> None:
    """Print a SLURM array script that starts workers in this folder, or submit it."""
    from autodistill.commands import launching

    job = launching.Job(study, workers, gpus, cpus, time, tuple(sbatch or ()))
    launching.slurm(job, storage=storage, submit=submit)


@launch_app.command("ray")
def launch_ray(
    study: Study,
    workers: Count,
    gpus: Gpus = 1,
    cpus: Cpus = 1,
    per_gpu: PerGpu = 1,
    address: Annotated[str, typer.Option(help="The cluster; auto: this machine's; local: one of its own.")] = "auto",
    storage: SharedStorage = "",
) -> None:
    """Run workers as tasks of a Ray cluster until the study is complete.

    A worker whose node goes away is started again on another. The run folder, the cache folder and the data must be
    reachable from every node under the same paths (with a depot, the data only), and this package installed there.
    """
    from autodistill.commands import launching

    job = launching.Job(study, workers, gpus, cpus, "", ())
    launching.ray(job, storage=storage, address=address, per_gpu=per_gpu)
