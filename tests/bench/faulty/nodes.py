"""Nodes of a real Ray cluster, on this machine, that are taken away while `launch ray` has workers there."""

import contextlib
import os
import shutil
import time
from functools import partial
from pathlib import Path

from small_studies import NAME, core

from autodistill.queue.terms import Pace
from autodistill.records import read_study
from autodistill.workers import crew
from faulty.lab import Lab, finished, record_in, wait_for
from faulty.processes import Command, command, end_of, forked
from faulty.studies import REAL, results, wrong_in_database

PACE = Pace(beat_s=0.5, lease_s=6.0, look_s=0.05, idle_s=0.2)
LONGER = ("--set", "data.train=1000", "--set", "training.epochs=9", "--set", "training.short_epochs=3")
STUDY = (*REAL, *LONGER)
RESULTS = (3, 6, 9)
"""Results of runs: a node is removed as soon as there are so many."""
MEMORY = 80 * 2**20


def node_removed(lab: Lab) -> list[str]:
    """A head with room for one worker and another node with room for one: that one goes and comes again."""
    place, url = lab.place("nodes"), lab.database()
    os.environ |= {"AUTODISTILL_CACHE": str(place / "cache"), "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    calm = command(lab.place("nodes-calm"), "calm", STUDY)
    found = finished(calm)
    shutil.rmtree(place / "cache")
    cluster = forked(partial(_cluster, place), place, "cluster")
    try:
        if not wait_for(place, "address"):
            return [*found, (place / "cluster.log").read_text()[-1500:]]
        found += _study(place, url)
    finally:
        (place / "stop").touch()
        end_of(cluster, limit_s=60)
    if not found and core(read_study(record_in(place))) != core(read_study(record_in(lab.root / "nodes-calm"))):
        found.append("the record is another one than on one machine")
    return found


def _study(place: Path, url: str) -> list[str]:
    search = command(place, "search", [*STUDY, "--workers", "0", "--storage", url], before=_quick)
    address = (place / "address").read_text()
    asked = ["--workers", "2", "--gpus", "0", "--address", address]
    launch = command(place, "launch", ["launch", "ray", "--study", NAME, "--storage", url, *asked])
    seen = {}
    for count in RESULTS:
        if not wait_for(place, "runs/*/**/result.json", count=count):
            return [f"the study did not get to {count} results: {_said(search, launch)}"]
        seen = results(place) | seen
        (place / f"remove-{count}").touch()
        if not wait_for(place, f"removed-{count}"):
            return ["the node could not be removed"]
    lines = [*finished(search), *finished(launch)]
    if lines:
        return lines
    record = read_study(record_in(place))
    spent = sum(it.spent_epochs for it in record.runs())
    names = [it.run for it in record.runs()]
    held = {
        "a finished run was lost or written again with another result": seen.items() <= results(place).items(),
        "a run counts twice": len(names) == len(set(names)),
        "the budget was overrun or miscounted": spent == record.spent_epochs <= record.plan.total_epochs,
        "a short run is left unspent": record.plan.total_epochs - spent < record.plan.epochs_short,
        "not both workers ended with the study": launch.said.count("is complete; ") == 2,
    }
    print(f"  {len(RESULTS)} nodes removed; {launch.said[-200:]}", flush=True)
    return [what for what, holds in held.items() if not holds] + wrong_in_database(url, record)


def _said(*commands: Command) -> str:
    return " | ".join(it.said[-700:] for it in commands)


def _quick() -> None:
    crew.PACE = PACE


def _cluster(place: Path) -> int:
    """A head and a node, until a file says to stop; each `remove-N` takes the node away, another comes."""
    from ray.cluster_utils import Cluster

    local = {"num_cpus": 1, "object_store_memory": MEMORY}
    cluster = Cluster(initialize_head=True, head_node_args={**local, "include_dashboard": False})
    try:
        node = cluster.add_node(**local)
        (place / "address").write_text(cluster.address)
        while not (place / "stop").exists():
            for asked in place.glob("remove-*"):
                cluster.remove_node(node, allow_graceful=False)
                node = cluster.add_node(**local)
                asked.rename(place / asked.name.replace("remove", "removed"))
            time.sleep(0.1)
    finally:
        with contextlib.suppress(Exception):
            cluster.shutdown()
    return 0
