"""Faults by name. Each returns what went wrong, a line for each."""

from collections.abc import Callable

from faulty.caches import corrupted_files, read_only_cache
from faulty.clocks import clock_set
from faulty.coordinators import two_coordinators
from faulty.disks import disk_full
from faulty.lab import Lab
from faulty.nodes import node_removed
from faulty.outages import storage_away

SCENARIOS: dict[str, Callable[[Lab], list[str]]] = {
    "disk-full": disk_full,
    "read-only-cache": read_only_cache,
    "corrupted-files": corrupted_files,
    "clock-set": clock_set,
    "storage-away": storage_away,
    "two-coordinators": two_coordinators,
    "ray-node": node_removed,
}
