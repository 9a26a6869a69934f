"""Processes that run trials: started once, one thread each on a CPU, given tasks over a pipe."""

from autodistill.workers.pool import Pool
from autodistill.workers.tasks import CheckTask, LadderTask, Message, Probe, ProbeTask, Setup, Task, Workplace

__all__ = ["CheckTask", "LadderTask", "Message", "Pool", "Probe", "ProbeTask", "Setup", "Task", "Workplace"]
