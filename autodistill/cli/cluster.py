"""`cluster slurm`: a batch script that runs a search on a Ray cluster inside one SLURM job."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from autodistill.errors import ConfigError
from autodistill.store import cache_root

WARNING_S = 120
"""SLURM signals the search to stop this many seconds before the end of the job. An epoch must fit."""


def slurm_script(
    search: Sequence[str], *, nodes: int, gpus: int, cpus: int, time: str, sbatch: Sequence[str] = ()
) -> str:
    """Return a batch script that starts Ray on all nodes, runs a search on the first, and requeues before its end.

    Args:
        search: Options of `autodistill search`.
        nodes: Number of nodes.
        gpus: GPUs per node.
        cpus: Cores per node.
        time: Time limit in sbatch's format.
        sbatch: Further options of sbatch, without dashes.

    Raises:
        ConfigError: An option contains control characters, is set by the script itself, or `--student` is missing.
    """
    for text in (time, *sbatch, *search):
        if not text.isprintable():
            raise ConfigError(f"cluster slurm: {text!r} contains control characters", "remove them")
    if reserved := [text for text in search if text.split("=")[0] in ("--ray", "--insecure")]:
        raise ConfigError(f"cluster slurm: the script sets {reserved[0]} itself", f"remove {reserved[0]}")
    if "--student" not in [text.split("=")[0] for text in search]:
        raise ConfigError(
            "cluster slurm: --student is missing",
            "give the options of `autodistill search` after --: cluster slurm --nodes 2 -- --student mobilenetv2",
        )
    sbatch_options = [
        "job-name=autodistill",
        f"nodes={nodes}",
        "ntasks-per-node=1",
        f"cpus-per-task={cpus}",
        *([f"gpus-per-node={gpus}"] if gpus else []),
        f"time={shlex.quote(time)}",
        f"signal=B:USR1@{WARNING_S}",
        *("requeue", "open-mode=append", *sbatch),
    ]
    command = shlex.join(["autodistill", "search", *search, "--ray", "auto"])
    options = "\n".join(f"#SBATCH --{option}" for option in sbatch_options)
    return f"""#!/bin/bash
{options}

# Ray runs on all nodes of the job, the search on the first node. Before the time limit every run writes a checkpoint,
# then the job is requeued and continues.
set -u
cd {shlex.quote(str(Path.cwd()))} || exit 2
export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"
export AUTODISTILL_CACHE={shlex.quote(str(cache_root().absolute()))}
# Only processes with this token can use the cluster.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address="$head:$((20000 + SLURM_JOB_ID % 20000))"

stopping=0
stop() {{
  stopping=1
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" pkill -USR1 -u "$USER" -f "/bin/[a]utodistill search" || true
}}
trap stop USR1 TERM

srun --kill-on-bad-exit=1 ray symmetric-run --address "$address" \\
  --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus {cpus} --num-gpus {gpus} -- \\
  {command} &
step=$!
# A signal ends `wait` early.
while kill -0 "$step" 2>/dev/null; do
  wait "$step"
done
wait "$step"
ended=$?
if [ "$stopping" = 1 ] && [ "$ended" != 0 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$ended"
"""
