"""Faults over real components: kills, full disks, wrong clocks, a database that is away, a node that is taken."""
