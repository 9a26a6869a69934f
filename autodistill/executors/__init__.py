"""Executors run tasks: in this process, in local processes, or on a Ray cluster."""

from autodistill.executors.base import (
    AgreementTask,
    CheckTask,
    Executor,
    Line,
    LogitsTask,
    MeasureStudentTask,
    MeasureTeacherTask,
    OnEvent,
    Profiled,
    ProfileTask,
    Result,
    Setup,
    Stopped,
    StudentTimes,
    Task,
    TeacherTimes,
    TrainTask,
    TrainTeacherTask,
)
from autodistill.executors.local import LocalExecutor, ProcessPool
from autodistill.executors.serial import SerialExecutor
from autodistill.executors.worker import WorkerContext, perform

__all__ = [
    "AgreementTask",
    "CheckTask",
    "Executor",
    "Line",
    "LocalExecutor",
    "LogitsTask",
    "MeasureStudentTask",
    "MeasureTeacherTask",
    "OnEvent",
    "ProcessPool",
    "ProfileTask",
    "Profiled",
    "Result",
    "SerialExecutor",
    "Setup",
    "Stopped",
    "StudentTimes",
    "Task",
    "TeacherTimes",
    "TrainTask",
    "TrainTeacherTask",
    "WorkerContext",
    "perform",
]
