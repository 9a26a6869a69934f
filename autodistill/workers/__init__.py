"""Processes that run trials: started once, one thread each on a CPU, given tasks over a pipe or a database.

`crew`, the second way, is imported by whoever needs it: it brings Optuna along.
"""

from autodistill.queue.messages import (
    AgreementTask,
    CheckTask,
    LadderTask,
    Message,
    Probe,
    ProbeTask,
    Profiled,
    ProfileTask,
    Setup,
    Task,
    TeacherProbe,
    TeacherProbeTask,
    ViewTask,
)
from autodistill.workers.pool import Pool
from autodistill.workers.standby import StandBy
from autodistill.workers.tasks import Workplace

__all__ = [
    "AgreementTask",
    "CheckTask",
    "LadderTask",
    "Message",
    "Pool",
    "Probe",
    "ProbeTask",
    "ProfileTask",
    "Profiled",
    "Setup",
    "StandBy",
    "Task",
    "TeacherProbe",
    "TeacherProbeTask",
    "ViewTask",
    "Workplace",
]
